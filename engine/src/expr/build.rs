//! Building expressions in Rust: `col("n").gt(5).and(lower(col("word")).eq("the"))`.
//!
//! Whatever a value can stand for converts into [`Literal`] and from there into [`Expr`], so
//! constants need no `lit` on the right of an operator. A `&str` is always a string constant;
//! columns are only ever named through [`col`].

use std::ops;

use arrow::datatypes::DataType;

use super::{AggregateExpr, AggregateFunction, BinaryOp, Expr, Function, Literal, SortKey};

/// The column called `name`.
pub fn col(name: impl Into<String>) -> Expr {
    Expr::Column(name.into())
}

/// A constant.
pub fn lit(value: impl Into<Literal>) -> Expr {
    Expr::Literal(value.into())
}

fn function<const N: usize>(function: Function, args: [Expr; N]) -> Expr {
    Expr::Function {
        function,
        args: args.into(),
    }
}

/// The maximal runs of characters without Unicode White_Space in a string, as a list.
pub fn words(text: Expr) -> Expr {
    function(Function::Words, [text])
}

/// A string in Unicode lower case.
pub fn lower(text: Expr) -> Expr {
    function(Function::Lower, [text])
}

/// A string in Unicode upper case.
pub fn upper(text: Expr) -> Expr {
    function(Function::Upper, [text])
}

/// Number of characters of a string.
pub fn length(text: Expr) -> Expr {
    function(Function::Length, [text])
}

/// A string without white space at both ends.
pub fn trim(text: Expr) -> Expr {
    function(Function::Trim, [text])
}

/// Whether a string has `part` in it.
pub fn contains(text: Expr, part: impl Into<Expr>) -> Expr {
    function(Function::Contains, [text, part.into()])
}

/// Whether a string starts with `prefix`.
pub fn starts_with(text: Expr, prefix: impl Into<Expr>) -> Expr {
    function(Function::StartsWith, [text, prefix.into()])
}

/// Whether a string ends with `suffix`.
pub fn ends_with(text: Expr, suffix: impl Into<Expr>) -> Expr {
    function(Function::EndsWith, [text, suffix.into()])
}

/// Whether the regular expression `pattern` matches anywhere in a string.
pub fn regexp_like(text: Expr, pattern: impl Into<String>) -> Expr {
    function(Function::RegexpLike, [text, lit(pattern.into())])
}

/// Strings joined; null if any is null.
pub fn concat(parts: impl IntoIterator<Item = Expr>) -> Expr {
    Expr::Function {
        function: Function::Concat,
        args: parts.into_iter().collect(),
    }
}

/// The first value that is not null.
pub fn coalesce(values: impl IntoIterator<Item = Expr>) -> Expr {
    Expr::Function {
        function: Function::Coalesce,
        args: values.into_iter().collect(),
    }
}

/// The value without its sign.
pub fn abs(value: Expr) -> Expr {
    function(Function::Abs, [value])
}

/// Number of rows of a group.
pub fn count_all() -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Count, None)
}

/// Number of rows of a group where `value` is not null.
pub fn count(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Count, Some(value))
}

/// Sum of the values of a group; null if all are null.
pub fn sum(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Sum, Some(value))
}

/// Smallest value of a group; null if all are null.
pub fn min(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Min, Some(value))
}

/// Largest value of a group; null if all are null.
pub fn max(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Max, Some(value))
}

/// Arithmetic mean of the values of a group; null if all are null.
pub fn avg(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Avg, Some(value))
}

impl AggregateExpr {
    /// An aggregate named by its own text, such as `sum(price)`.
    pub fn new(function: AggregateFunction, argument: Option<Expr>) -> Self {
        AggregateExpr::of(function, argument)
    }

    /// The same of any number of arguments.
    pub fn of(function: AggregateFunction, arguments: impl IntoIterator<Item = Expr>) -> Self {
        let mut aggregate = AggregateExpr {
            filter: None,
            function,
            arguments: arguments.into_iter().collect(),
            name: String::new(),
        };
        aggregate.name = super::text::aggregate_call(&aggregate);
        aggregate
    }

    /// The same aggregate under another name.
    #[must_use]
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl SortKey {
    /// Nulls before everything else, whatever the direction.
    #[must_use]
    pub fn nulls_first(mut self) -> Self {
        self.nulls_first = true;
        self
    }

    /// Nulls after everything else, whatever the direction: the default.
    #[must_use]
    pub fn nulls_last(mut self) -> Self {
        self.nulls_first = false;
        self
    }
}

impl From<Expr> for SortKey {
    fn from(expr: Expr) -> Self {
        expr.asc()
    }
}

impl Expr {
    /// `left op right`.
    pub fn binary(left: Expr, op: BinaryOp, right: Expr) -> Expr {
        Expr::Binary {
            left: Box::new(left),
            op,
            right: Box::new(right),
        }
    }

    /// The same value under another name.
    #[must_use]
    pub fn alias(self, name: impl Into<String>) -> Expr {
        Expr::Alias {
            expr: Box::new(self),
            name: name.into(),
        }
    }

    /// The value converted to another type; one that does not fit is an error.
    #[must_use]
    pub fn cast(self, to: DataType) -> Expr {
        Expr::Cast {
            lenient: false,
            expr: Box::new(self),
            to,
        }
    }

    /// Whether the value is null.
    #[must_use]
    pub fn is_null(self) -> Expr {
        Expr::IsNull(Box::new(self))
    }

    /// Whether the value is not null.
    #[must_use]
    pub fn is_not_null(self) -> Expr {
        !self.is_null()
    }

    /// Smallest first, nulls last.
    pub fn asc(self) -> SortKey {
        SortKey {
            expr: self,
            descending: false,
            nulls_first: false,
        }
    }

    /// Largest first, nulls last.
    pub fn desc(self) -> SortKey {
        SortKey {
            expr: self,
            descending: true,
            nulls_first: false,
        }
    }
}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident => $op:ident,)*) => {
        impl Expr {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(self, other: impl Into<Expr>) -> Expr {
                Expr::binary(self, BinaryOp::$op, other.into())
            })*
        }
    };
}

comparisons! {
    /// `self = other`.
    eq => Equal,
    /// `self != other`.
    not_eq => NotEqual,
    /// `self < other`.
    lt => Less,
    /// `self <= other`.
    lt_eq => LessOrEqual,
    /// `self > other`.
    gt => Greater,
    /// `self >= other`.
    gt_eq => GreaterOrEqual,
    /// True where both are, false where one is false, null otherwise.
    and => And,
    /// True where one is, false where both are false, null otherwise.
    or => Or,
}

macro_rules! arithmetic {
    ($($trait:ident :: $name:ident => $op:ident,)*) => {
        $(impl<R: Into<Expr>> ops::$trait<R> for Expr {
            type Output = Expr;

            fn $name(self, other: R) -> Expr {
                Expr::binary(self, BinaryOp::$op, other.into())
            }
        })*
    };
}

arithmetic! {
    Add::add => Add,
    Sub::sub => Subtract,
    Mul::mul => Multiply,
    Div::div => Divide,
    Rem::rem => Modulo,
}

macro_rules! constants_on_the_left {
    ($($from:ty)*) => {
        $(
            constants_on_the_left!($from, Add add, Sub sub, Mul mul, Div div, Rem rem);
        )*
    };
    ($from:ty, $($trait:ident $name:ident),*) => {
        $(impl ops::$trait<Expr> for $from {
            type Output = Expr;

            fn $name(self, other: Expr) -> Expr {
                ops::$trait::$name(lit(self), other)
            }
        })*
    };
}

constants_on_the_left! { i32 i64 f64 }

impl ops::Not for Expr {
    type Output = Expr;

    fn not(self) -> Expr {
        Expr::Not(Box::new(self))
    }
}

impl ops::Neg for Expr {
    type Output = Expr;

    fn neg(self) -> Expr {
        Expr::Negate(Box::new(self))
    }
}

macro_rules! literals {
    ($($from:ty => $variant:ident,)*) => {
        $(impl From<$from> for Literal {
            fn from(value: $from) -> Self {
                Literal::$variant(value.into())
            }
        }

        impl From<$from> for Expr {
            fn from(value: $from) -> Self {
                Expr::Literal(value.into())
            }
        })*
    };
}

literals! {
    bool => Boolean,
    i8 => Int64,
    i16 => Int64,
    i32 => Int64,
    i64 => Int64,
    u8 => Int64,
    u16 => Int64,
    u32 => Int64,
    f32 => Float64,
    f64 => Float64,
    &str => Utf8,
    String => Utf8,
}

impl From<Literal> for Expr {
    fn from(value: Literal) -> Self {
        Expr::Literal(value)
    }
}

impl<T: Into<Literal>> From<Option<T>> for Expr {
    fn from(value: Option<T>) -> Self {
        Expr::Literal(value.into())
    }
}

impl<T: Into<Literal>> From<Option<T>> for Literal {
    fn from(value: Option<T>) -> Self {
        value.map_or(Literal::Null, Into::into)
    }
}
