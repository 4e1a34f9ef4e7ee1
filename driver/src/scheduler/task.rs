//! A task and its attempts.
//!
//! A task is done when it has a winner, and it has at most one. Everything else about an attempt
//! is history, kept for people and to recognise what its executor may still say about it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use kiln_engine::id::ExecutorId;
use kiln_engine::metrics::{Counts, Warning};
use kiln_engine::plan::{OutputFile, Split, TaskFailure, TaskOutput};
use kiln_proto::message::AttemptState;

use super::event::Millis;

/// One task of a stage.
#[derive(Debug)]
pub(super) struct Task {
    /// What it covers.
    pub(super) part: Part,
    /// Its tries, in the order of their numbers.
    pub(super) attempts: Vec<Attempt>,
    /// The attempt whose output counts.
    pub(super) winner: Option<u32>,
    /// What that attempt wrote.
    pub(super) output: Option<Left>,
    /// What it wanted people to know.
    pub(super) warnings: Vec<Warning>,
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
    /// The largest memory budget that was too small for it, in bytes.
    pub(super) memory_short: u64,
    /// Attempts that ran out of memory where no executor had more.
    pub(super) exhausted: u32,
    /// Which of its attempts run, as its stage has noted it.
    pub(super) watched: Watched,
}

/// Which attempts of a task run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Watched {
    /// None.
    #[default]
    None,
    /// One, for so long.
    One(Millis),
    /// One that is much slower than others of its stage.
    Slow,
    /// Several, which race.
    More,
}

/// What a winning attempt wrote.
#[derive(Debug)]
pub(super) enum Left {
    /// A shuffle object, of which its stage knows what is in it.
    Shuffle,
    /// Files.
    Files(Vec<OutputFile>),
}

/// The part of a stage's input that a task covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Pieces of input files.
    Splits(Vec<Split>),
    /// A range of the partitions that the producing stages wrote.
    Partitions(Range<u32>),
    /// What some of the producing tasks wrote of one partition, and all of that partition of the
    /// sides that were brought together with it.
    Slice {
        /// The partition.
        partition: u32,
        /// The tasks, counted as below.
        producers: Range<u32>,
    },
    /// All that some of the producing tasks wrote: a range of the tasks of all producing stages,
    /// counted through in order.
    Producers(Range<u32>),
    /// What is behind this many of the cuts of its stage, up to the next.
    Range(usize),
}

/// One try of a task.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Which one. Attempts of a task are in the order of their numbers, but those of earlier
    /// leaderships are known only if somebody has spoken of them.
    pub(super) number: u32,
    /// Where it runs or ran.
    pub(super) executor: ExecutorId,
    /// That executor's name, for people.
    pub(super) executor_name: Arc<str>,
    /// How it stands.
    pub(super) state: AttemptState,
    /// When it was launched.
    pub(super) started: Millis,
    /// When it ended.
    pub(super) ended: Option<Millis>,
    /// What it counted.
    pub(super) counts: Counts,
    /// When it last said so, or was launched.
    pub(super) heard: Millis,
    /// It is much slower than others of its stage.
    pub(super) slow: bool,
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
            output: None,
            warnings: Vec::new(),
            ready: None,
            failures: 0,
            losses: 0,
            revoked: 0,
            failed_on: BTreeSet::new(),
            memory_short: 0,
            exhausted: 0,
            watched: Watched::None,
        }
    }

    /// Which of its attempts run.
    pub(super) fn watch(&self) -> Watched {
        let mut running = self.attempts.iter().filter(|attempt| attempt.runs());
        match (running.next(), running.next()) {
            (None, _) => Watched::None,
            (Some(only), None) if only.slow => Watched::Slow,
            (Some(only), None) => Watched::One(only.started),
            (Some(_), Some(_)) => Watched::More,
        }
    }

    /// Whether an attempt of it runs.
    pub(super) fn runs(&self) -> bool {
        self.attempts.iter().any(Attempt::runs)
    }

    /// The attempt of that number.
    pub(super) fn attempt(&self, attempt: u32) -> Option<&Attempt> {
        self.attempts.iter().find(|entry| entry.number == attempt)
    }

    /// The attempt whose output counts.
    pub(super) fn won(&self) -> Option<&Attempt> {
        self.attempt(self.winner?)
    }

    /// The attempt of that number, to change it.
    pub(super) fn attempt_mut(&mut self, attempt: u32) -> Option<&mut Attempt> {
        let mut attempts = self.attempts.iter_mut();
        attempts.find(|entry| entry.number == attempt)
    }

    /// The number of the next attempt, where no attempt may have one below `first`.
    pub(super) fn next_number(&self, first: u32) -> Option<u32> {
        let last = self
            .attempts
            .last()
            .map(|entry| entry.number.checked_add(1));
        let next = last.unwrap_or(Some(first))?;
        Some(next.max(first))
    }

    /// Adds an attempt, which has a number that no other has.
    pub(super) fn add(&mut self, attempt: Attempt) {
        let place = self
            .attempts
            .partition_point(|entry| entry.number < attempt.number);
        // Almost all tasks have one, and there may be very many tasks.
        self.attempts.reserve_exact(1);
        self.attempts.insert(place, attempt);
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
        TaskOutput::Sorted(stretches) => !stretches.is_empty(),
        TaskOutput::Files(_) => false,
    }
}
