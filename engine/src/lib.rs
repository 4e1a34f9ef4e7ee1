//! What is computed: types, expressions, plans, operators, sources, sinks, shuffle, memory.
//!
//! The engine sees the world only through an `ObjectStore`. It knows nothing of processes,
//! sockets or wall clocks: give it a [`plan::TaskSpec`] and a [`context::TaskContext`] and it turns
//! input bytes into a shuffle object or into output files.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod limits;

pub mod id;

pub mod error;
pub mod memory;
pub mod metrics;

mod cancel;

pub mod scratch;

pub mod kernel;

pub mod udf;

pub mod expr;
pub mod plan;

pub mod storage;

pub mod spill;

pub mod context;

pub mod operator;
pub mod source;

pub mod sink;

pub mod shuffle;

pub mod task;

#[cfg(test)]
mod testing;

pub use error::{Error, ErrorKind, Result};
