//! `kiln submit PROGRAM`: start a program of the user's with a cluster to submit itself to.
//!
//! Without `--wait` the program goes on by itself when this command has left: it may have more
//! jobs to submit. What it prints goes into a file, and the first job that it submits is what this
//! command prints.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::Parser as _;
use kiln::{Error, JOBS_FILE_VARIABLE};
use kiln_engine::scratch::{Scratch, ScratchKind};

use crate::cli::args::{ProgramArgs, SubmitArgs};
use crate::cli::connect;
use crate::cli::exit::{Failure, Outcome};

/// How often it is looked whether the program has submitted a job.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes shown of what a program has printed that failed before it submitted anything.
const SHOWN_BYTES_MAX: usize = 4 << 10;

/// Runs `kiln submit` with a path and what stands behind it.
///
/// # Errors
/// See [`Failure`]; `Usage` if there is no such program.
pub(super) fn run(words: &[OsString], given: &SubmitArgs) -> Outcome {
    let (path, rest) = words
        .split_first()
        .ok_or_else(|| Failure::usage("no job and no program is named"))?;
    let path = find(Path::new(path))?;
    let name = OsString::from("kiln submit");
    let args = ProgramArgs::try_parse_from(std::iter::once(&name).chain(rest));
    let args = args.unwrap_or_else(|error| error.exit());
    let driver = super::driver(args.driver.as_ref().or(given.cluster.driver.as_ref()))?;
    // A cluster that does not answer is told of here, not by the program in its own way.
    connect::cluster(driver)?;
    let mut command = Command::new(&path);
    command.args(&args.arguments);
    command.env("KILN_DRIVER", driver.to_string());
    if let Some(weight) = args.share.weight.or(given.share.weight) {
        command.env("KILN_WEIGHT", weight.to_string());
    }
    if args.wait || given.wait {
        // The program takes the place of this process, signals and exit code included.
        return Err(cannot_run(&path, command.exec()));
    }
    detach(&path, command)
}

/// The program at `path`.
fn find(path: &Path) -> Outcome<PathBuf> {
    if path.components().count() > 1 || path.has_root() {
        return match std::fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(path.to_owned()),
            Ok(_) => Err(Failure::usage(format!(
                "not a program path={}",
                path.display()
            ))),
            Err(error) => Err(Failure::Usage(
                Error::invalid(format!("no such program path={}", path.display()))
                    .with_source(error),
            )),
        };
    }
    let hint = match path.is_file() {
        true => format!("; a program is named with a slash: ./{}", path.display()),
        false => String::new(),
    };
    Err(Failure::usage(format!(
        "no such job, see kiln submit --help for what there is{hint} job={:?}",
        path.display().to_string()
    )))
}

/// Starts the program in a session of its own, and prints the first job that it submits.
fn detach(path: &Path, mut command: Command) -> Outcome {
    let scratch = |error| {
        let error = Error::unavailable("cannot make a temporary file").with_source(error);
        Failure::Job(error)
    };
    let directory = Scratch::create(&std::env::temp_dir(), ScratchKind::Submit);
    let directory = directory.map_err(scratch)?;
    let jobs = directory.path().join("jobs");
    File::create_new(&jobs).map_err(scratch)?;
    let log = tempfile::Builder::new()
        .prefix("kiln-submit-")
        .suffix(".log")
        .tempfile();
    let (log, log_path) = log.and_then(|log| Ok(log.keep()?)).map_err(scratch)?;
    let error_log = log.try_clone().map_err(scratch)?;
    let child = command
        .env(JOBS_FILE_VARIABLE, &jobs)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        // Ctrl-C at this terminal is not for the program once this command has left.
        .process_group(0)
        .spawn()
        .map_err(|error| cannot_run(path, error))?;
    let pid = child.id();
    let job = first_job(&jobs, child, &log_path)?;
    writeln!(io::stdout(), "{job}")?;
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(
        io::stderr(),
        "the program goes on by itself pid={pid} log={}",
        log_path.display()
    );
    Ok(())
}

/// Waits until the program has submitted a job, and gives its id.
fn first_job(jobs: &Path, mut program: Child, log: &Path) -> Outcome<String> {
    loop {
        // First whether it has ended, so that a job that it submitted before is not missed.
        let ended = program.try_wait().map_err(|error| {
            Failure::Job(Error::unavailable("cannot watch the program").with_source(error))
        })?;
        let told = std::fs::read_to_string(jobs).unwrap_or_default();
        if let Some((job, _)) = told.split_once('\n') {
            return Ok(job.to_owned());
        }
        if let Some(status) = ended {
            return Err(ended_early(status, log));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The program has ended and there is no job.
fn ended_early(status: ExitStatus, log: &Path) -> Failure {
    let printed = std::fs::read(log).unwrap_or_default();
    // What cannot be removed is a small file in the temporary directory.
    let _ = std::fs::remove_file(log);
    let shown = &printed[printed.len().saturating_sub(SHOWN_BYTES_MAX)..];
    // With stderr closed there is nobody left to tell.
    let _ = io::stderr().write_all(shown);
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit_code={code}"),
        (None, Some(signal)) => format!("signal={signal}"),
        (None, None) => status.to_string(),
    };
    let text = format!("the program has ended without submitting a job {how}");
    Failure::Job(Error::invalid(text))
}

fn cannot_run(path: &Path, error: io::Error) -> Failure {
    let text = format!("cannot run the program path={}", path.display());
    Failure::Job(Error::invalid(text).with_source(error))
}
