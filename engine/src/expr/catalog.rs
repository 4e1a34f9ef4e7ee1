//! The built-in functions by name. `docs/functions.md` shows each with an example.

macro_rules! functions {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Built-in scalar functions. Unless said otherwise the result is null where an argument
        /// is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Function {
            $($(#[$doc])* $variant,)*
        }

        impl Function {
            /// All of them.
            pub const ALL: &'static [Function] = &[$(Function::$variant,)*];

            /// The name that it is called by.
            pub fn name(self) -> &'static str {
                match self {
                    $(Function::$variant => $name,)*
                }
            }
        }
    };
}

functions! {
    /// `words(s)`: the maximal runs of characters without Unicode White_Space, as a list.
    Words "words",
    /// `lower(s)`: Unicode lower case.
    Lower "lower",
    /// `upper(s)`: Unicode upper case.
    Upper "upper",
    /// `length(s)`: number of characters.
    Length "length",
    /// `trim(s)`: without white space at both ends.
    Trim "trim",
    /// `contains(s, part)`.
    Contains "contains",
    /// `starts_with(s, prefix)`.
    StartsWith "starts_with",
    /// `ends_with(s, suffix)`.
    EndsWith "ends_with",
    /// `regexp_like(s, pattern)`: whether the pattern, a constant, matches anywhere in `s`.
    RegexpLike "regexp_like",
    /// `concat(a, b, …)`: strings joined; null if any is null.
    Concat "concat",
    /// `coalesce(a, b, …)`: the first that is not null.
    Coalesce "coalesce",
    /// `abs(x)`: without the sign.
    Abs "abs",
    /// `ltrim(s)`: without white space at the start.
    Ltrim "ltrim",
    /// `rtrim(s)`: without white space at the end.
    Rtrim "rtrim",
    /// `substring(s, start[, length])`: characters from `start` on, the first one being 1.
    Substring "substring",
    /// `left(s, n)`: the first `n` characters; all but the last `-n` if negative.
    Left "left",
    /// `right(s, n)`: the last `n` characters; all but the first `-n` if negative.
    Right "right",
    /// `replace(s, from, to)`: every `from` replaced by `to`.
    Replace "replace",
    /// `reverse(s)`: characters in reverse order.
    Reverse "reverse",
    /// `repeat(s, n)`: `n` times `s`.
    Repeat "repeat",
    /// `lpad(s, n[, fill])`: filled up at the start, or cut at the end, to `n` characters.
    Lpad "lpad",
    /// `rpad(s, n[, fill])`: filled up, or cut, at the end to `n` characters.
    Rpad "rpad",
    /// `split(s, separator)`: the parts between separators, as a list.
    Split "split",
    /// `split_part(s, separator, n)`: the `n`th part from 1 on, from the end if negative.
    SplitPart "split_part",
    /// `strpos(s, part)`: where `part` is first found, counted in characters from 1; 0 if not.
    Strpos "strpos",
    /// `ascii(s)`: the code point of the first character; 0 of an empty string.
    Ascii "ascii",
    /// `chr(n)`: the character with that code point.
    Chr "chr",
    /// `initcap(s)`: every word with a capital first letter and small others.
    Initcap "initcap",
    /// `regexp_replace(s, pattern, to)`: every match replaced; `$1` in `to` is the first group.
    RegexpReplace "regexp_replace",
    /// `regexp_extract(s, pattern[, group])`: the first match, or a group of it; null without.
    RegexpExtract "regexp_extract",
    /// `like(s, pattern)`: `%` is any characters, `_` is one, `\` takes the next one as it is.
    Like "like",
    /// `ilike(s, pattern)`: like `like`, with upper and lower case being the same.
    Ilike "ilike",
    /// `year(t)`: of a date or timestamp.
    Year "year",
    /// `quarter(t)`: 1 to 4.
    Quarter "quarter",
    /// `month(t)`: 1 to 12.
    Month "month",
    /// `week(t)`: the ISO week, 1 to 53.
    Week "week",
    /// `day(t)`: of the month, 1 to 31.
    Day "day",
    /// `day_of_week(t)`: 0 is Sunday, 6 is Saturday.
    DayOfWeek "day_of_week",
    /// `day_of_year(t)`: 1 to 366.
    DayOfYear "day_of_year",
    /// `hour(t)`: 0 to 23.
    Hour "hour",
    /// `minute(t)`: 0 to 59.
    Minute "minute",
    /// `second(t)`: 0 to 59, whole.
    Second "second",
    /// `epoch_seconds(t)`: whole seconds since 1970-01-01 00:00 UTC.
    EpochSeconds "epoch_seconds",
    /// `date_trunc(unit, t)`: the start of the year, quarter, month, week, day, … it lies in.
    DateTrunc "date_trunc",
    /// `date_diff(unit, from, to)`: how many starts of a unit lie between; negative backwards.
    DateDiff "date_diff",
    /// `to_date(s[, format])`: a string as a date; without a format as `2024-02-29`.
    ToDate "to_date",
    /// `to_timestamp(s[, format])`: a string as a timestamp without zone.
    ToTimestamp "to_timestamp",
    /// `round(x[, digits])`: to the nearest, halves away from zero.
    Round "round",
    /// `floor(x)`: the next whole number below.
    Floor "floor",
    /// `ceil(x)`: the next whole number above.
    Ceil "ceil",
    /// `trunc(x)`: the next whole number towards zero.
    Trunc "trunc",
    /// `sqrt(x)`: the square root; not a number of a negative one.
    Sqrt "sqrt",
    /// `exp(x)`: e to the power of `x`.
    Exp "exp",
    /// `ln(x)`: the natural logarithm.
    Ln "ln",
    /// `log10(x)`: the logarithm to base 10.
    Log10 "log10",
    /// `log2(x)`: the logarithm to base 2.
    Log2 "log2",
    /// `power(x, y)`: `x` to the power of `y`.
    Power "power",
    /// `sign(x)`: -1, 0 or 1.
    Sign "sign",
    /// `sin(x)`: of radians.
    Sin "sin",
    /// `cos(x)`: of radians.
    Cos "cos",
    /// `tan(x)`: of radians.
    Tan "tan",
    /// `atan2(y, x)`: the angle of a point, in radians.
    Atan2 "atan2",
    /// `greatest(a, b, …)`: the largest that is not null; null if all are.
    Greatest "greatest",
    /// `least(a, b, …)`: the smallest that is not null; null if all are.
    Least "least",
    /// `nullif(a, b)`: null where both are equal, else `a`.
    Nullif "nullif",
}

impl Function {
    /// Fewest and most arguments.
    pub(super) fn arguments(self) -> (usize, usize) {
        use Function::*;
        match self {
            Concat | Coalesce | Greatest | Least => (1, usize::MAX),
            Contains | StartsWith | EndsWith | RegexpLike | Like | Ilike => (2, 2),
            Left | Right | Repeat | Split | Strpos | Power | Atan2 | Nullif => (2, 2),
            DateTrunc => (2, 2),
            Substring | Lpad | Rpad | RegexpExtract => (2, 3),
            Replace | SplitPart | RegexpReplace | DateDiff => (3, 3),
            ToDate | ToTimestamp | Round => (1, 2),
            _ => (1, 1),
        }
    }
}
