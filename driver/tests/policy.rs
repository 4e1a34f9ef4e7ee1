//! What the scheduler's policies come to, in simulated time: what a slow executor costs, and which
//! share of the slots jobs get.
//!
//! Nothing fails here; executors are fast or slow and do what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::Schema;
use expect_test::expect;
use fastrand::Rng;
use kiln_driver::DriverSettings;
use kiln_driver::scheduler::{Action, Detail, Event, Millis, Scheduler, Submitted};
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{
    Deal, PartitionMeta, Partitioning, ScanFormat, ScanSpec, SinkSpec, Split, Stage, StageGraph,
    StageSource, TaskInput, TaskOutput, TaskSpec, TaskSuccess, TextOptions,
};
use kiln_proto::message::{JobState, PROTOCOL_VERSION, Registration, Report, RunningAttempt};

/// What a fast executor reads in a slot in a millisecond, in bytes.
const SPEED: u64 = 1_000;

/// How often executors say how far they are, in milliseconds.
const BEAT_MS: Millis = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Beat(ExecutorId),
    Finish(ExecutorId, TaskId, u32),
}

struct Machine {
    /// Bytes that a slot reads in a millisecond.
    speed: u64,
    running: BTreeMap<(TaskId, u32), Running>,
    reports: u64,
}

struct Running {
    since: Millis,
    bytes: u64,
    partitions: u32,
}

/// A scheduler and its executors.
struct Cluster {
    now: Millis,
    scheduler: Scheduler,
    machines: BTreeMap<ExecutorId, Machine>,
    queue: BTreeSet<(Millis, Happening)>,
    /// Whether executors tell how much they have read.
    tells: bool,
    attempts: u32,
}

impl Cluster {
    /// Executors of `slots` slots each, with these speeds.
    fn new(speeds: &[u64], slots: u32) -> Self {
        let mut cluster = Cluster {
            now: 0,
            scheduler: Scheduler::new(DriverSettings::default()),
            machines: BTreeMap::new(),
            queue: BTreeSet::new(),
            tells: true,
            attempts: 0,
        };
        for (number, &speed) in (1..).zip(speeds) {
            let executor = ExecutorId(number);
            let machine = Machine {
                speed,
                running: BTreeMap::new(),
                reports: 0,
            };
            cluster.machines.insert(executor, machine);
            cluster.tell(Event::ExecutorJoined(Registration {
                executor,
                name: format!("host-{number}"),
                protocol: PROTOCOL_VERSION,
                threads: slots,
                slots,
                memory: 1 << 30,
            }));
            // They do not all say so at the same moment.
            cluster.beat(executor);
            let next = BEAT_MS * number / speeds.len() as u64;
            cluster
                .queue
                .retain(|&(_, what)| what != Happening::Beat(executor));
            cluster.queue.insert((next, Happening::Beat(executor)));
        }
        cluster
    }

    fn submit(&mut self, job: u64, weight: u32, stages: Vec<Arc<Stage>>) {
        let job = JobId::new(job);
        self.tell(Event::Submitted(Submitted {
            job,
            name: "simulated".to_owned(),
            program: None,
            weight,
            output: None,
        }));
        let graph = StageGraph {
            stages,
            complete: true,
            output: None,
        };
        self.tell(Event::Planned { job, graph });
    }

    /// Lets the next thing happen.
    fn advance(&mut self) {
        let &(at, happening) = self.queue.first().expect("executors send heartbeats");
        let due = self.scheduler.deadline();
        if let Some(due) = due.filter(|&due| due < at) {
            self.now = due.max(self.now);
            return self.tell(Event::Tick);
        }
        self.queue.pop_first();
        self.now = at;
        match happening {
            Happening::Beat(executor) => self.beat(executor),
            Happening::Finish(executor, task, attempt) => self.finish(executor, task, attempt),
        }
    }

    fn beat(&mut self, executor: ExecutorId) {
        self.queue
            .insert((self.now + BEAT_MS, Happening::Beat(executor)));
        let machine = &self.machines[&executor];
        let named = machine.running.keys().copied().collect();
        let progress = machine.running.iter().map(|(&(task, attempt), one)| {
            let read = one.bytes.min(machine.speed * (self.now - one.since));
            RunningAttempt {
                task,
                attempt,
                counts: counts(if self.tells { read } else { 0 }),
            }
        });
        let running = progress.collect();
        self.tell(Event::ExecutorHeard {
            executor,
            running: named,
        });
        self.tell(Event::Progressed { executor, running });
    }

    fn finish(&mut self, executor: ExecutorId, task: TaskId, attempt: u32) {
        let machine = self.machines.get_mut(&executor).expect("it is there");
        let Some(one) = machine.running.remove(&(task, attempt)) else {
            return;
        };
        machine.reports += 1;
        let partition = PartitionMeta {
            bytes: one.bytes / u64::from(one.partitions),
            rows: 1,
            checksum: 0,
        };
        let output = TaskOutput::Shuffle(vec![partition; one.partitions as usize]);
        let report = Report {
            sequence: machine.reports,
            task,
            attempt,
            outcome: Ok(TaskSuccess {
                output,
                counts: counts(one.bytes),
                warnings: Vec::new(),
            }),
        };
        self.tell(Event::Reported { executor, report });
    }

    fn tell(&mut self, event: Event) {
        for action in self.scheduler.step(self.now, event) {
            match action {
                Action::Launch { executor, spec } => self.launch(executor, &spec),
                Action::Cancel {
                    executor,
                    task,
                    attempt,
                } => {
                    let machine = self.machines.get_mut(&executor).expect("it is there");
                    machine.running.remove(&(task, attempt));
                }
                _ => {}
            }
        }
    }

    fn launch(&mut self, executor: ExecutorId, spec: &TaskSpec) {
        self.attempts += 1;
        let SinkSpec::Shuffle { partitioning } = &spec.stage.sink else {
            panic!("no stage here writes files");
        };
        let bytes = bytes_of(&spec.input).max(1);
        let machine = self.machines.get_mut(&executor).expect("it is there");
        let running = Running {
            since: self.now,
            bytes,
            partitions: partitioning.count(),
        };
        let (task, attempt) = (spec.id, spec.attempt);
        machine.running.insert((task, attempt), running);
        let takes = bytes.div_ceil(machine.speed);
        let finish = Happening::Finish(executor, task, attempt);
        self.queue.insert((self.now + takes, finish));
    }

    /// How long a job takes that nothing else runs beside.
    fn run(&mut self, stages: Vec<Arc<Stage>>) -> Millis {
        let (job, started) = (JobId::new(1), self.now);
        self.submit(1, 1, stages);
        while self.scheduler.state(job) == Some(JobState::Running) {
            self.advance();
        }
        assert_eq!(self.scheduler.state(job), Some(JobState::Done));
        self.now - started
    }

    /// Attempts of a job that run.
    fn running(&self, job: u64) -> u32 {
        let job = JobId::new(job);
        let machines = self.machines.values();
        let running = machines.flat_map(|machine| machine.running.keys());
        let running = running.filter(|(task, _)| task.job == job);
        running.count().try_into().expect("a few")
    }

    fn launched(&self, job: u64) -> usize {
        let status = self.scheduler.status(JobId::new(job), Detail::Attempts);
        let stages = status.expect("it was submitted").stages;
        stages.iter().map(|stage| stage.attempts.len()).sum()
    }
}

fn counts(bytes_in: u64) -> Counts {
    Counts {
        bytes_in,
        ..Counts::default()
    }
}

fn bytes_of(input: &TaskInput) -> u64 {
    match input {
        TaskInput::Splits(splits) => splits.iter().map(|split| split.end - split.start).sum(),
        shuffled => {
            let sources = shuffled.sources();
            let partitions = sources.flat_map(|(_, source)| &source.partitions);
            partitions.map(|partition| partition.bytes).sum()
        }
    }
}

/// A scan of tasks that take about `task_ms` each, written to `partitions`.
fn scan(random: &mut Rng, tasks: u32, task_ms: Millis, partitions: u32) -> Arc<Stage> {
    let schema = Arc::new(Schema::empty());
    let mut split = || {
        let bytes = SPEED * task_ms * random.u64(70..130) / 100;
        vec![Split {
            url: "file:///in".to_owned(),
            file_bytes: bytes,
            start: 0,
            end: bytes,
        }]
    };
    stage(
        0,
        StageSource::Scan(ScanSpec {
            format: ScanFormat::Text(TextOptions::default()),
            file_schema: schema,
            projection: Vec::new(),
            predicate: None,
            key_filters: Vec::new(),
            files: Vec::new(),
            tasks: (0..tasks).map(|_| split()).collect(),
        }),
        partitions,
    )
}

/// A stage that reads the one before it.
fn read(number: u32, partitions: u32) -> Arc<Stage> {
    let source = StageSource::Shuffle {
        stages: vec![StageId(number - 1)],
        schema: Arc::new(Schema::empty()),
        deal: Deal::Partitions,
    };
    stage(number, source, partitions)
}

fn stage(number: u32, source: StageSource, partitions: u32) -> Arc<Stage> {
    let keys = vec!["key".to_owned()];
    Arc::new(Stage {
        id: StageId(number),
        source,
        operators: Vec::new(),
        sides: Vec::new(),
        sink: SinkSpec::Shuffle {
            partitioning: Partitioning::Hash { keys, partitions },
        },
        schema: Arc::new(Schema::empty()),
    })
}

/// What one executor that is ten times slower than the others costs.
#[test]
fn a_slow_executor_costs_less_than_half_of_a_jobs_time() {
    // Executors, slots of each, tasks of the scan, partitions that a second stage reads.
    let cases = [
        (8, 2, 96, 0),
        (8, 2, 96, 48),
        (8, 2, 48, 0),
        (6, 4, 240, 0),
        (4, 2, 64, 0),
        (4, 2, 40, 24),
        // Fewer tasks than slots: the slow one has one or two of them, or all of a second stage.
        (4, 2, 6, 0),
        (4, 2, 4, 2),
        (4, 8, 16, 4),
        (2, 2, 2, 0),
    ];
    let mut found = String::new();
    for (executors, slots, tasks, partitions) in cases {
        let mut times = [Vec::new(), Vec::new()];
        let mut attempts = 0;
        for seed in 0..20 {
            for (slow, times) in [false, true].into_iter().zip(&mut times) {
                let mut random = Rng::with_seed(seed);
                let mut speeds = vec![SPEED; executors];
                if slow {
                    speeds[random.usize(0..executors)] /= 10;
                }
                let mut stages = vec![scan(&mut random, tasks, 10_000, partitions.max(1))];
                if partitions > 0 {
                    stages.push(read(1, 1));
                }
                let mut cluster = Cluster::new(&speeds, slots);
                times.push(cluster.run(stages));
                attempts = attempts.max(cluster.attempts);
            }
        }
        let sum = |times: &[Millis]| times.iter().sum::<Millis>() as f64;
        let mean = sum(&times[1]) / sum(&times[0]);
        let ratios = times[0].iter().zip(&times[1]);
        let worst = ratios.map(|(&normal, &slow)| slow as f64 / normal as f64);
        let worst = worst.fold(0.0, f64::max);
        let what = format!("{executors} × {slots} slots, {tasks} tasks, {partitions} partitions");
        found += &format!("{what:<46} {mean:.2} on average, at worst {worst:.2}, {attempts}\n");
        assert!(worst < 1.5, "{found}");
    }
    expect![[r#"
        8 × 2 slots, 96 tasks, 0 partitions            1.12 on average, at worst 1.16, 98
        8 × 2 slots, 96 tasks, 48 partitions           1.22 on average, at worst 1.25, 112
        8 × 2 slots, 48 tasks, 0 partitions            1.14 on average, at worst 1.24, 50
        6 × 4 slots, 240 tasks, 0 partitions           1.17 on average, at worst 1.19, 244
        4 × 2 slots, 64 tasks, 0 partitions            1.30 on average, at worst 1.36, 66
        4 × 2 slots, 40 tasks, 24 partitions           1.31 on average, at worst 1.35, 48
        4 × 2 slots, 6 tasks, 0 partitions             1.09 on average, at worst 1.24, 8
        4 × 2 slots, 4 tasks, 2 partitions             1.06 on average, at worst 1.25, 8
        4 × 8 slots, 16 tasks, 4 partitions            1.07 on average, at worst 1.10, 25
        2 × 2 slots, 2 tasks, 0 partitions             1.14 on average, at worst 1.30, 3
    "#]]
    .assert_eq(&found);
}

/// Where everything is slow, and where nobody tells how far it is, second attempts stay few.
#[test]
fn a_slow_cluster_does_not_do_its_work_twice() {
    for seed in 0..20 {
        for (slow, tells) in [(4, true), (2, true), (2, false), (4, false)] {
            let mut random = Rng::with_seed(seed);
            let speed = |number| if number < slow { SPEED / 10 } else { SPEED };
            let speeds: Vec<u64> = (0..4).map(speed).collect();
            let mut cluster = Cluster::new(&speeds, 4);
            cluster.tells = tells;
            cluster.run(vec![scan(&mut random, 100, 10_000, 1)]);
            let what = format!("seed={seed} slow={slow} tells={tells}");
            assert!(cluster.attempts <= 125, "{what} {}", cluster.attempts);
            let all = slow == 4;
            assert!(
                !all || cluster.attempts <= 105,
                "{what} {}",
                cluster.attempts
            );
        }
    }
}

/// Jobs that have enough to do run as many attempts as their weights say.
#[test]
fn shares_of_the_slots_are_as_the_weights_are() {
    for seed in 0..50 {
        let mut random = Rng::with_seed(seed);
        let slots = random.u32(1..5);
        let mut cluster = Cluster::new(&vec![SPEED; random.usize(8..20)], slots);
        let slots = f64::from(slots) * cluster.machines.len() as f64;
        let weights: Vec<u32> = (0..random.u32(2..6)).map(|_| random.u32(1..8)).collect();
        let all = f64::from(weights.iter().sum::<u32>());
        for (job, &weight) in (1..).zip(&weights) {
            // Some come late, when others have all the slots.
            let until = cluster.now + random.u64(0..8_000);
            while cluster.now < until {
                cluster.advance();
            }
            cluster.submit(job, weight, vec![scan(&mut random, 10_000, 2_000, 1)]);
        }
        // After one task time every slot has been given anew.
        let (from, to) = (cluster.now + 3_000, cluster.now + 60_000);
        let mut slot_time = vec![0; weights.len()];
        while cluster.now < to {
            let before = cluster.now.max(from);
            let running: Vec<_> = (1..)
                .zip(&weights)
                .map(|(job, _)| cluster.running(job))
                .collect();
            cluster.advance();
            let passed = cluster.now.max(from) - before;
            for (sum, running) in slot_time.iter_mut().zip(running) {
                *sum += passed * u64::from(running);
            }
        }
        for (&weight, time) in weights.iter().zip(slot_time) {
            let found = time as f64 / (to - from) as f64;
            let due = slots * f64::from(weight) / all;
            let what = format!("seed={seed} weights={weights:?} slots={slots}");
            assert!(
                (found - due).abs() < 1.0 + due / 10.0,
                "{what}: {weight} has {found} of {due}"
            );
        }
    }
}

/// More jobs than slots: each gets its turns, the heavier ones more.
#[test]
fn no_job_starves_where_there_are_more_jobs_than_slots() {
    for seed in 0..20 {
        let mut random = Rng::with_seed(seed);
        let mut cluster = Cluster::new(&[SPEED], random.u32(1..3));
        let weights: Vec<u32> = (0..8).map(|_| random.u32(1..4)).collect();
        for (job, &weight) in (1..).zip(&weights) {
            cluster.submit(job, weight, vec![scan(&mut random, 1_000, 100, 1)]);
        }
        while cluster.now < 60_000 {
            cluster.advance();
        }
        let turns: Vec<_> = (1..=8).map(|job| cluster.launched(job)).collect();
        let all = f64::from(weights.iter().sum::<u32>());
        let launched = turns.iter().sum::<usize>() as f64;
        for (&weight, &turns) in weights.iter().zip(&turns) {
            let due = launched * f64::from(weight) / all;
            let what = format!("seed={seed} weights={weights:?}");
            assert!(
                (turns as f64 - due).abs() < 0.2 * due,
                "{what}: {turns} of {due}"
            );
        }
    }
}
