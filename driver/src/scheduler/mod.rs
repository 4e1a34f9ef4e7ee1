//! The scheduler: which attempt of which task runs where, and what follows from how it ends.
//!
//! It is a pure state machine. [`Scheduler::step`] takes the time and one [`Event`] and gives the
//! [`Action`]s that follow; there is no clock, no socket, no waiting and no chance in here, and
//! maps are ordered, so the same events give the same actions, byte for byte. The event loop
//! around it carries actions out and turns what comes of them into events.
//!
//! What always holds:
//! - a task has at most one winner, and a job ends exactly once;
//! - an attempt runs if and only if it is in the table of its executor;
//! - only executors that have a stream are told anything;
//! - whatever shuffle object may exist is named in a `Cleanup` once, when its job ends, or when
//!   its result is kept no longer, or when its attempt turns out to have succeeded even later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arrow::datatypes::SchemaRef;
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::limits;
use kiln_engine::plan::{ClusterShape, Output, Program, ShuffleSource};
use kiln_engine::storage::ShuffleObject;
use kiln_proto::message::{ExecutorStatus, JobState, JobStatus, Record, Report, RunningAttempt};

use crate::settings::DriverSettings;

mod agenda;
mod attempt;
mod event;
mod executor;
mod executors;
mod grouping;
mod job;
mod pace;
mod placement;
mod prepared;
mod ratio;
mod restore;
mod results;
mod retry;
mod runs;
mod stage;
mod status;
mod task;
mod written;

pub use event::{Action, Event, Millis, Submitted};
pub use status::Detail;

use agenda::Agenda;
use attempt::Loss;
use executors::Executors;
use job::{Job, Next, Turn};
use results::Results;

/// Decides for all jobs of one driver.
#[derive(Debug)]
pub struct Scheduler {
    settings: DriverSettings,
    executors: Executors,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that have not ended, in the order of submission.
    active: BTreeMap<u64, JobId>,
    /// Jobs that have, in the order in which they did.
    ended: VecDeque<JobId>,
    results: Results,
    /// What the jobs that have not ended want.
    agenda: Agenda,
    /// Jobs that something has happened to in this step, in the order of submission.
    touched: BTreeSet<(u64, JobId)>,
    /// Whether any executor took work when that was last looked at.
    staffed: bool,
    /// The pass of the job that was served last.
    pass: u64,
    /// There is more to launch than one step launches.
    unfinished: bool,
    submissions: u64,
    /// When the last step was.
    stepped: Millis,
    /// Jobs about which something may have changed since somebody asked.
    changed: BTreeSet<JobId>,
    /// What happens is to be written down.
    journaled: bool,
}

/// Where the result of a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultLocation {
    /// The stage that made it.
    pub stage: StageId,
    /// Its columns.
    pub schema: SchemaRef,
    /// The objects that hold it, in the order of tasks; every partition of each.
    pub sources: Vec<ShuffleSource>,
}

impl Scheduler {
    /// A scheduler that knows no executor and no job.
    pub fn new(settings: DriverSettings) -> Self {
        Scheduler {
            executors: Executors::new(settings.clone()),
            settings,
            jobs: BTreeMap::new(),
            active: BTreeMap::new(),
            ended: VecDeque::new(),
            results: Results::default(),
            agenda: Agenda::default(),
            touched: BTreeSet::new(),
            staffed: false,
            pass: 0,
            unfinished: false,
            submissions: 0,
            stepped: 0,
            changed: BTreeSet::new(),
            journaled: false,
        }
    }

    /// A scheduler that has what happens written down.
    pub fn journaled(settings: DriverSettings) -> Self {
        Scheduler {
            journaled: true,
            ..Scheduler::new(settings)
        }
    }

    /// Takes note of `event`, which happened at `now`, and gives what is to be done, in order.
    /// `now` must not run backwards.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.stepped = now;
        self.executors.pass(now);
        self.take(now, event, &mut actions);
        let staffed = self.look_round(now);
        self.for_touched(now, &mut actions, |job, turn| {
            job.take_up(turn);
            job.retry_commit(turn);
            job.request_plan(turn);
        });
        self.place(now, &mut actions);
        if !staffed {
            let grace_ms = self.settings.grace_ms;
            self.for_touched(now, &mut actions, |job, turn| job.starve(grace_ms, turn));
        }
        self.retire(now, &mut actions);
        self.touched.clear();
        actions
    }

    fn take(&mut self, now: Millis, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => self.expire(now, actions),
            Event::ExecutorJoined(registration) => self.executors.join(now, registration),
            Event::ExecutorHeard { executor, running } => {
                self.hear(now, executor, &running, actions);
            }
            Event::Progressed { executor, running } => {
                self.progress(now, executor, running, actions)
            }
            Event::ExecutorGone { executor } => {
                self.executors.disconnect(now, executor);
                self.forget_if_left(executor, actions);
            }
            Event::ExecutorDraining { executor } => self.executors.drain(now, executor),
            Event::Submitted(submitted) => self.submit(now, submitted),
            Event::Planned { job, graph } => {
                self.with_job(job, now, actions, |job, turn| job.planned(&graph, turn));
            }
            Event::PlanFailed { job, failure } => {
                self.with_job(job, now, actions, |job, turn| {
                    job.plan_failed(failure, turn)
                });
            }
            Event::Reported { executor, report } => self.report(now, executor, report, actions),
            Event::CancelRequested { job } => self.with_job(job, now, actions, Job::cancel),
            Event::Committed { job, outcome } => {
                self.with_job(job, now, actions, |job, turn| job.committed(outcome, turn));
            }
            Event::ResultRead { job } => self.results.read(now, job),
            Event::Stopping => self.stop(now, actions),
        }
    }

    /// Lets something happen to one job, if it is known.
    fn with_job(
        &mut self,
        job: JobId,
        now: Millis,
        actions: &mut Vec<Action>,
        change: impl FnOnce(&mut Job, &mut Turn<'_>),
    ) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            self.changed.insert(job);
            self.touched.insert((entry.order, job));
            change(
                entry,
                &mut Turn {
                    now,
                    executors: &mut self.executors,
                    actions,
                    journaled: self.journaled,
                },
            );
        }
    }

    /// Notes what a job wants now.
    fn note(&mut self, now: Millis, job: JobId) {
        let entry = self.jobs.get(&job);
        let wants = entry.and_then(|job| job.wants(now, self.settings.grace_ms));
        self.agenda.note(job, wants);
    }

    /// Finds the jobs that something is to happen to though this step's event was not about them:
    /// those about which something is due, and all of them if the first executor takes work or the
    /// last one does so no more. Gives whether some did and do: then no job starves.
    fn look_round(&mut self, now: Millis) -> bool {
        let due: Vec<JobId> = self.agenda.due(now).collect();
        for job in due {
            if let Some(entry) = self.jobs.get(&job) {
                self.touched.insert((entry.order, job));
            }
        }
        let staffed = self.executors.any_accepting();
        let before = std::mem::replace(&mut self.staffed, staffed);
        if before != staffed {
            let active = self.active.iter().map(|(&order, &job)| (order, job));
            self.touched.extend(active);
        }
        before && staffed
    }

    /// Lets something happen to the jobs that this step is about and that have not ended.
    fn for_touched(
        &mut self,
        now: Millis,
        actions: &mut Vec<Action>,
        change: impl Fn(&mut Job, &mut Turn<'_>),
    ) {
        for (_, id) in &self.touched {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            if job.state.is_final() {
                self.agenda.note(*id, None);
                continue;
            }
            let before = (job.state, job.note.is_some());
            change(
                job,
                &mut Turn {
                    now,
                    executors: &mut self.executors,
                    actions,
                    journaled: self.journaled,
                },
            );
            if before != (job.state, job.note.is_some()) {
                self.changed.insert(*id);
            }
            let wants = job.wants(now, self.settings.grace_ms);
            self.agenda.note(*id, wants);
        }
    }

    fn submit(&mut self, now: Millis, submitted: Submitted) {
        let job = submitted.job;
        if let std::collections::btree_map::Entry::Vacant(entry) = self.jobs.entry(job) {
            let order = self.submissions;
            self.submissions += 1;
            entry.insert(Job::new(submitted, order, self.pass, now));
            self.active.insert(order, job);
            self.touched.insert((order, job));
            self.changed.insert(job);
        }
    }

    /// Gives up executors whose lease has ended.
    fn expire(&mut self, now: Millis, actions: &mut Vec<Action>) {
        for (executor, record) in self.executors.expire(now) {
            actions.push(Action::Forget { executor });
            let loss = if record.draining {
                Loss::Drained
            } else {
                Loss::Executor
            };
            for (task, attempt) in record.running() {
                self.with_job(task.job, now, actions, |job, turn| {
                    job.lost(task, attempt, loss, turn);
                });
            }
        }
    }

    /// Takes note of how far attempts are.
    fn progress(
        &mut self,
        now: Millis,
        executor: ExecutorId,
        running: Vec<RunningAttempt>,
        actions: &mut Vec<Action>,
    ) {
        for one in running {
            self.with_job(one.task.job, now, actions, |job, _| {
                job.progressed(now, executor, one);
            });
        }
    }

    fn hear(
        &mut self,
        now: Millis,
        executor: ExecutorId,
        running: &[(TaskId, u32)],
        actions: &mut Vec<Action>,
    ) {
        let difference = self.executors.hear(now, executor, running);
        for (task, attempt) in difference.missing {
            self.with_job(task.job, now, actions, |job, turn| {
                job.lost(task, attempt, Loss::Missing, turn);
            });
        }
        for (task, attempt) in difference.strange {
            let mut adopted = false;
            self.with_job(task.job, now, actions, |job, turn| {
                adopted = job.adopt(executor, task, attempt, turn);
            });
            if !adopted {
                actions.push(Action::Cancel {
                    executor,
                    task,
                    attempt,
                });
            }
        }
    }

    fn report(
        &mut self,
        now: Millis,
        executor: ExecutorId,
        report: Report,
        actions: &mut Vec<Action>,
    ) {
        let Report {
            sequence,
            task,
            attempt,
            outcome,
        } = report;
        let acknowledged = self.executors.report(now, executor, sequence);
        if !self.jobs.contains_key(&task.job) && outcome.is_ok() {
            // Nobody will read what it has written; that is, if this driver knows all jobs that
            // there are, as the one that leads does.
            if self.journaled {
                actions.push(Action::Record(Record::Alive));
            }
            actions.push(Action::Cleanup {
                job: task.job,
                objects: vec![(task.stage, task.task, attempt)],
            });
        }
        self.with_job(task.job, now, actions, |job, turn| {
            job.reported(executor, task, attempt, outcome, turn);
        });
        // Behind what follows from the report: it may be forgotten when that is written down.
        let acknowledge = |sequence| Action::Acknowledge { executor, sequence };
        actions.extend(acknowledged.map(acknowledge));
    }

    fn forget_if_left(&mut self, executor: ExecutorId, actions: &mut Vec<Action>) {
        if self.executors.remove_if_left(executor) {
            actions.push(Action::Forget { executor });
        }
    }

    /// Launches what can be launched: the next task of the job whose turn it is, as long as there
    /// is a free slot; then second attempts of slow tasks. What is launched at once is bounded by
    /// what it is told of its input, so that no step keeps others waiting; the rest comes with the
    /// next tick, which is due at once.
    fn place(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let mut sources = 0;
        self.unfinished = false;
        while let Some((job, (stage, task, executor))) = self.next_launch(now) {
            self.unfinished = sources >= limits::LAUNCH_SOURCES_MAX;
            if self.unfinished {
                return;
            }
            let served = self.pass;
            let mut pass = served;
            self.with_job(job, now, actions, |job, turn| {
                pass = job.serve(served);
                job.launch(stage, task, executor, turn);
            });
            self.pass = pass;
            self.note(now, job);
            sources += actions.last().map_or(0, Action::sources);
        }
    }

    fn next_launch(&self, now: Millis) -> Option<(JobId, Next)> {
        if !placement::any_free(&self.executors) {
            return None;
        }
        let fresh = self.agenda.ready().find_map(|id| {
            let job = self.jobs.get(&id)?;
            Some((id, job.next_task(now, &self.executors)?))
        });
        fresh.or_else(|| {
            self.agenda.late().find_map(|id| {
                let job = self.jobs.get(&id)?;
                Some((id, job.next_straggler(now, &self.executors)?))
            })
        })
    }

    /// Ends what runs and gives up every result.
    fn stop(&mut self, now: Millis, actions: &mut Vec<Action>) {
        for job in self.jobs() {
            self.with_job(job, now, actions, Job::cancel);
            self.drop_result(now, job, actions);
        }
    }

    fn drop_result(&mut self, now: Millis, job: JobId, actions: &mut Vec<Action>) {
        self.results.forget(job);
        self.with_job(job, now, actions, Job::drop_result);
    }

    /// Files away jobs that have ended, and drops the oldest of them and results that are kept no
    /// longer.
    fn retire(&mut self, now: Millis, actions: &mut Vec<Action>) {
        for (order, id) in std::mem::take(&mut self.touched) {
            let job = self.jobs.get(&id).filter(|job| job.state.is_final());
            if job.is_some() && self.active.remove(&order).is_some() {
                self.file_away(now, id);
            }
        }
        while let Some(job) = self.results.surplus(now) {
            self.drop_result(now, job, actions);
        }
        while self.ended.len() > limits::JOBS_ENDED_MAX {
            let Some(job) = self.ended.pop_front() else {
                break;
            };
            self.drop_result(now, job, actions);
            self.jobs.remove(&job);
            self.changed.remove(&job);
            if self.journaled {
                actions.push(Action::Record(Record::Forgotten { job }));
            }
            actions.push(Action::Drop { job });
        }
    }

    /// Takes note that a job has ended.
    fn file_away(&mut self, now: Millis, job: JobId) {
        self.ended.push_back(job);
        if let Some(bytes) = self.jobs.get(&job).and_then(Job::result_bytes) {
            self.results.add(now, job, bytes);
        }
    }

    /// When to send the next [`Event::Tick`], if nothing else happens before. It may be in the
    /// past; what is due is counted from the last step, so that nothing falls in between.
    pub fn deadline(&self) -> Option<Millis> {
        let now = self.stepped;
        let again = self.unfinished.then_some(now);
        again
            .into_iter()
            .chain(self.agenda.deadline())
            .chain(self.executors.deadline(now))
            .chain(self.results.deadline())
            .min()
    }

    /// How far a job is; nothing if it is not known.
    pub fn status(&self, job: JobId, detail: Detail) -> Option<JobStatus> {
        self.jobs.get(&job).map(|job| status::snapshot(job, detail))
    }

    /// Where a job is in its life; nothing if it is not known.
    pub fn state(&self, job: JobId) -> Option<JobState> {
        self.jobs.get(&job).map(|job| job.state)
    }

    /// All jobs that are known, in the order of submission.
    pub fn jobs(&self) -> Vec<JobId> {
        let mut jobs: Vec<_> = self.jobs.values().map(|job| (job.order, job.id)).collect();
        jobs.sort_unstable();
        jobs.into_iter().map(|(_, id)| id).collect()
    }

    /// How many jobs have not ended.
    pub fn active_jobs(&self) -> usize {
        self.active.len()
    }

    /// Jobs about which something may have changed since this was last called.
    pub fn take_changed(&mut self) -> BTreeSet<JobId> {
        std::mem::take(&mut self.changed)
    }

    /// The executors that are known.
    pub fn executors(&self) -> Vec<ExecutorStatus> {
        self.executors.status()
    }

    /// What the executors that take work can do together.
    pub fn cluster(&self) -> ClusterShape {
        self.executors.shape()
    }

    /// Where the output files of a job go, if that is what it makes.
    pub fn output(&self, job: JobId) -> Option<&Output> {
        self.jobs.get(&job)?.output()
    }

    /// The programs of jobs that have not ended.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let jobs = self.jobs.values().filter(|job| !job.state.is_final());
        jobs.filter_map(|job| job.program.as_deref())
    }

    /// Whether a shuffle object may be of use: its job has not ended, or it holds a result that is
    /// kept.
    pub fn needs(&self, object: &ShuffleObject) -> bool {
        let Some(job) = self.jobs.get(&object.job) else {
            return false;
        };
        !job.state.is_final() || job.keeps(object.stage, object.task, object.attempt)
    }

    /// Where the result of a job is that is done and made no files; nothing once it is kept no
    /// longer.
    pub fn result(&self, job: JobId) -> Option<ResultLocation> {
        let job = self
            .jobs
            .get(&job)
            .filter(|job| job.state == JobState::Done)?;
        let run = job.stages.last().filter(|_| job.keeps_result())?;
        Some(ResultLocation {
            stage: run.stage.id,
            schema: run.stage.schema.clone(),
            sources: run.all_sources(),
        })
    }
}
