//! The driver of a session: in this process or at the other end of a connection.
//!
//! Both answer the same requests; nothing else in this crate knows which one it is.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_driver::client::{Client, ClientSettings};
use kiln_engine::Result;
use kiln_engine::id::JobId;
use kiln_engine::plan::LogicalPlan;
use kiln_proto::address::Drivers;
use kiln_proto::message::{ExecutorStatus, JobStatus, Submission};
use tokio::sync::mpsc::Sender;

use crate::local::Local;
use crate::program::{Hosted, offered};

/// Rows on their way.
pub(crate) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// The driver of a session.
#[derive(Clone)]
pub(crate) enum Backend {
    /// In this process.
    Local(Arc<Local>),
    /// At the other end of a connection.
    Remote {
        /// The connection.
        client: Client,
        /// The program that this process is, if its functions are to run on the cluster.
        program: Option<Arc<Hosted>>,
    },
}

impl Backend {
    /// The one of `drivers` that leads.
    pub(crate) async fn connect(drivers: Drivers, program: Option<Hosted>) -> Result<Self> {
        Ok(Backend::Remote {
            client: Client::connect_with(ClientSettings::new(drivers)).await?,
            program: program.map(Arc::new),
        })
    }

    /// Ends a driver that is in this process, its jobs with it; what they have half written is
    /// removed.
    pub(crate) async fn close(&self) {
        if let Backend::Local(local) = self {
            local.close().await;
        }
    }

    pub(crate) async fn submit(
        &self,
        name: String,
        plan: Arc<LogicalPlan>,
        weight: u32,
    ) -> Result<JobId> {
        // Sent again with the same key after a lost answer, it is the same job.
        let mut submission = Submission {
            name,
            key: fastrand::u64(..),
            plan: LogicalPlan::clone(&plan),
            program: None,
            weight,
        };
        let (client, program) = match self {
            Backend::Local(local) => return local.driver.submit(submission).await,
            Backend::Remote { client, program } => (client, program.as_deref()),
        };
        submission.program = offered(program, plan.functions(), client).await?;
        let id = client.submit(&submission).await?;
        if let Some(program) = program {
            program.announce(id)?;
        }
        Ok(id)
    }

    pub(crate) async fn explain(&self, plan: Arc<LogicalPlan>) -> Result<String> {
        match self {
            Backend::Local(local) => local.driver.explain(LogicalPlan::clone(&plan)).await,
            Backend::Remote { client, .. } => client.explain(&plan).await,
        }
    }

    /// Sends the status of `id` now and whenever it changes, until it is final or nobody listens.
    pub(crate) async fn watch(&self, id: JobId, updates: Sender<Result<JobStatus>>) {
        let ended = match self {
            Backend::Local(local) => watch_local(local, id, &updates).await,
            Backend::Remote { client, .. } => watch_remote(client, id, &updates).await,
        };
        if let Err(error) = ended {
            // Nobody listens any more: then nobody has to know.
            let _ = updates.send(Err(error)).await;
        }
    }

    pub(crate) async fn status(&self, id: JobId) -> Result<JobStatus> {
        match self {
            Backend::Local(local) => local.driver.get(id).map(|status| JobStatus::clone(&status)),
            Backend::Remote { client, .. } => client.get(id).await,
        }
    }

    pub(crate) async fn list(&self) -> Result<Vec<JobStatus>> {
        match self {
            Backend::Local(local) => Ok(local
                .driver
                .list()?
                .iter()
                .map(|status| JobStatus::clone(status))
                .collect()),
            Backend::Remote { client, .. } => client.list().await,
        }
    }

    pub(crate) async fn cancel(&self, id: JobId) -> Result<()> {
        match self {
            Backend::Local(local) => local.driver.cancel(id).await,
            Backend::Remote { client, .. } => client.cancel(id).await,
        }
    }

    /// The columns of a job's result, and its rows as they arrive.
    pub(crate) async fn rows(&self, id: JobId) -> Result<(SchemaRef, Batches)> {
        match self {
            Backend::Local(local) => local.rows(id).await,
            Backend::Remote { client, .. } => client.rows(id).await,
        }
    }

    pub(crate) async fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        match self {
            Backend::Local(local) => local.driver.executors(),
            Backend::Remote { client, .. } => client.executors().await,
        }
    }
}

type Updates = Sender<Result<JobStatus>>;

async fn watch_local(local: &Local, id: JobId, updates: &Updates) -> Result<()> {
    let mut statuses = local.driver.watch(id)?;
    loop {
        let status = JobStatus::clone(&statuses.borrow_and_update());
        let is_final = status.state.is_final();
        if updates.send(Ok(status)).await.is_err() || is_final || statuses.changed().await.is_err()
        {
            return Ok(());
        }
    }
}

async fn watch_remote(client: &Client, id: JobId, updates: &Updates) -> Result<()> {
    let mut statuses = client.watch(id).await?;
    while let Some(status) = statuses.next().await {
        let status = status?;
        let is_final = status.state.is_final();
        if updates.send(Ok(status)).await.is_err() || is_final {
            break;
        }
    }
    Ok(())
}
