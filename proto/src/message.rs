//! What driver, executors and clients say to one another, as plain Rust values.
//!
//! Embedded, these values go through channels; on a cluster they are encoded at the sockets
//! ([`crate::convert`]). The protocol is the same, so there is one driver and one executor.

mod journal;
mod worker;

use std::env::consts::{ARCH, OS};

use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, Warning};
use kiln_engine::plan::{LogicalPlan, Output, Program, TaskFailure, TaskSpec, TaskSuccess};
use kiln_engine::{Error, ErrorKind};

pub use journal::{Ended, Entry, Planned, Prepared, Record, Submitted, Won, WriterId};
pub use worker::{FromWorker, ToWorker, WorkerHello, WorkerRun, WorkerStart};

/// Raised when a message changes its meaning; driver and executor refuse to differ.
pub const PROTOCOL_VERSION: u32 = 3;

/// What this build runs on: executors run programs that were built for the same.
pub fn platform() -> String {
    let library = if cfg!(target_env = "musl") {
        "-musl"
    } else if cfg!(target_env = "gnu") {
        "-gnu"
    } else {
        ""
    };
    format!("{ARCH}-{OS}{library}")
}

/// From an executor to its driver, on the one stream that it holds.
#[derive(Debug, Clone, PartialEq)]
pub enum FromExecutor {
    /// The first message of every stream.
    Register(Registration),
    /// Sent every heartbeat interval; silence for a lease means that the executor is lost.
    Heartbeat {
        /// Memory reserved, in bytes.
        memory_used: u64,
        /// The attempts that are running, so that a reconnected driver knows.
        running: Vec<RunningAttempt>,
    },
    /// An attempt has ended. Repeated until acknowledged.
    Report(Report),
    /// The executor finishes what it runs and wants no more.
    Draining,
}

/// Who an executor is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// This life of the process.
    pub executor: ExecutorId,
    /// For people: host name and process id.
    pub name: String,
    /// [`PROTOCOL_VERSION`] of its build.
    pub protocol: u32,
    /// Threads that compute.
    pub threads: u32,
    /// Tasks that it runs at once.
    pub slots: u32,
    /// Memory budget in bytes.
    pub memory: u64,
}

/// An attempt that has not ended, as a heartbeat names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningAttempt {
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u32,
    /// What it has counted so far.
    pub counts: Counts,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Numbers the reports of one executor life from 1.
    pub sequence: u64,
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u32,
    /// What it wrote, or why it failed.
    pub outcome: Result<TaskSuccess, TaskFailure>,
}

/// From the driver to an executor.
#[derive(Debug, Clone, PartialEq)]
pub enum ToExecutor {
    /// The answer to a registration that was accepted.
    Welcome(Welcome),
    /// The answer to one that was not; the stream ends.
    Refused {
        /// Why, for people.
        message: String,
    },
    /// Run this.
    Launch {
        /// The driver life that decided so; an executor refuses an older one than it has seen.
        epoch: u64,
        /// What to run.
        spec: TaskSpec,
    },
    /// Stop this attempt; no report is needed.
    Cancel {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
    },
    /// Reports up to this sequence number need not be repeated.
    Acknowledge {
        /// The last report that has arrived, all before it included.
        sequence: u64,
    },
    /// Finish what runs and leave.
    Drain,
    /// A job of which it has run tasks of a program has ended: so do the program's processes.
    JobEnded {
        /// Which job.
        job: JobId,
    },
}

/// What an accepted executor has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The driver's epoch.
    pub epoch: u64,
    /// URL of the directory for shuffle objects.
    pub storage: String,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
}

/// A plan that is to become a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What its user calls it.
    pub name: String,
    /// Drawn at random by the client, once per job.
    pub key: u64,
    /// What to compute.
    pub plan: LogicalPlan,
    /// The program whose functions the plan calls, if it calls any.
    pub program: Option<OfferedProgram>,
    /// Its share of the slots, against those of other jobs: 1 to [`limits::JOB_WEIGHT_MAX`].
    ///
    /// [`limits::JOB_WEIGHT_MAX`]: kiln_engine::limits::JOB_WEIGHT_MAX
    pub weight: u32,
}

/// A program as it is handed in, with what a driver has to know to refuse it in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedProgram {
    /// The program.
    pub program: Program,
    /// What it was built for, as `x86_64-linux-gnu`.
    pub platform: String,
    /// [`PROTOCOL_VERSION`] of its build.
    pub protocol: u32,
    /// The names of the functions that it has registered.
    pub functions: Vec<String>,
}

/// How far a job is, and how it got there.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStatus {
    /// Which job.
    pub id: JobId,
    /// What its user called it.
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Where its rows are written; none if they are for a client to fetch, or not known yet.
    pub output: Option<Output>,
    /// Why it failed, if it did.
    pub failure: Option<TaskFailure>,
    /// When it was submitted, in milliseconds since the Unix epoch.
    pub submitted_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Its stages, producers first.
    pub stages: Vec<StageStatus>,
    /// What winning attempts wanted people to know.
    pub warnings: Vec<Warning>,
    /// Something people should know while it runs, e.g. that it waits for an executor.
    pub note: Option<String>,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Accepted; inputs are being listed and the plan is made.
    Planning,
    /// Tasks are running, or wait for executors.
    Running,
    /// All tasks are done; output files are being put in place.
    Committing,
    /// The result is there.
    Done,
    /// It will not be; see the failure.
    Failed,
    /// Somebody asked for it to stop.
    Cancelled,
}

impl JobState {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            JobState::Done | JobState::Failed | JobState::Cancelled
        )
    }
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq)]
pub struct StageStatus {
    /// Which stage.
    pub id: StageId,
    /// What it does, e.g. `scan text → aggregate partial → shuffle hash(word) × 8`.
    pub description: String,
    /// Its input is what an earlier stage wrote to the shuffle store, not files.
    pub reads_shuffle: bool,
    /// Its output goes to the shuffle store, not into files.
    pub writes_shuffle: bool,
    /// Its tasks; 0 while their number is not known yet.
    pub tasks: u32,
    /// Tasks that are done.
    pub done: u32,
    /// Bytes of input that its tasks cover in all, for progress; 0 where not known.
    pub input_bytes: u64,
    /// Sum over the winning attempts.
    pub counts: Counts,
    /// When its first attempt was launched, in milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
    /// When its last task was done.
    pub ended_ms: Option<u64>,
    /// Every attempt, in the order of launching.
    pub attempts: Vec<AttemptStatus>,
    /// What its tasks read by partitions, once that is known; none for other stages.
    pub partitions: Option<PartitionsRead>,
}

/// How the partitions that a stage reads were dealt out to its tasks. Rows of sides that were
/// brought together with the source count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionsRead {
    /// Partitions that there are.
    pub count: u32,
    /// Those of them that are split, because they are too large for one task.
    pub split: u32,
    /// Tasks that read a part of such a partition.
    pub slices: u32,
    /// Rows of all partitions.
    pub rows: u64,
    /// Rows of the one that has most.
    pub largest_rows: u64,
}

/// One try of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptStatus {
    /// The task within its stage.
    pub task: u32,
    /// Which try, from 0.
    pub attempt: u32,
    /// Name of the executor.
    pub executor: String,
    /// How it stands.
    pub state: AttemptState,
    /// When it was launched, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// What it counted, once it ended well.
    pub counts: Counts,
    /// Why it failed, if it did.
    pub failure: Option<TaskFailure>,
}

/// How an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptState {
    /// An executor works on it.
    Running,
    /// Its output counts.
    Won,
    /// It failed.
    Failed,
    /// Its executor was lost.
    Lost,
    /// It was stopped, or another attempt was faster.
    Cancelled,
}

/// An executor as its driver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorStatus {
    /// Who it is.
    pub registration: Registration,
    /// Attempts that it runs.
    pub running: u32,
    /// It takes no more work.
    pub draining: bool,
}

/// What a driver answers that does not lead: another one does, or will soon.
pub const NOT_LEADING: &str = "this driver does not lead";

/// What a driver answers that is on its way out.
pub const STOPPED: &str = "the driver has stopped";

/// What a driver answers whose storage has been silent for so long that another one may lead.
pub const UNSURE: &str = "this driver does not know whether it still leads";

/// Whether `error` is a driver's word that it is not the one to ask, rather than its answer: to be
/// asked again, of whoever leads.
pub fn is_absence(error: &Error) -> bool {
    let words = [NOT_LEADING, STOPPED, UNSURE];
    error.kind() == ErrorKind::Unavailable
        && words.iter().any(|words| error.message().starts_with(words))
}

/// What an embedded or remote driver answers when it cannot.
pub type Answer<T> = Result<T, Error>;
