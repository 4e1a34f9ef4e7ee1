//! `kiln head`: the first rows of files.

use kiln::col;

use super::args::{GlobalResources, HeadArgs};
use super::exit::{Failure, Outcome};
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::{connect, result};

/// What the job is called while it runs.
const NAME: &str = "head";

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &HeadArgs) -> Outcome {
    // One thread: with several, which rows come first would be chance.
    let resources = GlobalResources {
        threads: Some(1),
        ..GlobalResources::default()
    };
    let session = connect::session(None, resources)?;
    let rows = session.read_files(&args.files).map_err(Failure::Job)?;
    let is_text = rows.schema().fields().iter().map(|field| field.name());
    let is_text = is_text.eq(["path", "offset", "line"]);
    let interrupt = Interrupt::listen()?;
    let job = rows
        .limit(args.rows)
        // Where a line stands is of no interest among the first.
        .and_then(|first| {
            if is_text {
                first.select([col("line")])
            } else {
                Ok(first)
            }
        })
        .and_then(|first| first.submit(NAME))
        .map_err(Failure::Job)?;
    let status = follow(&job, &interrupt, OnInterrupt::CancelJob)?;
    result::print(&job, &status, args.json)
}
