//! Runs the stages of a planner to their end, without scheduler or sockets: each stage as several
//! tasks where its deal allows it, cut at random places.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use fastrand::Rng;
use futures::StreamExt;
use kiln_driver::planner::{Planner, StageFacts};
use kiln_engine::context::{CancelToken, TaskContext};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{
    Cut, Deal, PartitionMeta, RangeInput, ShuffleInput, ShuffleSource, Side, Split, Stage,
    StageSource, TaskInput, TaskOutput, TaskSpec,
};
use kiln_engine::storage::{Compression, ShuffleStore, Stores};
use kiln_engine::{Error, Result, shuffle, task};
use object_store::memory::InMemory;
use object_store::path::Path;

/// What the tasks of one stage wrote.
type Written = Vec<Wrote>;

/// What a task wrote.
struct Wrote {
    partitions: Vec<PartitionMeta>,
    /// The key with which each begins, where they are in order.
    first_keys: Vec<Bytes>,
}

/// Something to run tasks with.
pub(crate) struct Machine {
    pub(crate) stores: Arc<Stores>,
    pool: Arc<rayon::ThreadPool>,
}

/// A job on its way.
pub(crate) struct Job<'a> {
    ctx: TaskContext,
    id: JobId,
    random: &'a mut Rng,
    pub(crate) stages: Vec<Arc<Stage>>,
    written: Vec<Written>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        Machine {
            stores: Arc::new(Stores::new()),
            pool: Arc::new(pool.expect("two threads")),
        }
    }

    /// A job without stages, with storage of its own.
    pub(crate) fn job<'a>(&self, random: &'a mut Rng) -> Job<'a> {
        let objects = Arc::new(InMemory::new());
        let ctx = TaskContext {
            pool: Arc::clone(&self.pool),
            memory: MemoryBudget::new(1 << 30),
            stores: Arc::clone(&self.stores),
            shuffle: ShuffleStore::new(objects, Path::default(), Compression::Lz4),
            metrics: Arc::default(),
            cancel: CancelToken::default(),
            shared: Arc::default(),
            functions: Arc::default(),
        };
        Job {
            ctx,
            id: JobId::new(1),
            random,
            stages: Vec::new(),
            written: Vec::new(),
        }
    }
}

impl Job<'_> {
    /// The result of all stages that `planner` gives.
    pub(crate) async fn run(&mut self, mut planner: Planner) -> Result<Vec<RecordBatch>> {
        let mut done = Vec::new();
        loop {
            let graph = planner.advance(&done)?;
            if graph.stages.is_empty() && !graph.complete {
                return Err(Error::internal("the planner does not go on"));
            }
            for stage in graph.stages {
                self.stages.push(Arc::clone(&stage));
                let mut written = Vec::new();
                for (number, (input, sides)) in self.parts(&stage).into_iter().enumerate() {
                    written.push(self.task(&stage, number, input, sides).await?);
                }
                let all = || written.iter().flat_map(|wrote: &Wrote| &wrote.partitions);
                done.push(StageFacts {
                    stage: stage.id,
                    rows: all().map(|partition| partition.rows).sum(),
                    bytes: all().map(|partition| partition.bytes).sum(),
                });
                self.written.push(written);
            }
            if graph.complete {
                return self.result().await;
            }
        }
    }

    async fn task(
        &self,
        stage: &Arc<Stage>,
        number: usize,
        input: TaskInput,
        sides: Vec<ShuffleInput>,
    ) -> Result<Wrote> {
        let spec = TaskSpec {
            id: TaskId {
                job: self.id,
                stage: stage.id,
                task: number as u32,
            },
            attempt: 0,
            stage: Arc::clone(stage),
            input,
            sides,
            program: None,
        };
        let mut ctx = self.ctx.clone();
        ctx.metrics = Arc::default();
        match task::run(spec, ctx).await?.output {
            TaskOutput::Shuffle(partitions) => Ok(Wrote {
                partitions,
                first_keys: Vec::new(),
            }),
            TaskOutput::Sorted(stretches) => Ok(Wrote {
                partitions: stretches.iter().map(|one| one.partition).collect(),
                first_keys: stretches.into_iter().map(|one| one.first_key).collect(),
            }),
            TaskOutput::Files(_) => Err(Error::internal("no plan here writes files")),
        }
    }

    async fn result(&self) -> Result<Vec<RecordBatch>> {
        let stage = self.stages.last().expect("a plan has a stage");
        let (id, schema) = (stage.id, Arc::clone(&stage.schema));
        let read = self.input(id, 0..1, |_| true);
        let mut batches = vec![RecordBatch::new_empty(Arc::clone(&schema))];
        // One after the other: tasks may have a part of an order each.
        for source in read.sources {
            let schema = Arc::clone(&schema);
            let mut morsels = shuffle::open(id, self.id, 0..1, vec![source], schema, &self.ctx)?;
            while let Some(morsel) = morsels.next().await {
                morsel?(&mut |batch| {
                    batches.push(batch);
                    Ok(())
                })?;
            }
        }
        Ok(batches)
    }

    /// What each task of a stage reads.
    fn parts(&mut self, stage: &Stage) -> Vec<(TaskInput, Vec<ShuffleInput>)> {
        let sides = |job: &Self, range: Range<u32>| -> Vec<ShuffleInput> {
            let side = |side: &Side| match side.broadcast {
                true => job.input(side.stage, 0..job.partitions(side.stage), |_| true),
                false => job.input(side.stage, range.clone(), |_| true),
            };
            stage.sides.iter().map(side).collect()
        };
        match &stage.source {
            StageSource::Scan(scan) => {
                let cut = |task: &Vec<Split>| {
                    let pieces = task.iter().flat_map(|split| cut(split, self.random));
                    TaskInput::Splits(pieces.collect())
                };
                let tasks: Vec<TaskInput> = scan.tasks.iter().map(cut).collect();
                tasks.into_iter().map(|t| (t, sides(self, 0..0))).collect()
            }
            StageSource::Shuffle { stages, deal, .. } => {
                let count = self.partitions(stages[0]);
                let read = |range: Range<u32>, chosen: &dyn Fn(usize) -> bool| {
                    let input = |stage: &StageId| self.input(*stage, range.clone(), chosen);
                    TaskInput::Shuffle(stages.iter().map(input).collect())
                };
                match deal {
                    Deal::Gather => vec![(read(0..count, &|_| true), sides(self, 0..count))],
                    Deal::Each => {
                        let task = |one| (read(one..one + 1, &|_| true), sides(self, one..one + 1));
                        (0..count).map(task).collect()
                    }
                    Deal::Producers => {
                        let tasks = 3;
                        let task =
                            |number| read(0..count, &move |producer| producer % tasks == number);
                        let all = (0..tasks).map(|number| (task(number), sides(self, 0..count)));
                        all.collect()
                    }
                    Deal::Ranges => {
                        let sorted = self.ranges(stages[0]).into_iter();
                        sorted
                            .map(|range| (TaskInput::Range(range), Vec::new()))
                            .collect()
                    }
                    Deal::Partitions => {
                        let ends = (1..=count).filter(|_| self.random.bool());
                        let mut starts: Vec<u32> = ends.collect();
                        starts.retain(|start| *start < count);
                        // Each partition, by producer, where a stage does not mind.
                        let split = stage.may_split_partitions() && self.random.bool();
                        if split {
                            starts = (1..count).collect();
                        }
                        let middle = self.random.usize(0..3);
                        let read = |range: Range<u32>, second: Option<bool>| {
                            let chosen = |producer: usize| {
                                second.is_none_or(|second| second == (producer >= middle))
                            };
                            let input = |stage: &StageId| self.input(*stage, range.clone(), chosen);
                            TaskInput::Shuffle(stages.iter().map(input).collect())
                        };
                        let slices = match split {
                            true => &[Some(false), Some(true)][..],
                            false => &[None],
                        };
                        let mut start = 0;
                        let ranges = starts.into_iter().chain([count]).map(|end| {
                            let range = start..end;
                            start = end;
                            range
                        });
                        let tasks = |range: Range<u32>| {
                            let task = |slice: &Option<bool>| {
                                (read(range.clone(), *slice), sides(self, range.clone()))
                            };
                            slices.iter().map(task).collect::<Vec<_>>()
                        };
                        ranges.flat_map(tasks).collect()
                    }
                }
            }
        }
    }

    /// What a stage wrote in order, cut at some of the places where stretches begin.
    fn ranges(&mut self, stage: StageId) -> Vec<RangeInput> {
        let written = &self.written[stage.0 as usize];
        let runs = || (0..).zip(written);
        let starts = runs().flat_map(|(task, wrote)| {
            let cuts = wrote.first_keys.iter();
            cuts.map(move |key| Cut::new(key.clone(), task))
        });
        let mut cuts: Vec<Cut> = starts.filter(|_| self.random.bool()).collect();
        cuts.sort();
        cuts.dedup();
        let starts = [None].into_iter().chain(cuts.iter().cloned().map(Some));
        let ends = cuts.iter().cloned().map(Some).chain([None]);
        let range = |(start, end): (Option<Cut>, Option<Cut>)| {
            let source = |(task, wrote): (u32, &Wrote)| {
                let keys = &wrote.first_keys;
                let before = |cut: &Cut| keys.partition_point(|key| cut.is_behind(key, task));
                let first = start.as_ref().map_or(0, before).saturating_sub(1);
                let last = end.as_ref().map_or(keys.len(), before);
                let offset = wrote.partitions[..first].iter();
                (first < last).then(|| ShuffleSource {
                    task,
                    attempt: 0,
                    offset: offset.map(|partition| partition.bytes).sum(),
                    partitions: wrote.partitions[first..last].to_vec(),
                })
            };
            RangeInput {
                stage,
                sources: runs().filter_map(source).collect(),
                start,
                end,
            }
        };
        starts.zip(ends).map(range).collect()
    }

    fn partitions(&self, stage: StageId) -> u32 {
        match &self.stages[stage.0 as usize].sink {
            kiln_engine::plan::SinkSpec::Shuffle { partitioning } => partitioning.count(),
            kiln_engine::plan::SinkSpec::Files { .. } => 0,
        }
    }

    /// A range of what the `chosen` tasks of a stage wrote.
    fn input(
        &self,
        stage: StageId,
        range: Range<u32>,
        chosen: impl Fn(usize) -> bool,
    ) -> ShuffleInput {
        let written = self.written[stage.0 as usize].iter().enumerate();
        let source = |(task, wrote): (usize, &Wrote)| {
            let partitions = &wrote.partitions;
            let wanted = &partitions[range.start as usize..range.end as usize];
            let before = &partitions[..range.start as usize];
            let any = wanted.iter().any(|partition| partition.rows > 0);
            (any && chosen(task)).then(|| ShuffleSource {
                task: task as u32,
                attempt: 0,
                offset: before.iter().map(|partition| partition.bytes).sum(),
                partitions: wanted.to_vec(),
            })
        };
        ShuffleInput {
            stage,
            sources: written.filter_map(source).collect(),
            partitions: range,
        }
    }
}

/// A split, or two that cover the same.
fn cut(split: &Split, random: &mut Rng) -> Vec<Split> {
    if random.bool() || split.end - split.start < 2 {
        return vec![split.clone()];
    }
    let middle = random.u64(split.start + 1..split.end);
    let (mut first, mut second) = (split.clone(), split.clone());
    (first.end, second.start) = (middle, middle);
    vec![first, second]
}

/// The schema of batches, of which there is at least one.
pub(crate) fn schema_of_batches(batches: &[RecordBatch]) -> SchemaRef {
    batches[0].schema()
}
