//! `kiln cancel`: stop a job of a cluster.

use std::io::{self, Write as _};

use kiln::JobState;

use super::args::JobIdArgs;
use super::exit::{Failure, Outcome};
use super::{connect, status};

/// Runs the command: returns when the job has ended, which may be because it was already done.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &JobIdArgs) -> Outcome {
    let job = connect::cluster(&args.cluster.driver)?.job(args.id);
    job.cancel().map_err(Failure::from_driver)?;
    let mut watch = job.watch();
    let ended = loop {
        let status = watch.next().map_err(Failure::from_driver)?;
        if status.state.is_final() {
            break status;
        }
    };
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{:#}", status::summary_json(&ended))?;
    } else if ended.state == JobState::Cancelled {
        writeln!(out, "cancelled {}", ended.id)?;
    } else {
        let state = status::state_text(ended.state);
        writeln!(out, "{} had ended before: {state}", ended.id)?;
    }
    Ok(())
}
