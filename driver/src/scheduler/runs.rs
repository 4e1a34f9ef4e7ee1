//! What the tasks of a stage have written in order, and where to cut it for those who read it.
//!
//! Of each stretch it is known with which key it begins and how large it is. All stretches of all
//! tasks, in the order of these keys, are cut where partitions of such sizes would be. What is
//! behind the key that a stretch begins with may be in the stretches before it, so a task reads up
//! to one of each producer of which not all is its own.
//!
//! Cuts are between rows of different keys, or of different tasks: see [`Cut`]. So a key that many
//! rows have is cut too, but for what one task has written of it.

use kiln_engine::limits;
use kiln_engine::plan::{Cut, ShuffleSource, Stretch};

use super::grouping;

/// What the tasks of a stage have written in order.
#[derive(Debug, Default)]
pub(super) struct Runs {
    tasks: Vec<Vec<Stretch>>,
}

impl Runs {
    /// Of so many tasks.
    pub(super) fn new(tasks: usize) -> Self {
        Runs {
            tasks: vec![Vec::new(); tasks],
        }
    }

    /// Takes note of what a task wrote.
    pub(super) fn put(&mut self, task: u32, stretches: Vec<Stretch>) {
        if let Some(run) = self.tasks.get_mut(task as usize) {
            *run = stretches;
        }
    }

    /// What a task has written.
    pub(super) fn stretches(&self, task: u32) -> &[Stretch] {
        let run = self.tasks.get(task as usize);
        run.map_or(&[], Vec::as_slice)
    }

    /// Where to cut for tasks of about equal size: as many as the bytes ask for, and `slots` where
    /// they are worth it, but not so many that most of what they read is their neighbours'.
    pub(super) fn cuts(&self, slots: u32) -> Vec<Cut> {
        let runs = (0..).zip(&self.tasks);
        let marks = runs.flat_map(|(task, run)| {
            run.iter().map(move |stretch| {
                let start = Cut::new(stretch.first_key.clone(), task);
                (start, stretch.partition.bytes)
            })
        });
        let mut marks: Vec<(Cut, u64)> = marks.collect();
        let producers = self.tasks.iter().filter(|run| !run.is_empty()).count();
        let most = marks.len() as u64 / limits::RANGE_STRETCHES_MIN / producers.max(1) as u64;
        marks.sort_unstable();
        // What begins at the same place is not cut.
        marks.dedup_by(|again, first| {
            let same = again.0 == first.0;
            first.1 = first.1.saturating_add(if same { again.1 } else { 0 });
            same
        });
        let sizes: Vec<u64> = marks.iter().map(|(_, bytes)| *bytes).collect();
        let tasks = grouping::tasks(grouping::sum(&sizes), slots);
        let tasks = tasks.min(most).max(1);
        let ranges = grouping::group(&sizes, tasks).into_iter();
        let starts = ranges
            .skip(1)
            .filter_map(|range| marks.get(range.start as usize));
        starts.map(|(cut, _)| cut.clone()).collect()
    }

    /// What the object of a task holds of the rows from `start` up to `end`, or nothing.
    pub(super) fn slice(
        &self,
        task: u32,
        attempt: u32,
        (start, end): (Option<&Cut>, Option<&Cut>),
    ) -> Option<ShuffleSource> {
        let run = self.stretches(task);
        let before =
            |cut: &Cut| run.partition_point(|stretch| cut.is_behind(&stretch.first_key, task));
        // The last stretch that begins before the start may reach behind it.
        let first = start.map_or(0, |cut| before(cut).saturating_sub(1));
        let last = end.map_or(run.len(), before);
        let wanted = run.get(first..last).filter(|wanted| !wanted.is_empty())?;
        let bytes = run
            .iter()
            .take(first)
            .map(|stretch| stretch.partition.bytes);
        Some(ShuffleSource {
            task,
            attempt,
            offset: bytes.fold(0, u64::saturating_add),
            partitions: wanted.iter().map(|stretch| stretch.partition).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use kiln_engine::limits::CUT_KEY_BYTES_MAX;
    use kiln_engine::plan::PartitionMeta;

    use super::*;

    const MB: u64 = 1 << 20;

    /// Of each task the keys of its stretches, each of a megabyte.
    fn runs(tasks: &[&[&[u8]]]) -> Runs {
        let mut runs = Runs::new(tasks.len());
        for (task, keys) in (0..).zip(tasks) {
            let stretch = |key: &&[u8]| Stretch {
                partition: PartitionMeta {
                    bytes: MB,
                    rows: 1,
                    checksum: 0,
                },
                first_key: key.to_vec().into(),
            };
            runs.put(task, keys.iter().map(stretch).collect());
        }
        runs
    }

    fn cuts(tasks: &[&[&[u8]]], slots: u32) -> String {
        let cuts = runs(tasks).cuts(slots);
        let text = |cut: &Cut| format!("{}/{}", cut.key.escape_ascii(), cut.task);
        cuts.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_order_is_cut_where_half_of_it_is() {
        let letters: Vec<[u8; 1]> = (b'a'..=b'p').map(|letter| [letter]).collect();
        let keys: Vec<&[u8]> = letters.iter().map(|key| &key[..]).collect();
        assert_eq!(cuts(&[&keys], 1), "");
        assert_eq!(cuts(&[&keys], 2), "i/0");
        assert_eq!(cuts(&[&keys], 4), "e/0 i/0 m/0");
        assert_eq!(cuts(&[&keys], 99), "e/0 i/0 m/0", "of four stretches each");
        assert_eq!(cuts(&[&keys, &keys], 2), "i/0");
        assert_eq!(cuts(&[&keys, &[], &keys[8..]], 3), "i/0 m/0");
        assert_eq!(cuts(&[], 9), "");
        assert_eq!(cuts(&[&[], &[]], 9), "");
    }

    #[test]
    fn a_key_of_many_rows_is_cut_between_tasks() {
        let heavy: &[&[u8]] = &[&b"m"[..]; 16];
        assert_eq!(cuts(&[heavy, heavy], 2), "m/1");
        assert_eq!(cuts(&[heavy; 4], 2), "m/2");
        assert_eq!(cuts(&[heavy; 4], 4), "m/1 m/2 m/3");
        assert_eq!(cuts(&[heavy], 2), "", "one task wrote all of it");
        let long = [b'm'; CUT_KEY_BYTES_MAX];
        let long: &[&[u8]] = &[&long[..]; 8];
        assert_eq!(cuts(&[long, long], 2), "", "keys may differ behind that");
    }

    #[test]
    fn a_slice_has_every_stretch_with_rows_of_the_range() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            // Rows are their keys; a stretch has several.
            let tasks = random.usize(1..5);
            let rows = |random: &mut fastrand::Rng| {
                let count = random.usize(0..60);
                let mut rows: Vec<u8> = (0..count).map(|_| random.u8(0..20)).collect();
                rows.sort_unstable();
                rows
            };
            let rows: Vec<Vec<u8>> = (0..tasks).map(|_| rows(&mut random)).collect();
            let size = random.usize(1..4);
            let mut runs = Runs::new(tasks);
            for (task, rows) in (0..).zip(&rows) {
                let stretch = |part: &[u8]| Stretch {
                    partition: PartitionMeta {
                        bytes: part.len() as u64 * MB,
                        rows: part.len() as u64,
                        checksum: 0,
                    },
                    first_key: vec![part[0]].into(),
                };
                runs.put(task, rows.chunks(size).map(stretch).collect());
            }
            let cuts = runs.cuts(random.u32(1..9));
            assert!(cuts.is_sorted_by(|one, next| one < next), "seed={seed}");
            let mut found = Vec::new();
            for number in 0_usize..=cuts.len() {
                let start = number.checked_sub(1).and_then(|before| cuts.get(before));
                let end = cuts.get(number);
                let mut range = Vec::new();
                for (task, rows) in (0..).zip(&rows) {
                    let Some(source) = runs.slice(task, 0, (start, end)) else {
                        continue;
                    };
                    let first = (source.offset / MB) as usize;
                    let count: u64 = source.partitions.iter().map(|part| part.rows).sum();
                    let read = &rows[first..first + count as usize];
                    let within = |row: &&u8| {
                        let behind = |cut: &Cut| cut.is_behind(&[**row], task);
                        !start.is_some_and(behind) && end.is_none_or(behind)
                    };
                    range.extend(read.iter().filter(within).map(|row| (*row, task)));
                    let outside = read.iter().filter(|row| !within(row)).count();
                    assert!(outside <= 2 * size, "seed={seed}: {outside} of others");
                }
                range.sort_unstable();
                found.extend(range);
            }
            let all = (0..).zip(&rows);
            let all = all.flat_map(|(task, rows)| rows.iter().map(move |row| (*row, task)));
            let mut all: Vec<(u8, u32)> = all.collect();
            all.sort_unstable();
            assert_eq!(found, all, "seed={seed}");
        }
    }
}
