//! How it is spelled on the wire: messages, generated code, conversion both ways.
//!
//! Driver, executors and clients speak in the plain Rust values of [`message`] and of
//! [`kiln_engine::plan`]. Only the files that own a socket turn them into the generated types of
//! [`wire`], with the functions of [`convert`]; nobody else sees a generated type. So an embedded
//! run, whose driver and executor share a process and speak over channels, encodes nothing.
//!
//! What arrives is not trusted: decoding checks every index, bound, enum value and id, never
//! recurses deeper than a limit, and answers malformed bytes with an error of kind `Invalid`.
//! What was encoded decodes to the same value.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod address;

pub mod message;

pub mod wire;

pub mod convert;
