//! Errors as gRPC statuses.
//!
//! The status code is for strangers (proxies, dashboards); the error itself travels in the details
//! as a `TaskFailure`, so its kind arrives exactly as it left. A status without such details was
//! made by the transport, not by a driver, and its code is translated.

use kiln_engine::plan::TaskFailure;
use kiln_engine::{Error, ErrorKind};
use prost::Message;
use tonic::{Code, Status};

use crate::convert::task::{decode_failure, encode_failure};
use crate::wire;

/// Most bytes of an error's message in a status. Statuses travel in HTTP/2 headers, twice over
/// and escaped, of which peers accept 16 KiB.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Bytes of it in the status's own message, where each may take three.
const SUMMARY_BYTES_MAX: usize = 256;

/// An error as a status.
pub fn status_from(error: &Error) -> Status {
    let mut failure = TaskFailure::from(error);
    shorten(&mut failure.message, MESSAGE_BYTES_MAX);
    let details = encode_failure(&failure).encode_to_vec();
    let code = match failure.kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Program => Code::Aborted,
    };
    shorten(&mut failure.message, SUMMARY_BYTES_MAX);
    Status::with_details(code, failure.message, details.into())
}

/// The error of a status.
pub fn error_from(status: &Status) -> Error {
    let failure = (!status.details().is_empty())
        .then(|| wire::TaskFailure::decode(status.details()).ok())
        .flatten()
        .and_then(|failure| decode_failure(failure).ok());
    if let Some(failure) = failure {
        return Error::from(failure);
    }
    let kind = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented => ErrorKind::Invalid,
        Code::DataLoss => ErrorKind::Corrupt,
        // A message over the size cap is out of range.
        Code::ResourceExhausted | Code::OutOfRange => ErrorKind::Exhausted,
        // A connection that breaks surfaces as any of the others, depending on when it does.
        _ => ErrorKind::Unavailable,
    };
    let text = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    Error::new(kind, format!("the connection failed: {text}"))
}

/// Cuts `text` to at most `bytes_max` bytes, at a character.
fn shorten(text: &mut String, bytes_max: usize) {
    let mark = '…';
    if text.len() <= bytes_max {
        return;
    }
    let mut end = bytes_max - mark.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push(mark);
}
