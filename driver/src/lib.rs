//! Who decides: planner, scheduler, event loop, service

pub mod planner;

pub mod commit;
