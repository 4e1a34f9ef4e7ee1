//! The socket of a driver: requests are decoded, asked of the [`DriverHandle`], and the answers
//! encoded. Nothing is decided here.
//!
//! Streams end when the driver shuts down, so that closing does not wait for those who listen.

use std::future::{Future, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::convert::status::{error_from, status_from};
use kiln_proto::convert::{control, job, plan, program, schema, task};
use kiln_proto::message::{FromExecutor, PROTOCOL_VERSION, Registration, Submission, ToExecutor};
use kiln_proto::wire;
use kiln_proto::wire::program_piece::Piece as ProgramPart;
use kiln_proto::wire::result_message::Message as ResultPart;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::board::stopped;
use crate::handle::{Attachment, DriverHandle};

/// Messages for one executor that wait for its socket; the driver gives up an executor that has
/// more of them waiting.
const EXECUTOR_MESSAGES_MAX: usize = 64;

/// How long an executor may take to register after it has opened its stream.
const REGISTER_WAIT: Duration = Duration::from_secs(10);

/// How long requests that are under way may take to end when the driver shuts down.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Answers executors and clients on `listener` until `shutdown`.
///
/// # Errors
/// `Unavailable` if the listener breaks.
pub async fn serve(
    handle: DriverHandle,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let (close, closed) = watch::channel(false);
    let service = Service {
        handle,
        closed: closed.clone(),
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(wire::KEEPALIVE))
        .http2_keepalive_timeout(Some(wire::KEEPALIVE))
        .add_service(wire::control_server(service.clone()))
        .add_service(wire::jobs_server(service));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let stopped = async {
        shutdown.await;
        close.send_replace(true);
    };
    let too_long = async {
        is_set(closed).await;
        sleep(CLOSE_WAIT).await;
    };
    tokio::select! {
        served = server.serve_with_incoming_shutdown(incoming, stopped) => served.map_err(|error| {
            Error::unavailable("the driver's socket broke").with_source(error)
        }),
        () = too_long => Ok(()),
    }
}

/// Both services; cloned for every connection.
#[derive(Clone)]
struct Service {
    handle: DriverHandle,
    closed: watch::Receiver<bool>,
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = BoxStream<'static, Result<T, Status>>;

impl Service {
    /// A stream that ends with the driver, and says so: half a result is not a whole one.
    fn stream<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answer<Streamed<T>> {
        let closed = is_set(self.closed.clone());
        let cut_off = stream::once(closed).map(|()| Some(Err(status_from(&stopped()))));
        let whole = stream.map(Some).chain(stream::once(ready(None)));
        let stream = stream::select(whole, cut_off).scan((), |(), item| ready(item));
        Ok(Response::new(stream.boxed()))
    }
}

async fn is_set(mut flag: watch::Receiver<bool>) {
    // An error means that whoever could set it is gone: the same.
    let _ = flag.wait_for(|set| *set).await;
}

#[tonic::async_trait]
impl wire::control_server::Control for Service {
    type AttachStream = Streamed<wire::DriverMessage>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::ExecutorMessage>>,
    ) -> Answer<Self::AttachStream> {
        let mut messages = request.into_inner();
        let registration = registration(&mut messages)
            .await
            .map_err(|e| status_from(&e))?;
        let (to_executor, answers) = mpsc::channel(EXECUTOR_MESSAGES_MAX);
        match self.handle.attach(registration, to_executor).await {
            Ok(attachment) => {
                tokio::spawn(forward(messages, attachment, self.closed.clone()));
                self.stream(ReceiverStream::new(answers).map(encode))
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                let refused = ToExecutor::Refused {
                    message: error.report(),
                };
                self.stream(stream::once(ready(encode(refused))))
            }
            Err(error) => Err(status_from(&error)),
        }
    }
}

/// The first message of an executor.
async fn registration(messages: &mut Streaming<wire::ExecutorMessage>) -> Result<Registration> {
    let first = timeout(REGISTER_WAIT, messages.message()).await;
    let first = first.map_err(|_| Error::invalid("the executor does not register"))?;
    match first.map(|message| message.map(control::decode_from_executor)) {
        Ok(Some(message)) => match message? {
            FromExecutor::Register(registration) => Ok(registration),
            _ => Err(Error::invalid(
                "an executor's first message has to register it",
            )),
        },
        Ok(None) | Err(_) => Err(Error::unavailable("the executor is gone")),
    }
}

/// Brings an executor's messages to the driver until either ends, or a message makes no sense.
/// Dropping the attachment tells the driver.
async fn forward(
    messages: Streaming<wire::ExecutorMessage>,
    attachment: Attachment,
    closed: watch::Receiver<bool>,
) {
    let decoded = messages.map(|message| {
        let message = control::decode_from_executor(message.ok()?);
        message
            .inspect_err(|error| {
                tracing::error!(reason = error.report(), "an executor is given up");
            })
            .ok()
    });
    let decoded = decoded
        .take_while(|message| ready(message.is_some()))
        .filter_map(ready);
    tokio::select! {
        () = attachment.carry(decoded) => {}
        () = is_set(closed) => {}
    }
}

/// A message for an executor. One that cannot be sent is the driver's fault, not the executor's:
/// it loses its stream and comes back.
fn encode(message: ToExecutor) -> Result<wire::DriverMessage, Status> {
    control::encode_to_executor(message).map_err(|error| {
        tracing::error!(
            reason = error.report(),
            "a message for an executor cannot be sent"
        );
        let text = "a message for an executor cannot be sent";
        status_from(&Error::internal(text).with_source(error))
    })
}

#[tonic::async_trait]
impl wire::jobs_server::Jobs for Service {
    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Answer<wire::SubmitReply> {
        let wire::SubmitRequest {
            protocol,
            name,
            key,
            plan,
            program,
            weight,
        } = request.into_inner();
        answer(async {
            check_protocol(protocol)?;
            let submission = Submission {
                name,
                key,
                plan: decode_plan(plan)?,
                program: program.map(program::decode_offered).transpose()?,
                weight: weight.unwrap_or(1),
            };
            let id = self.handle.submit(submission).await?;
            Ok(wire::SubmitReply { job: id.value() })
        })
        .await
    }

    type WatchStream = Streamed<wire::JobStatus>;

    async fn watch(&self, request: Request<wire::JobRequest>) -> Answer<Self::WatchStream> {
        let id = job_id(&request.into_inner()).map_err(|error| status_from(&error))?;
        let statuses = self.handle.watch(id).map_err(|error| status_from(&error))?;
        // The driver drops its end when the job is over.
        self.stream(WatchStream::new(statuses).map(|status| Ok(job::encode(&status))))
    }

    async fn get(&self, request: Request<wire::JobRequest>) -> Answer<wire::JobStatus> {
        let request = request.into_inner();
        answer(async { Ok(job::encode(&*self.handle.get(job_id(&request)?)?)) }).await
    }

    type ListStream = Streamed<wire::JobStatus>;

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<Self::ListStream> {
        check_protocol(request.into_inner().protocol).map_err(|error| status_from(&error))?;
        let statuses = self.handle.list().map_err(|error| status_from(&error))?;
        let statuses = statuses.into_iter().map(|status| Ok(job::encode(&status)));
        self.stream(stream::iter(statuses))
    }

    async fn cancel(&self, request: Request<wire::JobRequest>) -> Answer<wire::CancelReply> {
        let request = request.into_inner();
        answer(async {
            self.handle.cancel(job_id(&request)?).await?;
            Ok(wire::CancelReply {})
        })
        .await
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Answer<wire::ExplainReply> {
        let wire::ExplainRequest { protocol, plan } = request.into_inner();
        answer(async {
            check_protocol(protocol)?;
            Ok(wire::ExplainReply {
                text: self.handle.explain(decode_plan(plan)?).await?,
            })
        })
        .await
    }

    type ResultStream = Streamed<wire::ResultMessage>;

    async fn result(&self, request: Request<wire::JobRequest>) -> Answer<Self::ResultStream> {
        let id = job_id(&request.into_inner()).map_err(|error| status_from(&error))?;
        let result = self
            .handle
            .result(id)
            .await
            .map_err(|error| status_from(&error))?;
        let schema = ResultPart::Schema(schema::encode(&result.schema));
        let pieces = result.chunks.map_ok(|chunk| {
            let pieces = pieces(chunk).into_iter().map(ResultPart::Piece);
            stream::iter(pieces.map(Ok))
        });
        let parts = stream::once(ready(Ok(schema))).chain(pieces.try_flatten());
        let messages = parts.map_ok(|part| wire::ResultMessage {
            message: Some(part),
        });
        self.stream(messages.map_err(|error| status_from(&error)))
    }

    async fn find_program(
        &self,
        request: Request<wire::FindProgramRequest>,
    ) -> Answer<wire::FindProgramReply> {
        let wire::FindProgramRequest { protocol, sha256 } = request.into_inner();
        answer(async {
            check_protocol(protocol)?;
            let sha256 = program::decode_sha256(&sha256)?;
            let staged = self.handle.has_program(sha256).await?;
            Ok(wire::FindProgramReply { staged })
        })
        .await
    }

    async fn stage_program(
        &self,
        request: Request<Streaming<wire::ProgramPiece>>,
    ) -> Answer<wire::StageProgramReply> {
        let pieces = request.into_inner();
        answer(async {
            stage_program(&self.handle, pieces).await?;
            Ok(wire::StageProgramReply {})
        })
        .await
    }

    async fn executors(&self, request: Request<wire::ListRequest>) -> Answer<wire::ExecutorsReply> {
        check_protocol(request.into_inner().protocol).map_err(|error| status_from(&error))?;
        let executors = self
            .handle
            .executors()
            .map_err(|error| status_from(&error))?;
        let executors = executors.into_iter().map(job::encode_executor).collect();
        Ok(Response::new(wire::ExecutorsReply { executors }))
    }
}

/// Puts a program into the storage as it comes in. One that breaks off leaves nothing.
async fn stage_program(
    handle: &DriverHandle,
    mut pieces: Streaming<wire::ProgramPiece>,
) -> Result<()> {
    let next = async |pieces: &mut Streaming<wire::ProgramPiece>| {
        let piece = pieces
            .message()
            .await
            .map_err(|status| error_from(&status))?;
        Ok::<_, Error>(piece.and_then(|piece| piece.piece))
    };
    let Some(ProgramPart::Head(head)) = next(&mut pieces).await? else {
        return Err(Error::invalid(
            "malformed message: a program without a head",
        ));
    };
    check_protocol(head.protocol)?;
    let sha256 = program::decode_sha256(&head.sha256)?;
    let mut staging = handle.stage_program(sha256, head.bytes).await?;
    loop {
        let pushed = match next(&mut pieces).await {
            Ok(Some(ProgramPart::Data(data))) => staging.push(data).await,
            Ok(Some(ProgramPart::Head(_))) => Err(Error::invalid(
                "malformed message: a program with two heads",
            )),
            Ok(None) => return staging.finish().await,
            Err(error) => Err(error),
        };
        if let Err(error) = pushed {
            staging.abort().await;
            return Err(error);
        }
    }
}

async fn answer<T>(work: impl Future<Output = Result<T>>) -> Answer<T> {
    work.await
        .map(Response::new)
        .map_err(|error| status_from(&error))
}

fn check_protocol(protocol: u32) -> Result<()> {
    if protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "client and driver speak different versions of the protocol, use the same version of kiln \
         client={protocol} driver={PROTOCOL_VERSION}"
    )))
}

fn job_id(request: &wire::JobRequest) -> Result<kiln_engine::id::JobId> {
    check_protocol(request.protocol)?;
    task::decode_job_id(request.job)
}

fn decode_plan(plan: Option<wire::Plan>) -> Result<kiln_engine::plan::LogicalPlan> {
    plan::decode(plan.ok_or_else(|| Error::invalid("malformed message: plan is missing"))?)
}

/// A run of blocks in pieces that fit into messages; blocks may be larger than one.
pub(crate) fn pieces(mut chunk: Bytes) -> Vec<wire::Piece> {
    let mut pieces = Vec::with_capacity(chunk.len() / wire::PIECE_BYTES_MAX + 1);
    loop {
        let data = chunk.split_to(chunk.len().min(wire::PIECE_BYTES_MAX));
        let last = chunk.is_empty();
        pieces.push(wire::Piece { data, last });
        if last {
            return pieces;
        }
    }
}
