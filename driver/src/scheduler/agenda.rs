//! Which job gets the next slot, and when something about a job is due.
//!
//! The next slot goes to the job that has the fewest running attempts for its weight. Of two that
//! have the same it goes to the one that has got fewer slots for its weight so far, so that none
//! starves where there are more jobs than slots, and then to the one that was submitted first.
//!
//! What jobs want is noted whenever one has changed, so that nobody goes through all jobs to find
//! out.

use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::id::JobId;

use super::event::Millis;
use super::ratio::Ratio;

/// What the jobs that have not ended want.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    wants: BTreeMap<JobId, Wants>,
    ready: BTreeSet<(Rank, JobId)>,
    late: BTreeSet<(Rank, JobId)>,
    due: BTreeSet<(Millis, JobId)>,
}

/// A job's place in the queue for slots; the smallest is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Running attempts per weight.
    pub(super) share: Ratio,
    /// Grows with every launch, the slower the larger the job's weight is.
    pub(super) pass: u64,
    /// Its place among all jobs, by submission.
    pub(super) order: u64,
}

/// What a job wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) rank: Rank,
    /// It has tasks that could be launched now.
    pub(super) ready: bool,
    /// It has slow tasks that could be tried a second time.
    pub(super) late: bool,
    /// When something about it changes by itself.
    pub(super) due: Option<Millis>,
}

impl Agenda {
    /// Notes what a job wants now; nothing if it has ended.
    pub(super) fn note(&mut self, job: JobId, wants: Option<Wants>) {
        let before = self.wants.get(&job).copied();
        if before == wants {
            return;
        }
        if let Some(before) = before {
            self.ready.remove(&(before.rank, job));
            self.late.remove(&(before.rank, job));
            if let Some(due) = before.due {
                self.due.remove(&(due, job));
            }
        }
        let Some(wants) = wants else {
            self.wants.remove(&job);
            return;
        };
        if wants.ready {
            self.ready.insert((wants.rank, job));
        }
        if wants.late {
            self.late.insert((wants.rank, job));
        }
        if let Some(due) = wants.due {
            self.due.insert((due, job));
        }
        self.wants.insert(job, wants);
    }

    /// Jobs that have tasks to launch, in the order in which they get slots.
    pub(super) fn ready(&self) -> impl Iterator<Item = JobId> + '_ {
        self.ready.iter().map(|&(_, job)| job)
    }

    /// Jobs that have slow tasks, in the order in which they get slots.
    pub(super) fn late(&self) -> impl Iterator<Item = JobId> + '_ {
        self.late.iter().map(|&(_, job)| job)
    }

    /// Jobs about which something is due.
    pub(super) fn due(&self, now: Millis) -> impl Iterator<Item = JobId> + '_ {
        let due = self.due.iter().take_while(move |&&(at, _)| at <= now);
        due.map(|&(_, job)| job)
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.due.first().map(|&(at, _)| at)
    }
}
