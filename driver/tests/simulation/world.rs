//! A simulated cluster: time, streams, storage, faults, and what must hold all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use kiln_driver::DriverSettings;
use kiln_driver::planner::StageFacts;
use kiln_driver::scheduler::{Action, Detail, Event, Millis, Scheduler, Submitted};
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::plan::StageGraph;
use kiln_proto::message::{AttemptState, JobState, JobStatus};

use crate::data::{self, Name, Store};
use crate::machine::{Happening, Machine};

const CALM_MS: Millis = 15_000;

/// By then every job has ended, or something is wrong.
const END_MS: Millis = 300_000;

/// What was seen, added up over seeds.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) log_hash: u64,
    pub(crate) steps: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) lost: u64,
    pub(crate) failures: u64,
    pub(crate) revoked: u64,
    pub(crate) stragglers: u64,
    /// Partitions that were split.
    pub(crate) split: u64,
    pub(crate) adopted: u64,
    pub(crate) late: u64,
    /// Times that a plan went on, and what happened to its job while it was asked to.
    pub(crate) increments: u64,
    pub(crate) cancelled_between: u64,
    pub(crate) missed_between: u64,
    pub(crate) lost_between: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        self.steps += other.steps;
        self.done += other.done;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.lost += other.lost;
        self.failures += other.failures;
        self.revoked += other.revoked;
        self.stragglers += other.stragglers;
        self.split += other.split;
        self.adopted += other.adopted;
        self.late += other.late;
        self.increments += other.increments;
        self.cancelled_between += other.cancelled_between;
        self.missed_between += other.missed_between;
        self.lost_between += other.lost_between;
    }
}

pub(crate) struct Job {
    pub(crate) graph: StageGraph,
    /// Stages that the driver has been told of.
    pub(crate) shown: usize,
    /// It runs, and its plan has been asked to go on.
    pub(crate) going_on: bool,
    pub(crate) committed: Option<Vec<u64>>,
    pub(crate) checked: bool,
}

pub(crate) struct World {
    pub(crate) random: fastrand::Rng,
    pub(crate) settings: DriverSettings,
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Millis,
    pub(crate) serial: u64,
    pub(crate) queue: BTreeMap<(Millis, u64), Happening>,
    pub(crate) machines: BTreeMap<ExecutorId, Machine>,
    pub(crate) machines_made: u64,
    pub(crate) streams_made: u64,
    /// Executors that the driver has been told of and has not forgotten, and the stream that it
    /// thinks they have.
    pub(crate) known: BTreeMap<ExecutorId, Option<u64>>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) launched: BTreeSet<(TaskId, u32)>,
    pub(crate) store: Store,
    /// Objects that may be left behind: their writer died before it could tell.
    pub(crate) excused: BTreeSet<Name>,
    /// Something may go wrong.
    pub(crate) rough: bool,
    /// Nothing has been made to go wrong in this run at all.
    pub(crate) spotless: bool,
    pub(crate) print: bool,
    pub(crate) hasher: DefaultHasher,
    pub(crate) seen: Summary,
}

impl World {
    pub(crate) fn new(seed: u64, print: bool) -> Self {
        let settings = DriverSettings {
            heartbeat_ms: 100,
            lease_ms: 1_000,
            reconnect_ms: 300,
            grace_ms: 5_000,
            ..DriverSettings::default()
        };
        let spotless = seed.is_multiple_of(10);
        let mut world = World {
            random: fastrand::Rng::with_seed(seed),
            scheduler: Scheduler::new(settings.clone()),
            settings,
            now: 1_000_000,
            serial: 0,
            queue: BTreeMap::new(),
            machines: BTreeMap::new(),
            machines_made: 0,
            streams_made: 0,
            known: BTreeMap::new(),
            jobs: BTreeMap::new(),
            launched: BTreeSet::new(),
            store: Store::new(),
            excused: BTreeSet::new(),
            rough: !spotless,
            spotless,
            print,
            hasher: DefaultHasher::new(),
            seen: Summary::default(),
        };
        world.populate();
        world
    }

    pub(crate) fn populate(&mut self) {
        for _ in 0..self.random.u32(1..5) {
            let at = self.random.u64(0..500);
            self.later(at, Happening::Start);
        }
        for job in 0..self.random.u64(1..4) {
            let job = JobId::new(job + 1);
            let graph = data::random_graph(&mut self.random);
            self.jobs.insert(
                job,
                Job {
                    graph,
                    shown: 0,
                    going_on: false,
                    committed: None,
                    checked: false,
                },
            );
            let at = self.random.u64(0..4_000);
            self.later(at, Happening::Submit(job));
            if self.rough && self.random.u8(0..10) == 0 {
                let at = at + self.random.u64(0..3_000);
                self.later(at, Happening::Cancel(job));
            }
        }
        if self.rough {
            self.later(10, Happening::Chaos);
        }
        self.later(CALM_MS, Happening::Calm);
    }

    pub(crate) fn later(&mut self, delay: Millis, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(crate) fn at(&mut self, at: Millis, happening: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), happening);
    }

    pub(crate) fn chance(&mut self, percent: u8) -> bool {
        self.rough && self.random.u8(0..100) < percent
    }

    /// Runs until every job has ended and every executor has told everything.
    pub(crate) fn run(mut self) -> Summary {
        let start = self.now;
        loop {
            let (at, serial) = *self.queue.keys().next().expect("executors send heartbeats");
            // Ticks come when they are due, perhaps a little later.
            let due = self.scheduler.deadline();
            if let Some(due) = due.map(|due| due + self.serial % 7).filter(|&due| due < at) {
                self.now = due.max(self.now);
                self.tell(Event::Tick);
                continue;
            }
            self.now = at.max(self.now);
            let happening = self.queue.remove(&(at, serial)).expect("it was just there");
            self.happen(happening);
            if self.now >= start + END_MS {
                let machines = self.machines.values();
                let busy: Vec<_> = machines.filter(|machine| !machine.is_idle()).collect();
                panic!("it does not end: {:?} {busy:?}", self.statuses());
            }
            if self.now > start + CALM_MS && self.is_quiet() {
                break;
            }
        }
        // Results are kept until the driver stops.
        self.tell(Event::Stopping);
        self.check_end();
        self.seen.log_hash = self.hasher.finish();
        self.seen
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let ended = |job: &JobId| self.scheduler.state(*job).is_some_and(JobState::is_final);
        self.jobs.keys().all(ended)
            && self.machines.values().all(Machine::is_idle)
            && self.queue.values().all(|happening| {
                matches!(
                    happening,
                    Happening::Beat(_) | Happening::Tell(Event::ExecutorHeard { .. }, _)
                )
            })
    }

    pub(crate) fn statuses(&self) -> Vec<JobStatus> {
        let jobs = self.jobs.keys();
        jobs.filter_map(|job| self.scheduler.status(*job, Detail::Attempts))
            .collect()
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit(job) => {
                self.tell(Event::Submitted(Submitted {
                    job,
                    name: "simulated".to_owned(),
                    program: None,
                    weight: 1,
                    output: None,
                }));
            }
            Happening::Cancel(job) => self.tell(Event::CancelRequested { job }),
            Happening::Tell(event, stream) => self.arrive(event, stream),
            Happening::Start => self.start(),
            Happening::Chaos => self.chaos(),
            Happening::Calm => {
                self.rough = false;
                self.start();
            }
            Happening::Commit(job, files) => self.commit(job, files),
            Happening::Order(id, stream, action) => {
                self.awake(id, Happening::Order(id, stream, action), Self::obey);
            }
            Happening::Beat(id) => self.awake(id, Happening::Beat(id), Self::beat),
            Happening::Finish(id, task, attempt) => {
                self.awake(id, Happening::Finish(id, task, attempt), Self::finish);
            }
            Happening::Reconnect(id) => {
                self.awake(id, Happening::Reconnect(id), Self::reconnect);
            }
        }
    }

    /// Does something in an executor, once it is awake; nothing if it is dead.
    pub(crate) fn awake(
        &mut self,
        id: ExecutorId,
        happening: Happening,
        act: fn(&mut Self, Happening),
    ) {
        let Some(machine) = self.machines.get(&id) else {
            return;
        };
        let until = machine.stalled_until;
        if until > self.now {
            self.at(until, happening)
        } else {
            act(self, happening)
        }
    }

    /// Something arrives at the driver. Over a stream it has to be the one that the driver knows.
    pub(crate) fn arrive(&mut self, event: Event, stream: Option<(ExecutorId, u64)>) {
        if let Some((id, stream)) = stream {
            let current = self.known.get(&id).copied().flatten() == Some(stream);
            match event {
                Event::ExecutorJoined(_) => drop(self.known.insert(id, Some(stream))),
                _ if !current => return,
                Event::ExecutorGone { .. } => drop(self.known.insert(id, None)),
                _ => {}
            }
        }
        self.tell(event);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.print {
            eprintln!("{} {event:?}", self.now);
        }
        self.seen.steps += 1;
        let before = self.attempts(&event);
        let actions = self.scheduler.step(self.now, event.clone());
        self.notice(&event, before);
        self.notice_between(&event, &actions);
        if let Event::Reported { report, .. } = &event {
            self.check_stopped(report.task);
        }
        for action in actions {
            if self.print {
                eprintln!("{}   {action}", self.now);
            }
            (self.now, action.to_string()).hash(&mut self.hasher);
            self.perform(action);
        }
        self.check_ended();
    }

    /// The state of the attempts that an event is about.
    pub(crate) fn attempts(&self, event: &Event) -> Vec<Option<AttemptState>> {
        let state = |task: TaskId, attempt: u32| {
            let status = self.scheduler.status(task.job, Detail::Attempts)?;
            let stage = status.stages.get(task.stage.0 as usize)?;
            let mut attempts = stage.attempts.iter();
            let found = attempts.find(|a| (a.task, a.attempt) == (task.task, attempt));
            found.map(|attempt| attempt.state)
        };
        match event {
            Event::Reported { report, .. } => vec![state(report.task, report.attempt)],
            Event::ExecutorHeard { running, .. } => running
                .iter()
                .map(|&(task, attempt)| state(task, attempt))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Nobody works on a task that is done.
    fn check_stopped(&self, task: TaskId) {
        let status = self.scheduler.status(task.job, Detail::Attempts);
        let stage = status.and_then(|mut status| {
            let place = task.stage.0 as usize;
            (place < status.stages.len()).then(|| status.stages.swap_remove(place))
        });
        let attempts = stage.into_iter().flat_map(|stage| stage.attempts);
        let states: Vec<_> = attempts
            .filter(|one| one.task == task.task)
            .map(|one| one.state)
            .collect();
        let both = [AttemptState::Won, AttemptState::Running];
        assert!(
            !both.iter().all(|state| states.contains(state)),
            "{task} runs on: {states:?}"
        );
    }

    /// Counts the rarer things.
    pub(crate) fn notice(&mut self, event: &Event, before: Vec<Option<AttemptState>>) {
        let after = self.attempts(event);
        for (before, after) in before.into_iter().zip(after) {
            match (before, after) {
                (Some(AttemptState::Lost), Some(AttemptState::Running)) => self.seen.adopted += 1,
                (Some(AttemptState::Lost | AttemptState::Cancelled), Some(AttemptState::Won)) => {
                    self.seen.late += 1;
                }
                (Some(AttemptState::Won | AttemptState::Failed), after) => {
                    assert_eq!(
                        before, after,
                        "an attempt that has ended changed: {event:?}"
                    );
                }
                _ => {}
            }
        }
    }

    /// Counts what happens to jobs while their plans go on.
    fn notice_between(&mut self, event: &Event, actions: &[Action]) {
        match event {
            Event::Planned { job, .. } => {
                let entry = self.jobs.get_mut(job).expect("the job is known");
                self.seen.increments += u64::from(std::mem::take(&mut entry.going_on));
            }
            Event::CancelRequested { job } => {
                self.seen.cancelled_between += u64::from(self.jobs[job].going_on);
            }
            Event::Reported { report, .. } => {
                let missed = matches!(&report.outcome, Err(failure) if failure.lost.is_some());
                let going_on = self.jobs[&report.task.job].going_on;
                self.seen.missed_between += u64::from(missed && going_on);
            }
            _ => {}
        }
        let going_on = self.jobs.values().any(|job| job.going_on);
        let is_loss = |action: &&Action| matches!(action, Action::Forget { .. });
        let losses = actions.iter().filter(is_loss).count() as u64;
        self.seen.lost_between += if going_on { losses } else { 0 };
    }

    /// Some more stages of a job, at least one if all that it has are done.
    fn plan_more(&mut self, job: JobId, done: &[StageFacts]) -> StageGraph {
        let entry = self.jobs.get_mut(&job).expect("the job is known");
        entry.going_on = !done.is_empty();
        let (shown, all) = (entry.shown, entry.graph.stages.len());
        for facts in done {
            assert!(
                (facts.stage.0 as usize) < shown,
                "done before it was planned: {facts:?}"
            );
        }
        let least = shown + usize::from(done.len() == shown);
        entry.shown = self.random.usize(least..=all);
        StageGraph {
            stages: entry.graph.stages[shown..entry.shown].to_vec(),
            complete: entry.shown == all,
            output: entry.graph.output.clone(),
        }
    }

    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Plan { job, done, .. } => {
                let graph = self.plan_more(job, &done);
                let mut delay = self.random.u64(0..50);
                if self.chance(20) {
                    delay += self.random.u64(0..1_500);
                }
                if self.jobs[&job].going_on && self.chance(10) {
                    let at = self.random.u64(0..=delay);
                    self.later(at, Happening::Cancel(job));
                }
                self.later(delay, Happening::Tell(Event::Planned { job, graph }, None));
            }
            Action::Launch { executor, ref spec } => {
                let key = (spec.id, spec.attempt);
                assert!(self.launched.insert(key), "launched twice: {key:?}");
                let state = self.scheduler.state(spec.id.job);
                assert_eq!(
                    state,
                    Some(JobState::Running),
                    "launched for a job that does not run"
                );
                self.check_room(executor);
                self.order(executor, action);
            }
            Action::Cancel { executor, .. } | Action::Acknowledge { executor, .. } => {
                self.order(executor, action);
            }
            Action::Commit { job, files, .. } => {
                let files = files.into_iter().map(|file| file.name).collect();
                let delay = self.random.u64(0..50);
                self.later(delay, Happening::Commit(job, files));
            }
            Action::Discard { job, .. } => self.discard(job),
            Action::Cleanup { job, objects } => {
                for (StageId(stage), task, attempt) in objects {
                    self.store.remove(&(job, stage, task, attempt));
                }
            }
            Action::Forget { executor } => {
                self.known
                    .remove(&executor)
                    .expect("only known executors are forgotten");
                // The driver closes the stream.
                if self.machines.contains_key(&executor) {
                    self.break_stream(executor);
                }
            }
            Action::EndJob { job, .. } => panic!("no job here has a program: {job}"),
            Action::Drop { job } => panic!("there are not that many jobs: {job}"),
            Action::Record(record) => panic!("nothing is written down here: {record:?}"),
        }
    }

    pub(crate) fn order(&mut self, executor: ExecutorId, action: Action) {
        let stream = self.known.get(&executor).copied().flatten();
        assert!(stream.is_some(), "an action to who is not there: {action}");
        let delay = self.random.u64(0..10);
        let Some(machine) = self.machines.get_mut(&executor) else {
            return;
        };
        let Some(stream) = machine.stream.filter(|_| machine.stream == stream) else {
            return;
        };
        let at = machine.down_until.max(self.now + delay);
        machine.down_until = at;
        self.at(at, Happening::Order(executor, stream, action));
    }

    /// Whoever has just been given a task wants it and has room for it.
    pub(crate) fn check_room(&self, executor: ExecutorId) {
        let statuses = self.scheduler.executors();
        let status = statuses
            .iter()
            .find(|status| status.registration.executor == executor);
        let status = status.expect("a task was launched there");
        assert!(
            !status.draining,
            "launched on a draining executor: {status:?}"
        );
        assert!(
            status.running <= status.registration.slots,
            "launched on a full one: {status:?}"
        );
    }
}
