//! [`Job`]: something that runs, here or on a cluster, whoever waits for it.
//!
//! A job belongs to its driver. Dropping a [`Job`] changes nothing; a job on a cluster goes on
//! when its client has left.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};
use kiln_proto::message::{JobState, JobStatus};
use tokio::sync::mpsc::Receiver;

use crate::connection::Connection;
use crate::rows::Rows;

/// What a finished write has left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteSummary {
    /// URL of the directory.
    pub url: String,
    /// Files in it.
    pub files: u64,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What functions of the program counted: see [`Job::counters`].
    pub counters: BTreeMap<String, u64>,
}

/// A submitted job.
#[derive(Clone)]
pub struct Job {
    connection: Connection,
    id: JobId,
}

impl Job {
    pub(crate) fn new(connection: Connection, id: JobId) -> Self {
        Job { connection, id }
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// How far it is.
    ///
    /// # Errors
    /// `Invalid` if the driver does not know it, `Unavailable` if the cluster cannot be reached.
    pub fn status(&self) -> Result<JobStatus> {
        self.connection.status(self.id)
    }

    /// What functions of the program have counted so far, by name: every task once, however often
    /// it was tried.
    ///
    /// # Errors
    /// As for [`Job::status`].
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        Ok(counters(&self.status()?))
    }

    /// Its status now and whenever it changes. Whether there is such a job shows with the first.
    pub fn watch(&self) -> Watch {
        let updates = Some(self.connection.watch(self.id));
        Watch {
            connection: self.connection.clone(),
            updates,
        }
    }

    /// Asks it to stop. It is cancelled a little later, unless it ended by itself before.
    ///
    /// # Errors
    /// As for [`Job::status`].
    pub fn cancel(&self) -> Result<()> {
        self.connection.cancel(self.id)
    }

    /// Waits until it is done.
    ///
    /// # Errors
    /// Why it failed.
    pub fn wait(&self) -> Result<JobStatus> {
        let mut watch = self.watch();
        loop {
            let status = watch.next()?;
            if status.state.is_final() {
                return outcome(status);
            }
        }
    }

    /// Waits until it is done and fetches its rows.
    ///
    /// # Errors
    /// Why it failed; `Exhausted` if there are too many rows for one process.
    pub fn collect(&self) -> Result<Vec<RecordBatch>> {
        self.wait()?;
        self.result()
    }

    /// Waits until it is done and returns what it has written.
    ///
    /// # Errors
    /// Why it failed; `Invalid` if its result are rows.
    pub fn written(&self) -> Result<WriteSummary> {
        let status = self.wait()?;
        written(&status).ok_or_else(|| Error::invalid(format!("job {} writes no files", self.id)))
    }

    /// Fetches the rows of a job that is done.
    ///
    /// # Errors
    /// `Invalid` if it is not done or has written files instead; `Exhausted` if there are too many
    /// rows for one process: see [`Job::rows`].
    pub fn result(&self) -> Result<Vec<RecordBatch>> {
        self.rows()?.collect_all()
    }

    /// The rows of a job that is done, batch by batch as they arrive: they may be more than fit
    /// into memory.
    ///
    /// # Errors
    /// As for [`Job::result`], which has a limit.
    pub fn rows(&self) -> Result<Rows> {
        let (schema, batches) = self.connection.rows(self.id)?;
        Ok(Rows::new(self.connection.clone(), schema, batches))
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.id).finish()
    }
}

/// `status` if the job is done; why it is not, otherwise.
///
/// # Errors
/// Why the job failed, `Cancelled` if somebody stopped it, `Internal` if it has not ended.
pub fn outcome(status: JobStatus) -> Result<JobStatus> {
    match status.state {
        JobState::Done => Ok(status),
        JobState::Cancelled => Err(Error::cancelled(format!("job {} was cancelled", status.id))),
        JobState::Failed => Err(status.failure.map_or_else(
            || {
                Error::internal(format!(
                    "job {} failed and its driver does not say why",
                    status.id
                ))
            },
            Error::from,
        )),
        state => Err(Error::internal(format!(
            "the job has not ended state={state:?}"
        ))),
    }
}

/// What a job that is done has written; none if its result are rows.
pub fn written(status: &JobStatus) -> Option<WriteSummary> {
    let output = status.output.as_ref()?;
    let counts = status
        .stages
        .last()
        .map(|stage| stage.counts.clone())
        .unwrap_or_default();
    Some(WriteSummary {
        url: output.url.clone(),
        files: counts.objects,
        rows: counts.rows_out,
        bytes: counts.bytes_out,
        counters: counters(status),
    })
}

/// What functions of the program have counted, by name, all stages together.
pub fn counters(status: &JobStatus) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    let stages = status.stages.iter();
    for (name, n) in stages.flat_map(|stage| stage.counts.user.iter()) {
        let sum: &mut u64 = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*n);
    }
    sums
}

/// A job's status as it changes.
pub struct Watch {
    connection: Connection,
    /// Taken only while somebody waits for the next status.
    updates: Option<Receiver<Result<JobStatus>>>,
}

impl Watch {
    /// Waits for the next status. After a final one nothing follows.
    ///
    /// # Errors
    /// `Unavailable` if the driver is gone.
    #[expect(clippy::should_implement_trait, reason = "it fails rather than ends")]
    pub fn next(&mut self) -> Result<JobStatus> {
        loop {
            if let Some(status) = self.next_within(Duration::from_secs(60))? {
                return Ok(status);
            }
        }
    }

    /// As [`Watch::next`], but none if nothing changes for that long.
    ///
    /// # Errors
    /// As for [`Watch::next`].
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<JobStatus>> {
        let Some(mut updates) = self.updates.take() else {
            return Err(gone());
        };
        let (updates, update) = self.connection.wait(async move {
            let update = tokio::time::timeout(timeout, updates.recv()).await;
            Ok((updates, update))
        })?;
        self.updates = Some(updates);
        match update {
            Ok(Some(status)) => status.map(Some),
            Ok(None) => Err(gone()),
            Err(_elapsed) => Ok(None),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

fn gone() -> Error {
    Error::unavailable("the driver ended before the job did")
}
