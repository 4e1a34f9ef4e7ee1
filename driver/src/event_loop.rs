//! The one task that owns what changes: it feeds events to the scheduler and carries out actions.
//!
//! The loop never waits for anything but its inbox, its own work and the next deadline: messages
//! to executors are put into their channels or, where a channel is full, the executor counts as
//! gone; everything slow runs beside it ([`crate::work`]). It wakes when something happens or is
//! due, so it uses no time while it is idle, and nothing waits for a tick to be launched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::metrics::Counts;
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::{
    FromExecutor, JobStatus, PROTOCOL_VERSION, Registration, Submission, ToExecutor, Welcome,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::board::{SharedBoard, unknown};
use crate::scheduler::{Action, Detail, Event, Millis, Submitted};
use crate::settings::DriverSettings;
use crate::work::{self, Components, JobPlanner};

/// Inputs that wait for the loop; senders wait when there are more.
pub(crate) const INBOX_MAX: usize = 1024;

/// Inputs that are taken before progress is published and the deadline is looked at again.
const BATCH_MAX: usize = 256;

/// How often those who watch a job are told of its progress. A change of state is told at once.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// How long stopping waits for work that is under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the loop is told.
pub(crate) enum Input {
    /// A job is submitted.
    Submit {
        submission: Box<Submission>,
        answer: Answer<JobId>,
    },
    /// A job is to stop.
    Cancel { job: JobId, answer: Answer<()> },
    /// An executor has opened a stream; the answer is the number of its attachment.
    Attach {
        registration: Registration,
        to: mpsc::Sender<ToExecutor>,
        answer: Answer<u64>,
    },
    /// An executor has sent something through an attachment.
    Heard {
        executor: ExecutorId,
        attachment: u64,
        message: FromExecutor,
    },
    /// An attachment has been dropped.
    Detached {
        executor: ExecutorId,
        attachment: u64,
    },
    /// The whole result of a job has been read.
    ResultRead { job: JobId },
    /// The driver is to stop.
    Stop { answer: oneshot::Sender<()> },
}

/// Where the answer to an input goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// Wall-clock milliseconds that never run backwards: read once, then counted.
#[derive(Clone, Copy)]
struct Clock {
    started_ms: Millis,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            started_ms: millis(since_epoch),
            started: Instant::now(),
        }
    }

    fn now(&self) -> Millis {
        self.started_ms + millis(self.started.elapsed())
    }

    fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.saturating_sub(self.started_ms))
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The state of the loop.
pub(crate) struct EventLoop {
    settings: DriverSettings,
    components: Components,
    board: SharedBoard,
    clock: Clock,
    inbox: mpsc::Receiver<Input>,
    /// Ends when the last handle has been dropped.
    handles: oneshot::Receiver<()>,
    attachments: BTreeMap<ExecutorId, Attached>,
    attachments_made: u64,
    /// Planners of jobs that have not ended.
    planners: BTreeMap<JobId, JobPlanner>,
    work: JoinSet<Option<Event>>,
    /// Jobs that have not ended, as far as the loop has noticed.
    active: BTreeSet<JobId>,
    /// Jobs whose progress has not been published, and when it will be.
    unpublished: BTreeSet<JobId>,
    publish_at: Option<Instant>,
}

/// The way to an executor.
struct Attached {
    attachment: u64,
    to: mpsc::Sender<ToExecutor>,
}

impl EventLoop {
    pub(crate) fn new(
        settings: DriverSettings,
        components: Components,
        board: SharedBoard,
        inbox: mpsc::Receiver<Input>,
        handles: oneshot::Receiver<()>,
    ) -> Self {
        EventLoop {
            settings,
            components,
            board,
            clock: Clock::start(),
            inbox,
            handles,
            attachments: BTreeMap::new(),
            attachments_made: 0,
            planners: BTreeMap::new(),
            work: JoinSet::new(),
            active: BTreeSet::new(),
            unpublished: BTreeSet::new(),
            publish_at: None,
        }
    }

    /// Runs until it is told to stop or until nobody holds a handle any more.
    pub(crate) async fn run(mut self) {
        // However the loop ends, nobody waits for it any longer.
        let _closing = Closing(self.board.clone());
        let answer = loop {
            let due = self.due();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let stop = tokio::select! {
                input = self.inbox.recv() => match input {
                    Some(input) => self.take_batch(Some(input)),
                    None => Some(None),
                },
                Some(outcome) = self.work.join_next(), if !self.work.is_empty() => {
                    self.finished(outcome);
                    None
                }
                () = wait => {
                    // What has arrived already counts before time does: after a stall of this
                    // process the heartbeats that wait here must not come too late.
                    let waiting = self.inbox.try_recv().ok();
                    let stop = self.take_batch(waiting);
                    self.step(Event::Tick);
                    stop
                }
                _ = &mut self.handles => Some(None),
            };
            if let Some(answer) = stop {
                break answer;
            }
            self.publish();
        };
        self.stop().await;
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }

    /// When to wake though nothing happens.
    fn due(&self) -> Option<Instant> {
        let deadline = self.board.lock().scheduler.deadline();
        let deadline = deadline.map(|at| self.clock.instant(at));
        deadline.into_iter().chain(self.publish_at).min()
    }

    /// Takes an input and those behind it; gives whom to tell if the loop is to stop.
    fn take_batch(&mut self, first: Option<Input>) -> Option<Option<oneshot::Sender<()>>> {
        let mut next = first;
        for _ in 0..BATCH_MAX {
            match next {
                Some(Input::Stop { answer }) => return Some(Some(answer)),
                Some(input) => self.take(input),
                None => break,
            }
            next = self.inbox.try_recv().ok();
        }
        // One may have been taken out of the inbox after the last that fitted the batch.
        match next {
            Some(Input::Stop { answer }) => return Some(Some(answer)),
            Some(input) => self.take(input),
            None => {}
        }
        None
    }

    fn take(&mut self, input: Input) {
        // Whoever asked may have gone; then nobody needs the answer.
        match input {
            Input::Submit { submission, answer } => {
                let _ = answer.send(self.submit(*submission));
            }
            Input::Cancel { job, answer } => {
                let known = self
                    .board
                    .lock()
                    .scheduler
                    .state(job)
                    .ok_or_else(|| unknown(job));
                if known.is_ok() {
                    self.step(Event::CancelRequested { job });
                }
                let _ = answer.send(known.map(|_| ()));
            }
            Input::Attach {
                registration,
                to,
                answer,
            } => {
                let _ = answer.send(self.attach(registration, to));
            }
            Input::Heard {
                executor,
                attachment,
                message,
            } => {
                // What an older stream still brings is repeated on the current one, or by then
                // nobody waits for it.
                if self.is_current(executor, attachment) {
                    self.hear(executor, message);
                }
            }
            Input::Detached {
                executor,
                attachment,
            } => {
                if self.is_current(executor, attachment) {
                    self.attachments.remove(&executor);
                    self.step(Event::ExecutorGone { executor });
                }
            }
            Input::ResultRead { job } => self.step(Event::ResultRead { job }),
            Input::Stop { .. } => {}
        }
    }

    fn is_current(&self, executor: ExecutorId, attachment: u64) -> bool {
        let attached = self.attachments.get(&executor);
        attached.is_some_and(|attached| attached.attachment == attachment)
    }

    fn submit(&mut self, submission: Submission) -> Result<JobId> {
        let Submission {
            name,
            key,
            plan,
            program,
        } = submission;
        let job = {
            let mut board = self.board.lock();
            if let Some(job) = board.keyed(key) {
                return Ok(job);
            }
            if name.len() > limits::JOB_NAME_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "a job's name is too long bytes={} bytes_max={}",
                    name.len(),
                    limits::JOB_NAME_BYTES_MAX
                )));
            }
            let active = board.scheduler.active_jobs();
            if active >= limits::JOBS_ACTIVE_MAX {
                return Err(Error::exhausted(format!(
                    "too many jobs at once jobs={active}"
                )));
            }
            let fresh = || JobId::new(fastrand::u64(..) ^ self.clock.now());
            let mut job = fresh();
            while board.scheduler.state(job).is_some() {
                job = fresh();
            }
            board.remember(key, job);
            job
        };
        tracing::info!(%job, name, "submitted");
        self.planners.insert(job, JobPlanner::new(plan));
        self.active.insert(job);
        let program = program.map(|offered| Arc::new(offered.program));
        self.step(Event::Submitted(Submitted { job, name, program }));
        Ok(job)
    }

    fn attach(&mut self, registration: Registration, to: mpsc::Sender<ToExecutor>) -> Result<u64> {
        if registration.protocol != PROTOCOL_VERSION {
            return Err(Error::invalid(format!(
                "the executor speaks another version of the protocol executor={} its={} ours={}",
                registration.name, registration.protocol, PROTOCOL_VERSION
            )));
        }
        let executor = registration.executor;
        let welcome = ToExecutor::Welcome(Welcome {
            epoch: self.epoch(),
            storage: self.components.storage_url.clone(),
            heartbeat_ms: self.settings.heartbeat_ms,
        });
        if to.try_send(welcome).is_err() {
            return Err(Error::unavailable(
                "the executor's stream broke before it was welcome",
            ));
        }
        self.attachments_made += 1;
        let attachment = self.attachments_made;
        tracing::info!(%executor, name = registration.name, "executor joined");
        self.attachments
            .insert(executor, Attached { attachment, to });
        self.step(Event::ExecutorJoined(registration));
        Ok(attachment)
    }

    /// The number of this life of the driver: later ones have higher numbers.
    fn epoch(&self) -> u64 {
        self.clock.started_ms
    }

    fn hear(&mut self, executor: ExecutorId, message: FromExecutor) {
        match message {
            FromExecutor::Heartbeat { running, .. } => {
                let named = running.iter().map(|one| (one.task, one.attempt)).collect();
                self.step(Event::ExecutorHeard {
                    executor,
                    running: named,
                });
                if !running.is_empty() {
                    self.step(Event::Progressed { executor, running });
                }
            }
            FromExecutor::Report(report) => self.step(Event::Reported { executor, report }),
            FromExecutor::Draining => self.step(Event::ExecutorDraining { executor }),
            // The registration opened the attachment; another one says nothing new.
            FromExecutor::Register(_) => {}
        }
    }

    fn finished(&mut self, outcome: Result<Option<Event>, tokio::task::JoinError>) {
        match outcome {
            Ok(Some(event)) => self.step(event),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "work of the driver was cut off"),
        }
    }

    /// Steps the scheduler and carries out what follows, until nothing more does.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.board.lock().scheduler.step(self.clock.now(), event);
            for action in actions {
                tracing::debug!(%action);
                events.extend(self.perform(action));
            }
        }
    }

    /// Carries out an action; gives what follows from it at once.
    fn perform(&mut self, action: Action) -> Option<Event> {
        let components = self.components.clone();
        match action {
            Action::Plan { job, done } => {
                let Some(planner) = self.planners.get(&job).cloned() else {
                    // Without an answer the job would wait for ever.
                    return Some(work::plan_failed(job, &unplanned(job)));
                };
                let capacity = self.board.lock().scheduler.capacity();
                self.work
                    .spawn(work::plan(components, job, planner, done, capacity));
            }
            Action::Launch { executor, spec } => {
                return self.send(
                    executor,
                    ToExecutor::Launch {
                        epoch: self.epoch(),
                        spec,
                    },
                );
            }
            Action::Cancel {
                executor,
                task,
                attempt,
            } => {
                return self.send(executor, ToExecutor::Cancel { task, attempt });
            }
            Action::Acknowledge { executor, sequence } => {
                return self.send(executor, ToExecutor::Acknowledge { sequence });
            }
            Action::EndJob { executor, job } => {
                return self.send(executor, ToExecutor::JobEnded { job });
            }
            Action::Commit { job, output, files } => {
                self.work
                    .spawn(work::commit(components, job, output, files));
            }
            Action::Discard { job, output } => {
                self.work.spawn(work::discard(components, job, output));
            }
            Action::Cleanup { job, objects } => {
                self.work.spawn(work::clean(components, job, objects));
            }
            Action::Forget { executor } => {
                tracing::info!(%executor, "executor is not counted on any more");
                self.attachments.remove(&executor);
            }
            Action::Drop { job } => self.board.lock().forget(job),
        }
        None
    }

    /// Sends a message to an executor. One that does not take its messages counts as gone.
    fn send(&mut self, executor: ExecutorId, message: ToExecutor) -> Option<Event> {
        let attached = self.attachments.get(&executor)?;
        let error = attached.to.try_send(message).err()?;
        tracing::warn!(%executor, %error, "executor does not take its messages");
        self.attachments.remove(&executor);
        Some(Event::ExecutorGone { executor })
    }

    /// Tells those who watch jobs what has changed: states at once, progress now and then.
    fn publish(&mut self) {
        let mut board = self.board.lock();
        let changed = board.scheduler.take_changed();
        let urgent: BTreeSet<JobId> = changed
            .iter()
            .copied()
            .filter(|&job| board.is_stale(job))
            .collect();
        board.publish(&urgent);
        self.unpublished.extend(changed.difference(&urgent));
        let now = Instant::now();
        if self.publish_at.is_some_and(|at| at <= now) {
            board.publish(&std::mem::take(&mut self.unpublished));
            self.publish_at = None;
        } else if !self.unpublished.is_empty() {
            self.publish_at.get_or_insert(now + PUBLISH_INTERVAL);
        }
        drop(board);
        for job in changed {
            let status = self.board.lock().scheduler.status(job, Detail::Stages);
            let ended = status.filter(|status| status.state.is_final());
            if let Some(status) = ended.filter(|_| self.active.remove(&job)) {
                self.planners.remove(&job);
                log_ended(&status);
            }
        }
    }

    /// Cancels what runs, removes what is kept, and waits for that a while.
    async fn stop(&mut self) {
        self.inbox.close();
        self.step(Event::Stopping);
        // What executors have reported meanwhile names objects that have to go as well.
        while let Ok(input) = self.inbox.try_recv() {
            if matches!(input, Input::Heard { .. }) {
                self.take(input);
            }
        }
        self.publish();
        let patience = tokio::time::sleep(STOP_PATIENCE);
        tokio::pin!(patience);
        while !self.work.is_empty() {
            tokio::select! {
                Some(outcome) = self.work.join_next() => self.finished(outcome),
                () = &mut patience => {
                    tracing::warn!(left = self.work.len(), "stopped with work under way");
                    break;
                }
            }
            self.publish();
        }
    }
}

/// Tells those who watch jobs, when it is dropped, that there is no more to come.
struct Closing(SharedBoard);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().close();
    }
}

/// The defect that a job is to be planned that nobody has a plan of.
fn unplanned(job: JobId) -> Error {
    Error::internal(format!("there is nothing to plan the job from job={job}"))
}

/// One line for a job that has ended, with what it cost.
fn log_ended(status: &JobStatus) {
    let mut sum = Counts::default();
    status
        .stages
        .iter()
        .for_each(|stage| sum.add(&stage.counts));
    let took_ms = status
        .ended_ms
        .unwrap_or_default()
        .saturating_sub(status.submitted_ms);
    tracing::info!(
        job = %status.id,
        state = ?status.state,
        failure = status.failure.as_ref().map(|failure| &failure.message),
        took_ms,
        bytes_in = sum.bytes_in,
        bytes_out = sum.bytes_out,
        objects = sum.objects,
        gets = sum.gets,
        puts = sum.puts,
        "job has ended"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kiln_engine::storage::{Compression, ShuffleStore, Stores};
    use kiln_proto::message::JobState;
    use object_store::memory::InMemory;

    use super::*;
    use crate::scheduler::Scheduler;

    #[tokio::test]
    async fn a_job_that_nobody_can_plan_fails() {
        let settings = DriverSettings::default();
        let board = SharedBoard::new(Scheduler::new(settings.clone()));
        let store = Arc::new(InMemory::new());
        let components = Components {
            stores: Arc::new(Stores::new()),
            shuffle: ShuffleStore::new(store, "shuffle".into(), Compression::None),
            storage_url: "memory:///shuffle".to_owned(),
        };
        let (_inbox, inputs) = mpsc::channel(1);
        let (_alive, handles) = oneshot::channel();
        let mut driver = EventLoop::new(settings, components, board.clone(), inputs, handles);
        driver.step(Event::ExecutorJoined(Registration {
            executor: ExecutorId(7),
            name: "host-7".to_owned(),
            protocol: PROTOCOL_VERSION,
            threads: 1,
            slots: 1,
            memory: 1 << 30,
        }));
        // Submitted past the loop, so that there is no planner.
        let job = JobId::new(1);
        let name = "a job".to_owned();
        driver.step(Event::Submitted(Submitted {
            job,
            name,
            program: None,
        }));
        let status = board.lock().scheduler.status(job, Detail::Stages);
        let status = status.expect("the job is known");
        assert_eq!(status.state, JobState::Failed);
        assert_eq!(
            status.failure.expect("it failed").message,
            "there is nothing to plan the job from job=000000000001"
        );
    }
}
