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
use kiln_engine::plan::ShuffleSource;
use kiln_proto::message::{ExecutorStatus, JobState, JobStatus, Report, RunningAttempt};

use crate::settings::DriverSettings;

mod attempt;
mod event;
mod executors;
mod grouping;
mod job;
mod placement;
mod results;
mod retry;
mod stage;
mod status;
mod task;

pub use event::{Action, Event, Millis, Submitted};
pub use status::Detail;

use attempt::Loss;
use executors::Executors;
use job::{Job, Turn};
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
    submissions: u64,
    /// When the last step was.
    stepped: Millis,
    /// Jobs about which something may have changed since somebody asked.
    changed: BTreeSet<JobId>,
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

/// The executors that take work now, taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many there are.
    pub executors: u32,
    /// Their threads.
    pub threads: u32,
    /// Memory budget of the smallest, in bytes.
    pub memory: u64,
    /// Others may join them.
    pub may_grow: bool,
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
            submissions: 0,
            stepped: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Takes note of `event`, which happened at `now`, and gives what is to be done, in order.
    /// `now` must not run backwards.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.stepped = now;
        self.take(now, event, &mut actions);
        self.for_active(now, &mut actions, |job, turn| {
            job.retry_commit(turn);
            job.request_plan(turn);
        });
        self.place(now, &mut actions);
        let grace_ms = self.settings.grace_ms;
        self.for_active(now, &mut actions, |job, turn| job.starve(grace_ms, turn));
        self.retire(now, &mut actions);
        actions
    }

    fn take(&mut self, now: Millis, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => self.expire(now, actions),
            Event::ExecutorJoined(registration) => self.executors.join(now, registration),
            Event::ExecutorHeard { executor, running } => {
                self.hear(now, executor, &running, actions);
            }
            Event::Progressed { executor, running } => self.progress(executor, running),
            Event::ExecutorGone { executor } => {
                self.executors.disconnect(now, executor);
                self.forget_if_left(executor, actions);
            }
            Event::ExecutorDraining { executor } => {
                if let Some(executor) = self.executors.touch(now, executor) {
                    executor.draining = true;
                }
            }
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
            change(
                entry,
                &mut Turn {
                    now,
                    executors: &mut self.executors,
                    actions,
                },
            );
        }
    }

    /// Lets something happen to every job that has not ended.
    fn for_active(
        &mut self,
        now: Millis,
        actions: &mut Vec<Action>,
        change: impl Fn(&mut Job, &mut Turn<'_>),
    ) {
        for id in self.active.values() {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            if job.state.is_final() {
                continue;
            }
            let before = (job.state, job.note.is_some());
            change(
                job,
                &mut Turn {
                    now,
                    executors: &mut self.executors,
                    actions,
                },
            );
            if before != (job.state, job.note.is_some()) {
                self.changed.insert(*id);
            }
        }
    }

    fn submit(&mut self, now: Millis, submitted: Submitted) {
        let job = submitted.job;
        if let std::collections::btree_map::Entry::Vacant(entry) = self.jobs.entry(job) {
            let order = self.submissions;
            self.submissions += 1;
            entry.insert(Job::new(submitted, order, now));
            self.active.insert(order, job);
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

    /// Takes note of how far attempts are, for people.
    fn progress(&mut self, executor: ExecutorId, running: Vec<RunningAttempt>) {
        for one in running {
            if let Some(job) = self.jobs.get_mut(&one.task.job) {
                job.progressed(executor, one);
                self.changed.insert(job.id);
            }
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
        if let Some(sequence) = self.executors.report(now, executor, sequence) {
            actions.push(Action::Acknowledge { executor, sequence });
        }
        self.with_job(task.job, now, actions, |job, turn| {
            job.reported(executor, task, attempt, outcome, turn);
        });
    }

    fn forget_if_left(&mut self, executor: ExecutorId, actions: &mut Vec<Action>) {
        if self.executors.remove_if_left(executor) {
            actions.push(Action::Forget { executor });
        }
    }

    /// Launches what can be launched: the next task of the job that has the fewest running, as
    /// long as there is a free slot; then second attempts of slow tasks.
    fn place(&mut self, now: Millis, actions: &mut Vec<Action>) {
        while let Some((job, stage, task, executor)) = self.next_launch(now) {
            self.with_job(job, now, actions, |job, turn| {
                job.launch(stage, task, executor, turn);
            });
        }
    }

    fn next_launch(&self, now: Millis) -> Option<(JobId, usize, u32, ExecutorId)> {
        if !placement::any_free(&self.executors) {
            return None;
        }
        let jobs = self.active.values().filter_map(|id| self.jobs.get(id));
        let mut jobs: Vec<&Job> = jobs.filter(|job| job.state == JobState::Running).collect();
        jobs.sort_by_key(|job| (job.running, job.order));
        let fresh = jobs.iter().find_map(|job| {
            let place = |failed_on: &_| placement::choose(&self.executors, now, failed_on);
            Some((job.id, job.next_task(now, place)?))
        });
        let next = fresh.or_else(|| {
            jobs.iter().find_map(|job| {
                let place = |avoid: &_| placement::choose_other(&self.executors, now, avoid);
                Some((job.id, job.next_straggler(now, place)?))
            })
        });
        next.map(|(job, (stage, task, executor))| (job, stage, task, executor))
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
        let (jobs, ended, results) = (&self.jobs, &mut self.ended, &mut self.results);
        self.active.retain(|_, id| {
            let job = jobs.get(id).filter(|job| !job.state.is_final());
            if job.is_none() {
                ended.push_back(*id);
                if let Some(bytes) = jobs.get(id).and_then(Job::result_bytes) {
                    results.add(now, *id, bytes);
                }
            }
            job.is_some()
        });
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
            actions.push(Action::Drop { job });
        }
    }

    /// When to send the next [`Event::Tick`], if nothing else happens before. It may be in the
    /// past; what is due is counted from the last step, so that nothing falls in between.
    pub fn deadline(&self) -> Option<Millis> {
        let now = self.stepped;
        let jobs = self.active.values().filter_map(|id| self.jobs.get(id));
        let jobs = jobs.filter_map(|job| job.deadline(now, self.settings.grace_ms));
        jobs.chain(self.executors.deadline(now))
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
    pub fn capacity(&self) -> Capacity {
        let mut sum = Capacity {
            executors: 0,
            threads: 0,
            memory: 0,
            may_grow: !self.settings.embedded,
        };
        for (_, executor) in self.executors.accepting() {
            sum.executors += 1;
            sum.threads = sum.threads.saturating_add(executor.registration.threads);
            let memory = executor.registration.memory;
            sum.memory = if sum.executors == 1 {
                memory
            } else {
                sum.memory.min(memory)
            };
        }
        sum
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
