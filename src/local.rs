//! A driver and an executor in this process: what runs behind a local session.
//!
//! They are the ones of a cluster and say the same things to one another; only that what they say
//! goes through channels, and that shuffle objects stay in memory while there is room.

use std::sync::Arc;
use std::thread::available_parallelism;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use kiln_driver::{Driver, DriverHandle, DriverSettings};
use kiln_engine::id::JobId;
use kiln_engine::memory::{self, DiskBudget, MemoryBudget};
use kiln_engine::shuffle::decode_blocks;
use kiln_engine::storage::ShuffleStore;
use kiln_engine::storage::{OverflowStore, Stores};
use kiln_engine::{Error, ErrorKind, Result, limits};
use kiln_executor::{ExecutorSettings, Link};
use kiln_proto::message::{FromExecutor, ToExecutor};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// What the driver calls its storage where everybody has it at hand.
const STORAGE: &str = "memory:///shuffle";

/// Messages between driver and executor, in either direction, before whoever sends waits.
const LINK_MESSAGES_MAX: usize = 64;

/// What a local session may use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LocalSettings {
    /// Threads that compute; all cores where not given.
    pub(crate) threads: Option<usize>,
    /// Memory budget in bytes; a share of what there is where not given.
    pub(crate) memory: Option<u64>,
    /// Bytes of local disk for what does not fit into it; all there are where not given.
    pub(crate) spill_limit: Option<u64>,
}

/// A driver and an executor of this process.
pub(crate) struct Local {
    pub(crate) driver: DriverHandle,
    pub(crate) memory: Arc<MemoryBudget>,
    /// The executor, until somebody waits for its end.
    executor: Mutex<Option<JoinHandle<()>>>,
}

impl Local {
    /// Starts a driver and an executor on the tokio runtime that this is called on.
    ///
    /// # Errors
    /// `Invalid` for settings that make no sense, `Exhausted` if there are no threads left.
    pub(crate) async fn open(settings: LocalSettings, stores: Arc<Stores>) -> Result<Arc<Self>> {
        let cores = || available_parallelism().map_or(1, usize::from);
        let threads = settings.threads.unwrap_or_else(cores);
        let disk = DiskBudget::new(settings.spill_limit.unwrap_or(u64::MAX), None);
        let memory = settings.memory.unwrap_or_else(memory::default_limit);
        let memory = MemoryBudget::with_disk(memory, disk);
        let in_memory_max = memory.limit() / limits::MEMORY_STORE_SHARE;
        let objects = OverflowStore::new(in_memory_max, Some(&memory), None);
        let shuffle = ShuffleStore::in_memory(objects);
        let settings = executor_settings(threads, memory.limit())?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|lane| format!("kiln-lane-{lane}"))
            .build()
            .map_err(|error| Error::exhausted("cannot start threads").with_source(error))?;
        let driver = Driver::start(
            DriverSettings::embedded(),
            kiln_driver::Components {
                stores: Arc::clone(&stores),
                shuffle: shuffle.clone(),
                storage_url: STORAGE.to_owned(),
                journal: None,
            },
        )?;
        let components = kiln_executor::Components::new(
            stores,
            Arc::new(pool),
            Arc::clone(&memory),
            Some(shuffle),
        );
        let executor = tokio::spawn(attach(settings, components, driver.clone()));
        Ok(Arc::new(Local {
            driver,
            memory,
            executor: Mutex::new(Some(executor)),
        }))
    }

    /// Ends the driver, and waits for the executor to have stopped what it did: commands that were
    /// started for it must not outlive the process.
    pub(crate) async fn close(&self) {
        self.driver.shutdown().await;
        if let Some(executor) = self.executor.lock().await.take()
            && let Err(error) = executor.await
        {
            tracing::error!(%error, "the executor of this process did not end in order");
        }
    }

    /// The columns of a job's result, and its rows as they are read.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if it wrote files.
    pub(crate) async fn rows(
        &self,
        job: JobId,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
        let result = self.driver.result(job).await?;
        let schema = Arc::clone(&result.schema);
        let decode = move |chunk: Result<Bytes>| {
            let mut batches = Vec::new();
            let decoded = chunk.and_then(|chunk| {
                decode_blocks(chunk, Some(&result.schema), &mut |batch| {
                    batches.push(Ok(batch));
                    Ok(())
                })
            });
            batches.extend(decoded.err().map(Err));
            stream::iter(batches)
        };
        Ok((schema, result.chunks.flat_map(decode).boxed()))
    }
}

fn executor_settings(threads: usize, memory: u64) -> Result<ExecutorSettings> {
    match u32::try_from(threads) {
        Ok(threads @ 1..) => Ok(ExecutorSettings::new("local", threads, memory)),
        _ => Err(Error::invalid(format!(
            "not a number of threads threads={threads}"
        ))),
    }
}

/// Works for `driver` until it stops.
async fn attach(
    settings: ExecutorSettings,
    components: kiln_executor::Components,
    driver: DriverHandle,
) {
    let (to_driver, said) = mpsc::channel(LINK_MESSAGES_MAX);
    let (told, from_driver) = mpsc::channel(LINK_MESSAGES_MAX);
    let link = Link {
        to_driver,
        from_driver,
    };
    let never = std::future::pending();
    let (worked, ()) = tokio::join!(
        kiln_executor::run(settings, components, link, never),
        introduce(driver, said, told)
    );
    if let Err(error) = worked {
        tracing::error!(
            reason = error.report(),
            "the executor of this process has ended"
        );
    }
}

/// Brings what the executor says to the driver. Its first message registers it.
async fn introduce(
    driver: DriverHandle,
    mut said: mpsc::Receiver<FromExecutor>,
    told: mpsc::Sender<ToExecutor>,
) {
    let Some(FromExecutor::Register(registration)) = said.recv().await else {
        return;
    };
    let attachment = match driver.attach(registration, told).await {
        Ok(attachment) => attachment,
        // The session has ended before its executor was there.
        Err(error) if error.kind() == ErrorKind::Unavailable => return,
        Err(error) => {
            return tracing::error!(reason = error.report(), "the driver refuses its executor");
        }
    };
    // The driver ends when nobody has a handle of it any more.
    drop(driver);
    attachment
        .carry(stream::poll_fn(|context| said.poll_recv(context)))
        .await;
}
