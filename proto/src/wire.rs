//! The generated types and stubs, and the one way to make a stub.
//!
//! The cap on message sizes is a property of a stub, not of a connection, and forgetting it leaves
//! 4 MiB on one side and none on the other; so stubs are made here and nowhere else.

use std::time::Duration;

use kiln_engine::{Error, Result};
use tonic::transport::{Channel, Endpoint};

pub use generated::*;

use control_client::ControlClient;
use control_server::{Control, ControlServer};
use jobs_client::JobsClient;
use jobs_server::{Jobs, JobsServer};

/// Most bytes of one encoded message, in either direction. A plan or a task with its locations
/// takes kilobytes, the status of a job with a hundred thousand attempts about 10 MiB.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Most bytes of a result that travel in one message: far below the cap, and small enough for
/// flow control to hold back a server whose client is slow.
pub const PIECE_BYTES_MAX: usize = 4 << 20;

/// How long a driver lets a connection be silent before it probes it, and how long the answer may
/// take. A peer that vanished without a word is noticed after both.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long a client or an executor lets its driver be silent before it probes it. Somebody else
/// may lead by now: whoever stays with a driver that stands still loses that time.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long the answer to such a probe may take: long enough for a driver that is busy.
pub const PROBE_WAIT: Duration = Duration::from_secs(3);

/// A connection to the driver at `url`, which is one of [`Drivers`](crate::address::Drivers).
///
/// # Errors
/// `Invalid` if that is no URL, `Unavailable` if nobody accepts the connection within `patience`.
pub async fn connect(url: &str, patience: Duration) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Error::invalid(format!("not a driver's URL: {url:?}")).with_source(error))?
        .connect_timeout(patience)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PROBE_EVERY)
        .keep_alive_timeout(PROBE_WAIT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await;
    channel.map_err(|error| unreachable_driver(url).with_source(error))
}

/// The error of everybody who cannot reach a driver; the reason is its source.
pub fn unreachable_driver(url: &str) -> Error {
    Error::unavailable(format!("cannot reach driver url={url}"))
}

/// The executor's side of the stream.
pub fn control_client(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The driver's side of the executors' streams.
pub fn control_server<T: Control>(service: T) -> ControlServer<T> {
    ControlServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A client of a driver.
pub fn jobs_client(channel: Channel) -> JobsClient<Channel> {
    JobsClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// What a driver answers to clients.
pub fn jobs_server<T: Jobs>(service: T) -> JobsServer<T> {
    JobsServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

mod generated {
    #![expect(clippy::allow_attributes, reason = "generated code")]
    #![expect(missing_docs, unused_qualifications, reason = "generated code")]
    tonic::include_proto!("kiln.v1");
}
