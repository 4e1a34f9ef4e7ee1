//! From the true sizes of shuffle partitions to the tasks that read them.
//!
//! A hash shuffle writes many small partitions, because nobody knows their sizes beforehand. Once
//! its stage is done they are known, and neighbours are put together into tasks of about equal
//! size: as many as the bytes ask for, and enough to give every slot work where the bytes are
//! worth it. A range of partitions is one ranged read per producer.

use std::ops::Range;

use kiln_engine::limits;

/// Cuts partitions of `sizes` bytes into ranges, one for each task. The ranges cover all
/// partitions, in order; there is always at least one.
pub(super) fn group(sizes: &[u64], slots: u32) -> Vec<Range<u32>> {
    group_at_most(sizes, slots, u64::MAX)
}

/// The same, in `most` ranges at most.
pub(super) fn group_at_most(sizes: &[u64], slots: u32, most: u64) -> Vec<Range<u32>> {
    let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    // Sizes are an executor's word: they must not overflow whatever it says.
    let total = sizes
        .iter()
        .fold(0_u64, |sum, &bytes| sum.saturating_add(bytes));
    let tasks = u128::from(wanted(total, slots).min(most).max(1));
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

/// How many tasks `total` bytes are worth.
fn wanted(total: u64, slots: u32) -> u64 {
    let by_size = total.div_ceil(limits::SHUFFLE_TASK_BYTES);
    let worth = total.div_ceil(limits::SHUFFLE_TASK_BYTES_MIN);
    by_size.max(worth.min(u64::from(slots))).max(1)
}

#[cfg(test)]
mod tests {
    use super::group;
    use kiln_engine::limits::SHUFFLE_TASK_BYTES;

    const MB: u64 = 1 << 20;

    fn check(sizes: &[u64], slots: u32, expected: &str) {
        let ranges = group(sizes, slots);
        let text: Vec<_> = ranges
            .iter()
            .map(|r| format!("{}..{}", r.start, r.end))
            .collect();
        assert_eq!(text.join(" "), expected, "sizes={sizes:?} slots={slots}");
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

    #[test]
    fn ranges_cover_everything_and_none_is_too_large() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let count = random.usize(1..200);
            let scale = 1 << random.u32(0..32);
            let sizes: Vec<u64> = (0..count)
                .map(|_| {
                    if random.u8(..) < 64 {
                        0
                    } else {
                        random.u64(0..scale)
                    }
                })
                .collect();
            let ranges = group(&sizes, random.u32(0..64));
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
            assert_eq!(next as usize, count, "seed={seed} sizes={sizes:?}");
        }
    }
}
