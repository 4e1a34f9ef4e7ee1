//! Columns that nothing reads are not made, not carried along and not read from files.
//!
//! Scans, projections, aggregates and unions are told what to make. A join makes all columns of
//! its sides, so where that is more than is read there is a projection of plain columns on top of
//! it: the planner makes that the join's own output. The sides of a join get one, too, because
//! their rows may be stored or sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, output_name};
use kiln_engine::plan::{JoinKind, LogicalPlan, Scan};

use crate::planner::rewrite::{
    column_names, column_set, columns, only_columns, unaliased, with_inputs,
};

/// What is read of a node's columns: those named, or all.
type Needed = Option<BTreeSet<String>>;

/// Drops columns, from the root to the scans, that no node above reads.
pub(in crate::planner) fn columns_needed(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(prune(&plan, &None))
}

/// The plan without what is not needed of it. A join, and what only chooses rows, may make more.
fn prune(plan: &LogicalPlan, needed: &Needed) -> LogicalPlan {
    match plan {
        LogicalPlan::Scan(scan) => LogicalPlan::Scan(prune_scan(scan, needed)),
        LogicalPlan::Project { input, exprs } => {
            let exprs = keep(exprs, needed, output_name, |expr| {
                matches!(unaliased(expr), Expr::Column(_))
            });
            let below = Some(columns(&exprs));
            LogicalPlan::Project {
                input: prune(input, &below).into(),
                exprs,
            }
        }
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => {
            let aggregates = prune_aggregates(group_by, aggregates, needed);
            let arguments = aggregates
                .iter()
                .flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
            let below = Some(columns(group_by.iter().chain(arguments)));
            LogicalPlan::Aggregate {
                input: prune_joined(input, &below).into(),
                group_by: group_by.clone(),
                aggregates,
            }
        }
        LogicalPlan::Join {
            left,
            right,
            kind,
            on,
            filter,
        } => {
            let (left, right) = prune_sides(left, right, *kind, on, filter.as_ref(), needed);
            with_inputs(plan, vec![left.into(), right.into()])
        }
        LogicalPlan::Union { inputs } => {
            let names = keep(&column_names(plan), needed, String::clone, |_| true);
            let below = Some(names.iter().cloned().collect());
            let pruned = inputs
                .iter()
                .map(|input| Arc::new(only_columns(prune(input, &below), &names)));
            LogicalPlan::Union {
                inputs: pruned.collect(),
            }
        }
        LogicalPlan::Filter { input, predicate } => pass(plan, input, needed, columns([predicate])),
        // A function is given all columns.
        LogicalPlan::Apply { input, .. } | LogicalPlan::Reduce { input, .. } => {
            with_inputs(plan, vec![Arc::new(prune(input, &None))])
        }
        LogicalPlan::Explode { input, column } => {
            pass(plan, input, needed, [column.clone()].into())
        }
        // Which row goes where depends on all of its columns.
        LogicalPlan::Repartition { input, keys, .. } if keys.is_empty() => {
            with_inputs(plan, vec![Arc::new(prune(input, &None))])
        }
        LogicalPlan::Repartition { input, keys, .. } => {
            pass(plan, input, needed, keys.iter().cloned().collect())
        }
        LogicalPlan::Sort { input, keys, .. } | LogicalPlan::SortPartitions { input, keys } => {
            let read = columns(keys.iter().map(|key| &key.expr));
            pass(plan, input, needed, read)
        }
        LogicalPlan::Limit { input, .. } | LogicalPlan::Write { input, .. } => {
            pass(plan, input, needed, BTreeSet::new())
        }
    }
}

/// A node that hands its columns on, and reads some itself.
fn pass(
    node: &LogicalPlan,
    input: &LogicalPlan,
    needed: &Needed,
    read: BTreeSet<String>,
) -> LogicalPlan {
    let below = needed.as_ref().map(|needed| needed | &read);
    with_inputs(node, vec![Arc::new(prune_joined(input, &below))])
}

/// The pruned plan; a join with nothing but the needed columns.
fn prune_joined(plan: &LogicalPlan, needed: &Needed) -> LogicalPlan {
    let pruned = prune(plan, needed);
    match pruned {
        LogicalPlan::Join { .. } => exactly(pruned, needed),
        other => other,
    }
}

/// A projection to what is needed, or to some column if that is nothing.
fn exactly(plan: LogicalPlan, needed: &Needed) -> LogicalPlan {
    let names = keep(&column_names(&plan), needed, String::clone, |_| true);
    only_columns(plan, &names)
}

fn prune_sides(
    left: &LogicalPlan,
    right: &LogicalPlan,
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
    needed: &Needed,
) -> (LogicalPlan, LogicalPlan) {
    let only_left = matches!(kind, JoinKind::Semi | JoinKind::Anti);
    let (lefts, rights) = (column_set(left), column_set(right));
    let filter = columns(filter);
    let of_side = |side: &BTreeSet<String>, keys: BTreeSet<String>, makes: bool| {
        let made = match needed {
            _ if !makes => BTreeSet::new(),
            Some(needed) => needed & side,
            None => side.clone(),
        };
        Some(&(&made | &keys) | &(&filter & side))
    };
    let left_needed = of_side(&lefts, columns(on.iter().map(|(left, _)| left)), true);
    let right_needed = of_side(
        &rights,
        columns(on.iter().map(|(_, right)| right)),
        !only_left,
    );
    (
        exactly(prune(left, &left_needed), &left_needed),
        exactly(prune(right, &right_needed), &right_needed),
    )
}

fn prune_aggregates(
    group_by: &[Expr],
    aggregates: &[AggregateExpr],
    needed: &Needed,
) -> Vec<AggregateExpr> {
    if group_by.is_empty() {
        let name = |aggregate: &AggregateExpr| aggregate.name.clone();
        return keep(aggregates, needed, name, |aggregate| {
            aggregate.arguments.is_empty()
        });
    }
    let is_needed = |name: &String| needed.as_ref().is_none_or(|needed| needed.contains(name));
    let kept = aggregates.iter();
    kept.filter(|aggregate| is_needed(&aggregate.name))
        .cloned()
        .collect()
}

/// The items whose names are needed; if that is none, one of the cheap ones, because rows without
/// any column cannot be counted.
fn keep<T: Clone>(
    items: &[T],
    needed: &Needed,
    name: impl Fn(&T) -> String,
    is_cheap: impl Fn(&T) -> bool,
) -> Vec<T> {
    let Some(needed) = needed else {
        return items.to_vec();
    };
    let kept: Vec<T> = items
        .iter()
        .filter(|item| needed.contains(&name(item)))
        .cloned()
        .collect();
    if !kept.is_empty() {
        return kept;
    }
    let cheap = items.iter().find(|item| is_cheap(item)).or(items.first());
    cheap.cloned().into_iter().collect()
}

fn prune_scan(scan: &Scan, needed: &Needed) -> Scan {
    let all = || {
        scan.schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    let produced: Vec<String> = scan.projection.clone().unwrap_or_else(all);
    let narrow = |name: &String| {
        let field = scan.schema.field_with_name(name);
        field.is_ok_and(|field| is_narrow(field.data_type()))
    };
    let kept = keep(&produced, needed, String::clone, narrow);
    let is_all = scan.projection.is_none() && kept.len() == produced.len();
    Scan {
        projection: if is_all { None } else { Some(kept) },
        ..scan.clone()
    }
}

/// Whether a value takes a few bytes, the same for each.
fn is_narrow(data_type: &DataType) -> bool {
    data_type.primitive_width().is_some() || *data_type == DataType::Boolean
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, count_all, sum, words};

    use super::super::fixture::{check, lines, table};
    use super::*;

    #[test]
    fn only_what_is_read_is_made() {
        let plan = lines()
            .project([col("path"), words(col("line")).alias("word"), col("offset")])
            .explode("word")
            .aggregate(
                [col("word")],
                [count_all().alias("n"), sum(col("offset")).alias("x")],
            )
            .project([col("word"), col("n")]);
        check(
            columns_needed,
            plan,
            expect![[r#"
            project word, n
              aggregate by word: count(*) AS n, sum(offset) AS x
                explode word
                  project path, words(line) AS word, offset
                    scan text lines [path, offset, line] from memory:///in
            →
            project word, n
              aggregate by word: count(*) AS n
                explode word
                  project words(line) AS word
                    scan text lines [line] from memory:///in
        "#]],
        );
    }

    #[test]
    fn filters_and_sorts_read_their_own_columns() {
        let plan = table()
            .filter(col("a").gt(1))
            .sort([col("b").asc()])
            .project([col("c")]);
        check(
            columns_needed,
            plan,
            expect![[r#"
            project c
              sort by b
                filter a > 1
                  scan parquet [s, a, b, c] from memory:///in
            →
            project c
              sort by b
                filter a > 1
                  scan parquet [a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn counting_rows_reads_the_cheapest_column() {
        let plan = lines().aggregate([], [count_all()]);
        check(
            columns_needed,
            plan,
            expect![[r#"
            aggregate: count(*)
              scan text lines [path, offset, line] from memory:///in
            →
            aggregate: count(*)
              scan text lines [offset] from memory:///in
        "#]],
        );
        let plan = lines()
            .project([words(col("line")), col("offset")])
            .aggregate([], [sum(col("offset")), count_all()])
            .aggregate([], [count_all().alias("n")]);
        check(
            columns_needed,
            plan,
            expect![[r#"
            aggregate: count(*) AS n
              aggregate: sum(offset), count(*)
                project words(line), offset
                  scan text lines [path, offset, line] from memory:///in
            →
            aggregate: count(*) AS n
              aggregate: count(*)
                project offset
                  scan text lines [offset] from memory:///in
        "#]],
        );
    }

    #[test]
    fn the_columns_of_the_result_stay() {
        let plan = table().filter(col("a").gt(1)).limit(0, 3).0;
        assert_eq!(columns_needed(plan.clone()).expect("a plan"), plan);
    }
}
