//! Who decides: planner, scheduler, event loop, service.
//!
//! The [`scheduler`] is a pure state machine; one event loop owns the clock, the channels and the
//! storage around it, and [`DriverHandle`] is how everybody else talks to that loop.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod settings;

pub mod scheduler;

pub mod commit;
pub mod planner;

mod board;
mod work;

mod event_loop;

pub mod handle;

pub use handle::{Attachment, Driver, DriverHandle, JobResult};
pub use settings::DriverSettings;
pub use work::Components;
