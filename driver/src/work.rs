//! What takes time: planning, committing, cleaning. Each runs as a task of its own beside the
//! event loop and gives back the event that tells how it went; a panic in one is a failure of its
//! job and nothing more.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{LogicalPlan, Output, OutputFile, StageGraph, TaskFailure};
use kiln_engine::storage::ShuffleStore;
use kiln_engine::storage::Stores;
use kiln_engine::{Error, Result};

use crate::planner::ClusterShape;
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

/// Makes the stages of a job.
pub(crate) async fn plan(
    parts: Components,
    job: JobId,
    plan: LogicalPlan,
    capacity: Capacity,
) -> Option<Event> {
    let made = contain("planning", async {
        if let LogicalPlan::Write { output, .. } = &plan {
            commit::prepare(&parts.stores, job, output).await?;
        }
        stages(&parts.stores, &plan, capacity).await
    });
    Some(match made.await {
        Ok(graph) => Event::Planned { job, graph },
        Err(error) => Event::PlanFailed {
            job,
            failure: TaskFailure::from(&error),
        },
    })
}

async fn stages(stores: &Stores, plan: &LogicalPlan, capacity: Capacity) -> Result<StageGraph> {
    planner::plan(plan, &shape(capacity), stores).await
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
    } = capacity;
    ClusterShape {
        executors,
        threads,
        memory,
    }
}

/// Runs `work`; a panic becomes an error that names it.
async fn contain<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(Error::internal(format!(
            "{what} panicked: {}",
            message(&*panic)
        ))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
