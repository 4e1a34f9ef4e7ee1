//! Where rows stand among the cuts of an order that several tasks share.
//!
//! Keys are compared as bytes of arrow's row format. They depend on the values of the keys alone,
//! so what one task says of its rows can be compared with the rows of another.

use std::ops::Range;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows};
use bytes::Bytes;

use crate::error::Result;
use crate::expr::SortKey;
use crate::operator::order::Order;
use crate::plan::Cut;

/// Computes the keys of rows that are in an order.
pub struct CutKeys {
    order: Order,
    converter: RowConverter,
}

impl CutKeys {
    /// The `keys` of rows of `schema`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    pub fn new(keys: &[SortKey], schema: &Schema) -> Result<Self> {
        let order = Order::new(keys, schema)?;
        let converter = order.converter()?;
        Ok(CutKeys { order, converter })
    }

    /// What cuts look at of the key of a row.
    ///
    /// # Errors
    /// What computing the key answered.
    pub fn of_row(&self, batch: &RecordBatch, row: usize) -> Result<Bytes> {
        let keys = self.of(&batch.slice(row, 1))?;
        Ok(Bytes::copy_from_slice(start(&keys, 0)))
    }

    /// The rows of a batch in order, which `task` wrote, that are behind the cut `from` and in
    /// front of the cut `to`.
    ///
    /// # Errors
    /// What computing their keys answered.
    pub fn between(
        &self,
        batch: &RecordBatch,
        task: u32,
        from: Option<&Cut>,
        to: Option<&Cut>,
    ) -> Result<Range<usize>> {
        let rows = batch.num_rows();
        let Some(last) = rows.checked_sub(1) else {
            return Ok(0..0);
        };
        let is_behind =
            |cut: &Cut, row| -> Result<bool> { Ok(cut.is_behind(&self.of_row(batch, row)?, task)) };
        let all_from = match from {
            Some(cut) => !is_behind(cut, 0)?,
            None => true,
        };
        let all_to = match to {
            Some(cut) => is_behind(cut, last)?,
            None => true,
        };
        if all_from && all_to {
            return Ok(0..rows);
        }
        let keys = self.of(batch)?;
        let keys: Vec<&[u8]> = (0..rows).map(|row| start(&keys, row)).collect();
        let before = |cut: &Cut| keys.partition_point(|key| cut.is_behind(key, task));
        let end = to.map_or(rows, before);
        Ok(from.map_or(0, before).min(end)..end)
    }

    fn of(&self, batch: &RecordBatch) -> Result<Rows> {
        Ok(self
            .converter
            .convert_columns(&self.order.columns(batch)?)?)
    }
}

fn start(keys: &Rows, row: usize) -> &[u8] {
    Cut::key_start(keys.row(row).data())
}
