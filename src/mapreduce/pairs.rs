//! What a map function makes: pairs of a key and a value.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::Result;
use kiln_engine::udf::{EmitRows, UdfContext};

use crate::udf::datum::Datum;
use crate::udf::emitter::Emitter;
use crate::udf::row::Row;

/// The column of values.
pub(super) const VALUE: &str = "value";

/// The columns of keys `K`: one, or one for each part of a tuple.
pub(super) fn key_columns<K: Row>() -> Vec<String> {
    match K::COLUMNS {
        1 => vec!["key".to_owned()],
        parts => (0..parts).map(|part| format!("key.{part}")).collect(),
    }
}

/// Pairs as rows: the columns of the key, then that of the value.
pub(super) struct Pair<K, V>(PhantomData<fn() -> (K, V)>);

impl<K: Row, V: Datum> Pair<K, V> {
    /// Names and types of the columns.
    pub(super) fn schema() -> SchemaRef {
        let names = key_columns::<K>().into_iter().chain([VALUE.to_owned()]);
        let fields = names.zip(Self::types());
        let fields =
            fields.map(|(name, (data_type, nullable))| Field::new(name, data_type, nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

impl<K: Row, V: Datum> Row for Pair<K, V> {
    type Ref<'a> = (K::Ref<'a>, V::Ref<'a>);
    type Columns = (K::Columns, V::Column);
    type Builders = (K::Builders, V::Builder);

    const COLUMNS: usize = K::COLUMNS + 1;

    fn types() -> Vec<(DataType, bool)> {
        let mut types = K::types();
        types.push((V::data_type(), V::NULLABLE));
        types
    }

    fn columns(arrays: &[ArrayRef]) -> Result<Self::Columns> {
        let (keys, value) = arrays.split_at(K::COLUMNS.min(arrays.len()));
        Ok((K::columns(keys)?, V::column(super::only(value)?)?))
    }

    #[inline]
    fn get((keys, values): &Self::Columns, row: usize) -> Result<Self::Ref<'_>> {
        Ok((K::get(keys, row)?, V::get(values, row)?))
    }

    fn builders() -> Self::Builders {
        (K::builders(), V::builder())
    }

    #[inline]
    fn append((keys, values): &mut Self::Builders, (key, value): Self::Ref<'_>) -> Result<()> {
        K::append(keys, key)?;
        V::append(values, value)
    }

    fn finish((keys, values): &mut Self::Builders) -> Vec<ArrayRef> {
        let mut columns = K::finish(keys);
        columns.push(V::finish(values));
        columns
    }
}

/// Takes the pairs that a map function makes, and counts what it wants counted.
pub struct Pairs<'e, K: Row, V: Datum> {
    out: Emitter<'e, Pair<K, V>>,
}

impl<'e, K: Row, V: Datum> Pairs<'e, K, V> {
    pub(super) fn new(schema: &'e SchemaRef, context: &'e UdfContext, emit: EmitRows<'e>) -> Self {
        Pairs {
            out: Emitter::new(schema, context, emit),
        }
    }

    /// Makes a pair: a key, borrowed if it is a text, and a value.
    #[inline]
    pub fn emit<'a>(&mut self, key: K::Ref<'a>, value: V::Ref<'a>) {
        self.out.emit((key, value));
    }

    /// Adds `n` to the job's counter called `name`: see [`Emitter::count`].
    pub fn count(&mut self, name: &str, n: u64) {
        self.out.count(name, n);
    }

    /// What the attempt reads, for messages.
    pub fn input(&self) -> &str {
        self.out.input()
    }

    /// Whether pairs are not taken any more; a long call may look and return.
    pub fn is_stopped(&self) -> bool {
        self.out.is_stopped()
    }

    /// From here on pairs belong to a record, and can be taken back.
    pub(super) fn begin_record(&mut self) {
        self.out.begin_record();
    }

    /// Takes back the pairs of the record; false if some are gone because they were too many.
    pub(super) fn take_back(&mut self) -> bool {
        self.out.take_back()
    }

    pub(super) fn finish(self) -> Result<()> {
        self.out.finish()
    }
}
