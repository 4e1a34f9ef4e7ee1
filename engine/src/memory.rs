//! One budget of bytes per process, and reservations against it.
//!
//! Whatever can grow with the input reserves before it allocates. A refused reservation is not a
//! failure by itself: the operator flushes, spills or waits, and only when none of these is
//! possible does the attempt fail with the operator's name and the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::limits;

/// The bytes that one process may reserve, shared by all of its tasks.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(MemoryBudget {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        })
    }

    /// The bytes that may be reserved in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were reserved at any time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// An empty reservation for `owner`, named in errors.
    pub fn reserve(self: &Arc<Self>, owner: &'static str) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            owner,
            bytes: 0,
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// Bytes reserved by one owner; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    owner: &'static str,
    bytes: u64,
}

impl Reservation {
    /// Reserves `bytes` more; false, and nothing changed, when the budget has not got them.
    #[must_use]
    pub fn try_grow(&mut self, bytes: u64) -> bool {
        let taken = self.budget.take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// `Exhausted`, naming owner, request and budget.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        if self.try_grow(bytes) {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "{} needs more memory than the budget has left: raise --memory \
             requested={bytes} held={} used={} limit={}",
            self.owner,
            self.bytes,
            self.budget.used(),
            self.budget.limit
        )))
    }

    /// Makes the reservation `bytes` large, up or down; false, and nothing changed, when the
    /// budget has not got the difference.
    #[must_use]
    pub fn try_resize(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            return self.try_grow(bytes - self.bytes);
        }
        self.shrink(self.bytes - bytes);
        true
    }

    /// Gives back `bytes`, at most what is held.
    pub fn shrink(&mut self, bytes: u64) {
        let given = bytes.min(self.bytes);
        self.bytes -= given;
        self.budget.used.fetch_sub(given, Ordering::Relaxed);
    }

    /// The bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over what `other` holds, of the same budget.
    pub fn absorb(&mut self, mut other: Reservation) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "one budget");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// The default budget: a share of the memory of the container, or of the machine where there is
/// no container limit. Reads cgroup v2, then v1, then `/proc/meminfo`.
pub fn default_limit() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find(|line| line.starts_with("MemTotal:"))?
            .to_owned();
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    });
    let container = read("/sys/fs/cgroup/memory.max")
        .and_then(number)
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes").and_then(number));
    let total = match (machine, container) {
        (Some(machine), Some(container)) => machine.min(container),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => 4 << 30,
    };
    total / 100 * limits::MEMORY_SHARE_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_refused_past_the_limit_and_given_back_on_drop() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve("first");
        assert!(first.try_grow(60));
        let mut second = budget.reserve("second");
        assert!(!second.try_grow(41));
        assert!(second.try_grow(40));
        let error = second.grow(1).expect_err("the budget is used up");
        assert!(error.message().contains("second") && error.message().contains("limit=100"));
        drop(first);
        assert_eq!((budget.used(), budget.peak()), (40, 100));
        assert!(second.try_resize(100) && second.try_resize(10));
        assert_eq!(budget.used(), 10);
    }
}
