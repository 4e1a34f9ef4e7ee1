//! What sort and top-k share: sort keys as columns, and rows as bytes that compare like the keys.
//!
//! The bytes are arrow's row format: one `memcmp` orders two rows by all keys at once, with each
//! key's direction and place of nulls built in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use crate::error::{Error, Result};
use crate::expr::eval::{Compiled, compile};
use crate::expr::{Expr, SortKey, typing};

/// Sort keys, ready to be computed.
pub(super) struct Order {
    keys: Vec<Compiled>,
    options: Vec<SortOptions>,
    /// Which column the most significant key is, if it is one.
    column: Option<usize>,
}

impl Order {
    pub(super) fn new(keys: &[SortKey], schema: &Schema) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::invalid("an order needs at least one key"));
        }
        let mut order = Order {
            keys: Vec::with_capacity(keys.len()),
            options: Vec::with_capacity(keys.len()),
            column: match &keys[0].expr {
                Expr::Column(name) => schema.index_of(name).ok(),
                _ => None,
            },
        };
        for key in keys {
            let compiled = compile(&key.expr, schema)?;
            let data_type = compiled.field().data_type();
            if !typing::is_ordered(data_type) {
                return Err(Error::invalid(format!(
                    "{}: values of this type have no order found={data_type}",
                    key.expr
                )));
            }
            order.keys.push(compiled);
            order.options.push(SortOptions {
                descending: key.descending,
                nulls_first: key.nulls_first,
            });
        }
        Ok(order)
    }

    /// Appends every column that can be ordered as a last resort, so that which rows come first
    /// depends on what they hold and never on the way they came.
    pub(super) fn break_ties(mut self, schema: &Schema) -> Result<Self> {
        for field in schema.fields() {
            if typing::is_ordered(field.data_type()) {
                self.keys
                    .push(compile(&crate::expr::col(field.name()), schema)?);
                self.options.push(SortOptions::default());
            }
        }
        Ok(self)
    }

    /// The keys of every row of `batch`, most significant first.
    pub(super) fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.keys.iter().map(|key| key.evaluate(batch)).collect()
    }

    /// The most significant key alone; none if it is null by type, and so decides nothing.
    pub(super) fn leading(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>> {
        let key = self
            .keys
            .first()
            .filter(|key| !key.field().data_type().is_null());
        key.map(|key| key.evaluate(batch)).transpose()
    }

    /// Direction and place of nulls of the most significant key.
    pub(super) fn leading_options(&self) -> SortOptions {
        self.options.first().copied().unwrap_or_default()
    }

    /// The column that is the only key, and its type; none if there are more, or it is computed.
    pub(super) fn single_column(&self) -> Option<(usize, &DataType)> {
        match (&self.keys[..], self.column) {
            ([key], Some(column)) => Some((column, key.field().data_type())),
            _ => None,
        }
    }

    /// Bytes of every key as the converter makes them; none if they differ.
    pub(super) fn width(&self) -> Option<usize> {
        let width = |key: &Compiled| match key.field().data_type() {
            DataType::Boolean => Some(2),
            other => other.primitive_width().map(|width| width + 1),
        };
        self.keys.iter().map(width).sum()
    }

    /// A converter of keys to bytes; those of two converters of one order compare too.
    pub(super) fn converter(&self) -> Result<RowConverter> {
        let fields = self.keys.iter().zip(&self.options).map(|(key, options)| {
            SortField::new_with_options(key.field().data_type().clone(), *options)
        });
        Ok(RowConverter::new(fields.collect())?)
    }
}

/// The rows of several batches, each with its key, that can be picked in any order.
#[derive(Default)]
pub(super) struct Keyed {
    pub(super) batches: Vec<RecordBatch>,
    keys: Vec<Rows>,
}

/// A row of [`Keyed`]. The first bytes of its key stand in front, so that most comparisons touch
/// nothing else: enough of them for a number and the beginning of a string behind it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    prefix: [u64; 2],
    batch: u32,
    row: u32,
}

impl Keyed {
    pub(super) fn add(&mut self, batch: RecordBatch, keys: Rows) {
        self.batches.push(batch);
        self.keys.push(keys);
    }

    /// Bytes of batches and keys.
    pub(super) fn bytes(&self) -> u64 {
        let batches: usize = self
            .batches
            .iter()
            .map(RecordBatch::get_array_memory_size)
            .sum();
        let keys: usize = self.keys.iter().map(Rows::size).sum();
        (batches + keys) as u64
    }

    /// Every row, as yet in no order.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut places = Vec::with_capacity(self.keys.iter().map(Rows::num_rows).sum());
        for (batch, keys) in self.keys.iter().enumerate() {
            places.extend(keys.iter().enumerate().map(|(row, key)| Place {
                prefix: prefix(key.data()),
                batch: batch as u32,
                row: row as u32,
            }));
        }
        places
    }

    pub(super) fn key(&self, place: Place) -> &[u8] {
        self.keys[place.batch as usize]
            .row(place.row as usize)
            .data()
    }

    /// Compares two rows by key; equal ones by where they are, so that equal runs are the same.
    pub(super) fn compare(&self, a: &Place, b: &Place) -> std::cmp::Ordering {
        a.prefix
            .cmp(&b.prefix)
            .then_with(|| self.key(*a).cmp(self.key(*b)))
            .then_with(|| (a.batch, a.row).cmp(&(b.batch, b.row)))
    }

    /// The rows at `places`, in that order, as one batch.
    pub(super) fn gather(&self, places: &[Place]) -> Result<RecordBatch> {
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let indices: Vec<(usize, usize)> = places
            .iter()
            .map(|place| (place.batch as usize, place.row as usize))
            .collect();
        Ok(arrow::compute::interleave_record_batch(&batches, &indices)?)
    }
}

/// The first bytes of a key, as numbers that compare like them.
pub(super) fn prefix(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    let both = u128::from_be_bytes(bytes);
    [(both >> 64) as u64, both as u64]
}

/// The batch with strings of its own, where it holds on to buffers that are mostly not its rows'.
pub(super) fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(compact_column).collect();
    let options =
        arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

fn compact_column(column: &ArrayRef) -> ArrayRef {
    let sparse = |used: usize, buffers: &[arrow::buffer::Buffer]| {
        let held: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        held > 2 * used
    };
    match column.data_type() {
        DataType::Utf8View => {
            let array = column.as_string_view();
            if sparse(array.total_buffer_bytes_used(), array.data_buffers()) {
                return Arc::new(array.gc());
            }
        }
        DataType::BinaryView => {
            let array = column.as_binary_view();
            if sparse(array.total_buffer_bytes_used(), array.data_buffers()) {
                return Arc::new(array.gc());
            }
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let array = column.as_struct();
            let parts = array.columns().iter().map(compact_column).collect();
            return Arc::new(StructArray::new(
                fields.clone(),
                parts,
                array.nulls().cloned(),
            ));
        }
        _ => {}
    }
    Arc::clone(column)
}
