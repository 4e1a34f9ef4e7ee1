//! How long the tasks of a stage take and how fast they read, to tell which are slow.
//!
//! Durations are known of attempts that have won, paces of all that have said how far they are.
//! A slow executor is known by its pace long before the first task that it would have to be
//! compared with has ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use kiln_engine::limits;

use super::event::Millis;

/// Durations, for their median.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// The shorter half; where their number is odd the one in the middle is not in it.
    lower: BinaryHeap<Millis>,
    upper: BinaryHeap<Reverse<Millis>>,
}

impl Durations {
    pub(super) fn add(&mut self, duration: Millis) {
        self.lower.push(duration);
        self.upper.extend(self.lower.pop().map(Reverse));
        if self.lower.len() + 1 < self.upper.len() {
            self.lower.extend(self.upper.pop().map(|Reverse(one)| one));
        }
    }

    /// The one in the middle, the longer one if there are two.
    pub(super) fn median(&self) -> Option<Millis> {
        self.upper.peek().map(|&Reverse(median)| median)
    }
}

/// Bytes that attempts have read, and how long they took for it, added up.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    ms: Millis,
}

impl Pace {
    /// Some more has been read.
    pub(super) fn add(&mut self, bytes: u64, ms: Millis) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.ms = self.ms.saturating_add(ms);
    }

    /// Whether an attempt that is part of this, and has read `bytes` in `ms`, is much slower than
    /// the others are together.
    pub(super) fn is_slow(&self, bytes: u64, ms: Millis) -> bool {
        let others_bytes = u128::from(self.bytes.saturating_sub(bytes));
        let others_ms = self.ms.saturating_sub(ms);
        let long = |ms: Millis| ms >= limits::STRAGGLER_PACE_MS;
        let times = u128::from(limits::STRAGGLER_PACE_TIMES);
        long(ms)
            && long(others_ms)
            && times * u128::from(bytes) * u128::from(others_ms) < others_bytes * u128::from(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::{Durations, Pace};

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut durations = Durations::default();
        assert_eq!(durations.median(), None);
        let mut sorted = Vec::new();
        for _ in 0..500 {
            let one = random.u64(0..40);
            durations.add(one);
            sorted.push(one);
            sorted.sort_unstable();
            let median = sorted[sorted.len() / 2];
            assert_eq!(durations.median(), Some(median), "seed={seed}");
        }
    }

    #[test]
    fn a_pace_is_compared_with_that_of_the_others() {
        let mut pace = Pace::default();
        pace.add(10, 3_000);
        assert!(!pace.is_slow(10, 3_000), "there are no others");
        pace.add(100, 3_000);
        assert!(pace.is_slow(10, 3_000));
        assert!(!pace.is_slow(100, 3_000));
        pace.add(u64::MAX, u64::MAX);
        assert!(!pace.is_slow(10, 0), "it has only begun");
    }
}
