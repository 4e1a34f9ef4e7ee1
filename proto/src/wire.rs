//! The generated types and stubs, and the one way to make a stub.
//!
//! The cap on message sizes is a property of a stub, not of a connection, and forgetting it leaves
//! 4 MiB on one side and none on the other; so stubs are made here and nowhere else.

use tonic::transport::Channel;

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
