//! `kiln jobs`: list the jobs of a cluster.

use std::io::{self, Write as _};

use kiln::display;

use super::args::ListArgs;
use super::exit::{Failure, Outcome};
use super::{connect, status, units};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ListArgs) -> Outcome {
    let session = connect::cluster(&args.cluster.driver)?;
    let jobs = session.jobs().map_err(Failure::from_driver)?;
    if args.json {
        let all: Vec<_> = jobs.iter().map(status::summary_json).collect();
        return Ok(writeln!(
            io::stdout(),
            "{:#}",
            serde_json::Value::Array(all)
        )?);
    }
    let rows = jobs.iter().map(|job| {
        let (done, tasks) = job.stages.iter().fold((0, 0), |(done, tasks), stage| {
            (done + stage.done, tasks + stage.tasks)
        });
        vec![
            job.id.to_string(),
            job.name.clone(),
            status::state_text(job.state).to_owned(),
            format!("{done}/{tasks}"),
            status::clock(job.submitted_ms),
            status::elapsed_ms(job).map_or_else(String::new, units::millis),
        ]
    });
    let header = ["id", "name", "state", "tasks", "submitted", "time"];
    let right = [false, false, false, true, false, true];
    write!(
        io::stdout(),
        "{}",
        display::lines(&header, &right, rows.collect())
    )?;
    Ok(())
}
