//! Functions by name, CASE, and constants with types of their own.
//!
//! Arguments that may be columns take `impl Into<Expr>`, so constants need no `lit`; what has to be
//! a constant is an ordinary Rust value. `docs/functions.md` shows each with an example.

use arrow::array::{AsArray, StringArray};
use arrow::compute::cast_with_options;
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType};

use super::eval::STRICT;
use super::exact::Exact;
use super::{Expr, Function, Literal, lit};

fn call(function: Function, args: impl IntoIterator<Item = Expr>) -> Expr {
    Expr::Function {
        function,
        args: args.into_iter().collect(),
    }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) => $variant:ident,)*) => {
        $($(#[$doc])*
        pub fn $name($($arg: impl Into<Expr>),*) -> Expr {
            call(Function::$variant, [$($arg.into()),*])
        })*
    };
}

functions! {
    /// A string without white space at its start.
    ltrim(text) => Ltrim,
    /// A string without white space at its end.
    rtrim(text) => Rtrim,
    /// `length` characters of a string from `start` on; the first one is 1.
    substring(text, start, length) => Substring,
    /// The characters of a string from `start` on; the first one is 1.
    substring_from(text, start) => Substring,
    /// The first `n` characters; all but the last `-n` if negative.
    left(text, n) => Left,
    /// The last `n` characters; all but the first `-n` if negative.
    right(text, n) => Right,
    /// A string with every `from` replaced by `to`.
    replace(text, from, to) => Replace,
    /// The characters of a string in reverse order.
    reverse(text) => Reverse,
    /// A string `n` times.
    repeat(text, n) => Repeat,
    /// A string filled up with `fill` at its start, or cut at its end, to `n` characters.
    lpad(text, n, fill) => Lpad,
    /// A string filled up with `fill`, or cut, at its end to `n` characters.
    rpad(text, n, fill) => Rpad,
    /// The parts of a string between separators, as a list.
    split(text, separator) => Split,
    /// The `n`th part of a string between separators, from 1 on; from the end if negative.
    split_part(text, separator, n) => SplitPart,
    /// Where `part` is first found in a string, in characters from 1; 0 if nowhere.
    strpos(text, part) => Strpos,
    /// The code point of the first character; 0 of an empty string.
    ascii(text) => Ascii,
    /// The character with a code point.
    chr(code) => Chr,
    /// A string with a capital at the start of every word.
    initcap(text) => Initcap,
    /// The year of a date or timestamp.
    year(time) => Year,
    /// The quarter, 1 to 4.
    quarter(time) => Quarter,
    /// The month, 1 to 12.
    month(time) => Month,
    /// The ISO week, 1 to 53.
    week(time) => Week,
    /// The day of the month, 1 to 31.
    day(time) => Day,
    /// The day of the week: 0 is Sunday, 6 is Saturday.
    day_of_week(time) => DayOfWeek,
    /// The day of the year, 1 to 366.
    day_of_year(time) => DayOfYear,
    /// The hour, 0 to 23.
    hour(time) => Hour,
    /// The minute, 0 to 59.
    minute(time) => Minute,
    /// The whole second, 0 to 59.
    second(time) => Second,
    /// Whole seconds since 1970-01-01 00:00 UTC.
    epoch_seconds(time) => EpochSeconds,
    /// A string such as `2024-02-29` as a date; a timestamp's date.
    to_date(text) => ToDate,
    /// A string such as `2024-02-29 12:30:00` as a timestamp without zone.
    to_timestamp(text) => ToTimestamp,
    /// The nearest whole number; halves go away from zero.
    round(value) => Round,
    /// The next whole number below.
    floor(value) => Floor,
    /// The next whole number above.
    ceil(value) => Ceil,
    /// The next whole number towards zero.
    trunc(value) => Trunc,
    /// The square root; not a number of a negative one.
    sqrt(value) => Sqrt,
    /// e to the power of a number.
    exp(value) => Exp,
    /// The natural logarithm.
    ln(value) => Ln,
    /// The logarithm to base 10.
    log10(value) => Log10,
    /// The logarithm to base 2.
    log2(value) => Log2,
    /// `base` to the power of `exponent`.
    power(base, exponent) => Power,
    /// -1, 0 or 1.
    sign(value) => Sign,
    /// The sine of radians.
    sin(value) => Sin,
    /// The cosine of radians.
    cos(value) => Cos,
    /// The tangent of radians.
    tan(value) => Tan,
    /// The angle of a point, in radians.
    atan2(y, x) => Atan2,
    /// Null where both are equal, else the first.
    nullif(value, other) => Nullif,
}

/// The largest value that is not null.
pub fn greatest(values: impl IntoIterator<Item = Expr>) -> Expr {
    call(Function::Greatest, values)
}

/// The smallest value that is not null.
pub fn least(values: impl IntoIterator<Item = Expr>) -> Expr {
    call(Function::Least, values)
}

/// The nearest number with so many digits behind the point; before it if negative.
pub fn round_to(value: impl Into<Expr>, digits: i64) -> Expr {
    call(Function::Round, [value.into(), lit(digits)])
}

/// The start of the `unit` that a date or timestamp lies in: year, quarter, month, week, day, hour,
/// minute or second.
pub fn date_trunc(unit: &str, time: impl Into<Expr>) -> Expr {
    call(Function::DateTrunc, [lit(unit), time.into()])
}

/// How many starts of a `unit` lie between two dates or timestamps; negative backwards.
pub fn date_diff(unit: &str, from: impl Into<Expr>, to: impl Into<Expr>) -> Expr {
    call(Function::DateDiff, [lit(unit), from.into(), to.into()])
}

/// A string as a date, by a format such as `%d.%m.%Y`.
pub fn to_date_as(text: impl Into<Expr>, format: &str) -> Expr {
    call(Function::ToDate, [text.into(), lit(format)])
}

/// A string as a timestamp without zone, by a format such as `%d.%m.%Y %H:%M`.
pub fn to_timestamp_as(text: impl Into<Expr>, format: &str) -> Expr {
    call(Function::ToTimestamp, [text.into(), lit(format)])
}

/// A string with every match of a regular expression replaced; `$1` in `to` is the first group.
pub fn regexp_replace(text: impl Into<Expr>, pattern: &str, to: impl Into<Expr>) -> Expr {
    let args = [text.into(), lit(pattern), to.into()];
    call(Function::RegexpReplace, args)
}

/// The first match of a regular expression, or its `group` if not 0; null without a match.
pub fn regexp_extract(text: impl Into<Expr>, pattern: &str, group: i64) -> Expr {
    call(
        Function::RegexpExtract,
        [text.into(), lit(pattern), lit(group)],
    )
}

/// A date, written `1998-12-01`. What is no date is an error when the plan is built.
pub fn date(text: &str) -> Expr {
    let values = StringArray::from(vec![text]);
    match cast_with_options(&values, &DataType::Date32, &STRICT) {
        Ok(days) => Literal::Date(days.as_primitive::<Date32Type>().value(0)).into(),
        Err(_) => lit(text).cast(DataType::Date32),
    }
}

/// A timestamp without zone, written `1998-12-01 12:30:00`. What is none is an error when the plan
/// is built.
pub fn timestamp(text: &str) -> Expr {
    let to = DataType::Timestamp(TimeUnit::Microsecond, None);
    let values = StringArray::from(vec![text]);
    match cast_with_options(&values, &to, &STRICT) {
        Ok(times) => Expr::Literal(Literal::Timestamp {
            micros: times.as_primitive::<TimestampMicrosecondType>().value(0),
            zone: None,
        }),
        Err(_) => lit(text).cast(to),
    }
}

/// A decimal number, written `0.05`, of as many digits as are written. What is none is an error
/// when the plan is built.
pub fn decimal(text: &str) -> Expr {
    match Exact::parse(text) {
        Some(number) => Expr::Literal(Literal::Decimal {
            unscaled: number.unscaled,
            precision: number.precision(),
            scale: number.scale,
        }),
        None => lit(text).cast(DataType::Decimal128(38, 10)),
    }
}

fn interval(months: i32, days: i32) -> Expr {
    Expr::Literal(Literal::Interval {
        months,
        days,
        nanos: 0,
    })
}

/// A span of days, to be added to or subtracted from a date or timestamp.
pub fn interval_days(days: i32) -> Expr {
    interval(0, days)
}

/// A span of months; a date that the wanted month does not have becomes its last one.
pub fn interval_months(months: i32) -> Expr {
    interval(months, 0)
}

/// A span of years.
pub fn interval_years(years: i32) -> Expr {
    interval(years.saturating_mul(12), 0)
}

/// The beginning of a CASE: `value` where `condition` is true. Add branches with
/// [`when`](Case::when), and finish with [`otherwise`](Case::otherwise) or [`end`](Case::end).
pub fn case_when(condition: impl Into<Expr>, value: impl Into<Expr>) -> Case {
    Case {
        branches: vec![(condition.into(), value.into())],
    }
}

/// A CASE that is being built.
#[derive(Debug, Clone)]
#[must_use]
pub struct Case {
    branches: Vec<(Expr, Expr)>,
}

impl Case {
    /// `value` where `condition` is true and none before it was.
    pub fn when(mut self, condition: impl Into<Expr>, value: impl Into<Expr>) -> Case {
        self.branches.push((condition.into(), value.into()));
        self
    }

    /// `value` where no condition is true.
    pub fn otherwise(self, value: impl Into<Expr>) -> Expr {
        Expr::Case {
            branches: self.branches,
            otherwise: Some(Box::new(value.into())),
        }
    }

    /// Null where no condition is true.
    pub fn end(self) -> Expr {
        Expr::Case {
            branches: self.branches,
            otherwise: None,
        }
    }
}

impl Expr {
    /// `low <= self AND self <= high`.
    #[must_use]
    pub fn between(self, low: impl Into<Expr>, high: impl Into<Expr>) -> Expr {
        self.clone().gt_eq(low).and(self.lt_eq(high))
    }

    /// Whether the value equals one of the list.
    #[must_use]
    pub fn in_list<T: Into<Expr>>(self, list: impl IntoIterator<Item = T>) -> Expr {
        Expr::InList {
            expr: Box::new(self),
            list: list.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether the value equals none of the list.
    #[must_use]
    pub fn not_in_list<T: Into<Expr>>(self, list: impl IntoIterator<Item = T>) -> Expr {
        !self.in_list(list)
    }

    /// Whether a string has the form of `pattern`: `%` is any characters, `_` is one, and `\` takes
    /// the next one as it is.
    #[must_use]
    pub fn like(self, pattern: &str) -> Expr {
        call(Function::Like, [self, lit(pattern)])
    }

    /// Whether a string does not have the form of `pattern`.
    #[must_use]
    pub fn not_like(self, pattern: &str) -> Expr {
        !self.like(pattern)
    }

    /// As [`like`](Self::like), upper and lower case being the same.
    #[must_use]
    pub fn ilike(self, pattern: &str) -> Expr {
        call(Function::Ilike, [self, lit(pattern)])
    }

    /// The value converted to another type; null if it does not fit.
    #[must_use]
    pub fn try_cast(self, to: DataType) -> Expr {
        Expr::Cast {
            lenient: true,
            expr: Box::new(self),
            to,
        }
    }
}
