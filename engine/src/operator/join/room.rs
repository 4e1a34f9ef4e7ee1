//! Memory of a table, while it is built and as long as it is there.
//!
//! A table may not take all there is, since others of the same stage come after it, and it may
//! always have a little: if a table of a few rows were refused, all probe rows would have to go to
//! disk for its sake.

use std::sync::Arc;

use crate::memory::{MemoryBudget, Reservation};
use crate::operator::join::{OWNER, Resources};

/// Bytes that one table has.
#[derive(Debug)]
pub(super) struct Room {
    memory: Arc<MemoryBudget>,
    held: Reservation,
    /// Bytes that were not reserved.
    unasked: u64,
    unasked_max: u64,
    cap: u64,
}

impl Room {
    /// Room for at most `cap` bytes, as yet none.
    pub(super) fn new(resources: &Resources, cap: u64) -> Self {
        Room {
            memory: Arc::clone(&resources.memory),
            held: resources.memory.reserve(OWNER),
            unasked: 0,
            unasked_max: resources.unasked_bytes,
            cap,
        }
    }

    /// The bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.held.bytes() + self.unasked
    }

    /// The bytes that there may come to be, if nobody else takes any.
    pub(super) fn bytes_max(&self) -> u64 {
        let free = self.held.bytes() + self.memory.free();
        self.cap.min(free).max(self.unasked_max)
    }

    /// Makes room for `bytes` more; false, and nothing changed, where this is too much.
    #[must_use]
    pub(super) fn try_grow(&mut self, bytes: u64) -> bool {
        let sum = self.bytes().saturating_add(bytes);
        if sum <= self.cap && self.held.try_grow(bytes) {
            return true;
        }
        let is_little = sum <= self.unasked_max;
        if is_little {
            self.unasked += bytes;
        }
        is_little
    }

    /// Makes room for `bytes` more that there is no way around.
    pub(super) fn grow(&mut self, bytes: u64) {
        if !self.try_grow(bytes) {
            self.unasked += bytes;
        }
    }

    /// Gives back `bytes`, first of all those that were not reserved.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let unasked = bytes.min(self.unasked);
        self.unasked -= unasked;
        self.held.shrink(bytes - unasked);
    }
}
