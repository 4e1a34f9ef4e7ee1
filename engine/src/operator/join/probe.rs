//! Looking up batches on one lane.
//!
//! Where a row has at most one match, and its code says which, the whole batch is answered by one
//! array of row numbers. Otherwise chains of build rows are followed in rounds, a step for every
//! probe row that is not done: the steps of one round do not depend on one another, so the
//! processor waits for many of them at once.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::Emit;
use crate::operator::join::Join;
use crate::operator::join::matches::Matches;
use crate::operator::join::pairs::Pairs;
use crate::plan::StepKind;

/// Pairs that are compared together where a match may end the search for a row.
const SEARCHED_PAIRS: usize = 1024;

/// Rows that are searched for together where build rows are only marked.
const MARKED_TOGETHER: usize = 128;

/// What ends the search for a probe row, besides the end of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing: every match counts.
    Never,
    /// Its first match.
    AtMatch,
    /// A match that is marked. Whoever marked it came down the same chain with the same key and
    /// marks the rest, unless it met somebody in turn, further down; so the rows of a key are
    /// walked through once, not once for each probe row that has the key.
    AtMark,
}

/// A join on one lane.
pub(super) struct Probe {
    join: Arc<Join>,
    /// The columns of the only build row, repeated.
    constants: Vec<ArrayRef>,
    codes: Vec<u64>,
    found: Vec<u32>,
    pairs: Pairs,
    /// Probe rows that are not done, and where in its chain each of them is.
    open: Pairs,
    /// Probe rows of the batch that had a match, or such a one that ends their search.
    matched: Vec<bool>,
    /// Notes who had a match, where that is not decided yet: build rows that are not in this table
    /// come later.
    matches: Option<Matches>,
}

impl Probe {
    pub(super) fn new(join: Arc<Join>) -> Result<Self> {
        let only = join.table.rows == 1;
        let zeros = UInt32Array::from(vec![0; if only { BATCH_ROWS } else { 0 }]);
        let columns = join.table.columns.iter().filter(|_| only);
        let constants = columns.map(|column| take(column, &zeros, None));
        let constants = constants.collect::<Result<_, _>>()?;
        Ok(Probe {
            join,
            constants,
            codes: Vec::new(),
            found: Vec::new(),
            pairs: Pairs::default(),
            open: Pairs::default(),
            matched: Vec::new(),
            matches: None,
        })
    }

    /// The same, with `matches` of rows that come in the order in which they are noted there.
    /// Probe rows that had a match or had none do not come out, except as pairs.
    pub(super) fn with_matches(self, matches: Option<Matches>) -> Self {
        Probe { matches, ..self }
    }

    /// What was noted.
    pub(super) fn into_matches(self) -> Option<Matches> {
        self.matches
    }

    /// The columns that come out.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(self.join.spec.schema())
    }

    /// Looks up the rows of `batch`.
    pub(super) fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 || self.join.table.rows == 0 && self.join.spec.needs_build_rows() {
            return Ok(());
        }
        if rows <= BATCH_ROWS {
            return self.push_some(batch, emit);
        }
        for start in (0..rows).step_by(BATCH_ROWS) {
            self.push_some(batch.slice(start, BATCH_ROWS.min(rows - start)), emit)?;
        }
        Ok(())
    }

    /// Takes at most [`BATCH_ROWS`] rows.
    fn push_some(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let spec = Arc::clone(&self.join.spec);
        let keys = spec.probe_keys(&batch)?;
        let table = Arc::clone(&self.join.table);
        if keys.is_empty() {
            self.codes.resize(batch.num_rows(), 0);
        } else {
            table.encoder.encode(&keys, &mut self.codes)?;
        }
        table.index.find(&self.codes, &mut self.found);
        if !table.keys.is_empty() || spec.filter.is_some() || self.matches.is_some() {
            return self.search(&batch, &keys, emit);
        }
        match spec.kind {
            StepKind::ProbeSemi | StepKind::ProbeAnti => self.choose(batch, emit),
            StepKind::BuildSemi | StepKind::BuildAnti => {
                self.mark_chains();
                Ok(())
            }
            _ if table.index.is_unique() => self.put_beside(batch, emit),
            _ => self.search(&batch, &keys, emit),
        }
    }

    /// Every row has at most one match, which is known.
    fn put_beside(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let join = &self.join;
        let matches = self.found.iter().filter(|row| **row != 0).count();
        if let Some(flags) = &join.flags {
            let rows = self.found.iter().filter(|row| **row != 0);
            rows.for_each(|row| {
                flags.set(row - 1);
            });
        }
        if matches == batch.num_rows() && !self.constants.is_empty() {
            let column = |column: usize| Ok(Arc::clone(batch.column(column)));
            let constant = |column: usize| Ok(self.constants[column].slice(0, matches));
            return emit(join.rows(matches, column, constant)?);
        }
        if matches == batch.num_rows() || join.spec.keeps_probe_rows() {
            return emit(join.rows_beside(&batch, &self.found)?);
        }
        if matches == 0 {
            return Ok(());
        }
        let Pairs { probe, build } = &mut self.pairs;
        probe.resize(batch.num_rows(), 0);
        build.resize(batch.num_rows(), 0);
        let mut kept = 0;
        for (row, found) in self.found.iter().enumerate() {
            probe[kept] = row as u32;
            build[kept] = found.wrapping_sub(1);
            kept += usize::from(*found != 0);
        }
        probe.truncate(matches);
        build.truncate(matches);
        emit(join.pair_rows(&batch, &self.pairs)?)
    }

    /// Rows come out that have a match, or that have none; whatever has been found is one.
    fn choose(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let found = &self.found;
        self.join.emit_decided(&batch, |row| found[row] != 0, emit)
    }

    /// Marks all rows of each chain that was found. The last row of a chain is marked after the
    /// others, so that a chain whose last row is marked can be passed over.
    fn mark_chains(&self) {
        let Some(flags) = &self.join.flags else {
            return;
        };
        for &last in self.found.iter().filter(|row| **row != 0) {
            if flags.is_set(last - 1) {
                continue;
            }
            let mut row = self.join.table.index.next(last);
            while row != 0 {
                flags.set(row - 1);
                row = self.join.table.index.next(row);
            }
            flags.set(last - 1);
        }
    }

    /// Follows every chain to its end, or to the first match if that is all that is asked for.
    fn search(&mut self, batch: &RecordBatch, keys: &[ArrayRef], emit: Emit<'_>) -> Result<()> {
        let stop = self.stop();
        self.matched.clear();
        self.matched.resize(batch.num_rows(), false);
        self.pairs.clear();
        // Rows that follow others find what these have marked.
        let together = match self.join.chains {
            Some(_) => MARKED_TOGETHER,
            None => BATCH_ROWS,
        };
        let mut found = std::mem::take(&mut self.found);
        if let Some(matches) = self.matches.as_ref().filter(|_| stop == Stop::AtMatch) {
            matches.forget_matched(&mut found);
        }
        for (part, found) in found.chunks(together).enumerate() {
            self.open.clear();
            for (row, found) in (part * together..).zip(found).filter(|(_, row)| **row != 0) {
                self.open.probe.push(row as u32);
                self.open.build.push(*found);
            }
            self.follow(stop, batch, keys, emit)?;
        }
        self.found = found;
        self.settle(stop, batch, keys, emit)?;
        let matched = &self.matched;
        if let Some(matches) = &mut self.matches {
            matches.note(matched);
            return Ok(());
        }
        self.join.emit_decided(batch, |row| matched[row], emit)
    }

    /// Goes on with the open rows until none is left.
    fn follow(
        &mut self,
        stop: Stop,
        batch: &RecordBatch,
        keys: &[ArrayRef],
        emit: Emit<'_>,
    ) -> Result<()> {
        let full = match stop {
            Stop::Never => BATCH_ROWS,
            Stop::AtMatch | Stop::AtMark => SEARCHED_PAIRS,
        };
        while self.open.len() > 0 {
            // A round need not make pairs.
            self.join.resources.cancel.check()?;
            if self.pairs.len() + self.open.len() > BATCH_ROWS {
                self.settle(stop, batch, keys, emit)?;
            }
            self.step();
            if self.pairs.len() >= full {
                self.settle(stop, batch, keys, emit)?;
            }
        }
        Ok(())
    }

    fn stop(&self) -> Stop {
        let spec = &self.join.spec;
        match spec.kind {
            StepKind::ProbeSemi | StepKind::ProbeAnti => Stop::AtMatch,
            // With a condition, that a row is marked says nothing of the others of its key.
            StepKind::BuildSemi | StepKind::BuildAnti if spec.filter.is_none() => Stop::AtMark,
            _ => Stop::Never,
        }
    }

    /// One round: the build row at which each open row is becomes a pair, and the row goes on.
    fn step(&mut self) {
        let (pairs, open) = (&mut self.pairs, &mut self.open);
        if let (Some(chains), Some(flags)) = (&self.join.chains, &self.join.flags) {
            for (probe, build) in open.probe.iter().zip(&open.build) {
                if !flags.is_set(build - 1) {
                    pairs.probe.push(*probe);
                    pairs.build.push(build - 1);
                }
            }
            open.advance(|row| chains.next(row, flags));
        } else {
            pairs.probe.extend_from_slice(&open.probe);
            pairs.build.extend(open.build.iter().map(|row| row - 1));
            open.advance(|row| self.join.table.index.next(row));
        }
    }

    /// Decides about the pairs gathered, notes what matched, emits what comes out, and closes the
    /// rows whose search is at an end.
    fn settle(
        &mut self,
        stop: Stop,
        batch: &RecordBatch,
        keys: &[ArrayRef],
        emit: Emit<'_>,
    ) -> Result<()> {
        let join = &self.join;
        if self.pairs.len() == 0 {
            return Ok(());
        }
        join.check_pairs(&mut self.pairs, batch, keys)?;
        for (probe, build) in self.pairs.probe.iter().zip(&self.pairs.build) {
            let is_first = join.flags.as_ref().is_none_or(|flags| flags.set(*build));
            self.matched[*probe as usize] |= stop != Stop::AtMark || !is_first;
        }
        if join.spec.emits_pairs() && self.pairs.len() > 0 {
            emit(join.pair_rows(batch, &self.pairs)?)?;
        }
        self.pairs.clear();
        if stop != Stop::Never {
            self.close_matched();
        }
        Ok(())
    }

    fn close_matched(&mut self) {
        let mut kept = 0;
        for at in 0..self.open.len() {
            let probe = self.open.probe[at];
            self.open.probe[kept] = probe;
            self.open.build[kept] = self.open.build[at];
            kept += usize::from(!self.matched[probe as usize]);
        }
        self.open.probe.truncate(kept);
        self.open.build.truncate(kept);
    }
}
