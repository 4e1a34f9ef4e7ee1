//! Programs of users, as the tasks that call their functions name them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A program whose functions the tasks of a job call, and what its processes are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What is run.
    pub binary: Binary,
    /// Bytes of memory that its functions may have in a process of it, beside what the engine
    /// reserves there for itself.
    pub memory: u64,
    /// How long a call of a function may go on without asking for rows or giving any, in
    /// milliseconds.
    pub call_ms: u64,
    /// The environment of its processes.
    pub environment: BTreeMap<String, String>,
}

/// What a program is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    /// The executor's own binary: functions that Kiln itself brings.
    Kiln,
    /// An object of the storage that driver and executors share, named by its content.
    Staged {
        /// The SHA-256 of its bytes.
        sha256: Sha256,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

/// As 64 hexadecimal digits.
impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("not a SHA-256 in 64 hexadecimal digits {text:?}"));
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Sha256(digest))
    }
}
