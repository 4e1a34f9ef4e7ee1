//! A driver from afar: its requests as methods, its errors as ours.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use kiln_engine::id::JobId;
use kiln_engine::plan::{LogicalPlan, Sha256};
use kiln_engine::shuffle::decode_blocks;
use kiln_engine::{Error, ErrorKind, Result, limits};
use kiln_proto::convert::status::error_from;
use kiln_proto::convert::{job, plan, program, schema, task};
use kiln_proto::message::{ExecutorStatus, JobStatus, PROTOCOL_VERSION, Submission};
use kiln_proto::wire;
use kiln_proto::wire::jobs_client::JobsClient;
use kiln_proto::wire::program_piece::Piece as ProgramPart;
use kiln_proto::wire::result_message::Message as ResultPart;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

/// How long a driver may take to accept a connection and to answer a first question.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How often a job is submitted, under the same key, when the answer does not come.
const SUBMITS_MAX: u32 = 3;

/// Pause between two of them.
const SUBMIT_PAUSE: Duration = Duration::from_millis(500);

/// Bytes of a program that are sent at once.
pub const PROGRAM_PIECE_BYTES: usize = wire::PIECE_BYTES_MAX;

/// Pieces of a program that wait to be sent.
const PROGRAM_PARTS_MAX: usize = 4;

/// A connection to a driver; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    jobs: JobsClient<Channel>,
}

impl Client {
    /// Connects to the driver at `url`, `http://host:port`, and makes sure that it answers.
    ///
    /// # Errors
    /// `Unavailable` if it does not; `Invalid` if that is no URL, or if the driver speaks another
    /// version of the protocol.
    pub async fn connect(url: &str) -> Result<Client> {
        Self::connect_within(url, CONNECT_WAIT).await
    }

    async fn connect_within(url: &str, wait: Duration) -> Result<Client> {
        let connected = timeout(wait, async {
            let channel = wire::connect(url, wait).await?;
            let client = Client {
                url: url.to_owned(),
                jobs: wire::jobs_client(channel),
            };
            client.executors().await?;
            Ok(client)
        });
        connected.await.unwrap_or_else(|_| {
            let silence = Error::unavailable(format!("no answer in {wait:?}"));
            Err(wire::unreachable_driver(url).with_source(silence))
        })
    }

    /// Submits a job. The driver makes one job of a `key`, however often it is submitted, so this
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
        } = submission;
        let request = wire::SubmitRequest {
            protocol: PROTOCOL_VERSION,
            name: name.clone(),
            key: *key,
            plan: Some(plan::encode(plan)?),
            program: program.as_ref().map(program::encode_offered),
        };
        for _ in 1..SUBMITS_MAX {
            match self.submit_once(request.clone()).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => sleep(SUBMIT_PAUSE).await,
                answer => return answer,
            }
        }
        self.submit_once(request).await
    }

    async fn submit_once(&self, request: wire::SubmitRequest) -> Result<JobId> {
        let reply = self.answer(self.jobs.clone().submit(request).await)?;
        task::decode_job_id(reply.job)
    }

    /// Puts a program into the cluster's storage, unless it is there already: `bytes` bytes that
    /// `pieces` brings.
    ///
    /// # Errors
    /// `Invalid` if the driver takes no programs, or the bytes are not what `sha256` says; what
    /// `pieces` and the driver answer.
    pub async fn stage_program(
        &self,
        sha256: Sha256,
        bytes: u64,
        pieces: BoxStream<'static, Result<Bytes>>,
    ) -> Result<()> {
        let digest = Bytes::copy_from_slice(&sha256.0);
        let question = wire::FindProgramRequest {
            protocol: PROTOCOL_VERSION,
            sha256: digest.clone(),
        };
        let found = self.jobs.clone().find_program(question).await;
        if self.answer(found)?.staged {
            return Ok(());
        }
        let head = ProgramPart::Head(wire::ProgramHead {
            protocol: PROTOCOL_VERSION,
            sha256: digest,
            bytes,
        });
        let (parts, sent) = mpsc::channel(PROGRAM_PARTS_MAX);
        let mut jobs = self.jobs.clone();
        let (brought, staged) = tokio::join!(
            bring_program(head, pieces, parts),
            jobs.stage_program(ReceiverStream::new(sent))
        );
        // What could not be read is why the driver did not get it all.
        brought?;
        self.answer(staged).map(drop)
    }

    /// The job's status now and whenever it has changed, ending with the final one.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn watch(&self, id: JobId) -> Result<BoxStream<'static, Result<JobStatus>>> {
        let statuses = self.answer(self.jobs.clone().watch(request(id)).await)?;
        Ok(self
            .stream(statuses)
            .and_then(async |status| job::decode(status))
            .boxed())
    }

    /// The job's status now.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn get(&self, id: JobId) -> Result<JobStatus> {
        job::decode(self.answer(self.jobs.clone().get(request(id)).await)?)
    }

    /// The status of every job that the driver knows.
    ///
    /// # Errors
    /// `Unavailable` if the driver is gone.
    pub async fn list(&self) -> Result<Vec<JobStatus>> {
        let list = wire::ListRequest {
            protocol: PROTOCOL_VERSION,
        };
        let statuses = self.answer(self.jobs.clone().list(list).await)?;
        self.stream(statuses)
            .and_then(async |status| job::decode(status))
            .try_collect()
            .await
    }

    /// Asks for a job to stop.
    ///
    /// # Errors
    /// `Invalid` if there is no such job.
    pub async fn cancel(&self, id: JobId) -> Result<()> {
        let reply = self.answer(self.jobs.clone().cancel(request(id)).await)?;
        let wire::CancelReply {} = reply;
        Ok(())
    }

    /// Every level of a plan as text, as the driver would run it now.
    ///
    /// # Errors
    /// What is wrong with the plan or its inputs.
    pub async fn explain(&self, plan: &LogicalPlan) -> Result<String> {
        let (protocol, plan) = (PROTOCOL_VERSION, Some(plan::encode(plan)?));
        let request = wire::ExplainRequest { protocol, plan };
        Ok(self.answer(self.jobs.clone().explain(request).await)?.text)
    }

    /// The executors that are attached.
    ///
    /// # Errors
    /// `Unavailable` if the driver is gone.
    pub async fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        let request = wire::ListRequest {
            protocol: PROTOCOL_VERSION,
        };
        let reply = self.answer(self.jobs.clone().executors(request).await)?;
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
        let messages = self.answer(self.jobs.clone().result(request(id)).await)?;
        let mut messages = self.stream(messages);
        let first = messages
            .next()
            .await
            .transpose()?
            .and_then(|first| first.message);
        let Some(ResultPart::Schema(bytes)) = first else {
            return Err(malformed("does not begin with a schema"));
        };
        let schema = schema::decode(&bytes)?;
        let columns = SchemaRef::clone(&schema);
        let mut assembly = Assembly::default();
        let batches = messages.map(move |message| match message?.message {
            Some(ResultPart::Piece(piece)) => match assembly.push(piece) {
                Some(blocks) => decode(blocks, &columns),
                None => Ok(Vec::new()),
            },
            Some(ResultPart::Schema(_)) | None => Err(malformed("has a part that is no piece")),
        });
        let batches = batches.map_ok(|batches| stream::iter(batches.into_iter().map(Ok)));
        Ok((schema, batches.try_flatten().boxed()))
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

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(failed(&self.url, &status)),
        }
    }

    fn stream<T: Send + 'static>(&self, stream: Streaming<T>) -> BoxStream<'static, Result<T>> {
        let url = self.url.clone();
        stream.map_err(move |status| failed(&url, &status)).boxed()
    }
}

fn request(id: JobId) -> wire::JobRequest {
    wire::JobRequest {
        protocol: PROTOCOL_VERSION,
        job: id.value(),
    }
}

/// The driver's own error, or that it could not be reached.
fn failed(url: &str, status: &Status) -> Error {
    let error = error_from(status);
    let from_driver = !status.details().is_empty();
    if from_driver || error.kind() != ErrorKind::Unavailable {
        return error;
    }
    wire::unreachable_driver(url).with_source(error)
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed message: a result {what}"))
}

fn decode(blocks: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    decode_blocks(blocks, Some(schema), &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok(batches)
}

/// Puts the pieces of a run of blocks together again.
#[derive(Default)]
struct Assembly(BytesMut);

impl Assembly {
    /// The run of blocks, when its last piece has arrived. A run of one piece is not copied.
    fn push(&mut self, piece: wire::Piece) -> Option<Bytes> {
        if piece.last && self.0.is_empty() {
            return Some(piece.data);
        }
        self.0.extend_from_slice(&piece.data);
        piece.last.then(|| self.0.split().freeze())
    }
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::service::pieces;

    #[tokio::test]
    async fn a_driver_that_accepts_and_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let silence = Client::connect_within(&url, Duration::from_millis(50)).await;
        let error = silence.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.report(),
            format!("cannot reach driver url={url}: no answer in 50ms")
        );
    }

    #[test]
    fn pieces_fit_into_messages_and_are_put_together_again() {
        let most = wire::PIECE_BYTES_MAX;
        let mut assembly = Assembly::default();
        for (len, count) in [
            (0, 1),
            (1, 1),
            (most, 1),
            (most + 1, 2),
            (2 * most, 2),
            (9, 1),
        ] {
            let chunk: Bytes = (0..len).map(|i| (i % 251) as u8).collect();
            let pieces = pieces(chunk.clone());
            assert_eq!(pieces.len(), count, "len={len}");
            assert!(pieces.iter().all(|piece| piece.data.len() <= most));
            let runs: Vec<_> = pieces
                .into_iter()
                .filter_map(|p| assembly.push(p))
                .collect();
            assert!(runs == [chunk], "len={len}");
        }
    }
}
