//! The columns that each node of a logical plan makes, which is also the check of the plan.
//!
//! A plan that passes has columns that exist, types that fit, names that are unique and a size
//! within the limits, so that everything behind this check may rely on them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::expr::{AggregateExpr, Expr, SortKey, col, typing};
use crate::limits;
use crate::plan::{JoinKind, LogicalPlan, Scan, output};

/// The columns of the rows that `plan` makes.
///
/// # Errors
/// `Invalid`, naming the expression: an unknown column (with the nearest name), types that do not
/// fit, a bad pattern, two columns of one name, or a plan past its limits.
pub fn schema_of(plan: &LogicalPlan) -> Result<SchemaRef> {
    check_size(plan)?;
    schema_within(plan, &mut HashMap::new())
}

/// Whether a plan has no more operators, and nests them no deeper, than a plan may. What several
/// operators read counts for each of them, because that is how plans are walked and printed.
///
/// # Errors
/// `Invalid` if it has more.
pub fn check_size(plan: &LogicalPlan) -> Result<()> {
    // A loop, because how deep a plan is nested is the user's and the stack is ours.
    let mut open = vec![(plan, 1)];
    let mut nodes = 0;
    while let Some((node, depth)) = open.pop() {
        nodes += 1;
        if nodes > limits::PLAN_NODES_MAX {
            return Err(Error::invalid(format!(
                "the plan has too many operators limit={}",
                limits::PLAN_NODES_MAX
            )));
        }
        if depth > limits::PLAN_DEPTH_MAX {
            return Err(Error::invalid(format!(
                "the plan is nested too deeply limit={}",
                limits::PLAN_DEPTH_MAX
            )));
        }
        open.extend(
            node.inputs()
                .into_iter()
                .map(|input| (input.as_ref(), depth + 1)),
        );
    }
    Ok(())
}

/// The columns of a plan whose depth is within the limits; those of a node are found once, however
/// many read it.
fn schema_within(
    plan: &LogicalPlan,
    known: &mut HashMap<*const LogicalPlan, SchemaRef>,
) -> Result<SchemaRef> {
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        let address = Arc::as_ptr(input);
        if !known.contains_key(&address) {
            let schema = schema_within(input, known)?;
            known.insert(address, schema);
        }
        inputs.push(Arc::clone(&known[&address]));
    }
    schema_over(plan, &inputs)
}

/// The columns that `node` makes of inputs with the columns `inputs`, for whoever goes through a
/// plan from its scans to its root.
///
/// # Errors
/// As for [`schema_of`], without the limits on the size of a plan.
pub fn schema_over(node: &LogicalPlan, inputs: &[SchemaRef]) -> Result<SchemaRef> {
    let input = || {
        inputs
            .first()
            .cloned()
            .unwrap_or_else(|| Arc::new(Schema::empty()))
    };
    match node {
        LogicalPlan::Scan(scan) => scan_schema(scan),
        LogicalPlan::Join {
            kind, on, filter, ..
        } => match inputs {
            [left, right] => join_schema(*kind, on, filter.as_ref(), left, right),
            _ => Err(Error::internal("a join has two inputs")),
        },
        LogicalPlan::Union { .. } => union_schema(inputs),
        _ => schema_over_one(node, input()),
    }
}

/// The columns that `node` makes of its only input.
fn schema_over_one(node: &LogicalPlan, input: SchemaRef) -> Result<SchemaRef> {
    match node {
        LogicalPlan::Project { exprs, .. } => {
            let fields = exprs.iter().map(|expr| typing::field(expr, &input));
            unique(fields.collect::<Result<_>>()?)
        }
        LogicalPlan::Filter { predicate, .. } => {
            check_predicate(predicate, &input)?;
            Ok(input)
        }
        LogicalPlan::Explode { column, .. } => explode_schema(column, &input),
        LogicalPlan::Apply { function, .. } => {
            unique(function.output().fields().iter().map(own).collect())
        }
        LogicalPlan::Reduce {
            keys,
            order,
            function,
            ..
        } => {
            for key in keys {
                check_sort_keys(&[col(key).asc()], &input)?;
            }
            if !order.is_empty() {
                check_sort_keys(order, &input)?;
            }
            unique(function.output().fields().iter().map(own).collect())
        }
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => aggregate_schema(group_by, aggregates, &input),
        LogicalPlan::Sort { keys, .. } => {
            check_sort_keys(keys, &input)?;
            Ok(input)
        }
        LogicalPlan::Repartition {
            keys, partitions, ..
        } => {
            check_partitions(keys, *partitions, &input)?;
            Ok(input)
        }
        LogicalPlan::SortPartitions { keys, .. } => {
            check_sort_keys(keys, &input)?;
            Ok(input)
        }
        LogicalPlan::Limit { .. } => Ok(input),
        LogicalPlan::Write { output, .. } => {
            output::check(output, &input)?;
            Ok(input)
        }
        LogicalPlan::Scan(_) | LogicalPlan::Join { .. } | LogicalPlan::Union { .. } => {
            Err(Error::internal("an operator with one input was expected"))
        }
    }
}

/// The columns of a join: those of both sides, or of the left for the kinds that only choose rows.
fn join_schema(
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
    left: &SchemaRef,
    right: &SchemaRef,
) -> Result<SchemaRef> {
    for (left_key, right_key) in on {
        typing::check_keys(left_key, left, right_key, right)?;
    }
    let nullable =
        |field: &FieldRef, may: bool| own(field).with_nullable(field.is_nullable() || may);
    let left_nulls = matches!(kind, JoinKind::Right | JoinKind::Full);
    let right_nulls = matches!(kind, JoinKind::Left | JoinKind::Full);
    let lefts = left
        .fields()
        .iter()
        .map(|field| nullable(field, left_nulls));
    let rights = right
        .fields()
        .iter()
        .map(|field| nullable(field, right_nulls));
    let both = unique(lefts.chain(rights).collect())?;
    if let Some(filter) = filter {
        check_predicate(filter, &both)?;
    }
    Ok(match kind {
        JoinKind::Semi | JoinKind::Anti => Arc::clone(left),
        JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full => both,
    })
}

/// The columns of a union: those of all inputs, which have to agree.
fn union_schema(inputs: &[SchemaRef]) -> Result<SchemaRef> {
    let Some((first, others)) = inputs.split_first() else {
        return Err(Error::invalid("a union needs at least one input"));
    };
    let mut fields: Vec<Field> = first.fields().iter().map(own).collect();
    for other in others {
        if other.fields().len() != fields.len() {
            return Err(Error::invalid(format!(
                "a union of inputs with different numbers of columns first={} other={}",
                fields.len(),
                other.fields().len()
            )));
        }
        for (field, other) in fields.iter_mut().zip(other.fields()) {
            if field.name() != other.name() || field.data_type() != other.data_type() {
                return Err(Error::invalid(format!(
                    "a union of inputs with different columns first={:?} {} other={:?} {}",
                    field.name(),
                    field.data_type(),
                    other.name(),
                    other.data_type()
                )));
            }
            *field = field
                .clone()
                .with_nullable(field.is_nullable() || other.is_nullable());
        }
    }
    unique(fields)
}

fn scan_schema(scan: &Scan) -> Result<SchemaRef> {
    if let Some(predicate) = &scan.predicate {
        check_predicate(predicate, &scan.schema)?;
    }
    let Some(projection) = &scan.projection else {
        return unique(scan.schema.fields().iter().map(own).collect());
    };
    let column = |name: &String| match scan.schema.field_with_name(name) {
        Ok(field) => Ok(field.clone()),
        Err(_) => Err(typing::unknown_column(name, &scan.schema)),
    };
    unique(projection.iter().map(column).collect::<Result<_>>()?)
}

fn own(field: &FieldRef) -> Field {
    field.as_ref().clone()
}

fn unique(fields: Vec<Field>) -> Result<SchemaRef> {
    let mut seen = HashSet::new();
    for field in &fields {
        if !seen.insert(field.name()) {
            return Err(Error::invalid(format!(
                "two columns have the same name: give one another with alias name={:?}",
                field.name()
            )));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn check_predicate(predicate: &Expr, input: &Schema) -> Result<()> {
    match typing::data_type(predicate, input)? {
        DataType::Boolean | DataType::Null => Ok(()),
        other => Err(Error::invalid(format!(
            "{predicate}: a filter has to be a boolean found={other}"
        ))),
    }
}

fn check_sort_keys(keys: &[SortKey], input: &Schema) -> Result<()> {
    if keys.is_empty() {
        return Err(Error::invalid("an order needs at least one key"));
    }
    for key in keys {
        let data_type = typing::data_type(&key.expr, input)?;
        if !typing::is_ordered(&data_type) {
            return Err(Error::invalid(format!(
                "{}: values of this type have no order found={data_type}",
                key.expr
            )));
        }
    }
    Ok(())
}

/// Checks what a repartition asks for.
fn check_partitions(keys: &[String], partitions: u32, input: &Schema) -> Result<()> {
    let most = limits::SHUFFLE_PARTITIONS_MAX;
    if !(1..=most).contains(&partitions) {
        return Err(Error::invalid(format!(
            "rows cannot be dealt out to so many tasks partitions={partitions} least=1 most={most}"
        )));
    }
    for key in keys {
        check_sort_keys(&[col(key).asc()], input)?;
    }
    if partitions > 1 && partition_keys(keys, input).is_empty() {
        let types = input.fields().iter();
        let types = types.map(|field| format!("{} {}", field.name(), field.data_type()));
        return Err(Error::invalid(format!(
            "no column has values by which rows can be dealt out columns={}",
            types.collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(())
}

/// The columns of `input` by whose values a repartition by `keys` deals rows out: with no keys, all
/// that have values which can be a key.
pub fn partition_keys(keys: &[String], input: &Schema) -> Vec<String> {
    if !keys.is_empty() {
        return keys.to_vec();
    }
    let fields = input.fields().iter();
    let can = fields.filter(|field| typing::is_ordered(field.data_type()));
    can.map(|field| field.name().clone()).collect()
}

fn explode_schema(column: &str, input: &Schema) -> Result<SchemaRef> {
    let Ok(index) = input.index_of(column) else {
        return Err(typing::unknown_column(column, input));
    };
    let DataType::List(element) = input.field(index).data_type() else {
        return Err(Error::invalid(format!(
            "explode needs a list column={column:?} found={}",
            input.field(index).data_type()
        )));
    };
    let mut fields: Vec<Field> = input.fields().iter().map(own).collect();
    fields[index] = Field::new(column, element.data_type().clone(), element.is_nullable());
    Ok(Arc::new(Schema::new(fields)))
}

fn aggregate_schema(
    group_by: &[Expr],
    aggregates: &[AggregateExpr],
    input: &Schema,
) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(group_by.len() + aggregates.len());
    for key in group_by {
        let field = typing::field(key, input)?;
        if field.data_type().is_nested() {
            return Err(Error::invalid(format!(
                "{key}: values of this type cannot be grouped by found={}",
                field.data_type()
            )));
        }
        fields.push(field);
    }
    for aggregate in aggregates {
        fields.push(typing::aggregate_field(aggregate, input)?);
    }
    unique(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{col, count_all, lower, sum, words};
    use crate::plan::{ScanFormat, TextOptions};

    fn scan(projection: Option<&[&str]>) -> Arc<LogicalPlan> {
        Arc::new(LogicalPlan::Scan(Scan {
            locations: vec!["memory://in/".into()],
            format: ScanFormat::Text(TextOptions::default()),
            schema: Arc::new(Schema::new(vec![
                Field::new("path", DataType::Utf8View, false),
                Field::new("offset", DataType::Int64, false),
                Field::new("line", DataType::Utf8View, false),
            ])),
            projection: projection.map(|names| names.iter().map(|&name| name.into()).collect()),
            predicate: None,
        }))
    }

    fn check(plan: LogicalPlan, expected: &str) {
        let found = match schema_of(&plan) {
            Ok(schema) => {
                let column = |field: &FieldRef| format!("{}: {}", field.name(), field.data_type());
                schema
                    .fields()
                    .iter()
                    .map(column)
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            Err(error) => error.report(),
        };
        assert_eq!(found, expected);
    }

    fn project(input: Arc<LogicalPlan>, exprs: Vec<Expr>) -> Arc<LogicalPlan> {
        Arc::new(LogicalPlan::Project { input, exprs })
    }

    #[test]
    fn each_operator_has_its_columns() {
        let lists = project(
            scan(None),
            vec![col("path"), words(col("line")).alias("word")],
        );
        let exploded = Arc::new(LogicalPlan::Explode {
            input: lists,
            column: "word".into(),
        });
        check((*exploded).clone(), "path: Utf8View, word: Utf8View");
        let counted = LogicalPlan::Aggregate {
            input: exploded,
            group_by: vec![lower(col("word"))],
            aggregates: vec![count_all().alias("n")],
        };
        check(counted.clone(), "lower(word): Utf8View, n: Int64");
        let sorted = LogicalPlan::Sort {
            input: Arc::new(counted),
            keys: vec![col("n").desc()],
            limit: Some(20),
        };
        check(sorted, "lower(word): Utf8View, n: Int64");
        check(
            (*scan(Some(&["line", "path"]))).clone(),
            "line: Utf8View, path: Utf8View",
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let input = || scan(None);
        check(
            (*scan(Some(&["lin"]))).clone(),
            "unknown column \"lin\": did you mean \"line\"? columns=path, offset, line",
        );
        check(
            LogicalPlan::Filter {
                input: input(),
                predicate: col("offset") + 1,
            },
            "offset + 1: a filter has to be a boolean found=Int64",
        );
        check(
            LogicalPlan::Explode {
                input: input(),
                column: "line".into(),
            },
            "explode needs a list column=\"line\" found=Utf8View",
        );
        check(
            (*project(input(), vec![col("path"), col("line").alias("path")])).clone(),
            "two columns have the same name: give one another with alias name=\"path\"",
        );
        check(
            LogicalPlan::Aggregate {
                input: input(),
                group_by: vec![words(col("line"))],
                aggregates: vec![],
            },
            "words(line): values of this type cannot be grouped by found=List(Utf8View)",
        );
        check(
            LogicalPlan::Aggregate {
                input: input(),
                group_by: vec![],
                aggregates: vec![sum(col("offest"))],
            },
            "unknown column \"offest\": did you mean \"offset\"? columns=path, offset, line",
        );
        check(
            LogicalPlan::Sort {
                input: input(),
                keys: vec![words(col("line")).asc()],
                limit: None,
            },
            "words(line): values of this type have no order found=List(Utf8View)",
        );
    }

    #[test]
    fn a_plan_past_its_limits_is_refused() {
        let chain = |nodes: usize| {
            let mut plan = scan(None);
            for _ in 1..nodes {
                plan = Arc::new(LogicalPlan::Limit {
                    input: plan,
                    offset: 0,
                    limit: 1,
                });
            }
            let result = schema_of(&plan).map(|_| ()).map_err(|error| error.report());
            // A chain this long is taken apart in a loop too: dropping it would recurse.
            while let Some(&input) = plan.inputs().first() {
                plan = Arc::clone(input);
            }
            result
        };
        assert_eq!(chain(limits::PLAN_DEPTH_MAX), Ok(()));
        let refused = "the plan is nested too deeply limit=500".to_owned();
        assert_eq!(chain(limits::PLAN_DEPTH_MAX + 1), Err(refused));
        let wide = LogicalPlan::Union {
            inputs: vec![scan(None); limits::PLAN_NODES_MAX],
        };
        check(wide, "the plan has too many operators limit=10000");
    }

    #[test]
    fn a_plan_that_reads_itself_again_and_again_is_as_large_as_its_tree() {
        let doubled = |times: usize| {
            let both = |plan: Arc<LogicalPlan>, _| {
                let inputs = vec![Arc::clone(&plan), plan];
                Arc::new(LogicalPlan::Union { inputs })
            };
            let plan = (0..times).fold(scan(Some(&["line"])), both);
            (*plan).clone()
        };
        check(doubled(12), "line: Utf8View");
        check(doubled(40), "the plan has too many operators limit=10000");
    }
}
