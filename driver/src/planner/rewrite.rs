//! Taking plans and expressions apart and putting them together again.
//!
//! Both are trees of bounded depth and are walked recursively. What recurses over plans keeps
//! little on the stack: a plan may be nested as deep as its limit.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, col, output_name, typing};
use kiln_engine::plan::{JoinKind, LogicalPlan, schema_over};

/// Applies `rule` to every node, from the scans to the root; each node it sees stands on inputs
/// that have been rewritten.
pub(super) fn rewrite_up(
    plan: &LogicalPlan,
    mut rule: impl FnMut(LogicalPlan) -> LogicalPlan,
) -> LogicalPlan {
    rewrite_inputs_first(plan, &mut rule)
}

fn rewrite_inputs_first(
    plan: &LogicalPlan,
    rule: &mut dyn FnMut(LogicalPlan) -> LogicalPlan,
) -> LogicalPlan {
    let inputs = plan.inputs().into_iter();
    let inputs = inputs
        .map(|input| Arc::new(rewrite_inputs_first(input, rule)))
        .collect();
    rule(with_inputs(plan, inputs))
}

/// A rule that looks at the columns of a node's inputs.
pub(super) type TypedRule<'a> = &'a mut dyn FnMut(LogicalPlan, &[SchemaRef]) -> LogicalPlan;

/// As [`rewrite_up`], for a rule that asks for types. Also says what columns the plan makes.
///
/// # Errors
/// `Invalid` if the plan does not fit together.
pub(super) fn rewrite_typed(
    plan: &LogicalPlan,
    rule: TypedRule,
) -> Result<(LogicalPlan, SchemaRef)> {
    let (mut inputs, mut schemas) = (Vec::new(), Vec::new());
    for input in plan.inputs() {
        let (input, schema) = rewrite_typed(input, rule)?;
        inputs.push(Arc::new(input));
        schemas.push(schema);
    }
    let node = rule(with_inputs(plan, inputs), &schemas);
    // A rule may take a node away, but it does not change what columns there are.
    let schema = schema_over(plan, &schemas)?;
    Ok((node, schema))
}

/// The same node over other inputs, of which there have to be as many.
pub(super) fn with_inputs(node: &LogicalPlan, inputs: Vec<Arc<LogicalPlan>>) -> LogicalPlan {
    let mut node = node.clone();
    let mut inputs = inputs.into_iter();
    let mut put = |input: &mut Arc<LogicalPlan>| {
        if let Some(new) = inputs.next() {
            *input = new;
        }
    };
    match &mut node {
        LogicalPlan::Scan(_) => {}
        LogicalPlan::Project { input, .. }
        | LogicalPlan::Filter { input, .. }
        | LogicalPlan::Explode { input, .. }
        | LogicalPlan::Apply { input, .. }
        | LogicalPlan::Reduce { input, .. }
        | LogicalPlan::Aggregate { input, .. }
        | LogicalPlan::Sort { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. }
        | LogicalPlan::Limit { input, .. }
        | LogicalPlan::Write { input, .. } => put(input),
        LogicalPlan::Join { left, right, .. } => {
            put(left);
            put(right);
        }
        LogicalPlan::Union { inputs } => inputs.iter_mut().for_each(put),
    }
    node
}

/// The same node over another input. A scan has none and stays what it is.
pub(super) fn with_input(node: &LogicalPlan, input: LogicalPlan) -> LogicalPlan {
    with_inputs(node, vec![Arc::new(input)])
}

/// The names of the columns that `plan` makes, in order.
pub(super) fn column_names(plan: &LogicalPlan) -> Vec<String> {
    let mut names = Vec::new();
    add_column_names(plan, &mut names);
    names
}

fn add_column_names(plan: &LogicalPlan, names: &mut Vec<String>) {
    match plan {
        LogicalPlan::Scan(scan) => match &scan.projection {
            Some(projection) => names.extend(projection.iter().cloned()),
            None => add_field_names(&scan.schema, names),
        },
        LogicalPlan::Project { exprs, .. } => names.extend(exprs.iter().map(output_name)),
        LogicalPlan::Apply { function, .. } => add_field_names(function.output(), names),
        LogicalPlan::Reduce { function, .. } => add_field_names(function.output(), names),
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => {
            names.extend(group_by.iter().map(output_name));
            names.extend(aggregates.iter().map(|aggregate| aggregate.name.clone()));
        }
        LogicalPlan::Join {
            left, right, kind, ..
        } => {
            add_column_names(left, names);
            if !matches!(kind, JoinKind::Semi | JoinKind::Anti) {
                add_column_names(right, names);
            }
        }
        LogicalPlan::Union { inputs } => {
            if let Some(first) = inputs.first() {
                add_column_names(first, names);
            }
        }
        LogicalPlan::Filter { input, .. }
        | LogicalPlan::Explode { input, .. }
        | LogicalPlan::Sort { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. }
        | LogicalPlan::Limit { input, .. }
        | LogicalPlan::Write { input, .. } => add_column_names(input, names),
    }
}

fn add_field_names(schema: &Schema, names: &mut Vec<String>) {
    let fields = schema.fields().iter();
    names.extend(fields.map(|field| field.name().clone()));
}

/// The names of the columns that `plan` makes, to look into.
pub(super) fn column_set(plan: &LogicalPlan) -> BTreeSet<String> {
    column_names(plan).into_iter().collect()
}

/// The types of those columns of `plans`, side by side, that are among `names`. Each is said to be
/// nullable. Looks at no more of the plans than makes these columns.
pub(super) fn types_of(plans: &[&LogicalPlan], names: &BTreeSet<String>) -> Schema {
    let mut found = Vec::new();
    let mut wanted = names.clone();
    for plan in plans {
        add_types(plan, &wanted, &mut found);
        found.iter().for_each(|(name, _)| {
            wanted.remove(name);
        });
    }
    let field = |(name, data_type)| Field::new(name, data_type, true);
    Schema::new(found.into_iter().map(field).collect::<Vec<_>>())
}

fn add_types(plan: &LogicalPlan, names: &BTreeSet<String>, found: &mut Vec<(String, DataType)>) {
    if names.is_empty() {
        return;
    }
    let of = |inputs: &[&LogicalPlan], names: &BTreeSet<String>| {
        let schema = types_of(inputs, names);
        let fields = schema.fields().iter();
        let pairs = fields.map(|field| (field.name().clone(), field.data_type().clone()));
        pairs.collect::<Vec<_>>()
    };
    match plan {
        LogicalPlan::Scan(scan) => {
            let names = names.iter().filter(|name| match &scan.projection {
                Some(projection) => projection.contains(name),
                None => true,
            });
            add_fields(&scan.schema, names, found);
        }
        LogicalPlan::Project { input, exprs } => add_computed(input, exprs, &[], names, found),
        LogicalPlan::Apply { function, .. } => add_fields(function.output(), names, found),
        LogicalPlan::Reduce { function, .. } => add_fields(function.output(), names, found),
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => add_computed(input, group_by, aggregates, names, found),
        LogicalPlan::Join {
            left, right, kind, ..
        } => found.extend(match kind {
            JoinKind::Semi | JoinKind::Anti => of(&[left], names),
            _ => of(&[left, right], names),
        }),
        LogicalPlan::Union { inputs } => {
            let first = inputs.first().map(AsRef::as_ref);
            found.extend(of(first.as_slice(), names));
        }
        LogicalPlan::Explode { input, column } => {
            let element = |(name, data_type)| match data_type {
                DataType::List(element) if name == *column => (name, element.data_type().clone()),
                other => (name, other),
            };
            found.extend(of(&[input], names).into_iter().map(element));
        }
        LogicalPlan::Filter { input, .. }
        | LogicalPlan::Sort { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. }
        | LogicalPlan::Limit { input, .. }
        | LogicalPlan::Write { input, .. } => add_types(input, names, found),
    }
}

fn add_fields<'a>(
    schema: &Schema,
    names: impl IntoIterator<Item = &'a String>,
    found: &mut Vec<(String, DataType)>,
) {
    found.extend(names.into_iter().filter_map(|name| {
        let field = schema.field_with_name(name).ok()?;
        Some((name.clone(), field.data_type().clone()))
    }));
}

/// Adds the types of what is computed from the rows of `input`, if it has one of `names`.
fn add_computed(
    input: &LogicalPlan,
    exprs: &[Expr],
    aggregates: &[AggregateExpr],
    names: &BTreeSet<String>,
    found: &mut Vec<(String, DataType)>,
) {
    let exprs: Vec<(String, &Expr)> = exprs
        .iter()
        .map(|expr| (output_name(expr), expr))
        .filter(|(name, _)| names.contains(name))
        .collect();
    let aggregates: Vec<&AggregateExpr> = aggregates
        .iter()
        .filter(|aggregate| names.contains(&aggregate.name))
        .collect();
    let arguments = aggregates
        .iter()
        .flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
    let read = columns(exprs.iter().map(|(_, expr)| *expr).chain(arguments));
    let schema = types_of(&[input], &read);
    found.extend(exprs.into_iter().filter_map(|(name, expr)| {
        let data_type = typing::data_type(expr, &schema).ok()?;
        Some((name, data_type))
    }));
    found.extend(aggregates.into_iter().filter_map(|aggregate| {
        let field = typing::aggregate_field(aggregate, &schema).ok()?;
        Some((aggregate.name.clone(), field.data_type().clone()))
    }));
}

/// A projection of `plan` to the columns `names`; the plan itself if those are its columns.
pub(super) fn only_columns(plan: LogicalPlan, names: &[String]) -> LogicalPlan {
    if column_names(&plan) == names {
        return plan;
    }
    LogicalPlan::Project {
        input: plan.into(),
        exprs: names.iter().map(col).collect(),
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
        Expr::Cast { expr, to, lenient } => Expr::Cast {
            expr: boxed(expr),
            to,
            lenient,
        },
        Expr::Alias { expr, name } => Expr::Alias {
            expr: boxed(expr),
            name,
        },
        Expr::Case {
            branches,
            otherwise,
        } => {
            let pairs = branches.into_iter();
            let branches = pairs.map(|(condition, value)| (f(condition), f(value)));
            Expr::Case {
                branches: branches.collect(),
                otherwise: otherwise.map(|value| Box::new(f(*value))),
            }
        }
        Expr::InList { expr, list } => Expr::InList {
            expr: boxed(expr),
            list: list.into_iter().map(f).collect(),
        },
        Expr::Function { function, args } => Expr::Function {
            function,
            args: args.into_iter().map(f).collect(),
        },
        Expr::Udf { function, args } => Expr::Udf {
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

/// The expression with other expressions in the place of columns; none for a column stays it.
pub(super) fn replace_columns(expr: &Expr, source: &dyn Fn(&str) -> Option<Expr>) -> Expr {
    map_expr(expr.clone(), &mut |part| match part {
        Expr::Column(name) => source(&name).unwrap_or(Expr::Column(name)),
        other => other,
    })
}

/// Calls `f` with the name of every column that `expr` mentions, as often as it does.
pub(super) fn each_column<'a>(expr: &'a Expr, f: &mut dyn FnMut(&'a str)) {
    if let Expr::Column(name) = expr {
        f(name);
    }
    for operand in expr.operands() {
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
    1 + expr.operands().into_iter().map(depth).max().unwrap_or(0)
}
