//! `kiln run`: run a job and wait for its result, in this process or on a cluster.

use super::args::RunArgs;
use super::exit::{Failure, Outcome};
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::{connect, plan, result};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &RunArgs) -> Outcome {
    let session = connect::session(args.cluster.driver.as_ref(), args.resources)?;
    let session = connect::weighted(session, args.share.weight);
    let plan = plan::build(&session, &args.job)?;
    let interrupt = Interrupt::listen()?;
    let job = plan.frame.submit(plan.name).map_err(Failure::from_driver)?;
    let status = follow(&job, &interrupt, OnInterrupt::CancelJob)?;
    result::print(&job, &status, args.json)
}
