//! Whole plans, from what a user writes to the stages that run, as text.
//!
//! Each file in `tests/plans/` is the explanation of one job on one cluster. The input files are
//! as large as they say but hold no bytes, apart from the footers of Parquet. Update them with
//! `UPDATE_EXPECT=1 cargo test plans`, and read what changed.

mod fixture;
mod joins;

use std::sync::Arc;

use expect_test::expect_file;
use kiln_engine::expr::{avg, col, count_all, lower, sum, words};
use kiln_engine::plan::{LogicalPlan, ScanFormat};
use kiln_engine::{ErrorKind, limits};

use fixture::*;

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
        .check(plan, &EMBEDDED, expect_file!["word_count_embedded.txt"])
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
            expect_file!["word_count_small_memory.txt"],
        )
        .await;
}

#[tokio::test]
async fn word_count_on_a_cluster_is_shuffled() {
    let inputs = Inputs::new([1200, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(plan, &CLUSTER, expect_file!["word_count_cluster.txt"])
        .await;
}

#[tokio::test]
async fn word_count_on_one_executor_leaves_tasks_for_others() {
    let inputs = Inputs::new([600, 3, 40]);
    let plan = top(word_counts(inputs.lines()), 20);
    inputs
        .check(plan, &GROWING, expect_file!["word_count_growing.txt"])
        .await;
}

#[tokio::test]
async fn word_count_of_a_small_file_is_one_task_anywhere() {
    let inputs = Inputs::new([1]);
    let plan = write(word_counts(inputs.lines()));
    inputs
        .check(plan, &CLUSTER, expect_file!["word_count_small.txt"])
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
            expect_file!["word_count_lower.txt"],
        )
        .await;
}

#[tokio::test]
async fn an_order_is_cut_into_ranges_if_it_is_that_of_the_result() {
    let inputs = Inputs::new([300; 4]);
    let sorted = || sort(word_counts(inputs.lines()), [col("count").desc()]);
    let most = filter(sorted(), col("count").gt(1));
    let upper = project(most.clone(), [lower(col("word"))]);
    let expected = expect_file!["sort_cluster.txt"];
    inputs.check(upper, &CLUSTER, expected).await;
    let expected = expect_file!["sort_embedded.txt"];
    inputs.check(most, &EMBEDDED, expected).await;
    let expected = expect_file!["sort_below_limit.txt"];
    inputs
        .check(limit(sorted(), 5, 10), &CLUSTER, expected)
        .await;
}

#[tokio::test]
async fn rows_are_dealt_out_to_as_many_tasks_as_asked_for() {
    let inputs = Inputs::new([300; 4]);
    let counts = sort(word_counts(inputs.lines()), [col("count").desc()]);
    let dealt = |input, keys: &[&str], partitions| {
        Arc::new(LogicalPlan::Repartition {
            input,
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            partitions,
        })
    };
    let by_length = dealt(dealt(counts, &[], 3), &["count"], 5);
    let in_order = Arc::new(LogicalPlan::SortPartitions {
        input: by_length,
        keys: vec![col("count").asc(), col("word").asc()],
    });
    let same = aggregate(in_order, [col("count")], [count_all().alias("words")]);
    let expected = expect_file!["repartition.txt"];
    inputs.check(dealt(same, &[], 1), &EMBEDDED, expected).await;
}

#[tokio::test]
async fn matching_lines_are_filtered_where_they_are_read() {
    let inputs = Inputs::new([300; 4]);
    let matching = filter(
        inputs.lines(),
        kiln_engine::expr::regexp_like(col("line"), "a+b"),
    );
    inputs
        .check(matching, &CLUSTER, expect_file!["grep.txt"])
        .await;
}

#[tokio::test]
async fn a_limit_is_taken_in_every_task_and_again_behind_them() {
    let inputs = Inputs::new([300; 4]);
    let plan = limit(project(inputs.lines(), [col("line")]), 5, 10);
    inputs
        .check(plan, &CLUSTER, expect_file!["limit.txt"])
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
        .check(plan, &CLUSTER, expect_file!["group_by_computed.txt"])
        .await;
}

#[tokio::test]
async fn an_aggregate_without_keys_gathers() {
    let inputs = Inputs::new([600, 20]);
    let csv = inputs.sales(ScanFormat::Csv(Default::default()));
    let plan = aggregate(csv, [], [count_all(), avg(col("price"))]);
    inputs
        .check(plan, &CLUSTER, expect_file!["aggregate_all.txt"])
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
            expect_file!["filter_above_aggregate.txt"],
        )
        .await;
}

#[tokio::test]
async fn compressed_files_stay_whole() {
    let inputs = Inputs::new([600]);
    inputs.begin_with(0, &[0x1f, 0x8b, 8, 0]);
    let plan = project(inputs.lines(), [col("line")]);
    inputs
        .check(plan, &CLUSTER, expect_file!["compressed.txt"])
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
