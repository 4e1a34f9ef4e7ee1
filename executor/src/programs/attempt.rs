//! One attempt in a worker process, watched over until it has ended in whatever way.

use std::future::pending;
use std::time::Duration;

use kiln_engine::context::TaskContext;
use kiln_engine::plan::TaskSuccess;
use kiln_engine::{Error, ErrorKind, Result, task};
use kiln_proto::message::{FromWorker, ToWorker, WorkerRun};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::programs::blame::{self, Circumstances, End};
use crate::programs::process::Process;
use crate::settings::{CANCEL_GRACE, WATCH_EVERY};

/// How an attempt ended.
pub(super) struct Outcome {
    pub(super) result: Result<TaskSuccess>,
    /// Whether the process can be given another attempt.
    pub(super) is_reusable: bool,
}

/// How often a call that goes on should say so, if it may be silent for `call_ms`.
pub(super) fn tick(call_ms: u64) -> Duration {
    let tick = Duration::from_millis(call_ms / 8).min(WATCH_EVERY);
    tick.max(Duration::from_millis(1))
}

/// Has `process` run an attempt, and kills it if that is how it ends. If this is dropped the
/// process is of no more use.
pub(super) async fn run(process: &mut Process, run: WorkerRun, context: &TaskContext) -> Outcome {
    let program = run.spec.program.as_ref();
    let mut attempt = Attempt {
        call_ms: program.map_or(u64::MAX, |program| program.call_ms),
        input: task::input_of(&run.spec.input),
        process,
        context,
    };
    attempt.process.watch().forget();
    attempt.process.output().start_over();
    // A process that stands still does not take what it is given.
    let run = ToWorker::Run(run);
    let told = context.cancel.guard(attempt.process.say(&run)).await;
    match told {
        Ok(()) => attempt.follow().await,
        Err(error) if error.kind() == ErrorKind::Cancelled => attempt.stop().await,
        Err(error) if error.kind() == ErrorKind::Invalid => Outcome {
            result: Err(error),
            is_reusable: true,
        },
        Err(_) => attempt.lost().await,
    }
}

struct Attempt<'a> {
    process: &'a mut Process,
    context: &'a TaskContext,
    /// What it reads, in words for people.
    input: String,
    /// How long a call may be silent.
    call_ms: u64,
}

impl Attempt<'_> {
    async fn follow(&mut self) -> Outcome {
        let mut look = interval(tick(self.call_ms));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = Duration::from_millis(self.call_ms);
        let mut grace_ends = None;
        loop {
            tokio::select! {
                biased;
                message = self.process.next() => match message {
                    Some(Ok(FromWorker::Progress(counts))) => self.context.metrics.show(&counts),
                    Some(Ok(FromWorker::Ended(outcome))) => {
                        return ended(outcome.map_err(Error::from));
                    }
                    Some(Ok(FromWorker::Hello(_))) => {
                        return self.over(End::Nonsense("a second greeting".to_owned())).await;
                    }
                    Some(Err(error)) => return self.over(End::Nonsense(error.report())).await,
                    None => return self.lost().await,
                },
                () = at(grace_ends) => return self.stop().await,
                now = look.tick() => {
                    if self.process.is_dead() {
                        return self.lost().await;
                    }
                    if self.process.watch().overdue(now.into_std(), patience).is_some() {
                        return self.over(End::Stuck(self.call_ms)).await;
                    }
                    if grace_ends.is_none() && self.context.cancel.is_cancelled() {
                        grace_ends = Some(now + CANCEL_GRACE);
                        // What cannot be told any more will be found dead or killed.
                        let told = self.process.say(&ToWorker::Cancel);
                        let _ = timeout(CANCEL_GRACE, told).await;
                    }
                }
            }
        }
    }

    /// The process does not stop though it was told to.
    async fn stop(&mut self) -> Outcome {
        self.process.end().await;
        Outcome {
            result: Err(Error::cancelled("the attempt was cancelled")),
            is_reusable: false,
        }
    }

    /// The connection has ended: most likely because the process has.
    async fn lost(&mut self) -> Outcome {
        let has_died = self.process.is_dead_soon().await;
        let called = self.process.watch().called();
        let status = self.process.end().await;
        let end = status.filter(|_| has_died).map_or(End::CutOff, End::Died);
        self.explain(&end, called).await
    }

    /// The process is at its end because of what it did.
    async fn over(&mut self, end: End) -> Outcome {
        let called = self.process.watch().called();
        self.process.end().await;
        self.explain(&end, called).await
    }

    async fn explain(&mut self, end: &End, called: Vec<String>) -> Outcome {
        let circumstances = Circumstances {
            called,
            input: std::mem::take(&mut self.input),
            last_words: self.process.output().last_words().await,
            memory: self.process.memory(),
        };
        Outcome {
            result: Err(blame::error(end, &circumstances)),
            is_reusable: false,
        }
    }
}

/// An attempt that came to its end. One that went wrong may have left things half changed behind
/// in its process; stopping does not.
fn ended(result: Result<TaskSuccess>) -> Outcome {
    let is_reusable = match &result {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::Cancelled,
    };
    Outcome {
        result,
        is_reusable,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
