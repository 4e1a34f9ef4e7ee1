//! The tasks of a stage as they are written down, and tasks made from that again.
//!
//! Parts follow one another, so that it is enough to know where each ends. What a task reads
//! follows from its number and from nothing that may have changed since: a driver that takes a job
//! up makes the very same tasks.

use kiln_engine::plan::Deal;

use super::task::Part;

/// Where tasks end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Where the range of each ends: partitions, or producing tasks.
    pub(super) ranges: Vec<u32>,
    /// For each that has a slice of the last partition of its range, the producing task with which
    /// the slice ends; 0 for the others. Nothing at all where there are no slices.
    pub(super) producers: Vec<u32>,
}

impl Ends {
    /// Where `parts` of shuffles end; those of an order have cuts instead.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a Part>) -> Self {
        let end = |part: &Part| match part {
            Part::Splits(_) | Part::Range(_) => None,
            Part::Partitions(range) | Part::Producers(range) => Some((range.end, 0)),
            Part::Slice {
                partition,
                producers,
            } => Some((partition + 1, producers.end)),
        };
        let (ranges, mut producers): (Vec<u32>, Vec<u32>) = parts.filter_map(end).unzip();
        if producers.iter().all(|&end| end == 0) {
            producers.clear();
        }
        Ends { ranges, producers }
    }

    /// The parts that end there; nothing if there are none that do.
    pub(super) fn into_parts(self, deal: Deal) -> Option<Vec<Part>> {
        let Ends { ranges, producers } = self;
        if !producers.is_empty() && (producers.len() != ranges.len() || deal != Deal::Partitions) {
            return None;
        }
        let producers = producers.into_iter().chain(std::iter::repeat(0));
        let mut parts = Vec::with_capacity(ranges.len());
        // Where the last part ended.
        let (mut range, mut slice) = (0, 0);
        for (end, producer) in ranges.into_iter().zip(producers) {
            parts.push(match deal {
                Deal::Partitions if producer > 0 => {
                    let start = if end == range { slice } else { 0 };
                    let follows = end >= range && producer > start;
                    Part::Slice {
                        partition: end.checked_sub(1).filter(|_| follows)?,
                        producers: start..producer,
                    }
                }
                Deal::Gather | Deal::Partitions | Deal::Each => Part::Partitions(range..end),
                Deal::Producers => Part::Producers(range..end),
                Deal::Ranges => return None,
            });
            (range, slice) = (end, producer);
        }
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_parts(random: &mut fastrand::Rng) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut next = 0;
        for _ in 0..random.u32(0..8) {
            if random.bool() {
                let end = next + random.u32(1..5);
                parts.push(Part::Partitions(next..end));
                next = end;
                continue;
            }
            // Empty partitions before one that is split are nobody's.
            let partition = next + random.u32(0..2);
            let mut first = 0;
            for _ in 0..random.u32(1..4) {
                let end = first + random.u32(1..5);
                parts.push(Part::Slice {
                    partition,
                    producers: first..end,
                });
                first = end;
            }
            next = partition + 1;
        }
        parts
    }

    #[test]
    fn tasks_are_made_again_as_they_were() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..1_000 {
            let parts = random_parts(&mut random);
            let made = Ends::of(parts.iter()).into_parts(Deal::Partitions);
            assert_eq!(made.as_ref(), Some(&parts), "seed={seed}");
        }
        let parts = vec![Part::Producers(0..3), Part::Producers(3..4)];
        let ends = Ends::of(parts.iter());
        assert_eq!(ends.producers, [0; 0]);
        assert_eq!(ends.into_parts(Deal::Producers), Some(parts));
    }

    #[test]
    fn ends_that_no_tasks_have_are_refused() {
        let parts = |deal, ranges: &[u32], producers: &[u32]| {
            let ends = Ends {
                ranges: ranges.to_vec(),
                producers: producers.to_vec(),
            };
            ends.into_parts(deal)
        };
        assert!(parts(Deal::Partitions, &[1, 1], &[2, 4]).is_some());
        assert_eq!(parts(Deal::Partitions, &[1, 1], &[2]), None);
        assert_eq!(parts(Deal::Partitions, &[1, 1], &[2, 2]), None);
        assert_eq!(parts(Deal::Partitions, &[0], &[2]), None);
        assert_eq!(parts(Deal::Producers, &[1, 1], &[2, 4]), None);
        assert_eq!(parts(Deal::Gather, &[1], &[2]), None);
    }
}
