//! A stage while its job runs: its tasks, and sums over them that are kept up to date, so that
//! nobody has to walk over all tasks to know how far it is.
//!
//! A task is in exactly one place: waiting (in `waiting`), running (in `running`) or done.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use kiln_engine::id::{ExecutorId, StageId};
use kiln_engine::limits;
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{
    Deal, PartitionMeta, ShuffleInput, ShuffleSource, Side, SinkSpec, Split, Stage, StageSource,
    TaskInput, TaskOutput, TaskSuccess,
};
use kiln_proto::message::AttemptState;

use crate::planner::StageFacts;

use super::event::Millis;
use super::grouping;
use super::task::{Attempt, Part, Task, wrote_object};

/// A stage while its job runs.
#[derive(Debug)]
pub(super) struct StageRun {
    /// The copy that travels to executors: it has no files and no splits.
    pub(super) stage: Arc<Stage>,
    /// Whether it calls functions of a program.
    pub(super) calls_functions: bool,
    /// Its tasks; none before they are known.
    pub(super) tasks: Vec<Task>,
    /// Whether they are known.
    pub(super) prepared: bool,
    /// Tasks that are done.
    pub(super) done: u32,
    /// Bytes of input that all tasks cover.
    pub(super) input_bytes: u64,
    /// Sum over the winning attempts.
    pub(super) counts: Counts,
    /// When its first attempt was launched.
    pub(super) started: Option<Millis>,
    /// When its last task was done.
    pub(super) ended: Option<Millis>,
    /// Task and attempt, in the order of launching.
    pub(super) launches: Vec<(u32, u32)>,
    /// Tasks that are done and have warnings.
    pub(super) warned: BTreeSet<u32>,
    waiting: BTreeSet<(Millis, u32)>,
    running: BTreeSet<u32>,
    /// How long winning attempts took, in order of length.
    durations: Vec<Millis>,
}

impl StageRun {
    /// A stage before its first task. The tasks of a scan are known from the start.
    pub(super) fn new(stage: &Arc<Stage>) -> Self {
        let mut travelling = Arc::clone(stage);
        let mut tasks = None;
        if let StageSource::Scan(scan) = &stage.source {
            tasks = Some(scan.tasks.clone());
            let mut copy = Stage::clone(stage);
            if let StageSource::Scan(scan) = &mut copy.source {
                scan.files.clear();
                scan.tasks.clear();
            }
            travelling = Arc::new(copy);
        }
        let mut run = StageRun {
            calls_functions: travelling.calls_functions(),
            stage: travelling,
            tasks: Vec::new(),
            prepared: false,
            done: 0,
            input_bytes: 0,
            counts: Counts::default(),
            started: None,
            ended: None,
            launches: Vec::new(),
            warned: BTreeSet::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            durations: Vec::new(),
        };
        if let Some(tasks) = tasks {
            let bytes = |split: &Split| split.end.saturating_sub(split.start);
            run.input_bytes = tasks.iter().flatten().map(bytes).sum();
            run.prepare(tasks.into_iter().map(Part::Splits));
        }
        run
    }

    fn prepare(&mut self, parts: impl Iterator<Item = Part>) {
        self.tasks = parts.map(Task::new).collect();
        self.prepared = true;
        for task in 0..self.tasks.len() {
            self.wait(u32::try_from(task).unwrap_or(u32::MAX), 0);
        }
    }

    /// The stages whose output it reads: those of its source, then those of its sides.
    pub(super) fn producers(&self) -> impl Iterator<Item = usize> + '_ {
        let sides = self.stage.sides.iter().map(|side| side.stage);
        let source = self.source_stages().iter().copied();
        source.chain(sides).map(|stage| stage.0 as usize)
    }

    fn source_stages(&self) -> &[StageId] {
        match &self.stage.source {
            StageSource::Scan(_) => &[],
            StageSource::Shuffle { stages, .. } => stages,
        }
    }

    /// Makes the tasks of a stage whose producers, among the stages `before` it, are done.
    pub(super) fn prepare_from(&mut self, before: &[StageRun], slots: u32) {
        let StageSource::Shuffle { deal, .. } = &self.stage.source else {
            return;
        };
        let find = |stage: &StageId| before.get(stage.0 as usize);
        let sources: Vec<&StageRun> = self.source_stages().iter().filter_map(find).collect();
        let together = self.stage.sides.iter().filter(|side| !side.broadcast);
        let together = together.filter_map(|side| find(&side.stage));
        let bytes = sources.iter().map(|run| run.output_bytes());
        let input_bytes = bytes.fold(0, u64::saturating_add);
        let sizes = match deal {
            Deal::Gather => Vec::new(),
            Deal::Partitions => {
                let all = sources.iter().copied().chain(together);
                all.map(StageRun::partition_bytes).fold(Vec::new(), add_up)
            }
            Deal::Producers => sources.iter().flat_map(|run| run.task_bytes()).collect(),
        };
        let count = sources.iter().map(|run| run.partition_count()).max();
        let every = 0..u32::try_from(count.unwrap_or_default()).unwrap_or(u32::MAX);
        let parts: Vec<Part> = match deal {
            Deal::Gather => vec![Part::Partitions(every)],
            Deal::Partitions => {
                let ranges = grouping::group(&sizes, slots).into_iter();
                ranges.map(Part::Partitions).collect()
            }
            Deal::Producers => {
                let ranges = grouping::group(&sizes, slots).into_iter();
                ranges.map(Part::Producers).collect()
            }
        };
        self.input_bytes = input_bytes;
        self.prepare(parts.into_iter());
    }

    /// The bytes that each task wrote.
    fn task_bytes(&self) -> Vec<u64> {
        let bytes = |task: &Task| match &task.success {
            Some(TaskSuccess {
                output: TaskOutput::Shuffle(parts),
                ..
            }) => parts
                .iter()
                .map(|part| part.bytes)
                .fold(0, u64::saturating_add),
            _ => 0,
        };
        self.tasks.iter().map(bytes).collect()
    }

    /// The bytes of each partition over all winning attempts.
    fn partition_bytes(&self) -> Vec<u64> {
        let mut sizes = vec![0; self.partition_count()];
        for (_, _, partitions) in self.winners() {
            for (size, partition) in sizes.iter_mut().zip(partitions) {
                *size = partition.bytes.saturating_add(*size);
            }
        }
        sizes
    }

    /// The bytes of all partitions over all winning attempts.
    pub(super) fn output_bytes(&self) -> u64 {
        let sizes = self.partition_bytes();
        sizes.into_iter().fold(0, u64::saturating_add)
    }

    /// Partitions that each attempt of this stage has to write; none if it writes files.
    fn partition_count(&self) -> usize {
        match &self.stage.sink {
            SinkSpec::Shuffle { partitioning } => partitioning.count() as usize,
            SinkSpec::Files { .. } => 0,
        }
    }

    /// Task, attempt and partitions of every task that is done.
    fn winners(&self) -> impl Iterator<Item = (u32, u32, &[PartitionMeta])> {
        (0..)
            .zip(&self.tasks)
            .filter_map(|(number, task)| match (task.winner, &task.success) {
                (
                    Some(winner),
                    Some(TaskSuccess {
                        output: TaskOutput::Shuffle(parts),
                        ..
                    }),
                ) => Some((number, winner, parts.as_slice())),
                _ => None,
            })
    }

    /// What a plan wants to know of a stage that is done.
    pub(super) fn facts(&self) -> StageFacts {
        let rows = self.winners().flat_map(|(_, _, parts)| parts);
        StageFacts {
            stage: self.stage.id,
            rows: rows.map(|part| part.rows).fold(0, u64::saturating_add),
            bytes: self.output_bytes(),
        }
    }

    /// Where the rows of `range` are.
    pub(super) fn sources(&self, range: &Range<u32>) -> Vec<ShuffleSource> {
        self.winners()
            .filter_map(|(task, attempt, parts)| grouping::slice(task, attempt, parts, range))
            .collect()
    }

    /// Where all of its rows are.
    pub(super) fn all_sources(&self) -> Vec<ShuffleSource> {
        self.sources(&(0..u32::try_from(self.partition_count()).unwrap_or(u32::MAX)))
    }

    /// What is there of `range`, for a task to read.
    fn shuffle_input(&self, range: Range<u32>) -> ShuffleInput {
        ShuffleInput {
            stage: self.stage.id,
            sources: self.sources(&range),
            partitions: range,
        }
    }

    /// All that was written, for a task to read.
    fn whole_input(&self) -> ShuffleInput {
        self.shuffle_input(0..u32::try_from(self.partition_count()).unwrap_or(u32::MAX))
    }

    /// What a task reads of its source, which is among the stages `before` it.
    pub(super) fn input(&self, task: u32, before: &[StageRun]) -> Option<TaskInput> {
        let sources = self.source_stages().iter();
        let mut sources = sources.map(|stage| before.get(stage.0 as usize));
        let inputs: Option<Vec<ShuffleInput>> = match &self.tasks.get(task as usize)?.part {
            Part::Splits(splits) => return Some(TaskInput::Splits(splits.clone())),
            Part::Partitions(range) => sources
                .map(|run| Some(run?.shuffle_input(range.clone())))
                .collect(),
            Part::Producers(range) => {
                let mut first = 0;
                sources.try_fold(Vec::new(), |mut inputs, run| {
                    let run = run?;
                    let tasks = u32::try_from(run.tasks.len()).unwrap_or(u32::MAX);
                    let mut input = run.whole_input();
                    let wanted = |task: u32| range.contains(&(first + task));
                    input.sources.retain(|source| wanted(source.task));
                    first += tasks;
                    inputs.push(input);
                    Some(inputs)
                })
            }
        };
        Some(TaskInput::Shuffle(inputs?))
    }

    /// What a task reads of each side, all of which are among the stages `before` it.
    pub(super) fn sides(&self, task: u32, before: &[StageRun]) -> Option<Vec<ShuffleInput>> {
        let part = &self.tasks.get(task as usize)?.part;
        let side = |side: &Side| {
            let run = before.get(side.stage.0 as usize)?;
            match part {
                Part::Partitions(range) if !side.broadcast => {
                    Some(run.shuffle_input(range.clone()))
                }
                _ => Some(run.whole_input()),
            }
        };
        self.stage.sides.iter().map(side).collect()
    }

    /// Whether an output is one that a task of this stage can have made.
    pub(super) fn fits(&self, output: &TaskOutput) -> bool {
        match (&self.stage.sink, output) {
            (SinkSpec::Shuffle { .. }, TaskOutput::Shuffle(partitions)) => {
                partitions.len() == self.partition_count()
            }
            (SinkSpec::Files { .. }, TaskOutput::Files(_)) => true,
            _ => false,
        }
    }

    /// Whether every task is done.
    pub(super) fn is_done(&self) -> bool {
        self.prepared && self.done as usize == self.tasks.len()
    }

    /// Lets a task wait for an attempt, which may be launched from `ready` on.
    pub(super) fn wait(&mut self, task: u32, ready: Millis) {
        self.running.remove(&task);
        if let Some(entry) = self.tasks.get_mut(task as usize) {
            if let Some(before) = entry.ready.replace(ready) {
                self.waiting.remove(&(before, task));
            }
            self.waiting.insert((ready, task));
        }
    }

    fn stop_waiting(&mut self, task: u32) {
        let ready = self
            .tasks
            .get_mut(task as usize)
            .and_then(|task| task.ready.take());
        if let Some(ready) = ready {
            self.waiting.remove(&(ready, task));
        }
    }

    /// The tasks that may be launched now: those that never ran first, in order.
    pub(super) fn ready(&self, now: Millis) -> impl Iterator<Item = u32> + '_ {
        self.waiting
            .range(..=(now, u32::MAX))
            .map(|&(_, task)| task)
    }

    /// When the next waiting task may be launched, if that is after `now`.
    pub(super) fn next_ready(&self, now: Millis) -> Option<Millis> {
        self.waiting
            .range((now + 1, 0)..)
            .next()
            .map(|&(ready, _)| ready)
    }

    /// Adds an attempt; gives its number.
    pub(super) fn launch(&mut self, now: Millis, task: u32, attempt: Attempt) -> Option<u32> {
        self.stop_waiting(task);
        let entry = self.tasks.get_mut(task as usize)?;
        let number = u32::try_from(entry.attempts.len()).ok()?;
        entry.attempts.push(attempt);
        self.running.insert(task);
        self.launches.push((task, number));
        self.started.get_or_insert(now);
        Some(number)
    }

    /// What winning attempts counted, and those that run so far. Of two that race at a task, the
    /// one that is further counts.
    pub(super) fn counts_so_far(&self) -> Counts {
        let mut counts = self.counts.clone();
        for &number in &self.running {
            let attempts = self.tasks.get(number as usize).map(|task| &task.attempts);
            let furthest = attempts
                .into_iter()
                .flatten()
                .filter(|attempt| attempt.runs())
                .max_by_key(|attempt| attempt.counts.bytes_in);
            if let Some(attempt) = furthest {
                counts.add(&attempt.counts);
            }
        }
        counts
    }

    /// An attempt that had been given up runs after all.
    pub(super) fn resume(&mut self, task: u32) {
        self.stop_waiting(task);
        self.running.insert(task);
    }

    /// A task is done: `attempt` has won.
    pub(super) fn win(&mut self, now: Millis, task: u32, attempt: u32, success: TaskSuccess) {
        self.stop_waiting(task);
        self.running.remove(&task);
        let Some(entry) = self.tasks.get_mut(task as usize) else {
            return;
        };
        if let Some(won) = entry.attempts.get_mut(attempt as usize) {
            won.end(AttemptState::Won, now);
            won.counts = success.counts.clone();
            won.object = wrote_object(&success.output);
            let duration = now.saturating_sub(won.started);
            let place = self.durations.partition_point(|&other| other <= duration);
            self.durations.insert(place, duration);
        }
        self.counts.add(&success.counts);
        if !success.warnings.is_empty() {
            self.warned.insert(task);
        }
        entry.winner = Some(attempt);
        entry.success = Some(success);
        self.done += 1;
        if self.is_done() {
            self.ended = Some(now);
        }
    }

    /// The output of a task that was done is of no use: the task is to run again.
    pub(super) fn revoke(&mut self, now: Millis, task: u32) {
        let Some(entry) = self.tasks.get_mut(task as usize) else {
            return;
        };
        entry.winner = None;
        entry.success = None;
        self.warned.remove(&task);
        self.done -= 1;
        self.ended = None;
        // Counters cannot be subtracted without trusting that they were added; this is rare.
        self.counts = Counts::default();
        for success in self.tasks.iter().filter_map(|task| task.success.as_ref()) {
            self.counts.add(&success.counts);
        }
        self.wait(task, now);
    }

    /// Tasks that run much longer than their like, each with the executors that a second attempt
    /// has to avoid; or, where there is none yet, when there will be.
    pub(super) fn stragglers(&self, now: Millis) -> Stragglers {
        let mut found = Stragglers::default();
        let share = 100 * u64::from(self.done);
        let enough = share >= limits::STRAGGLER_DONE_PERCENT * self.tasks.len() as u64;
        let Some(&median) = self.durations.get(self.durations.len() / 2) else {
            return found;
        };
        if !enough {
            return found;
        }
        for &number in &self.running {
            let Some(task) = self.tasks.get(number as usize) else {
                continue;
            };
            let mut running = task.attempts.iter().filter(|attempt| attempt.runs());
            let (Some(only), None) = (running.next(), running.next()) else {
                continue;
            };
            let due = only.started + 2 * median + limits::STRAGGLER_SLACK_MS + 1;
            if due <= now {
                let mut avoid = task.failed_on.clone();
                avoid.insert(only.executor);
                found.late.push((number, avoid));
            } else {
                found.next = Some(found.next.map_or(due, |next: Millis| next.min(due)));
            }
        }
        found
    }

    /// Every shuffle object that may exist, winners included.
    pub(super) fn objects(&self) -> impl Iterator<Item = (StageId, u32, u32)> + '_ {
        let attempts = (0..).zip(&self.tasks).flat_map(|(number, task)| {
            (0..)
                .zip(&task.attempts)
                .map(move |(attempt, entry)| (number, attempt, entry))
        });
        let shuffles = matches!(self.stage.sink, SinkSpec::Shuffle { .. });
        attempts
            .filter(move |(_, _, entry)| shuffles && entry.object)
            .map(|(task, attempt, _)| (self.stage.id, task, attempt))
    }

    /// Gives up what only a running job needs; keeps what people may ask and, if wanted, where
    /// the output is.
    pub(super) fn release(&mut self, keep_output: bool) {
        self.waiting.clear();
        self.running.clear();
        self.durations = Vec::new();
        for task in &mut self.tasks {
            task.part = Part::Splits(Vec::new());
            task.failed_on.clear();
            if let Some(success) = task.success.as_mut().filter(|_| !keep_output) {
                success.output = TaskOutput::Files(Vec::new());
            }
        }
    }
}

/// Two lists of sizes, added up place by place.
fn add_up(mut sums: Vec<u64>, sizes: Vec<u64>) -> Vec<u64> {
    sums.resize(sums.len().max(sizes.len()), 0);
    for (sum, size) in sums.iter_mut().zip(sizes) {
        *sum = size.saturating_add(*sum);
    }
    sums
}

/// Slow tasks of a stage.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    /// Tasks to be tried a second time, and where not to.
    pub(super) late: Vec<(u32, BTreeSet<ExecutorId>)>,
    /// When the next one will be late.
    pub(super) next: Option<Millis>,
}
