//! Rows that nobody wants are dropped before anything is computed from them.
//!
//! A predicate sinks below an operator when it reads only columns that pass that operator
//! unchanged, and when asking it of more rows than before cannot make it fail.

use kiln_engine::Result;
use kiln_engine::expr::{BinaryOp, Expr, output_name};
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{columns, map_expr, operands, rewrite_up, unaliased, with_input};

/// Moves each part of each filter as close to the scan as it may go.
pub(in crate::planner) fn filters_down(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Filter { input, predicate } => filter_down(&input, predicate),
        other => other,
    }))
}

fn filter_down(input: &LogicalPlan, predicate: Expr) -> LogicalPlan {
    let mut parts = Vec::new();
    split(predicate, &mut parts);
    let mut input = input.clone();
    let mut stays = Vec::new();
    for part in parts {
        match sink(&input, &part) {
            Some(sunk) => input = sunk,
            None => stays.push(part),
        }
    }
    match stays.into_iter().reduce(Expr::and) {
        Some(predicate) => LogicalPlan::Filter {
            input: input.into(),
            predicate,
        },
        None => input,
    }
}

/// The parts of `a AND b AND …`.
fn split(predicate: Expr, parts: &mut Vec<Expr>) {
    match predicate {
        Expr::Binary {
            left,
            op: BinaryOp::And,
            right,
        } => {
            split(*left, parts);
            split(*right, parts);
        }
        part => parts.push(part),
    }
}

/// `plan` with a filter as far below its root as it may go; none if that is nowhere.
fn sink(plan: &LogicalPlan, predicate: &Expr) -> Option<LogicalPlan> {
    let mut passed = Vec::new();
    let mut node = plan;
    let mut predicate = predicate.clone();
    while let Some(below) = pass(node, &predicate) {
        predicate = below;
        passed.push(node);
        node = node.input()?;
    }
    if passed.is_empty() {
        return None;
    }
    let filter = LogicalPlan::Filter {
        input: node.clone().into(),
        predicate,
    };
    Some(
        passed
            .into_iter()
            .rev()
            .fold(filter, |input, node| with_input(node, input)),
    )
}

/// What a predicate over the rows of `node` reads as over the rows of its input; none if it has to
/// stay above.
fn pass(node: &LogicalPlan, predicate: &Expr) -> Option<Expr> {
    match node {
        LogicalPlan::Project { exprs, .. } => rename(predicate, exprs),
        LogicalPlan::Sort { limit: None, .. } => Some(predicate.clone()),
        LogicalPlan::Explode { column, .. } => {
            // Rows with an empty list are asked as well now.
            let passes = !columns([predicate]).contains(column) && never_fails(predicate);
            passes.then(|| predicate.clone())
        }
        LogicalPlan::Aggregate { group_by, .. } => {
            // A group is there as long as one of its rows is; without a key there is one anyway.
            let reads_keys = !columns([predicate]).is_empty();
            reads_keys.then(|| rename(predicate, group_by))?
        }
        LogicalPlan::Scan(_)
        | LogicalPlan::Filter { .. }
        | LogicalPlan::Sort { limit: Some(_), .. }
        | LogicalPlan::Limit { .. }
        | LogicalPlan::Write { .. } => None,
    }
}

/// The predicate in terms of the columns behind `exprs`; none if it reads a computed one, which
/// would be computed twice.
fn rename(predicate: &Expr, exprs: &[Expr]) -> Option<Expr> {
    let source = |name: &str| {
        let made = exprs.iter().find(|expr| output_name(expr) == name)?;
        matches!(unaliased(made), Expr::Column(_)).then(|| unaliased(made).clone())
    };
    let plain = columns([predicate])
        .iter()
        .all(|name| source(name).is_some());
    plain.then(|| {
        map_expr(predicate.clone(), &mut |expr| match expr {
            Expr::Column(name) => source(&name).unwrap_or(Expr::Column(name)),
            other => other,
        })
    })
}

/// Whether no value of any column makes the expression an error.
fn never_fails(expr: &Expr) -> bool {
    let itself = match expr {
        Expr::Negate(_) | Expr::Cast { .. } => false,
        Expr::Function { function, .. } => *function != kiln_engine::expr::Function::Abs,
        Expr::Binary { op, .. } => !matches!(
            op,
            BinaryOp::Add
                | BinaryOp::Subtract
                | BinaryOp::Multiply
                | BinaryOp::Divide
                | BinaryOp::Modulo
        ),
        Expr::Column(_)
        | Expr::Literal(_)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::Alias { .. } => true,
    };
    itself && operands(expr).into_iter().all(never_fails)
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
                  filter s = "x"
                    scan parquet [s, a, b, c] from memory:///in
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
}
