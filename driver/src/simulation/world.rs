//! A simulated cluster: time, messages, processes, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::channel::oneshot;
use kiln_engine::id::{ExecutorId, JobId, TaskId};
use kiln_engine::plan::StageGraph;
use kiln_proto::message::JobState;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::data::{self, Store};
use super::executors::{Machine, Order};
use super::process::{Clock, Process, Role};
use super::store::{SharedGate, Verdict};
use crate::scheduler::{Event, Millis};
use crate::settings::DriverSettings;

/// From then on nothing goes wrong any more.
const CALM_MS: Millis = 20_000;

/// By then every job has ended, or something is wrong.
const END_MS: Millis = 300_000;

/// Something that happens at a simulated time.
pub(super) enum Happening {
    /// A driver process is started.
    StartDriver,
    /// A standby looks at the journal.
    Look(u64),
    /// The store comes to a request of a process.
    Storage(u64, u64),
    /// A client does the next thing about its job.
    Ask(u64),
    /// What a client asks arrives at a driver.
    Asked(u64, u64),
    /// A client asks for its job to be cancelled.
    Cancel(u64),
    /// A driver is told something over a stream.
    Tell(u64, Event, ExecutorId, u64),
    /// Planning of a driver has come to an end.
    Planned(u64, u64, JobId, StageGraph),
    /// An executor is told something over a stream.
    Order(ExecutorId, u64, Order),
    /// An executor's stream has broken.
    Broken(ExecutorId, u64),
    StartExecutor,
    Beat(ExecutorId),
    Finish(ExecutorId, TaskId, u32),
    Connect(ExecutorId),
    Chaos,
    Calm,
}

/// Somebody who wants a job done.
pub(super) struct Client {
    pub(super) graph: StageGraph,
    /// The job, once it is taken.
    pub(super) job: Option<JobId>,
    /// How it ended, once that is told.
    pub(super) ended: Option<JobState>,
    pub(super) cancelled: bool,
}

/// What was seen, added up over seeds.
#[derive(Debug, Default, Clone)]
pub(super) struct Summary {
    pub(super) log_hash: u64,
    pub(super) steps: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) leaderships: u64,
    pub(super) deposed: u64,
    pub(super) cut_off: u64,
    pub(super) resigned: u64,
    /// Jobs that a leader went on with, and of these, those whose output was being committed.
    pub(super) recovered: u64,
    pub(super) resumed_commits: u64,
    /// Stages of jobs that a leader went on with, of which partitions were split.
    pub(super) resumed_split: u64,
    /// Objects that no job needed any more, and that a new leader found.
    pub(super) needless: u64,
    pub(super) snapshots: u64,
    /// Conditional writes that were refused though nothing was there, and requests of any kind
    /// that were carried out though the answer was an error.
    pub(super) conflicts: u64,
    pub(super) lost_answers: u64,
}

impl Summary {
    fn counts(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("done", &mut self.done),
            ("failed", &mut self.failed),
            ("cancelled", &mut self.cancelled),
            ("leaderships", &mut self.leaderships),
            ("deposed", &mut self.deposed),
            ("cut off", &mut self.cut_off),
            ("resigned", &mut self.resigned),
            ("recovered", &mut self.recovered),
            ("resumed commits", &mut self.resumed_commits),
            (
                "split partitions of jobs that went on",
                &mut self.resumed_split,
            ),
            ("needless objects", &mut self.needless),
            ("snapshots", &mut self.snapshots),
            ("conflicts", &mut self.conflicts),
            ("lost answers", &mut self.lost_answers),
        ]
    }

    pub(super) fn add(&mut self, other: &Summary) {
        self.steps += other.steps;
        let mut other = other.clone();
        for ((_, sum), (_, more)) in self.counts().into_iter().zip(other.counts()) {
            *sum += *more;
        }
    }

    /// A simulation in which nothing goes wrong, or in which nothing goes well, shows nothing.
    pub(super) fn check_seen(&mut self) {
        for (what, count) in self.counts() {
            assert!(*count >= 20, "hardly ever seen: {what} count={count}");
        }
    }
}

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) now: Millis,
    serial: u64,
    queue: BTreeMap<(Millis, u64), Happening>,
    pub(super) disk: Arc<InMemory>,
    gate: SharedGate,
    /// Requests that wait for the store: by process and number.
    requests: BTreeMap<(u64, u64), oneshot::Sender<Verdict>>,
    pub(super) drivers: BTreeMap<u64, Process>,
    drivers_made: u64,
    /// The next request is one for an answer that comes late.
    answers_late: bool,
    /// Who has led in which term.
    pub(super) terms: BTreeMap<u64, u64>,
    pub(super) machines: BTreeMap<ExecutorId, Machine>,
    pub(super) machines_made: u64,
    pub(super) streams_made: u64,
    pub(super) clients: BTreeMap<u64, Client>,
    /// Every job that a driver ever made of a client's wish.
    pub(super) wishes: BTreeMap<JobId, u64>,
    pub(super) launched: BTreeSet<(TaskId, u32)>,
    /// Tasks of which an executor was told that somebody knows that they are done.
    pub(super) acknowledged: BTreeSet<TaskId>,
    /// An object has vanished.
    pub(super) rotten: bool,
    /// The rows in shuffle objects; those that the disk has not any more do not count.
    pub(super) content: Store,
    /// Objects that may be left behind: their writer died before it could tell.
    pub(super) excused: BTreeSet<Path>,
    pub(super) rough: bool,
    pub(super) spotless: bool,
    pub(super) print: bool,
    pub(super) hasher: DefaultHasher,
    pub(super) seen: Summary,
}

impl World {
    pub(super) fn new(seed: u64, print: bool) -> Self {
        let spotless = seed.is_multiple_of(10);
        let mut world = World {
            random: fastrand::Rng::with_seed(seed),
            now: 1_000_000,
            serial: 0,
            queue: BTreeMap::new(),
            disk: Arc::default(),
            gate: SharedGate::default(),
            requests: BTreeMap::new(),
            drivers: BTreeMap::new(),
            drivers_made: 0,
            answers_late: false,
            terms: BTreeMap::new(),
            machines: BTreeMap::new(),
            machines_made: 0,
            streams_made: 0,
            clients: BTreeMap::new(),
            wishes: BTreeMap::new(),
            launched: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            rotten: false,
            content: Store::new(),
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

    fn populate(&mut self) {
        for _ in 0..self.random.u32(1..4) {
            let at = self.random.u64(0..1_000);
            self.later(at, Happening::StartDriver);
        }
        for _ in 0..self.random.u32(1..5) {
            let at = self.random.u64(0..500);
            self.later(at, Happening::StartExecutor);
        }
        for key in 1..=self.random.u64(1..4) {
            let mut graph = data::random_graph(&mut self.random);
            super::executors::write_to(&mut graph, key);
            let client = Client {
                graph,
                job: None,
                ended: None,
                cancelled: false,
            };
            self.clients.insert(key, client);
            let at = self.random.u64(0..15_000);
            self.later(at, Happening::Ask(key));
            if self.chance(10) {
                let at = at + self.random.u64(0..6_000);
                self.later(at, Happening::Cancel(key));
            }
        }
        if self.rough {
            self.later(10, Happening::Chaos);
        }
        self.later(CALM_MS, Happening::Calm);
    }

    pub(super) fn later(&mut self, delay: Millis, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(super) fn at(&mut self, at: Millis, happening: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), happening);
    }

    pub(super) fn chance(&mut self, percent: u8) -> bool {
        self.rough && self.random.u8(0..100) < percent
    }

    pub(super) fn log(&mut self, text: &str) {
        if self.print {
            eprintln!("{} {text}", self.now);
        }
        (self.now, text).hash(&mut self.hasher);
    }

    /// Runs until every job has ended and every executor has told everything.
    pub(super) fn run(mut self) -> Summary {
        let start = self.now;
        loop {
            let (at, serial) = *self.queue.keys().next().expect("standbys look");
            if let Some((due, driver)) = self.next_tick().filter(|(due, _)| *due < at) {
                self.now = due.max(self.now);
                self.tick(driver);
                continue;
            }
            self.now = at.max(self.now);
            let happening = self.queue.remove(&(at, serial)).expect("it was just there");
            self.happen(happening);
            assert!(
                self.now < start + END_MS,
                "it does not end: {}",
                self.state()
            );
            if self.now > start + CALM_MS && self.is_quiet() {
                break;
            }
        }
        self.check_end();
        self.seen.log_hash = self.hasher.finish();
        self.seen
    }

    /// When something is due in a leading driver.
    fn next_tick(&self) -> Option<(Millis, u64)> {
        let dues = self.drivers.iter().filter_map(|(&number, process)| {
            let Role::Leads(leading) = &process.role else {
                return None;
            };
            let scheduler = leading.scheduler.deadline();
            let due = scheduler
                .into_iter()
                .chain(leading.leader.deadline())
                .min()?;
            let due = process.clock.when(due);
            Some((due.max(process.stalled_until), number))
        });
        dues.min()
    }

    fn is_quiet(&self) -> bool {
        let clients = self.clients.values();
        let mut leaders = self
            .drivers
            .values()
            .filter_map(|process| match &process.role {
                Role::Leads(leading) => Some(leading),
                Role::StandsBy(_) => None,
            });
        let is_idle = |happening: &Happening| {
            matches!(
                happening,
                Happening::Look(_)
                    | Happening::Beat(_)
                    | Happening::Storage(..)
                    | Happening::Tell(_, Event::ExecutorHeard { .. }, ..)
            )
        };
        clients
            .map(|client| client.ended)
            .all(|ended| ended.is_some())
            && leaders.any(|leading| {
                leading.scheduler.active_jobs() == 0
                    && leading.leader.is_settled()
                    && !leading.leader.is_to_list()
            })
            && self.drivers.values().all(|process| process.is_idle())
            && self.machines.values().all(Machine::is_idle)
            && self.queue.values().all(is_idle)
    }

    fn state(&self) -> String {
        let mut text = String::new();
        for (key, client) in &self.clients {
            text.push_str(&format!("job {key}: {:?} {:?}; ", client.job, client.ended));
        }
        for (number, process) in &self.drivers {
            if let Role::Leads(leading) = &process.role {
                let jobs = leading.scheduler.jobs();
                let states = jobs.iter().map(|&job| (job, leading.scheduler.state(job)));
                let states: Vec<_> = states.collect();
                text.push_str(&format!("driver {number} leads: {states:?}; "));
            }
        }
        let busy = self.machines.values().filter(|machine| !machine.is_idle());
        text.push_str(&format!("busy: {:?}", busy.collect::<Vec<_>>()));
        text
    }

    fn happen(&mut self, happening: Happening) {
        let process = match &happening {
            Happening::Look(driver)
            | Happening::Storage(driver, _)
            | Happening::Asked(driver, _)
            | Happening::Tell(driver, ..)
            | Happening::Planned(driver, ..) => Some(*driver),
            _ => None,
        };
        if let Some(process) = process {
            let Some(process) = self.drivers.get(&process) else {
                return;
            };
            let until = process.stalled_until;
            if until > self.now {
                return self.at(until, happening);
            }
        }
        let machine = match &happening {
            Happening::Order(machine, ..)
            | Happening::Beat(machine)
            | Happening::Finish(machine, ..)
            | Happening::Broken(machine, _)
            | Happening::Connect(machine) => Some(*machine),
            _ => None,
        };
        if let Some(machine) = machine {
            let Some(machine) = self.machines.get(&machine) else {
                return;
            };
            let until = machine.stalled_until;
            if until > self.now {
                return self.at(until, happening);
            }
        }
        match happening {
            Happening::StartDriver => self.start_driver(),
            Happening::Look(driver) => self.look(driver),
            Happening::Storage(driver, request) => self.answer(driver, request),
            Happening::Ask(key) => self.ask(key),
            Happening::Asked(driver, key) => self.asked(driver, key),
            Happening::Cancel(key) => self.cancel(key),
            Happening::Tell(driver, event, executor, stream) => {
                self.arrive(driver, event, executor, stream);
            }
            Happening::Planned(driver, term, job, graph) => self.planned(driver, term, job, graph),
            Happening::Order(executor, stream, order) => self.obey(executor, stream, order),
            Happening::Broken(executor, stream) => self.hang_up(executor, stream),
            Happening::StartExecutor => self.start_executor(),
            Happening::Beat(executor) => self.beat(executor),
            Happening::Finish(executor, task, attempt) => self.finish(executor, task, attempt),
            Happening::Connect(executor) => self.connect(executor),
            Happening::Chaos => self.chaos(),
            Happening::Calm => self.calm(),
        }
    }

    fn calm(&mut self) {
        self.rough = false;
        self.start_executor();
        if self.drivers.is_empty() {
            self.start_driver();
        }
    }

    fn start_driver(&mut self) {
        self.drivers_made += 1;
        let number = self.drivers_made;
        // A process that is started again where one was has its address.
        let host = self.random.u64(1..4);
        let taken = |process: &Process| process.settings.url == format!("http://host-{host}");
        let host = match self.drivers.values().any(taken) {
            true => format!("http://host-{number}-of-its-own"),
            false => format!("http://host-{host}"),
        };
        let settings = DriverSettings {
            heartbeat_ms: 100,
            lease_ms: 1_000,
            reconnect_ms: 300,
            grace_ms: 30_000,
            leader_lease_ms: 2_000,
            snapshot_entries: self.random.u64(3..40),
            url: host,
            ..DriverSettings::default()
        };
        // One may run twice as fast as another.
        let clock = Clock {
            offset: self.random.u64(0..10_000_000),
            pace: self.random.u64(70..=140),
        };
        let process = Process::new(number, &self.disk, &self.gate, settings, clock);
        self.log(&format!(
            "driver {number} starts at {}",
            process.settings.url
        ));
        self.drivers.insert(number, process);
        self.later(1, Happening::Look(number));
    }

    /// Lets the requests of drivers wait for the store.
    pub(super) fn queue_requests(&mut self) {
        let asked = std::mem::take(&mut self.gate.lock().asked);
        for (number, process, sender) in asked {
            self.requests.insert((process, number), sender);
            let slow = self.chance(5);
            let delay = match std::mem::take(&mut self.answers_late) {
                true => self.random.u64(0..3_000),
                false => self.random.u64(0..15) + if slow { 2_000 } else { 0 },
            };
            self.later(delay, Happening::Storage(process, number));
        }
    }

    /// The store comes to a request.
    fn answer(&mut self, process: u64, number: u64) {
        let Some(sender) = self.requests.remove(&(process, number)) else {
            return;
        };
        let verdict = match self.random.u8(0..100) {
            0..3 if self.rough => Verdict::Fail,
            3..6 if self.rough => {
                self.seen.lost_answers += 1;
                Verdict::DoAndFail
            }
            6..8 if self.rough => {
                self.seen.conflicts += 1;
                Verdict::Conflict
            }
            8..12 if self.rough => Verdict::AnswerLate,
            _ => Verdict::Do,
        };
        self.answers_late = verdict == Verdict::AnswerLate;
        // A process may have given up waiting.
        let _ = sender.send(verdict);
        self.poll(process);
    }

    /// A driver process is gone; what it has asked of the store may still come to pass.
    pub(super) fn crash_driver(&mut self, number: u64) {
        let requests = self
            .requests
            .extract_if(.., |(process, _), _| *process == number);
        for (_, sender) in requests.collect::<Vec<_>>() {
            if self.random.bool() {
                let _ = sender.send(Verdict::Do);
            }
        }
        let Some(mut process) = self.drivers.remove(&number) else {
            return;
        };
        drop(process.poll());
        self.gate
            .lock()
            .asked
            .retain(|(_, owner, _)| *owner != number);
        self.log(&format!("driver {number} dies"));
        self.break_streams(&mut process);
        let back = self.random.u64(0..3_000);
        self.later(back, Happening::StartDriver);
    }

    fn chaos(&mut self) {
        if !self.rough {
            return;
        }
        let executors: Vec<_> = self.machines.keys().copied().collect();
        let executor = self.random.choice(executors);
        let drivers: Vec<_> = self.drivers.keys().copied().collect();
        let driver = self.random.choice(drivers);
        match (self.random.u8(0..14), executor, driver) {
            (0, Some(id), _) => self.crash_executor(id),
            (1, Some(id), _) => self.break_stream(id),
            (2, Some(id), _) => {
                let until = self.now + self.random.u64(0..3_000);
                let machine = self.machines.get_mut(&id).expect("it was chosen");
                machine.stalled_until = until.max(machine.stalled_until);
            }
            (3, _, _) => self.rot(),
            (4, _, _) => self.start_executor(),
            (5..=7, _, Some(number)) => self.crash_driver(number),
            (8..=10, _, Some(number)) => {
                let until = self.now + self.random.u64(0..6_000);
                self.log(&format!("driver {number} stalls until {until}"));
                let process = self.drivers.get_mut(&number).expect("it was chosen");
                process.stalled_until = until.max(process.stalled_until);
            }
            (11, _, _) if self.drivers.len() < 4 => self.start_driver(),
            (12, _, Some(number)) => self.leave(number),
            _ => {}
        }
        let again = self.random.u64(20..1_500);
        self.later(again, Happening::Chaos);
    }

    /// Whether the disk has an object.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        use object_store::ObjectStoreExt as _;
        let found = self.disk.head(path).now_or_never();
        found.expect("memory answers at once").is_ok()
    }
}
