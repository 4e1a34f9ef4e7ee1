//! The one text form of plans, at every level: one operator a line.
//!
//! A logical plan prints as an indented tree, root first. A stage graph prints in the order in
//! which rows flow, producers first, and within a stage from source to sink. The same words stand
//! for the same thing in both, in progress lines and in snapshots.

use std::fmt::{self, Display, Write};

use crate::expr::{AggregateExpr, Expr, SortKey};
use crate::plan::{
    AggregateMode, Deal, JoinKind, LogicalPlan, OperatorSpec, Output, OutputMode, Partitioning,
    Scan, ScanFormat, ScanSpec, Side, SinkSpec, Stage, StageGraph, StageSource, StepKind,
    TextRecord,
};
use crate::udf::GroupUdf;

/// Locations of a scan that are printed before the rest is only counted.
const LOCATIONS_SHOWN: usize = 3;

/// The tree of a logical plan, root first, each input two columns further in.
pub fn explain_logical(plan: &LogicalPlan) -> String {
    let mut text = String::new();
    let mut open = vec![(plan, 0)];
    while let Some((node, depth)) = open.pop() {
        line(&mut text, depth, logical_line(node));
        let inputs = node.inputs().into_iter().rev();
        open.extend(inputs.map(|input| (input.as_ref(), depth + 1)));
    }
    text
}

/// The stages of a job, producers first: a head line each, then its steps from source to sink.
pub fn explain_stages(graph: &StageGraph) -> String {
    let mut text = String::new();
    for stage in &graph.stages {
        line(
            &mut text,
            0,
            format_args!("stage {}: {}", stage.id.0, extent(&stage.source)),
        );
        line(&mut text, 1, source_line(&stage.source));
        for side in &stage.sides {
            line(&mut text, 1, side_line(side));
        }
        for operator in &stage.operators {
            line(&mut text, 1, operator_line(operator));
        }
        line(&mut text, 1, sink_line(&stage.sink));
    }
    text
}

/// What a stage does on one line: `scan text words → aggregate partial → shuffle hash(word) × 8`.
pub fn describe_stage(stage: &Stage) -> String {
    let mut steps = vec![match &stage.source {
        StageSource::Scan(scan) => format!("scan {}", format_words(&scan.format)),
        shuffle => source_line(shuffle),
    }];
    steps.extend(stage.operators.iter().map(|operator| match operator {
        OperatorSpec::Project { .. } => "project".to_owned(),
        OperatorSpec::Filter { .. } => "filter".to_owned(),
        OperatorSpec::Aggregate { mode, .. } => format!("aggregate {}", mode_word(*mode)),
        OperatorSpec::TopK { limit, .. } => format!("top {limit}"),
        OperatorSpec::Join(join) => format!("join {}", step_word(join.kind)),
        OperatorSpec::Sort { .. } => "sort".to_owned(),
        OperatorSpec::Explode { .. }
        | OperatorSpec::Apply { .. }
        | OperatorSpec::Reduce { .. }
        | OperatorSpec::Limit { .. } => operator_line(operator),
    }));
    steps.push(match &stage.sink {
        SinkSpec::Files { output } => format!("write {}", output.extension()),
        shuffle => sink_line(shuffle),
    });
    steps.join(" → ")
}

fn line(text: &mut String, depth: usize, content: impl Display) {
    writeln!(text, "{:width$}{content}", "", width = depth * 2)
        .expect("writing to a string does not fail");
}

fn logical_line(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::Scan(scan) => format!(
            "scan {} [{}] from {}{}",
            format_words(&scan.format),
            List(&scan_columns(scan)),
            locations(&scan.locations),
            condition(scan.predicate.as_ref())
        ),
        LogicalPlan::Join {
            kind, on, filter, ..
        } => join_line(kind_word(*kind), &equalities(on), filter.as_ref()),
        LogicalPlan::Union { .. } => "union".to_owned(),
        LogicalPlan::Project { exprs, .. } => format!("project {}", List(exprs)),
        LogicalPlan::Filter { predicate, .. } => format!("filter {predicate}"),
        LogicalPlan::Explode { column, .. } => format!("explode {column}"),
        LogicalPlan::Apply { function, .. } => format!("apply {function}"),
        LogicalPlan::Reduce {
            keys,
            order,
            function,
            local,
            ..
        } => reduce_line(keys, order, function, *local),
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => {
            format!("aggregate{}", grouping(group_by, aggregates))
        }
        LogicalPlan::Sort {
            keys,
            limit: Some(limit),
            ..
        } => {
            format!("top {limit} by {}", List(keys))
        }
        LogicalPlan::Sort {
            keys, limit: None, ..
        } => format!("sort by {}", List(keys)),
        LogicalPlan::Repartition {
            keys, partitions, ..
        } => match &keys[..] {
            [] => format!("repartition into {partitions}"),
            keys => format!("repartition into {partitions} by {}", List(keys)),
        },
        LogicalPlan::SortPartitions { keys, .. } => {
            format!("sort within partitions by {}", List(keys))
        }
        LogicalPlan::Limit { offset, limit, .. } => limit_line(*offset, *limit),
        LogicalPlan::Write { output, .. } => write_line(output),
    }
}

fn kind_word(kind: JoinKind) -> &'static str {
    match kind {
        JoinKind::Inner => "inner",
        JoinKind::Left => "left",
        JoinKind::Right => "right",
        JoinKind::Full => "full",
        JoinKind::Semi => "semi",
        JoinKind::Anti => "anti",
    }
}

fn step_word(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Inner => "inner",
        StepKind::ProbeOuter => "probe outer",
        StepKind::BuildOuter => "build outer",
        StepKind::FullOuter => "full outer",
        StepKind::ProbeSemi => "probe semi",
        StepKind::ProbeAnti => "probe anti",
        StepKind::BuildSemi => "build semi",
        StepKind::BuildAnti => "build anti",
    }
}

/// `a = b` for each pair of keys.
fn equalities<'a>(on: impl IntoIterator<Item = &'a (Expr, Expr)>) -> Vec<String> {
    let pairs = on.into_iter();
    pairs
        .map(|(left, right)| format!("{left} = {right}"))
        .collect()
}

fn join_line(kind: &str, on: &[String], filter: Option<&Expr>) -> String {
    let on = match on {
        [] => String::new(),
        on => format!(" on {}", List(on)),
    };
    format!("join {kind}{on}{}", condition(filter))
}

fn condition(predicate: Option<&Expr>) -> String {
    predicate.map_or(String::new(), |predicate| format!(" where {predicate}"))
}

fn reduce_line(keys: &[String], order: &[SortKey], function: &GroupUdf, local: bool) -> String {
    let word = if local { "combine" } else { "reduce" };
    let order = match order {
        [] => String::new(),
        order => format!(" in order of {}", List(order)),
    };
    format!("{word} by {}{order}: {function}", List(keys))
}

fn side_line(side: &Side) -> String {
    let how = if side.broadcast {
        "broadcast"
    } else {
        "with partitions of"
    };
    format!("{how} stage {}", side.stage.0)
}

fn operator_line(operator: &OperatorSpec) -> String {
    match operator {
        OperatorSpec::Join(join) => {
            let keys = join.probe_keys.iter().zip(&join.build_keys);
            let on: Vec<_> = keys
                .map(|(probe, build)| format!("{probe} = {build}"))
                .collect();
            let line = join_line(step_word(join.kind), &on, join.filter.as_ref());
            format!("{line} side {} [{}]", join.side, List(&join.output))
        }
        OperatorSpec::Project { exprs } => format!("project {}", List(exprs)),
        OperatorSpec::Filter { predicate } => format!("filter {predicate}"),
        OperatorSpec::Explode { column } => format!("explode {column}"),
        OperatorSpec::Apply { function } => format!("apply {function}"),
        OperatorSpec::Reduce {
            keys,
            order,
            function,
            local,
        } => reduce_line(keys, order, function, *local),
        OperatorSpec::Aggregate {
            mode,
            group_by,
            aggregates,
        } => {
            format!(
                "aggregate {}{}",
                mode_word(*mode),
                grouping(group_by, aggregates)
            )
        }
        OperatorSpec::TopK { keys, limit } => format!("top {limit} by {}", List(keys)),
        OperatorSpec::Sort { keys } => format!("sort by {}", List(keys)),
        OperatorSpec::Limit { offset, limit } => limit_line(*offset, *limit),
    }
}

fn source_line(source: &StageSource) -> String {
    match source {
        StageSource::Scan(scan) => {
            let names: Vec<&str> = scan
                .projection
                .iter()
                .map(|&i| scan.file_schema.field(i).name().as_str())
                .collect();
            format!(
                "scan {} [{}]{}",
                format_words(&scan.format),
                List(&names),
                condition(scan.predicate.as_ref())
            )
        }
        StageSource::Shuffle { stages, deal, .. } => {
            let numbers: Vec<u32> = stages.iter().map(|stage| stage.0).collect();
            let word = match deal {
                Deal::Gather => "gather",
                Deal::Partitions => "read",
                Deal::Each => "read each partition of",
                Deal::Producers => "pass on",
                Deal::Ranges => "read ranges of",
            };
            format!("{word} stage {}", List(&numbers))
        }
    }
}

fn sink_line(sink: &SinkSpec) -> String {
    match sink {
        SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        } => "shuffle single".to_owned(),
        SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        } => "shuffle sorted".to_owned(),
        SinkSpec::Shuffle {
            partitioning: Partitioning::Hash { keys, partitions },
        } => {
            format!("shuffle hash({}) × {partitions}", List(keys))
        }
        SinkSpec::Files { output } => write_line(output),
    }
}

fn write_line(output: &Output) -> String {
    let order = match &output.options.sort_by[..] {
        [] => String::new(),
        order => {
            let keys: Vec<SortKey> = order.iter().map(SortKey::from).collect();
            format!(" sorted by {}", List(&keys))
        }
    };
    let directories = match &output.options.directories {
        None => String::new(),
        Some(column) => format!(" in directories by {column}"),
    };
    let mode = match output.options.mode {
        OutputMode::ErrorIfExists => "",
        OutputMode::Overwrite => " over what is there",
        OutputMode::Append => " beside what is there",
    };
    let (extension, url) = (output.extension(), &output.url);
    format!("write {extension} to {url}{mode}{directories}{order}")
}

/// How much a stage reads and in how many tasks, as far as that is known before it runs.
fn extent(source: &StageSource) -> String {
    match source {
        StageSource::Scan(scan) => scan_extent(scan),
        StageSource::Shuffle {
            deal: Deal::Gather, ..
        } => counted(1, "task"),
        StageSource::Shuffle {
            deal: Deal::Each, ..
        } => "a task for each partition with rows".to_owned(),
        StageSource::Shuffle { .. } => "tasks by shuffled size".to_owned(),
    }
}

fn scan_extent(scan: &ScanSpec) -> String {
    let bytes: u64 = scan
        .tasks
        .iter()
        .flatten()
        .map(|split| split.end - split.start)
        .sum();
    let files = if scan.files.is_empty() {
        String::new()
    } else {
        format!(" of {}", counted(scan.files.len(), "file"))
    };
    format!(
        "{}, {}{files}",
        counted(scan.tasks.len(), "task"),
        Bytes(bytes)
    )
}

fn grouping(group_by: &[impl Display], aggregates: &[AggregateExpr]) -> String {
    let by = if group_by.is_empty() {
        String::new()
    } else {
        format!(" by {}", List(group_by))
    };
    if aggregates.is_empty() {
        by
    } else {
        format!("{by}: {}", List(aggregates))
    }
}

fn limit_line(offset: u64, limit: u64) -> String {
    if offset == 0 {
        format!("limit {limit}")
    } else {
        format!("limit {limit} after {offset}")
    }
}

fn scan_columns(scan: &Scan) -> Vec<&str> {
    match &scan.projection {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => scan
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect(),
    }
}

fn locations(urls: &[String]) -> String {
    let shown = &urls[..urls.len().min(LOCATIONS_SHOWN)];
    match urls.len() - shown.len() {
        0 => List(shown).to_string(),
        more => format!("{} and {more} more", List(shown)),
    }
}

fn format_words(format: &ScanFormat) -> String {
    let mut words = match format {
        ScanFormat::Text(options) => match options.record {
            TextRecord::Line => "text lines".to_owned(),
            TextRecord::Word => "text words".to_owned(),
        },
        ScanFormat::Csv(_) => "csv".to_owned(),
        ScanFormat::Parquet => "parquet".to_owned(),
    };
    match format {
        ScanFormat::Text(options) if options.strict => words.push_str(" strict"),
        ScanFormat::Csv(options) if !options.header => words.push_str(" without header"),
        _ => {}
    }
    words
}

fn mode_word(mode: AggregateMode) -> &'static str {
    match mode {
        AggregateMode::Single => "single",
        AggregateMode::Partial => "partial",
        AggregateMode::Final => "final",
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// Items with commas between them.
struct List<'a, T>(&'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

/// A size for people: three digits and a binary unit.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() / 10).min(5);
        let unit = UNITS[power as usize - 1];
        // Precision is for people: a size beyond 2^53 bytes loses digits that are not shown.
        let value = self.0 as f64 / 1024_f64.powi(power as i32);
        if value < 10.0 {
            write!(f, "{value:.1} {unit}")
        } else {
            write!(f, "{value:.0} {unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use expect_test::expect;

    use super::*;
    use crate::expr::{col, count_all, lit, words};
    use crate::id::StageId;
    use crate::plan::{FileFormat, FileMeta, Output, Split, TextOptions};

    fn schema(names: &[&str]) -> SchemaRef {
        let field = |name: &&str| Field::new(*name, DataType::Utf8View, true);
        Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
    }

    fn output() -> Output {
        Output {
            url: "file:///out".to_owned(),
            format: FileFormat::Parquet,
            options: crate::plan::OutputOptions::default(),
        }
    }

    #[test]
    fn a_logical_plan_is_a_tree_root_first() {
        let scan = LogicalPlan::Scan(Scan {
            locations: ["a", "b", "c", "d", "e"]
                .map(|name| format!("s3://{name}"))
                .into(),
            format: ScanFormat::Text(TextOptions {
                strict: true,
                ..Default::default()
            }),
            schema: schema(&["path", "offset", "line"]),
            projection: Some(vec!["line".to_owned()]),
            predicate: None,
        });
        let project = LogicalPlan::Project {
            input: scan.into(),
            exprs: vec![words(col("line")).alias("w")],
        };
        let explode = LogicalPlan::Explode {
            input: project.into(),
            column: "w".to_owned(),
        };
        let filter = LogicalPlan::Filter {
            input: explode.into(),
            predicate: col("w").not_eq(lit("a")),
        };
        let aggregate = LogicalPlan::Aggregate {
            input: filter.into(),
            group_by: vec![col("w")],
            aggregates: vec![count_all().alias("n")],
        };
        let keys = vec![col("n").desc(), col("w").asc()];
        let sort = LogicalPlan::Sort {
            input: aggregate.into(),
            keys,
            limit: None,
        };
        let limit = LogicalPlan::Limit {
            input: sort.into(),
            offset: 3,
            limit: 20,
        };
        let plan = LogicalPlan::Write {
            input: limit.into(),
            output: output(),
        };
        expect![[r#"
            write parquet to file:///out
              limit 20 after 3
                sort by n DESC, w
                  aggregate by w: count(*) AS n
                    filter w != "a"
                      explode w
                        project words(line) AS w
                          scan text lines strict [line] from s3://a, s3://b, s3://c and 2 more
        "#]]
        .assert_eq(&explain_logical(&plan));
    }

    #[test]
    fn stages_print_in_the_order_in_which_rows_flow() {
        let split = |start, end| Split {
            url: "file:///a".to_owned(),
            file_bytes: 3000,
            start,
            end,
        };
        let scan = ScanSpec {
            format: ScanFormat::Text(TextOptions {
                record: TextRecord::Word,
                strict: false,
            }),
            file_schema: schema(&["word"]),
            projection: vec![0],
            predicate: None,
            key_filters: Vec::new(),
            files: vec![FileMeta {
                url: "file:///a".to_owned(),
                bytes: 3000,
            }],
            tasks: vec![vec![split(0, 1500)], vec![split(1500, 3000)]],
        };
        let aggregate = |mode| OperatorSpec::Aggregate {
            mode,
            group_by: vec![col("word")],
            aggregates: vec![count_all()],
        };
        let first = Stage {
            id: StageId(0),
            source: StageSource::Scan(scan),
            sides: Vec::new(),
            operators: vec![aggregate(AggregateMode::Partial)],
            sink: SinkSpec::Shuffle {
                partitioning: Partitioning::Hash {
                    keys: vec!["word".to_owned()],
                    partitions: 8,
                },
            },
            schema: schema(&["word", "count"]),
        };
        let second = Stage {
            id: StageId(1),
            source: StageSource::Shuffle {
                stages: vec![StageId(0)],
                schema: schema(&["word", "count"]),
                deal: Deal::Partitions,
            },
            sides: Vec::new(),
            operators: vec![aggregate(AggregateMode::Final)],
            sink: SinkSpec::Files { output: output() },
            schema: schema(&["word", "count"]),
        };
        expect!["scan text words → aggregate partial → shuffle hash(word) × 8"]
            .assert_eq(&describe_stage(&first));
        expect!["read stage 0 → aggregate final → write parquet"]
            .assert_eq(&describe_stage(&second));
        let graph = StageGraph {
            stages: vec![first.into(), second.into()],
            complete: true,
            output: Some(output()),
        };
        expect![[r#"
            stage 0: 2 tasks, 2.9 KiB of 1 file
              scan text words [word]
              aggregate partial by word: count(*)
              shuffle hash(word) × 8
            stage 1: tasks by shuffled size
              read stage 0
              aggregate final by word: count(*)
              write parquet to file:///out
        "#]]
        .assert_eq(&explain_stages(&graph));
    }

    #[test]
    fn sizes_have_the_unit_that_people_would_choose() {
        let shown: Vec<String> = [0, 1023, 1024, 15_000, 256 << 20, u64::MAX]
            .map(|n| Bytes(n).to_string())
            .into();
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "15 KiB", "256 MiB", "16384 PiB"]
        );
    }
}
