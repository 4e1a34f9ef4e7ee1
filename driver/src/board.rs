//! What the event loop and the handles share: the scheduler, and who watches which job.
//!
//! The loop is the only one that steps the scheduler; handles look under the same lock. Nobody
//! waits while holding it, and the longest anybody holds it is a snapshot of one job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};
use kiln_proto::message::{JobState, JobStatus};
use tokio::sync::watch;

use crate::scheduler::{Detail, Scheduler};

/// The scheduler, and who watches.
pub(crate) struct Board {
    pub(crate) scheduler: Scheduler,
    watches: BTreeMap<JobId, watch::Sender<Arc<JobStatus>>>,
    /// Jobs by the key that they were submitted with, and back.
    keys: BTreeMap<u64, JobId>,
    jobs: BTreeMap<JobId, u64>,
    /// The loop has ended: nothing changes any more.
    closed: bool,
}

/// A board behind its lock.
#[derive(Clone)]
pub(crate) struct SharedBoard(Arc<Mutex<Board>>);

impl SharedBoard {
    pub(crate) fn new(scheduler: Scheduler) -> Self {
        SharedBoard(Arc::new(Mutex::new(Board {
            scheduler,
            watches: BTreeMap::new(),
            keys: BTreeMap::new(),
            jobs: BTreeMap::new(),
            closed: false,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// How far a job is.
    pub(crate) fn status(&self, job: JobId, detail: Detail) -> Result<Arc<JobStatus>> {
        let status = self.scheduler.status(job, detail);
        status.map(Arc::new).ok_or_else(|| unknown(job))
    }

    /// Follows a job until it has ended or the driver has.
    pub(crate) fn watch(&mut self, job: JobId) -> Result<watch::Receiver<Arc<JobStatus>>> {
        let state = self.scheduler.state(job).ok_or_else(|| unknown(job))?;
        if state.is_final() {
            return Ok(watch::channel(self.status(job, Detail::Attempts)?).1);
        }
        if self.closed {
            return Err(stopped());
        }
        if let Some(sender) = self.watches.get(&job) {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(self.status(job, Detail::Stages)?);
        self.watches.insert(job, sender);
        Ok(receiver)
    }

    /// Tells those who watch one of `jobs` how far it is. The last that they get lists attempts.
    pub(crate) fn publish(&mut self, jobs: &BTreeSet<JobId>) {
        for &job in jobs {
            let Some(sender) = self.watches.get(&job) else {
                continue;
            };
            let is_final = self.scheduler.state(job).is_none_or(JobState::is_final);
            let detail = if is_final {
                Detail::Attempts
            } else {
                Detail::Stages
            };
            if let Some(status) = self.scheduler.status(job, detail) {
                sender.send_replace(Arc::new(status));
            }
            if is_final || sender.receiver_count() == 0 {
                self.watches.remove(&job);
            }
        }
    }

    /// Whether those who watch a job have not been told its state.
    pub(crate) fn is_stale(&self, job: JobId) -> bool {
        let state = self.scheduler.state(job);
        let told = self.watches.get(&job).map(|sender| sender.borrow().state);
        told.is_some() && told != state
    }

    /// Nothing changes any more, so nobody has anything to wait for.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.watches.clear();
    }

    /// The job that was submitted with that key.
    pub(crate) fn keyed(&self, key: u64) -> Option<JobId> {
        self.keys.get(&key).copied()
    }

    /// Remembers the key of a job.
    pub(crate) fn remember(&mut self, key: u64, job: JobId) {
        self.keys.insert(key, job);
        self.jobs.insert(job, key);
    }

    /// A job is not known any more.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.watches.remove(&job);
        if let Some(key) = self.jobs.remove(&job) {
            self.keys.remove(&key);
        }
    }
}

/// The answer of a driver that has stopped.
pub(crate) fn stopped() -> Error {
    Error::unavailable("the driver has stopped")
}

/// The answer to a question about a job that nobody knows.
pub(crate) fn unknown(job: JobId) -> Error {
    Error::invalid(format!("no such job job={job}"))
}
