//! Who decides: planner, scheduler, event loop, service
