//! A share of a whole, compared without division.
//!
//! Load of an executor (running of slots) and share of a job (running per weight) put things in
//! order, and the order has to be exact: two that are equal are told apart by what comes next to
//! the ratio, not by a digit that was rounded.

use std::cmp::Ordering;

/// `part / whole`; `whole` is not zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratio {
    part: u32,
    whole: u32,
}

impl Ratio {
    pub(super) fn new(part: u32, whole: u32) -> Self {
        Ratio {
            part,
            whole: whole.max(1),
        }
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u64::from(self.part) * u64::from(other.whole);
        let right = u64::from(other.part) * u64::from(self.whole);
        left.cmp(&right)
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ratio {}

#[cfg(test)]
mod tests {
    use super::Ratio;

    #[test]
    fn ratios_are_compared_exactly() {
        assert_eq!(Ratio::new(1, 2), Ratio::new(2, 4));
        assert!(Ratio::new(1, 3) < Ratio::new(2, 5));
        assert!(Ratio::new(0, 7) < Ratio::new(1, u32::MAX));
        assert!(Ratio::new(u32::MAX - 1, u32::MAX) < Ratio::new(1, 1));
    }
}
