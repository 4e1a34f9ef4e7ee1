//! Keys that many rows have, among rows that are passed on without grouping.
//!
//! Keys that hardly repeat are not worth grouping before a shuffle, but one that a tenth of all
//! rows have is: passed on row by row, those rows would all go to one task. So while rows are
//! passed on, their keys vote. Each key has one of many slots by its hash, and each slot keeps a
//! majority vote (Boyer and Moore, *MJRTY*, 1981): a key that has more rows than all others of its
//! slot together is the one that stays, with a lead that grows. A few kilobytes find every key that
//! has some thousandth of all rows, whenever its rows come. A mistake costs nothing but a group of
//! few rows.

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;

/// Keys that are told apart, a power of two: some kilobytes, which stay in the first-level cache.
const SLOTS: usize = 1024;

/// How far a key has to lead for its rows to be grouped.
const LEAD_MIN: u32 = 64;

/// The longest lead: a key whose rows have come to their end gives way after as many others.
const LEAD_MAX: u32 = 1024;

/// While there is no such key, one batch of so many is looked at.
const LOOKED_AT: u32 = 8;

/// The votes of one lane.
pub(super) struct HotKeys {
    slots: Box<[Slot]>,
    /// There was such a key in the batch that was looked at last.
    found: bool,
    /// Batches that have come since.
    passed: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u64,
    lead: u32,
}

impl HotKeys {
    pub(super) fn new() -> Self {
        HotKeys {
            slots: vec![Slot::default(); SLOTS].into(),
            found: false,
            passed: 0,
        }
    }

    /// Whether the batch that comes next is to be looked at.
    pub(super) fn is_due(&mut self) -> bool {
        self.passed += 1;
        let due = self.found || self.passed >= LOOKED_AT;
        if due {
            self.passed = 0;
        }
        due
    }

    /// The rows, by the hashes of their keys, that have a key which many have; none if no row has.
    pub(super) fn rows(&mut self, hashes: &[u64]) -> Option<BooleanArray> {
        let slots = &mut self.slots;
        let is_hot = |row: usize| {
            let hash = hashes[row];
            // Low bits: the upper ones are alike in all rows that a task reads by partition.
            let slot = &mut slots[hash as usize % SLOTS];
            if slot.hash == hash {
                slot.lead = (slot.lead + 1).min(LEAD_MAX);
            } else if slot.lead == 0 {
                *slot = Slot { hash, lead: 1 };
            } else {
                slot.lead -= 1;
            }
            slot.hash == hash && slot.lead >= LEAD_MIN
        };
        let rows = BooleanBuffer::collect_bool(hashes.len(), is_hot);
        self.found = rows.count_set_bits() > 0;
        self.found.then(|| BooleanArray::new(rows, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `rows` batches of a thousand rows are taken for such that have a common key,
    /// where one of `nth` rows has it, and how many of the rows that do have it.
    fn found(nth: usize, batches: usize) -> (usize, usize) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut hot = HotKeys::new();
        let (mut others, mut hits) = (0, 0);
        for _ in 0..batches {
            let hashes: Vec<u64> = (0..1000)
                .map(|row| if row % nth == 0 { 42 } else { random.u64(..) })
                .collect();
            let Some(rows) = hot.rows(&hashes) else {
                continue;
            };
            let taken = (0..1000).filter(|row| rows.value(*row));
            let (own, foreign): (Vec<_>, Vec<_>) = taken.partition(|row| row % nth == 0);
            hits += own.len();
            others += foreign.len();
        }
        (hits, others)
    }

    #[test]
    fn a_key_that_many_rows_have_is_found_and_no_other() {
        assert_eq!(found(2, 100), (50_000 - 63, 0));
        let (hits, others) = found(100, 1000);
        assert!(hits > 9_500, "hits={hits}");
        assert_eq!(others, 0);
        assert_eq!(found(1_000_000, 1000), (0, 0));
    }

    #[test]
    fn a_key_that_comes_late_takes_the_place_of_one_that_is_gone() {
        let mut hot = HotKeys::new();
        let taken = |hot: &mut HotKeys, hash: u64| {
            let rows = hot.rows(&[hash; 4000]);
            rows.map_or(0, |rows| rows.true_count())
        };
        assert_eq!(taken(&mut hot, 1), 4000 - 63);
        let other = 1 + SLOTS as u64;
        assert_eq!(
            taken(&mut hot, other),
            4000 - 1024 - 63,
            "it has the same slot"
        );
        assert!(hot.is_due(), "there is one");
        assert_eq!(hot.rows(&[3, 4, 5]), None);
        let looked_at = (0..16).filter(|_| hot.is_due()).count();
        assert_eq!(looked_at, 2, "there is none any more");
    }
}
