//! What the allocator keeps of memory that nobody uses any more.
//!
//! mimalloc gives freed memory back to the system after a second, and asks for huge pages, which
//! are cleared as a whole however little of them is used. Both save time where there is plenty of
//! memory. A process with a budget that somebody has set is to stay near it instead.

use std::fs;
use std::thread;
use std::time::Duration;

/// How long what is freed may stay, in a process that is about as large as it may be.
const KEPT: Duration = Duration::from_millis(10);

/// How much smaller than its budget a process has to be for that not to matter: about what it takes
/// beside the budget.
const ROOM: u64 = 384 << 20;

/// Keeps this process from growing beyond `budget` bytes by what is free. As nothing depends on it,
/// what the system refuses is done without.
pub(crate) fn stay_near(budget: u64) {
    if rustix::thread::disable_transparent_huge_pages(true).is_err() {
        tracing::debug!("huge pages stay as they are");
    }
    let enough = budget.saturating_sub(ROOM);
    let watch = move || {
        while let Some(bytes) = resident_bytes() {
            if bytes > enough {
                give_back();
            }
            thread::sleep(KEPT);
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
fn give_back() {
    // SAFETY: it may be called at any time and from any thread, and touches free memory only.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
