//! Taking plans and expressions apart and putting them together again.
//!
//! A plan is a chain from its root to its scan. It is walked in loops: its length is the user's,
//! the stack is ours. Expressions are trees of bounded depth and are walked recursively.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_engine::expr::{Expr, output_name};
use kiln_engine::plan::{LogicalPlan, Scan};
use kiln_engine::{Error, Result};

/// The nodes of a plan, root first, the scan last.
pub(super) fn chain(plan: &LogicalPlan) -> Vec<&LogicalPlan> {
    let mut nodes = vec![plan];
    let mut node = plan;
    while let Some(input) = node.input() {
        nodes.push(input);
        node = input;
    }
    nodes
}

/// The scan at the end of a plan.
pub(super) fn scan(plan: &LogicalPlan) -> Result<&Scan> {
    match chain(plan).last() {
        Some(LogicalPlan::Scan(scan)) => Ok(scan),
        _ => Err(Error::internal("a plan does not end in a scan")),
    }
}

/// Applies `rule` to every node, from the scan to the root; each node it sees stands on input
/// that has been rewritten.
pub(super) fn rewrite_up(
    plan: &LogicalPlan,
    rule: impl Fn(LogicalPlan) -> LogicalPlan,
) -> LogicalPlan {
    let mut nodes = chain(plan).into_iter().rev();
    let scan = nodes.next().unwrap_or(plan).clone();
    nodes.fold(rule(scan), |input, node| rule(with_input(node, input)))
}

/// The same node over another input. A scan has none and stays what it is.
pub(super) fn with_input(node: &LogicalPlan, input: LogicalPlan) -> LogicalPlan {
    let input = Arc::new(input);
    match node {
        LogicalPlan::Scan(_) => node.clone(),
        LogicalPlan::Project { exprs, .. } => LogicalPlan::Project {
            input,
            exprs: exprs.clone(),
        },
        LogicalPlan::Filter { predicate, .. } => LogicalPlan::Filter {
            input,
            predicate: predicate.clone(),
        },
        LogicalPlan::Explode { column, .. } => LogicalPlan::Explode {
            input,
            column: column.clone(),
        },
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => LogicalPlan::Aggregate {
            input,
            group_by: group_by.clone(),
            aggregates: aggregates.clone(),
        },
        LogicalPlan::Sort { keys, limit, .. } => LogicalPlan::Sort {
            input,
            keys: keys.clone(),
            limit: *limit,
        },
        LogicalPlan::Limit { offset, limit, .. } => LogicalPlan::Limit {
            input,
            offset: *offset,
            limit: *limit,
        },
        LogicalPlan::Write { output, .. } => LogicalPlan::Write {
            input,
            output: output.clone(),
        },
    }
}

/// The names of the columns that `plan` makes, in order.
pub(super) fn column_names(plan: &LogicalPlan) -> Vec<String> {
    let mut node = plan;
    loop {
        match node {
            LogicalPlan::Scan(scan) => {
                let all = || {
                    scan.schema
                        .fields()
                        .iter()
                        .map(|field| field.name().clone())
                };
                return scan.projection.clone().unwrap_or_else(|| all().collect());
            }
            LogicalPlan::Project { exprs, .. } => return exprs.iter().map(output_name).collect(),
            LogicalPlan::Aggregate {
                group_by,
                aggregates,
                ..
            } => {
                let results = aggregates.iter().map(|aggregate| aggregate.name.clone());
                return group_by.iter().map(output_name).chain(results).collect();
            }
            LogicalPlan::Filter { input, .. }
            | LogicalPlan::Explode { input, .. }
            | LogicalPlan::Sort { input, .. }
            | LogicalPlan::Limit { input, .. }
            | LogicalPlan::Write { input, .. } => node = input,
        }
    }
}

/// The operands of an expression.
pub(super) fn operands(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Column(_) | Expr::Literal(_) => Vec::new(),
        Expr::Binary { left, right, .. } => vec![left, right],
        Expr::Not(inner) | Expr::Negate(inner) | Expr::IsNull(inner) => vec![inner],
        Expr::Cast { expr, .. } | Expr::Alias { expr, .. } => vec![expr],
        Expr::Function { args, .. } => args.iter().collect(),
    }
}

/// The expression with `f` applied to each of its operands.
fn map_operands(expr: Expr, f: &mut dyn FnMut(Expr) -> Expr) -> Expr {
    let mut boxed = |inner: Box<Expr>| Box::new(f(*inner));
    match expr {
        Expr::Column(_) | Expr::Literal(_) => expr,
        Expr::Binary { left, op, right } => {
            let left = boxed(left);
            let right = boxed(right);
            Expr::Binary { left, op, right }
        }
        Expr::Not(inner) => Expr::Not(boxed(inner)),
        Expr::Negate(inner) => Expr::Negate(boxed(inner)),
        Expr::IsNull(inner) => Expr::IsNull(boxed(inner)),
        Expr::Cast { expr, to } => Expr::Cast {
            expr: boxed(expr),
            to,
        },
        Expr::Alias { expr, name } => Expr::Alias {
            expr: boxed(expr),
            name,
        },
        Expr::Function { function, args } => Expr::Function {
            function,
            args: args.into_iter().map(f).collect(),
        },
    }
}

/// Applies `f` to every part of an expression, operands first.
pub(super) fn map_expr(expr: Expr, f: &mut dyn FnMut(Expr) -> Expr) -> Expr {
    let mapped = map_operands(expr, &mut |operand| map_expr(operand, f));
    f(mapped)
}

/// Calls `f` with the name of every column that `expr` mentions, as often as it does.
pub(super) fn each_column<'a>(expr: &'a Expr, f: &mut dyn FnMut(&'a str)) {
    if let Expr::Column(name) = expr {
        f(name);
    }
    for operand in operands(expr) {
        each_column(operand, f);
    }
}

/// The columns that expressions mention.
pub(super) fn columns<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for expr in exprs {
        each_column(expr, &mut |name| {
            names.insert(name.to_owned());
        });
    }
    names
}

/// The expression behind its alias.
pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias { expr, .. } => unaliased(expr),
        other => other,
    }
}

/// `expr` under `name`, with an alias only where its own name is another.
pub(super) fn named(expr: Expr, name: &str) -> Expr {
    if output_name(&expr) == name {
        return expr;
    }
    unaliased(&expr).clone().alias(name)
}

/// How deep an expression is nested; a column is 1 deep.
pub(super) fn depth(expr: &Expr) -> usize {
    1 + operands(expr).into_iter().map(depth).max().unwrap_or(0)
}
