//! One line that says what a stage does, for people who watch a job.

use std::fmt::Write;

use kiln_engine::plan::{
    AggregateMode, OperatorSpec, Partitioning, ScanFormat, SinkSpec, Stage, StageSource,
};

/// What a stage does, e.g. `scan text → aggregate partial → shuffle hash(word) × 8`.
pub(super) fn describe(stage: &Stage) -> String {
    let mut line = source(&stage.source);
    for operator in &stage.operators {
        // Writing to a string cannot fail.
        let _ = write!(line, " → {}", name(operator));
    }
    let _ = write!(line, " → {}", sink(&stage.sink));
    line
}

fn source(source: &StageSource) -> String {
    match source {
        StageSource::Scan(scan) => match scan.format {
            ScanFormat::Text(_) => "scan text".to_owned(),
            ScanFormat::Csv(_) => "scan csv".to_owned(),
            ScanFormat::Parquet => "scan parquet".to_owned(),
        },
        StageSource::Shuffle {
            stage,
            gather: false,
            ..
        } => format!("read {stage}"),
        StageSource::Shuffle {
            stage,
            gather: true,
            ..
        } => format!("gather {stage}"),
    }
}

fn name(operator: &OperatorSpec) -> String {
    match operator {
        OperatorSpec::Project { .. } => "project".to_owned(),
        OperatorSpec::Filter { .. } => "filter".to_owned(),
        OperatorSpec::Explode { column } => format!("explode {column}"),
        OperatorSpec::Aggregate {
            mode: AggregateMode::Single,
            ..
        } => "aggregate".to_owned(),
        OperatorSpec::Aggregate {
            mode: AggregateMode::Partial,
            ..
        } => "aggregate partial".to_owned(),
        OperatorSpec::Aggregate {
            mode: AggregateMode::Final,
            ..
        } => "aggregate final".to_owned(),
        OperatorSpec::TopK { limit, .. } => format!("top {limit}"),
        OperatorSpec::Sort { .. } => "sort".to_owned(),
        OperatorSpec::Limit { limit, .. } => format!("limit {limit}"),
    }
}

fn sink(sink: &SinkSpec) -> String {
    match sink {
        SinkSpec::Shuffle {
            partitioning: Partitioning::Hash { keys, partitions },
        } => {
            format!("shuffle hash({}) × {partitions}", keys.join(", "))
        }
        SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        } => "shuffle single".to_owned(),
        SinkSpec::Files { output } => format!("write {}", output.format.extension()),
    }
}
