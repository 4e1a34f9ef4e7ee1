//! How a command ends: its exit code, and the one line that says why.

use std::io::{self, Write};
use std::process::ExitCode;

use kiln::{Error, ErrorKind};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was typed cannot be meant: exit code 2.
    Usage(Error),
    /// The job, or what the command does itself, failed: exit code 1.
    Job(Error),
    /// The cluster cannot be reached: exit code 3.
    Unreachable(Error),
    /// Somebody pressed Ctrl-C: exit code 130.
    Interrupted,
    /// Nobody reads stdout any more, as in `kiln run … | head`: not an error.
    StdoutClosed,
}

/// What a command answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// What was typed cannot be meant.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(Error::invalid(message))
    }

    /// A request to a driver failed: it cannot be reached, or it refused.
    pub(crate) fn from_driver(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable => Failure::Unreachable(error),
            _ => Failure::Job(error),
        }
    }
}

impl From<io::Error> for Failure {
    /// Writing to stdout failed.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
            _ => Failure::Job(Error::unavailable("cannot write to stdout").with_source(error)),
        }
    }
}

/// Says on stderr why `outcome` is not a success, and returns its exit code.
pub(crate) fn code(outcome: Outcome) -> ExitCode {
    let (code, error) = match outcome {
        Ok(()) | Err(Failure::StdoutClosed) => (0, None),
        Err(Failure::Job(error)) => (1, Some(error)),
        Err(Failure::Usage(error)) => (2, Some(error)),
        Err(Failure::Unreachable(error)) => (3, Some(error)),
        Err(Failure::Interrupted) => (130, None),
    };
    if let Some(error) = error {
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "error: {}", plain(&error.report()));
    }
    ExitCode::from(code)
}

/// `text` with local files named by their paths.
pub(crate) fn plain(text: &str) -> String {
    text.replace("file:///", "/")
}
