//! One error type with seven kinds; the kind says what the caller should do.
//!
//! A kind survives every hop, from the rayon lane that met the fault to the user's exit code:
//! nothing on the way flattens an error to a string.

use std::error::Error as StdError;
use std::fmt;

use crate::id::{NotAJobId, StageId, TaskId};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong, and so what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request or the input is wrong; trying again gives the same. Fail now.
    Invalid,
    /// Something could not be reached for the moment. Try again.
    Unavailable,
    /// Bytes are not what was written. Run the producer again.
    Corrupt,
    /// Memory, disk or another bounded resource ran out. Try again elsewhere or smaller.
    Exhausted,
    /// Somebody asked for this to stop. Not a failure.
    Cancelled,
    /// A defect in Kiln. Try again, and report it.
    Internal,
    /// A function of a user's program went wrong. Try again; if it does so every time it is the
    /// program, or its input.
    Program,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Internal => "internal",
            ErrorKind::Program => "program",
        })
    }
}

/// The shuffle object that a reader could not use: whose producer has to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostOutput {
    /// Stage that wrote the object.
    pub stage: StageId,
    /// Task within that stage.
    pub task: u32,
    /// Attempt that wrote it.
    pub attempt: u32,
}

/// An error: a kind, a message for people, and where known the cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    lost: Option<LostOutput>,
}

impl Error {
    /// An error of `kind`; `message` is lower case, with values last as `key=value`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
            lost: None,
        }))
    }

    /// The request or the input is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Something could not be reached for the moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unavailable, message)
    }

    /// Bytes are not what was written.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// A bounded resource ran out.
    pub fn exhausted(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Exhausted, message)
    }

    /// Somebody asked for this to stop.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Cancelled, message)
    }

    /// A defect in Kiln.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// Keeps `source` as the cause; it is printed after the message.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the shuffle object whose producer has to run again.
    #[must_use]
    pub fn with_lost(mut self, lost: LostOutput) -> Self {
        self.0.lost = Some(lost);
        self
    }

    /// Puts `context` in front of the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message, without the cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The shuffle object that was missing or damaged, if that was it.
    pub fn lost(&self) -> Option<LostOutput> {
        self.0.lost
    }

    /// The message and every cause behind it, on one line.
    pub fn report(&self) -> String {
        let mut line = self.0.message.clone();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !text.is_empty() && !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = cause.source();
        }
        line.replace(['\n', '\r'], " ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl From<NotAJobId> for Error {
    fn from(text: NotAJobId) -> Self {
        Error::invalid(text.to_string())
    }
}

/// An arrow kernel refused: overflow, division by zero and bad casts are the input's fault,
/// anything else is ours.
impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        use arrow::error::ArrowError;
        match error {
            ArrowError::ExternalError(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => Error::internal("arrow kernel failed").with_source(other),
            },
            ArrowError::DivideByZero => Error::invalid("division by zero"),
            ArrowError::ArithmeticOverflow(what) => {
                Error::invalid(format!("arithmetic overflow: {what}"))
            }
            ArrowError::ComputeError(what)
            | ArrowError::CastError(what)
            | ArrowError::ParseError(what) => Error::invalid(what),
            ArrowError::MemoryError(what) => Error::exhausted(what),
            other => Error::internal("arrow kernel failed").with_source(other),
        }
    }
}

impl fmt::Display for LostOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/t{}-a{}", self.stage, self.task, self.attempt)
    }
}

/// Adds the task's name to an error on its way to the driver.
pub fn in_task(task: TaskId, attempt: u32) -> impl FnOnce(Error) -> Error {
    move |error| error.context(format_args!("task {task} attempt {attempt}"))
}
