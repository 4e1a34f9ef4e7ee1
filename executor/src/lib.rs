//! Who works: session with the driver, task pool.
//!
//! # The life of a task
//!
//! 1. The driver decides and sends `Launch`. Where driver and executor are processes of their own,
//!    [`session`] reads it from the socket and decodes it; where they share one, it comes out of a
//!    channel. Either way it arrives over a [`Link`], and from here on there is no difference.
//! 2. [`worker`] looks at the launch: is its driver the newest one heard of? Is this attempt here
//!    already? If both are well it goes to the [`pool`].
//! 3. The pool gives the attempt a slot, counters and a token by which it can be cancelled, and
//!    runs it: `kiln_engine::task::run` reads, computes on rayon threads and writes to storage. A
//!    panic on the way becomes a failure of this one attempt. A task that calls functions of a
//!    user's program goes to `programs` instead: the program is fetched from storage, a
//!    [process](worker_process) of it is started or one of the same job is used again, and the same
//!    `kiln_engine::task::run` runs there, watched over from here. Whatever becomes of that process
//!    is a failure of this one attempt too.
//! 4. The outcome, good or bad, goes into the [`outbox`] under the next sequence number, and stays
//!    there until the driver has acknowledged it. The driver may be restarted meanwhile and the
//!    connection may break: the attempt is not thrown away for that, the report is repeated.
//!
//! An executor keeps nothing that others need: what a task wrote is in storage, and who wins is
//! the driver's decision. So an executor may die at any moment, and one that is told to leave
//! ([`run`]'s `shutdown`, or the driver's `Drain`) finishes its attempts, sees their reports
//! acknowledged and goes.
//!
//! Modules are listed in reading order, and each imports only from those above it.

pub mod settings;

mod board;
mod frame;

pub mod worker_process;

mod programs;

mod outbox;
mod pool;

mod worker;

mod session;

pub use session::serve;
pub use settings::{ExecutorSettings, ProgramSettings};
pub use worker::{Components, Exit, Link, Runner, run};
