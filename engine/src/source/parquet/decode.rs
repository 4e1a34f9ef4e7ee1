//! From the bytes of a row group to batches.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::errors::ParquetError;

use super::footer::{Footer, contain, unreadable};
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::Emit;

/// The wanted columns of one file.
pub(super) struct Columns {
    footer: Footer,
    schema: SchemaRef,
    mask: ProjectionMask,
    /// Where each wanted column is among those that are decoded, which keep the file's order.
    order: Vec<usize>,
}

impl Columns {
    /// Finds the columns of `schema` in a file.
    pub(super) fn new(footer: Footer, schema: &SchemaRef) -> Result<Self> {
        let mut roots = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let problem = match footer.schema().index_of(field.name()) {
                Ok(index) if footer.schema().field(index).data_type() == field.data_type() => {
                    roots.push(index);
                    continue;
                }
                Ok(index) => footer.schema().field(index).data_type().to_string(),
                Err(_) => "no such column".into(),
            };
            return Err(Error::invalid(format!(
                "the files of one input have different columns file={} column={:?} expected={} \
                 found={problem}",
                footer.file().url(),
                field.name(),
                field.data_type()
            )));
        }
        let mut sorted = roots.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let place = |root: &usize| sorted.partition_point(|other| other < root);
        let order = roots.iter().map(place).collect();
        let descriptor = footer.metadata().parquet_schema();
        Ok(Columns {
            mask: ProjectionMask::roots(descriptor, sorted.iter().copied()),
            order,
            schema: Arc::clone(schema),
            footer,
        })
    }

    pub(super) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Where the wanted columns of a row group lie in the file.
    pub(super) fn ranges(&self, row_group: usize) -> Vec<Range<u64>> {
        let columns = self
            .footer
            .row_group(row_group)
            .columns()
            .iter()
            .enumerate();
        let wanted = columns.filter(|(leaf, _)| self.mask.leaf_included(*leaf));
        wanted
            .map(|(_, column)| {
                let (start, length) = column.byte_range();
                start..start + length
            })
            .collect()
    }

    /// Decodes a row group from `data`, the bytes of its [`ranges`](Self::ranges).
    pub(super) fn decode(
        &self,
        row_group: usize,
        ranges: Vec<Range<u64>>,
        data: Vec<Bytes>,
        emit: Emit<'_>,
    ) -> Result<()> {
        let file = self.footer.file();
        let place = format!("row group {row_group}");
        let mut decoder = contain(file, &place, || {
            let builder =
                ParquetPushDecoderBuilder::new_with_metadata(self.footer.metadata().clone());
            let mut decoder = builder
                .with_row_groups(vec![row_group])
                .with_projection(self.mask.clone())
                .with_batch_size(limits::BATCH_ROWS)
                .build()?;
            decoder.push_ranges(ranges, data)?;
            Ok(decoder)
        })?;
        let mut rows: u64 = 0;
        // Only the decoder runs contained; what the chain does with a batch is its own affair.
        while let Some(batch) = contain(file, &place, || match decoder.try_decode()? {
            DecodeResult::Data(batch) => Ok(Some(batch)),
            DecodeResult::Finished => Ok(None),
            DecodeResult::NeedsData(_) => Err(ParquetError::General(
                "pages lie outside of their column".into(),
            )),
        })? {
            rows += batch.num_rows() as u64;
            TaskMetrics::count(&file.metrics().rows_in, batch.num_rows() as u64);
            emit(self.reorder(&batch)?)?;
        }
        // Where a column's pages end early, the decoder takes that for the end of the rows.
        let expected = self.footer.row_group(row_group).num_rows();
        if u64::try_from(expected) != Ok(rows) {
            let reason = format!(
                "{place} has other rows than the footer says rows={rows} footer={expected}"
            );
            return Err(unreadable(file, &reason));
        }
        Ok(())
    }

    /// The columns in the wanted order under the wanted names.
    fn reorder(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = self
            .order
            .iter()
            .map(|&index| Arc::clone(batch.column(index)))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}
