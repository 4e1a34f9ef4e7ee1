//! `kiln generate`: make data to try things with.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln::tpch::{self, GenerateOptions, Table};
use kiln::{Error, ErrorKind, display};

use super::args::{GenerateArgs, GenerateData, GenerateTpchArgs};
use super::exit::{Failure, Outcome};
use super::interrupt::Interrupt;
use super::units::{bytes, grouped, millis};

/// How often the progress bar is drawn, per second.
const DRAWS_PER_SECOND: u8 = 10;

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &GenerateArgs) -> Outcome {
    match &args.data {
        GenerateData::Tpch(args) => tpch(args),
    }
}

fn tpch(args: &GenerateTpchArgs) -> Outcome {
    let tables = match args.tables.as_slice() {
        [] => Table::ALL.to_vec(),
        tables => tables.to_vec(),
    };
    let options = GenerateOptions {
        scale: args.scale,
        directory: args.output.clone(),
        parts: args.parts,
        tables,
        threads: args.threads,
    };
    let interrupt = Interrupt::listen()?;
    let started = Instant::now();
    let bar = bar(options.rows_estimate());
    let generated = tpch::generate(&options, |rows| {
        bar.inc(rows);
        match interrupt.is_set() {
            true => Err(Error::cancelled("interrupted")),
            false => Ok(()),
        }
    });
    bar.finish_and_clear();
    let generated = generated.map_err(|error| match error.kind() {
        ErrorKind::Cancelled => Failure::Interrupted,
        ErrorKind::Invalid => Failure::Usage(error),
        _ => Failure::Job(error),
    })?;
    let rows = generated.iter().map(|table| {
        let figures = [
            grouped(table.files),
            grouped(table.rows),
            bytes(table.bytes),
        ];
        let name = [table.table.name().to_owned()];
        name.into_iter().chain(figures).collect()
    });
    let table = display::lines(
        &["table", "files", "rows", "size"],
        &[false, true, true, true],
        rows.collect(),
    );
    write!(io::stdout(), "{table}")?;
    let took = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(
        io::stderr(),
        "wrote {} in {}",
        display::location(&args.output),
        millis(took)
    );
    Ok(())
}

/// A bar of so many rows, if stderr is a terminal.
fn bar(rows: u64) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(rows), target);
    let style =
        ProgressStyle::with_template("{bar:12} {human_pos} rows · {percent} % · {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸ "));
    if io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(1000 / u64::from(DRAWS_PER_SECOND)));
    }
    bar
}
