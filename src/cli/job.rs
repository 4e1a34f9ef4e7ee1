//! `kiln job`: show a job of a cluster.

use std::io::{self, Write as _};

use super::args::JobIdArgs;
use super::exit::{Failure, Outcome};
use super::{connect, status};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &JobIdArgs) -> Outcome {
    let job = connect::cluster(&args.cluster.driver)?.job(args.id);
    let status = job.status().map_err(Failure::from_driver)?;
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{:#}", status::json(&status))?;
    } else {
        write!(out, "{}", status::text(&status))?;
    }
    Ok(())
}
