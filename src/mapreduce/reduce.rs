//! Reduce functions: a key and its values to any number of rows.
//!
//! There are two ways to call one. Where values were combined there is one row for each key, in
//! any order, and the function goes over rows like any other. Otherwise it goes over groups that
//! the engine has brought together and sorted.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use kiln_engine::Result;
use kiln_engine::udf::{EmitRows, GroupBody, Groups, TableBody, UdfContext};

use super::values::{Typed, Values};
use crate::udf::datum::Datum;
use crate::udf::emitter::Emitter;
use crate::udf::outcome::Outcome;
use crate::udf::row::Row;
use crate::udf::table::{BatchFn, EachBatch};

/// What a reduce function with keys `K`, values `V` and rows `R` has to be.
pub trait ReduceFn<K: Row, V: Datum, R: Row>: Send + Sync + 'static {
    /// Calls it for one key.
    ///
    /// # Errors
    /// What it answered.
    fn call(
        &self,
        key: K::Ref<'_>,
        values: &mut Values<'_, V>,
        out: &mut Emitter<'_, R>,
    ) -> Result<()>;
}

/// A closure and what it answers.
pub(super) struct Closure<F, O>(pub(super) F, pub(super) PhantomData<fn() -> O>);

impl<F, O, K, V, R> ReduceFn<K, V, R> for Closure<F, O>
where
    F: for<'a, 'b, 'c, 'd, 'e> Fn(K::Ref<'a>, &'b mut Values<'c, V>, &'d mut Emitter<'e, R>) -> O
        + Send
        + Sync
        + 'static,
    O: Outcome + 'static,
    K: Row,
    V: Datum,
    R: Row,
{
    #[inline]
    fn call(
        &self,
        key: K::Ref<'_>,
        values: &mut Values<'_, V>,
        out: &mut Emitter<'_, R>,
    ) -> Result<()> {
        (self.0)(key, values, out).into_result()
    }
}

/// A reduce function, in both ways to call it.
pub(super) struct Reducer {
    pub(super) over_rows: Arc<dyn TableBody>,
    pub(super) over_groups: Arc<dyn GroupBody>,
}

impl Reducer {
    pub(super) fn new<K: Row, V: Datum, R: Row>(function: impl ReduceFn<K, V, R>) -> Self {
        let body = Arc::new(Body {
            function,
            schema: schema_without_names::<R>(),
            marker: PhantomData::<fn() -> (K, V, R)>,
        });
        Reducer {
            over_rows: Arc::new(EachBatch(Arc::clone(&body))),
            over_groups: body,
        }
    }
}

/// The columns of `R`, under names that will be others.
fn schema_without_names<R: Row>() -> SchemaRef {
    let fields = R::types().into_iter().enumerate();
    let fields = fields
        .map(|(number, (data_type, nullable))| Field::new(number.to_string(), data_type, nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

struct Body<F, M> {
    function: F,
    schema: SchemaRef,
    marker: PhantomData<fn() -> M>,
}

impl<F, K, V, R> BatchFn for Body<F, (K, V, R)>
where
    F: ReduceFn<K, V, R>,
    K: Row,
    V: Datum,
    R: Row,
{
    fn call(&self, batch: &RecordBatch, context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        let columns = batch.columns();
        let keys = K::columns(columns)?;
        let mut values = Typed::new();
        values.set(columns.get(K::COLUMNS), V::column)?;
        let mut out = Emitter::new(&self.schema, context, emit);
        for row in 0..batch.num_rows() {
            let mut of_key = Values::new(&mut values, row..row + 1, None);
            self.function
                .call(K::get(&keys, row)?, &mut of_key, &mut out)?;
            of_key.into_result()?;
            if out.is_stopped() {
                break;
            }
        }
        out.finish()
    }
}

impl<F, K, V, R> GroupBody for Body<F, (K, V, R)>
where
    F: ReduceFn<K, V, R>,
    K: Row,
    V: Datum,
    R: Row,
{
    fn call(
        &self,
        groups: &mut dyn Groups,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        let mut keys = Typed::new();
        let mut values = Typed::new();
        let mut out = Emitter::new(&self.schema, context, emit);
        while groups.next_group()? {
            let Some((batch, rows)) = groups.next_rows()? else {
                continue;
            };
            let columns = batch.columns();
            keys.set(columns.first(), |_| K::columns(columns))?;
            values.set(columns.get(K::COLUMNS), V::column)?;
            let Some(key) = keys.get() else {
                continue;
            };
            let key = K::get(key, rows.start)?;
            let rest: &mut dyn Groups = groups;
            let mut of_key = Values::new(&mut values, rows, Some((rest, K::COLUMNS)));
            self.function.call(key, &mut of_key, &mut out)?;
            of_key.into_result()?;
            if out.is_stopped() {
                break;
            }
        }
        out.finish()
    }
}
