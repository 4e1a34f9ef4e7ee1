//! The one task that owns what changes: it feeds events to the scheduler and carries out actions.
//!
//! The loop never waits for anything but its inbox, its own work and the next deadline: messages
//! to executors are put into their channels or, where a channel is full, the executor counts as
//! gone; everything slow runs beside it ([`crate::work`]). It wakes when something happens or is
//! due, so it uses no time while it is idle, and nothing waits for a tick to be launched.
//!
//! A loop is one leadership. Where there is a journal, what has happened goes there first and what
//! follows from it waits ([`crate::ledger`]); the loop ends when somebody else leads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::metrics::Counts;
use kiln_engine::storage::{Created, ShuffleObject};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::{
    self, FromExecutor, JobState, JobStatus, PROTOCOL_VERSION, Record, Registration, Submission,
    ToExecutor, Welcome,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::board::{SharedBoard, unknown};
use crate::journal::JournalStore;
use crate::leader::Leader;
use crate::scheduler::{Action, Detail, Event, Millis, Submitted};
use crate::settings::DriverSettings;
use crate::work::{self, Components, JobPlanner};

mod journaled;

/// Inputs that wait for the loop; senders wait when there are more.
pub(crate) const INBOX_MAX: usize = 1024;

/// Inputs that are taken before progress is published and the deadline is looked at again.
const BATCH_MAX: usize = 256;

/// How often those who watch a job are told of its progress. A change of state is told at once.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// How long stopping waits for work that is under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long a loop that ends waits for what it has still to write down.
const FLUSH_PATIENCE: Duration = Duration::from_secs(3);

/// How long writing an entry may take before it is tried again.
const APPEND_WAIT: Duration = Duration::from_secs(10);

/// How long after a leadership has begun nothing is launched for jobs of earlier ones: executors
/// come back meanwhile, and say what they run and what they have done.
pub(crate) const SETTLE_MS: Millis = 2_000;

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

/// How a leadership ended.
pub(crate) enum End {
    /// The driver is to stop; perhaps somebody wants to know when it has.
    Stopped(Option<oneshot::Sender<()>>),
    /// Somebody else leads.
    Deposed,
    /// Nothing could be written for so long that somebody else may lead.
    CutOff,
}

/// What came of work beside the loop.
enum Done {
    /// What follows from it.
    Event(Option<Event>),
    /// The output of a job is in place, or not.
    Committed(JobId, Option<Event>),
    /// Something that a job left behind is removed, or at least a part of it.
    Tidied(JobId, bool),
    /// An entry of the journal was written, or not.
    Wrote(Result<Created>),
    /// The journal was replaced by a snapshot of so many bytes.
    Compacted(Result<u64>),
    /// The shuffle objects that there are.
    Listed(Result<Vec<ShuffleObject>>),
}

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
    /// What leads, where there is a journal, and that journal.
    leader: Option<(Leader<Answer<JobId>>, JournalStore)>,
    /// Somebody else leads.
    deposed: bool,
    attachments: BTreeMap<ExecutorId, Attached>,
    attachments_made: u64,
    /// Planners of jobs that have not ended.
    planners: BTreeMap<JobId, JobPlanner>,
    work: JoinSet<Done>,
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
    ) -> Self {
        EventLoop {
            settings,
            components,
            board,
            clock: Clock::start(),
            leader: None,
            deposed: false,
            attachments: BTreeMap::new(),
            attachments_made: 0,
            planners: BTreeMap::new(),
            work: JoinSet::new(),
            active: BTreeSet::new(),
            unpublished: BTreeSet::new(),
            publish_at: None,
        }
    }

    /// Runs until it is told to stop, until nobody holds a handle any more, or until somebody else
    /// leads.
    pub(crate) async fn run(
        &mut self,
        inbox: &mut mpsc::Receiver<Input>,
        handles: &mut oneshot::Receiver<()>,
    ) -> End {
        self.step(Event::Tick);
        self.write();
        let answer = loop {
            let due = self.due();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let stop = tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => self.take_batch(Some(input), inbox),
                    None => Some(None),
                },
                Some(outcome) = self.work.join_next(), if !self.work.is_empty() => {
                    self.finished(outcome);
                    None
                }
                () = wait => {
                    // What has arrived already counts before time does: after a stall of this
                    // process the heartbeats that wait here must not come too late.
                    let waiting = inbox.try_recv().ok();
                    let stop = self.take_batch(waiting, inbox);
                    self.step(Event::Tick);
                    stop
                }
                _ = &mut *handles => Some(None),
            };
            // It may find an answer that says that somebody else leads.
            let is_cut_off = self.is_cut_off();
            if self.deposed {
                tracing::warn!("somebody else leads");
                return End::Deposed;
            }
            if is_cut_off {
                tracing::warn!("the storage does not answer, so somebody else may lead");
                return End::CutOff;
            }
            if let Some(answer) = stop {
                break answer;
            }
            self.write();
            self.publish();
        };
        self.stop(inbox).await;
        End::Stopped(answer)
    }

    /// When to wake though nothing happens.
    fn due(&self) -> Option<Instant> {
        let deadline = self.board.lock().scheduler.deadline();
        let deadline = deadline.map(|at| self.clock.instant(at));
        let leader = self.leader.as_ref();
        let write = leader.and_then(|(leader, _)| leader.deadline());
        let write = write.map(|at| self.clock.instant(at));
        let others = self.publish_at.into_iter().chain(write);
        deadline.into_iter().chain(others).min()
    }

    /// Takes an input and those behind it; gives whom to tell if the loop is to stop.
    fn take_batch(
        &mut self,
        first: Option<Input>,
        inbox: &mut mpsc::Receiver<Input>,
    ) -> Option<Option<oneshot::Sender<()>>> {
        let mut next = first;
        for _ in 0..BATCH_MAX {
            match next {
                Some(Input::Stop { answer }) => return Some(Some(answer)),
                Some(input) => self.take(input),
                None => break,
            }
            next = inbox.try_recv().ok();
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
            Input::Submit { submission, answer } => match self.submit(*submission) {
                Ok(job) => self.accepted(job, answer),
                Err(error) => drop(answer.send(Err(error))),
            },
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
        let weight = submission.weight;
        let job = {
            let board = self.board.lock();
            if let Some(job) = board.keyed(submission.key) {
                return Ok(job);
            }
            if submission.name.len() > limits::JOB_NAME_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "a job's name is too long bytes={} bytes_max={}",
                    submission.name.len(),
                    limits::JOB_NAME_BYTES_MAX
                )));
            }
            if !(1..=limits::JOB_WEIGHT_MAX).contains(&weight) {
                return Err(Error::invalid(format!(
                    "a job's weight is out of range weight={weight} weight_min=1 weight_max={}",
                    limits::JOB_WEIGHT_MAX
                )));
            }
            let (active, most) = (board.scheduler.active_jobs(), self.settings.jobs_max);
            if active >= most {
                return Err(Error::exhausted(format!(
                    "the driver has as many jobs as it takes: submit again when one has ended, \
                     cancel one, or start the driver with a larger --max-jobs jobs={active} \
                     jobs_max={most}"
                )));
            }
            let fresh = || JobId::new(fastrand::u64(..) ^ self.clock.now());
            let mut job = fresh();
            while board.scheduler.state(job).is_some() {
                job = fresh();
            }
            job
        };
        if let Some((leader, _)) = &mut self.leader {
            leader.submitted(&Record::Submitted(Box::new(message::Submitted {
                job,
                at_ms: self.clock.now(),
                term: leader.term(),
                submission: submission.clone(),
            })))?;
        }
        let Submission {
            name,
            key,
            plan,
            program,
            ..
        } = submission;
        self.board.lock().remember(key, job);
        tracing::info!(%job, name, "submitted");
        let output = plan.output().cloned();
        self.planners.insert(job, JobPlanner::new(plan));
        self.active.insert(job);
        let program = program.map(|offered| Arc::new(offered.program));
        self.step(Event::Submitted(Submitted {
            job,
            name,
            program,
            weight,
            output,
        }));
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

    /// The number of this leadership, or of this life of the driver: later ones have higher
    /// numbers.
    fn epoch(&self) -> u64 {
        let leader = self.leader.as_ref();
        leader.map_or(self.clock.started_ms, |(leader, _)| leader.term())
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

    fn finished(&mut self, outcome: Result<Done, tokio::task::JoinError>) {
        let done = match outcome {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "work of the driver was cut off"),
        };
        match done {
            Done::Event(event) => self.follow(event),
            Done::Committed(job, event) => {
                self.follow(event);
                self.led(Done::Tidied(job, true));
            }
            done => self.led(done),
        }
    }

    fn follow(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.step(event);
        }
    }

    /// Steps the scheduler and carries out what follows, until nothing more does.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.board.lock().scheduler.step(self.clock.now(), event);
            for action in actions {
                tracing::debug!(%action);
                events.extend(self.admit(action));
            }
        }
    }

    /// Carries out an action; gives what follows from it at once.
    fn perform(&mut self, action: Action) -> Option<Event> {
        let components = self.components.clone();
        match action {
            Action::Plan { job, cluster, done } => {
                let Some(planner) = self.planners.get(&job).cloned() else {
                    // Without an answer the job would wait for ever.
                    return Some(work::plan_failed(job, &unplanned(job)));
                };
                let plan = work::plan(components, job, planner, done, cluster);
                self.work.spawn(async move { Done::Event(plan.await) });
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
                let commit = work::commit(components, job, output, files);
                self.work
                    .spawn(async move { Done::Committed(job, commit.await) });
            }
            Action::Discard { job, output } => {
                let discard = work::discard(components, job, output);
                self.work
                    .spawn(async move { Done::Tidied(job, discard.await) });
            }
            Action::Cleanup { job, objects } => {
                let clean = work::clean(components, job, objects);
                self.work
                    .spawn(async move { Done::Tidied(job, clean.await) });
            }
            Action::Forget { executor } => {
                tracing::info!(%executor, "executor is not counted on any more");
                self.attachments.remove(&executor);
            }
            Action::Drop { job } => self.board.lock().forget(job),
            // The scheduler of this driver has nothing written down.
            Action::Record(_) => {}
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
        let changed = board.take_changed();
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
            let state = self.board.lock().scheduler.state(job);
            if state.is_some_and(JobState::is_final) && self.active.remove(&job) {
                self.planners.remove(&job);
                let status = self.board.lock().scheduler.status(job, Detail::Stages);
                status.iter().for_each(log_ended);
            }
        }
    }

    /// Cancels what runs, removes what is kept, and waits for that a while. Where there is a
    /// journal it leaves everything to the next driver instead.
    async fn stop(&mut self, inbox: &mut mpsc::Receiver<Input>) {
        inbox.close();
        if self.leader.is_some() {
            return self.resign().await;
        }
        self.step(Event::Stopping);
        // What executors have reported meanwhile names objects that have to go as well.
        while let Ok(input) = inbox.try_recv() {
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
            journal: None,
        };
        let mut driver = EventLoop::new(settings, components, board.clone());
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
            weight: 1,
            output: None,
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
