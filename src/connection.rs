//! [`Connection`]: a driver, here or elsewhere, and the threads that talk to it.
//!
//! Sessions, data frames and jobs each hold one; the last to let go ends a driver that is in this
//! process, and the jobs in it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use kiln_engine::id::JobId;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::LogicalPlan;
use kiln_engine::storage::Stores;
use kiln_engine::{Error, Result};
use kiln_proto::message::{ExecutorStatus, JobStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver};

use crate::backend::{Backend, Batches};
use crate::runtime::Runtime;

/// Statuses of a watched job that wait to be looked at before the driver's news wait.
const UPDATES_PENDING_MAX: usize = 16;

/// Jobs that are remembered to be cancelled when somebody presses Ctrl-C: more do not run at once.
const SUBMITTED_MAX: usize = 64;

/// What a process ends with that does not wait for its jobs to be cancelled.
const INTERRUPTED: i32 = 130;

/// How long a driver of this process may take to end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A driver and the threads that talk to it.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
    /// The weight of jobs that are submitted over it.
    weight: u32,
}

struct Inner {
    backend: Backend,
    stores: Arc<Stores>,
    runtime: Runtime,
    /// The newest jobs that were submitted over it.
    submitted: Mutex<VecDeque<JobId>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let backend = self.backend.clone();
        let closed = async move {
            // What is not done by then is left undone: nobody may hang because of it.
            let _ = tokio::time::timeout(CLOSE_WAIT, backend.close()).await;
            Ok(())
        };
        if let Err(error) = self.runtime.wait(closed) {
            tracing::error!(reason = error.report(), "the session did not end in order");
        }
    }
}

impl Connection {
    pub(crate) fn memory_budget(&self) -> Option<&Arc<MemoryBudget>> {
        match &self.inner.backend {
            Backend::Local(local) => Some(&local.memory),
            Backend::Remote { .. } => None,
        }
    }

    pub(crate) fn new(backend: Backend, stores: Arc<Stores>, runtime: Runtime) -> Self {
        Connection {
            inner: Arc::new(Inner {
                backend,
                stores,
                runtime,
                submitted: Mutex::default(),
            }),
            weight: 1,
        }
    }

    /// The same connection, for jobs of that weight.
    pub(crate) fn with_weight(self, weight: u32) -> Self {
        Connection { weight, ..self }
    }

    /// Whether `other` is the same driver through the same threads.
    pub(crate) fn is(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether the driver is in this process.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.inner.backend, Backend::Local(_))
    }

    /// The stores through which this process looks into input files.
    pub(crate) fn stores(&self) -> Arc<Stores> {
        Arc::clone(&self.inner.stores)
    }

    /// Runs `future` on the threads of the connection and waits for it.
    ///
    /// # Errors
    /// What the future answered.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.inner.runtime.wait(future)
    }

    pub(crate) fn submit(&self, name: &str, plan: Arc<LogicalPlan>) -> Result<JobId> {
        let (backend, name, weight) = (self.inner.backend.clone(), name.to_owned(), self.weight);
        let id = self.wait(async move { backend.submit(name, plan, weight).await })?;
        let mut submitted = lock(&self.inner.submitted);
        if submitted.len() == SUBMITTED_MAX {
            submitted.pop_front();
        }
        submitted.push_back(id);
        Ok(id)
    }

    /// On the first Ctrl-C or SIGTERM sets `flag` and cancels what was submitted over this
    /// connection; on the second one ends the process.
    pub(crate) fn cancel_on_interrupt(&self, flag: Arc<AtomicBool>) -> Result<()> {
        let inner = Arc::downgrade(&self.inner);
        self.wait(async move {
            let failed = |error| Error::exhausted("cannot listen for signals").with_source(error);
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if flag.swap(true, Ordering::Relaxed) {
                        std::process::exit(INTERRUPTED);
                    }
                    let Some(inner) = inner.upgrade() else { return };
                    let submitted = lock(&inner.submitted).clone();
                    let backend = inner.backend.clone();
                    drop(inner);
                    for id in submitted {
                        // One that has ended or cannot be reached is not to be stopped any more.
                        let _ = backend.cancel(id).await;
                    }
                }
            });
            Ok(())
        })
    }

    pub(crate) fn explain(&self, plan: Arc<LogicalPlan>) -> Result<String> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.explain(plan).await })
    }

    pub(crate) fn status(&self, id: JobId) -> Result<JobStatus> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.status(id).await })
    }

    pub(crate) fn watch(&self, id: JobId) -> Receiver<Result<JobStatus>> {
        let backend = self.inner.backend.clone();
        let (sender, updates) = mpsc::channel(UPDATES_PENDING_MAX);
        self.inner
            .runtime
            .spawn(async move { backend.watch(id, sender).await });
        updates
    }

    pub(crate) fn cancel(&self, id: JobId) -> Result<()> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.cancel(id).await })
    }

    /// The columns of a job's result, and its rows as they arrive.
    pub(crate) fn rows(&self, id: JobId) -> Result<(SchemaRef, Batches)> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.rows(id).await })
    }

    pub(crate) fn list(&self) -> Result<Vec<JobStatus>> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.list().await })
    }

    pub(crate) fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        let backend = self.inner.backend.clone();
        self.wait(async move { backend.executors().await })
    }
}

fn lock(submitted: &Mutex<VecDeque<JobId>>) -> MutexGuard<'_, VecDeque<JobId>> {
    submitted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.inner.backend {
            Backend::Local(_) => "local",
            Backend::Remote { .. } => "remote",
        })
    }
}
