//! One budget of bytes per process, and reservations against it.
//!
//! Whatever can grow with the input reserves before it allocates. A refused reservation is not a
//! failure by itself: the operator flushes, spills or waits, and only when none of these is
//! possible does the attempt fail with the operator's name and the figures.
//!
//! Each attempt has a *share* of the process's budget. An attempt alone may take all of it. Once
//! another is refused that has less than an equal part, those that have more are refused too: they
//! spill, and what they give back is there for the one that is short of it. So nobody waits for
//! anybody, and the first to come does not keep everything.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::limits;

/// The bytes that one process may reserve, or one attempt's share of them.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    /// What of it nobody may reserve now who can do without.
    withheld: AtomicU64,
    /// Whether somebody says what is to be withheld.
    watched: AtomicBool,
    used: AtomicU64,
    peak: AtomicU64,
    /// Shares that there are, and those of them that were refused what is theirs.
    shares: AtomicU64,
    short: AtomicU64,
    share: Option<Share>,
    disk: Arc<DiskBudget>,
}

/// What a share has of the budget that it is a part of.
#[derive(Debug)]
struct Share {
    whole: Arc<MemoryBudget>,
    /// It was refused less than an equal part, and has got nothing since.
    short: AtomicBool,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, with as much room on disk as there is.
    pub fn new(limit: u64) -> Arc<Self> {
        Self::with_disk(limit, DiskBudget::new(u64::MAX, None))
    }

    /// A budget of `limit` bytes, beside what does not fit into it on disk.
    pub fn with_disk(limit: u64, disk: Arc<DiskBudget>) -> Arc<Self> {
        Arc::new(MemoryBudget {
            limit,
            withheld: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            shares: AtomicU64::new(0),
            short: AtomicU64::new(0),
            share: None,
            disk,
        })
    }

    /// The share of one attempt. Given back when dropped.
    pub fn share(self: &Arc<Self>) -> Arc<Self> {
        self.shares.fetch_add(1, Ordering::Relaxed);
        Arc::new(MemoryBudget {
            limit: self.limit,
            withheld: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            shares: AtomicU64::new(0),
            short: AtomicU64::new(0),
            share: Some(Share {
                whole: Arc::clone(self),
                short: AtomicBool::new(false),
            }),
            disk: Arc::clone(&self.disk),
        })
    }

    /// Where rows go for which there is no memory.
    pub fn disk(&self) -> &Arc<DiskBudget> {
        &self.disk
    }

    /// The bytes that may be reserved in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that nobody has reserved yet, of the whole budget.
    pub fn free(&self) -> u64 {
        let whole = self.whole();
        whole.allowed().saturating_sub(whole.used())
    }

    /// Keeps `bytes` of the budget, and at most half of it, until the next call from those who can
    /// spill instead ([`Reservation::try_grow`]): for what the process has without a reservation.
    /// Nobody loses what it has reserved, and who cannot go on otherwise still gets what is there.
    pub fn withhold(&self, bytes: u64) {
        self.withheld
            .store(bytes.min(self.limit / 2), Ordering::Relaxed);
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Whether somebody keeps the process near the budget, by [`withhold`](Self::withhold).
    pub(crate) fn is_watched(&self) -> bool {
        self.whole().watched.load(Ordering::Relaxed)
    }

    fn whole(&self) -> &MemoryBudget {
        self.share.as_ref().map_or(self, |share| &share.whole)
    }

    /// The bytes that may be reserved in all now by those who can do without.
    fn allowed(&self) -> u64 {
        self.limit - self.withheld.load(Ordering::Relaxed)
    }

    /// The bytes that each who spills may hold without asking, where it is refused more: so that
    /// it always gets on, and what it writes is worth it.
    pub fn unasked(&self) -> u64 {
        (self.limit / limits::UNASKED_SHARE)
            .clamp(limits::UNASKED_BYTES_MIN, limits::UNASKED_BYTES_MAX)
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

    /// Takes `bytes` if no more than `allowed` of the whole budget are taken then.
    fn take(&self, bytes: u64, allowed: u64) -> bool {
        match &self.share {
            None => self.count(bytes, allowed),
            Some(share) => {
                let taken = share.take(self.used().saturating_add(bytes), bytes, allowed);
                taken && self.count(bytes, self.limit)
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(share) = &self.share {
            share.whole.give_back(bytes);
        }
    }

    fn count(&self, bytes: u64, allowed: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= allowed)
            });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

impl Share {
    /// Takes `bytes`, with which the share will have `wanted`, of `allowed`.
    fn take(&self, wanted: u64, bytes: u64, allowed: u64) -> bool {
        let whole = &self.whole;
        let equal_part = allowed / whole.shares.load(Ordering::Relaxed).max(1);
        let within = wanted <= equal_part;
        let own = || u64::from(self.short.load(Ordering::Relaxed));
        let others_short = || whole.short.load(Ordering::Relaxed) > own();
        let taken = (within || !others_short()) && whole.count(bytes, allowed);
        if within {
            self.set_short(!taken);
        }
        taken
    }

    fn set_short(&self, short: bool) {
        let before = self.short.swap(short, Ordering::Relaxed);
        match (before, short) {
            (false, true) => self.whole.short.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.whole.short.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_short(false);
        self.whole.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of local disk that one process may take for rows that do not fit into memory.
#[derive(Debug)]
pub struct DiskBudget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    directory: PathBuf,
}

impl DiskBudget {
    /// A budget of `limit` bytes in `directory`, or in the system's directory of temporary files.
    pub fn new(limit: u64, directory: Option<PathBuf>) -> Arc<Self> {
        Arc::new(DiskBudget {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            directory: directory.unwrap_or_else(std::env::temp_dir),
        })
    }

    /// Where files are.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// The bytes taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were taken at any time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Takes `bytes`.
    ///
    /// # Errors
    /// `Exhausted`, with the figures, if the budget has not got them.
    fn take(&self, bytes: u64) -> Result<()> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            });
        let before = taken.map_err(|used| {
            Error::exhausted(format!(
                "rows that do not fit into memory need more disk than is allowed: raise \
                 --spill-limit or --memory requested={bytes} used={used} limit={}",
                self.limit
            ))
        })?;
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of local disk taken by one file; given back when dropped.
#[derive(Debug)]
pub(crate) struct DiskRoom {
    disk: Arc<DiskBudget>,
    bytes: u64,
}

impl DiskRoom {
    /// Room for a file that is empty.
    pub(crate) fn new(disk: &Arc<DiskBudget>) -> Self {
        DiskRoom {
            disk: Arc::clone(disk),
            bytes: 0,
        }
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// `Exhausted`, with the figures, if the budget has not got them.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.disk.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// The bytes taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the file is.
    pub(crate) fn directory(&self) -> &PathBuf {
        self.disk.directory()
    }
}

impl Drop for DiskRoom {
    fn drop(&mut self) {
        self.disk.give_back(self.bytes);
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
        self.take(bytes, self.budget.whole().allowed())
    }

    fn take(&mut self, bytes: u64, allowed: u64) -> bool {
        let taken = self.budget.take(bytes, allowed);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Reserves `bytes` more, for who cannot go on without them.
    ///
    /// # Errors
    /// `Exhausted`, naming owner, request and budget.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        if self.take(bytes, self.budget.limit) {
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
        self.budget.give_back(given);
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

    #[test]
    fn what_is_withheld_is_refused_until_it_is_not_and_at_most_half() {
        let budget = MemoryBudget::new(100);
        let share = budget.share();
        let mut held = share.reserve("held");
        assert!(held.try_grow(60));
        budget.withhold(30);
        assert_eq!((budget.free(), budget.limit()), (10, 100));
        assert!(!held.try_grow(11) && held.try_grow(10));
        budget.withhold(90);
        assert_eq!((budget.free(), held.bytes()), (0, 70));
        assert!(!held.try_grow(1));
        held.shrink(30);
        assert!(held.try_grow(10), "half of the budget is left");
        assert!(!held.try_grow(1));
        held.grow(50).expect("what is withheld is there in need");
        held.grow(1).expect_err("the budget is used up");
        held.shrink(50);
        budget.withhold(0);
        assert!(held.try_grow(50));
    }

    #[test]
    fn who_is_short_itself_does_not_count_as_another_that_is() {
        let whole = MemoryBudget::new(100);
        let (first, second) = (whole.share(), whole.share());
        let (mut one, mut other) = (first.reserve("one"), second.reserve("other"));
        assert!(one.try_grow(40) && other.try_grow(55));
        assert!(!one.try_grow(8), "it is short now");
        whole.withhold(20);
        other.shrink(55);
        assert!(one.try_grow(8), "it has more than an equal part, but alone");
    }

    #[test]
    fn whoever_has_more_than_its_part_gives_way_to_one_that_is_short() {
        let whole = MemoryBudget::new(100);
        let first = whole.share();
        let mut large = first.reserve("first");
        assert!(large.try_grow(90), "alone it may have nearly all");
        let second = whole.share();
        let mut small = second.reserve("second");
        assert!(small.try_grow(10));
        assert!(!small.try_grow(20), "nothing is left");
        large.shrink(30);
        assert!(!large.try_grow(1), "the other one is short");
        assert!(small.try_grow(20));
        assert!(large.try_grow(10), "nobody is short any more");
        assert!(!small.try_grow(30), "half of all, but not there");
        drop((small, second));
        assert!(large.try_grow(30), "alone again");
        assert_eq!((first.used(), whole.used(), whole.peak()), (100, 100, 100));
    }

    #[test]
    fn a_disk_budget_says_what_is_too_much() {
        let disk = DiskBudget::new(100, None);
        disk.take(60).expect("room");
        let error = disk.take(41).expect_err("no room");
        assert!(error.message().contains("requested=41 used=60 limit=100"));
        disk.give_back(60);
        disk.take(100).expect("room again");
        assert_eq!((disk.used(), disk.peak()), (100, 100));
    }
}
