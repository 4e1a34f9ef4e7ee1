//! `kiln explain`: show how a job would be run, or how it was.

use std::io::{self, Write as _};

use super::args::ExplainArgs;
use super::exit::{Failure, Outcome};
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::plan::Plan;
use super::{connect, plan, result};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ExplainArgs) -> Outcome {
    let session = connect::session(args.driver.as_deref(), args.resources)?;
    let plan = plan::build(&session, &args.job)?;
    let text = match args.analyze {
        true => analyzed(&plan)?,
        false => plan.frame.explain().map_err(Failure::from_driver)?,
    };
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// Runs the job, whose result nobody asks for, and says what it did.
fn analyzed(plan: &Plan) -> Outcome<String> {
    let interrupt = Interrupt::listen()?;
    let job = plan.frame.submit(plan.name).map_err(Failure::from_driver)?;
    let status = follow(&job, &interrupt, OnInterrupt::CancelJob)?;
    result::print_warnings(&status);
    Ok(kiln::analysis(&status))
}
