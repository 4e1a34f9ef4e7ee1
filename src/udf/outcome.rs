//! What functions may answer that have nothing to give back.

use std::error::Error as StdError;

use kiln_engine::{Error, ErrorKind, Result};

/// How a function ends that emits what it makes: with nothing, or with a `Result` of nothing whose
/// error may be of any type, text included.
pub trait Outcome {
    /// The same as an error of this crate, of the kind `Program` unless it says another itself.
    ///
    /// # Errors
    /// What the function answered.
    fn into_result(self) -> Result<()>;
}

impl Outcome for () {
    #[inline]
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> Outcome for Result<(), E> {
    #[inline]
    fn into_result(self) -> Result<()> {
        self.map_err(|error| of_program(error.into()))
    }
}

fn of_program(error: Box<dyn StdError + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(other) => {
            let message = other.to_string();
            let error = Error::new(ErrorKind::Program, message);
            match other.source() {
                Some(cause) => error.with_source(cause.to_string()),
                None => error,
            }
        }
    }
}
