//! What an executor is told to do, and what it answers.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, LostOutput};
use crate::id::{StageId, TaskId};
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
