//! What a driver writes down, so that the next one can go on where it was: facts, not decisions.
//!
//! A record says what can not be found out again: that a job was accepted, what its stages are,
//! which attempt of a task won. What ran where at the time is not written down; executors tell.

use std::sync::Arc;

use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::plan::{ClusterShape, Cut, StageFacts, StageGraph, TaskFailure, TaskSuccess};

use super::{JobState, JobStatus, Submission};

/// One object of a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The leadership in which it was written, from 1.
    pub term: u64,
    /// Who wrote it.
    pub writer: WriterId,
    /// Its place in the journal, from 1; for a snapshot, the last entry that it stands for.
    pub sequence: u64,
    /// What happened, in order.
    pub records: Vec<Record>,
}

/// Drawn at random by a driver for each of its leaderships, so that no two entries of different
/// writers are the same, and a writer knows its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub u128);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A driver leads from here on.
    Term {
        /// Where it is reached.
        url: String,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A job was accepted.
    Submitted(Box<Submitted>),
    /// Its stages, or more of them, are known.
    Planned(Box<Planned>),
    /// The tasks of a stage that reads shuffles are known.
    Prepared(Prepared),
    /// A task is done.
    Won(Box<Won>),
    /// The output of a task that was done is of no use.
    Revoked {
        /// Which task.
        task: TaskId,
        /// The attempt that had won.
        attempt: u32,
    },
    /// All tasks are done, and from here on the output is put in place.
    Committing {
        /// Which job.
        job: JobId,
    },
    /// A job has ended.
    Ended(Box<Ended>),
    /// Everything that a job that ended has left in storage is removed.
    Cleaned {
        /// Which job.
        job: JobId,
    },
    /// Something was written for a job that had ended: it has to be removed, again.
    Untidy {
        /// Which job.
        job: JobId,
    },
    /// The result of a job is kept no longer.
    ResultDropped {
        /// Which job.
        job: JobId,
    },
    /// Nothing is known of a job any more.
    Forgotten {
        /// Which job.
        job: JobId,
    },
    /// What is left to be known of a job that ended: stands for all other records of it.
    Archived {
        /// The key that it was submitted with.
        key: u64,
        /// How far it came.
        status: Box<JobStatus>,
        /// Everything that it left in storage is removed.
        cleaned: bool,
    },
    /// Nothing happened: whoever wrote this still led.
    Alive,
    /// Whoever wrote this leads no longer, by its own will.
    Resigned,
}

/// A job was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// Its id.
    pub job: JobId,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The leadership in which it was accepted.
    pub term: u64,
    /// What was asked for.
    pub submission: Submission,
}

/// Stages of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Which job.
    pub job: JobId,
    /// The cluster that they were made for.
    pub cluster: ClusterShape,
    /// What was known of the stages before them.
    pub done: Vec<StageFacts>,
    /// The stages that are new.
    pub graph: StageGraph,
}

/// The tasks of a stage that reads shuffles: ranges of what it reads, which follow one another. The
/// tasks that share a partition have the same end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Which job.
    pub job: JobId,
    /// Which stage.
    pub stage: StageId,
    /// Where the range of each task ends; the first begins at 0.
    pub ends: Vec<u32>,
    /// For each task that reads only what some producing tasks wrote of the last partition before
    /// its end, where those tasks end; the first begins at 0. 0 for the other tasks, and nothing at
    /// all where no task is of that kind.
    pub producers: Vec<u32>,
    /// Where the order is cut that they read, one less than there are tasks; none where they read
    /// something else.
    pub cuts: Vec<Cut>,
}

impl Prepared {
    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        match self.ends.is_empty() {
            true => self.cuts.len() + 1,
            false => self.ends.len(),
        }
    }
}

/// A task is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Won {
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u32,
    /// Name of its executor.
    pub executor: Arc<str>,
    /// When it was launched, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When its report arrived.
    pub ended_ms: u64,
    /// What it wrote.
    pub success: TaskSuccess,
}

/// A job has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Which job.
    pub job: JobId,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How.
    pub state: JobState,
    /// Why it failed.
    pub failure: Option<TaskFailure>,
}

impl Record {
    /// The job that it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Record::Term { .. } | Record::Alive | Record::Resigned => None,
            Record::Submitted(submitted) => Some(submitted.job),
            Record::Planned(planned) => Some(planned.job),
            Record::Prepared(prepared) => Some(prepared.job),
            Record::Won(won) => Some(won.task.job),
            Record::Revoked { task, .. } => Some(task.job),
            Record::Ended(ended) => Some(ended.job),
            Record::Archived { status, .. } => Some(status.id),
            Record::Committing { job }
            | Record::Cleaned { job }
            | Record::Untidy { job }
            | Record::ResultDropped { job }
            | Record::Forgotten { job } => Some(*job),
        }
    }
}
