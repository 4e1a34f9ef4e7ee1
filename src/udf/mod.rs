//! Functions of users' programs, written with Rust types.

pub(crate) mod datum;
pub(crate) mod row;

pub(crate) mod outcome;

pub(crate) mod aggregate;
pub(crate) mod emitter;
pub(crate) mod scalar;
pub(crate) mod table;

pub(crate) mod parameters;
