//! Whole plans, from what a user writes to the stages that run, as text.
//!
//! Each file in `tests/plans/` is the explanation of one job on one cluster. The input files are
//! as large as they say but hold no bytes, apart from the footers of Parquet. Update them with
//! `UPDATE_EXPECT=1 cargo test plans`, and read what changed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use expect_test::{ExpectFile, expect_file};
use kiln_driver::planner::{self, ClusterShape, Planner};
use kiln_engine::expr::{AggregateExpr, Expr, SortKey, avg, col, count_all, lower, sum, words};
use kiln_engine::plan::{
    FileFormat, LogicalPlan, Output, Scan, ScanFormat, TextOptions, schema_of,
};
use kiln_engine::storage::{Stores, local_url};
use kiln_engine::{ErrorKind, Result, limits};
use parquet::arrow::ArrowWriter;

const MIB: u64 = 1 << 20;

const EMBEDDED: ClusterShape = ClusterShape {
    executors: 1,
    threads: 2,
    memory: 8 << 30,
    may_grow: false,
};
const SMALL_MEMORY: ClusterShape = ClusterShape {
    memory: 1 << 30,
    ..EMBEDDED
};
const CLUSTER: ClusterShape = ClusterShape {
    executors: 2,
    threads: 8,
    memory: 8 << 30,
    may_grow: true,
};
/// A cluster of which the first executor is there.
const GROWING: ClusterShape = ClusterShape {
    may_grow: true,
    ..EMBEDDED
};

/// A directory of input files of given sizes, without bytes in them.
struct Inputs(tempfile::TempDir);

impl Inputs {
    fn new(mib: impl IntoIterator<Item = u64>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (index, mib) in mib.into_iter().enumerate() {
            let file = File::create(directory.path().join(format!("{index}"))).expect("a file");
            file.set_len(mib * MIB).expect("a file of that size");
        }
        Inputs(directory)
    }

    /// Parquet files whose footers tell of two rows, and which hold nothing of those.
    fn of_parquet(mib: impl IntoIterator<Item = u64> + Clone) -> Self {
        let inputs = Inputs::new(mib.clone());
        let rows: [(&str, ArrayRef); 4] = [
            ("country", Arc::new(StringArray::from(vec!["nz", "fi"]))),
            ("device", Arc::new(StringArray::from(vec!["phone", "desk"]))),
            ("price", Arc::new(Float64Array::from(vec![1.0, 9.0]))),
            ("note", Arc::new(StringArray::from(vec!["", ""]))),
        ];
        let rows = RecordBatch::try_from_iter(rows).expect("columns of one length");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("rows");
        writer.close().expect("a file");
        let (rest, tail) = bytes.split_last_chunk::<8>().expect("a file has a tail");
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
        let footer = &bytes[rest.len() - length..];
        for (index, mib) in mib.into_iter().enumerate() {
            let path = inputs.0.path().join(format!("{index}"));
            let file = File::options().write(true).open(path).expect("the file");
            let at = mib * MIB - footer.len() as u64;
            file.write_all_at(footer, at).expect("room for the footer");
        }
        inputs
    }

    fn location(&self) -> String {
        local_url(self.0.path())
    }

    fn scan(&self, format: ScanFormat, columns: &[(&str, DataType)]) -> Arc<LogicalPlan> {
        let fields = columns
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Arc::new(LogicalPlan::Scan(Scan {
            locations: vec![self.location()],
            format,
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            projection: None,
            predicate: None,
        }))
    }

    fn lines(&self) -> Arc<LogicalPlan> {
        let columns = [
            ("path", DataType::Utf8View),
            ("offset", DataType::Int64),
            ("line", DataType::Utf8View),
        ];
        self.scan(ScanFormat::Text(TextOptions::default()), &columns)
    }

    fn sales(&self, format: ScanFormat) -> Arc<LogicalPlan> {
        let columns = [
            ("country", DataType::Utf8View),
            ("device", DataType::Utf8View),
            ("price", DataType::Float64),
            ("note", DataType::Utf8View),
        ];
        self.scan(format, &columns)
    }

    async fn explain(&self, plan: &LogicalPlan, cluster: &ClusterShape) -> Result<String> {
        let text = planner::explain(plan, cluster, &Stores::default()).await?;
        Ok(text.replace(&self.location(), "file:///in"))
    }

    async fn check(&self, plan: Arc<LogicalPlan>, cluster: &ClusterShape, expected: ExpectFile) {
        let text = self
            .explain(&plan, cluster)
            .await
            .expect("a plan that fits together");
        expected.assert_eq(&text);
        let planner = Planner::new(&plan, *cluster, &Stores::default()).await;
        let graph = planner.and_then(Planner::foresee).expect("stages");
        let result = graph.stages.last().expect("a last stage");
        let wanted = schema_of(&plan).expect("a plan that fits together");
        assert_eq!(
            columns(&result.schema),
            columns(&wanted),
            "the stages make other columns"
        );
    }
}

fn columns(schema: &Schema) -> Vec<(&String, &DataType)> {
    schema
        .fields()
        .iter()
        .map(|field| (field.name(), field.data_type()))
        .collect()
}

fn project<const N: usize>(input: Arc<LogicalPlan>, exprs: [Expr; N]) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Project {
        input,
        exprs: exprs.into(),
    })
}

fn filter(input: Arc<LogicalPlan>, predicate: Expr) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Filter { input, predicate })
}

fn aggregate<const K: usize, const A: usize>(
    input: Arc<LogicalPlan>,
    group_by: [Expr; K],
    aggregates: [AggregateExpr; A],
) -> Arc<LogicalPlan> {
    let (group_by, aggregates) = (group_by.into(), aggregates.into());
    Arc::new(LogicalPlan::Aggregate {
        input,
        group_by,
        aggregates,
    })
}

fn sort<const N: usize>(input: Arc<LogicalPlan>, keys: [SortKey; N]) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Sort {
        input,
        keys: keys.into(),
        limit: None,
    })
}

fn limit(input: Arc<LogicalPlan>, offset: u64, limit: u64) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Limit {
        input,
        offset,
        limit,
    })
}

fn write(input: Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    let output = Output {
        url: "file:///out".to_owned(),
        format: FileFormat::Parquet,
        options: Default::default(),
    };
    Arc::new(LogicalPlan::Write { input, output })
}

/// The words of lines, counted.
fn word_counts(lines: Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    let lists = project(lines, [words(col("line")).alias("word")]);
    let words = Arc::new(LogicalPlan::Explode {
        input: lists,
        column: "word".to_owned(),
    });
    aggregate(words, [col("word")], [count_all().alias("count")])
}

fn top(counts: Arc<LogicalPlan>, rows: u64) -> Arc<LogicalPlan> {
    limit(
        sort(counts, [col("count").desc(), col("word").asc()]),
        0,
        rows,
    )
}

#[tokio::test]
async fn word_count_embedded_is_one_stage() {
    let inputs = Inputs::new([1200, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(
            plan,
            &EMBEDDED,
            expect_file!["plans/word_count_embedded.txt"],
        )
        .await;
}

#[tokio::test]
async fn word_count_beyond_memory_is_shuffled() {
    let inputs = Inputs::new([1200, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(
            plan,
            &SMALL_MEMORY,
            expect_file!["plans/word_count_small_memory.txt"],
        )
        .await;
}

#[tokio::test]
async fn word_count_on_a_cluster_is_shuffled() {
    let inputs = Inputs::new([1200, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/word_count_cluster.txt"])
        .await;
}

#[tokio::test]
async fn word_count_on_one_executor_leaves_tasks_for_others() {
    let inputs = Inputs::new([600, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(plan, &GROWING, expect_file!["plans/word_count_growing.txt"])
        .await;
}

#[tokio::test]
async fn word_count_of_a_small_file_is_one_task_anywhere() {
    let inputs = Inputs::new([1]);
    let plan = write(word_counts(inputs.lines()));
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/word_count_small.txt"])
        .await;
}

#[tokio::test]
async fn lower_case_words_are_counted_from_the_scan() {
    let inputs = Inputs::new([100; 10]);
    let lists = project(inputs.lines(), [words(col("line")).alias("word")]);
    let words = Arc::new(LogicalPlan::Explode {
        input: lists,
        column: "word".to_owned(),
    });
    let lowered = project(words, [lower(col("word")).alias("word")]);
    let counts = aggregate(lowered, [col("word")], [count_all().alias("count")]);
    inputs
        .check(
            write(counts),
            &CLUSTER,
            expect_file!["plans/word_count_lower.txt"],
        )
        .await;
}

#[tokio::test]
async fn matching_lines_are_filtered_where_they_are_read() {
    let inputs = Inputs::new([300; 4]);
    let matching = filter(
        inputs.lines(),
        kiln_engine::expr::regexp_like(col("line"), "a+b"),
    );
    inputs
        .check(matching, &CLUSTER, expect_file!["plans/grep.txt"])
        .await;
}

#[tokio::test]
async fn a_limit_is_taken_in_every_task_and_again_behind_them() {
    let inputs = Inputs::new([300; 4]);
    let plan = limit(project(inputs.lines(), [col("line")]), 5, 10);
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/limit.txt"])
        .await;
}

#[tokio::test]
async fn groups_by_computed_keys_read_only_what_they_need() {
    let inputs = Inputs::of_parquet([600, 20]);
    let sold = filter(inputs.sales(ScanFormat::Parquet), col("price").gt(0));
    let keys = [lower(col("country")).alias("country"), col("device")];
    let totals = aggregate(
        sold,
        keys,
        [sum(col("price")).alias("total"), avg(col("price"))],
    );
    let plan = sort(totals, [col("total").desc()]);
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/group_by_computed.txt"])
        .await;
}

#[tokio::test]
async fn an_aggregate_without_keys_gathers() {
    let inputs = Inputs::new([600, 20]);
    let csv = inputs.sales(ScanFormat::Csv(Default::default()));
    let plan = aggregate(csv, [], [count_all(), avg(col("price"))]);
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/aggregate_all.txt"])
        .await;
}

#[tokio::test]
async fn a_filter_above_an_aggregate_reaches_the_scan() {
    let inputs = Inputs::of_parquet([600]);
    let counts = aggregate(
        inputs.sales(ScanFormat::Parquet),
        [col("country"), col("device")],
        [count_all().alias("n")],
    );
    let wanted = filter(counts, col("country").eq("nz").and(col("n").gt(1)));
    let plan = aggregate(wanted, [col("device")], [sum(col("n")).alias("n")]);
    inputs
        .check(
            write(plan),
            &CLUSTER,
            expect_file!["plans/filter_above_aggregate.txt"],
        )
        .await;
}

#[tokio::test]
async fn compressed_files_stay_whole() {
    let inputs = Inputs::new([600]);
    let mut file = File::options()
        .write(true)
        .open(inputs.0.path().join("0"))
        .expect("the file");
    file.write_all(&[0x1f, 0x8b, 8, 0])
        .expect("the head of a gzip file");
    let plan = project(inputs.lines(), [col("line")]);
    inputs
        .check(plan, &CLUSTER, expect_file!["plans/compressed.txt"])
        .await;
}

#[tokio::test]
async fn what_does_not_fit_together_is_invalid() {
    let inputs = Inputs::new([1]);
    let cases = [
        (
            limit(write(inputs.lines()), 0, 1),
            "write has to be the last step of a plan",
        ),
        (
            project(inputs.lines(), [col("lien")]),
            "unknown column \"lien\"",
        ),
        (
            filter(inputs.lines(), col("offset")),
            "a filter has to be a boolean",
        ),
    ];
    for (plan, expected) in cases {
        let error = inputs.explain(&plan, &CLUSTER).await.expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(expected), "{}", error.report());
    }
}

#[tokio::test]
async fn a_plan_that_is_too_deep_is_refused_before_anything_recurses_into_it() {
    let inputs = Inputs::new([1]);
    let deep = |filters| {
        let grow = |plan, _| filter(plan, col("line").is_not_null());
        (0..filters).fold(inputs.lines(), grow)
    };
    // The scan is one of them.
    let most = limits::PLAN_DEPTH_MAX;
    let planned = inputs.explain(&deep(most - 1), &EMBEDDED).await;
    planned.expect("a plan at the limit");
    let error = inputs.explain(&deep(most), &EMBEDDED).await;
    let error = error.expect_err("a plan past the limit");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        format!("the plan is nested too deeply limit={most}")
    );
}
