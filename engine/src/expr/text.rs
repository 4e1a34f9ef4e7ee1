//! The one text form of expressions: `n + 1 > 5 AND lower(word) = "the"`.
//!
//! It is what `explain` prints, what errors quote and what unnamed columns are called. Names that
//! are not plain identifiers stand in backquotes, strings in double quotes, and parentheses only
//! where precedence needs them, so that two different expressions never print alike.

use std::fmt;

use arrow::array::{Array, Date32Array, TimestampMicrosecondArray};
use arrow::datatypes::{Decimal128Type, DecimalType};
use arrow::util::display::array_value_to_string;

use super::{AggregateExpr, AggregateFunction, BinaryOp, Expr, Literal, SortKey};

/// The name of the column that `expr` makes: the column's own, the alias, or the text.
pub fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Column(name) | Expr::Alias { name, .. } => name.clone(),
        other => other.to_string(),
    }
}

/// How tightly an expression binds; a part that binds less than its place asks gets parentheses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Alias,
    Or,
    And,
    Not,
    Compare,
    Sum,
    Product,
    Unary,
    Primary,
}

impl Binding {
    fn of(expr: &Expr) -> Binding {
        match expr {
            Expr::Alias { .. } => Binding::Alias,
            Expr::Binary { op, .. } => Binding::of_op(*op),
            Expr::Not(_) => Binding::Not,
            Expr::IsNull(_) => Binding::Compare,
            Expr::Negate(_) => Binding::Unary,
            Expr::Literal(Literal::Int64(value)) if *value < 0 => Binding::Unary,
            Expr::Literal(Literal::Float64(value)) if value.is_sign_negative() => Binding::Unary,
            Expr::InList { .. } => Binding::Compare,
            Expr::Column(_)
            | Expr::Literal(_)
            | Expr::Cast { .. }
            | Expr::Case { .. }
            | Expr::Function { .. }
            | Expr::Udf { .. } => Binding::Primary,
        }
    }

    fn of_op(op: BinaryOp) -> Binding {
        match op {
            BinaryOp::Or => Binding::Or,
            BinaryOp::And => Binding::And,
            BinaryOp::Add | BinaryOp::Subtract => Binding::Sum,
            BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Modulo => Binding::Product,
            BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual => Binding::Compare,
        }
    }

    /// The next tighter one: what the right side of a left-associative operator asks.
    fn tighter(self) -> Binding {
        match self {
            Binding::Alias => Binding::Or,
            Binding::Or => Binding::And,
            Binding::And => Binding::Not,
            Binding::Not => Binding::Compare,
            Binding::Compare => Binding::Sum,
            Binding::Sum => Binding::Product,
            Binding::Product => Binding::Unary,
            Binding::Unary | Binding::Primary => Binding::Primary,
        }
    }
}

/// Writes `expr`; used by its `Display`.
pub(super) fn write(expr: &Expr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match expr {
        Expr::Column(name) => write!(f, "{}", Name(name)),
        Expr::Literal(literal) => write!(f, "{literal}"),
        Expr::Binary { left, op, right } => {
            let binding = Binding::of_op(*op);
            // Comparisons do not chain: `(a < b) = c` keeps its parentheses.
            let chains = binding != Binding::Compare;
            write_at(left, if chains { binding } else { binding.tighter() }, f)?;
            write!(f, " {op} ")?;
            write_at(right, binding.tighter(), f)
        }
        Expr::Not(inner) => match &**inner {
            Expr::IsNull(inner) => {
                write_at(inner, Binding::Sum, f)?;
                f.write_str(" IS NOT NULL")
            }
            inner => {
                f.write_str("NOT ")?;
                write_at(inner, Binding::Not, f)
            }
        },
        Expr::Negate(inner) => {
            f.write_str("-")?;
            write_at(inner, Binding::Primary, f)
        }
        Expr::IsNull(inner) => {
            write_at(inner, Binding::Sum, f)?;
            f.write_str(" IS NULL")
        }
        Expr::Cast { expr, to, lenient } => {
            let word = if *lenient { "TRY_CAST" } else { "CAST" };
            write!(f, "{word}({expr} AS {to})")
        }
        Expr::Case {
            branches,
            otherwise,
        } => {
            f.write_str("CASE")?;
            for (condition, value) in branches {
                write!(f, " WHEN {condition} THEN {value}")?;
            }
            if let Some(value) = otherwise {
                write!(f, " ELSE {value}")?;
            }
            f.write_str(" END")
        }
        Expr::InList { expr, list } => {
            write_at(expr, Binding::Sum, f)?;
            f.write_str(" IN ")?;
            write_list(list, f)
        }
        Expr::Function { function, args } => {
            f.write_str(function.name())?;
            write_list(args, f)
        }
        Expr::Udf { function, args } => {
            write!(f, "{}", Name(function.name()))?;
            write_list(args, f)
        }
        Expr::Alias { expr, name } => {
            write_at(expr, Binding::Or, f)?;
            write!(f, " AS {}", Name(name))
        }
    }
}

fn write_list(list: &[Expr], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("(")?;
    for (index, item) in list.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    f.write_str(")")
}

fn write_at(expr: &Expr, least: Binding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if Binding::of(expr) < least {
        write!(f, "({expr})")
    } else {
        write(expr, f)
    }
}

/// `sum(price)`: an aggregate without its name.
pub(super) fn aggregate_call(aggregate: &AggregateExpr) -> String {
    let function = aggregate.function.name();
    let arguments: Vec<String> = aggregate.arguments.iter().map(Expr::to_string).collect();
    let call = match arguments.as_slice() {
        [] => format!("{function}(*)"),
        arguments => format!("{function}({})", arguments.join(", ")),
    };
    match &aggregate.filter {
        Some(filter) => format!("{call} FILTER (WHERE {filter})"),
        None => call,
    }
}

/// A column name, in backquotes unless it is a plain identifier.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORDS: [&str; 10] = [
            "and", "as", "cast", "desc", "false", "is", "not", "null", "or", "true",
        ];
        let plain = self
            .0
            .starts_with(|first: char| first.is_alphabetic() || first == '_')
            && self
                .0
                .chars()
                .all(|char| char.is_alphanumeric() || char == '_')
            && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(self.0));
        if plain {
            f.write_str(self.0)
        } else {
            write!(f, "`{}`", self.0.replace('`', "``"))
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Null => f.write_str("NULL"),
            Literal::Boolean(value) => write!(f, "{value}"),
            Literal::Int64(value) => write!(f, "{value}"),
            // `{:?}` keeps the point, so that 1.0 and 1 stay apart.
            Literal::Float64(value) => write!(f, "{value:?}"),
            Literal::Utf8(value) => write!(f, "{value:?}"),
            Literal::Binary(value) => {
                f.write_str("X'")?;
                value.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
                f.write_str("'")
            }
            // The type is shown with it: 0.05 is a float, and 1.5 of two types are two things.
            Literal::Decimal {
                unscaled,
                precision,
                scale,
            } => {
                let digits = Decimal128Type::format_decimal(*unscaled, *precision, *scale);
                write!(f, "DECIMAL({precision}, {scale}) '{digits}'")
            }
            Literal::Date(days) => write!(f, "DATE '{}'", shown(&Date32Array::from(vec![*days]))),
            Literal::Timestamp { micros, zone } => {
                let array = TimestampMicrosecondArray::from(vec![*micros]);
                let array = array.with_timezone_opt(zone.as_deref());
                write!(f, "TIMESTAMP '{}'", shown(&array))
            }
            Literal::Interval {
                months,
                days,
                nanos,
            } => write!(f, "INTERVAL '{months} months {days} days {nanos} ns'"),
        }
    }
}

/// The only value of `array` as arrow prints it.
fn shown(array: &dyn Array) -> String {
    array_value_to_string(array, 0).unwrap_or_else(|_| "out of range".to_owned())
}

impl fmt::Display for BinaryOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Modulo => "%",
            BinaryOp::Equal => "=",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessOrEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterOrEqual => ">=",
            BinaryOp::And => "AND",
            BinaryOp::Or => "OR",
        })
    }
}

impl AggregateFunction {
    /// The name that it is called by.
    pub fn name(&self) -> &str {
        match self {
            AggregateFunction::Count => "count",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::Avg => "avg",
            AggregateFunction::CountDistinct => "count_distinct",
            AggregateFunction::Variance => "variance",
            AggregateFunction::VariancePopulation => "variance_population",
            AggregateFunction::StdDev => "stddev",
            AggregateFunction::StdDevPopulation => "stddev_population",
            AggregateFunction::First => "first",
            AggregateFunction::Last => "last",
            AggregateFunction::Any => "any",
            AggregateFunction::All => "all",
            AggregateFunction::Udf(function) => function.name(),
        }
    }
}

/// `sum(price) AS total`; the name only where it is not the call itself.
impl fmt::Display for AggregateExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = aggregate_call(self);
        f.write_str(&call)?;
        if call == self.name {
            Ok(())
        } else {
            write!(f, " AS {}", Name(&self.name))
        }
    }
}

/// `price DESC NULLS FIRST`; what is the default is left out.
impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_at(&self.expr, Binding::Or, f)?;
        f.write_str(if self.descending { " DESC" } else { "" })?;
        f.write_str(if self.nulls_first { " NULLS FIRST" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::expr::{avg, coalesce, col, count_all, lit, lower, regexp_like};

    #[test]
    fn the_text_has_parentheses_only_where_they_are_needed() {
        let check = |expr: Expr, expected: &str| assert_eq!(expr.to_string(), expected);
        let (a, b, c) = (col("a"), col("b"), col("c"));
        check(a.clone() + b.clone() * c.clone(), "a + b * c");
        check((a.clone() + b.clone()) * c.clone(), "(a + b) * c");
        check(a.clone() - (b.clone() - c.clone()), "a - (b - c)");
        check(a.clone() - b.clone() - c.clone(), "a - b - c");
        check(-(-a.clone()), "-(-a)");
        check(-lit(-5), "-(-5)");
        check(a.clone() - -5, "a - -5");
        check(
            a.clone().gt(5).and(lower(b.clone()).eq("a\"b")),
            r#"a > 5 AND lower(b) = "a\"b""#,
        );
        check(
            (a.clone().lt(1).or(b.clone())).and(c.clone()),
            "(a < 1 OR b) AND c",
        );
        check(a.clone().lt(b.clone()).eq(true), "(a < b) = true");
        check(!a.clone().is_null().and(b.clone()), "NOT (a IS NULL AND b)");
        check((a.clone() + 1).is_not_null(), "a + 1 IS NOT NULL");
        check((a.clone().gt(1)).is_null(), "(a > 1) IS NULL");
        check(
            a.clone().cast(DataType::Float64).alias("a b"),
            "CAST(a AS Float64) AS `a b`",
        );
        check(
            coalesce([a.clone(), lit(1.0), lit(None::<i64>)]),
            "coalesce(a, 1.0, NULL)",
        );
        check(
            regexp_like(col("null"), "^a"),
            "regexp_like(`null`, \"^a\")",
        );
        check(col("tick`s"), "`tick``s`");
    }

    #[test]
    fn names_aggregates_and_keys() {
        assert_eq!(output_name(&col("a b")), "a b");
        assert_eq!(output_name(&(col("a") + 1).alias("n")), "n");
        assert_eq!(output_name(&(col("a") + 1)), "a + 1");
        assert_eq!(count_all().to_string(), "count(*)");
        assert_eq!(count_all().alias("n").to_string(), "count(*) AS n");
        assert_eq!(avg(col("x")).name, "avg(x)");
        assert_eq!(
            col("x").desc().nulls_first().to_string(),
            "x DESC NULLS FIRST"
        );
        assert_eq!(col("x").asc().to_string(), "x");
    }
}
