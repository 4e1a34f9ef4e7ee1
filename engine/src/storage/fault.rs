//! What a store answered becomes one of our kinds.
//!
//! The store's own error says little about what to do next; the `io::Error` or the status behind
//! it does. This is the only place that looks.

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
        Store::NotFound { .. } => (ErrorKind::Invalid, "no such file or directory"),
        Store::PermissionDenied { .. } => (ErrorKind::Invalid, "permission denied"),
        Store::Unauthenticated { .. } => (ErrorKind::Invalid, "not authenticated"),
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
    let message = format!("cannot {what} {url}: {reason}");
    // These say it all; what the store adds is its own name for the same file.
    match kind {
        ErrorKind::Invalid if !matches!(error, Store::InvalidPath { .. }) => {
            let told = Error::new(kind, message);
            if reason == REFUSED {
                told.with_source(error)
            } else {
                told
            }
        }
        _ => Error::new(kind, message).with_source(error),
    }
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

fn classify_chain(error: &object_store::Error) -> (ErrorKind, &'static str) {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return classify_io(error);
        }
        cause = error.source();
    }
    // The status is not public, only its text is.
    let text = error.to_string();
    let status = |code: &str| text.contains(&format!("non-2xx status code: {code}"));
    // A request that took too long (408) or came too soon (429) may be made again.
    let may_pass = status("408") || status("429");
    if status("4") && !may_pass || text.contains("without LOCATION") {
        return (ErrorKind::Invalid, REFUSED);
    }
    (
        ErrorKind::Unavailable,
        "storage did not answer as it should",
    )
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
        ];
        for (cause, kind, reason) in cases {
            let error = storage_error("read", "file:///x/y", cause);
            assert_eq!(error.kind(), kind, "{}", error.report());
            let start = format!("cannot read file:///x/y: {reason}");
            assert!(error.report().starts_with(&start), "{}", error.report());
            assert!(!error.report().contains('\n'));
        }
    }
}
