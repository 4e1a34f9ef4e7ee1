//! Simulated data: rows are numbers, a shuffle object is a list of rows for each partition.
//!
//! A scan task makes the rows of its splits; every other task passes on what it reads. So the
//! result of a job has to be exactly the rows of its input, each once, and a task that ran twice
//! or not at all shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use kiln_engine::error::LostOutput;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{
    FileFormat, Output, OutputFile, PartitionMeta, Partitioning, ScanFormat, ScanSpec, SinkSpec,
    Split, Stage, StageGraph, StageSource, TaskInput, TaskOutput, TaskSpec, TextOptions,
};

/// Job, stage, task and attempt that wrote an object or a file.
pub(crate) type Name = (JobId, u32, u32, u32);

/// Objects and staged files, with the rows of each partition.
pub(crate) type Store = BTreeMap<Name, Vec<Vec<u64>>>;

/// Bytes of a row: large, so that partitions are worth tasks of their own.
const ROW_BYTES: u64 = 1 << 20;

const ROWS_PER_TASK: u64 = 6;

/// A random job of one to three stages.
pub(crate) fn random_graph(random: &mut fastrand::Rng) -> StageGraph {
    let depth = random.u32(1..=3);
    let stages = (0..depth).map(|number| {
        let last = number + 1 == depth;
        let source = if number == 0 {
            scan(random.u64(0..8))
        } else {
            StageSource::Shuffle {
                stage: StageId(number - 1),
                schema: Arc::new(Schema::empty()),
                gather: random.u8(0..3) == 0,
            }
        };
        let sink = match (last, random.u8(0..3)) {
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
        let schema = Arc::new(Schema::empty());
        let id = StageId(number);
        Arc::new(Stage {
            id,
            source,
            operators: Vec::new(),
            sink,
            schema,
        })
    });
    StageGraph {
        stages: stages.collect(),
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
        files: Vec::new(),
        tasks: (0..tasks).map(|task| vec![split(task)]).collect(),
    })
}

/// The rows that the result of a job has to have.
pub(crate) fn expected(graph: &StageGraph) -> Vec<u64> {
    match &graph.stages[0].source {
        StageSource::Scan(scan) => (0..scan.tasks.len() as u64 * ROWS_PER_TASK).collect(),
        StageSource::Shuffle { .. } => panic!("the first stage scans"),
    }
}

/// What an attempt reads, or the object that is missing. Panics where the driver names something
/// that the object does not hold: that is a defect, not a fault.
pub(crate) fn read(spec: &TaskSpec, store: &Store) -> Result<Vec<u64>, LostOutput> {
    let (producer, range, sources) = match &spec.input {
        TaskInput::Splits(splits) => {
            return Ok(splits
                .iter()
                .flat_map(|split| split.start..split.end)
                .collect());
        }
        TaskInput::Shuffle {
            stage,
            partitions,
            sources,
        } => (stage, partitions, sources),
    };
    let mut rows = Vec::new();
    for source in sources {
        let name = (spec.id.job, producer.0, source.task, source.attempt);
        let Some(object) = store.get(&name) else {
            let (task, attempt) = (source.task, source.attempt);
            return Err(LostOutput {
                stage: *producer,
                task,
                attempt,
            });
        };
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
            };
            (vec![rows], TaskOutput::Files(vec![file]))
        }
        SinkSpec::Shuffle { partitioning } => {
            let mut parts = vec![Vec::new(); partitioning.count() as usize];
            for row in rows {
                // Skewed: half of the rows in the first partition.
                let part = if row % 2 == 0 {
                    0
                } else {
                    row as usize % parts.len()
                };
                parts[part].push(row);
            }
            let metas = parts.iter().map(|part| meta(part)).collect();
            (parts, TaskOutput::Shuffle(metas))
        }
    }
}
