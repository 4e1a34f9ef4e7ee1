//! Waiting for a job with an eye on Ctrl-C, and showing how far it is.

use std::time::{Duration, Instant};

use kiln::{Job, JobState, JobStatus};

use super::exit::{Failure, Outcome};
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::result;

/// How often a waiting command looks for Ctrl-C and redraws its progress.
const TICK: Duration = Duration::from_millis(50);

/// How long a cancelled job may take to end before its client leaves without it.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// What Ctrl-C means for the job that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It is cancelled.
    CancelJob,
    /// It goes on.
    LeaveJob,
}

/// Waits for `job` to be done and shows its progress.
///
/// # Errors
/// Why it failed, or `Interrupted`.
pub(crate) fn follow(job: &Job, interrupt: &Interrupt, on: OnInterrupt) -> Outcome<JobStatus> {
    let mut watch = job.watch();
    let mut progress = Progress::start();
    let mut leave_at: Option<Instant> = None;
    let mut cancelling = None;
    loop {
        if interrupt.is_set() && leave_at.is_none() {
            if on == OnInterrupt::LeaveJob {
                return Err(Failure::Interrupted);
            }
            leave_at = Some(Instant::now() + CANCEL_WAIT);
            // Aside, because it waits for a driver that is lost. If none hears it in time there is
            // nothing more to be done about the job.
            let job = job.clone();
            let aside = std::thread::Builder::new().spawn(move || job.cancel());
            cancelling = Some(aside.map_err(|_| Failure::Interrupted)?);
        }
        if leave_at.is_some_and(|at| Instant::now() >= at) {
            return Err(Failure::Interrupted);
        }
        match watch.next_within(TICK).map_err(Failure::from_driver)? {
            Some(status) if status.state.is_final() => {
                progress.end();
                if let Some(aside) = cancelling.take() {
                    // Its driver is there, so it ends; it must not outlive the caller's session,
                    // whose last holder clears up. Whether it was heard is told by the status.
                    let _ = aside.join();
                }
                return ended(status, leave_at.is_some());
            }
            Some(status) => progress.show(&status),
            None => progress.tick(),
        }
    }
}

fn ended(status: JobStatus, interrupted: bool) -> Outcome<JobStatus> {
    if status.state == JobState::Done {
        return Ok(status);
    }
    result::print_warnings(&status);
    if interrupted && status.state == JobState::Cancelled {
        return Err(Failure::Interrupted);
    }
    match kiln::outcome(status) {
        Ok(status) => Ok(status),
        Err(error) => Err(Failure::Job(error)),
    }
}
