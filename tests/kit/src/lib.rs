//! What tests put in the place of the world.
//!
//! [`FaultyStore`] stands between a test and any object store of this process, and does what its
//! rules say to the requests that they match. It is seeded, counts, and never looks at a clock
//! unless a rule asks for a delay, so a run can be repeated step by step. Every rule tells how
//! often it fired: a test of a fault that did not happen has tested nothing.
//!
//! [`s3::S3Server`] is a server that speaks S3's protocol and fails in its ways: a lost answer is
//! a connection that closes, and what a client makes of that is part of the test.
//!
//! [`proxy::Proxy`] is a network between two processes that can be cut, and [`process`] starts,
//! stops and ends processes.
//!
//! [`cargo`] knows where programs are that tests start.
//!
//! The kit knows no crate of Kiln, so that all of them can use it.

mod occasion;

pub mod cargo;

mod faulty;
pub mod process;
pub mod proxy;
pub mod s3;

pub use faulty::{Failure, Fault, FaultyStore, Fired, Op, Request, Rule};
