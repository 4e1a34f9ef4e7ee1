//! What a program does when it is started: be a worker, or run its job here or on a cluster.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Command, FromArgMatches as _};
use kiln_engine::limits::JOB_WEIGHT_MAX;
use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::address::Drivers;

use crate::program::Hosted;
use crate::session::Session;
use crate::units;

/// What Ctrl-C ends with.
const INTERRUPTED: u8 = 130;

/// Where a program's jobs run.
// Without a group: that of the program's own options may have any name.
#[derive(Args)]
#[group(skip)]
struct SessionOptions {
    /// Run on the cluster of this driver, not in this process; with standbys, all of them
    #[arg(long, value_name = "URL[,URL…]", help_heading = "Session")]
    #[arg(env = "KILN_DRIVER", hide_env_values = true)]
    driver: Option<Drivers>,
    /// Share of the cluster's slots, against those of other jobs, from 1 to 1000
    #[arg(long, value_name = "N", help_heading = "Session", default_value_t = 1)]
    #[arg(env = "KILN_WEIGHT", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(JOB_WEIGHT_MAX)))]
    weight: u32,
    /// Threads that compute in this process [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Session")]
    threads: Option<usize>,
    /// Memory budget of this process, as 2GiB [default: a share of what there is]
    #[arg(long, value_name = "SIZE", help_heading = "Session", value_parser = units::parse_bytes)]
    memory: Option<u64>,
}

impl SessionOptions {
    fn open(&self, program: Hosted) -> Result<Session> {
        if let Some(driver) = &self.driver {
            return Session::connect_with(driver.clone(), Some(program));
        }
        let mut builder = Session::builder();
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(memory) = self.memory {
            builder = builder.memory(memory);
        }
        builder.build()
    }
}

/// Reads the command line and runs `job` in the session that it asks for.
pub(super) fn run<A: Args>(
    name: &'static str,
    program: Result<Hosted>,
    job: impl FnOnce(&Session, A) -> Result<()>,
) -> ExitCode {
    let mut command = SessionOptions::augment_args(A::augment_args(Command::new(name)));
    let matches = command.get_matches_mut();
    let read = A::from_arg_matches(&matches)
        .and_then(|options| Ok((options, SessionOptions::from_arg_matches(&matches)?)));
    let (options, here) = read.unwrap_or_else(|error| error.exit());
    if here.driver.is_some() && (here.threads.is_some() || here.memory.is_some()) {
        let text = "--threads and --memory are for runs in this process; executors have their own";
        command
            .error(clap::error::ErrorKind::ArgumentConflict, text)
            .exit();
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let outcome = program.and_then(|program| {
        let session = here.open(program)?.weight(here.weight);
        session.cancel_on_interrupt(Arc::clone(&interrupted))?;
        job(&session, options)
    });
    match outcome {
        _ if interrupted.load(Ordering::Relaxed) => ExitCode::from(INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says why on stderr, and gives the exit code.
pub(super) fn failed(error: &Error) -> ExitCode {
    // Nothing can be said about a stderr that does not take what is said.
    let _ = writeln!(std::io::stderr(), "error: {}", error.report());
    ExitCode::from(match error.kind() {
        ErrorKind::Unavailable => 3,
        _ => 1,
    })
}
