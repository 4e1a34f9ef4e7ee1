//! Memory of the row groups that are fetched and not yet decoded.
//!
//! A file may have a row group of any size, and a row group is read as a whole. So its bytes are
//! reserved. Where the budget refuses, the fetch waits for the task's other row groups to be
//! decoded; when there are none left to wait for, a row group that fits the prefetch limit is read
//! all the same, one at a time, and a larger one is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::error::Result;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};

/// The row groups of one scan that hold memory.
#[derive(Default)]
pub(super) struct Holders {
    count: AtomicUsize,
    freed: Notify,
}

/// Memory of one row group; given back when dropped.
pub(super) struct Held {
    reservation: Reservation,
    holders: Arc<Holders>,
}

impl Holders {
    /// Reserves `bytes`, waiting for other holders where that helps.
    ///
    /// # Errors
    /// `Exhausted` if `bytes` are more than may be fetched ahead and there is nobody to wait for.
    pub(super) async fn reserve(
        holders: &Arc<Holders>,
        memory: &Arc<MemoryBudget>,
        bytes: u64,
    ) -> Result<Held> {
        let mut reservation = memory.reserve("a Parquet row group");
        loop {
            // Made before the attempt, so that nothing given back in between is missed.
            let freed = holders.freed.notified();
            if reservation.try_grow(bytes) {
                break;
            }
            if holders.count.load(Ordering::Acquire) == 0 {
                if bytes > limits::PREFETCH_BYTES {
                    reservation.grow(bytes)?;
                }
                break;
            }
            freed.await;
        }
        holders.count.fetch_add(1, Ordering::AcqRel);
        Ok(Held {
            reservation,
            holders: Arc::clone(holders),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.reservation.shrink(self.reservation.bytes());
        self.holders.count.fetch_sub(1, Ordering::AcqRel);
        self.holders.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn a_row_group_waits_for_others_and_a_huge_one_is_refused_when_alone() {
        let memory = MemoryBudget::new(100 << 20);
        let holders = Arc::default();
        let reserve = |bytes| Holders::reserve(&holders, &memory, bytes);
        let first = reserve(80 << 20).await.expect("it fits");
        let mut second = Box::pin(reserve(70 << 20));
        assert!((&mut second).now_or_never().is_none(), "it waits");
        drop(first);
        let second = second.await.expect("the first is gone");
        drop(second);
        assert_eq!(memory.used(), 0);

        let mut others = memory.reserve("an operator");
        assert!(others.try_grow(60 << 20));
        let small = reserve(50 << 20).await.expect("read all the same");
        drop(small);
        let error = reserve(65 << 20).await.err().expect("nobody to wait for");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(memory.used(), 60 << 20);
    }
}
