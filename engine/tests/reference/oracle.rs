//! The engine's meaning, a row at a time: slow, plain, and written without arrow.
//!
//! Every operand is computed before its operator, as the engine does, so an error anywhere in a
//! row is an error of the whole; only AND and OR look at their right side where they need it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::expr::{
    AggregateExpr, AggregateFunction, BinaryOp, Expr, Function, Literal, SortKey,
};

/// One value of one row.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A whole number, or the days of a date.
    Int(i64),
    Float(f64),
    /// So many units of 10^-scale, with as few digits behind the point as there can be.
    Decimal(i128, u32),
    Text(String),
    List(Vec<Value>),
}

pub(crate) type Row = Vec<Value>;

/// An error that depends on the values: overflow or division by zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed;

use Value::{Bool, Decimal, Float, Int, List, Null, Text};

/// Total order of values of one type; floats by IEEE 754's total order. Numbers of two types
/// meet as floats.
pub(crate) fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Null, Null) => Ordering::Equal,
        (Bool(a), Bool(b)) => a.cmp(b),
        (Int(a), Int(b)) => a.cmp(b),
        (Float(a), Float(b)) => a.total_cmp(b),
        (Int(a), Float(b)) => (*a as f64).total_cmp(b),
        (Float(a), Int(b)) => a.total_cmp(&(*b as f64)),
        (Text(a), Text(b)) => a.cmp(b),
        (Decimal(..), Float(_)) | (Float(_), Decimal(..)) => float(a).total_cmp(&float(b)),
        (Decimal(..), _) | (_, Decimal(..)) => {
            let ((a, a_scale), (b, b_scale)) = (units(a), units(b));
            (a * 10i128.pow(b_scale)).cmp(&(b * 10i128.pow(a_scale)))
        }
        _ => panic!("the generator does not compare {a:?} with {b:?}"),
    }
}

/// The value of `expr` for `row`, whose columns are called `names`.
pub(crate) fn evaluate(expr: &Expr, names: &[&str], row: &Row) -> Result<Value, Failed> {
    let value = |expr: &Expr| evaluate(expr, names, row);
    Ok(match expr {
        Expr::Column(name) => {
            let index = names.iter().position(|known| known == name);
            row[index.expect("the generator knows the columns")].clone()
        }
        Expr::Literal(Literal::Null) => Null,
        Expr::Literal(Literal::Boolean(value)) => Bool(*value),
        Expr::Literal(Literal::Int64(value)) => Int(*value),
        Expr::Literal(Literal::Float64(value)) => Float(*value),
        Expr::Literal(Literal::Utf8(value)) => Text(value.clone()),
        Expr::Literal(
            other @ (Literal::Binary(_) | Literal::Timestamp { .. } | Literal::Interval { .. }),
        ) => panic!("the generator does not make {other}"),
        Expr::Literal(Literal::Date(days)) => Int((*days).into()),
        Expr::Literal(Literal::Decimal {
            unscaled, scale, ..
        }) => decimal(*unscaled, *scale as u32),
        Expr::Binary { left, op, right } => match (op, value(left)?) {
            (BinaryOp::And, Bool(false)) => Bool(false),
            (BinaryOp::Or, Bool(true)) => Bool(true),
            (op, found) => {
                let other = value(right)?;
                let found_spelled = spelled(left, &found, &other);
                binary(*op, found_spelled, spelled(right, &other, &found))?
            }
        },
        Expr::Case {
            branches,
            otherwise,
        } => {
            for (condition, result) in branches {
                if let Bool(true) = value(condition)? {
                    return value(result);
                }
            }
            otherwise.as_ref().map_or(Ok(Null), |expr| value(expr))?
        }
        Expr::InList { expr, list } => {
            let found = value(expr)?;
            let items = list.iter().map(value).collect::<Result<Vec<_>, _>>()?;
            let is = |item: &Value| !matches!(item, Null) && compare(&found, item).is_eq();
            match found {
                Null => Null,
                _ if items.iter().any(is) => Bool(true),
                _ if items.iter().any(|item| matches!(item, Null)) => Null,
                _ => Bool(false),
            }
        }
        Expr::Not(inner) => match value(inner)? {
            Bool(value) => Bool(!value),
            other => other,
        },
        Expr::Negate(inner) => match value(inner)? {
            Int(value) => Int(value.checked_neg().ok_or(Failed)?),
            Float(value) => Float(-value),
            Decimal(units, scale) => Decimal(-units, scale),
            other => other,
        },
        Expr::IsNull(inner) => Bool(matches!(value(inner)?, Null)),
        // The generator casts only to widen, which changes no value.
        Expr::Cast { expr, to, .. } => match value(expr)? {
            Int(value) if to.is_decimal() => decimal(value.into(), 0),
            number @ (Int(_) | Decimal(..)) if to.is_floating() => Float(float(&number)),
            other => other,
        },
        Expr::Alias { expr, .. } => value(expr)?,
        Expr::Udf { function, .. } => panic!("the generator does not call {function}"),
        Expr::Function { function, args } => {
            let args: Result<Vec<Value>, Failed> = args.iter().map(value).collect();
            call(*function, args?)?
        }
    })
}

/// A float constant beside a decimal is the decimal that it spells.
fn spelled(expr: &Expr, value: &Value, other: &Value) -> Value {
    match (expr, value, other) {
        (Expr::Literal(_), Float(float), Decimal(..)) if float.is_finite() => {
            // The generator's floats are halves; minus zero is none of a decimal's numbers.
            if float.to_bits() == (-0.0f64).to_bits() {
                value.clone()
            } else {
                decimal((float * 10.0) as i128, 1)
            }
        }
        _ => value.clone(),
    }
}

/// The number with all zeros at its end taken away.
pub(crate) fn decimal(mut units: i128, mut scale: u32) -> Value {
    while scale > 0 && units % 10 == 0 {
        (units, scale) = (units / 10, scale - 1);
    }
    Decimal(units, scale)
}

fn units(value: &Value) -> (i128, u32) {
    match value {
        Int(value) => ((*value).into(), 0),
        Decimal(units, scale) => (*units, *scale),
        other => panic!("the generator does not take {other:?} for a decimal"),
    }
}

/// The generator's decimals are small enough never to overflow.
fn exact(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, Failed> {
    let ((a, a_scale), (b, b_scale)) = (units(left), units(right));
    let scale = a_scale.max(b_scale);
    let (up, down) = (10i128.pow(scale - a_scale), 10i128.pow(scale - b_scale));
    Ok(match op {
        BinaryOp::Add => decimal(a * up + b * down, scale),
        BinaryOp::Subtract => decimal(a * up - b * down, scale),
        BinaryOp::Multiply => decimal(a * b, a_scale + b_scale),
        _ if b == 0 => return Err(Failed),
        BinaryOp::Divide => Float(float(left) / float(right)),
        _ => decimal((a * up) % (b * down), scale),
    })
}

fn binary(op: BinaryOp, left: Value, right: Value) -> Result<Value, Failed> {
    Ok(match (op, left, right) {
        (BinaryOp::And, _, Bool(false)) => Bool(false),
        (BinaryOp::Or, _, Bool(true)) => Bool(true),
        (_, Null, _) | (_, _, Null) => Null,
        (BinaryOp::And | BinaryOp::Or, known, _) => known,
        (BinaryOp::Equal, a, b) => Bool(compare(&a, &b).is_eq()),
        (BinaryOp::NotEqual, a, b) => Bool(compare(&a, &b).is_ne()),
        (BinaryOp::Less, a, b) => Bool(compare(&a, &b).is_lt()),
        (BinaryOp::LessOrEqual, a, b) => Bool(compare(&a, &b).is_le()),
        (BinaryOp::Greater, a, b) => Bool(compare(&a, &b).is_gt()),
        (BinaryOp::GreaterOrEqual, a, b) => Bool(compare(&a, &b).is_ge()),
        (op, Int(a), Int(b)) => {
            let result = match op {
                BinaryOp::Add => a.checked_add(b),
                BinaryOp::Subtract => a.checked_sub(b),
                BinaryOp::Multiply => a.checked_mul(b),
                BinaryOp::Divide => a.checked_div(b),
                _ => a.checked_rem(b),
            };
            Int(result.ok_or(Failed)?)
        }
        (op, a @ Decimal(..), b @ (Decimal(..) | Int(_))) | (op, a @ Int(_), b @ Decimal(..)) => {
            exact(op, &a, &b)?
        }
        (op, a, b) => {
            let (a, b) = (float(&a), float(&b));
            Float(match op {
                BinaryOp::Add => a + b,
                BinaryOp::Subtract => a - b,
                BinaryOp::Multiply => a * b,
                BinaryOp::Divide => a / b,
                _ => a % b,
            })
        }
    })
}

fn float(value: &Value) -> f64 {
    match value {
        Int(value) => *value as f64,
        Float(value) => *value,
        Decimal(units, scale) => *units as f64 / 10f64.powi(*scale as i32),
        other => panic!("the generator does not compute with {other:?}"),
    }
}

fn call(function: Function, args: Vec<Value>) -> Result<Value, Failed> {
    if function == Function::Coalesce {
        return Ok(args
            .into_iter()
            .find(|arg| !matches!(arg, Null))
            .unwrap_or(Null));
    }
    if args.iter().any(|arg| matches!(arg, Null)) {
        return Ok(Null);
    }
    Ok(match (function, args.as_slice()) {
        (Function::Abs, [Int(value)]) => Int(value.checked_abs().ok_or(Failed)?),
        (Function::Abs, [Float(value)]) => Float(value.abs()),
        (Function::Abs, [Decimal(units, scale)]) => Decimal(units.abs(), *scale),
        (Function::Words, [Text(text)]) => List(
            text.split_whitespace()
                .map(|word| Text(word.into()))
                .collect(),
        ),
        (Function::Lower, [Text(text)]) => Text(text.to_lowercase()),
        (Function::Upper, [Text(text)]) => Text(text.to_uppercase()),
        (Function::Length, [Text(text)]) => Int(text.chars().count() as i64),
        (Function::Trim, [Text(text)]) => Text(text.trim().into()),
        (Function::Contains, [Text(text), Text(part)]) => Bool(text.contains(part.as_str())),
        (Function::StartsWith, [Text(text), Text(part)]) => Bool(text.starts_with(part.as_str())),
        (Function::EndsWith, [Text(text), Text(part)]) => Bool(text.ends_with(part.as_str())),
        // The generator's patterns are plain text.
        (Function::RegexpLike, [Text(text), Text(part)]) => Bool(text.contains(part.as_str())),
        (Function::Concat, parts) => {
            let text = |part: &Value| match part {
                Text(text) => text.clone(),
                other => panic!("the generator does not join {other:?}"),
            };
            Text(parts.iter().map(text).collect())
        }
        (function, args) => panic!("the generator does not call {function:?} with {args:?}"),
    })
}

/// The rows for which `predicate` is true.
pub(crate) fn filter(predicate: &Expr, names: &[&str], rows: &[Row]) -> Result<Vec<Row>, Failed> {
    let mut kept = Vec::new();
    for row in rows {
        if let Bool(true) = evaluate(predicate, names, row)? {
            kept.push(row.clone());
        }
    }
    Ok(kept)
}

/// One value per expression for each row.
pub(crate) fn project(exprs: &[Expr], names: &[&str], rows: &[Row]) -> Result<Vec<Row>, Failed> {
    let row = |row| {
        exprs
            .iter()
            .map(|expr| evaluate(expr, names, row))
            .collect()
    };
    rows.iter().map(row).collect()
}

/// One row per element of the list at `column`.
pub(crate) fn explode(column: usize, rows: &[Row]) -> Vec<Row> {
    let mut exploded = Vec::new();
    for row in rows {
        let List(elements) = &row[column] else {
            continue;
        };
        for element in elements {
            let mut row = row.clone();
            row[column] = element.clone();
            exploded.push(row);
        }
    }
    exploded
}

/// The rows in the order of `keys`; those that are equal by them, by their columns.
pub(crate) fn sort(keys: &[SortKey], names: &[&str], rows: &[Row]) -> Result<Vec<Row>, Failed> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| {
        let values = a.iter().zip(b);
        let mut orders = values.map(|(a, b)| nulls(a, b, true).unwrap_or_else(|| compare(a, b)));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    sort_stable(keys, names, &rows)
}

/// The same, with rows of equal keys as they were.
pub(crate) fn sort_stable(
    keys: &[SortKey],
    names: &[&str],
    rows: &[Row],
) -> Result<Vec<Row>, Failed> {
    let mut keyed = Vec::new();
    for row in rows {
        let key = |key: &SortKey| evaluate(&key.expr, names, row);
        keyed.push((
            keys.iter().map(key).collect::<Result<Row, Failed>>()?,
            row.clone(),
        ));
    }
    keyed.sort_by(|(a, _), (b, _)| {
        let values = keys.iter().zip(a.iter().zip(b));
        let mut orders = values.map(|(key, (a, b))| in_order(key, a, b));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    Ok(keyed.into_iter().map(|(_, row)| row).collect())
}

fn in_order(key: &SortKey, a: &Value, b: &Value) -> Ordering {
    let by_value = || {
        let order = compare(a, b);
        if key.descending {
            order.reverse()
        } else {
            order
        }
    };
    nulls(a, b, key.nulls_first).unwrap_or_else(by_value)
}

/// The order of two values of which at least one is null.
fn nulls(a: &Value, b: &Value, first: bool) -> Option<Ordering> {
    let order = match (a, b) {
        (Null, Null) => Ordering::Equal,
        (Null, _) => Ordering::Less,
        (_, Null) => Ordering::Greater,
        _ => return None,
    };
    Some(if first { order } else { order.reverse() })
}

/// One row for each distinct key: the key, then the aggregates of its rows.
pub(crate) fn aggregate(
    group_by: &[Expr],
    aggregates: &[AggregateExpr],
    names: &[&str],
    rows: &[Row],
) -> Result<Vec<Row>, Failed> {
    let mut groups: BTreeMap<String, (Row, Vec<&Row>)> = BTreeMap::new();
    if group_by.is_empty() {
        groups.insert(String::new(), Default::default());
    }
    for row in rows {
        let key = group_by.iter().map(|key| evaluate(key, names, row));
        let key: Row = key
            .map(|value| value.map(one_zero))
            .collect::<Result<_, _>>()?;
        let name = match key.is_empty() {
            true => String::new(),
            false => format!("{key:?}"),
        };
        let group = groups.entry(name).or_insert_with(|| (key, Vec::new()));
        group.1.push(row);
    }
    let result = |(key, rows): (Row, Vec<&Row>)| {
        let mut result = key;
        for aggregate in aggregates {
            result.push(fold(aggregate, names, &rows)?);
        }
        Ok(result)
    };
    groups.into_values().map(result).collect()
}

/// As a key, 0 and -0 are one number.
fn one_zero(value: Value) -> Value {
    match value {
        Float(value) => Float(if value == 0.0 { 0.0 } else { value }),
        other => other,
    }
}

fn fold(aggregate: &AggregateExpr, names: &[&str], rows: &[&Row]) -> Result<Value, Failed> {
    let mut counted = Vec::new();
    for row in rows {
        let kept = match &aggregate.filter {
            Some(filter) => matches!(evaluate(filter, names, row)?, Bool(true)),
            None => true,
        };
        if kept {
            counted.push(row);
        }
    }
    let Some(argument) = aggregate.arguments.first() else {
        return Ok(Int(counted.len() as i64));
    };
    let mut values = Vec::new();
    for row in counted {
        match evaluate(argument, names, row)? {
            Null => {}
            value => values.push(value),
        }
    }
    let count = values.len() as f64;
    let ints = || {
        values.iter().map(|value| match value {
            Int(value) => i128::from(*value),
            other => panic!("the generator does not add up {other:?}"),
        })
    };
    Ok(match (&aggregate.function, values.first()) {
        (AggregateFunction::Count, _) => Int(values.len() as i64),
        (AggregateFunction::CountDistinct, _) => {
            let texts = values
                .into_iter()
                .map(|value| format!("{:?}", one_zero(value)));
            Int(texts.collect::<BTreeSet<String>>().len() as i64)
        }
        (_, None) => Null,
        (AggregateFunction::Min | AggregateFunction::All, _) => {
            values.into_iter().min_by(compare).unwrap_or(Null)
        }
        (AggregateFunction::Max | AggregateFunction::Any, _) => {
            values.into_iter().max_by(compare).unwrap_or(Null)
        }
        (AggregateFunction::First | AggregateFunction::Last, Some(value)) => value.clone(),
        (AggregateFunction::Sum, Some(Int(_))) => {
            Int(i64::try_from(ints().sum::<i128>()).map_err(|_| Failed)?)
        }
        (AggregateFunction::Sum, Some(Decimal(..))) => sum_decimals(&values)?,
        (AggregateFunction::Avg, Some(Decimal(..))) => {
            Float(float(&sum_decimals(&values)?) / count)
        }
        (AggregateFunction::Sum, _) => Float(sum_floats(&values)),
        (AggregateFunction::Avg, Some(Int(_))) => Float(ints().sum::<i128>() as f64 / count),
        (AggregateFunction::Avg, _) => Float(sum_floats(&values) / count),
        (AggregateFunction::VariancePopulation, _) => Float(squares(&values) / count),
        (AggregateFunction::StdDevPopulation, _) => Float((squares(&values) / count).sqrt()),
        (_, _) if values.len() < 2 => Null,
        (AggregateFunction::Variance, _) => Float(squares(&values) / (count - 1.0)),
        (AggregateFunction::Udf(function), _) => panic!("the generator does not call {function}"),
        (AggregateFunction::StdDev, _) => Float((squares(&values) / (count - 1.0)).sqrt()),
    })
}

/// Squares of the distances from the mean, added up.
fn squares(values: &[Value]) -> f64 {
    let mean = values.iter().map(float).sum::<f64>() / values.len() as f64;
    values
        .iter()
        .map(|value| (float(value) - mean).powi(2))
        .sum()
}

fn sum_decimals(values: &[Value]) -> Result<Value, Failed> {
    let zero = decimal(0, 0);
    let mut values = values.iter();
    values.try_fold(zero, |sum, value| exact(BinaryOp::Add, &sum, value))
}

/// From the first value on, since -0 is the neutral one.
fn sum_floats(values: &[Value]) -> f64 {
    values
        .iter()
        .map(float)
        .fold(-0.0, |sum, value| sum + value)
}
