//! The flag that asks an attempt to stop, and waiting that heeds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits;

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
