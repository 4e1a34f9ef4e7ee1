//! What a store answered becomes one of our kinds.
//!
//! The store's own error says little about what to do next; the `io::Error` or the status behind
//! it does. This is the only place that looks. Where a server denies something, only its code is
//! repeated: the rest may name who asked.

use std::error::Error as StdError;
use std::io;

use crate::error::{Error, ErrorKind};

/// The error for `what` (a verb phrase, "read", "list", "write") that failed at `url`.
///
/// Kinds: what is missing, forbidden or unsupported is `Invalid`; a full disk or quota is
/// `Exhausted`; everything that may pass, from a timeout to a failing device, is `Unavailable`.
pub fn storage_error(what: &str, url: &str, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    let (kind, reason) = match &error {
        Store::NotFound { .. } => (ErrorKind::Invalid, missing(&error)),
        Store::PermissionDenied { .. } => (ErrorKind::Invalid, DENIED),
        Store::Unauthenticated { .. } => (ErrorKind::Invalid, UNKNOWN),
        Store::AlreadyExists { .. } => (ErrorKind::Invalid, "already exists"),
        Store::Precondition { .. } | Store::NotModified { .. } => {
            (ErrorKind::Invalid, "changed by somebody else")
        }
        Store::InvalidPath { .. } => (ErrorKind::Invalid, "not a valid name"),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            (ErrorKind::Invalid, "not supported by this store")
        }
        Store::UnknownConfigurationKey { .. } => (ErrorKind::Invalid, "unknown setting"),
        Store::JoinError { source } if source.is_cancelled() => {
            (ErrorKind::Cancelled, "the process is shutting down")
        }
        Store::JoinError { .. } => (ErrorKind::Internal, "a storage call panicked"),
        other => classify_chain(other),
    };
    let mut message = format!("cannot {what} {url}: {reason}");
    if kind == ErrorKind::Invalid {
        let text = error.to_string();
        if let Some(code) = code(&text).filter(|_| [DENIED, UNKNOWN, REFUSED].contains(&reason)) {
            message.push_str(&format!(" code={code}"));
        }
        if reason == NO_BUCKET {
            let bucket = bucket(url).unwrap_or("unknown");
            message.push_str(&format!(" bucket={bucket}"));
        }
        // These say it all; what the store adds is its own name for the same file.
        if reason != REFUSED && !matches!(error, Store::InvalidPath { .. }) {
            return Error::new(kind, message);
        }
    }
    Error::new(kind, message).with_source(error)
}

/// The same for a plain file of this machine.
pub(crate) fn file_error(what: &str, url: &str, error: io::Error) -> Error {
    let (kind, reason) = classify_io(&error);
    let message = format!("cannot {what} {url}: {reason}");
    match kind {
        ErrorKind::Invalid => Error::new(kind, message),
        _ => Error::new(kind, message).with_source(error),
    }
}

const REFUSED: &str = "the request was refused";
const DENIED: &str = "permission denied";
const UNKNOWN: &str = "not authenticated";
const NO_BUCKET: &str = "no such bucket or container";
const MISSING: &str = "no such file or directory";
const NO_CREDENTIALS: &str = "no credentials are set, nor has this machine any";

/// What stores call a bucket that is not there.
const NO_BUCKET_CODES: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "FilesystemNotFound"];

/// Where machines of a cloud are asked for their credentials: whoever gets there on another
/// machine has set none.
const MACHINE_CREDENTIALS: [&str; 4] = [
    "/latest/api/token",
    "/latest/meta-data/",
    "/metadata/identity/",
    "/computeMetadata/",
];

fn classify_chain(error: &object_store::Error) -> (ErrorKind, &'static str) {
    // Neither the status nor the request is public, only their text is.
    let text = error.to_string();
    let status = |code: &str| text.contains(&format!("non-2xx status code: {code}"));
    let is_busy = status("5") || status("429");
    if !is_busy && MACHINE_CREDENTIALS.iter().any(|path| text.contains(path)) {
        return (ErrorKind::Invalid, NO_CREDENTIALS);
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return classify_io(error);
        }
        cause = error.source();
    }
    // A request that took too long (408) or came too soon (429) may be made again; a conflict
    // (409) is one with others who are at it now.
    let may_pass = ["408", "409", "429"].into_iter().any(status);
    if status("404") {
        return (ErrorKind::Invalid, missing(error));
    }
    if status("401") || status("403") {
        return (ErrorKind::Invalid, DENIED);
    }
    if status("4") && !may_pass || text.contains("without LOCATION") {
        return (ErrorKind::Invalid, REFUSED);
    }
    (
        ErrorKind::Unavailable,
        "storage did not answer as it should",
    )
}

/// What is missing.
fn missing(error: &object_store::Error) -> &'static str {
    let text = error.to_string();
    match NO_BUCKET_CODES.iter().any(|code| text.contains(code)) {
        true => NO_BUCKET,
        false => MISSING,
    }
}

/// The code in a store's answer: one word between two tags.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_word = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then_some(code)
}

/// The bucket of a URL.
fn bucket(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '@']).next()
}

fn classify_io(error: &io::Error) -> (ErrorKind, &'static str) {
    /// Too many open files: in the system, in the process.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Invalid, "no such file or directory"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Invalid, "permission denied"),
        io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Invalid, "read-only file system"),
        io::ErrorKind::AlreadyExists => (ErrorKind::Invalid, "already exists"),
        io::ErrorKind::IsADirectory => (ErrorKind::Invalid, "is a directory"),
        io::ErrorKind::NotADirectory => (ErrorKind::Invalid, "not a directory"),
        io::ErrorKind::InvalidFilename => (ErrorKind::Invalid, "not a valid name"),
        io::ErrorKind::InvalidInput => (ErrorKind::Invalid, "not a valid name"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, "no space left on device")
        }
        io::ErrorKind::FileTooLarge => (ErrorKind::Exhausted, "the file would be too large"),
        io::ErrorKind::OutOfMemory => (ErrorKind::Exhausted, "out of memory"),
        io::ErrorKind::TimedOut => (ErrorKind::Unavailable, "timed out"),
        io::ErrorKind::ConnectionRefused => (ErrorKind::Unavailable, "nobody listens there"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            (ErrorKind::Unavailable, "the connection broke")
        }
        io::ErrorKind::UnexpectedEof => (ErrorKind::Unavailable, "the answer is too short"),
        _ => match error.raw_os_error() {
            Some(ENFILE | EMFILE) => (ErrorKind::Exhausted, "too many open files"),
            _ => (ErrorKind::Unavailable, "input/output error"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(error: io::Error) -> object_store::Error {
        object_store::Error::Generic {
            store: "test",
            source: Box::new(error),
        }
    }

    #[test]
    fn the_cause_decides_the_kind_and_the_place_is_named() {
        let os = io::Error::from_raw_os_error;
        let missing = object_store::Error::NotFound {
            path: "x".into(),
            source: "gone".into(),
        };
        let status = |code: u32| object_store::Error::Generic {
            store: "S3",
            source: format!("Server returned non-2xx status code: {code} Oh: \nbody").into(),
        };
        let cases = [
            (missing, ErrorKind::Invalid, "no such file or directory"),
            (
                generic(os(2)),
                ErrorKind::Invalid,
                "no such file or directory",
            ),
            (generic(os(13)), ErrorKind::Invalid, "permission denied"),
            (
                generic(os(28)),
                ErrorKind::Exhausted,
                "no space left on device",
            ),
            (
                generic(os(122)),
                ErrorKind::Exhausted,
                "no space left on device",
            ),
            (generic(os(24)), ErrorKind::Exhausted, "too many open files"),
            (generic(os(5)), ErrorKind::Unavailable, "input/output error"),
            (generic(os(110)), ErrorKind::Unavailable, "timed out"),
            (
                status(503),
                ErrorKind::Unavailable,
                "storage did not answer",
            ),
            (
                status(429),
                ErrorKind::Unavailable,
                "storage did not answer",
            ),
            (status(400), ErrorKind::Invalid, "the request was refused"),
            (
                status(409),
                ErrorKind::Unavailable,
                "storage did not answer",
            ),
            (status(403), ErrorKind::Invalid, "permission denied"),
            (status(404), ErrorKind::Invalid, "no such file or directory"),
            (
                generic(os(104)),
                ErrorKind::Unavailable,
                "the connection broke",
            ),
            (
                generic(os(111)),
                ErrorKind::Unavailable,
                "nobody listens there",
            ),
        ];
        for (cause, kind, reason) in cases {
            let error = storage_error("read", "file:///x/y", cause);
            assert_eq!(error.kind(), kind, "{}", error.report());
            let start = format!("cannot read file:///x/y: {reason}");
            assert!(error.report().starts_with(&start), "{}", error.report());
            assert!(!error.report().contains('\n'));
        }
    }

    #[test]
    fn of_what_a_server_said_only_the_code_is_repeated() {
        let said = |code: &str| {
            let body = format!("<Error><Code>{code}</Code><Secret>hush</Secret></Error>");
            let text = format!("Server returned non-2xx status code: 4xx: {body}");
            (String::from("b/x"), text.into())
        };
        let (path, source) = said("InvalidAccessKeyId");
        let denied = object_store::Error::PermissionDenied { path, source };
        let (path, source) = said("NoSuchBucket");
        let bucket = object_store::Error::NotFound { path, source };
        let request = "Error performing PUT http://169.254.169.254/latest/api/token in 1s";
        let machine = object_store::Error::Generic {
            store: "S3",
            source: request.into(),
        };
        for (error, told) in [
            (
                denied,
                "cannot read s3://b/x: permission denied code=InvalidAccessKeyId",
            ),
            (
                bucket,
                "cannot read s3://b/x: no such bucket or container bucket=b",
            ),
            (
                machine,
                "cannot read s3://b/x: no credentials are set, nor has this machine any",
            ),
        ] {
            let error = storage_error("read", "s3://b/x", error);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(error.report(), told);
        }
    }
}
