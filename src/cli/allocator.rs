//! What the allocator keeps of memory that nobody uses any more.
//!
//! mimalloc gives freed memory back to the system after a second, and asks for huge pages, which
//! are cleared as a whole however little of them is used. Both save time where there is plenty of
//! memory. A process with a budget that somebody has set is to stay near it instead.

use std::ffi::{c_int, c_long};
use std::fs;
use std::thread;
use std::time::Duration;

/// The number of mimalloc's option `purge_delay`: for how many milliseconds freed memory stays. The
/// bindings have no name for it.
const PURGE_DELAY: c_int = 15;

/// How many milliseconds freed memory may stay in a process that is about as large as it may be.
const SHORTLY: c_long = 10;

/// How often the size of a process is looked at.
const TICK: Duration = Duration::from_millis(10);

/// How much smaller than its budget a process has to be for what is free not to matter: about what
/// it takes beside the budget.
const ROOM: u64 = 384 << 20;

/// Keeps this process from growing beyond `budget` bytes by what is free. As nothing depends on it,
/// what the system refuses is done without.
pub(crate) fn stay_near(budget: u64) {
    if rustix::thread::disable_transparent_huge_pages(true).is_err() {
        tracing::debug!("huge pages stay as they are");
    }
    let enough = budget.saturating_sub(ROOM);
    let usual = option(PURGE_DELAY);
    let watch = move || {
        let mut kept = usual;
        while let Some(bytes) = resident_bytes() {
            let wanted = if bytes > enough { SHORTLY } else { usual };
            if wanted != kept {
                set_option(PURGE_DELAY, wanted);
                kept = wanted;
            }
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
        assert_eq!(
            option(PURGE_DELAY),
            1000,
            "mimalloc numbers its options otherwise"
        );
    }
}
