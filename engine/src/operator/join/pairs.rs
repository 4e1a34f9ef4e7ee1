//! Pairs of rows, and the batches they become.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{filter, take};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::operator::Emit;
use crate::operator::join::Join;
use crate::operator::join::keys::retain_equal;
use crate::operator::join::spec::Origin;
use crate::plan::StepKind;

/// Rows that meet: a probe row of the batch at hand and a build row, each numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pub(super) probe: Vec<u32>,
    pub(super) build: Vec<u32>,
}

impl Pairs {
    pub(super) fn len(&self) -> usize {
        self.probe.len()
    }

    pub(super) fn clear(&mut self) {
        self.probe.clear();
        self.build.clear();
    }

    /// Puts `next` of each build row in its place, and drops the pair where that is 0.
    #[inline]
    pub(super) fn advance(&mut self, next: impl Fn(u32) -> u32) {
        let mut kept = 0;
        for pair in 0..self.len() {
            let row = next(self.build[pair]);
            self.probe[kept] = self.probe[pair];
            self.build[kept] = row;
            kept += usize::from(row != 0);
        }
        self.probe.truncate(kept);
        self.build.truncate(kept);
    }

    /// Keeps the pairs that `mask` has.
    fn retain(&mut self, mask: &BooleanArray) {
        let mut kept = 0;
        for pair in 0..self.len() {
            self.probe[kept] = self.probe[pair];
            self.build[kept] = self.build[pair];
            kept += usize::from(mask.is_valid(pair) && mask.value(pair));
        }
        self.probe.truncate(kept);
        self.build.truncate(kept);
    }
}

impl Join {
    /// Keeps the pairs that match: by key, where equal codes do not say so, and by the condition.
    pub(super) fn check_pairs(
        &self,
        pairs: &mut Pairs,
        batch: &RecordBatch,
        keys: &[ArrayRef],
    ) -> Result<()> {
        let Pairs { probe, build } = pairs;
        retain_equal(&self.table.keys, keys, build, probe)?;
        let Some(filter) = &self.spec.filter else {
            return Ok(());
        };
        if filter.never {
            pairs.clear();
        }
        if pairs.len() == 0 {
            return Ok(());
        }
        let (probe, build) = (indices(&pairs.probe), indices(&pairs.build));
        let columns = filter.columns.iter().map(|from| match *from {
            Origin::Probe(column) => Ok(take(batch.column(column), &probe, None)?),
            Origin::Build(column) => Ok(take(&self.table.columns[column], &build, None)?),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.len()));
        let schema = Arc::clone(&filter.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let mask = filter.predicate.evaluate_boolean(&batch)?;
        if mask.true_count() < pairs.len() {
            pairs.retain(&mask);
        }
        Ok(())
    }

    /// The rows that pairs become.
    pub(super) fn pair_rows(&self, batch: &RecordBatch, pairs: &Pairs) -> Result<RecordBatch> {
        let (probe, build) = (indices(&pairs.probe), indices(&pairs.build));
        self.rows(
            pairs.len(),
            |column| Ok(take(batch.column(column), &probe, None)?),
            |column| Ok(take(&self.table.columns[column], &build, None)?),
        )
    }

    /// The rows of `batch` as they are, each beside the build row `found` (numbered from 1; nulls
    /// where it is 0).
    pub(super) fn rows_beside(&self, batch: &RecordBatch, found: &[u32]) -> Result<RecordBatch> {
        let nulls: NullBuffer = found.iter().map(|row| *row != 0).collect();
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        let rows = found.iter().map(|row| row.saturating_sub(1));
        let rows = UInt32Array::new(rows.collect(), nulls);
        self.rows(
            found.len(),
            |column| Ok(Arc::clone(batch.column(column))),
            |column| match &self.table.columns[column] {
                none if none.is_empty() => Ok(new_null_array(none.data_type(), found.len())),
                some => Ok(take(some, &rows, None)?),
            },
        )
    }

    /// Emits those probe rows of `batch` that come out by themselves, once it is known of each if
    /// it has a match.
    pub(super) fn emit_decided(
        &self,
        batch: &RecordBatch,
        has_match: impl Fn(usize) -> bool,
        emit: Emit<'_>,
    ) -> Result<()> {
        let rows = batch.num_rows();
        match self.spec.kind {
            StepKind::ProbeSemi | StepKind::ProbeAnti => {
                let wanted = self.spec.kind == StepKind::ProbeSemi;
                let mask = BooleanBuffer::collect_bool(rows, |row| has_match(row) == wanted);
                self.emit_chosen(batch, mask, emit)
            }
            _ if self.spec.keeps_probe_rows() => {
                let lone = (0..rows).filter(|row| !has_match(*row));
                let lone: Vec<u32> = lone.map(|row| row as u32).collect();
                match lone.is_empty() {
                    true => Ok(()),
                    false => emit(self.probe_rows_only(batch, lone)?),
                }
            }
            _ => Ok(()),
        }
    }

    fn emit_chosen(&self, batch: &RecordBatch, mask: BooleanBuffer, emit: Emit<'_>) -> Result<()> {
        let chosen = mask.count_set_bits();
        if chosen == 0 {
            return Ok(());
        }
        let all = chosen == batch.num_rows();
        let mask = BooleanArray::new(mask, None);
        let column = |column: usize| match all {
            true => Ok(Arc::clone(batch.column(column))),
            false => Ok(filter(batch.column(column), &mask)?),
        };
        emit(self.rows(chosen, column, |_| {
            Err(Error::internal("a choice of probe rows has build columns"))
        })?)
    }

    /// The probe rows at `rows`, with nulls for the columns of build rows.
    fn probe_rows_only(&self, batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
        let rows = UInt32Array::from(rows);
        self.rows(
            rows.len(),
            |column| Ok(take(batch.column(column), &rows, None)?),
            |column| {
                let data_type = self.table.columns[column].data_type();
                Ok(new_null_array(data_type, rows.len()))
            },
        )
    }

    /// The build rows at `rows`, with nulls for the columns of probe rows.
    pub(super) fn build_rows_only(&self, rows: &[u32]) -> Result<RecordBatch> {
        let taken = indices(rows);
        let fields = self.spec.schema().fields();
        let mut columns = Vec::with_capacity(fields.len());
        for (from, field) in self.spec.output.iter().zip(fields) {
            columns.push(match *from {
                Origin::Probe(_) => new_null_array(field.data_type(), rows.len()),
                Origin::Build(column) => take(&self.table.columns[column], &taken, None)?,
            });
        }
        self.batch(rows.len(), columns)
    }

    /// A batch of the columns that come out, each made by one of two functions of its position.
    pub(super) fn rows(
        &self,
        rows: usize,
        probe: impl Fn(usize) -> Result<ArrayRef>,
        build: impl Fn(usize) -> Result<ArrayRef>,
    ) -> Result<RecordBatch> {
        let columns = self.spec.output.iter().map(|from| match *from {
            Origin::Probe(column) => probe(column),
            Origin::Build(column) => build(column),
        });
        self.batch(rows, columns.collect::<Result<_>>()?)
    }

    fn batch(&self, rows: usize, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(self.spec.schema());
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

fn indices(rows: &[u32]) -> UInt32Array {
    UInt32Array::from(rows.to_vec())
}
