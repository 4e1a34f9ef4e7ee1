//! What the event loop and the handles share: the scheduler, and who watches which job.
//!
//! The loop is the only one that steps the scheduler; handles look under the same lock. Nobody
//! waits while holding it, and the longest anybody holds it is a snapshot of one job.
//!
//! Nobody is told that a job has ended before that is written down, and nobody is told anything by
//! a driver that does not lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};
use kiln_proto::message::{JobState, JobStatus, STOPPED, UNSURE};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::scheduler::{Detail, ResultLocation, Scheduler};

/// The scheduler, and who watches.
pub(crate) struct Board {
    pub(crate) scheduler: Scheduler,
    watches: BTreeMap<JobId, watch::Sender<Arc<JobStatus>>>,
    /// Jobs by the key that they were submitted with, and back.
    keys: BTreeMap<u64, JobId>,
    jobs: BTreeMap<JobId, u64>,
    /// Jobs whose end is not written down yet.
    hidden: BTreeSet<JobId>,
    /// Jobs whose end has just been written down.
    shown: BTreeSet<JobId>,
    role: Role,
    /// Until then nobody else can lead; for ever, where there is nobody else.
    trusted_until: Option<Instant>,
}

/// What the driver is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// It knows of all jobs.
    Leads,
    /// Another one does, perhaps the one at this URL.
    StandsBy(Option<String>),
    /// It has ended: nothing changes any more.
    Closed,
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
            hidden: BTreeSet::new(),
            shown: BTreeSet::new(),
            role: Role::Leads,
            trusted_until: None,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// The driver begins to lead, with what is known of jobs.
    pub(crate) fn lead(&mut self, scheduler: Scheduler, keys: Vec<(u64, JobId)>) {
        self.stand_by(None);
        self.scheduler = scheduler;
        for (key, job) in keys {
            self.remember(key, job);
        }
        self.role = Role::Leads;
    }

    /// The driver does not lead, but perhaps the one at that URL.
    pub(crate) fn stand_by(&mut self, leader: Option<&str>) {
        // What others think that they know of jobs may be out of date from now on.
        self.watches.clear();
        self.keys.clear();
        self.jobs.clear();
        self.hidden.clear();
        self.role = Role::StandsBy(leader.map(str::to_owned));
    }

    /// Nobody else leads before that instant.
    pub(crate) fn trust(&mut self, until: Instant) {
        self.trusted_until = Some(until);
    }

    /// Whether the driver can say anything of jobs.
    ///
    /// # Errors
    /// `Unavailable` if another driver leads. One that has ended still says what it knew.
    pub(crate) fn check_leads(&self) -> Result<()> {
        match &self.role {
            Role::Leads
                if self
                    .trusted_until
                    .is_some_and(|until| Instant::now() >= until) =>
            {
                Err(Error::unavailable(format!(
                    "{UNSURE}: its storage does not answer"
                )))
            }
            Role::Leads | Role::Closed => Ok(()),
            Role::StandsBy(leader) => Err(stands_by(leader.as_deref())),
        }
    }

    /// How far a job is.
    ///
    /// # Errors
    /// `Invalid` if there is no such job; `Unavailable` if another driver leads.
    pub(crate) fn status(&self, job: JobId, detail: Detail) -> Result<Arc<JobStatus>> {
        self.check_leads()?;
        let mut status = self
            .scheduler
            .status(job, detail)
            .ok_or_else(|| unknown(job))?;
        if self.hidden.contains(&job) {
            status.state = self.state(job).unwrap_or(status.state);
            (status.ended_ms, status.failure) = (None, None);
        }
        Ok(Arc::new(status))
    }

    /// Where a job is in its life, as it is told: before its end is written down, where it was.
    fn state(&self, job: JobId) -> Option<JobState> {
        let state = self.scheduler.state(job)?;
        if !self.hidden.contains(&job) {
            return Some(state);
        }
        let commits = state == JobState::Done && self.scheduler.output(job).is_some();
        Some(match commits {
            true => JobState::Committing,
            false => JobState::Running,
        })
    }

    /// The end of a job is not told yet.
    pub(crate) fn hide(&mut self, job: JobId) {
        self.hidden.insert(job);
    }

    /// The end of a job may be told.
    pub(crate) fn show(&mut self, job: JobId) {
        self.hidden.remove(&job);
        self.shown.insert(job);
    }

    /// Jobs of which there is news since this was last called.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<JobId> {
        let mut changed = self.scheduler.take_changed();
        changed.append(&mut self.shown);
        changed
    }

    /// Where the result of a job is.
    ///
    /// # Errors
    /// `Unavailable` if another driver leads.
    pub(crate) fn result(&self, job: JobId) -> Result<Option<ResultLocation>> {
        self.check_leads()?;
        Ok(self.scheduler.result(job))
    }

    /// Follows a job until it has ended or the driver has.
    pub(crate) fn watch(&mut self, job: JobId) -> Result<watch::Receiver<Arc<JobStatus>>> {
        self.check_leads()?;
        let state = self.state(job).ok_or_else(|| unknown(job))?;
        if state.is_final() {
            return Ok(watch::channel(self.status(job, Detail::Attempts)?).1);
        }
        if self.role == Role::Closed {
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
            if !self.watches.contains_key(&job) {
                continue;
            }
            let is_final = self.state(job).is_none_or(JobState::is_final);
            let detail = if is_final {
                Detail::Attempts
            } else {
                Detail::Stages
            };
            let status = self.status(job, detail);
            let Some(sender) = self.watches.get(&job) else {
                continue;
            };
            if let Ok(status) = status {
                sender.send_replace(status);
            }
            if is_final || sender.receiver_count() == 0 {
                self.watches.remove(&job);
            }
        }
    }

    /// Whether those who watch a job have not been told its state.
    pub(crate) fn is_stale(&self, job: JobId) -> bool {
        let state = self.state(job);
        let told = self.watches.get(&job).map(|sender| sender.borrow().state);
        told.is_some() && told != state
    }

    /// Nothing changes any more, so nobody has anything to wait for.
    pub(crate) fn close(&mut self) {
        self.role = Role::Closed;
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
    Error::unavailable(STOPPED)
}

/// The answer of a driver that does not lead.
pub(crate) fn stands_by(leader: Option<&str>) -> Error {
    let mut text = "this driver does not lead".to_owned();
    if let Some(leader) = leader {
        text.push_str(&format!(" leader={leader}"));
    }
    Error::unavailable(text)
}

/// The answer to a question about a job that nobody knows.
pub(crate) fn unknown(job: JobId) -> Error {
    Error::invalid(format!("no such job job={job}"))
}
