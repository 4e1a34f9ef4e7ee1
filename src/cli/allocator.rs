//! How a process stays near its memory budget, whatever its allocator makes of it.
//!
//! mimalloc gives freed memory back to the system after a second, and asks for huge pages, which
//! are cleared as a whole however little of them is used. Both save time where there is plenty of
//! memory. A process with a budget that somebody has set is to stay near it instead: what is free
//! goes back soon, and what the process has beside its reservations all the same, in pages that
//! are used in part, is not to be reserved.

use std::ffi::{c_int, c_long};
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kiln_engine::memory::MemoryBudget;

/// The number of mimalloc's option `purge_delay`: for how many milliseconds freed memory stays. The
/// bindings have no name for it.
const PURGE_DELAY: c_int = 15;

/// How many milliseconds freed memory may stay in a process that is about as large as it may be.
const SHORTLY: c_long = 10;

/// How often the size of a process is looked at.
const TICK: Duration = Duration::from_millis(10);

/// About what a process takes beside its budget as a rule. As long as it is smaller than the budget
/// by that much, what is free does not matter; what it is larger by than that is withheld.
const BESIDE: u64 = 192 << 20;

/// Keeps this process near `budget`. As nothing depends on it, what the system refuses is done
/// without.
pub(crate) fn stay_near(budget: &Arc<MemoryBudget>) {
    if rustix::thread::disable_transparent_huge_pages(true).is_err() {
        tracing::debug!("huge pages stay as they are");
    }
    let limit = budget.limit();
    let budget = Arc::downgrade(budget);
    let usual = option(PURGE_DELAY);
    let watch = move || {
        let mut kept = usual;
        while let (Some(bytes), Some(budget)) = (resident_bytes(), budget.upgrade()) {
            let wanted = if bytes + BESIDE > limit {
                SHORTLY
            } else {
                usual
            };
            if wanted != kept {
                set_option(PURGE_DELAY, wanted);
                kept = wanted;
            }
            budget.withhold(bytes.saturating_sub(limit.saturating_add(BESIDE)));
            drop(budget);
            thread::sleep(TICK);
        }
    };
    let watcher = thread::Builder::new().name("kiln-memory".to_owned());
    if watcher.spawn(watch).is_err() {
        tracing::debug!("what is freed stays for a second");
    }
}

/// Bytes of memory that this process has.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[expect(unsafe_code, reason = "the allocator is a C library")]
fn option(number: c_int) -> c_long {
    // SAFETY: options may be read at any time and from any thread; unknown ones are zero.
    unsafe { libmimalloc_sys::mi_option_get(number) }
}

#[expect(unsafe_code, reason = "the allocator is a C library")]
fn set_option(number: c_int, value: c_long) {
    // SAFETY: options may be set at any time and from any thread; unknown ones are ignored.
    unsafe { libmimalloc_sys::mi_option_set(number, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_for_a_second_by_the_option_that_has_no_name() {
        let usual = match std::env::var("MIMALLOC_PURGE_DELAY") {
            Ok(told) => told.parse().expect("a number"),
            Err(_) => 1000,
        };
        let found = option(PURGE_DELAY);
        assert_eq!(found, usual, "mimalloc numbers its options otherwise");
    }
}
