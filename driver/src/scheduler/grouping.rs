//! From the true sizes of shuffle partitions to the tasks that read them.
//!
//! A hash shuffle writes many small partitions, because nobody knows their sizes beforehand. Once
//! its stage is done they are known, and neighbours are put together into tasks of about equal
//! size: as many as the bytes ask for, and enough to give every slot work where the bytes are
//! worth it. A range of partitions is one ranged read per producer.
//!
//! A partition that is much larger than such a task has a key that many rows have, and no number
//! of partitions takes that apart. Where the stage allows it, the rows of such a partition are
//! dealt out to several tasks by who produced them, and each of these tasks reads the whole
//! partition of the sides that are looked up in. Rows of one producer stay together: its part of a
//! partition is one ranged read, with one checksum.

use std::ops::Range;

use kiln_engine::limits;

use super::task::Part;

/// How much of one partition a stage reads: bytes as they are stored, or as its rows take in
/// memory where that is more. A value that half of all rows have is next to nothing once it is
/// compressed, and its rows are as much work as others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PartitionSize {
    /// Bytes of the rows that flow through the stage.
    pub(super) source: u64,
    /// Bytes of the sides that were brought together with them.
    pub(super) sides: u64,
}

impl PartitionSize {
    /// Bytes of both.
    pub(super) fn all(self) -> u64 {
        self.source.saturating_add(self.sides)
    }
}

/// How many tasks `total` bytes, as stored, are worth.
pub(super) fn tasks(total: u64, slots: u32) -> u64 {
    let by_size = total.div_ceil(limits::SHUFFLE_TASK_BYTES);
    let worth = total.div_ceil(limits::SHUFFLE_TASK_BYTES_MIN);
    by_size.max(worth.min(u64::from(slots))).max(1)
}

/// Deals partitions out to about so many `tasks`, where one that is too large for a task may be
/// split: by its `producers`, which are the bytes that each wrote of it. The parts follow one
/// another; what none of them covers is empty.
pub(super) fn deal_out(
    partitions: &[PartitionSize],
    tasks: u64,
    producers: impl Fn(u32) -> Vec<u64>,
) -> Vec<Part> {
    let sizes: Vec<u64> = partitions.iter().map(|one| one.all()).collect();
    let total = sum(&sizes);
    let mut parts = Vec::new();
    let mut start = 0;
    for (partition, bytes) in (0..).zip(partitions) {
        let slices = share(bytes.all(), total, tasks).min(slices_max(*bytes));
        if slices < 2 {
            continue;
        }
        let slices = group(&producers(partition), slices);
        if slices.len() < 2 {
            continue;
        }
        parts.extend(whole(&sizes, start..partition, (total, tasks)));
        parts.extend(slices.into_iter().map(|producers| Part::Slice {
            partition,
            producers,
        }));
        start = partition + 1;
    }
    let end = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    parts.extend(whole(&sizes, start..end, (total, tasks)));
    if parts.is_empty() {
        parts.push(Part::Partitions(0..end));
    }
    parts
}

/// The tasks of partitions in `range`, none of which is split; none if they are empty.
fn whole(
    sizes: &[u64],
    range: Range<u32>,
    (total, tasks): (u64, u64),
) -> impl Iterator<Item = Part> {
    let sizes = sizes.get(range.start as usize..range.end as usize);
    let sizes = sizes.unwrap_or_default();
    let bytes = sum(sizes);
    let ranges = match bytes {
        0 => Vec::new(),
        _ => group(sizes, share(bytes, total, tasks).max(1)),
    };
    let first = range.start;
    let part = move |range: Range<u32>| Part::Partitions(first + range.start..first + range.end);
    ranges.into_iter().map(part)
}

/// In how many slices a partition may be split at most: together they read less than twice its
/// bytes, though each reads all of its sides.
fn slices_max(partition: PartitionSize) -> u64 {
    (partition.source / partition.sides.max(1)).saturating_add(1)
}

/// How many of `tasks` that have `total` bytes together `bytes` of them are worth, rounded.
fn share(bytes: u64, total: u64, tasks: u64) -> u64 {
    let (bytes, total) = (u128::from(bytes), u128::from(total).max(1));
    let share = (2 * bytes * u128::from(tasks) + total) / (2 * total);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Cuts what has `sizes` bytes into ranges of about equal bytes, one for each of about so many
/// `tasks`. The ranges cover all, in order; there is always at least one.
pub(super) fn group(sizes: &[u64], tasks: u64) -> Vec<Range<u32>> {
    let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    let (total, tasks) = (sum(sizes), u128::from(tasks));
    let mut ranges = Vec::new();
    let (mut start, mut before, mut current) = (0, 0_u128, 0_u128);
    for (partition, &bytes) in (0..count).zip(sizes) {
        // The task in whose share of the bytes the middle of this partition lies.
        let middle = 2 * before + u128::from(bytes);
        let share = (middle * tasks / (2 * u128::from(total)).max(1)).min(tasks - 1);
        if share > current && bytes > 0 {
            if before > 0 {
                ranges.push(start..partition);
                start = partition;
            }
            current = share;
        }
        before += u128::from(bytes);
    }
    ranges.push(start..count);
    ranges
}

/// Ranges of partitions of which each has one that has rows, where any has; the ranges cover all,
/// in order, and there is always at least one.
pub(super) fn each(has_rows: impl Iterator<Item = bool>) -> Vec<Range<u32>> {
    let (mut ranges, mut count, mut full) = (Vec::new(), 0, false);
    let mut start = 0;
    for (partition, has_rows) in (0..).zip(has_rows) {
        if has_rows && full {
            ranges.push(start..partition);
            start = partition;
        }
        full |= has_rows;
        count = partition + 1;
    }
    ranges.push(start..count);
    ranges
}

/// All bytes. Sizes are an executor's word: they must not overflow whatever it says.
pub(super) fn sum(sizes: &[u64]) -> u64 {
    sizes
        .iter()
        .fold(0, |sum, &bytes| sum.saturating_add(bytes))
}

#[cfg(test)]
mod tests {
    use super::{PartitionSize, deal_out, each, group, sum, tasks};
    use crate::scheduler::task::Part;
    use kiln_engine::limits::SHUFFLE_TASK_BYTES;

    const MB: u64 = 1 << 20;

    fn check(sizes: &[u64], slots: u32, expected: &str) {
        let ranges = group(sizes, tasks(sum(sizes), slots));
        let text: Vec<_> = ranges
            .iter()
            .map(|r| format!("{}..{}", r.start, r.end))
            .collect();
        assert_eq!(text.join(" "), expected, "sizes={sizes:?} slots={slots}");
    }

    #[test]
    fn each_partition_with_rows_is_alone_among_empty_ones() {
        let ranges = |has_rows: &[bool]| each(has_rows.iter().copied());
        assert_eq!(ranges(&[true, true, true]), [0..1, 1..2, 2..3]);
        assert_eq!(ranges(&[false, true, false, true, false]), [0..3, 3..5]);
        assert_eq!(ranges(&[false, false]), vec![0..2]);
        assert_eq!(ranges(&[]), vec![0..0]);
    }

    #[test]
    fn partitions_are_put_together_by_true_size() {
        check(&[0, 0, 0], 4, "0..3");
        check(&[], 4, "0..0");
        check(&[100, 100, 100, 100], 4, "0..4");
        check(&[MB, MB, MB, MB], 0, "0..4");
        check(&[MB, MB, MB, MB], 2, "0..2 2..4");
        check(&[MB, MB, MB, MB], 9, "0..1 1..2 2..3 3..4");
        check(&[0, 9 * MB, 0, 0, 9 * MB, 0], 2, "0..4 4..6");
        check(&[90 * MB, MB, MB, MB, MB, MB], 2, "0..1 1..6");
        check(&[100 * MB; 6], 1, "0..1 1..2 2..4 4..5 5..6");
        check(&[200 * MB; 3], 1, "0..1 1..2 2..3");
        check(&[1000 * MB, MB], 1, "0..1 1..2");
    }

    /// Partitions of so many megabytes, of the source and of sides, each written by `producers` in
    /// equal parts.
    fn check_split(sizes: &[(u64, u64)], slots: u32, producers: u64, expected: &str) {
        let partition = |&(source, sides): &(u64, u64)| PartitionSize {
            source: source * MB,
            sides: sides * MB,
        };
        let partitions: Vec<_> = sizes.iter().map(partition).collect();
        let written = |partition: u32| {
            let bytes = partitions[partition as usize].source / producers;
            vec![bytes; producers as usize]
        };
        let all = partitions.iter().map(|partition| partition.all()).sum();
        let parts = deal_out(&partitions, tasks(all, slots), written).into_iter();
        let text: Vec<_> = parts
            .map(|part| match part {
                Part::Slice {
                    partition,
                    producers,
                } => format!("{partition}({}..{})", producers.start, producers.end),
                Part::Partitions(range) => format!("{}..{}", range.start, range.end),
                other => panic!("not of partitions: {other:?}"),
            })
            .collect();
        assert_eq!(text.join(" "), expected, "sizes={sizes:?} slots={slots}");
    }

    #[test]
    fn a_partition_that_is_too_large_is_split_by_producers() {
        // As long as all are of about one size nothing is split.
        let even = [(10, 1), (12, 1), (11, 1), (9, 1)];
        check_split(&even, 4, 6, "0..1 1..2 2..3 3..4");
        check_split(&[(0, 0), (0, 0)], 4, 6, "0..2");
        check_split(&[], 4, 6, "0..0");
        // One has half of all rows.
        let half = [(5, 1), (5, 1), (36, 1), (5, 1), (5, 1), (5, 1), (5, 1)];
        check_split(&half, 4, 8, "0..2 2(0..4) 2(4..8) 3..7");
        let slices = "2(0..2) 2(2..4) 2(4..6) 2(6..8)";
        check_split(&half, 8, 8, &format!("0..2 {slices} 3..4 4..6 6..7"));
        // There are only so many producers.
        check_split(&half, 8, 2, "0..2 2(0..1) 2(1..2) 3..4 4..6 6..7");
        check_split(&half, 4, 1, "0..2 2..3 3..4 4..7");
        // Empty partitions beside it are nobody's.
        check_split(&[(0, 0), (40, 1), (0, 0)], 2, 3, "1(0..1) 1(1..3)");
        // Each slice reads all of the sides: that must not be more than what it is there for.
        check_split(&[(40, 40), (4, 4)], 8, 8, "0(0..4) 0(4..8) 1..2");
        check_split(&[(30, 50), (4, 4)], 8, 8, "0..1 1..2");
        // More than one, one after the other.
        let (one, other) = ("0(0..1) 0(1..3) 0(3..4)", "1(0..1) 1(1..3) 1(3..4)");
        check_split(&[(300, 1), (300, 1)], 2, 4, &format!("{one} {other}"));
    }

    fn random_sizes(random: &mut fastrand::Rng) -> Vec<u64> {
        let scale = 1 << random.u32(0..32);
        let size = |random: &mut fastrand::Rng| match random.u8(..) {
            0..64 => 0,
            64..72 => random.u64(0..scale) * 50,
            _ => random.u64(0..scale),
        };
        let count = random.usize(1..200);
        (0..count).map(|_| size(random)).collect()
    }

    #[test]
    fn ranges_cover_everything_and_none_is_too_large() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let sizes = random_sizes(&mut random);
            let ranges = group(&sizes, tasks(sum(&sizes), random.u32(0..64)));
            let largest = sizes.iter().max().copied().unwrap_or_default();
            let mut next = 0;
            for range in &ranges {
                assert_eq!(range.start, next, "seed={seed} sizes={sizes:?}");
                next = range.end;
                let bytes: u64 = sizes[range.start as usize..range.end as usize].iter().sum();
                assert!(
                    bytes <= SHUFFLE_TASK_BYTES + largest,
                    "seed={seed} sizes={sizes:?}"
                );
                assert!(
                    bytes > 0 || ranges.len() == 1,
                    "seed={seed} sizes={sizes:?}"
                );
            }
            assert_eq!(next as usize, sizes.len(), "seed={seed} sizes={sizes:?}");
        }
    }

    #[test]
    fn every_byte_is_dealt_out_once_and_no_slice_is_large() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let producers = random.usize(1..30);
            let sizes = random_sizes(&mut random);
            let written: Vec<Vec<u64>> = sizes
                .iter()
                .map(|&size| (0..producers).map(|_| random.u64(0..=size)).collect())
                .collect();
            let partitions: Vec<PartitionSize> = written
                .iter()
                .map(|bytes| PartitionSize {
                    source: bytes.iter().sum(),
                    sides: bytes[0] / 8,
                })
                .collect();
            let all = partitions.iter().map(|partition| partition.all()).sum();
            let tasks = tasks(all, random.u32(0..64));
            let parts = deal_out(&partitions, tasks, |one| written[one as usize].clone());
            let mut dealt = vec![0; sizes.len()];
            let mut next = (0, 0);
            for part in &parts {
                match part {
                    Part::Partitions(range) => {
                        assert!(range.start >= next.0, "seed={seed} {parts:?}");
                        for one in range.clone() {
                            dealt[one as usize] += partitions[one as usize].source;
                        }
                        next = (range.end, 0);
                    }
                    Part::Slice {
                        partition,
                        producers,
                    } => {
                        let first = if next.0 == partition + 1 { next.1 } else { 0 };
                        assert_eq!(producers.start, first, "seed={seed} {parts:?}");
                        assert!(partition + 1 >= next.0, "seed={seed} {parts:?}");
                        let bytes = &written[*partition as usize];
                        let bytes = &bytes[producers.start as usize..producers.end as usize];
                        let (largest, bytes) = (bytes.iter().max(), bytes.iter().sum::<u64>());
                        let all = partitions[*partition as usize].source;
                        // Two slices at least, of about one size.
                        let most = all / 2 + largest.copied().unwrap_or_default();
                        assert!(bytes <= most, "seed={seed} {parts:?}");
                        dealt[*partition as usize] += bytes;
                        next = (partition + 1, producers.end);
                    }
                    other => panic!("not of partitions: {other:?}"),
                }
            }
            let expected: Vec<u64> = partitions.iter().map(|one| one.source).collect();
            assert_eq!(dealt, expected, "seed={seed} {parts:?}");
        }
    }
}
