//! A task and its attempts.
//!
//! A task is done when it has a winner, and it has at most one. Everything else about an attempt
//! is history, kept for people and to recognise what its executor may still say about it.

use std::collections::BTreeSet;
use std::ops::Range;

use kiln_engine::id::ExecutorId;
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{Split, TaskFailure, TaskOutput, TaskSuccess};
use kiln_proto::message::AttemptState;

use super::event::Millis;

/// One task of a stage.
#[derive(Debug)]
pub(super) struct Task {
    /// What it covers.
    pub(super) part: Part,
    /// Its tries, by number.
    pub(super) attempts: Vec<Attempt>,
    /// The attempt whose output counts.
    pub(super) winner: Option<u32>,
    /// What that attempt reported.
    pub(super) success: Option<TaskSuccess>,
    /// From when on another attempt may be launched, while it waits for that.
    pub(super) ready: Option<Millis>,
    /// Attempts that failed through a fault of theirs.
    pub(super) failures: u32,
    /// Executors that were lost while they ran it.
    pub(super) losses: u32,
    /// Times that its output was found missing or damaged.
    pub(super) revoked: u32,
    /// Where it failed.
    pub(super) failed_on: BTreeSet<ExecutorId>,
}

/// The part of a stage's input that a task covers.
#[derive(Debug)]
pub(super) enum Part {
    /// Slices of input files.
    Splits(Vec<Split>),
    /// A range of the partitions that the producing stages wrote.
    Partitions(Range<u32>),
    /// All that some of the producing tasks wrote: a range of the tasks of all producing stages,
    /// counted through in order.
    Producers(Range<u32>),
}

/// One try of a task.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Where it runs or ran.
    pub(super) executor: ExecutorId,
    /// That executor's name, for people.
    pub(super) executor_name: String,
    /// How it stands.
    pub(super) state: AttemptState,
    /// When it was launched.
    pub(super) started: Millis,
    /// When it ended.
    pub(super) ended: Option<Millis>,
    /// What it counted.
    pub(super) counts: Counts,
    /// Why it failed.
    pub(super) failure: Option<TaskFailure>,
    /// How often outputs of the job had been revoked when its input was put together.
    pub(super) revocations: u32,
    /// Whether a shuffle object of this attempt may exist. An attempt that says that all of its
    /// partitions are empty wrote none.
    pub(super) object: bool,
}

impl Task {
    pub(super) fn new(part: Part) -> Self {
        Task {
            part,
            attempts: Vec::new(),
            winner: None,
            success: None,
            ready: None,
            failures: 0,
            losses: 0,
            revoked: 0,
            failed_on: BTreeSet::new(),
        }
    }

    /// Whether an attempt of it runs.
    pub(super) fn runs(&self) -> bool {
        self.attempts.iter().any(Attempt::runs)
    }

    /// The attempt of that number.
    pub(super) fn attempt(&self, attempt: u32) -> Option<&Attempt> {
        self.attempts.get(attempt as usize)
    }

    /// The attempt of that number, to change it.
    pub(super) fn attempt_mut(&mut self, attempt: u32) -> Option<&mut Attempt> {
        self.attempts.get_mut(attempt as usize)
    }
}

impl Attempt {
    /// Whether it runs, as far as anybody here knows.
    pub(super) fn runs(&self) -> bool {
        self.state == AttemptState::Running
    }

    /// Whether its output may still be taken: it has not ended, or only the driver thought so.
    pub(super) fn may_win(&self) -> bool {
        matches!(
            self.state,
            AttemptState::Running | AttemptState::Lost | AttemptState::Cancelled
        )
    }

    /// Ends it.
    pub(super) fn end(&mut self, state: AttemptState, now: Millis) {
        self.state = state;
        self.ended = Some(now);
    }
}

/// Whether an attempt with this output left an object in the shuffle store.
pub(super) fn wrote_object(output: &TaskOutput) -> bool {
    match output {
        TaskOutput::Shuffle(partitions) => partitions.iter().any(|part| part.bytes > 0),
        TaskOutput::Files(_) => false,
    }
}
