//! What takes time: planning, committing, cleaning. Each runs as a task of its own beside the
//! event loop and gives back the event that tells how it went; a panic in one is a failure of its
//! job and nothing more.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{LogicalPlan, Output, OutputFile, StageGraph, TaskFailure};
use kiln_engine::storage::{ShuffleStore, Stores};
use kiln_engine::{Error, Result, limits};
use tokio::time::timeout;

use crate::planner::{ClusterShape, Planner, StageFacts};
use crate::scheduler::{Capacity, Event};
use crate::{commit, planner};

/// What a driver works with; made by whoever starts it.
#[derive(Clone)]
pub struct Components {
    /// Where input and output files are.
    pub stores: Arc<Stores>,
    /// Where shuffle objects are.
    pub shuffle: ShuffleStore,
    /// The same place as a URL, for executors in other processes.
    pub storage_url: String,
}

/// The planner of a job, between the times that it is asked.
#[derive(Clone)]
pub(crate) struct JobPlanner(Arc<Mutex<State>>);

enum State {
    /// Nobody has asked yet.
    Waiting(LogicalPlan),
    /// Some stages are known.
    Going(Box<Planner>),
    /// It failed, or all stages are known.
    Ended,
}

impl JobPlanner {
    pub(crate) fn new(plan: LogicalPlan) -> Self {
        JobPlanner(Arc::new(Mutex::new(State::Waiting(plan))))
    }

    fn take(&self) -> State {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut state, State::Ended)
    }

    fn keep(&self, planner: Box<Planner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::Going(planner);
    }
}

/// Makes the first stages of a job, or the next ones from what is known of those that are `done`.
pub(crate) async fn plan(
    parts: Components,
    job: JobId,
    planner: JobPlanner,
    done: Vec<StageFacts>,
    capacity: Capacity,
) -> Option<Event> {
    let advanced = match planner.take() {
        State::Waiting(plan) => begin(&parts, job, plan, capacity).await,
        State::Going(planner) => contain("planning", advance(planner, &done)).await,
        State::Ended => Err(Error::internal("a plan that has ended was asked to go on")),
    };
    Some(match advanced {
        Ok((going, graph)) => {
            if !graph.complete {
                planner.keep(going);
            }
            Event::Planned { job, graph }
        }
        Err(error) => plan_failed(job, &error),
    })
}

async fn advance(
    mut planner: Box<Planner>,
    done: &[StageFacts],
) -> Result<(Box<Planner>, StageGraph)> {
    let graph = planner.advance(done)?;
    Ok((planner, graph))
}

/// Sees to it that the output of a job can be written, finds its input and makes its first
/// stages. What that has made in storage is removed again if there is no plan.
async fn begin(
    parts: &Components,
    job: JobId,
    plan: LogicalPlan,
    capacity: Capacity,
) -> Result<(Box<Planner>, StageGraph)> {
    let output = match &plan {
        LogicalPlan::Write { output, .. } => Some(output),
        _ => None,
    };
    if let Some(output) = output {
        let prepared = commit::prepare(&parts.stores, job, output);
        contain("preparing the output", prepared).await?;
    }
    let made = async {
        let planner = Planner::new(&plan, shape(capacity), &parts.stores).await?;
        advance(Box::new(planner), &[]).await
    };
    let made = contain("planning", made).await;
    if made.is_err()
        && let Some(output) = output.cloned()
    {
        discard(parts.clone(), job, output).await;
    }
    made
}

fn plan_failed(job: JobId, error: &Error) -> Event {
    let failure = TaskFailure::from(error);
    Event::PlanFailed { job, failure }
}

/// Says how a plan would be run by the executors that there are.
pub(crate) async fn explain(
    parts: &Components,
    plan: &LogicalPlan,
    capacity: Capacity,
) -> Result<String> {
    contain(
        "explaining",
        planner::explain(plan, &shape(capacity), &parts.stores),
    )
    .await
}

/// Puts the output of a job in place.
pub(crate) async fn commit(
    parts: Components,
    job: JobId,
    output: Output,
    files: Vec<OutputFile>,
) -> Option<Event> {
    let done = contain(
        "committing",
        commit::commit(&parts.stores, job, &output, files),
    )
    .await;
    Some(Event::Committed {
        job,
        outcome: done.map(drop).map_err(|error| TaskFailure::from(&error)),
    })
}

/// Removes what a job has staged. Nobody waits for it, so a failure is logged here.
pub(crate) async fn discard(parts: Components, job: JobId, output: Output) -> Option<Event> {
    let done = contain("discarding", commit::discard(&parts.stores, job, &output)).await;
    if let Err(error) = done {
        tracing::warn!(%job, output = output.url, error = error.report(), "files are left behind");
    }
    None
}

/// Removes shuffle objects. Nobody waits for it, so a failure is logged here.
pub(crate) async fn clean(
    parts: Components,
    job: JobId,
    objects: Vec<(StageId, u32, u32)>,
) -> Option<Event> {
    let done = contain("cleaning", parts.shuffle.delete_job(job, &objects)).await;
    if let Err(error) = done {
        tracing::warn!(%job, error = error.report(), "shuffle objects are left behind");
    }
    None
}

fn shape(capacity: Capacity) -> ClusterShape {
    let Capacity {
        executors,
        threads,
        memory,
        may_grow,
    } = capacity;
    ClusterShape {
        executors,
        threads,
        memory,
        may_grow,
    }
}

/// Runs `work`, which ends whatever happens: a panic becomes an error that names it, and so does
/// a store that never answers. That one is no reason to try again.
async fn contain<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    contain_within(Duration::from_millis(limits::JOB_STEP_MS_MAX), what, work).await
}

async fn contain_within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Error::internal(format!(
            "{what} panicked: {}",
            message(&*panic)
        ))),
        Err(_) => Err(Error::exhausted(format!(
            "{what} took too long limit={limit:?}"
        ))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use kiln_engine::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn work_ends_though_it_panics_or_is_never_answered() {
        let panics = contain::<()>("planning", async { panic!("a defect") }).await;
        let error = panics.expect_err("it panics");
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.message(), "planning panicked: a defect");
        let silence = std::future::pending::<Result<()>>();
        let error = contain_within(Duration::from_millis(1), "committing", silence).await;
        let error = error.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(error.message(), "committing took too long limit=1ms");
    }
}
