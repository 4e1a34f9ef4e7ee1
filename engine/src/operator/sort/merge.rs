//! A range of the rows of several runs, as one sequence in order.
//!
//! Each run has a *cursor*, which holds one block. The cursors are a heap by their next rows, of
//! which the prefix is at hand. Of the first and the last block of a run only some rows are in the
//! range.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits;
use crate::operator::sort::Setup;
use crate::operator::sort::held::BATCH_BYTES;
use crate::operator::sort::keys::Prefix;
use crate::operator::sort::run::{Mark, RowOf, RunBlock, SortedRun};

/// What is merged: all rows of runs between two marks.
pub(super) struct Range {
    pub(super) runs: Arc<[SortedRun]>,
    pub(super) start: Option<Mark>,
    pub(super) end: Option<Mark>,
}

/// Rows of a range that are still to come.
pub(super) struct Merge {
    setup: Arc<Setup>,
    range: Range,
    cursors: Vec<Cursor>,
    /// Cursors that have rows; the one whose next row is least is the first.
    heap: Vec<Next>,
}

/// A cursor in the heap.
#[derive(Clone, Copy)]
struct Next {
    prefix: Prefix,
    cursor: usize,
}

/// A run, at its next row.
struct Cursor {
    run: usize,
    /// Blocks that come after this one.
    blocks: std::ops::Range<usize>,
    block: Arc<RunBlock>,
    rows: std::ops::Range<usize>,
    /// Where the block is among those of the batch, once it is there.
    used: Option<u32>,
}

/// Rows of a batch in the making, and what holds them.
#[derive(Default)]
struct Picked {
    blocks: Vec<Arc<RunBlock>>,
    rows: Vec<(u32, u32)>,
    bytes: usize,
    /// Blocks that no cursor is at any more.
    left: usize,
}

impl Merge {
    /// Begins to merge `range`.
    ///
    /// # Errors
    /// What reading blocks answered.
    pub(super) fn new(setup: &Arc<Setup>, range: Range) -> Result<Self> {
        let mut merge = Merge {
            setup: Arc::clone(setup),
            cursors: Vec::with_capacity(range.runs.len()),
            heap: Vec::with_capacity(range.runs.len()),
            range,
        };
        let range = &merge.range;
        for (number, run) in range.runs.iter().enumerate() {
            let mut blocks = run.blocks(setup, range.start.as_ref(), range.end.as_ref());
            while let Some(block) = blocks.next() {
                let block = Arc::new(run.block(block)?);
                let rows = range.rows_of(setup, run, &block);
                if rows.is_empty() {
                    continue;
                }
                merge.heap.push(Next {
                    prefix: block.prefix(rows.start),
                    cursor: merge.cursors.len(),
                });
                merge.cursors.push(Cursor {
                    run: number,
                    blocks,
                    block,
                    rows,
                    used: None,
                });
                break;
            }
        }
        for place in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(place);
        }
        Ok(merge)
    }

    fn is_less(&self, one: Next, other: Next) -> bool {
        let order = one.prefix.cmp(&other.prefix);
        order.then_with(|| self.compare_same(one, other)).is_lt()
    }

    /// Compares rows that have the same prefix.
    fn compare_same(&self, one: Next, other: Next) -> Ordering {
        let setup = &self.setup;
        let (one, other) = (&self.cursors[one.cursor], &self.cursors[other.cursor]);
        let rows = (one.row(), other.row());
        let keys = setup.keys.compare(
            &setup.layout,
            (rows.0.prefix, || rows.0.row),
            (rows.1.prefix, || rows.1.row),
        );
        let number = |cursor: &Cursor| self.range.runs[cursor.run].number;
        let ties = || (rows.0.position, number(one)).cmp(&(rows.1.position, number(other)));
        keys.then_with(ties)
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.is_less(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }

    /// Goes on to the next row of the first cursor.
    fn advance(&mut self, picked: &mut Picked) -> Result<()> {
        let first = self.heap[0].cursor;
        self.cursors[first].rows.next();
        if self.cursors[first].rows.is_empty() {
            picked.left += 1;
            if !self.next_block(first)? {
                self.heap.swap_remove(0);
            }
        }
        if let Some(next) = self.heap.first_mut() {
            let cursor = &self.cursors[next.cursor];
            next.prefix = cursor.block.prefix(cursor.rows.start);
        }
        self.sift_down(0);
        Ok(())
    }

    /// Reads the next block of a cursor; false if it has come to its end.
    fn next_block(&mut self, number: usize) -> Result<bool> {
        self.setup.cancel.check()?;
        let cursor = &mut self.cursors[number];
        let run = &self.range.runs[cursor.run];
        for block in cursor.blocks.by_ref() {
            cursor.block = Arc::new(run.block(block)?);
            cursor.rows = self.range.rows_of(&self.setup, run, &cursor.block);
            cursor.used = None;
            if !cursor.rows.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands the next rows to `take`, some thousands of them; false if there are none.
    ///
    /// # Errors
    /// What reading blocks or `take` answered.
    pub(super) fn rows(&mut self, take: impl FnOnce(&[RowOf<'_>]) -> Result<()>) -> Result<bool> {
        let mut picked = Picked::default();
        for cursor in &mut self.cursors {
            cursor.used = None;
        }
        let left_max = self.cursors.len() / 2 + 1;
        while let Some(first) = self.heap.first()
            && picked.rows.len() < limits::BATCH_ROWS
            && picked.bytes < BATCH_BYTES
            && picked.left < left_max
        {
            let cursor = &mut self.cursors[first.cursor];
            let used = *cursor.used.get_or_insert_with(|| {
                picked.blocks.push(Arc::clone(&cursor.block));
                picked.blocks.len() as u32 - 1
            });
            picked.rows.push((used, cursor.rows.start as u32));
            picked.bytes += cursor.row().row.len();
            self.advance(&mut picked)?;
        }
        let row = |&(block, row): &(u32, u32)| picked.blocks[block as usize].row(row as usize);
        let rows: Vec<RowOf<'_>> = picked.rows.iter().map(row).collect();
        match rows.is_empty() {
            true => Ok(false),
            false => take(&rows).map(|()| true),
        }
    }

    /// The next rows as a batch, if there are any.
    ///
    /// # Errors
    /// As for [`rows`](Self::rows).
    pub(super) fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let setup = Arc::clone(&self.setup);
        let mut batch = None;
        self.rows(|rows| {
            let rows: Vec<&[u8]> = rows.iter().map(|row| row.row).collect();
            batch = Some(setup.layout.batch(&rows)?);
            Ok(())
        })?;
        Ok(batch)
    }
}

impl Cursor {
    fn row(&self) -> RowOf<'_> {
        self.block.row(self.rows.start)
    }
}

impl Range {
    /// The rows of a block that are in the range.
    fn rows_of(&self, setup: &Setup, run: &SortedRun, block: &RunBlock) -> std::ops::Range<usize> {
        let before = |mark: &Mark| {
            let (mut start, mut end) = (0, block.rows());
            while start < end {
                let middle = start + (end - start) / 2;
                match mark.is_behind(setup, block.row(middle), run.number) {
                    true => start = middle + 1,
                    false => end = middle,
                }
            }
            start
        };
        let start = self.start.as_ref().map_or(0, before);
        start..self.end.as_ref().map_or(block.rows(), before).max(start)
    }
}
