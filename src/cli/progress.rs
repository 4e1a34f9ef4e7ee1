//! How far a job is, on stderr while it runs, if stderr is a terminal.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln::{JobState, JobStatus, StageStatus};

use super::units::{bytes, grouped, millis};

/// A job that ends sooner shows nothing.
const SHOW_AFTER: Duration = Duration::from_millis(250);

/// Steps of the bar.
const BAR_STEPS: u64 = 1000;

/// Below this much time a rate says nothing.
const RATE_AFTER: Duration = Duration::from_millis(500);

/// A line that tells how far a job is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    pace: Option<Pace>,
    shown: bool,
}

/// A stage, and where it stood when this process first looked at it: rates are of what came
/// after that.
struct Pace {
    stage: usize,
    since: Instant,
    bytes: u64,
    share: f64,
}

impl Progress {
    /// A line that appears when the job takes long enough to be worth one.
    pub(crate) fn start() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::hidden());
            // Wide: what does not fit into the terminal's line is left out, not wrapped.
            let style = ProgressStyle::with_template("{bar:12} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸ "));
            bar
        });
        Progress {
            bar,
            started: Instant::now(),
            pace: None,
            shown: false,
        }
    }

    /// Shows `status`.
    pub(crate) fn show(&mut self, status: &JobStatus) {
        let Some(bar) = &self.bar else { return };
        let current = current_stage(status);
        if self.pace.as_ref().map(|pace| pace.stage) != current {
            self.pace = current.map(|stage| Pace {
                stage,
                since: Instant::now(),
                bytes: status.stages[stage].counts.bytes_in,
                share: share(&status.stages[stage]),
            });
        }
        bar.set_position(permille(status));
        bar.set_message(match &self.pace {
            Some(pace) => describe(status, pace, pace.since.elapsed()),
            None if status.state == JobState::Planning => "planning".to_owned(),
            None => "finishing".to_owned(),
        });
        self.tick();
    }

    /// Keeps the line alive while nothing changes.
    pub(crate) fn tick(&mut self) {
        let Some(bar) = &self.bar else { return };
        if !self.shown && self.started.elapsed() >= SHOW_AFTER {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        bar.tick();
    }

    /// Removes the line.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// The first stage that is not done.
fn current_stage(status: &JobStatus) -> Option<usize> {
    status
        .stages
        .iter()
        .position(|stage| stage.tasks == 0 || stage.done < stage.tasks)
}

/// How much of a stage is done, from 0 to 1: of its bytes where their number is known, which goes
/// on within tasks, else of its tasks.
fn share(stage: &StageStatus) -> f64 {
    let (done, all) = match stage.input_bytes {
        0 => (u64::from(stage.done), u64::from(stage.tasks)),
        all => (stage.counts.bytes_in, all),
    };
    if all == 0 || stage.done >= stage.tasks {
        return if stage.tasks == 0 { 0.0 } else { 1.0 };
    }
    (done as f64 / all as f64).min(1.0)
}

/// How much of a job is done, of 1000; every stage counts the same.
fn permille(status: &JobStatus) -> u64 {
    let stages = status.stages.len().max(1) as f64;
    let done: f64 = status.stages.iter().map(share).sum();
    (BAR_STEPS as f64 * done / stages) as u64
}

/// `stage 1/2 · 12/37 tasks · 1.2 GB of 4.5 GB · 345 MB/s · 8.0 s left · 1,234,567 rows`.
fn describe(status: &JobStatus, pace: &Pace, elapsed: Duration) -> String {
    let stage = &status.stages[pace.stage];
    let counts = &stage.counts;
    let mut parts = vec![format!("stage {}/{}", pace.stage + 1, status.stages.len())];
    // What people have to know comes before what may be cut off.
    parts.extend(status.note.clone());
    if stage.tasks > 0 {
        parts.push(format!("{}/{} tasks", stage.done, stage.tasks));
    }
    parts.push(match stage.input_bytes {
        0 => bytes(counts.bytes_in),
        all => format!("{} of {}", bytes(counts.bytes_in.min(all)), bytes(all)),
    });
    let seconds = elapsed.as_secs_f64();
    let read = counts.bytes_in.saturating_sub(pace.bytes);
    if read > 0 && elapsed >= RATE_AFTER {
        parts.push(format!("{}/s", bytes((read as f64 / seconds) as u64)));
    }
    let share = share(stage);
    if share > pace.share && share < 1.0 && elapsed >= RATE_AFTER {
        let left = seconds * (1.0 - share) / (share - pace.share);
        parts.push(format!("{} left", millis((left * 1000.0) as u64)));
    }
    parts.push(format!("{} rows", grouped(counts.rows_in)));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::a_job;
    use expect_test::expect;

    fn pace() -> Pace {
        Pace {
            stage: 0,
            since: Instant::now(),
            bytes: 0,
            share: 0.0,
        }
    }

    #[test]
    fn the_line_tells_stage_tasks_bytes_rate_time_left_and_rows() {
        let status = a_job(JobState::Running);
        expect![
            "stage 1/2 · 1/2 tasks · 100 MB of 200 MB · 50.0 MB/s · 2.0 s left · 1,234,567 rows"
        ]
        .assert_eq(&describe(&status, &pace(), Duration::from_secs(2)));
        assert_eq!(permille(&status), 250);
    }

    #[test]
    fn a_note_comes_before_what_a_narrow_terminal_cuts_off() {
        let mut status = a_job(JobState::Running);
        status.note = Some("waiting for an executor".to_owned());
        let line = describe(&status, &pace(), Duration::ZERO);
        expect![
            "stage 1/2 · waiting for an executor · 1/2 tasks · 100 MB of 200 MB · 1,234,567 rows"
        ]
        .assert_eq(&line);
    }

    #[test]
    fn the_only_task_of_a_stage_comes_on_and_rates_are_of_what_this_process_saw() {
        let mut status = a_job(JobState::Running);
        status.stages.truncate(1);
        let stage = &mut status.stages[0];
        (stage.tasks, stage.done, stage.counts.bytes_in) = (1, 0, 150_000_000);
        let pace = Pace {
            bytes: 100_000_000,
            share: 0.5,
            ..pace()
        };
        expect![
            "stage 1/1 · 0/1 tasks · 150 MB of 200 MB · 50.0 MB/s · 1.0 s left · 1,234,567 rows"
        ]
        .assert_eq(&describe(&status, &pace, Duration::from_secs(1)));
        assert_eq!(permille(&status), 750);
    }
}
