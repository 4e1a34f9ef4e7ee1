//! What takes time: planning, committing, cleaning. Each runs as a task of its own beside the
//! event loop and gives back the event that tells how it went; a panic in one is a failure of its
//! job and nothing more. Planning computes, so it has a thread to itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{LogicalPlan, Output, OutputFile, StageGraph, TaskFailure};
use kiln_engine::storage::{ShuffleStore, Stores};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::Planned;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::journal::JournalStore;
use crate::planner::{ClusterShape, Planner, StageFacts};
use crate::scheduler::Event;
use crate::{commit, planner};

/// Times that something is tried to be removed.
const REMOVE_TRIES: u32 = 4;

/// Pause before the second of these; four times as long each time.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// What a driver works with; made by whoever starts it.
#[derive(Clone)]
pub struct Components {
    /// Where input and output files are.
    pub stores: Arc<Stores>,
    /// Where shuffle objects are.
    pub shuffle: ShuffleStore,
    /// The same place as a URL, for executors in other processes.
    pub storage_url: String,
    /// Where to write down what has happened, for the next driver; none for a driver whose jobs
    /// end with it.
    pub journal: Option<JournalStore>,
}

/// The planner of a job, between the times that it is asked.
#[derive(Clone)]
pub(crate) struct JobPlanner(Arc<Mutex<State>>);

enum State {
    /// Nobody has asked yet.
    Waiting(LogicalPlan),
    /// An earlier driver has asked, for stages that are known.
    Recovered(LogicalPlan, Vec<Planned>),
    /// Some stages are known.
    Going(Box<Planner>),
    /// It failed, or all stages are known.
    Ended,
}

impl JobPlanner {
    pub(crate) fn new(plan: LogicalPlan) -> Self {
        JobPlanner(Arc::new(Mutex::new(State::Waiting(plan))))
    }

    /// Takes note of stages that the plan was cut into in an earlier leadership.
    pub(crate) fn remember(&self, planned: &Planned) {
        let state = match self.take() {
            State::Waiting(plan) => State::Recovered(plan, vec![planned.clone()]),
            State::Recovered(plan, mut before) => {
                before.push(planned.clone());
                State::Recovered(plan, before)
            }
            state => state,
        };
        self.put(state);
    }

    fn put(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn take(&self) -> State {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut state, State::Ended)
    }

    fn keep(&self, planner: Box<Planner>) {
        self.put(State::Going(planner));
    }
}

/// Makes the first stages of a job, or the next ones from what is known of those that are `done`.
pub(crate) async fn plan(
    parts: Components,
    job: JobId,
    planner: JobPlanner,
    done: Vec<StageFacts>,
    cluster: ClusterShape,
) -> Option<Event> {
    let advanced = match planner.take() {
        State::Waiting(plan) => begin(&parts, job, plan, cluster).await,
        State::Recovered(plan, before) => recover(&parts, plan, before, done).await,
        State::Going(planner) => {
            let next = aside(async move { advance(planner, &done) });
            contain("planning", next).await
        }
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

fn advance(mut planner: Box<Planner>, done: &[StageFacts]) -> Result<(Box<Planner>, StageGraph)> {
    let graph = planner.advance(done)?;
    Ok((planner, graph))
}

/// Asks a new planner what an earlier one was asked, and goes on from there.
async fn recover(
    parts: &Components,
    plan: LogicalPlan,
    before: Vec<Planned>,
    done: Vec<StageFacts>,
) -> Result<(Box<Planner>, StageGraph)> {
    let stores = Arc::clone(&parts.stores);
    let next = aside(async move {
        let Some(cluster) = before.first().map(|planned| planned.cluster) else {
            return Err(Error::internal("a plan that nobody has begun"));
        };
        let mut planner = Planner::new(&plan, cluster, &stores).await?;
        for planned in &before {
            if planner.advance(&planned.done)? != planned.graph {
                return Err(Error::invalid(
                    "the input of the job has changed while no driver was there, so its plan \
                     cannot go on",
                ));
            }
        }
        advance(Box::new(planner), &done)
    });
    contain("planning", next).await
}

/// Sees to it that the output of a job can be written, finds its input and makes its first
/// stages. What that has made in storage is removed again if it does not come to a plan.
async fn begin(
    parts: &Components,
    job: JobId,
    plan: LogicalPlan,
    cluster: ClusterShape,
) -> Result<(Box<Planner>, StageGraph)> {
    let output = plan.output().cloned();
    let made = async {
        if let Some(output) = &output {
            let prepared = commit::prepare(&parts.stores, job, output);
            contain("preparing the output", prepared).await?;
        }
        let stores = Arc::clone(&parts.stores);
        let first = aside(async move {
            let planner = Planner::new(&plan, cluster, &stores).await?;
            advance(Box::new(planner), &[])
        });
        contain("planning", first).await
    };
    let made = made.await;
    if made.is_err()
        && let Some(output) = output
    {
        // What is left is told there, and looked for later.
        let _ = discard(parts.clone(), job, output).await;
    }
    made
}

/// Runs `work` on a thread of its own that may be busy for long: rewriting a large plan computes
/// without a pause, and meanwhile the threads that hear heartbeats have to be free. If nobody
/// waits for it any longer it goes on to its end, and that is all it does.
async fn aside<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::current();
    let thread = tokio::task::spawn_blocking(move || runtime.block_on(work));
    thread
        .await
        .unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => Err(Error::internal("planning was cut off").with_source(error)),
        })
}

/// Tells that there is no plan, or no more of it.
pub(crate) fn plan_failed(job: JobId, error: &Error) -> Event {
    let failure = TaskFailure::from(error);
    Event::PlanFailed { job, failure }
}

/// Says how a plan would be run by the executors that there are.
pub(crate) async fn explain(
    parts: &Components,
    plan: LogicalPlan,
    cluster: ClusterShape,
) -> Result<String> {
    let stores = Arc::clone(&parts.stores);
    let text = async move { planner::explain(&plan, &cluster, &stores).await };
    contain("explaining", aside(text)).await
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

/// Removes what a job has staged; answers whether nothing is left.
pub(crate) async fn discard(parts: Components, job: JobId, output: Output) -> bool {
    let again = move || {
        let (stores, output) = (Arc::clone(&parts.stores), output.clone());
        async move { commit::discard(&stores, job, &output).await }.boxed()
    };
    remove(job, "discarding", again).await
}

/// Removes shuffle objects; answers whether none is left.
pub(crate) async fn clean(
    parts: Components,
    job: JobId,
    objects: Vec<(StageId, u32, u32)>,
) -> bool {
    let again = move || {
        let (shuffle, objects) = (parts.shuffle.clone(), objects.clone());
        async move { shuffle.delete_job(job, &objects).await }.boxed()
    };
    remove(job, "cleaning", again).await
}

/// Removes something, if need be in several tries. Nobody waits for it, so a failure is logged
/// here; what is left then is found by the next driver, or by who looks for it.
async fn remove(
    job: JobId,
    what: &str,
    remove: impl Fn() -> BoxFuture<'static, Result<()>>,
) -> bool {
    let mut pause = REMOVE_AGAIN;
    for left in (0..REMOVE_TRIES).rev() {
        let Err(error) = contain(what, remove()).await else {
            return true;
        };
        if left == 0 {
            tracing::warn!(%job, error = error.report(), "{what}: something is left behind");
            break;
        }
        sleep(pause).await;
        pause *= 4;
    }
    false
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
mod tests;
