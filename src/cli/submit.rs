//! `kiln submit`: give a job to a cluster, print its id and leave.

use std::io::{self, Write as _};

use super::args::SubmitArgs;
use super::exit::{Failure, Outcome};
use super::{connect, plan};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &SubmitArgs) -> Outcome {
    let Some(driver) = &args.driver else {
        return Err(Failure::usage(
            "no cluster to submit to: give --driver URL or set KILN_DRIVER",
        ));
    };
    let session = connect::cluster(driver)?;
    let plan = plan::build(&session, &args.job)?;
    let job = plan.frame.submit(plan.name).map_err(Failure::from_driver)?;
    writeln!(io::stdout(), "{}", job.id())?;
    Ok(())
}
