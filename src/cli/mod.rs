//! The command line: one file per command, after what they share.

mod allocator;
mod units;

pub(crate) mod args;
pub(crate) mod exit;
mod interrupt;
pub(crate) mod logging;

mod connect;
mod plan;

mod status;

mod result;

mod progress;

mod follow;

pub(crate) mod explain;
pub(crate) mod run;
pub(crate) mod submit;

pub(crate) mod new;

pub(crate) mod head;
pub(crate) mod schema;
pub(crate) mod stats;

pub(crate) mod bench;
pub(crate) mod generate;

pub(crate) mod jobs;

pub(crate) mod cancel;
pub(crate) mod job;
pub(crate) mod wait;

pub(crate) mod driver;
pub(crate) mod executor;

pub(crate) mod cluster;

pub(crate) mod gc;
