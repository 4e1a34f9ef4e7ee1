//! What a task has of the process around it: threads, memory, stores, counters, a stop flag.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::limits;
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::storage::{ShuffleStore, Stores};

/// What an attempt needs of the process that runs it.
#[derive(Clone)]
pub struct TaskContext {
    /// The threads that compute; one lane runs on each.
    pub pool: Arc<rayon::ThreadPool>,
    /// The bytes that may be reserved, shared with other tasks.
    pub memory: Arc<MemoryBudget>,
    /// Where input and output files are.
    pub stores: Arc<Stores>,
    /// Where shuffle objects are.
    pub shuffle: ShuffleStore,
    /// Counters of this attempt.
    pub metrics: Arc<TaskMetrics>,
    /// Set when the attempt should stop.
    pub cancel: CancelToken,
}

/// A flag that asks an attempt to stop; looked at between morsels and by long operators.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks everybody who holds this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For use with `?` in loops.
    ///
    /// # Errors
    /// `Cancelled` once somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::cancelled("the attempt was cancelled"))
        } else {
            Ok(())
        }
    }

    /// Waits for `work`, and drops it where it is once somebody asks to stop: storage that does
    /// not answer must not keep an attempt.
    ///
    /// # Errors
    /// `Cancelled` once somebody asked; what `work` answered.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            self.check()?;
            let wait = Duration::from_millis(limits::CANCEL_POLL_MS);
            if let Ok(outcome) = tokio::time::timeout(wait, &mut work).await {
                return outcome;
            }
        }
    }
}

/// Runs `work` on the task's rayon threads and waits for it without holding a thread.
///
/// # Errors
/// `Internal`, with the message, if `work` panics.
pub async fn compute<T: Send + 'static>(
    ctx: &TaskContext,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    ctx.pool.spawn(move || {
        // The receiver is gone only if the attempt was dropped; then nobody wants the answer.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
    });
    match receiver.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(Error::internal(format!(
            "panicked: {}",
            panic_message(&*panic)
        ))),
        Err(_) => Err(Error::internal("a compute thread ended without an answer")),
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn a_cancelled_wait_ends_though_its_work_does_not() {
        let cancel = CancelToken::default();
        let answer = cancel.guard(async { Ok(7) }).await;
        assert_eq!(answer.expect("nobody cancelled"), 7);
        let other = cancel.clone();
        let guarded = cancel.guard(std::future::pending::<Result<()>>());
        let (outcome, ()) = tokio::join!(guarded, async { other.cancel() });
        let error = outcome.expect_err("somebody cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
