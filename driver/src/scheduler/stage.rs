//! A stage while its job runs: its tasks, and sums over them that are kept up to date, so that
//! nobody has to walk over all tasks to know how far it is.
//!
//! A task is in exactly one place: waiting (in `waiting`), running (in `running`) or done.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use kiln_engine::id::StageId;
use kiln_engine::limits;
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{
    Cut, Deal, PartitionMeta, Partitioning, RangeInput, ScanSpec, ShuffleInput, ShuffleSource,
    Side, SinkSpec, Split, Stage, StageSource, TaskInput, TaskOutput, TaskSuccess, describe_stage,
};
use kiln_proto::message::{AttemptState, PartitionsRead};

use crate::planner::{StageFacts, row_bytes};

use super::event::Millis;
use super::grouping::{self, PartitionSize};
use super::pace::{Durations, Pace};
use super::runs::Runs;
use super::task::{Attempt, Left, Part, Task, Watched, wrote_object};
use super::written::Written;

/// A stage while its job runs.
#[derive(Debug)]
pub(super) struct StageRun {
    /// The copy that travels to executors: it has no files and no splits.
    pub(super) stage: Arc<Stage>,
    /// What it does, for people.
    pub(super) description: String,
    /// Whether it calls functions of a program.
    pub(super) calls_functions: bool,
    /// Its tasks; none before they are known.
    pub(super) tasks: Vec<Task>,
    /// Where the order of what they read is cut, for a stage that reads ranges of it.
    pub(super) cuts: Vec<Cut>,
    /// Whether they are known.
    pub(super) prepared: bool,
    /// Tasks that are done.
    pub(super) done: u32,
    /// Partitions that are split among several tasks, and how many tasks those are.
    split: (u32, u32),
    /// How what it reads was dealt out, once the job has ended.
    pub(super) read: Option<PartitionsRead>,
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
    /// Running tasks that have one attempt, by when that was launched; but for slow ones.
    alone: BTreeSet<(Millis, u32)>,
    /// Running tasks that have one attempt, and are slow.
    slow: BTreeSet<u32>,
    /// Running tasks that have several attempts.
    racing: u32,
    /// How long winning attempts took.
    durations: Durations,
    /// How fast all attempts read.
    pace: Pace,
    /// What winning attempts wrote to the shuffle store.
    written: Written,
    /// The same, where they wrote in order.
    runs: Runs,
    /// Each partition over all winning attempts.
    partitions: Vec<Volume>,
    /// Bytes in memory that a row which it writes is thought to take.
    row_bytes: u64,
}

impl StageRun {
    /// A stage before its first task. The tasks of a scan are known from the start.
    pub(super) fn new(stage: &Arc<Stage>) -> Self {
        let mut travelling = Arc::clone(stage);
        let mut tasks = None;
        if let StageSource::Scan(scan) = &stage.source {
            tasks = Some(scan.tasks.clone());
            let scan = ScanSpec {
                format: scan.format.clone(),
                file_schema: Arc::clone(&scan.file_schema),
                projection: scan.projection.clone(),
                predicate: scan.predicate.clone(),
                key_filters: scan.key_filters.clone(),
                files: Vec::new(),
                tasks: Vec::new(),
            };
            travelling = Arc::new(Stage {
                id: stage.id,
                source: StageSource::Scan(scan),
                operators: stage.operators.clone(),
                sides: stage.sides.clone(),
                sink: stage.sink.clone(),
                schema: Arc::clone(&stage.schema),
            });
        }
        let mut run = StageRun {
            description: describe_stage(&travelling),
            calls_functions: travelling.calls_functions(),
            stage: travelling,
            tasks: Vec::new(),
            cuts: Vec::new(),
            prepared: false,
            done: 0,
            split: (0, 0),
            read: None,
            input_bytes: 0,
            counts: Counts::default(),
            started: None,
            ended: None,
            launches: Vec::new(),
            warned: BTreeSet::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            alone: BTreeSet::new(),
            slow: BTreeSet::new(),
            racing: 0,
            durations: Durations::default(),
            pace: Pace::default(),
            written: Written::default(),
            runs: Runs::default(),
            partitions: Vec::new(),
            row_bytes: row_bytes(&stage.schema) as u64,
        };
        run.partitions = vec![Volume::default(); run.partition_count()];
        if let Some(tasks) = tasks {
            let bytes = |split: &Split| split.end.saturating_sub(split.start);
            run.input_bytes = tasks.iter().flatten().map(bytes).sum();
            run.prepare(tasks.into_iter().map(Part::Splits));
        }
        run
    }

    /// Makes its tasks.
    pub(super) fn prepare(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.tasks = parts.into_iter().map(Task::new).collect();
        match self.writes_in_order() {
            true => self.runs = Runs::new(self.tasks.len()),
            false => self.written = Written::new(self.tasks.len(), self.partition_count()),
        }
        self.prepared = true;
        self.split = (0, 0);
        for task in &self.tasks {
            if let Part::Slice { producers, .. } = &task.part {
                self.split.0 += u32::from(producers.start == 0);
                self.split.1 += 1;
            }
        }
        let numbers = (0..).zip(&mut self.tasks);
        self.waiting = numbers
            .map(|(number, task)| (*task.ready.insert(0), number))
            .collect();
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
        let sources = self.sources(before);
        self.input_bytes = bytes_of(&sources);
        let parts: Vec<Part> = match deal {
            Deal::Ranges => {
                let cuts = sources.first().map(|run| run.runs.cuts(slots));
                return self.prepare_cuts(cuts.unwrap_or_default());
            }
            Deal::Gather => {
                let count = sources.iter().map(|run| run.partition_count()).max();
                let every = u32::try_from(count.unwrap_or_default()).unwrap_or(u32::MAX);
                vec![Part::Partitions(0..every)]
            }
            Deal::Producers => {
                let sizes: Vec<u64> = sources.iter().flat_map(|run| run.task_bytes()).collect();
                let tasks = grouping::tasks(bytes_of(&sources), slots);
                let ranges = grouping::group(&sizes, tasks).into_iter();
                ranges.map(Part::Producers).collect()
            }
            Deal::Partitions => self.deal_partitions(before, slots),
            Deal::Each => {
                let count = sources.iter().map(|run| run.partition_count()).max();
                let has_rows = |partition: usize| {
                    let mut written = sources.iter().map(|run| run.partitions.get(partition));
                    written.any(|volume| volume.is_some_and(|volume| volume.rows > 0))
                };
                let ranges = grouping::each((0..count.unwrap_or_default()).map(has_rows));
                ranges.into_iter().map(Part::Partitions).collect()
            }
        };
        self.prepare(parts);
    }

    fn deal_partitions(&self, before: &[StageRun], slots: u32) -> Vec<Part> {
        let (sources, together) = (self.sources(before), self.sides_together(before));
        let bytes = bytes_of(&sources).saturating_add(bytes_of(&together));
        let tasks = grouping::tasks(bytes, slots);
        let count = sources.iter().chain(&together);
        let count = count.map(|run| run.partitions.len()).max();
        let size = |runs: &[&StageRun], partition| {
            let sizes = runs.iter().map(|run| run.partition_size(partition));
            sizes.fold(0, u64::saturating_add)
        };
        let partitions = (0..count.unwrap_or_default()).map(|partition| PartitionSize {
            source: size(&sources, partition),
            sides: size(&together, partition),
        });
        if self.stage.may_split_partitions() {
            let partitions: Vec<PartitionSize> = partitions.collect();
            return grouping::deal_out(&partitions, tasks, |partition| {
                let written = sources.iter().map(|run| run.written_of(partition));
                written.flatten().collect()
            });
        }
        let sizes: Vec<u64> = partitions.map(PartitionSize::all).collect();
        let ranges = grouping::group(&sizes, tasks).into_iter();
        ranges.map(Part::Partitions).collect()
    }

    /// The stages of its source, all of which are among those `before` it.
    fn sources<'a>(&self, before: &'a [StageRun]) -> Vec<&'a StageRun> {
        let stages = self.source_stages().iter();
        stages
            .filter_map(|stage| before.get(stage.0 as usize))
            .collect()
    }

    /// The stages of those sides that were brought together with its source.
    fn sides_together<'a>(&self, before: &'a [StageRun]) -> Vec<&'a StageRun> {
        let together = self.stage.sides.iter().filter(|side| !side.broadcast);
        together
            .filter_map(|side| before.get(side.stage.0 as usize))
            .collect()
    }

    /// How the partitions that it reads, of stages `before` it, are dealt out to its tasks.
    pub(super) fn partitions_read(&self, before: &[StageRun]) -> Option<PartitionsRead> {
        let by_partition = matches!(
            self.stage.source,
            StageSource::Shuffle {
                deal: Deal::Partitions,
                ..
            }
        );
        if self.read.is_some() || !by_partition || !self.prepared {
            return self.read;
        }
        let mut rows: Vec<u64> = Vec::new();
        for run in self
            .sources(before)
            .iter()
            .chain(&self.sides_together(before))
        {
            rows.resize(rows.len().max(run.partitions.len()), 0);
            for (sum, partition) in rows.iter_mut().zip(&run.partitions) {
                *sum = sum.saturating_add(partition.rows);
            }
        }
        Some(PartitionsRead {
            count: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            split: self.split.0,
            slices: self.split.1,
            largest_rows: rows.iter().copied().max().unwrap_or_default(),
            rows: rows.iter().fold(0, |sum, &rows| sum.saturating_add(rows)),
        })
    }

    /// What a partition that it wrote is counted as where partitions are dealt out.
    fn partition_size(&self, partition: usize) -> u64 {
        let volume = self.partitions.get(partition);
        volume.map_or(0, |volume| volume.size(self.row_bytes))
    }

    /// What each task wrote of a partition, counted likewise.
    fn written_of(&self, partition: u32) -> Vec<u64> {
        let tasks = 0..u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        let size = |task| {
            let mut written = self.written.partitions(task, partition..partition + 1);
            let volume = written.next().map(Volume::of);
            volume.map_or(0, |volume| volume.size(self.row_bytes))
        };
        tasks.map(size).collect()
    }

    /// Makes tasks that cover the order of what the stage reads, cut at `cuts`.
    pub(super) fn prepare_cuts(&mut self, cuts: Vec<Cut>) {
        self.cuts = cuts;
        self.prepare((0..=self.cuts.len()).map(Part::Range));
    }

    /// The bytes that each task wrote.
    fn task_bytes(&self) -> Vec<u64> {
        let tasks = 0..u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        tasks.map(|task| self.written.bytes(task)).collect()
    }

    /// Adds what a task wrote that is done.
    fn count_output(&mut self, task: u32) {
        // All stretches are one partition until they are cut.
        if let Some(sum) = self.partitions.first_mut() {
            let stretches = self.runs.stretches(task).iter();
            stretches.for_each(|stretch| sum.add(Volume::of(stretch.partition)));
        }
        let count = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let partitions = self.written.partitions(task, 0..count);
        for (sum, partition) in self.partitions.iter_mut().zip(partitions) {
            sum.add(Volume::of(partition));
        }
    }

    /// Whether its tasks write their rows in order, to be cut afterwards.
    fn writes_in_order(&self) -> bool {
        let sorted = SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        };
        self.stage.sink == sorted
    }

    /// The bytes of all partitions over all winning attempts.
    pub(super) fn output_bytes(&self) -> u64 {
        self.output().bytes
    }

    /// All that winning attempts have written to the shuffle store.
    fn output(&self) -> Volume {
        let mut all = Volume::default();
        for partition in &self.partitions {
            all.add(*partition);
        }
        all
    }

    /// Partitions that each attempt of this stage has to write; none if it writes files.
    fn partition_count(&self) -> usize {
        match &self.stage.sink {
            SinkSpec::Shuffle { partitioning } => partitioning.count() as usize,
            SinkSpec::Files { .. } => 0,
        }
    }

    /// Task and attempt of those of `tasks` that are done and wrote to the shuffle store.
    fn winners(&self, tasks: Range<u32>) -> impl Iterator<Item = (u32, u32)> {
        let last = self.tasks.len().min(tasks.end as usize);
        let within = self.tasks.get(tasks.start as usize..last);
        let winner = |(number, task): (u32, &Task)| match task.output {
            Some(Left::Shuffle) => Some((number, task.winner?)),
            _ => None,
        };
        (tasks.start..)
            .zip(within.unwrap_or_default())
            .filter_map(winner)
    }

    /// What a plan wants to know of a stage that is done.
    pub(super) fn facts(&self) -> StageFacts {
        let Volume { rows, bytes } = self.output();
        StageFacts {
            stage: self.stage.id,
            rows,
            bytes,
        }
    }

    /// Where all of its rows are.
    pub(super) fn all_sources(&self) -> Vec<ShuffleSource> {
        self.whole_input(0..u32::MAX).sources
    }

    /// What `tasks` have written of `range`, for a task to read.
    fn shuffle_input(&self, range: Range<u32>, tasks: Range<u32>) -> ShuffleInput {
        let slice = |(task, attempt)| self.written.slice(task, attempt, &range);
        ShuffleInput {
            stage: self.stage.id,
            sources: self.winners(tasks).filter_map(slice).collect(),
            partitions: range,
        }
    }

    /// What is between two neighbours of `cuts`, for task `number` of those who read it.
    fn range(&self, cuts: &[Cut], number: usize) -> RangeInput {
        let start = number.checked_sub(1).and_then(|before| cuts.get(before));
        let end = cuts.get(number);
        let slice = |(task, attempt)| self.runs.slice(task, attempt, (start, end));
        RangeInput {
            stage: self.stage.id,
            start: start.cloned(),
            end: end.cloned(),
            sources: self.winners(0..u32::MAX).filter_map(slice).collect(),
        }
    }

    /// All that `tasks` have written, for a task to read.
    fn whole_input(&self, tasks: Range<u32>) -> ShuffleInput {
        let partitions = u32::try_from(self.partition_count()).unwrap_or(u32::MAX);
        self.shuffle_input(0..partitions, tasks)
    }

    /// What a task reads of its source, which is among the stages `before` it.
    pub(super) fn input(&self, task: u32, before: &[StageRun]) -> Option<TaskInput> {
        let part = &self.tasks.get(task as usize)?.part;
        let source = || before.get(self.source_stages().first()?.0 as usize);
        match part {
            Part::Splits(splits) => return Some(TaskInput::Splits(splits.clone())),
            Part::Range(number) => {
                return Some(TaskInput::Range(source()?.range(&self.cuts, *number)));
            }
            Part::Partitions(_) | Part::Slice { .. } | Part::Producers(_) => {}
        }
        let mut first = 0_u32;
        let mut inputs = Vec::new();
        for stage in self.source_stages() {
            let run = before.get(stage.0 as usize)?;
            // Tasks are counted through all stages.
            let own = |producers: &Range<u32>| {
                producers.start.saturating_sub(first)..producers.end.saturating_sub(first)
            };
            inputs.push(match part {
                Part::Splits(_) | Part::Range(_) => return None,
                Part::Partitions(range) => run.shuffle_input(range.clone(), 0..u32::MAX),
                Part::Slice {
                    partition,
                    producers,
                } => run.shuffle_input(*partition..partition + 1, own(producers)),
                Part::Producers(producers) => run.whole_input(own(producers)),
            });
            let tasks = u32::try_from(run.tasks.len()).unwrap_or(u32::MAX);
            first = first.saturating_add(tasks);
        }
        Some(TaskInput::Shuffle(inputs))
    }

    /// What a task reads of each side, all of which are among the stages `before` it.
    pub(super) fn sides(&self, task: u32, before: &[StageRun]) -> Option<Vec<ShuffleInput>> {
        let range = match &self.tasks.get(task as usize)?.part {
            Part::Partitions(range) => Some(range.clone()),
            Part::Slice { partition, .. } => Some(*partition..partition + 1),
            Part::Splits(_) | Part::Producers(_) | Part::Range(_) => None,
        };
        let side = |side: &Side| {
            let run = before.get(side.stage.0 as usize)?;
            Some(match &range {
                Some(range) if !side.broadcast => run.shuffle_input(range.clone(), 0..u32::MAX),
                _ => run.whole_input(0..u32::MAX),
            })
        };
        self.stage.sides.iter().map(side).collect()
    }

    /// Whether an output is one that a task of this stage can have made.
    pub(super) fn fits(&self, output: &TaskOutput) -> bool {
        match (&self.stage.sink, output) {
            (SinkSpec::Shuffle { .. }, TaskOutput::Shuffle(partitions)) => {
                !self.writes_in_order() && partitions.len() == self.partition_count()
            }
            (_, TaskOutput::Sorted(_)) => self.writes_in_order(),
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
    pub(super) fn ready(&self, now: Millis) -> impl Iterator<Item = (u32, &Task)> {
        let waiting = self.waiting.iter().take_while(move |&&(at, _)| at <= now);
        waiting.filter_map(|&(_, task)| Some((task, self.tasks.get(task as usize)?)))
    }

    /// When the next waiting task may be launched, if that is after `now`.
    pub(super) fn next_ready(&self, now: Millis) -> Option<Millis> {
        self.waiting
            .range((now + 1, 0)..)
            .next()
            .map(|&(ready, _)| ready)
    }

    /// An attempt is launched.
    pub(super) fn launch(&mut self, task: u32, attempt: Attempt) {
        self.stop_waiting(task);
        self.running.insert(task);
        self.know(task, attempt);
    }

    /// An attempt exists, whether it runs or not.
    pub(super) fn know(&mut self, task: u32, attempt: Attempt) {
        let Some(entry) = self.tasks.get_mut(task as usize) else {
            return;
        };
        self.launches.push((task, attempt.number));
        self.started.get_or_insert(attempt.started);
        entry.add(attempt);
        self.watch(task);
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
        let TaskSuccess {
            output,
            counts,
            warnings,
        } = success;
        self.done += 1;
        self.counts.add(&counts);
        if let Some(won) = entry.attempt_mut(attempt) {
            self.durations.add(now.saturating_sub(won.started));
            won.end(AttemptState::Won, now);
            won.counts = counts;
            won.object = wrote_object(&output);
        }
        if !warnings.is_empty() {
            self.warned.insert(task);
        }
        entry.winner = Some(attempt);
        entry.warnings = warnings;
        match output {
            TaskOutput::Files(files) => entry.output = Some(Left::Files(files)),
            TaskOutput::Shuffle(partitions) => {
                entry.output = Some(Left::Shuffle);
                self.written.put(task, &partitions);
                self.count_output(task);
            }
            TaskOutput::Sorted(stretches) => {
                entry.output = Some(Left::Shuffle);
                self.runs.put(task, stretches);
                self.count_output(task);
            }
        }
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
        entry.output = None;
        entry.warnings = Vec::new();
        self.warned.remove(&task);
        self.done -= 1;
        self.ended = None;
        // Sums cannot be subtracted from without trusting that it was added; this is rare.
        self.counts = Counts::default();
        self.partitions.fill(Volume::default());
        for won in self.tasks.iter().filter_map(Task::won) {
            self.counts.add(&won.counts);
        }
        for (winner, _) in self.winners(0..u32::MAX).collect::<Vec<_>>() {
            self.count_output(winner);
        }
        self.wait(task, now);
    }

    /// An attempt has come further: notes how fast it is.
    pub(super) fn progress(&mut self, now: Millis, task: u32, attempt: u32, counts: Counts) {
        let entry = self.tasks.get_mut(task as usize);
        let Some(entry) = entry.and_then(|task| task.attempt_mut(attempt)) else {
            return;
        };
        let read = counts.bytes_in.saturating_sub(entry.counts.bytes_in);
        self.pace.add(read, now.saturating_sub(entry.heard));
        entry.heard = now;
        entry.counts = counts;
        let runs_ms = now.saturating_sub(entry.started);
        entry.slow = self.pace.is_slow(entry.counts.bytes_in, runs_ms);
        self.watch(task);
    }

    /// Notes which attempts of a task run, after one of them was launched or has ended.
    pub(super) fn watch(&mut self, task: u32) {
        let Some(entry) = self.tasks.get_mut(task as usize) else {
            return;
        };
        let now = entry.watch();
        let before = std::mem::replace(&mut entry.watched, now);
        if before == now {
            return;
        }
        match before {
            Watched::None => {}
            Watched::One(since) => drop(self.alone.remove(&(since, task))),
            Watched::Slow => drop(self.slow.remove(&task)),
            Watched::More => self.racing -= 1,
        }
        match now {
            Watched::None => {}
            Watched::One(since) => drop(self.alone.insert((since, task))),
            Watched::Slow => drop(self.slow.insert(task)),
            Watched::More => self.racing += 1,
        }
    }

    /// How long a task may run before it is late, once that can be told.
    fn patience(&self) -> Option<Millis> {
        let share = 100 * u64::from(self.done);
        let enough = share >= limits::STRAGGLER_DONE_PERCENT * self.tasks.len() as u64;
        let median = self.durations.median().filter(|_| enough)?;
        Some(2 * median + limits::STRAGGLER_SLACK_MS + 1)
    }

    /// Tasks that are much slower than their like, or run much longer: to be tried a second time.
    pub(super) fn late(&self, now: Millis) -> impl Iterator<Item = (u32, &Task)> {
        let slow = self.slow.iter().copied();
        let patience = self.patience();
        let since = patience.and_then(|patience| now.checked_sub(patience));
        let long = self.alone.iter();
        let long = long.take_while(move |&&(started, _)| since.is_some_and(|at| started <= at));
        let late = slow.chain(long.map(|&(_, task)| task));
        late.filter_map(|task| Some((task, self.tasks.get(task as usize)?)))
    }

    /// When the next task will be late.
    pub(super) fn next_late(&self, now: Millis) -> Option<Millis> {
        let patience = self.patience()?;
        let after = now.checked_sub(patience).map_or(0, |at| at + 1);
        let (started, _) = self.alone.range((after, 0)..).next()?;
        Some(started + patience)
    }

    /// Whether one more task may have a second attempt at the same time: where everything is slow,
    /// everything twice would be slower.
    pub(super) fn may_race(&self, slots: u32) -> bool {
        let tasks = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        self.racing <= tasks.min(slots) / limits::STRAGGLER_SHARE
    }

    /// Every shuffle object that may exist, winners included.
    pub(super) fn objects(&self) -> impl Iterator<Item = (StageId, u32, u32)> + '_ {
        let attempts = (0..).zip(&self.tasks).flat_map(|(number, task)| {
            let attempts = task.attempts.iter();
            attempts.map(move |entry| (number, entry))
        });
        let shuffles = matches!(self.stage.sink, SinkSpec::Shuffle { .. });
        attempts
            .filter(move |(_, entry)| shuffles && entry.object)
            .map(|(task, entry)| (self.stage.id, task, entry.number))
    }

    /// Gives up what only a running job needs; keeps what people may ask and, if wanted, where
    /// the output is.
    pub(super) fn release(&mut self, keep_output: bool) {
        self.waiting.clear();
        self.running.clear();
        self.alone.clear();
        self.slow.clear();
        self.durations = Durations::default();
        for task in &mut self.tasks {
            task.part = Part::Splits(Vec::new());
            task.failed_on.clear();
            if !keep_output {
                task.output = None;
            }
        }
        if !keep_output {
            self.written = Written::default();
            self.runs = Runs::default();
            self.cuts = Vec::new();
        }
    }
}

/// The bytes that `runs` have written to the shuffle store, as stored.
fn bytes_of(runs: &[&StageRun]) -> u64 {
    let bytes = runs.iter().map(|run| run.output_bytes());
    bytes.fold(0, u64::saturating_add)
}

/// Rows and their bytes as stored. Both are an executor's word: they must not overflow whatever it
/// says.
#[derive(Debug, Clone, Copy, Default)]
struct Volume {
    rows: u64,
    bytes: u64,
}

impl Volume {
    fn of(partition: PartitionMeta) -> Self {
        Volume {
            rows: partition.rows,
            bytes: partition.bytes,
        }
    }

    fn add(&mut self, other: Volume) {
        self.rows = self.rows.saturating_add(other.rows);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// What it is counted as where rows of `row_bytes` are dealt out.
    fn size(self, row_bytes: u64) -> u64 {
        self.bytes.max(self.rows.saturating_mul(row_bytes))
    }
}
