//! `kiln submit`: give a job to a cluster, print its id and leave.

mod program;

use std::io::{self, Write as _};

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
        Submitted::Program(words) => return program::run(words, args.driver.as_deref(), args.wait),
    };
    let session = connect::cluster(driver(args.driver.as_deref())?)?;
    let plan = plan::build(&session, job)?;
    let job = plan.frame.submit(plan.name).map_err(Failure::from_driver)?;
    writeln!(io::stdout(), "{}", job.id())?;
    Ok(())
}

/// The driver that was named.
fn driver(driver: Option<&str>) -> Outcome<&str> {
    driver.ok_or_else(|| {
        Failure::usage("no cluster to submit to: give --driver URL or set KILN_DRIVER")
    })
}
