//! A lane where some of the build rows are on disk.
//!
//! Rows whose partition is in memory are looked up at once, and so are those that can have no
//! match. The others go to disk, to be joined with their partition once all lanes have ended.

use std::sync::Arc;

use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::operator::join::Join;
use crate::operator::join::output::Output;
use crate::operator::join::partition::{Partitions, Places, Split};
use crate::operator::join::scatter::Scatter;
use crate::operator::{Emit, Operator};

/// A lane of a join whose table has spilled.
pub(super) struct SpillingLane {
    /// None once the lane has ended: then the table is let go of.
    open: Option<(Arc<Join>, Output)>,
    partitions: Partitions,
    level: u32,
    scatter: Option<Scatter>,
}

impl SpillingLane {
    /// For `join`, whose `partitions` at `level` are on disk.
    pub(super) fn new(
        join: Arc<Join>,
        output: Output,
        (partitions, level): (Partitions, u32),
    ) -> Self {
        SpillingLane {
            open: Some((join, output)),
            partitions,
            level,
            scatter: None,
        }
    }

    fn spill(&mut self, join: &Join, rows: RecordBatch, places: &Places) -> Result<()> {
        let schema = join.spec.probe_schema();
        let scatter = match &mut self.scatter {
            Some(scatter) => scatter,
            none => none.insert(Scatter::new(&join.resources, schema)?),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let (schema, columns) = (Arc::clone(schema), rows.columns().to_vec());
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        scatter.push(rows, places)
    }
}

impl Operator for SpillingLane {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let Some((join, mut output)) = self.open.take() else {
            return Err(Error::internal("rows for a lane that has ended"));
        };
        let keys = join.spec.probe_keys(&batch)?;
        let places = Places::of_probe_rows(&keys, self.level)?;
        let Split { others, chosen } = Split::new(batch, places, self.partitions)?;
        if let Some((rows, places)) = chosen {
            self.spill(&join, rows, &places)?;
        }
        output.push(others, emit)?;
        self.open = Some((join, output));
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<()> {
        if let Some((join, mut output)) = self.open.take() {
            if let Some(scatter) = self.scatter.take() {
                join.keep_probe_rows(scatter.finish()?);
            }
            output.finish(emit)?;
        }
        Ok(())
    }
}
