//! Domain values to generated types and back, a file per family.
//!
//! `encode` takes what the process holds, `decode` what a stranger sent. The invariant that tests
//! hold: `decode(encode(x)) == x`, and `decode` of anything else is `Ok` or an error of kind
//! `Invalid`, never a panic and never a deep recursion.

use std::fmt;

use kiln_engine::{Error, Result};

mod enums;
pub mod schema;

pub mod program;
mod udf;

mod expr;
mod output;
pub mod plan;

mod shuffle;
mod stage;
pub mod task;

pub mod control;
pub mod job;
pub mod journal;
pub mod status;
pub mod worker;

/// The error of whoever sent something that no encoder makes.
fn malformed(what: impl fmt::Display) -> Error {
    Error::invalid(format!("malformed message: {what}"))
}

/// A field that every encoder sets.
fn need<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| malformed(format_args!("{name} is missing")))
}

/// A table index or a count that has to fit.
fn index(value: usize) -> Result<u32> {
    let too_many = |_| Error::invalid(format!("too large to be sent: {value} entries in a table"));
    u32::try_from(value).map_err(too_many)
}
