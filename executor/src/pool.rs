//! The task pool: attempts at tasks in a bounded number of slots.
//!
//! Every attempt that is launched ends exactly once, as an [`Ended`], unless it was cancelled.
//! Whatever an attempt does — fail, panic — happens to that attempt only.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use kiln_engine::context::{CancelToken, TaskContext, panic_message};
use kiln_engine::error::in_task;
use kiln_engine::id::TaskId;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::plan::{TaskFailure, TaskSpec, TaskSuccess};
use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::message::RunningAttempt;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinError, JoinSet};

use crate::settings::{ATTEMPTS_HELD_MAX, FAREWELL_WAIT};

/// Runs one attempt to its end: `kiln_engine::task::run`, except for tasks of programs and where a
/// test stands in for it.
pub type Runner =
    Arc<dyn Fn(TaskSpec, TaskContext) -> BoxFuture<'static, Result<TaskSuccess>> + Send + Sync>;

/// Attempts that wait for a slot or run.
pub(crate) struct TaskPool {
    slots: Arc<Semaphore>,
    held: BTreeMap<(TaskId, u32), Held>,
    attempts: JoinSet<Result<TaskSuccess>>,
    /// Nothing is begun any more.
    is_closed: bool,
}

struct Held {
    id: Id,
    cancel: CancelToken,
    metrics: Arc<TaskMetrics>,
    /// It was stopped by this executor, whose driver has to hear of it.
    is_handed_back: bool,
}

/// An attempt that is over.
pub(crate) struct Ended {
    pub(crate) attempt: (TaskId, u32),
    pub(crate) outcome: Result<TaskSuccess, TaskFailure>,
}

impl TaskPool {
    pub(crate) fn new(slots: u32) -> Self {
        TaskPool {
            slots: Arc::new(Semaphore::new(slots as usize)),
            held: BTreeMap::new(),
            attempts: JoinSet::new(),
            is_closed: false,
        }
    }

    /// Takes an attempt on, for `run` to run. Nothing happens if it is here already.
    pub(crate) fn launch(&mut self, spec: TaskSpec, context: TaskContext, run: Runner) {
        let attempt = (spec.id, spec.attempt);
        if self.held.contains_key(&attempt) {
            return;
        }
        let cancel = context.cancel.clone();
        let metrics = Arc::clone(&context.metrics);
        let id = if self.is_closed {
            self.attempts
                .spawn(async { Err(Error::cancelled("never begun")) })
                .id()
        } else if self.held.len() < ATTEMPTS_HELD_MAX {
            let slots = Arc::clone(&self.slots);
            self.attempts
                .spawn(run_in_slot(run, slots, spec, context))
                .id()
        } else {
            let text = format!("too many attempts at once attempts_max={ATTEMPTS_HELD_MAX}");
            self.attempts
                .spawn(async { Err(Error::exhausted(text)) })
                .id()
        };
        let held = Held {
            id,
            cancel,
            metrics,
            is_handed_back: self.is_closed,
        };
        self.held.insert(attempt, held);
    }

    /// Asks an attempt to stop. Its end will not be reported.
    pub(crate) fn cancel(&mut self, attempt: (TaskId, u32)) {
        if let Some(held) = self.held.get_mut(&attempt) {
            held.cancel.cancel();
            held.is_handed_back = false;
        }
    }

    /// Asks all attempts to stop, those to come included. They will be reported as stopped, or as
    /// whatever else has become of them.
    pub(crate) fn hand_back(&mut self) {
        self.is_closed = true;
        for held in self.held.values_mut() {
            held.is_handed_back |= !held.cancel.is_cancelled();
            held.cancel.cancel();
        }
    }

    /// Drops the attempts that have not stopped, where they are.
    pub(crate) fn abort(&mut self) {
        self.attempts.abort_all();
    }

    /// Waits for an attempt to end, for ever if there is none; none if it was cancelled.
    ///
    /// Cancel safe: what has ended is not lost when the wait is given up.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        let (id, outcome) = match self.attempts.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok(ended)) => ended,
            Some(Err(error)) => (error.id(), Err(abnormal_end(error))),
        };
        let attempt = *self.held.iter().find(|(_, held)| held.id == id)?.0;
        let held = self.held.remove(&attempt)?;
        if held.is_handed_back && outcome.is_err() {
            let outcome = Err(TaskFailure::from(&Error::cancelled("the executor leaves")));
            return Some(Ended { attempt, outcome });
        }
        if held.cancel.is_cancelled() && !held.is_handed_back {
            return None;
        }
        let outcome = outcome.map_err(|error| failure(attempt, error));
        Some(Ended { attempt, outcome })
    }

    /// The attempts that wait or run, and how far they are.
    pub(crate) fn running(&self) -> impl Iterator<Item = RunningAttempt> {
        self.held
            .iter()
            .map(|(&(task, attempt), held)| RunningAttempt {
                task,
                attempt,
                counts: held.metrics.counts(),
            })
    }

    /// How many attempts wait or run.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing waits or runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Cancels everything and waits a little for it to end, so that files are cleared away; what
    /// has not ended then is dropped.
    pub(crate) async fn stop(mut self) {
        self.held.values().for_each(|held| held.cancel.cancel());
        let all = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL_WAIT, all).await.is_err() {
            tracing::warn!(
                attempts = self.attempts.len(),
                "attempts did not stop when cancelled"
            );
        }
    }
}

async fn run_in_slot(
    run: Runner,
    slots: Arc<Semaphore>,
    spec: TaskSpec,
    context: TaskContext,
) -> Result<TaskSuccess> {
    let slot = async {
        let slot = slots.acquire_owned().await;
        Ok(slot.expect("the semaphore is never closed"))
    };
    let _slot = context.cancel.guard(slot).await?;
    context.cancel.check()?;
    run(spec, context).await
}

/// The engine shares nothing between attempts that a panic could leave half changed: reservations
/// and slots are given back as the attempt is unwound.
fn abnormal_end(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => Error::internal(format!("the task panicked: {}", panic_message(&*panic))),
        Err(_) => Error::internal("the attempt was dropped"),
    }
}

/// A failure as it is reported. The input's faults name their own place, and a user has no use
/// for the task's name in front of it.
fn failure((task, attempt): (TaskId, u32), error: Error) -> TaskFailure {
    match error.kind() {
        ErrorKind::Invalid => TaskFailure::from(&error),
        _ => TaskFailure::from(&in_task(task, attempt)(error)),
    }
}
