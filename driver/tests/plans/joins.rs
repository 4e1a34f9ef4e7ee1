//! Plans in which rows of several tables meet.

use std::sync::Arc;

use expect_test::expect_file;
use kiln_driver::planner::ClusterShape;
use kiln_engine::expr::{Expr, col, lower, sum};
use kiln_engine::plan::{JoinKind, LogicalPlan, ScanFormat};

use crate::fixture::*;

fn join(
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    kind: JoinKind,
    on: (Expr, Expr),
) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Join {
        left,
        right,
        kind,
        on: vec![on],
        filter: None,
    })
}

/// Two columns of `sales` under names of their own.
fn notes(sales: Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    let named = [col("country").alias("place"), col("note").alias("remark")];
    project(sales, named)
}

#[tokio::test]
async fn rows_that_were_chosen_are_the_same_in_both_places() {
    let inputs = Inputs::of_parquet([300; 4]);
    let some = limit(inputs.sales(ScanFormat::Parquet), 0, 10);
    let prices = project(Arc::clone(&some), [col("country"), col("price")]);
    let on = (col("country"), col("place"));
    let plan = join(prices, notes(some), JoinKind::Inner, on);
    let expected = expect_file!["join_of_limit.txt"];
    inputs.check(plan, &CLUSTER, expected).await;
}

#[tokio::test]
async fn the_first_rows_are_in_order_again_where_they_are_read() {
    let inputs = Inputs::of_parquet([300; 4]);
    let sales = inputs.sales(ScanFormat::Parquet);
    let dear = limit(sort(sales, [col("price").desc()]), 0, 100);
    let phones = filter(Arc::clone(&dear), col("device").eq("phone"));
    let on = (col("country"), col("place"));
    let plan = join(limit(phones, 0, 5), notes(dear), JoinKind::Semi, on);
    let expected = expect_file!["join_of_first_rows.txt"];
    inputs.check(plan, &CLUSTER, expected).await;
}

#[tokio::test]
async fn computed_keys_take_names_that_no_column_has() {
    let inputs = Inputs::of_parquet([300; 4]);
    let totals = aggregate(
        inputs.sales(ScanFormat::Parquet),
        [lower(col("country")).alias(":probe0")],
        [sum(col("price")).alias(":build0")],
    );
    let on = (lower(col(":probe0")), lower(col("place")));
    let others = notes(inputs.sales(ScanFormat::Parquet));
    let plan = join(totals, others, JoinKind::Left, on);
    let expected = expect_file!["join_on_computed.txt"];
    inputs.check(plan, &CLUSTER, expected).await;
}

#[tokio::test]
async fn a_guess_does_not_decide_that_a_side_is_small() {
    let inputs = Inputs::new([300; 4]);
    let few = inputs.sales(ScanFormat::Csv(Default::default()));
    let few = filter(few, col("device").eq("phone").and(col("note").eq("")));
    let sales = inputs.sales(ScanFormat::Csv(Default::default()));
    let on = (col("country"), col("place"));
    let plan = join(sales, notes(few), JoinKind::Inner, on);
    let expected = expect_file!["join_of_unknown.txt"];
    inputs.check(plan, &CLUSTER, expected).await;
}

#[tokio::test]
async fn sides_that_do_not_fit_into_memory_are_dealt_out_without_a_cluster() {
    let inputs = Inputs::new([300; 4]);
    let sales = || inputs.sales(ScanFormat::Csv(Default::default()));
    let on = (col("country"), col("place"));
    let plan = join(sales(), notes(sales()), JoinKind::Inner, on);
    let expected = expect_file!["join_embedded.txt"];
    inputs.check(plan.clone(), &EMBEDDED, expected).await;
    let expected = expect_file!["join_small_memory.txt"];
    inputs.check(plan, &SMALL_MEMORY, expected).await;
}

#[tokio::test]
async fn a_plan_comes_to_an_end_without_executors_and_memory() {
    let inputs = Inputs::new([10; 2]);
    let sales = || inputs.sales(ScanFormat::Csv(Default::default()));
    for may_grow in [true, false] {
        let nobody = ClusterShape {
            executors: 0,
            threads: 0,
            memory: 0,
            may_grow,
        };
        for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Full] {
            let on = (lower(col("country")), lower(col("place")));
            let plan = join(sales(), notes(sales()), kind, on);
            for bytes in [1, 1 << 30] {
                let stages = inputs.stages_of(&plan, &nobody, bytes).await;
                assert!(stages.lines().count() < 30, "{kind:?}: {stages}");
            }
            let explained = inputs.explain(&plan, &nobody).await;
            explained.expect("a plan that fits together");
        }
    }
}

#[tokio::test]
async fn a_side_that_turns_out_large_is_dealt_out_once_more() {
    let inputs = Inputs::new([300; 4]);
    let few = inputs.sales(ScanFormat::Csv(Default::default()));
    let few = filter(few, col("device").eq("phone").and(col("note").eq("")));
    let sales = inputs.sales(ScanFormat::Csv(Default::default()));
    let on = (col("country"), col("place"));
    let plan = join(sales, notes(few), JoinKind::Inner, on);
    let expected = expect_file!["join_underestimated.txt"];
    let stages = inputs.stages_of(&plan, &SMALL_MEMORY, 1 << 30).await;
    expected.assert_eq(&stages);
    let expected = expect_file!["join_estimated.txt"];
    let stages = inputs.stages_of(&plan, &SMALL_MEMORY, 1 << 20).await;
    expected.assert_eq(&stages);
}
