//! What scheduling costs: a job of 100,000 tasks on 1,000 executors of four slots, all of them
//! simulated, which take launches, report successes and send heartbeats every second.
//!
//! The scheduler is a pure state machine, so a simulated hour costs what the driver computes in it
//! and nothing else. Printed are the driver's time for each task, the longest steps by what
//! they were about (nobody is heard while a step lasts), and the most memory that was in use,
//! simulated executors included.
//!
//! `cargo bench -p kiln-benches --bench scheduler`; one thread. `TASKS=N EXECUTORS=N` change the
//! numbers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use fastrand::Rng;
use kiln_driver::DriverSettings;
use kiln_driver::scheduler::{Action, Event, Millis, Scheduler, Submitted};
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, OperatorCounts};
use kiln_engine::plan::{
    Deal, PartitionMeta, Partitioning, ScanFormat, ScanSpec, SinkSpec, Split, Stage, StageGraph,
    StageSource, TaskOutput, TaskSuccess, TextOptions,
};
use kiln_proto::message::{JobState, PROTOCOL_VERSION, Registration, Report, RunningAttempt};

/// Partitions between the two stages.
const PARTITIONS: u32 = 64;

/// Tasks that an executor runs at once.
const SLOTS: u32 = 4;

/// Bytes that a task of the scan reads.
const SPLIT_BYTES: u64 = 256 << 20;

/// The system's allocator, counting.
struct Counting;

static HEAP: AtomicUsize = AtomicUsize::new(0);
static HEAP_MAX: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = HEAP.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        HEAP_MAX.fetch_max(heap, Ordering::Relaxed);
        // SAFETY: the caller keeps to what `GlobalAlloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to what `GlobalAlloc` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn main() {
    let tasks = number("TASKS", 100_000);
    let executors = number("EXECUTORS", 1_000);
    let mut world = World::new(executors);
    world.run(tasks);
    world.report();
}

fn number(name: &str, default: u32) -> u32 {
    let value = std::env::var(name).ok().map(|text| text.parse());
    let value = value.transpose().expect("a number");
    value.unwrap_or(default)
}

/// Something that will happen to a simulated executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Beat(ExecutorId),
    Finish(ExecutorId, TaskId, u32),
}

/// A simulated executor.
#[derive(Default)]
struct Machine {
    /// When each attempt was launched and how long it takes.
    running: BTreeMap<(TaskId, u32), (Millis, Millis)>,
    reports: u64,
}

/// How long the driver took for steps of one kind, in nanoseconds.
#[derive(Default)]
struct Times(Vec<u64>);

struct World {
    now: Millis,
    random: Rng,
    scheduler: Scheduler,
    machines: BTreeMap<ExecutorId, Machine>,
    queue: BinaryHeap<Reverse<(Millis, Happening)>>,
    attempts: u64,
    times: BTreeMap<&'static str, Times>,
}

impl World {
    fn new(executors: u32) -> Self {
        let mut world = World {
            now: 0,
            random: Rng::with_seed(5),
            scheduler: Scheduler::new(DriverSettings::default()),
            machines: BTreeMap::new(),
            queue: BinaryHeap::new(),
            attempts: 0,
            times: BTreeMap::new(),
        };
        for number in 1..=u64::from(executors) {
            let id = ExecutorId(number);
            world.machines.insert(id, Machine::default());
            world.step(Event::ExecutorJoined(Registration {
                executor: id,
                name: format!("host-{number}.example:4711"),
                protocol: PROTOCOL_VERSION,
                threads: SLOTS,
                slots: SLOTS,
                memory: 8 << 30,
            }));
            let first = Reverse((number % 1_000, Happening::Beat(id)));
            world.queue.push(first);
        }
        world
    }

    /// Runs one job to its end.
    fn run(&mut self, tasks: u32) {
        let job = JobId::new(1);
        self.now = 5_000;
        self.step(Event::Submitted(Submitted {
            job,
            name: "large".to_owned(),
            program: None,
            weight: 1,
            output: None,
        }));
        let graph = graph(tasks);
        self.step(Event::Planned { job, graph });
        while self.scheduler.state(job) == Some(JobState::Running) {
            let Some(&Reverse((at, happening))) = self.queue.peek() else {
                break;
            };
            let due = self.time("deadline", |world| world.scheduler.deadline());
            if let Some(due) = due.filter(|&due| due < at) {
                self.now = due.max(self.now);
                self.step(Event::Tick);
                continue;
            }
            self.queue.pop();
            self.now = at.max(self.now);
            match happening {
                Happening::Beat(id) => self.beat(id),
                Happening::Finish(id, task, attempt) => self.finish(id, task, attempt),
            }
        }
        assert_eq!(self.scheduler.state(job), Some(JobState::Done));
    }

    fn beat(&mut self, id: ExecutorId) {
        let running = &self.machines[&id].running;
        let named: Vec<_> = running.keys().copied().collect();
        let progress = running.iter().map(|(&(task, attempt), &(since, takes))| {
            let so_far = self.now.saturating_sub(since).min(takes);
            RunningAttempt {
                task,
                attempt,
                counts: counts(SPLIT_BYTES * so_far / takes.max(1)),
            }
        });
        let progress: Vec<_> = progress.collect();
        self.step(Event::ExecutorHeard {
            executor: id,
            running: named,
        });
        self.step(Event::Progressed {
            executor: id,
            running: progress,
        });
        self.queue
            .push(Reverse((self.now + 1_000, Happening::Beat(id))));
    }

    fn finish(&mut self, id: ExecutorId, task: TaskId, attempt: u32) {
        let machine = self.machines.get_mut(&id).expect("it was launched there");
        if machine.running.remove(&(task, attempt)).is_none() {
            return;
        }
        machine.reports += 1;
        let sequence = machine.reports;
        let partitions = if task.stage == StageId(0) {
            PARTITIONS
        } else {
            1
        };
        let partition = |random: &mut Rng| PartitionMeta {
            bytes: 64 * random.u64(40..120),
            rows: random.u64(100..400),
            checksum: random.u64(..),
        };
        let partitions = (0..partitions).map(|_| partition(&mut self.random));
        let output = TaskOutput::Shuffle(partitions.collect());
        let success = TaskSuccess {
            output,
            counts: counts(SPLIT_BYTES),
            warnings: Vec::new(),
        };
        self.step(Event::Reported {
            executor: id,
            report: Report {
                sequence,
                task,
                attempt,
                outcome: Ok(success),
            },
        });
    }

    /// Steps the scheduler, and lets executors do what it wants of them.
    fn step(&mut self, event: Event) {
        let kind = match &event {
            Event::Tick => "tick",
            Event::ExecutorHeard { .. } => "heartbeat",
            Event::Progressed { .. } => "progress",
            Event::Planned { .. } => "plan",
            Event::Reported { report, .. } if report.task.stage == StageId(0) => "report",
            Event::Reported { .. } => "report of a reader",
            _ => "other",
        };
        let now = self.now;
        let actions = self.time(kind, |world| world.scheduler.step(now, event));
        for action in actions {
            match action {
                Action::Launch { executor, spec } => {
                    let takes = self.random.u64(5_000..15_000);
                    let machine = self.machines.get_mut(&executor).expect("it has joined");
                    let key = (spec.id, spec.attempt);
                    machine.running.insert(key, (self.now, takes));
                    let finish = Happening::Finish(executor, key.0, key.1);
                    self.queue.push(Reverse((self.now + takes, finish)));
                    self.attempts += 1;
                }
                Action::Cancel {
                    executor,
                    task,
                    attempt,
                } => {
                    let machine = self.machines.get_mut(&executor).expect("it has joined");
                    machine.running.remove(&(task, attempt));
                }
                _ => {}
            }
        }
    }

    fn time<T>(&mut self, kind: &'static str, work: impl FnOnce(&mut Self) -> T) -> T {
        let started = Instant::now();
        let value = work(self);
        let took = started.elapsed().as_nanos() as u64;
        self.times.entry(kind).or_default().0.push(took);
        value
    }

    #[expect(clippy::print_stdout, reason = "figures are for whoever runs this")]
    fn report(&mut self) {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let heap = mib(HEAP_MAX.load(Ordering::Relaxed));
        println!("simulated seconds     {:>10}", self.now / 1_000);
        println!("attempts              {:>10}", self.attempts);
        println!("peak heap, MiB        {heap:>10.0}");
        if let Some(resident) = resident_max() {
            println!("peak resident, MiB    {:>10.0}", mib(resident));
        }
        let all = self.times.values().flat_map(|times| &times.0).sum();
        let all: Duration = Duration::from_nanos(all);
        let per_task = all.as_secs_f64() * 1e6 / self.attempts as f64;
        println!("driver time, s        {:>10.2}", all.as_secs_f64());
        println!("driver time/task, µs  {per_task:>10.2}\n");
        println!("step                  number   mean µs    p99 µs    max µs   share");
        for (kind, times) in &mut self.times {
            times.0.sort_unstable();
            let sum: u64 = times.0.iter().sum();
            let us = |nanos: u64| nanos as f64 / 1e3;
            let count = times.0.len();
            println!(
                "{kind:<18} {count:>9} {:>9.2} {:>9.2} {:>9.0} {:>6.1}%",
                us(sum) / count as f64,
                us(times.0[(count - 1) * 99 / 100]),
                us(times.0[count - 1]),
                100.0 * us(sum) / 1e6 / all.as_secs_f64(),
            );
        }
    }
}

/// The most memory that this process had, in bytes, where the system tells.
fn resident_max() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// What an attempt of a stage with two operators counts.
fn counts(bytes_in: u64) -> Counts {
    Counts {
        rows_in: bytes_in / 40,
        bytes_in,
        operators: vec![OperatorCounts::default(); 4],
        ..Counts::default()
    }
}

/// A scan, a shuffle, and a stage that reads it.
fn graph(tasks: u32) -> StageGraph {
    let schema = Arc::new(Schema::empty());
    let split = |number: u32| Split {
        url: format!("s3://bucket/warehouse/events/day=2026-11-21/part-{number:05}.parquet"),
        file_bytes: SPLIT_BYTES,
        start: 0,
        end: SPLIT_BYTES,
    };
    let scan = ScanSpec {
        format: ScanFormat::Text(TextOptions::default()),
        file_schema: schema.clone(),
        projection: Vec::new(),
        predicate: None,
        key_filters: Vec::new(),
        files: Vec::new(),
        tasks: (0..tasks).map(|number| vec![split(number)]).collect(),
    };
    let stage = |number, source, partitioning| {
        Arc::new(Stage {
            id: StageId(number),
            source,
            operators: Vec::new(),
            sides: Vec::new(),
            sink: SinkSpec::Shuffle { partitioning },
            schema: schema.clone(),
        })
    };
    let keys = vec!["key".to_owned()];
    let partitions = PARTITIONS;
    let hash = Partitioning::Hash { keys, partitions };
    let reads = StageSource::Shuffle {
        stages: vec![StageId(0)],
        schema: schema.clone(),
        deal: Deal::Partitions,
    };
    StageGraph {
        stages: vec![
            stage(0, StageSource::Scan(scan), hash),
            stage(1, reads, Partitioning::Single),
        ],
        complete: true,
        output: None,
    }
}
