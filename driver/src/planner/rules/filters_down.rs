//! Rows that nobody wants are dropped before anything is computed from them.
//!
//! A predicate sinks below an operator when it reads only columns that pass that operator
//! unchanged, and when asking it of more rows than before cannot make it fail. Where a scan can
//! ask it of the files, it becomes part of the scan.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::expr::Expr;
use kiln_engine::plan::{JoinKind, LogicalPlan, Scan, ScanFormat};

use super::filters_at_join::{JoinNode, at_join, passes_left, passes_right};
use crate::planner::predicate::{
    add_part, behind, filtered, join_parts, never_fails_over, parts_of,
};
use crate::planner::rewrite::{columns, rewrite_up};

/// Moves each part of each filter, and of what joins ask, as close to the scans as it may go.
pub(in crate::planner) fn filters_down(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Filter { .. } | LogicalPlan::Join { .. } => sink(node, Vec::new()),
        other => other,
    }))
}

/// `plan` with only those rows for which `parts` are true, asked as far down as each may be.
fn sink(plan: LogicalPlan, parts: Vec<Expr>) -> LogicalPlan {
    match plan {
        LogicalPlan::Filter { input, predicate } => {
            let mut all = parts_of(Some(&predicate));
            for part in parts {
                add_part(&mut all, part);
            }
            sink(owned(input), all)
        }
        LogicalPlan::Project { input, exprs } => {
            let (down, stay) = divide(parts, &input, true, &|part| behind(part, &exprs));
            let input = sunk(input, down);
            filtered(LogicalPlan::Project { input, exprs }, stay)
        }
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => {
            let (down, stay) = divide(parts, &input, true, &|part| behind_keys(part, &group_by));
            let input = sunk(input, down);
            let node = LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            };
            filtered(node, stay)
        }
        LogicalPlan::Sort {
            input,
            keys,
            limit: None,
        } => LogicalPlan::Sort {
            input: sunk(input, parts),
            keys,
            limit: None,
        },
        LogicalPlan::Repartition {
            input,
            keys,
            partitions,
        } => {
            // What is dear may be why the rows are dealt out.
            let (stay, down): (Vec<_>, Vec<_>) = parts.into_iter().partition(Expr::calls_functions);
            let input = sunk(input, down);
            let node = LogicalPlan::Repartition {
                input,
                keys,
                partitions,
            };
            filtered(node, stay)
        }
        LogicalPlan::SortPartitions { input, keys } => LogicalPlan::SortPartitions {
            input: sunk(input, parts),
            keys,
        },
        LogicalPlan::Explode { input, column } => {
            // Rows with an empty list are asked as well now.
            let (down, stay) = divide(parts, &input, false, &|part| {
                (!columns([part]).contains(&column)).then(|| part.clone())
            });
            let input = sunk(input, down);
            filtered(LogicalPlan::Explode { input, column }, stay)
        }
        LogicalPlan::Union { inputs } => LogicalPlan::Union {
            inputs: inputs
                .into_iter()
                .map(|input| sunk(input, parts.clone()))
                .collect(),
        },
        LogicalPlan::Join {
            left,
            right,
            kind,
            on,
            filter,
        } => at_join(
            JoinNode {
                left: owned(left),
                right: owned(right),
                kind,
                on,
                filter,
            },
            parts,
            &sink_new,
        ),
        LogicalPlan::Scan(scan) if scan.format == ScanFormat::Parquet => into_scan(scan, parts),
        LogicalPlan::Scan(_)
        | LogicalPlan::Sort { .. }
        | LogicalPlan::Limit { .. }
        | LogicalPlan::Apply { .. }
        | LogicalPlan::Reduce { .. }
        | LogicalPlan::Write { .. } => filtered(plan, parts),
    }
}

/// As [`sink`], without what is asked of the rows already.
fn sink_new(plan: LogicalPlan, parts: Vec<Expr>) -> LogicalPlan {
    let parts: Vec<Expr> = parts
        .into_iter()
        .filter(|part| !is_asked(&plan, part))
        .collect();
    if parts.is_empty() {
        return plan;
    }
    sink(plan, parts)
}

/// The predicate below an aggregate, if it may go there. A group is there as long as one of its
/// rows is; without a key there is one anyway, whatever is asked below.
fn behind_keys(part: &Expr, group_by: &[Expr]) -> Option<Expr> {
    let reads_keys = !columns([part]).is_empty();
    reads_keys.then(|| behind(part, group_by))?
}

fn sunk(input: Arc<LogicalPlan>, parts: Vec<Expr>) -> Arc<LogicalPlan> {
    if parts.is_empty() {
        return input;
    }
    Arc::new(sink(owned(input), parts))
}

fn owned(plan: Arc<LogicalPlan>) -> LogicalPlan {
    Arc::unwrap_or_clone(plan)
}

/// The parts that may go down to `input`, as they read there, and those that stay. What may fail
/// stays behind whatever stays before it, which may be its guard, and where there are more rows
/// below.
fn divide(
    parts: Vec<Expr>,
    input: &LogicalPlan,
    as_many_rows: bool,
    below: &dyn Fn(&Expr) -> Option<Expr>,
) -> (Vec<Expr>, Vec<Expr>) {
    let (mut down, mut stay) = (Vec::new(), Vec::new());
    for part in parts {
        let unguarded = as_many_rows && stay.is_empty();
        match below(&part).filter(|below| unguarded || never_fails_over(below, &[input])) {
            Some(part) => add_part(&mut down, part),
            None => add_part(&mut stay, part),
        }
    }
    (down, stay)
}

/// The scan with `parts` added to what it asks, as far as expressions may nest.
fn into_scan(mut scan: Scan, parts: Vec<Expr>) -> LogicalPlan {
    let mut all = parts_of(scan.predicate.as_ref());
    for part in parts {
        add_part(&mut all, part);
    }
    let (predicate, rest) = join_parts(all);
    scan.predicate = predicate;
    filtered(LogicalPlan::Scan(scan), rest)
}

/// Whether `part` is asked of the rows of `plan` already, wherever [`sink`] put it.
fn is_asked(plan: &LogicalPlan, part: &Expr) -> bool {
    match plan {
        LogicalPlan::Filter { input, predicate } => {
            predicate.conjuncts().contains(&part) || is_asked(input, part)
        }
        LogicalPlan::Scan(scan) => {
            let mut asked = scan.predicate.iter().flat_map(Expr::conjuncts);
            asked.any(|asked| asked == part)
        }
        LogicalPlan::Project { input, exprs } => {
            behind(part, exprs).is_some_and(|part| is_asked(input, &part))
        }
        LogicalPlan::Aggregate {
            input, group_by, ..
        } => behind_keys(part, group_by).is_some_and(|part| is_asked(input, &part)),
        LogicalPlan::Explode { input, column } => {
            !columns([part]).contains(column) && is_asked(input, part)
        }
        LogicalPlan::Sort { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. }
        | LogicalPlan::Limit { input, .. }
        | LogicalPlan::Write { input, .. } => is_asked(input, part),
        LogicalPlan::Apply { .. } | LogicalPlan::Reduce { .. } => false,
        LogicalPlan::Union { inputs } => inputs.iter().all(|input| is_asked(input, part)),
        LogicalPlan::Join {
            left,
            right,
            kind,
            filter,
            ..
        } => {
            let mut own = filter.iter().flat_map(Expr::conjuncts);
            passes_left(*kind) && is_asked(left, part)
                || passes_right(*kind) && is_asked(right, part)
                || *kind == JoinKind::Inner && own.any(|own| own == part)
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, count_all, lit, words};

    use super::super::fixture::{check, lines, table};
    use super::*;

    #[test]
    fn parts_sink_as_far_as_each_may() {
        let plan = lines()
            .project([col("path").alias("file"), words(col("line")).alias("word")])
            .explode("word")
            .filter(col("file").eq("a").and(col("word").eq("b")));
        check(
            filters_down,
            plan,
            expect![[r#"
            filter file = "a" AND word = "b"
              explode word
                project path AS file, words(line) AS word
                  scan text lines [path, offset, line] from memory:///in
            →
            filter word = "b"
              explode word
                project path AS file, words(line) AS word
                  filter path = "a"
                    scan text lines [path, offset, line] from memory:///in
        "#]],
        );
    }

    #[test]
    fn a_filter_on_keys_passes_the_aggregate_and_one_on_results_does_not() {
        let plan = table()
            .aggregate([col("s").alias("key")], [count_all().alias("n")])
            .sort([col("n").asc()])
            .filter(col("key").eq("x").and(col("n").gt(1)));
        check(
            filters_down,
            plan,
            expect![[r#"
                filter key = "x" AND n > 1
                  sort by n
                    aggregate by s AS key: count(*) AS n
                      scan parquet [s, a, b, c] from memory:///in
                →
                sort by n
                  filter n > 1
                    aggregate by s AS key: count(*) AS n
                      scan parquet [s, a, b, c] from memory:///in where s = "x"
            "#]],
        );
    }

    #[test]
    fn what_would_change_the_result_stays() {
        for plan in [
            table().limit(0, 3).filter(col("a").gt(1)),
            table()
                .project([(col("a") + 1).alias("x")])
                .filter(col("x").gt(1)),
            table().aggregate([], [count_all()]).filter(lit(false)),
            lines()
                .project([col("offset"), words(col("line")).alias("w")])
                .explode("w")
                .filter((lit(1) / col("offset")).gt(1)),
        ] {
            assert_eq!(filters_down(plan.0.clone()).expect("a plan"), plan.0);
        }
    }

    #[test]
    fn what_reads_no_key_is_not_asked_below_an_aggregate() {
        let counted = table().filter(lit(false)).aggregate([], [count_all()]);
        let plan = counted.clone().filter(lit(false));
        assert!(!is_asked(&counted.0, &lit(false)));
        check(
            filters_down,
            plan,
            expect![[r#"
            filter false
              aggregate: count(*)
                filter false
                  scan parquet [s, a, b, c] from memory:///in
            →
            filter false
              aggregate: count(*)
                scan parquet [s, a, b, c] from memory:///in where false
        "#]],
        );
    }
}
