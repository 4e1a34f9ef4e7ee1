//! How far a job is, on stderr while it runs, if stderr is a terminal.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln::{JobState, JobStatus};

use super::units::{bytes, grouped, millis};

/// A job that ends sooner shows nothing.
const SHOW_AFTER: Duration = Duration::from_millis(250);

/// Steps of the bar.
const BAR_STEPS: u64 = 1000;

/// A line that tells how far a job is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    /// The stage that is shown, and since when.
    stage: Option<(usize, Instant)>,
    shown: bool,
}

impl Progress {
    /// A line that appears when the job takes long enough to be worth one.
    pub(crate) fn start() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::hidden());
            let style = ProgressStyle::with_template("{bar:24} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸ "));
            bar
        });
        Progress {
            bar,
            started: Instant::now(),
            stage: None,
            shown: false,
        }
    }

    /// Shows `status`.
    pub(crate) fn show(&mut self, status: &JobStatus) {
        let Some(bar) = &self.bar else { return };
        let current = current_stage(status);
        if self.stage.map(|(stage, _)| stage) != current {
            self.stage = current.map(|stage| (stage, Instant::now()));
        }
        let elapsed = self
            .stage
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        bar.set_position(permille(status));
        bar.set_message(describe(status, elapsed));
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

/// Tasks done, of 1000; every stage counts the same.
fn permille(status: &JobStatus) -> u64 {
    let stages = status.stages.len().max(1) as u64;
    let done = |stage: &kiln::StageStatus| {
        BAR_STEPS * u64::from(stage.done) / u64::from(stage.tasks.max(1))
    };
    status.stages.iter().map(done).sum::<u64>() / stages
}

/// `stage 1/2 · 12/37 tasks · 1.2 GB of 4.5 GB · 345 MB/s · 1,234,567 rows · 8 s left`.
fn describe(status: &JobStatus, elapsed: Duration) -> String {
    let Some(at) = current_stage(status) else {
        return match status.state {
            JobState::Planning => "planning".to_owned(),
            _ => "finishing".to_owned(),
        };
    };
    let stage = &status.stages[at];
    let counts = &stage.counts;
    let mut parts = vec![format!("stage {}/{}", at + 1, status.stages.len())];
    if stage.tasks > 0 {
        parts.push(format!("{}/{} tasks", stage.done, stage.tasks));
    }
    match stage.input_bytes {
        0 => parts.push(bytes(counts.bytes_in)),
        all => parts.push(format!(
            "{} of {}",
            bytes(counts.bytes_in.min(all)),
            bytes(all)
        )),
    }
    let seconds = elapsed.as_secs_f64();
    if counts.bytes_in > 0 && seconds > 0.1 {
        parts.push(format!(
            "{}/s",
            bytes((counts.bytes_in as f64 / seconds) as u64)
        ));
    }
    parts.push(format!("{} rows", grouped(counts.rows_in)));
    if stage.done > 0 && stage.done < stage.tasks {
        let left = seconds * f64::from(stage.tasks - stage.done) / f64::from(stage.done);
        parts.push(format!("{} left", millis((left * 1000.0) as u64)));
    }
    parts.extend(status.note.clone());
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::a_job;
    use expect_test::expect;

    #[test]
    fn the_line_tells_stage_tasks_bytes_rate_rows_and_time_left() {
        let mut status = a_job(JobState::Running);
        status.note = Some("waiting for an executor".to_owned());
        expect!["stage 1/2 · 1/2 tasks · 100 MB of 200 MB · 50.0 MB/s · 1,234,567 rows · 2.0 s left · waiting for an executor"].assert_eq(&describe(&status, Duration::from_secs(2)));
        assert_eq!(permille(&status), 250);
    }
}
