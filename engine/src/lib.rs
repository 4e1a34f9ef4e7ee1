//! What is computed: types, expressions, plans, operators, sources, sinks, shuffle, memory.
//!
//! The engine sees the world only through an `ObjectStore`. It knows nothing of processes,
//! sockets or wall clocks: give it a [`plan::TaskSpec`] and a [`task::TaskContext`] and it turns
//! input bytes into a shuffle object or into output files.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod limits;

pub mod error;
pub mod id;
pub mod memory;
pub mod metrics;

pub mod kernel;

pub mod expr;
pub mod plan;

pub mod storage;

pub mod operator;
pub mod shuffle;
pub mod sink;
pub mod source;

pub mod task;

#[cfg(test)]
mod testing;

pub use error::{Error, ErrorKind, Result};
