//! Types of expressions and aggregates against a schema.
//!
//! These are the questions a planner asks; the answers come from the one type check, which is
//! [`compile`].

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema};

use super::compile::compile;
use super::{AggregateExpr, AggregateFunction, Expr, coerce};
use crate::error::{Error, Result};
use crate::udf::AggregateUdf;

/// Names listed in full when a column is unknown; more are counted.
const COLUMNS_SHOWN: usize = 20;

/// The type of `expr` over rows of `schema`.
///
/// # Errors
/// `Invalid`: an unknown column, types that do not fit, a bad pattern or too much nesting.
pub fn data_type(expr: &Expr, schema: &Schema) -> Result<DataType> {
    Ok(compile(expr, schema)?.field().data_type().clone())
}

/// The column that `expr` makes of rows of `schema`: its output name, type and nullability.
///
/// # Errors
/// As for [`data_type`].
pub fn field(expr: &Expr, schema: &Schema) -> Result<Field> {
    Ok(compile(expr, schema)?.field().clone())
}

/// The column that `aggregate` makes of groups of rows of `schema`.
///
/// Counts are `Int64` and never null. Sums of whole numbers are `Int64` (`UInt64` of unsigned
/// ones), of floats `Float64`, of decimals `Decimal128(38, scale)`. Means, variances and their
/// roots are `Float64`. Smallest, largest, first and last have the argument's type.
///
/// # Errors
/// As for [`data_type`], and for an argument that cannot be aggregated that way.
pub fn aggregate_field(aggregate: &AggregateExpr, schema: &Schema) -> Result<Field> {
    let AggregateExpr {
        function,
        arguments,
        filter,
        name,
    } = aggregate;
    if let Some(filter) = filter
        && data_type(filter, schema)? != DataType::Boolean
    {
        return Err(Error::invalid(format!(
            "{aggregate}: the filter has to be a boolean"
        )));
    }
    if let AggregateFunction::Udf(function) = function {
        return user_field(aggregate, function, schema);
    }
    let argument = match (function, arguments.as_slice()) {
        (AggregateFunction::Count, []) => return Ok(Field::new(name, DataType::Int64, false)),
        (_, [argument]) => data_type(argument, schema)?,
        (_, arguments) => {
            return Err(Error::invalid(format!(
                "{}: wrong number of arguments expected=1 found={}",
                function.name(),
                arguments.len()
            )));
        }
    };
    let plain = coerce::plain(&argument);
    let result = match function {
        AggregateFunction::Count => return Ok(Field::new(name, DataType::Int64, false)),
        AggregateFunction::Sum => sum_type(&plain),
        AggregateFunction::Avg => sum_type(&plain).map(|_| DataType::Float64),
        AggregateFunction::CountDistinct => {
            if is_kept(&plain) {
                return Ok(Field::new(name, DataType::Int64, false));
            }
            None
        }
        AggregateFunction::Variance
        | AggregateFunction::VariancePopulation
        | AggregateFunction::StdDev
        | AggregateFunction::StdDevPopulation => sum_type(&plain).map(|_| DataType::Float64),
        AggregateFunction::Any | AggregateFunction::All => {
            (plain == DataType::Boolean).then_some(plain)
        }
        AggregateFunction::Min
        | AggregateFunction::Max
        | AggregateFunction::First
        | AggregateFunction::Last => is_kept(&plain).then_some(plain),
        AggregateFunction::Udf(_) => None,
    };
    let Some(result) = result else {
        return Err(Error::invalid(format!(
            "{aggregate}: {} does not take this type found={argument}",
            function.name()
        )));
    };
    Ok(Field::new(name, result, true))
}

/// The column that a user's function makes.
fn user_field(
    aggregate: &AggregateExpr,
    function: &AggregateUdf,
    schema: &Schema,
) -> Result<Field> {
    let wanted = &function.output().arguments;
    if wanted.len() != aggregate.arguments.len() {
        return Err(Error::invalid(format!(
            "{aggregate}: wrong number of arguments expected={} found={}",
            wanted.len(),
            aggregate.arguments.len()
        )));
    }
    for (argument, to) in aggregate.arguments.iter().zip(wanted) {
        let found = data_type(argument, schema)?;
        if found != *to && !coerce::widens(&found, to) {
            return Err(Error::invalid(format!(
                "{aggregate}: an argument has another type expected={to} found={found}"
            )));
        }
    }
    let returns = function.output().returns.clone();
    Ok(Field::new(&aggregate.name, returns, true))
}

/// Whether every value of type `from` has an equal one of type `to`.
pub fn widens(from: &DataType, to: &DataType) -> bool {
    coerce::widens(from, to)
}

/// The type of the sum of values of this type; none if they have none.
pub(crate) fn sum_type(argument: &DataType) -> Option<DataType> {
    match argument {
        DataType::Null => Some(DataType::Int64),
        data_type if data_type.is_signed_integer() => Some(DataType::Int64),
        data_type if data_type.is_unsigned_integer() => Some(DataType::UInt64),
        data_type if data_type.is_floating() => Some(DataType::Float64),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => {
            Some(DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale))
        }
        _ => None,
    }
}

/// Whether a group can keep a value of this type, strings and dictionaries being what
/// [`coerce::plain`] makes of them.
pub(crate) fn is_kept(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Float16, Interval};
    let is_number = data_type.is_numeric() && *data_type != Float16 && !data_type.is_decimal()
        || matches!(data_type, Decimal32(..) | Decimal64(..) | Decimal128(..));
    is_number
        || data_type.is_temporal() && !matches!(data_type, Interval(_))
        || matches!(
            data_type,
            DataType::Boolean | DataType::Utf8View | DataType::BinaryView
        )
}

/// Whether the two keys of a join can be compared: each over its own side.
///
/// # Errors
/// As for [`data_type`], and for two types that are not equal to one another or have no order.
pub fn check_keys(left: &Expr, lefts: &Schema, right: &Expr, rights: &Schema) -> Result<DataType> {
    let (left_type, right_type) = (data_type(left, lefts)?, data_type(right, rights)?);
    coerce::common(&left_type, &right_type)
        .filter(coerce::is_ordered)
        .ok_or_else(|| {
            Error::invalid(format!(
                "{left} = {right}: a join does not compare these types left={left_type} \
                 right={right_type}"
            ))
        })
}

/// Whether values of this type are in an order, so that they can be sorted by.
pub fn is_ordered(data_type: &DataType) -> bool {
    coerce::is_ordered(data_type)
}

/// The error for a column that `schema` does not have, with the nearest name it has.
pub fn unknown_column(name: &str, schema: &Schema) -> Error {
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let nearest = names
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .min_by_key(|(distance, _)| *distance);
    let hint = nearest.map_or(String::new(), |(_, nearest)| {
        format!(": did you mean {nearest:?}?")
    });
    let more = match names.len().saturating_sub(COLUMNS_SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let shown = names
        .iter()
        .take(COLUMNS_SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    Error::invalid(format!(
        "unknown column {name:?}{hint} columns={shown}{more}"
    ))
}

/// Edits between two names, upper and lower case being the same: insertions, deletions,
/// replacements and swaps of neighbours (the "optimal string alignment" distance).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{
        avg, coalesce, col, concat, count, lit, lower, max, regexp_like, sum, words,
    };
    use crate::limits;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("word", DataType::Utf8View, true),
            Field::new("n", DataType::Int32, false),
            Field::new("big", DataType::UInt64, true),
            Field::new("x", DataType::Float32, true),
            Field::new("price", DataType::Decimal128(15, 2), true),
            Field::new("narrow", DataType::Decimal64(15, 2), true),
            Field::new("day", DataType::Date32, true),
            Field::new("ok", DataType::Boolean, true),
        ])
    }

    #[test]
    fn types_of_expressions() {
        let check = |expr: Expr, expected: &str| {
            let field = field(&expr, &schema());
            let found = match field {
                Ok(field) => {
                    let mark = if field.is_nullable() { "?" } else { "" };
                    format!("{}{mark}", field.data_type())
                }
                Err(error) => error.report(),
            };
            assert_eq!(found, expected, "{expr}");
        };
        check(col("n") + 1, "Int64");
        check(col("n") + col("x"), "Float64?");
        check(col("x") * col("x"), "Float32?");
        check(lit(1) - col("price"), "Decimal128(16, 2)?");
        check(lit(1) - col("narrow"), "Decimal64(16, 2)?");
        check(col("narrow") * col("narrow"), "Decimal128(30, 4)?");
        check(col("narrow") * 0.05, "Decimal64(17, 4)?");
        check(col("narrow") * col("x"), "Float64?");
        check(col("narrow") / col("n"), "Float64?");
        check(col("narrow") + col("n"), "Decimal64(16, 2)?");
        check(col("narrow") % 7, "Decimal64(15, 2)?");
        check(col("price") + lit(None::<i64>), "Decimal128(16, 2)?");
        check(lit(None::<i64>) / col("narrow"), "Float64?");
        check(coalesce([col("narrow"), lit(0)]), "Decimal64(15, 2)");
        check(coalesce([col("narrow"), lit(0.125)]), "Decimal64(16, 3)");
        check(col("day") - col("day"), "Int64?");
        check(col("narrow").gt(0.125), "Boolean?");
        check(-col("big"), "Int64?");
        check(col("n").gt(5), "Boolean");
        check(col("big").gt(col("n")), "Boolean?");
        check(col("day").lt("1995-01-01"), "Boolean?");
        check(col("n").is_null().and(col("ok")), "Boolean?");
        check(lower(col("word")), "Utf8View?");
        check(words(col("word")), "List(Utf8View)?");
        check(coalesce([col("x"), lit(0)]), "Float64");
        check(lit(None::<i64>), "Null?");
        check(col("word").cast(DataType::Int64), "Int64?");

        check(
            col("wrod"),
            "unknown column \"wrod\": did you mean \"word\"? \
             columns=word, n, big, x, price, narrow, day, ok",
        );
        check(
            col("nothing"),
            "unknown column \"nothing\" \
             columns=word, n, big, x, price, narrow, day, ok",
        );
        check(
            col("word") + 1,
            "word + 1: + does not take these types left=Utf8View right=Int64",
        );
        check(
            col("word").gt(1),
            "word > 1: > does not compare these types \
             left=Utf8View right=Int64",
        );
        check(
            col("n").and(true),
            "n AND true: a boolean is needed found=Int32",
        );
        check(lower(col("n")), "lower(n): a string is needed found=Int32");
        check(
            concat([]),
            "concat(): wrong number of arguments expected=1 or more found=0",
        );
        check(
            regexp_like(col("word"), "a(b"),
            "bad regular expression: unclosed group pattern=\"a(b\"",
        );
        check(
            col("ok").cast(DataType::Date32),
            "CAST(ok AS Date32): no conversion between these types from=Boolean to=Date32",
        );
    }

    #[test]
    fn a_bad_constant_is_found_before_any_row() {
        let error = data_type(&col("day").lt("soon"), &schema()).expect_err("not a date");
        assert!(
            error.report().starts_with("day < \"soon\": "),
            "{}",
            error.report()
        );
    }

    #[test]
    fn deep_nesting_is_refused_and_the_limit_itself_is_not() {
        let nested = |levels: usize| {
            let mut expr = col("n");
            for _ in 1..levels {
                expr = -expr;
            }
            data_type(&expr, &schema())
        };
        assert_eq!(
            nested(limits::EXPR_DEPTH_MAX).expect("at the limit"),
            DataType::Int32
        );
        let error = nested(limits::EXPR_DEPTH_MAX + 1).expect_err("past the limit");
        assert_eq!(error.message(), "expression is nested too deep limit=64");
    }

    #[test]
    fn types_of_aggregates() {
        let check = |aggregate: AggregateExpr, expected: &str| {
            let found = match aggregate_field(&aggregate, &schema()) {
                Ok(field) => format!("{}: {}", field.name(), field.data_type()),
                Err(error) => error.report(),
            };
            assert_eq!(found, expected);
        };
        check(count(col("word")).alias("n"), "n: Int64");
        check(sum(col("n")), "sum(n): Int64");
        check(sum(col("big")), "sum(big): UInt64");
        check(sum(col("price")), "sum(price): Decimal128(38, 2)");
        check(avg(col("price")), "avg(price): Float64");
        check(max(col("word")), "max(word): Utf8View");
        check(
            sum(col("word")),
            "sum(word): sum does not take this type found=Utf8View",
        );
        check(
            max(words(col("word"))),
            "max(words(word)): max does not take this type found=List(Utf8View)",
        );
    }
}
