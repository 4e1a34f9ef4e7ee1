//! Simulated data: rows are numbers, a shuffle object is a list of rows for each partition.
//!
//! A scan task makes the rows of its splits; every other task passes on what it reads of its source
//! and of the sides that were brought together with it. Sides that a join looks up in, broadcast or
//! brought together, are not passed on: a task looks whether all is there. So the result of a job
//! has to be exactly the rows that follow from its input, and a task that ran twice or not at all
//! shows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::Schema;
use kiln_engine::error::LostOutput;
use kiln_engine::expr::col;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{
    Cut, Deal, FileFormat, JoinStep, OperatorSpec, Output, OutputFile, PartitionMeta, Partitioning,
    RangeInput, ScanFormat, ScanSpec, ShuffleInput, ShuffleSource, Side, SinkSpec, Split, Stage,
    StageGraph, StageSource, StepKind, Stretch, TaskInput, TaskOutput, TaskSpec, TextOptions,
};

/// Job, stage, task and attempt that wrote an object or a file.
pub(crate) type Name = (JobId, u32, u32, u32);

/// Objects and staged files, with the rows of each partition.
pub(crate) type Store = BTreeMap<Name, Vec<Vec<u64>>>;

/// Bytes of a row: large, so that partitions are worth tasks of their own.
const ROW_BYTES: u64 = 1 << 20;

const ROWS_PER_TASK: u64 = 12;

/// A random job of one to five stages, each of which reads some of those before it; the last one
/// reads the one before it at least.
pub(crate) fn random_graph(random: &mut fastrand::Rng) -> StageGraph {
    let depth = random.u32(1..=5);
    let mut stages: Vec<Arc<Stage>> = Vec::new();
    for number in 0..depth {
        let last = number + 1 == depth;
        let reads_one = last || random.u8(0..3) > 0;
        let source = match stages.len() {
            0 => scan(random.u64(0..8)),
            _ if !reads_one => scan(random.u64(0..8)),
            known => {
                let first = if last {
                    known - 1
                } else {
                    random.usize(0..known)
                };
                random_source(random, &stages, first)
            }
        };
        let sides = random_sides(random, &stages, &source);
        let ranges = matches!(
            source,
            StageSource::Shuffle {
                deal: Deal::Ranges,
                ..
            }
        );
        let sink = match (last, random.u8(0..4)) {
            (false, 0) => SinkSpec::Shuffle {
                partitioning: Partitioning::Sorted,
            },
            (true, 0) => SinkSpec::Files { output: output() },
            (true, 1) => SinkSpec::Shuffle {
                partitioning: Partitioning::Single,
            },
            _ => {
                let partitions = random.u32(1..9);
                SinkSpec::Shuffle {
                    partitioning: Partitioning::Hash {
                        keys: vec![],
                        partitions,
                    },
                }
            }
        };
        let operators = match ranges || is_sorted(&sink) {
            true => vec![sort()],
            false => random_joins(random, &sides),
        };
        stages.push(Arc::new(Stage {
            id: StageId(number),
            source,
            sides,
            operators,
            sink,
            schema: Arc::new(Schema::empty()),
        }));
    }
    let output = stages.last().and_then(|stage| match &stage.sink {
        SinkSpec::Files { output } => Some(output.clone()),
        SinkSpec::Shuffle { .. } => None,
    });
    StageGraph {
        stages,
        complete: true,
        output,
    }
}

fn sort() -> OperatorSpec {
    OperatorSpec::Sort {
        keys: vec![col("row").asc()],
    }
}

fn is_sorted(sink: &SinkSpec) -> bool {
    let sorted = SinkSpec::Shuffle {
        partitioning: Partitioning::Sorted,
    };
    *sink == sorted
}

fn count(stage: &Stage) -> u32 {
    match &stage.sink {
        SinkSpec::Shuffle { partitioning } => partitioning.count(),
        SinkSpec::Files { .. } => 0,
    }
}

/// What stage `first` wrote, and with it one or two others that wrote as many partitions.
fn random_source(random: &mut fastrand::Rng, stages: &[Arc<Stage>], first: usize) -> StageSource {
    if is_sorted(&stages[first].sink) {
        return StageSource::Shuffle {
            stages: vec![StageId(first as u32)],
            schema: Arc::new(Schema::empty()),
            deal: Deal::Ranges,
        };
    }
    let like =
        |other: &&Arc<Stage>| count(other) == count(&stages[first]) && !is_sorted(&other.sink);
    let mut read = vec![StageId(first as u32)];
    for other in stages.iter().filter(like) {
        if other.id.0 as usize != first && random.u8(0..4) == 0 {
            read.push(other.id);
        }
    }
    StageSource::Shuffle {
        stages: read,
        schema: Arc::new(Schema::empty()),
        deal: match random.u8(0..4) {
            0 => Deal::Gather,
            1 => Deal::Producers,
            _ => Deal::Partitions,
        },
    }
}

fn random_sides(
    random: &mut fastrand::Rng,
    stages: &[Arc<Stage>],
    source: &StageSource,
) -> Vec<Side> {
    let partitions = match source {
        StageSource::Shuffle {
            stages: read,
            deal: Deal::Partitions,
            ..
        } => Some(count(&stages[read[0].0 as usize])),
        _ => None,
    };
    let chosen = stages
        .iter()
        .filter(|stage| !is_sorted(&stage.sink))
        .filter(|_| random.u8(0..4) == 0)
        .collect::<Vec<_>>();
    let side = |stage: &Arc<Stage>| Side {
        stage: stage.id,
        schema: Arc::new(Schema::empty()),
        broadcast: partitions != Some(count(stage)),
    };
    chosen.into_iter().map(side).collect()
}

/// Joins that look up in all sides that were brought together with the source, or in none.
fn random_joins(random: &mut fastrand::Rng, sides: &[Side]) -> Vec<OperatorSpec> {
    if random.bool() {
        return Vec::new();
    }
    let join = |(side, _)| {
        OperatorSpec::Join(JoinStep {
            side,
            kind: StepKind::Inner,
            probe_keys: Vec::new(),
            build_keys: Vec::new(),
            filter: None,
            output: Vec::new(),
        })
    };
    let together = (0..).zip(sides).filter(|(_, side)| !side.broadcast);
    together.map(join).collect()
}

/// Whether the rows of the stage's sides are passed on that were brought together with its source.
fn passes_sides_on(stage: &Stage) -> bool {
    stage.operators.is_empty()
}

/// Of `parts` partitions the one that a row is in. Skewed: half of the rows are in the first.
fn partition_of(row: u64, parts: usize) -> usize {
    match row % 2 {
        0 => 0,
        _ => row as usize % parts,
    }
}

fn output() -> Output {
    Output {
        url: "file:///out".to_owned(),
        format: FileFormat::Csv,
        options: Default::default(),
    }
}

fn scan(tasks: u64) -> StageSource {
    let split = |task| Split {
        url: "file:///in".to_owned(),
        file_bytes: tasks * ROWS_PER_TASK,
        start: task * ROWS_PER_TASK,
        end: (task + 1) * ROWS_PER_TASK,
    };
    StageSource::Scan(ScanSpec {
        format: ScanFormat::Text(TextOptions::default()),
        file_schema: Arc::new(Schema::empty()),
        projection: Vec::new(),
        predicate: None,
        key_filters: Vec::new(),
        files: Vec::new(),
        tasks: (0..tasks).map(|task| vec![split(task)]).collect(),
    })
}

/// The rows that the result of a job has to have.
pub(crate) fn expected(graph: &StageGraph) -> Vec<u64> {
    rows_of(graph, graph.stages.len() - 1)
}

/// The rows that a stage writes, in order.
fn rows_of(graph: &StageGraph, stage: usize) -> Vec<u64> {
    let stage = &graph.stages[stage];
    let of = |stage: &StageId| rows_of(graph, stage.0 as usize);
    let mut rows: Vec<u64> = match &stage.source {
        StageSource::Scan(scan) => (0..scan.tasks.len() as u64 * ROWS_PER_TASK).collect(),
        StageSource::Shuffle { stages, .. } => stages.iter().flat_map(of).collect(),
    };
    let passed = |side: &&Side| !side.broadcast && passes_sides_on(stage);
    let passed = stage.sides.iter().filter(passed);
    rows.extend(passed.flat_map(|side| of(&side.stage)));
    rows.sort_unstable();
    rows
}

/// What an attempt reads, or the object that is missing. Panics where the driver names something
/// that the object does not hold, or leaves out a part of a side: that is a defect, not a fault.
pub(crate) fn read(
    spec: &TaskSpec,
    graph: &StageGraph,
    store: &Store,
) -> Result<Vec<u64>, LostOutput> {
    let mut rows = Vec::new();
    match &spec.input {
        TaskInput::Splits(splits) => {
            rows.extend(splits.iter().flat_map(|split| split.start..split.end));
        }
        TaskInput::Shuffle(inputs) => {
            for input in inputs {
                rows.extend(read_input(spec, input, store)?);
            }
        }
        TaskInput::Range(range) => rows.extend(read_range(spec, range, store)?),
    }
    assert_eq!(
        spec.sides.len(),
        spec.stage.sides.len(),
        "sides of {}",
        spec.id
    );
    for (side, input) in spec.stage.sides.iter().zip(&spec.sides) {
        let mut read = read_input(spec, input, store)?;
        if !side.broadcast && passes_sides_on(&spec.stage) {
            rows.extend(read);
            continue;
        }
        read.sort_unstable();
        let mut all = rows_of(graph, side.stage.0 as usize);
        if !side.broadcast {
            let parts = count(&graph.stages[side.stage.0 as usize]) as usize;
            let partitions = partitions_read(spec);
            all.retain(|row| partitions.contains(&(partition_of(*row, parts) as u32)));
        }
        assert_eq!(read, all, "side of {}", spec.id);
    }
    Ok(rows)
}

/// The partitions that a task reads of its source.
fn partitions_read(spec: &TaskSpec) -> Range<u32> {
    match &spec.input {
        TaskInput::Shuffle(inputs) => inputs[0].partitions.clone(),
        TaskInput::Splits(_) | TaskInput::Range(_) => {
            panic!("nothing comes together with it: {}", spec.id)
        }
    }
}

/// The rows of a range: those between its cuts of the stretches that the driver names.
fn read_range(spec: &TaskSpec, range: &RangeInput, store: &Store) -> Result<Vec<u64>, LostOutput> {
    let mut rows = Vec::new();
    for source in &range.sources {
        let (name, object) = object(spec, range.stage, source, store)?;
        let metas: Vec<_> = object.iter().map(|part| meta(part)).collect();
        let starts = metas.iter().scan(0, |end, meta| {
            *end += meta.bytes;
            Some(*end - meta.bytes)
        });
        let first = starts.take_while(|start| *start < source.offset).count();
        let last = first + source.partitions.len();
        assert_eq!(
            source.partitions,
            metas[first..last],
            "stretches of {name:?}"
        );
        rows.extend(object[first..last].iter().flatten().filter(|row| {
            let is_before = |cut: &Option<Cut>| {
                let cut = cut.as_ref();
                cut.map(|cut| cut.is_behind(&key(**row), source.task))
            };
            is_before(&range.start) != Some(true) && is_before(&range.end) != Some(false)
        }));
    }
    Ok(rows)
}

/// The key by which rows are in order: several have the same.
fn key(row: u64) -> [u8; 8] {
    (row / 3).to_be_bytes()
}

fn object<'a>(
    spec: &TaskSpec,
    stage: StageId,
    source: &ShuffleSource,
    store: &'a Store,
) -> Result<(Name, &'a Vec<Vec<u64>>), LostOutput> {
    let (task, attempt) = (source.task, source.attempt);
    let name = (spec.id.job, stage.0, task, attempt);
    let lost = LostOutput {
        stage,
        task,
        attempt,
    };
    Ok((name, store.get(&name).ok_or(lost)?))
}

fn read_input(
    spec: &TaskSpec,
    input: &ShuffleInput,
    store: &Store,
) -> Result<Vec<u64>, LostOutput> {
    let mut rows = Vec::new();
    for source in &input.sources {
        let (name, object) = object(spec, input.stage, source, store)?;
        let range = &input.partitions;
        let (start, end) = (range.start as usize, range.end as usize);
        let before: usize = object[..start].iter().map(Vec::len).sum();
        assert_eq!(
            source.offset,
            before as u64 * ROW_BYTES,
            "offset in {name:?}"
        );
        let metas: Vec<_> = object[start..end].iter().map(|part| meta(part)).collect();
        assert_eq!(source.partitions, metas, "partitions of {name:?}");
        rows.extend(object[start..end].iter().flatten());
    }
    Ok(rows)
}

fn meta(rows: &[u64]) -> PartitionMeta {
    let checksum = rows
        .iter()
        .fold(7, |sum: u64, row| sum.wrapping_mul(31).wrapping_add(*row));
    let rows = rows.len() as u64;
    PartitionMeta {
        bytes: rows * ROW_BYTES,
        rows,
        checksum,
    }
}

/// What an attempt writes, and what it says about it.
pub(crate) fn write(spec: &TaskSpec, mut rows: Vec<u64>) -> (Vec<Vec<u64>>, TaskOutput) {
    rows.sort_unstable();
    match &spec.stage.sink {
        SinkSpec::Files { .. } => {
            let file = OutputFile {
                name: format!("t{}-a{}", spec.id.task, spec.attempt),
                rows: rows.len() as u64,
                bytes: rows.len() as u64,
                checksum: 0,
                pending: None,
            };
            (vec![rows], TaskOutput::Files(vec![file]))
        }
        sink if is_sorted(sink) => {
            // Another attempt may cut otherwise, and has rows with equal keys in another order.
            if spec.attempt % 2 == 1 {
                rows.sort_by_key(|row| (key(*row), std::cmp::Reverse(*row)));
            }
            let size = 1 + spec.attempt as usize % 3;
            let parts: Vec<Vec<u64>> = rows.chunks(size).map(<[u64]>::to_vec).collect();
            let stretches = parts.iter().map(|part| Stretch {
                partition: meta(part),
                first_key: key(part[0]).to_vec().into(),
            });
            let stretches = stretches.collect();
            (parts, TaskOutput::Sorted(stretches))
        }
        SinkSpec::Shuffle { partitioning } => {
            let mut parts = vec![Vec::new(); partitioning.count() as usize];
            for row in rows {
                let part = partition_of(row, parts.len());
                parts[part].push(row);
            }
            let metas = parts.iter().map(|part| meta(part)).collect();
            (parts, TaskOutput::Shuffle(metas))
        }
    }
}
