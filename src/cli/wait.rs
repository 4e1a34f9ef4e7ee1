//! `kiln wait`: wait for a job of a cluster and print its result, as `kiln run` would.

use super::args::JobIdArgs;
use super::exit::Outcome;
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::{connect, result};

/// Runs the command.
///
/// # Errors
/// See [`super::exit::Failure`].
pub(crate) fn run(args: &JobIdArgs) -> Outcome {
    let job = connect::cluster(&args.cluster.driver)?.job(args.id);
    let interrupt = Interrupt::listen()?;
    let status = follow(&job, &interrupt, OnInterrupt::LeaveJob)?;
    result::print(&job, &status, args.json)
}
