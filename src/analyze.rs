//! What a job that has run did, step by step: the text of `kiln explain --analyze`.
//!
//! Times are of threads, added up over tasks and lanes: with two threads a stage of one second
//! has done two seconds of work. A step's time is its own, without that of the steps behind it.

use kiln_engine::metrics::{Counts, OperatorCounts};
use kiln_proto::message::{JobStatus, StageStatus};

use crate::display;
use crate::units::{bytes, grouped, millis, plural};

/// Between the steps of a stage in its description.
const ARROW: &str = " → ";

/// What each stage of `status` did, and each step of it.
pub fn text(status: &JobStatus) -> String {
    let stages: Vec<String> = status.stages.iter().map(stage_text).collect();
    let mut text = stages.join("\n");
    if let Some(ended) = status.ended_ms {
        let took = ended.saturating_sub(status.submitted_ms);
        text.push_str(&format!("\ntook {}\n", millis(took)));
    }
    text
}

/// How the partitions that a stage reads were dealt out to its tasks: `64 partitions in 9 tasks, 1
/// of them split in 4; the largest has 52 % of the rows`. Nothing where there is nothing to tell.
pub fn dealt_out(stage: &StageStatus) -> Option<String> {
    let read = stage.partitions.filter(|read| read.count > 1)?;
    let partitions = plural(u64::from(read.count), "partition");
    let mut text = format!("{partitions} in {}", plural(u64::from(stage.tasks), "task"));
    if read.split > 0 {
        text.push_str(&format!(
            ", {} of them split in {}",
            read.split, read.slices
        ));
    }
    if read.rows > 0 {
        let percent = u128::from(read.largest_rows) * 100 / u128::from(read.rows);
        text.push_str(&format!("; the largest has {percent} % of the rows"));
    }
    Some(text)
}

fn stage_text(stage: &StageStatus) -> String {
    let counts = &stage.counts;
    let mut facts = vec![plural(u64::from(stage.tasks), "task")];
    if let (Some(started), Some(ended)) = (stage.started_ms, stage.ended_ms) {
        facts.push(millis(ended.saturating_sub(started)));
    }
    facts.push(format!("{} in", bytes(counts.bytes_in)));
    facts.push(format!("{} out", bytes(counts.bytes_out)));
    let mut text = format!("{}: {}\n", stage.id, facts.join(", "));
    let facts = [dealt_out(stage), passed_over(counts), held(counts)];
    for line in facts.into_iter().flatten() {
        text.push_str(&format!("  {line}\n"));
    }
    for line in steps(&stage.description, &counts.operators).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// What a scan did not look at.
fn passed_over(counts: &Counts) -> Option<String> {
    let of = |pruned: u64, all: u64, noun: &str| {
        (pruned > 0).then(|| format!("{} of {}", grouped(pruned), plural(all, noun)))
    };
    let facts: Vec<String> = [
        of(counts.row_groups_pruned, counts.row_groups, "row group"),
        (counts.pages_pruned > 0).then(|| plural(counts.pages_pruned, "page")),
        of(counts.rows_pruned, counts.rows_scanned, "row"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!facts.is_empty()).then(|| format!("passed over: {}", facts.join(", ")))
}

/// What joins looked up in, and what did not fit into memory.
fn held(counts: &Counts) -> Option<String> {
    let mut facts = Vec::new();
    if counts.build_rows > 0 {
        let rows = plural(counts.build_rows, "row");
        facts.push(format!("joins held {rows}, {}", bytes(counts.build_bytes)));
    }
    if counts.spilled_bytes > 0 {
        facts.push(format!("{} went to disk", bytes(counts.spilled_bytes)));
    }
    (!facts.is_empty()).then(|| facts.join("; "))
}

/// A line for each step: the source, the operators, the sink.
fn steps(description: &str, counts: &[OperatorCounts]) -> String {
    let names: Vec<&str> = description.split(ARROW).collect();
    // A name with an arrow in it, or a build that does not count: say what is known.
    if names.len() != counts.len() {
        return format!("{description}\n");
    }
    let rows = names.iter().zip(counts).map(|(name, counts)| {
        vec![
            (*name).to_owned(),
            grouped(counts.rows_out),
            grouped(counts.batches),
            millis(counts.nanos / 1_000_000),
        ]
    });
    display::lines(
        &["step", "rows", "batches", "time"],
        &[false, true, true, true],
        rows.collect(),
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_proto::message::PartitionsRead;

    use super::*;

    fn a_stage() -> StageStatus {
        let counts = |rows_out, batches, ms: u64| OperatorCounts {
            rows_out,
            batches,
            nanos: ms * 1_000_000,
        };
        StageStatus {
            id: kiln_engine::id::StageId(1),
            description: "scan parquet → join inner → shuffle single".to_owned(),
            reads_shuffle: false,
            writes_shuffle: true,
            tasks: 2,
            done: 2,
            input_bytes: 5_000_000,
            counts: Counts {
                bytes_in: 4_000_000,
                bytes_out: 1000,
                row_groups: 10,
                row_groups_pruned: 4,
                rows_scanned: 100_000,
                rows_pruned: 90_000,
                build_rows: 25,
                build_bytes: 2048,
                operators: vec![counts(10_000, 3, 12), counts(500, 3, 4), counts(500, 1, 0)],
                ..Counts::default()
            },
            started_ms: Some(1000),
            ended_ms: Some(1250),
            attempts: Vec::new(),
            partitions: None,
        }
    }

    #[test]
    fn a_stage_says_how_its_partitions_were_dealt_out() {
        let dealt = |count, split, slices, rows, tasks| {
            let read = PartitionsRead {
                count,
                split,
                slices,
                rows,
                largest_rows: rows / 2,
            };
            let stage = StageStatus {
                tasks,
                partitions: Some(read),
                ..a_stage()
            };
            dealt_out(&stage).unwrap_or_default()
        };
        expect!["64 partitions in 9 tasks, 1 of them split in 4; the largest has 50 % of the rows"]
            .assert_eq(&dealt(64, 1, 4, 1000, 9));
        expect!["16 partitions in 1 task; the largest has 50 % of the rows"]
            .assert_eq(&dealt(16, 0, 0, 64, 1));
        expect!["16 partitions in 1 task"].assert_eq(&dealt(16, 0, 0, 0, 1));
        assert_eq!(dealt(1, 0, 0, 64, 1), "");
        assert_eq!(dealt_out(&a_stage()), None);
    }

    #[test]
    fn a_stage_says_what_its_steps_did() {
        expect![[r#"
            s1: 2 tasks, 250 ms, 4.00 MB in, 1.00 kB out
              passed over: 4 of 10 row groups, 90,000 of 100,000 rows
              joins held 25 rows, 2.05 kB
              step              rows  batches   time
              ──────────────────────────────────────
              scan parquet    10,000        3  12 ms
              join inner         500        3   4 ms
              shuffle single     500        1   0 ms
        "#]]
        .assert_eq(&stage_text(&a_stage()));
    }
}
