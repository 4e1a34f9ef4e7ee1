//! What an executor and its worker processes say to one another.

use kiln_engine::metrics::Counts;
use kiln_engine::plan::{TaskFailure, TaskSpec, TaskSuccess};

/// From a worker process to the executor that started it.
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// The first message: this is a program that can run tasks.
    Hello(WorkerHello),
    /// What the attempt that runs has counted so far.
    Progress(Counts),
    /// The attempt has ended.
    Ended(Result<TaskSuccess, TaskFailure>),
}

/// Who a worker process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerHello {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of its build.
    pub protocol: u32,
    /// What it was built for, as `x86_64-linux-gnu`.
    pub platform: String,
    /// The names of the functions that it has registered.
    pub functions: Vec<String>,
}

/// From an executor to one of its worker processes.
#[derive(Debug, Clone, PartialEq)]
pub enum ToWorker {
    /// The answer to the first message.
    Start(WorkerStart),
    /// Run this. There is never more than one attempt in a process.
    Run(WorkerRun),
    /// Stop what runs; it ends all the same, and says so.
    Cancel,
}

/// What a worker process has to know before it runs anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStart {
    /// Threads that compute.
    pub threads: u32,
    /// Bytes of memory that the whole process may have.
    pub memory: u64,
    /// Path of the file in which calls of functions are announced.
    pub board: String,
    /// How often a call that goes on says so there, in milliseconds.
    pub tick_ms: u64,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRun {
    /// URL of the directory for shuffle objects.
    pub storage: String,
    /// Bytes that the attempt may reserve.
    pub memory: u64,
    /// What to run.
    pub spec: TaskSpec,
}
