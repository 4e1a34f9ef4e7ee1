//! `kiln explain`: show how a job would be run.

use std::io::{self, Write as _};

use super::args::ExplainArgs;
use super::exit::{Failure, Outcome};
use super::{connect, plan};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ExplainArgs) -> Outcome {
    let session = connect::session(args.driver.as_deref(), args.resources)?;
    let plan = plan::build(&session, &args.job)?;
    let text = plan.frame.explain().map_err(Failure::from_driver)?;
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(())
}
