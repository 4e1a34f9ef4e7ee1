//! Map functions: a record to any number of pairs.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::Array as _;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use kiln_engine::Result;
use kiln_engine::udf::{EmitRows, TableBody, UdfContext};

use super::bad::{self, BadRecords};
use super::pairs::{Pair, Pairs};
use crate::udf::datum::Datum;
use crate::udf::outcome::Outcome;
use crate::udf::row::Row;
use crate::udf::scalar::Argument;
use crate::udf::table::{BatchFn, EachBatch, check_columns};

/// A closure that is a map function: it takes the columns of a record, and then [`Pairs`] to put
/// into what it makes. `M` says of what.
pub trait MapFn<M>: Send + Sync + 'static {
    /// The keys that it makes.
    type Key: Row;

    /// The values that it makes.
    type Value: Datum;

    /// The function for an engine.
    fn into_mapper(self) -> Mapper;
}

/// A map function without its name.
pub struct Mapper {
    /// The types of the columns that it takes.
    pub(super) arguments: Vec<DataType>,
    /// Makes the code that does as it is told with bad records.
    pub(super) body: Box<dyn Fn(BadRecords) -> Arc<dyn TableBody>>,
}

struct Typed<F, M> {
    function: Arc<F>,
    schema: SchemaRef,
    bad: BadRecords,
    marker: PhantomData<fn() -> M>,
}

macro_rules! map_fn {
    ($($name:ident $column:ident $index:tt),*) => {
        impl<Function, Key, Value, Out, $($name),*> MapFn<fn($($name,)* Key, Value) -> Out>
            for Function
        where
            Function: for<'b, 'c> Fn($($name,)* &'b mut Pairs<'c, Key, Value>) -> Out
                + for<'a, 'b, 'c> Fn($($name::At<'a>,)* &'b mut Pairs<'c, Key, Value>) -> Out
                + Send
                + Sync
                + 'static,
            Key: Row,
            Value: Datum,
            Out: Outcome + 'static,
            $($name: Argument + 'static,)*
        {
            type Key = Key;
            type Value = Value;

            fn into_mapper(self) -> Mapper {
                let (function, schema) = (Arc::new(self), Pair::<Key, Value>::schema());
                Mapper {
                    arguments: vec![$($name::Datum::data_type()),*],
                    body: Box::new(move |bad| {
                        Arc::new(EachBatch(Arc::new(Typed {
                            function: Arc::clone(&function),
                            schema: Arc::clone(&schema),
                            bad,
                            marker: PhantomData::<fn() -> fn($($name,)* Key, Value) -> Out>,
                        })))
                    }),
                }
            }
        }

        impl<Function, Key, Value, Out, $($name),*> BatchFn
            for Typed<Function, fn($($name,)* Key, Value) -> Out>
        where
            Function: for<'a, 'b, 'c> Fn($($name::At<'a>,)* &'b mut Pairs<'c, Key, Value>) -> Out
                + Send
                + Sync
                + 'static,
            Key: Row,
            Value: Datum,
            Out: Outcome + 'static,
            $($name: Argument + 'static,)*
        {
            fn call(
                &self,
                batch: &RecordBatch,
                context: &UdfContext,
                emit: EmitRows<'_>,
            ) -> Result<()> {
                check_columns(batch, [$(stringify!($name)),*].len())?;
                $(
                    let array = batch.column($index);
                    let $column = (
                        $name::Datum::column(array)?,
                        array.logical_nulls().filter(|_| !$name::Datum::NULLABLE),
                    );
                )*
                let stops = |row| {
                    let nulls = [$($column.1.as_ref()),*];
                    nulls.into_iter().flatten().any(|nulls| nulls.is_null(row))
                };
                let rows = (0..batch.num_rows()).filter(|row| !stops(*row));
                let call = |row, pairs: &mut Pairs<'_, Key, Value>| {
                    (self.function)($($name::Datum::get(&$column.0, row)?,)* pairs).into_result()
                };
                match &self.bad {
                    BadRecords::Fail => {
                        let mut pairs = Pairs::new(&self.schema, context, emit);
                        for row in rows {
                            call(row, &mut pairs)?;
                            if pairs.is_stopped() {
                                break;
                            }
                        }
                        pairs.finish()
                    }
                    BadRecords::Skip(skip) => {
                        let pairs = Pairs::new(&self.schema, context, emit);
                        skip.map(batch, rows, call, (context, pairs))
                    }
                    BadRecords::Tell => bad::tell(rows, call, (batch, context, emit)),
                }
            }
        }
    };
}

map_fn!(A a 0);
map_fn!(A a 0, B b 1);
map_fn!(A a 0, B b 1, C c 2);
map_fn!(A a 0, B b 1, C c 2, D d 3);
map_fn!(A a 0, B b 1, C c 2, D d 3, E e 4);
map_fn!(A a 0, B b 1, C c 2, D d 3, E e 4, F f 5);
