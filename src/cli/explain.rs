//! `kiln explain`: show how a job or a query would be run, or how it was.

use std::io::{self, Write as _};

use kiln::tpch::{self, Tables};
use kiln::{DataFrame, Session};

use super::args::{ExplainArgs, ExplainTpchArgs, Explained};
use super::exit::{Failure, Outcome};
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::{connect, plan, result};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ExplainArgs) -> Outcome {
    let session = connect::session(args.cluster.driver.as_ref(), args.resources)?;
    let (name, frame) = match &args.subject {
        Explained::Job(job) => {
            let plan = plan::build(&session, job)?;
            (plan.name.to_owned(), plan.frame)
        }
        Explained::Tpch(args) => query(&session, args)?,
    };
    let text = match args.analyze {
        true => analyzed(&name, &frame)?,
        false => frame.explain().map_err(Failure::from_driver)?,
    };
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

fn query(session: &Session, args: &ExplainTpchArgs) -> Outcome<(String, DataFrame)> {
    let tables = Tables::open(session, &args.data);
    // A table that is not there is a mistake in the arguments.
    let frame = tpch::query(args.query, &tables).map_err(Failure::Usage)?;
    Ok((format!("tpch q{:02}", args.query), frame))
}

/// Runs the job, whose result nobody asks for, and says what it did.
fn analyzed(name: &str, frame: &DataFrame) -> Outcome<String> {
    let interrupt = Interrupt::listen()?;
    let job = frame.submit(name).map_err(Failure::from_driver)?;
    let status = follow(&job, &interrupt, OnInterrupt::CancelJob)?;
    result::print_warnings(&status);
    Ok(kiln::analysis(&status))
}
