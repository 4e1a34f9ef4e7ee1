//! Functions over rows: one row to many, and batches to batches.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::Array as _;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use kiln_engine::udf::{EmitRows, TableBody, TableLane, TableUdf, UdfContext};
use kiln_engine::{Error, Result};

use super::datum::Datum;
use super::emitter::Emitter;
use super::row::Row;
use super::scalar::Argument;

/// A function over rows: see [`DataFrame::flat_map`](crate::DataFrame::flat_map) and
/// [`DataFrame::map_batches`](crate::DataFrame::map_batches).
#[derive(Debug, Clone)]
pub struct TableFunction {
    pub(crate) udf: TableUdf,
    /// The types that its arguments are converted to; none if it takes rows as they are.
    pub(crate) arguments: Option<Vec<DataType>>,
}

impl TableFunction {
    /// The function of one row to many: `|line: &str, out: &mut Emitter<(String, i64)>| …`. What
    /// it makes has the columns `columns`. Rows in which an argument is null make nothing, unless
    /// the argument is an `Option`.
    ///
    /// # Errors
    /// `Invalid` if there are not as many names as columns.
    pub fn flat_map<M>(
        name: &str,
        columns: impl IntoIterator<Item = impl Into<String>>,
        function: impl FlatMapFn<M>,
    ) -> Result<Self> {
        function.into_table(name, columns.into_iter().map(Into::into).collect())
    }

    /// The function of batches: it is given rows as they come, in batches of any size, and makes
    /// batches of the columns `schema`.
    pub fn map_batches(
        name: &str,
        schema: SchemaRef,
        function: impl Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    ) -> Self {
        let body: Arc<dyn TableBody> = Arc::new(EachBatch(Arc::new(OfBatches(function))));
        TableFunction {
            udf: TableUdf::new(name, "", schema, Some(body)),
            arguments: None,
        }
    }

    /// The same function under another name.
    pub(crate) fn renamed(self, name: &str) -> Self {
        let (parameters, output) = (self.udf.parameters(), self.udf.output().clone());
        let body = self.udf.body().map(Arc::clone);
        TableFunction {
            udf: TableUdf::new(name, parameters, output, body),
            arguments: self.arguments,
        }
    }

    /// The name by which it is known.
    pub fn name(&self) -> &str {
        self.udf.name()
    }
}

/// What is done with each batch by itself.
pub(crate) trait BatchFn: Send + Sync + 'static {
    /// Pushes what it makes of the rows of `batch`.
    ///
    /// # Errors
    /// Whatever the function says, and what `emit` answered.
    fn call(&self, batch: &RecordBatch, context: &UdfContext, emit: EmitRows<'_>) -> Result<()>;
}

/// A function that keeps nothing from batch to batch, so that its lanes are all the same.
pub(crate) struct EachBatch<F>(pub(crate) Arc<F>);

impl<F: BatchFn> TableBody for EachBatch<F> {
    fn lane(&self) -> Box<dyn TableLane> {
        Box::new(EachBatch(Arc::clone(&self.0)))
    }
}

impl<F: BatchFn> TableLane for EachBatch<F> {
    fn push(
        &mut self,
        batch: &RecordBatch,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        self.0.call(batch, context, emit)
    }
}

struct OfBatches<F>(F);

impl<F> BatchFn for OfBatches<F>
where
    F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn call(&self, batch: &RecordBatch, _context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        let made = (self.0)(batch)?;
        match made.num_rows() {
            0 => Ok(()),
            _ => emit(made),
        }
    }
}

/// The columns of rows `T` under `names`.
///
/// # Errors
/// `Invalid` if there are not as many names as columns.
fn checked_schema<T: Row>(name: &str, names: Vec<String>) -> Result<SchemaRef> {
    if names.len() != T::COLUMNS {
        return Err(Error::invalid(format!(
            "function {name:?}: as many names as columns are needed names={} columns={}",
            names.len(),
            T::COLUMNS
        )));
    }
    Ok(schema_of_rows::<T>(names))
}

/// The columns of rows `T` under `names`, which are as many.
pub(crate) fn schema_of_rows<T: Row>(names: Vec<String>) -> SchemaRef {
    let pairs = names.into_iter().zip(T::types());
    let fields = pairs.map(|(name, (data_type, nullable))| Field::new(name, data_type, nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether a function of `wanted` arguments can be given the columns of `batch`.
///
/// # Errors
/// `Invalid` if they are more or fewer.
pub(crate) fn check_columns(batch: &RecordBatch, wanted: usize) -> Result<()> {
    let found = batch.num_columns();
    if found == wanted {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a function takes other columns expected={wanted} found={found}"
    )))
}

/// A closure that makes rows of a row; `M` says of what.
pub trait FlatMapFn<M>: Send + Sync + 'static {
    /// The function under a name, with names for its columns.
    ///
    /// # Errors
    /// `Invalid` if there are not as many names as columns.
    fn into_table(self, name: &str, columns: Vec<String>) -> Result<TableFunction>;
}

struct Typed<F, M> {
    function: F,
    schema: SchemaRef,
    marker: PhantomData<fn() -> M>,
}

macro_rules! flat_map_fn {
    ($($name:ident $column:ident $index:tt),*) => {
        impl<Function, T, $($name),*> FlatMapFn<fn($($name,)* T)> for Function
        where
            Function: for<'b, 'c> Fn($($name,)* &'b mut Emitter<'c, T>)
                + for<'a, 'b, 'c> Fn($($name::At<'a>,)* &'b mut Emitter<'c, T>)
                + Send
                + Sync
                + 'static,
            T: Row,
            $($name: Argument + 'static,)*
        {
            fn into_table(self, name: &str, columns: Vec<String>) -> Result<TableFunction> {
                let schema = checked_schema::<T>(name, columns)?;
                let typed = Typed {
                    function: self,
                    schema: Arc::clone(&schema),
                    marker: PhantomData::<fn() -> fn($($name,)* T)>,
                };
                let body: Arc<dyn TableBody> = Arc::new(EachBatch(Arc::new(typed)));
                Ok(TableFunction {
                    udf: TableUdf::new(name, "", schema, Some(body)),
                    arguments: Some(vec![$($name::Datum::data_type()),*]),
                })
            }
        }

        impl<Function, T, $($name),*> BatchFn for Typed<Function, fn($($name,)* T)>
        where
            Function: for<'a, 'b, 'c> Fn($($name::At<'a>,)* &'b mut Emitter<'c, T>)
                + Send
                + Sync
                + 'static,
            T: Row,
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
                let mut emitter = Emitter::new(&self.schema, context, emit);
                for row in 0..batch.num_rows() {
                    let stops = [$($column.1.as_ref()),*];
                    if stops.into_iter().flatten().any(|nulls| nulls.is_null(row)) {
                        continue;
                    }
                    (self.function)($($name::Datum::get(&$column.0, row)?,)* &mut emitter);
                    if emitter.is_stopped() {
                        break;
                    }
                }
                emitter.finish()
            }
        }
    };
}

flat_map_fn!(A a 0);
flat_map_fn!(A a 0, B b 1);
flat_map_fn!(A a 0, B b 1, C c 2);
flat_map_fn!(A a 0, B b 1, C c 2, D d 3);
flat_map_fn!(A a 0, B b 1, C c 2, D d 3, E e 4);
flat_map_fn!(A a 0, B b 1, C c 2, D d 3, E e 4, F f 5);
