//! The status of a job, as text for people and as JSON for scripts.

use chrono::{Local, TimeZone as _};
use kiln::{
    AttemptState, AttemptStatus, JobState, JobStatus, PartitionsRead, StageStatus, dealt_out,
    display,
};
use kiln_engine::metrics::Counts;
use kiln_engine::plan::TaskFailure;
use serde_json::{Value, json};

use super::units::{bytes, grouped, millis, plural};

/// What a job's shuffles cost, all stages together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ShuffleFigures {
    objects: u64,
    puts: u64,
    gets: u64,
    bytes_written: u64,
    bytes_read: u64,
}

impl ShuffleFigures {
    /// Adds up what stages wrote for later ones or a client, and read of earlier ones.
    pub(crate) fn of(status: &JobStatus) -> Self {
        let mut figures = ShuffleFigures::default();
        for stage in &status.stages {
            let counts = &stage.counts;
            if stage.writes_shuffle {
                figures.objects += counts.objects;
                figures.puts += counts.puts;
                figures.bytes_written += counts.bytes_out;
            }
            if stage.reads_shuffle {
                figures.gets += counts.gets;
                figures.bytes_read += counts.bytes_in;
            }
        }
        figures
    }
}

/// Logs what the shuffles of a job cost, for those who run with `RUST_LOG`.
pub(crate) fn log_shuffle(status: &JobStatus) {
    let figures = ShuffleFigures::of(status);
    tracing::debug!(
        job = %status.id,
        objects = figures.objects,
        puts = figures.puts,
        gets = figures.gets,
        bytes_written = figures.bytes_written,
        bytes_read = figures.bytes_read,
        "shuffle"
    );
}

/// `kiln job` for people.
pub(crate) fn text(status: &JobStatus) -> String {
    let mut text = format!(
        "job {}  {}  {}\n",
        status.id,
        status.name,
        state_text(status.state)
    );
    text.push_str(&format!("submitted {}", clock(status.submitted_ms)));
    if let Some(ms) = elapsed_ms(status) {
        text.push_str(&format!(", took {}", millis(ms)));
    }
    text.push('\n');
    text.extend(status.note.iter().map(|note| format!("note: {note}\n")));
    text.extend(
        status
            .failure
            .iter()
            .map(|failure| format!("failed: {}\n", failure.message)),
    );
    if !status.stages.is_empty() {
        text.push('\n');
        text.push_str(&stages_text(&status.stages));
        let f = ShuffleFigures::of(status);
        text.push_str(&format!(
            "\nshuffle: {} written, {} PUT and {} GET requests, {} out, {} in\n",
            plural(f.objects, "object"),
            grouped(f.puts),
            grouped(f.gets),
            bytes(f.bytes_written),
            bytes(f.bytes_read),
        ));
        for stage in &status.stages {
            let dealt = dealt_out(stage);
            text.extend(dealt.map(|dealt| format!("{}: {dealt}\n", stage.id)));
        }
    }
    text.push_str(&counters_text(status));
    let unlucky = unlucky_attempts(&status.stages);
    if !unlucky.is_empty() {
        let header = ["attempt", "state", "executor", "after", "why"];
        let right = [false, false, false, true, false];
        text.push_str("\nattempts that were lost, failed or stopped:\n");
        text.push_str(&display::lines(&header, &right, unlucky));
    }
    if !status.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &status.warnings {
        let times = plural(warning.count, "time");
        text.push_str(&format!(
            "warning: {}: {times} {}\n",
            display::location(&warning.subject),
            warning.message
        ));
    }
    text
}

/// What functions of the job's program counted, if anything.
fn counters_text(status: &JobStatus) -> String {
    let rows = kiln::counters(status).into_iter();
    let rows: Vec<Vec<String>> = rows.map(|(name, n)| vec![name, grouped(n)]).collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!(
            "\n{}",
            display::lines(&["counter", "n"], &[false, true], rows)
        ),
    }
}

fn stages_text(stages: &[StageStatus]) -> String {
    let rows = stages.iter().map(|stage| {
        let counts = &stage.counts;
        vec![
            stage.id.to_string(),
            format!("{}/{}", stage.done, stage.tasks),
            stage.attempts.len().to_string(),
            grouped(counts.rows_in),
            bytes(counts.bytes_in),
            grouped(counts.rows_out),
            bytes(counts.bytes_out),
            span(stage.started_ms, stage.ended_ms),
            stage.description.clone(),
        ]
    });
    let header = [
        "stage",
        "tasks",
        "attempts",
        "rows in",
        "bytes in",
        "rows out",
        "bytes out",
        "time",
        "what",
    ];
    let right = [false, true, true, true, true, true, true, true, false];
    display::lines(&header, &right, rows.collect())
}

fn unlucky_attempts(stages: &[StageStatus]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for stage in stages {
        let unlucky = stage
            .attempts
            .iter()
            .filter(|attempt| !matches!(attempt.state, AttemptState::Won | AttemptState::Running));
        for attempt in unlucky {
            let why = attempt
                .failure
                .as_ref()
                .map_or("", |failure| failure.message.as_str());
            rows.push(vec![
                format!("{}/t{}-a{}", stage.id, attempt.task, attempt.attempt),
                attempt_text(attempt.state).to_owned(),
                attempt.executor.clone(),
                span(Some(attempt.started_ms), attempt.ended_ms),
                why.to_owned(),
            ]);
        }
    }
    rows
}

fn span(started_ms: Option<u64>, ended_ms: Option<u64>) -> String {
    match (started_ms, ended_ms) {
        (Some(start), Some(end)) => millis(end.saturating_sub(start)),
        _ => String::new(),
    }
}

/// How long a job took, if it has ended.
pub(crate) fn elapsed_ms(status: &JobStatus) -> Option<u64> {
    status
        .ended_ms
        .map(|ended| ended.saturating_sub(status.submitted_ms))
}

/// A time of day as the reader's clock shows it.
pub(crate) fn clock(epoch_ms: u64) -> String {
    let time = i64::try_from(epoch_ms)
        .ok()
        .and_then(|ms| Local.timestamp_millis_opt(ms).single());
    time.map_or_else(String::new, |time| {
        time.format("%Y-%m-%d %H:%M:%S").to_string()
    })
}

/// The word for a job's state, the same in text and JSON.
pub(crate) fn state_text(state: JobState) -> &'static str {
    match state {
        JobState::Planning => "planning",
        JobState::Running => "running",
        JobState::Committing => "committing",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn attempt_text(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Running => "running",
        AttemptState::Won => "won",
        AttemptState::Failed => "failed",
        AttemptState::Lost => "lost",
        AttemptState::Cancelled => "cancelled",
    }
}

/// A job in one line of a list.
pub(crate) fn summary_json(status: &JobStatus) -> Value {
    json!({
        "id": status.id.to_string(),
        "name": status.name,
        "state": state_text(status.state),
        "submitted_ms": status.submitted_ms,
        "ended_ms": status.ended_ms,
        "failure": status.failure.as_ref().map(failure_json),
    })
}

/// Everything that is known of a job.
pub(crate) fn json(status: &JobStatus) -> Value {
    let figures = ShuffleFigures::of(status);
    let mut all = summary_json(status);
    all["note"] = json!(status.note);
    all["stages"] = status.stages.iter().map(stage_json).collect();
    all["shuffle"] = json!({
        "objects": figures.objects,
        "puts": figures.puts,
        "gets": figures.gets,
        "bytes_written": figures.bytes_written,
        "bytes_read": figures.bytes_read,
    });
    all["counters"] = json!(kiln::counters(status));
    all["warnings"] = status
        .warnings
        .iter()
        .map(|warning| {
            json!({
                "subject": warning.subject,
                "message": warning.message,
                "count": warning.count,
            })
        })
        .collect();
    all
}

fn stage_json(stage: &StageStatus) -> Value {
    json!({
        "id": stage.id.0,
        "description": stage.description,
        "tasks": stage.tasks,
        "done": stage.done,
        "input_bytes": stage.input_bytes,
        "started_ms": stage.started_ms,
        "ended_ms": stage.ended_ms,
        "counts": counts_json(&stage.counts),
        "attempts": stage.attempts.iter().map(attempt_json).collect::<Value>(),
        "partitions": stage.partitions.map(partitions_json),
    })
}

fn partitions_json(read: PartitionsRead) -> Value {
    json!({
        "count": read.count,
        "split": read.split,
        "slices": read.slices,
        "rows": read.rows,
        "largest_rows": read.largest_rows,
    })
}

fn attempt_json(attempt: &AttemptStatus) -> Value {
    json!({
        "task": attempt.task,
        "attempt": attempt.attempt,
        "executor": attempt.executor,
        "state": attempt_text(attempt.state),
        "started_ms": attempt.started_ms,
        "ended_ms": attempt.ended_ms,
        "counts": counts_json(&attempt.counts),
        "failure": attempt.failure.as_ref().map(failure_json),
    })
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "rows_in": counts.rows_in,
        "bytes_in": counts.bytes_in,
        "rows_out": counts.rows_out,
        "bytes_out": counts.bytes_out,
        "gets": counts.gets,
        "puts": counts.puts,
        "objects": counts.objects,
        "compute_ms": counts.compute_nanos / 1_000_000,
        "spilled_bytes": counts.spilled_bytes,
    })
}

fn failure_json(failure: &TaskFailure) -> Value {
    json!({ "kind": failure.kind.to_string(), "message": failure.message })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use expect_test::expect;
    use kiln::StageId;
    use kiln_engine::ErrorKind;
    use kiln_engine::metrics::Warning;

    /// A job of two stages, the first of which is half done and has lost an attempt.
    pub(crate) fn a_job(state: JobState) -> JobStatus {
        let counts = |bytes: u64| Counts {
            rows_in: 1_234_567,
            bytes_in: bytes,
            rows_out: 1000,
            bytes_out: bytes / 10,
            gets: 8,
            puts: 1,
            objects: 1,
            ..Counts::default()
        };
        let attempt = |task, attempt, state, failure| AttemptStatus {
            task,
            attempt,
            executor: "host:17".to_owned(),
            state,
            started_ms: 1_000,
            ended_ms: Some(2_500),
            counts: counts(100_000_000),
            failure,
        };
        let lost = TaskFailure {
            kind: ErrorKind::Unavailable,
            message: "the executor is gone".to_owned(),
            lost: None,
        };
        let stage = |id, description: &str, attempts| StageStatus {
            id: StageId(id),
            description: description.to_owned(),
            reads_shuffle: id > 0,
            writes_shuffle: true,
            tasks: 2,
            done: 1 - id,
            input_bytes: 200_000_000 * u64::from(1 - id),
            counts: Counts {
                user: Box::new(BTreeMap::from([("lines.empty".to_owned(), 1234)])),
                ..counts(100_000_000 * u64::from(1 - id))
            },
            started_ms: Some(1_000),
            ended_ms: None,
            attempts,
            partitions: (id > 0).then_some(PartitionsRead {
                count: 8,
                split: 1,
                slices: 2,
                rows: 9_000_000,
                largest_rows: 5_000_000,
            }),
        };
        let first = vec![
            attempt(0, 0, AttemptState::Lost, Some(lost)),
            attempt(0, 1, AttemptState::Won, None),
        ];
        JobStatus {
            id: kiln::JobId::new(0xabc),
            name: "wordcount".to_owned(),
            state,
            output: None,
            failure: None,
            submitted_ms: 1_000,
            ended_ms: Some(4_000),
            stages: vec![
                stage(
                    0,
                    "scan text words → aggregate partial → shuffle hash(word) × 8",
                    first,
                ),
                stage(
                    1,
                    "shuffle s0 → aggregate final → top 20 → shuffle single",
                    vec![],
                ),
            ],
            warnings: vec![Warning {
                subject: "file:///data/a.txt".to_owned(),
                message: "invalid UTF-8 replaced".to_owned(),
                count: 3,
            }],
            note: None,
        }
    }

    #[test]
    fn text_shows_stages_shuffle_and_what_went_wrong() {
        let text = text(&a_job(JobState::Running));
        // The time of submission depends on the reader's clock.
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("submitted"))
            .fold(String::new(), |text, line| text + line + "\n");
        expect![[r#"
            job 000000000abc  wordcount  running

            stage  tasks  attempts    rows in  bytes in  rows out  bytes out  time  what
            ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
            s0       1/2         2  1,234,567    100 MB     1,000    10.0 MB        scan text words → aggregate partial → shuffle hash(word) × 8
            s1       0/2         0  1,234,567       0 B     1,000        0 B        shuffle s0 → aggregate final → top 20 → shuffle single

            shuffle: 2 objects written, 2 PUT and 8 GET requests, 10.0 MB out, 0 B in
            s1: 8 partitions in 2 tasks, 1 of them split in 2; the largest has 55 % of the rows

            counter          n
            ──────────────────
            lines.empty  2,468

            attempts that were lost, failed or stopped:
            attempt   state  executor  after  why
            ──────────────────────────────────────────────────────
            s0/t0-a0  lost   host:17   1.5 s  the executor is gone

            warning: /data/a.txt: 3 times invalid UTF-8 replaced
        "#]].assert_eq(&text);
    }

    #[test]
    fn json_shows_every_attempt() {
        let json = json(&a_job(JobState::Running));
        assert_eq!(json["stages"][0]["attempts"][0]["state"], "lost");
        assert_eq!(
            json["stages"][0]["attempts"][0]["failure"]["kind"],
            "unavailable"
        );
        assert_eq!(json["stages"][0]["attempts"][1]["state"], "won");
        assert_eq!(json["stages"][0]["partitions"], Value::Null);
        assert_eq!(json["stages"][1]["partitions"]["split"], 1);
        assert_eq!(json["shuffle"]["objects"], 2);
        assert_eq!(json["counters"]["lines.empty"], 2468);
        assert_eq!(json["state"], "running");
    }
}
