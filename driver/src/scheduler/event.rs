//! What the scheduler is told, and what it wants done: plain values, no wire types.
//!
//! Everything that can happen to a driver is one [`Event`]; everything it can do is one
//! [`Action`]. An action's outcome, where it has one, comes back as an event.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::plan::{
    ClusterShape, Cut, Output, OutputFile, Program, RangeInput, ShuffleInput, ShuffleSource,
    StageFacts, StageGraph, TaskFailure, TaskInput, TaskSpec,
};
use kiln_proto::message::{Planned, Prepared, Record, Registration, Report, RunningAttempt};

/// Milliseconds since the Unix epoch, as the caller of the scheduler counts them.
pub type Millis = u64;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// An executor opened a stream: for the first time, or again after its stream broke.
    ExecutorJoined(Registration),
    /// An executor lives.
    ExecutorHeard {
        /// Which one.
        executor: ExecutorId,
        /// The attempts that it runs.
        running: Vec<(TaskId, u32)>,
    },
    /// Attempts have come further: for people, and to tell which are slow.
    Progressed {
        /// Who says so.
        executor: ExecutorId,
        /// The attempts, with what they have counted so far.
        running: Vec<RunningAttempt>,
    },
    /// An executor's stream broke. It is not lost yet: it may come back for a while.
    ExecutorGone {
        /// Which one.
        executor: ExecutorId,
    },
    /// An executor wants no more work.
    ExecutorDraining {
        /// Which one.
        executor: ExecutorId,
    },
    /// A job was submitted.
    Submitted(Submitted),
    /// [`Action::Plan`] has succeeded.
    Planned {
        /// Which job.
        job: JobId,
        /// Its stages, or those that follow the ones known so far.
        graph: StageGraph,
    },
    /// [`Action::Plan`] has failed.
    PlanFailed {
        /// Which job.
        job: JobId,
        /// Why.
        failure: TaskFailure,
    },
    /// An attempt has ended.
    Reported {
        /// Who says so.
        executor: ExecutorId,
        /// What it says.
        report: Report,
    },
    /// Somebody asked for a job to stop.
    CancelRequested {
        /// Which job.
        job: JobId,
    },
    /// [`Action::Commit`] has ended.
    Committed {
        /// Which job.
        job: JobId,
        /// Whether the output is in place.
        outcome: Result<(), TaskFailure>,
    },
    /// The whole result of a job has been read. It stays for others, within limits.
    ResultRead {
        /// Which job.
        job: JobId,
    },
    /// The driver ends: so does every job, and nothing is kept.
    Stopping,
}

/// A job that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its id, which no other job has.
    pub job: JobId,
    /// What its user calls it.
    pub name: String,
    /// The program whose functions its plan calls, if tasks that call any need it.
    pub program: Option<Arc<Program>>,
    /// Its share of the slots, against those of other jobs: 1 to [`limits::JOB_WEIGHT_MAX`].
    ///
    /// [`limits::JOB_WEIGHT_MAX`]: kiln_engine::limits::JOB_WEIGHT_MAX
    pub weight: u32,
    /// Where output files go, if that is what the job makes.
    pub output: Option<Output>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the stages of a job, for the executors that there are now; or more of them, from what
    /// is known of those that are done.
    Plan {
        /// Which job.
        job: JobId,
        /// The executors that there are.
        cluster: ClusterShape,
        /// The stages that are done; none the first time.
        done: Vec<StageFacts>,
    },
    /// Have an executor run an attempt.
    Launch {
        /// Where.
        executor: ExecutorId,
        /// What.
        spec: TaskSpec,
    },
    /// Have an executor stop an attempt.
    Cancel {
        /// Where.
        executor: ExecutorId,
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
    },
    /// Tell an executor that its reports have arrived.
    Acknowledge {
        /// Whose.
        executor: ExecutorId,
        /// Up to and including this one.
        sequence: u64,
    },
    /// Tell an executor that a job has ended of which it has run tasks of a program.
    EndJob {
        /// Where.
        executor: ExecutorId,
        /// Which job.
        job: JobId,
    },
    /// Put a job's output in place.
    Commit {
        /// Which job.
        job: JobId,
        /// Where the output goes.
        output: Output,
        /// The files of the winning attempts, task by task.
        files: Vec<OutputFile>,
    },
    /// Remove the files that attempts of a job have left beside its output.
    Discard {
        /// Which job.
        job: JobId,
        /// Where the output was to go.
        output: Output,
    },
    /// Remove shuffle objects that nobody reads any more; some of them may not exist.
    Cleanup {
        /// Which job.
        job: JobId,
        /// Stage, task and attempt that wrote each.
        objects: Vec<(StageId, u32, u32)>,
    },
    /// An executor is lost or has left: close its stream, if there still is one.
    Forget {
        /// Which one.
        executor: ExecutorId,
    },
    /// A job that ended long ago is not known any more.
    Drop {
        /// Which one.
        job: JobId,
    },
    /// Write down what has happened, for the next driver. What is done because of it, and others
    /// can see, has to wait until it is written.
    Record(Record),
}

impl Action {
    /// Shuffle objects that it tells an executor of.
    pub(super) fn sources(&self) -> usize {
        let Action::Launch { spec, .. } = self else {
            return 0;
        };
        let of_sides = spec.sides.iter().map(|side| side.sources.len());
        spec.input.sources().count() + of_sides.sum::<usize>()
    }
}

/// One line, the same for the same action: for logs and transcripts.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Plan { job, done, .. } => {
                write!(f, "plan {job}")?;
                let mut done = done.iter();
                done.try_for_each(|done| {
                    write!(f, " {}={}r/{}B", done.stage, done.rows, done.bytes)
                })
            }
            Action::Launch { executor, spec } => {
                write!(f, "launch {executor} {}-a{}", spec.id, spec.attempt)?;
                match &spec.input {
                    TaskInput::Splits(splits) => write!(f, " splits={}", splits.len())?,
                    TaskInput::Shuffle(inputs) => write_inputs(inputs, f)?,
                    TaskInput::Range(range) => write_range(range, f)?,
                }
                if !spec.sides.is_empty() {
                    f.write_str(" beside")?;
                }
                write_inputs(&spec.sides, f)?;
                match &spec.program {
                    Some(_) => f.write_str(" in a process of the program"),
                    None => Ok(()),
                }
            }
            Action::Cancel {
                executor,
                task,
                attempt,
            } => {
                write!(f, "cancel {executor} {task}-a{attempt}")
            }
            Action::Acknowledge { executor, sequence } => {
                write!(f, "acknowledge {executor} {sequence}")
            }
            Action::EndJob { executor, job } => write!(f, "end {executor} {job}"),
            Action::Commit { job, output, files } => {
                write!(f, "commit {job} to={}", output.url)?;
                files
                    .iter()
                    .try_for_each(|file| write!(f, " {}", file.name))
            }
            Action::Discard { job, output } => write!(f, "discard {job} to={}", output.url),
            Action::Cleanup { job, objects } => {
                write!(f, "cleanup {job}")?;
                let mut objects = objects.iter();
                objects
                    .try_for_each(|(stage, task, attempt)| write!(f, " {stage}/t{task}-a{attempt}"))
            }
            Action::Forget { executor } => write!(f, "forget {executor}"),
            Action::Drop { job } => write!(f, "drop {job}"),
            Action::Record(record) => write_record(record, f),
        }
    }
}

fn write_record(record: &Record, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match record {
        Record::Term { url, .. } => write!(f, "record term {url}"),
        Record::Submitted(submitted) => write!(f, "record submitted {}", submitted.job),
        Record::Planned(planned) => {
            let Planned { job, graph, .. } = &**planned;
            write!(f, "record planned {job} stages={}", graph.stages.len())
        }
        Record::Prepared(prepared) => {
            let Prepared { job, stage, .. } = prepared;
            write!(
                f,
                "record prepared {job}/{stage} tasks={}",
                prepared.tasks()
            )
        }
        Record::Won(won) => write!(f, "record won {}-a{}", won.task, won.attempt),
        Record::Revoked { task, attempt } => write!(f, "record revoked {task}-a{attempt}"),
        Record::Committing { job } => write!(f, "record committing {job}"),
        Record::Ended(ended) => write!(f, "record ended {} {:?}", ended.job, ended.state),
        Record::Cleaned { job } => write!(f, "record cleaned {job}"),
        Record::Untidy { job } => write!(f, "record untidy {job}"),
        Record::ResultDropped { job } => write!(f, "record dropped {job}"),
        Record::Forgotten { job } => write!(f, "record forgotten {job}"),
        Record::Archived { status, .. } => write!(f, "record archived {}", status.id),
        Record::Alive => f.write_str("record alive"),
        Record::Resigned => f.write_str("record resigned"),
    }
}

fn write_inputs(inputs: &[ShuffleInput], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    inputs.iter().try_for_each(|input| {
        let Range { start, end } = input.partitions;
        write!(f, " {}[{start}..{end}]", input.stage)?;
        write_sources(&input.sources, f)
    })
}

fn write_range(range: &RangeInput, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let write_cut = |cut: &Option<Cut>, f: &mut fmt::Formatter<'_>| match cut {
        Some(Cut { key, task }) => write!(f, "{}/{task}", key.escape_ascii()),
        None => Ok(()),
    };
    write!(f, " {}[", range.stage)?;
    write_cut(&range.start, f)?;
    f.write_str("..")?;
    write_cut(&range.end, f)?;
    f.write_str("]")?;
    write_sources(&range.sources, f)
}

fn write_sources(sources: &[ShuffleSource], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    sources.iter().try_for_each(|source| {
        let bytes: u64 = source.partitions.iter().map(|part| part.bytes).sum();
        let end = source.offset + bytes;
        write!(
            f,
            " t{}-a{}@{}..{end}",
            source.task, source.attempt, source.offset
        )
    })
}
