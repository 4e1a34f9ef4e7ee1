//! How everybody else talks to a driver: the service for remote clients and executors, a session
//! for an embedded job. Both use the same handle, so there is one way through the driver.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::plan::{LogicalPlan, Sha256};
use kiln_engine::shuffle::fetch_blocks;
use kiln_engine::storage::Staging;
use kiln_engine::{Error, Result};
use kiln_proto::message::{
    ExecutorStatus, FromExecutor, JobState, JobStatus, Registration, Submission, ToExecutor,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::board::{SharedBoard, stopped};
use crate::event_loop::{INBOX_MAX, Input};
use crate::node::Node;
use crate::programs::Admission;
use crate::scheduler::{Detail, ResultLocation, Scheduler};
use crate::settings::DriverSettings;
use crate::work::{self, Components};

/// Messages of one executor that wait for the driver; the stream waits when there are more.
const ATTACHMENT_MESSAGES_MAX: usize = 64;

/// Result objects that are fetched at once.
const RESULT_FETCHES: usize = 4;

/// A driver, before it is started.
pub struct Driver;

/// A way to a running driver. The driver stops when the last clone has been dropped.
#[derive(Clone)]
pub struct DriverHandle {
    inbox: mpsc::Sender<Input>,
    board: SharedBoard,
    components: Components,
    programs: Admission,
    /// Dropped with the last handle, which the loop notices.
    _alive: Arc<oneshot::Sender<()>>,
}

/// The result of a job that is done.
pub struct JobResult {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows: blocks as [`kiln_engine::shuffle::decode_blocks`] takes them, in order.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// An executor's open stream. Dropping it tells the driver that the stream is gone; what was sent
/// before still arrives.
pub struct Attachment {
    /// What the executor sends.
    pub from_executor: mpsc::Sender<FromExecutor>,
    /// Dropped with this, even where somebody still holds a clone of the sender.
    _open: oneshot::Sender<()>,
}

impl Driver {
    /// Starts a driver on the current tokio runtime.
    ///
    /// # Errors
    /// `Invalid` if the settings cannot work.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: DriverSettings, components: Components) -> Result<DriverHandle> {
        settings.validate()?;
        let board = SharedBoard::new(Scheduler::new(settings.clone()));
        let (inbox, inputs) = mpsc::channel(INBOX_MAX);
        let (alive, handles) = oneshot::channel();
        let parts = components.clone();
        let programs = Admission::new(&settings, &components.shuffle);
        let node = Node::new(settings, parts, board.clone());
        tokio::spawn(node.run(inputs, handles));
        Ok(DriverHandle {
            inbox,
            board,
            components,
            programs,
            _alive: Arc::new(alive),
        })
    }
}

impl Attachment {
    /// Brings `messages` to the driver until they end or the driver gives the executor up.
    pub async fn carry(self, messages: impl Stream<Item = FromExecutor>) {
        let mut messages = pin!(messages);
        while let Some(message) = messages.next().await {
            if self.from_executor.send(message).await.is_err() {
                return;
            }
        }
    }
}

impl DriverHandle {
    /// Submits a job; the same key gives the same job, so that a client may ask again when it did
    /// not get an answer. What is wrong with the plan is told by the job, not here.
    ///
    /// # Errors
    /// `Exhausted` if there are too many jobs, `Unavailable` if the driver has stopped; `Invalid`
    /// if the plan calls functions and its program cannot be run.
    pub async fn submit(&self, submission: Submission) -> Result<JobId> {
        self.programs.admit(&submission).await?;
        let submission = Box::new(submission);
        self.ask(|answer| Input::Submit { submission, answer })
            .await
    }

    /// Whether a program is in the storage already.
    ///
    /// # Errors
    /// `Invalid` if this driver takes no programs; what the storage answers.
    pub async fn has_program(&self, sha256: Sha256) -> Result<bool> {
        self.programs.has(sha256).await
    }

    /// Begins to put a program into the storage.
    ///
    /// # Errors
    /// `Invalid` if this driver takes no programs or none of that size; what the storage answers.
    pub async fn stage_program(&self, sha256: Sha256, bytes: u64) -> Result<Staging> {
        self.programs.stage(sha256, bytes).await
    }

    /// Follows a job. Progress comes now and then and without attempts, a change of state at
    /// once; the last status lists all attempts, and after it the sender is gone.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub fn watch(&self, job: JobId) -> Result<watch::Receiver<Arc<JobStatus>>> {
        self.board.lock().watch(job)
    }

    /// All jobs that are known, in the order of submission, without their attempts.
    ///
    /// # Errors
    /// `Unavailable` if another driver leads.
    pub fn list(&self) -> Result<Vec<Arc<JobStatus>>> {
        let jobs = {
            let board = self.board.lock();
            board.check_leads()?;
            board.scheduler.jobs()
        };
        // There may be thousands: whoever else waits for the board gets it in between.
        let status = |job| self.board.lock().status(job, Detail::Stages).ok();
        Ok(jobs.into_iter().filter_map(status).collect())
    }

    /// How far a job is, with all of its attempts.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub fn get(&self, job: JobId) -> Result<Arc<JobStatus>> {
        self.board.lock().status(job, Detail::Attempts)
    }

    /// Stops a job. One that has ended, or whose output is being put in place, goes on as it is.
    ///
    /// # Errors
    /// `Invalid` if there is no such job, `Unavailable` if the driver has stopped.
    pub async fn cancel(&self, job: JobId) -> Result<()> {
        self.ask(|answer| Input::Cancel { job, answer }).await
    }

    /// Says how a plan would be run by the executors that there are now.
    ///
    /// # Errors
    /// What is wrong with the plan or its inputs.
    pub async fn explain(&self, plan: LogicalPlan) -> Result<String> {
        let cluster = {
            let board = self.board.lock();
            board.check_leads()?;
            board.scheduler.cluster()
        };
        work::explain(&self.components, plan, cluster).await
    }

    /// Waits until a job has ended and gives its result.
    ///
    /// # Errors
    /// The job's failure; `Cancelled` if it was cancelled; `Invalid` if there is no such job, if
    /// it wrote files, or if its result is not kept any more; `Unavailable` if the driver stops.
    pub async fn result(&self, job: JobId) -> Result<JobResult> {
        let mut status = self.watch(job)?;
        let ended = status.wait_for(|status| status.state.is_final()).await;
        let status = match ended {
            Ok(status) => status.clone(),
            Err(_) => {
                self.board.lock().check_leads()?;
                return Err(stopped());
            }
        };
        match (status.state, &status.failure) {
            (JobState::Done, _) => {}
            (_, Some(failure)) => return Err(failure.clone().into()),
            _ => return Err(Error::cancelled(format!("the job was cancelled job={job}"))),
        }
        let location = self.board.lock().result(job)?;
        let location = location.ok_or_else(|| {
            Error::invalid(format!(
                "the job wrote files, or its result is not kept any more job={job}"
            ))
        })?;
        Ok(JobResult {
            schema: location.schema.clone(),
            chunks: self.chunks(job, location),
        })
    }

    fn chunks(&self, job: JobId, location: ResultLocation) -> BoxStream<'static, Result<Bytes>> {
        let ResultLocation { stage, sources, .. } = location;
        let shuffle = self.components.shuffle.clone();
        let failed = Arc::new(AtomicBool::new(false));
        // Each begins while those before it are read, and goes on when it is read itself.
        let fetches = stream::iter(sources).map(move |source| {
            let mut blocks = fetch_blocks(&shuffle, job, stage, &source);
            async move {
                let first = blocks.next().await;
                stream::iter(first).chain(blocks)
            }
        });
        let (note, board) = (Arc::clone(&failed), self.board.clone());
        let chunks = fetches
            .buffered(RESULT_FETCHES)
            .flatten()
            .map_err(move |error| {
                note.store(true, Ordering::Relaxed);
                match board.lock().result(job) {
                    Ok(Some(_)) => error,
                    Ok(None) => dropped(job).with_source(error),
                    Err(elsewhere) => elsewhere,
                }
            });
        // The handle goes with the stream, so that the driver does not stop while it is read.
        let handle = self.clone();
        let end = stream::once(async move {
            if !failed.load(Ordering::Relaxed) {
                // A driver that has stopped keeps no results.
                let _ = handle.inbox.send(Input::ResultRead { job }).await;
            }
        });
        chunks
            .chain(end.filter_map(|()| std::future::ready(None)))
            .boxed()
    }

    /// The executors that are known.
    ///
    /// # Errors
    /// `Unavailable` if another driver leads.
    pub fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        let board = self.board.lock();
        board.check_leads()?;
        Ok(board.scheduler.executors())
    }

    /// Opens the stream of an executor: messages for it go to `to_executor`, a `Welcome` first.
    /// Room for 64 messages is plenty; an executor that leaves more of them waiting counts as
    /// gone. When the driver gives the executor up it drops `to_executor`.
    ///
    /// # Errors
    /// `Invalid` if it speaks another version of the protocol: it is to be refused with the
    /// error's message. `Unavailable` if the driver has stopped.
    pub async fn attach(
        &self,
        registration: Registration,
        to_executor: mpsc::Sender<ToExecutor>,
    ) -> Result<Attachment> {
        let executor = registration.executor;
        let to = to_executor;
        let attachment = self
            .ask(|answer| Input::Attach {
                registration,
                to,
                answer,
            })
            .await?;
        let (from_executor, messages) = mpsc::channel(ATTACHMENT_MESSAGES_MAX);
        let (open, closed) = oneshot::channel();
        let inbox = self.inbox.clone();
        tokio::spawn(forward(inbox, executor, attachment, messages, closed));
        Ok(Attachment {
            from_executor,
            _open: open,
        })
    }

    /// Stops the driver. Jobs that run are cancelled and results are removed, unless there is a
    /// journal: then the next driver goes on with both.
    pub async fn shutdown(&self) {
        let (answer, stopped) = oneshot::channel();
        if self.inbox.send(Input::Stop { answer }).await.is_ok() {
            // An error means that it has stopped for another reason.
            let _ = stopped.await;
        }
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<Result<T>>) -> Input) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.inbox
            .send(input(answer))
            .await
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

fn dropped(job: JobId) -> Error {
    Error::unavailable(format!(
        "the result was removed while it was read job={job}"
    ))
}

/// Brings the messages of one attachment to the loop until it is dropped, then says so.
async fn forward(
    inbox: mpsc::Sender<Input>,
    executor: ExecutorId,
    attachment: u64,
    mut messages: mpsc::Receiver<FromExecutor>,
    mut closed: oneshot::Receiver<()>,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = messages.recv() => message,
            _ = &mut closed => {
                messages.close();
                break;
            }
        };
        let Some(message) = message else { break };
        if inbox
            .send(Input::Heard {
                executor,
                attachment,
                message,
            })
            .await
            .is_err()
        {
            return;
        }
    }
    // Clones of the sender cannot send any more; what they did send is still brought.
    while let Some(message) = messages.recv().await {
        if inbox
            .send(Input::Heard {
                executor,
                attachment,
                message,
            })
            .await
            .is_err()
        {
            return;
        }
    }
    // A loop that has stopped knows.
    let _ = inbox
        .send(Input::Detached {
            executor,
            attachment,
        })
        .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use kiln_engine::ErrorKind;
    use kiln_engine::id::{ExecutorId, JobId};
    use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
    use kiln_engine::storage::Stores;
    use kiln_engine::storage::{Compression, ShuffleStore};
    use kiln_proto::message::{JobState, PROTOCOL_VERSION, Registration, Submission, ToExecutor};
    use object_store::memory::InMemory;
    use tokio::sync::mpsc;

    use super::{Attachment, Components, Driver, DriverHandle};
    use crate::settings::DriverSettings;

    fn start(change: fn(&mut DriverSettings)) -> DriverHandle {
        let mut settings = DriverSettings::default();
        change(&mut settings);
        let store = Arc::new(InMemory::new());
        let components = Components {
            stores: Arc::new(Stores::new()),
            shuffle: ShuffleStore::new(store, "shuffle".into(), Compression::None),
            storage_url: "memory:///shuffle".to_owned(),
            journal: None,
        };
        Driver::start(settings, components).expect("the settings are valid")
    }

    fn registration(protocol: u32) -> Registration {
        Registration {
            executor: ExecutorId(7),
            name: "host-7".to_owned(),
            protocol,
            threads: 1,
            slots: 1,
            memory: 1 << 30,
        }
    }

    async fn attach(driver: &DriverHandle) -> (Attachment, mpsc::Receiver<ToExecutor>) {
        let (to, from_driver) = mpsc::channel(64);
        let attachment = driver.attach(registration(PROTOCOL_VERSION), to).await;
        (attachment.expect("the executor is welcome"), from_driver)
    }

    fn plan() -> LogicalPlan {
        LogicalPlan::Scan(Scan {
            predicate: None,
            locations: vec!["memory:///nothing".to_owned()],
            format: ScanFormat::Text(TextOptions::default()),
            schema: Arc::new(Schema::empty()),
            projection: None,
        })
    }

    fn submission(key: u64) -> Submission {
        Submission {
            name: "a job".to_owned(),
            key,
            plan: plan(),
            program: None,
            weight: 1,
        }
    }

    async fn submit(driver: &DriverHandle, key: u64) -> JobId {
        driver
            .submit(submission(key))
            .await
            .expect("the job is taken")
    }

    #[tokio::test]
    async fn an_executor_is_welcome_and_forgotten_when_its_stream_is_gone() {
        let driver = start(|settings| settings.reconnect_ms = 0);
        let (attachment, mut from_driver) = attach(&driver).await;
        let welcome = from_driver.recv().await;
        assert!(matches!(welcome, Some(ToExecutor::Welcome(w)) if w.heartbeat_ms == 1_000));
        assert_eq!(driver.executors().expect("it leads").len(), 1);
        // A clone of the sender does not hold the stream open.
        let sender = attachment.from_executor.clone();
        drop(attachment);
        assert_eq!(from_driver.recv().await, None);
        sender.closed().await;
    }

    #[tokio::test]
    async fn another_version_of_the_protocol_is_refused() {
        let driver = start(|_| ());
        let (to, _from_driver) = mpsc::channel(64);
        let refused = driver
            .attach(registration(PROTOCOL_VERSION + 1), to)
            .await
            .err();
        let refused = refused.expect("the executor is refused");
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(
            refused.message().contains(&format!(
                "its={} ours={PROTOCOL_VERSION}",
                PROTOCOL_VERSION + 1
            )),
            "{}",
            refused.message()
        );
        assert!(driver.executors().expect("it leads").is_empty());
    }

    #[tokio::test]
    async fn a_job_without_executors_fails_after_the_grace_period() {
        let driver = start(|settings| settings.grace_ms = 1);
        let job = submit(&driver, 1).await;
        let error = driver.result(job).await.err().expect("there is no result");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.message(),
            "no executor was there to run the job for 0.001 s"
        );
        assert_eq!(
            driver.get(job).expect("the job is known").state,
            JobState::Failed
        );
    }

    #[tokio::test]
    async fn the_same_key_gives_the_same_job() {
        let driver = start(|_| ());
        let job = submit(&driver, 1).await;
        let other = submit(&driver, 2).await;
        assert_eq!(submit(&driver, 1).await, job);
        let listed: Vec<_> = driver
            .list()
            .expect("it leads")
            .iter()
            .map(|status| status.id)
            .collect();
        assert_eq!(listed, [job, other]);
    }

    #[tokio::test]
    async fn a_cancelled_job_has_no_result() {
        let driver = start(|_| ());
        let job = submit(&driver, 1).await;
        let mut status = driver.watch(job).expect("the job is known");
        assert_eq!(status.borrow_and_update().state, JobState::Planning);
        driver.cancel(job).await.expect("the job is known");
        let ended = status.wait_for(|status| status.state.is_final()).await;
        assert_eq!(ended.expect("the end is told").state, JobState::Cancelled);
        let error = driver.result(job).await.err().expect("there is no result");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        let error = driver
            .cancel(JobId::new(1))
            .await
            .expect_err("there is no such job");
        assert_eq!(error.message(), "no such job job=000000000001");
    }

    #[tokio::test]
    async fn a_driver_that_is_shut_down_cancels_its_jobs_and_says_so() {
        let driver = start(|_| ());
        let job = submit(&driver, 1).await;
        let (_attachment, mut from_driver) = attach(&driver).await;
        driver.shutdown().await;
        assert!(driver.get(job).expect("the job is known").state.is_final());
        assert!(matches!(
            from_driver.recv().await,
            Some(ToExecutor::Welcome(_))
        ));
        assert_eq!(from_driver.recv().await, None);
        let error = driver.submit(submission(2)).await;
        assert_eq!(
            error.expect_err("nobody takes it").kind(),
            ErrorKind::Unavailable
        );
    }

    #[tokio::test]
    async fn a_driver_ends_with_its_last_handle_though_executors_are_attached() {
        let driver = start(|_| ());
        let (_attachment, mut from_driver) = attach(&driver).await;
        let clone = driver.clone();
        drop(driver);
        submit(&clone, 1).await;
        drop(clone);
        assert!(matches!(
            from_driver.recv().await,
            Some(ToExecutor::Welcome(_))
        ));
        assert_eq!(from_driver.recv().await, None);
    }
}
