//! What a task has of the process around it: threads, memory, stores, counters, a stop flag.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OnceCell, oneshot};

use crate::error::{Error, Result};
use crate::id::{JobId, StageId};
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::storage::{ShuffleStore, Stores};
use crate::udf::UdfHost;

pub use crate::cancel::CancelToken;

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
    /// What tasks made that others can use too.
    pub shared: Arc<Shared>,
    /// The functions of the user's program that this process is.
    pub functions: Arc<UdfHost>,
}

/// What a task made of whole stages' output, for whoever else needs the same at the same time:
/// tables of join keys. The first to ask makes it and the others wait; it goes when nobody holds
/// it any more. What could not be made is not kept: the next one tries.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<SharedKey, Weak<SharedCell>>>);

type SharedCell = OnceCell<Arc<dyn Any + Send + Sync>>;

/// Names one of the things that tasks share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SharedKey {
    /// The job.
    pub job: JobId,
    /// The stage whose tasks share it.
    pub stage: StageId,
    /// Position among the stage's operators of the one that uses it.
    pub operator: usize,
    /// The partitions that it is made of.
    pub partitions: Range<u32>,
}

/// A share in something; it stays in place while anybody has one.
pub struct Share<T> {
    value: Arc<T>,
    _cell: Arc<SharedCell>,
}

impl<T> Share<T> {
    /// The thing itself.
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }
}

impl Shared {
    /// What `key` names: made by `make`, unless another task has made it or is about to. A `make`
    /// that fails or is dropped leaves it to the next one who waits.
    ///
    /// # Errors
    /// What `make` answered.
    pub async fn get<T: Any + Send + Sync>(
        &self,
        key: SharedKey,
        make: impl Future<Output = Result<T>>,
    ) -> Result<Share<T>> {
        let cell = self.cell(key);
        let make = async { Ok::<_, Error>(Arc::new(make.await?) as Arc<dyn Any + Send + Sync>) };
        let value = Arc::clone(cell.get_or_try_init(|| make).await?);
        let value = value
            .downcast()
            .map_err(|_| Error::internal("two tasks share a thing of two types"))?;
        Ok(Share { value, _cell: cell })
    }

    fn cell(&self, key: SharedKey) -> Arc<SharedCell> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = cells.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::default();
        cells.insert(key, Arc::downgrade(&cell));
        cell
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
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_shared_is_made_once_and_kept_while_it_is_held() {
        let shared = Shared::default();
        let key = || SharedKey {
            job: JobId::new(1),
            stage: StageId(0),
            operator: 2,
            partitions: 0..4,
        };
        let failed = shared.get(key(), async {
            Err::<u32, _>(Error::unavailable("not now"))
        });
        failed.await.map(|_| ()).expect_err("it could not be made");
        let first = shared.get(key(), async {
            tokio::task::yield_now().await;
            Ok(1)
        });
        let (first, second) = tokio::join!(first, shared.get(key(), async { Ok(2) }));
        let (first, second) = (first.expect("made"), second.expect("shared"));
        assert_eq!((**first.value(), **second.value()), (1, 1));
        drop(first);
        let third = shared.get(key(), async { Ok(3) }).await.expect("shared");
        assert_eq!(**third.value(), 1);
        let other = SharedKey {
            partitions: 4..8,
            ..key()
        };
        let other = shared.get(other, async { Ok(4) }).await.expect("made");
        assert_eq!(**other.value(), 4);
        drop((second, third));
        let again = shared.get(key(), async { Ok(5) }).await.expect("made");
        assert_eq!(**again.value(), 5);
    }
}
