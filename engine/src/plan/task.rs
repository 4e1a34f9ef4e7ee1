//! What an executor is told to do, and what it answers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, LostOutput};
use crate::id::{StageId, TaskId};
use crate::limits::CUT_KEY_BYTES_MAX;
use crate::metrics::{Counts, Warning};
use crate::plan::{Program, Split, Stage};

/// One attempt at one task, complete: whoever holds it can run it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Which task.
    pub id: TaskId,
    /// Which try, from 0.
    pub attempt: u32,
    /// What its stage does.
    pub stage: Arc<Stage>,
    /// Which part of the stage's input it covers.
    pub input: TaskInput,
    /// What it reads of each of the stage's sides.
    pub sides: Vec<ShuffleInput>,
    /// The program whose functions the stage calls, if a process of it is needed to run the task.
    pub program: Option<Arc<Program>>,
}

/// The part of a stage's input that a task covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskInput {
    /// Pieces of input files.
    Splits(Vec<Split>),
    /// Output of earlier stages, one entry for each of them.
    Shuffle(Vec<ShuffleInput>),
    /// A range of the order in which an earlier stage wrote its rows.
    Range(RangeInput),
}

impl TaskInput {
    /// The shuffle objects that hold it, each with the stage that wrote it.
    pub fn sources(&self) -> impl Iterator<Item = (StageId, &ShuffleSource)> {
        let (inputs, range) = match self {
            TaskInput::Splits(_) => (&[][..], None),
            TaskInput::Shuffle(inputs) => (&inputs[..], None),
            TaskInput::Range(range) => (&[][..], Some(range)),
        };
        let of_range = range.map(|range| (range.stage, &range.sources[..]));
        let inputs = inputs.iter().map(|input| (input.stage, &input.sources[..]));
        let all = inputs.chain(of_range);
        all.flat_map(|(stage, sources)| sources.iter().map(move |source| (stage, source)))
    }
}

/// A range of partitions that a stage wrote, from every producer that has rows in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleInput {
    /// The stage that wrote them.
    pub stage: StageId,
    /// The partitions.
    pub partitions: Range<u32>,
    /// Where they are. Object names follow from job, stage, task and attempt.
    pub sources: Vec<ShuffleSource>,
}

/// What one producer's shuffle object holds of a range of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleSource {
    /// The producing task.
    pub task: u32,
    /// The attempt that won.
    pub attempt: u32,
    /// Where the first partition of the range starts in the object.
    pub offset: u64,
    /// Each partition of the range, in order; they follow one another in the object.
    pub partitions: Vec<PartitionMeta>,
}

/// A range of the rows that the tasks of a stage wrote in order, each its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeInput {
    /// The stage that wrote them.
    pub stage: StageId,
    /// Where the range begins; with the first row where there is no cut.
    pub start: Option<Cut>,
    /// Where it ends; behind the last row where there is no cut.
    pub end: Option<Cut>,
    /// The stretches that may have rows of it, those of a producer next to one another. The first
    /// and the last of them may have others.
    pub sources: Vec<ShuffleSource>,
}

/// A place in the order of the rows of several tasks: before the first row of `task` that has the
/// key. In front of it are rows of lesser keys, and those of the same key of tasks with lower
/// numbers. So where a row is depends on what is in it and on which task wrote it, and not on the
/// attempt: a task that runs again may write rows with equal keys in another order.
///
/// Of a long key the first [`CUT_KEY_BYTES_MAX`] bytes are looked at. Then all rows that begin with
/// them are behind the cut, and `task` is 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// The key, in bytes that compare like keys.
    pub key: Bytes,
    /// Number of the task.
    pub task: u32,
}

impl Cut {
    /// The cut before rows of `task` with a key that [`begins with`](Self::key_start) `key`.
    pub fn new(key: Bytes, task: u32) -> Cut {
        let task = if key.len() < CUT_KEY_BYTES_MAX {
            task
        } else {
            0
        };
        Cut { key, task }
    }

    /// What cuts look at of a key.
    pub fn key_start(key: &[u8]) -> &[u8] {
        &key[..key.len().min(CUT_KEY_BYTES_MAX)]
    }

    /// Whether a row of `task` whose key begins with `key` is before the cut.
    pub fn is_behind(&self, key: &[u8], task: u32) -> bool {
        (key, task) < (&self.key[..], self.task)
    }
}

/// Neighbouring rows of a task that writes its rows in order, stored as a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// What is stored.
    pub partition: PartitionMeta,
    /// What [cuts look at](Cut::key_start) of the key of the first row.
    pub first_key: Bytes,
}

/// One partition in a shuffle object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionMeta {
    /// Its bytes as stored, a multiple of the block alignment; 0 where it has no rows.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// XXH3-64 of its bytes as stored.
    pub checksum: u64,
}

/// What a finished attempt reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSuccess {
    /// What it wrote.
    pub output: TaskOutput,
    /// What it counted.
    pub counts: Counts,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// What an attempt wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutput {
    /// A shuffle object, partition after partition from offset 0. No object exists where all
    /// partitions are empty.
    Shuffle(Vec<PartitionMeta>),
    /// A shuffle object whose rows are in order, stretch after stretch from offset 0. No object
    /// exists where there is none.
    Sorted(Vec<Stretch>),
    /// Output files under names of the attempt's own.
    Files(Vec<OutputFile>),
}

/// An output file that waits to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its name: in the job's staging directory, or in the output if its upload is pending.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// XXH3-64 of its bytes.
    pub checksum: u64,
    /// The upload that makes it visible when it is completed, in a store that has no rename.
    pub pending: Option<PendingUpload>,
}

/// A multipart upload all of whose parts are in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// The store's name for it.
    pub id: String,
    /// The store's names for its parts, in order; none for an empty file.
    pub parts: Vec<String>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// What to do about it.
    pub kind: ErrorKind,
    /// For people: one line that names file and place.
    pub message: String,
    /// The shuffle object that could not be used, if that was it.
    pub lost: Option<LostOutput>,
}

impl From<&Error> for TaskFailure {
    fn from(error: &Error) -> Self {
        TaskFailure {
            kind: error.kind(),
            message: error.report(),
            lost: error.lost(),
        }
    }
}

impl From<TaskFailure> for Error {
    fn from(failure: TaskFailure) -> Self {
        let error = Error::new(failure.kind, failure.message);
        match failure.lost {
            Some(lost) => error.with_lost(lost),
            None => error,
        }
    }
}
