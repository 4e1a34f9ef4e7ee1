//! The drivers of a cluster from afar: their requests as methods, their errors as ours.
//!
//! A client that was connected once waits for drivers that are lost: every request goes to the one
//! that leads, whichever that is by then, and what had begun to arrive is taken up where it broke.

mod leader;
mod rows;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use futures::stream::{self, BoxStream};
use kiln_engine::id::JobId;
use kiln_engine::plan::{LogicalPlan, Sha256};
use kiln_engine::{Error, Result, limits};
use kiln_proto::convert::{job, plan, program, task};
use kiln_proto::message::{ExecutorStatus, JobStatus, PROTOCOL_VERSION, Submission};
use kiln_proto::wire;
use kiln_proto::wire::jobs_client::JobsClient;
use kiln_proto::wire::program_piece::Piece as ProgramPart;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

pub use leader::ClientSettings;
use leader::{Absence, Leader, Leaders};
use rows::Rows;

/// Bytes of a program that are sent at once.
pub const PROGRAM_PIECE_BYTES: usize = wire::PIECE_BYTES_MAX;

/// Pieces of a program that wait to be sent.
const PROGRAM_PARTS_MAX: usize = 4;

/// A way to the drivers of a cluster; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    leaders: Arc<Leaders>,
}

impl Client {
    /// Finds the driver that leads among those at `drivers`, which is a list as
    /// [`Drivers`](kiln_proto::address::Drivers) reads it.
    ///
    /// # Errors
    /// `Unavailable` if none does; `Invalid` if that is no list of URLs, or if a driver speaks
    /// another version of the protocol.
    pub async fn connect(drivers: &str) -> Result<Client> {
        Self::connect_with(ClientSettings::new(drivers.parse()?)).await
    }

    /// As [`Self::connect`], with settings of one's own.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub async fn connect_with(settings: ClientSettings) -> Result<Client> {
        let leaders = Arc::new(Leaders::find(settings).await?);
        Ok(Client { leaders })
    }

    async fn ask<T, A>(&self, question: impl Fn(JobsClient<Channel>) -> A) -> Result<T>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let mut absence = self.leaders.absence();
        let (answer, _) = self.leaders.ask(&mut absence, question).await?;
        Ok(answer)
    }

    /// Submits a job. The drivers make one job of a `key`, however often it is submitted, so this
    /// asks again when it does not hear the answer; draw a key at random for each new job.
    ///
    /// # Errors
    /// `Invalid` if the plan exceeds a limit; what the driver answers.
    pub async fn submit(&self, submission: &Submission) -> Result<JobId> {
        let Submission {
            name,
            key,
            plan,
            program,
            weight,
        } = submission;
        let request = wire::SubmitRequest {
            protocol: PROTOCOL_VERSION,
            name: name.clone(),
            key: *key,
            plan: Some(plan::encode(plan)?),
            program: program.as_ref().map(program::encode_offered),
            weight: Some(*weight),
        };
        let submit = |mut jobs: JobsClient<_>| {
            let request = request.clone();
            async move { jobs.submit(request).await }
        };
        task::decode_job_id(self.ask(submit).await?.job)
    }

    /// Puts a program into the cluster's storage, unless it is there already: `bytes` bytes that
    /// `pieces` brings, from their beginning every time that it is called.
    ///
    /// # Errors
    /// `Invalid` if the driver takes no programs, or the bytes are not what `sha256` says; what
    /// `pieces` and the driver answer.
    pub async fn stage_program(
        &self,
        sha256: Sha256,
        bytes: u64,
        pieces: impl Fn() -> BoxStream<'static, Result<Bytes>>,
    ) -> Result<()> {
        let digest = Bytes::copy_from_slice(&sha256.0);
        let mut absence = self.leaders.absence();
        loop {
            let find = |mut jobs: JobsClient<_>| {
                let question = wire::FindProgramRequest {
                    protocol: PROTOCOL_VERSION,
                    sha256: digest.clone(),
                };
                async move { jobs.find_program(question).await }
            };
            let (found, leader) = self.leaders.ask(&mut absence, find).await?;
            if found.staged {
                return Ok(());
            }
            let head = ProgramPart::Head(wire::ProgramHead {
                protocol: PROTOCOL_VERSION,
                sha256: digest.clone(),
                bytes,
            });
            let (parts, sent) = mpsc::channel(PROGRAM_PARTS_MAX);
            let mut jobs = leader.jobs.clone();
            let (brought, staged) = tokio::join!(
                bring_program(head, pieces(), parts),
                jobs.stage_program(ReceiverStream::new(sent))
            );
            // What could not be read is why the driver did not get it all.
            brought?;
            match staged {
                Ok(_) => return Ok(()),
                Err(status) => self.leaders.lost(&leader, &status, &mut absence).await?,
            }
        }
    }

    /// The job's status now and whenever it has changed, ending with the final one. A driver that
    /// is lost meanwhile is waited for; what happened in that time shows in the next status.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn watch(&self, id: JobId) -> Result<BoxStream<'static, Result<JobStatus>>> {
        let watching = Watching::open(Arc::clone(&self.leaders), id).await?;
        let statuses = stream::try_unfold(Some(watching), async |watching| {
            let Some(mut watching) = watching else {
                return Ok(None);
            };
            let status = watching.next().await?;
            let is_over = status.state.is_final();
            Ok::<_, Error>(Some((status, (!is_over).then_some(watching))))
        });
        Ok(statuses.boxed())
    }

    /// The job's status now.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn get(&self, id: JobId) -> Result<JobStatus> {
        let get = |mut jobs: JobsClient<_>| async move { jobs.get(request(id)).await };
        job::decode(self.ask(get).await?)
    }

    /// The status of every job that the driver knows.
    ///
    /// # Errors
    /// `Unavailable` if the drivers are gone.
    pub async fn list(&self) -> Result<Vec<JobStatus>> {
        let mut absence = self.leaders.absence();
        loop {
            let list = |mut jobs: JobsClient<_>| async move { jobs.list(everything()).await };
            let (statuses, leader) = self.leaders.ask(&mut absence, list).await?;
            match statuses.try_collect::<Vec<_>>().await {
                Ok(all) => return all.into_iter().map(job::decode).collect(),
                Err(status) => self.leaders.lost(&leader, &status, &mut absence).await?,
            }
        }
    }

    /// Asks for a job to stop.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn cancel(&self, id: JobId) -> Result<()> {
        let cancel = |mut jobs: JobsClient<_>| async move { jobs.cancel(request(id)).await };
        let wire::CancelReply {} = self.ask(cancel).await?;
        Ok(())
    }

    /// Every level of a plan as text, as the driver would run it now.
    ///
    /// # Errors
    /// What is wrong with the plan or its inputs.
    pub async fn explain(&self, plan: &LogicalPlan) -> Result<String> {
        let (protocol, plan) = (PROTOCOL_VERSION, Some(plan::encode(plan)?));
        let request = wire::ExplainRequest { protocol, plan };
        let explain = |mut jobs: JobsClient<_>| {
            let request = request.clone();
            async move { jobs.explain(request).await }
        };
        Ok(self.ask(explain).await?.text)
    }

    /// The executors that are attached.
    ///
    /// # Errors
    /// `Unavailable` if the drivers are gone.
    pub async fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        let executors = |mut jobs: JobsClient<_>| async move { jobs.executors(everything()).await };
        let reply = self.ask(executors).await?;
        reply
            .executors
            .into_iter()
            .map(job::decode_executor)
            .collect()
    }

    /// Waits for a job to end; then its columns, and its rows as they arrive.
    ///
    /// # Errors
    /// The job's failure; `Invalid` if it wrote files or its rows are not kept any more.
    pub async fn rows(
        &self,
        id: JobId,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
        let rows = Rows::open(Arc::clone(&self.leaders), id).await?;
        Ok((rows.schema(), rows.stream()))
    }

    /// All rows of a job: at least one batch, which is empty where there are no rows.
    ///
    /// # Errors
    /// As for [`Self::rows`]; `Exhausted` if there are more than [`limits::COLLECT_ROWS_MAX`].
    pub async fn result(&self, id: JobId) -> Result<Vec<RecordBatch>> {
        let (schema, mut rows) = self.rows(id).await?;
        let (mut batches, mut count) = (Vec::new(), 0);
        while let Some(batch) = rows.try_next().await? {
            count += batch.num_rows() as u64;
            if count > limits::COLLECT_ROWS_MAX {
                return Err(Error::exhausted(format!(
                    "the result has too many rows to collect, write files instead limit={}",
                    limits::COLLECT_ROWS_MAX
                )));
            }
            batches.push(batch);
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        Ok(batches)
    }
}

fn request(id: JobId) -> wire::JobRequest {
    wire::JobRequest {
        protocol: PROTOCOL_VERSION,
        job: id.value(),
    }
}

fn everything() -> wire::ListRequest {
    wire::ListRequest {
        protocol: PROTOCOL_VERSION,
    }
}

/// A job that is watched, over one driver after the other.
struct Watching {
    leaders: Arc<Leaders>,
    job: JobId,
    absence: Absence,
    statuses: Streaming<wire::JobStatus>,
    leader: Leader,
}

impl Watching {
    async fn open(leaders: Arc<Leaders>, job: JobId) -> Result<Self> {
        let mut absence = leaders.absence();
        let (statuses, leader) = watch(&leaders, job, &mut absence).await?;
        Ok(Watching {
            leaders,
            job,
            absence,
            statuses,
            leader,
        })
    }

    async fn next(&mut self) -> Result<JobStatus> {
        loop {
            let absence = &mut self.absence;
            match self.statuses.message().await {
                Ok(Some(status)) => {
                    absence.end();
                    return job::decode(status);
                }
                Err(status) => self.leaders.lost(&self.leader, &status, absence).await?,
                // The driver leaves, and the job is not over.
                Ok(None) => self.leaders.left(&self.leader, absence).await?,
            }
            (self.statuses, self.leader) = watch(&self.leaders, self.job, absence).await?;
        }
    }
}

async fn watch(
    leaders: &Leaders,
    id: JobId,
    absence: &mut Absence,
) -> Result<(Streaming<wire::JobStatus>, Leader)> {
    let watch = |mut jobs: JobsClient<_>| async move { jobs.watch(request(id)).await };
    leaders.ask(absence, watch).await
}

/// Sends a program, until the driver wants no more of it.
async fn bring_program(
    head: ProgramPart,
    mut pieces: BoxStream<'static, Result<Bytes>>,
    parts: mpsc::Sender<wire::ProgramPiece>,
) -> Result<()> {
    let mut next = Some(head);
    while let Some(piece) = next {
        let piece = wire::ProgramPiece { piece: Some(piece) };
        if parts.send(piece).await.is_err() {
            break;
        }
        next = pieces.next().await.transpose()?.map(ProgramPart::Data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kiln_engine::ErrorKind;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_driver_that_accepts_and_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let settings = ClientSettings {
            answer_wait: Duration::from_millis(50),
            ..ClientSettings::new(url.parse().expect("a URL"))
        };
        let silence = Client::connect_with(settings).await;
        let error = silence.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.report(),
            format!("cannot reach driver url={url}: no answer in 50ms")
        );
    }
}
