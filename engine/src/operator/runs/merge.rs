//! Several sequences of sorted rows as one.

use std::sync::Arc;

use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::row::Rows;

use crate::error::Result;
use crate::limits;
use crate::operator::runs::Sorter;
use crate::spill::RunReader;

/// Batches of rows in an order.
pub(in crate::operator) type SortedRows = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Merges sequences: takes the row with the least key among those that are next, again and again.
/// Of rows with the same key that of the earlier sequence comes first.
pub(super) struct Merge {
    sorter: Arc<Sorter>,
    cursors: Vec<Cursor>,
    /// Sequences that have rows, as a heap: the one whose next row is least is the first.
    heap: Vec<usize>,
}

/// One of the sequences, at its next row.
struct Cursor {
    source: RunReader,
    batch: RecordBatch,
    keys: Rows,
    row: usize,
}

impl Merge {
    /// Merges `sources`. Memory for a batch of each is the caller's to reserve.
    ///
    /// # Errors
    /// What the sequences answered.
    pub(super) fn new(sources: Vec<RunReader>, sorter: &Arc<Sorter>) -> Result<Self> {
        let mut merge = Merge {
            sorter: Arc::clone(sorter),
            cursors: Vec::with_capacity(sources.len()),
            heap: Vec::with_capacity(sources.len()),
        };
        let converter = sorter.order.converter()?;
        for source in sources {
            let empty = RecordBatch::new_empty(Arc::clone(&sorter.schema));
            let cursor = Cursor {
                source,
                batch: empty,
                keys: converter.empty_rows(0, 0),
                row: 0,
            };
            merge.cursors.push(cursor);
            let number = merge.cursors.len() - 1;
            if merge.advance(number)? {
                merge.heap.push(number);
            }
        }
        for place in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(place);
        }
        Ok(merge)
    }

    /// Takes the next batch of a sequence; false if it has ended.
    fn advance(&mut self, number: usize) -> Result<bool> {
        self.sorter.cancel.check()?;
        let cursor = &mut self.cursors[number];
        for batch in cursor.source.by_ref() {
            let batch = batch?;
            if batch.num_rows() > 0 {
                let order = &self.sorter.order;
                cursor.keys = order
                    .converter()?
                    .convert_columns(&order.columns(&batch)?)?;
                cursor.batch = batch;
                cursor.row = 0;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_less(&self, one: usize, other: usize) -> bool {
        let key = |number: usize| self.cursors[number].keys.row(self.cursors[number].row);
        (key(one), one) < (key(other), other)
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2].into_iter();
            let mut least = place;
            for child in children.filter(|child| *child < self.heap.len()) {
                if self.is_less(self.heap[child], self.heap[least]) {
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

    /// The next rows. They end where the batch of a sequence does.
    fn rows(&mut self) -> Result<Option<RecordBatch>> {
        let mut taken = Vec::new();
        let mut ended = None;
        while let Some(&first) = self.heap.first()
            && taken.len() < limits::BATCH_ROWS
        {
            let cursor = &mut self.cursors[first];
            taken.push((first, cursor.row));
            cursor.row += 1;
            if cursor.row == cursor.batch.num_rows() {
                ended = Some(first);
                break;
            }
            self.sift_down(0);
        }
        if taken.is_empty() {
            return Ok(None);
        }
        let batches: Vec<&RecordBatch> = self.cursors.iter().map(|c| &c.batch).collect();
        let rows = interleave_record_batch(&batches, &taken)?;
        if let Some(number) = ended {
            if !self.advance(number)? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        Ok(Some(rows))
    }
}

impl Iterator for Merge {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows().transpose()
    }
}
