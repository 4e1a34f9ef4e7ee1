//! Names of jobs, stages, tasks and executors.
//!
//! An id only identifies. It has one text form, used in logs, object names, tables and errors:
//! a task is `job/s<stage>/t<task>`, and its attempt stands beside it, never inside.

use std::fmt;
use std::str::FromStr;

/// A submitted job; twelve hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

impl JobId {
    const MASK: u64 = (1 << 48) - 1;

    /// Takes the low 48 bits of `value`; the caller sees to it that they are unique.
    pub fn new(value: u64) -> Self {
        JobId(value & Self::MASK)
    }

    /// The 48 bits of the id.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(value) if digits && text.len() == 12 => Ok(JobId(value)),
            _ => Err(NotAJobId(text.to_owned())),
        }
    }
}

/// A text that is not a job id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAJobId(pub String);

impl fmt::Display for NotAJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a job id (twelve hexadecimal digits): {:?}", self.0)
    }
}

impl std::error::Error for NotAJobId {}

/// A stage of a job, numbered from 0 in an order in which producers come before consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageId(pub u32);

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// A task of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The stage within the job.
    pub stage: StageId,
    /// The task within the stage, from 0.
    pub task: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/t{}", self.job, self.stage, self.task)
    }
}

/// One life of an executor process; a restarted executor gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutorId(pub u64);

impl fmt::Display for ExecutorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}
