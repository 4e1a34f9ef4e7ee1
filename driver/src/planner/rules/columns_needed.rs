//! Columns that nothing reads are not made, and not read from files.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, output_name};
use kiln_engine::plan::{LogicalPlan, Scan};

use crate::planner::rewrite::{chain, columns, unaliased, with_input};

/// What is read of a node's columns: those named, or all.
type Needed = Option<BTreeSet<String>>;

/// Drops columns, from the root to the scan, that no node above reads.
pub(in crate::planner) fn columns_needed(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut needed = None;
    let mut pruned = Vec::new();
    for node in chain(&plan) {
        let (node, below) = prune(node, needed);
        pruned.push(node);
        needed = below;
    }
    let rebuilt = pruned
        .into_iter()
        .rev()
        .reduce(|input, node| with_input(&node, input));
    Ok(rebuilt.unwrap_or(plan))
}

/// The node without what is not needed of it, and what it needs of its input.
fn prune(node: &LogicalPlan, needed: Needed) -> (LogicalPlan, Needed) {
    let with = |names: BTreeSet<String>| {
        needed.clone().map(|mut needed| {
            needed.extend(names);
            needed
        })
    };
    match node {
        LogicalPlan::Scan(scan) => (LogicalPlan::Scan(prune_scan(scan, needed)), None),
        LogicalPlan::Project { input, exprs } => {
            let exprs = keep(exprs, &needed, output_name, |expr| {
                matches!(unaliased(expr), Expr::Column(_))
            });
            let below = Some(columns(&exprs));
            let input = input.clone();
            (LogicalPlan::Project { input, exprs }, below)
        }
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => {
            let aggregates = if group_by.is_empty() {
                let name = |aggregate: &AggregateExpr| aggregate.name.clone();
                keep(aggregates, &needed, name, |aggregate| {
                    aggregate.argument.is_none()
                })
            } else {
                let is_needed =
                    |name: &String| needed.as_ref().is_none_or(|needed| needed.contains(name));
                aggregates
                    .iter()
                    .filter(|aggregate| is_needed(&aggregate.name))
                    .cloned()
                    .collect()
            };
            let arguments = aggregates
                .iter()
                .filter_map(|aggregate| aggregate.argument.as_ref());
            let below = Some(columns(group_by.iter().chain(arguments)));
            let node = LogicalPlan::Aggregate {
                input: input.clone(),
                group_by: group_by.clone(),
                aggregates,
            };
            (node, below)
        }
        LogicalPlan::Filter { predicate, .. } => (node.clone(), with(columns([predicate]))),
        LogicalPlan::Explode { column, .. } => (node.clone(), with([column.clone()].into())),
        LogicalPlan::Sort { keys, .. } => (
            node.clone(),
            with(columns(keys.iter().map(|key| &key.expr))),
        ),
        LogicalPlan::Limit { .. } | LogicalPlan::Write { .. } => (node.clone(), needed),
    }
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

fn prune_scan(scan: &Scan, needed: Needed) -> Scan {
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
    let kept = keep(&produced, &needed, String::clone, narrow);
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
