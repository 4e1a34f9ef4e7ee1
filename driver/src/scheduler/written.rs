//! What the tasks of a stage have written to the shuffle store, laid out for those who read it.
//!
//! A reader wants a few partitions of every task, of which there may be a hundred thousand. So
//! partitions are kept one after the other, and of each what all tasks wrote of it, in blocks of
//! some tasks: a reader goes through memory in order, and a block takes room when the first of its
//! tasks is done. Each partition is kept by where it ends in its object, so that nobody has to add
//! up those before it.

use std::ops::Range;

use kiln_engine::plan::{PartitionMeta, ShuffleSource};

/// Tasks of a block: few, so that what one task wrote of all partitions is not spread too wide.
const BLOCK: usize = 128;

/// What the tasks of a stage have written.
#[derive(Debug, Default)]
pub(super) struct Written {
    tasks: usize,
    partitions: usize,
    blocks: Vec<Box<[Located]>>,
}

/// A partition in an object.
#[derive(Debug, Clone, Copy, Default)]
struct Located {
    /// Where it ends, and the next one starts.
    end: u64,
    rows: u64,
    checksum: u64,
}

impl Written {
    /// Of so many tasks, so many partitions each.
    pub(super) fn new(tasks: usize, partitions: usize) -> Self {
        Written {
            tasks,
            partitions,
            blocks: vec![Box::default(); tasks.div_ceil(BLOCK)],
        }
    }

    /// Takes note of what a task wrote.
    pub(super) fn put(&mut self, task: u32, partitions: &[PartitionMeta]) {
        let (block, within) = (task as usize / BLOCK, task as usize % BLOCK);
        let tasks = self.tasks.saturating_sub(block * BLOCK).min(BLOCK);
        let Some(cells) = self.blocks.get_mut(block) else {
            return;
        };
        if cells.is_empty() {
            *cells = vec![Located::default(); tasks * self.partitions].into();
        }
        let mut end = 0_u64;
        for (cell, partition) in cells.iter_mut().skip(within).step_by(tasks).zip(partitions) {
            // Sizes are an executor's word: they must not overflow whatever it says.
            end = end.saturating_add(partition.bytes);
            *cell = Located {
                end,
                rows: partition.rows,
                checksum: partition.checksum,
            };
        }
    }

    /// What a task has written of a partition.
    fn at(&self, task: u32, partition: u32) -> Option<&Located> {
        let (block, within) = (task as usize / BLOCK, task as usize % BLOCK);
        let tasks = self.tasks.saturating_sub(block * BLOCK).min(BLOCK);
        let cells = self.blocks.get(block)?;
        cells.get(partition as usize * tasks + within)
    }

    /// Where a partition starts in the object of a task.
    fn start(&self, task: u32, partition: u32) -> u64 {
        let before = partition.checked_sub(1);
        let before = before.and_then(|before| self.at(task, before));
        before.map_or(0, |before| before.end)
    }

    /// Partitions that a task has written.
    pub(super) fn partitions(
        &self,
        task: u32,
        range: Range<u32>,
    ) -> impl Iterator<Item = PartitionMeta> {
        let mut start = self.start(task, range.start);
        range.filter_map(move |partition| {
            let located = self.at(task, partition)?;
            let bytes = located.end - std::mem::replace(&mut start, located.end);
            Some(PartitionMeta {
                bytes,
                rows: located.rows,
                checksum: located.checksum,
            })
        })
    }

    /// All bytes that a task has written.
    pub(super) fn bytes(&self, task: u32) -> u64 {
        self.start(task, u32::try_from(self.partitions).unwrap_or(u32::MAX))
    }

    /// What the object of a task holds of `range`, or nothing if there are no rows.
    pub(super) fn slice(
        &self,
        task: u32,
        attempt: u32,
        range: &Range<u32>,
    ) -> Option<ShuffleSource> {
        let mut rows = range
            .clone()
            .filter_map(|one| Some(self.at(task, one)?.rows));
        if range.end as usize > self.partitions || rows.all(|rows| rows == 0) {
            return None;
        }
        Some(ShuffleSource {
            task,
            attempt,
            offset: self.start(task, range.start),
            partitions: self.partitions(task, range.clone()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Written;
    use kiln_engine::plan::PartitionMeta;

    #[test]
    fn a_slice_starts_where_earlier_partitions_end() {
        let sizes = [64, 0, 128, 64];
        let parts = sizes.map(|bytes| PartitionMeta {
            bytes,
            rows: bytes / 64,
            checksum: 1,
        });
        // The last task of a block that is full, and one of a block that is not.
        for task in [1023, 1030] {
            let mut written = Written::new(1031, 4);
            written.put(task, &parts);
            let source = written.slice(task, 1, &(2..4)).expect("there are rows");
            assert_eq!((source.task, source.attempt, source.offset), (task, 1, 64));
            assert_eq!(source.partitions, parts[2..4]);
            assert_eq!(written.bytes(task), 256);
            assert_eq!(written.slice(task, 1, &(1..2)), None);
            assert_eq!(written.slice(task, 1, &(3..9)), None);
            assert_eq!(written.slice(task - 1, 1, &(0..4)), None);
        }
    }
}
