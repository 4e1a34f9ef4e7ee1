//! `kiln submit`: give a job to a cluster, print its id and leave.

mod program;

use std::io::{self, Write as _};

use kiln_proto::address::Drivers;

use super::args::{SubmitArgs, Submitted};
use super::exit::{Failure, Outcome};
use super::{connect, plan};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &SubmitArgs) -> Outcome {
    let job = match &args.job {
        Submitted::Job(_) if args.wait => {
            return Err(Failure::usage(
                "--wait is for programs: kiln run waits for the job",
            ));
        }
        Submitted::Job(job) => job,
        Submitted::Program(words) => return program::run(words, args),
    };
    let session = connect::cluster(driver(args.cluster.driver.as_ref())?)?;
    let session = connect::weighted(session, args.share.weight);
    let plan = plan::build(&session, job)?;
    let job = plan.frame.submit(plan.name).map_err(Failure::from_driver)?;
    writeln!(io::stdout(), "{}", job.id())?;
    Ok(())
}

/// The driver that was named.
fn driver(driver: Option<&Drivers>) -> Outcome<&Drivers> {
    driver.ok_or_else(|| {
        Failure::usage("no cluster to submit to: give --driver URL or set KILN_DRIVER")
    })
}
