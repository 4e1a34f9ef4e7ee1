//! Expressions: what is computed from the columns of a row.
//!
//! [`Expr`] is data: a closed enum that is built by users, checked by [`typing`], rewritten by the
//! optimiser, sent over the wire and evaluated by [`eval`] a batch at a time. It has no behaviour
//! beyond its type, its parts and its text form.

use std::fmt;

use arrow::datatypes::DataType;

use crate::udf::{AggregateUdf, ScalarUdf};

mod build;
mod build_aggregate;
mod build_function;
mod catalog;
mod parts;
mod text;

mod coerce;
mod exact;
mod literal;

mod binary;
mod choose;
mod compile;
mod decimal;
pub mod eval;
mod function;
mod in_list;
mod unify;
mod user;

pub mod typing;

pub use build::{
    abs, avg, coalesce, col, concat, contains, count, count_all, ends_with, length, lit, lower,
    max, min, regexp_like, starts_with, sum, trim, upper, words,
};
pub use build_aggregate::{
    all, any, count_distinct, first, last, stddev, stddev_population, variance, variance_population,
};
pub use build_function::{
    Case, ascii, atan2, case_when, ceil, chr, cos, date, date_diff, date_trunc, day, day_of_week,
    day_of_year, decimal, epoch_seconds, exp, floor, greatest, hour, initcap, interval_days,
    interval_months, interval_years, least, left, ln, log2, log10, lpad, ltrim, minute, month,
    nullif, power, quarter, regexp_extract, regexp_replace, repeat, replace, reverse, right, round,
    round_to, rpad, rtrim, second, sign, sin, split, split_part, sqrt, strpos, substring,
    substring_from, tan, timestamp, to_date, to_date_as, to_timestamp, to_timestamp_as, trunc,
    week, year,
};
pub use catalog::Function;
pub use text::output_name;

/// A scalar expression over the columns of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// The column of that name.
    Column(String),
    /// A constant.
    Literal(Literal),
    /// Two operands and an operator between them.
    Binary {
        /// Left operand.
        left: Box<Expr>,
        /// What to compute.
        op: BinaryOp,
        /// Right operand.
        right: Box<Expr>,
    },
    /// Logical negation; null stays null.
    Not(Box<Expr>),
    /// Arithmetic negation.
    Negate(Box<Expr>),
    /// True where the operand is null; never null itself.
    IsNull(Box<Expr>),
    /// The operand converted to another type.
    Cast {
        /// What to convert.
        expr: Box<Expr>,
        /// The wanted type.
        to: DataType,
        /// A value that does not fit becomes null instead of an error (`try_cast`).
        lenient: bool,
    },
    /// The value beside the first condition that is true.
    Case {
        /// Conditions and values, at least one.
        branches: Vec<(Expr, Expr)>,
        /// The value where no condition is true; null where there is none.
        otherwise: Option<Box<Expr>>,
    },
    /// Whether the operand equals one of the list: true if one is equal, else null if the operand
    /// or one of the list is null, else false.
    InList {
        /// What is looked for.
        expr: Box<Expr>,
        /// What it may be.
        list: Vec<Expr>,
    },
    /// A built-in function of its arguments.
    Function {
        /// Which one.
        function: Function,
        /// Its arguments, in order.
        args: Vec<Expr>,
    },
    /// A function of a user's program.
    Udf {
        /// Which one.
        function: ScalarUdf,
        /// Its arguments, in order.
        args: Vec<Expr>,
    },
    /// The operand under another name.
    Alias {
        /// What is named.
        expr: Box<Expr>,
        /// The name of the resulting column.
        name: String,
    },
}

/// A constant in a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Null of no particular type.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Int64(i64),
    /// A floating-point number.
    Float64(f64),
    /// A string.
    Utf8(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A decimal number: `unscaled` / 10^`scale`.
    Decimal {
        /// All digits as a whole number.
        unscaled: i128,
        /// How many digits its type has.
        precision: u8,
        /// How many of them stand behind the point.
        scale: i8,
    },
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01 00:00, in UTC if there is a zone.
    Timestamp {
        /// Microseconds.
        micros: i64,
        /// The zone it is shown in, as `Europe/Berlin` or `+02:00`; none for a local time.
        zone: Option<String>,
    },
    /// A span of time in three parts that do not convert into one another.
    Interval {
        /// Months.
        months: i32,
        /// Days.
        days: i32,
        /// Nanoseconds.
        nanos: i64,
    },
}

/// Operators with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

/// What an aggregate computes from the rows of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum AggregateFunction {
    /// Rows, or rows where the argument is not null.
    Count,
    /// Sum of the values that are not null; null if there is none.
    Sum,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Arithmetic mean.
    Avg,
    /// Different values that are not null.
    CountDistinct,
    /// Variance of a sample: null for fewer than two values.
    Variance,
    /// Variance of a whole population.
    VariancePopulation,
    /// Square root of [`AggregateFunction::Variance`].
    StdDev,
    /// Square root of [`AggregateFunction::VariancePopulation`].
    StdDevPopulation,
    /// The value of any row, null or not: which one is not said.
    First,
    /// The value of any row, null or not: which one is not said.
    Last,
    /// Whether a boolean is true for any row; null if it is null for all.
    Any,
    /// Whether a boolean is true for all rows that have one; null if none has.
    All,
    /// A function of a user's program.
    Udf(AggregateUdf),
}

/// One aggregate in a group-by.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateExpr {
    /// What to compute.
    pub function: AggregateFunction,
    /// What of: one value; none for `count` of all rows, any number for a user's function.
    pub arguments: Vec<Expr>,
    /// Only rows for which this is true count; all rows where there is none.
    pub filter: Option<Expr>,
    /// Name of the resulting column.
    pub name: String,
}

impl AggregateExpr {
    /// The expressions that it is computed from.
    pub fn operands(&self) -> impl Iterator<Item = &Expr> {
        self.arguments.iter().chain(&self.filter)
    }

    /// Whether it is a function of a user's program, or calls one.
    pub fn calls_functions(&self) -> bool {
        let is_one = matches!(self.function, AggregateFunction::Udf(_));
        is_one || self.operands().any(Expr::calls_functions)
    }
}

/// One key of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct SortKey {
    /// What to order by.
    pub expr: Expr,
    /// Largest first.
    pub descending: bool,
    /// Nulls before everything else, whatever the direction.
    pub nulls_first: bool,
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(self, f)
    }
}
