//! Who decides: planner, scheduler, event loop, service.
//!
//! The [`planner`] turns a plan into stages and the [`scheduler`] is a pure state machine; one
//! event loop owns the clock, the channels and the storage around them, [`commit`] puts output in
//! place, and [`DriverHandle`] is how everybody else talks to that loop.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod settings;

pub mod planner;

pub mod scheduler;

pub mod commit;

pub mod journal;

mod board;
mod programs;
mod work;

mod restored;

pub mod garbage;

mod ledger;

mod leader;

mod event_loop;

mod node;

pub mod handle;

pub mod service;

pub mod client;

#[cfg(test)]
mod simulation;

pub use handle::{Attachment, Driver, DriverHandle, JobResult};
pub use journal::JournalStore;
pub use settings::DriverSettings;
pub use work::Components;
