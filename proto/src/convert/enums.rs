//! Enums without fields: the same names on both sides, so one list maps both ways.
//!
//! Zero is what a missing field decodes to; no enum gives it a meaning, so it is refused.

use kiln_engine::expr::{BinaryOp, Function};
use kiln_engine::plan::{
    AggregateMode, Deal, FileFormat, JoinKind, OutputMode, StepKind, TextRecord,
};
use kiln_engine::{ErrorKind, Result};

use crate::convert::malformed;
use crate::message::{AttemptState, JobState};
use crate::wire;

/// A domain enum with a generated twin.
pub(super) trait Twin: Sized {
    /// Its number on the wire.
    fn encode(self) -> i32;

    /// The value of that number.
    ///
    /// # Errors
    /// `Invalid` for a number that no encoder sends.
    fn decode(number: i32) -> Result<Self>;
}

macro_rules! twins {
    ($($name:ident: $($variant:ident),*;)*) => {
        $(impl Twin for $name {
            fn encode(self) -> i32 {
                match self {
                    $($name::$variant => wire::$name::$variant as i32,)*
                }
            }

            fn decode(number: i32) -> Result<Self> {
                match wire::$name::try_from(number) {
                    $(Ok(wire::$name::$variant) => Ok($name::$variant),)*
                    Ok(wire::$name::Unspecified) | Err(_) => {
                        let name = stringify!($name);
                        Err(malformed(format_args!("unknown {name} number={number}")))
                    }
                }
            }
        })*
    };
}

twins! {
    AggregateMode: Single, Partial, Final;
    AttemptState: Running, Won, Failed, Lost, Cancelled;
    BinaryOp: Add, Subtract, Multiply, Divide, Modulo, Equal, NotEqual, Less, LessOrEqual, Greater,
        GreaterOrEqual, And, Or;
    Deal: Gather, Partitions, Producers, Ranges, Each;
    ErrorKind: Invalid, Unavailable, Corrupt, Exhausted, Cancelled, Internal, Program;
    FileFormat: Parquet, Csv, Json, Text;
    Function: Words, Lower, Upper, Length, Trim, Contains, StartsWith, EndsWith, RegexpLike,
        Concat, Coalesce, Abs, Ltrim, Rtrim, Substring, Left, Right, Replace, Reverse, Repeat,
        Lpad, Rpad, Split, SplitPart, Strpos, Ascii, Chr, Initcap, RegexpReplace, RegexpExtract,
        Like, Ilike, Year, Quarter, Month, Week, Day, DayOfWeek, DayOfYear, Hour, Minute, Second,
        EpochSeconds, DateTrunc, DateDiff, ToDate, ToTimestamp, Round, Floor, Ceil, Trunc, Sqrt,
        Exp, Ln, Log10, Log2, Power, Sign, Sin, Cos, Tan, Atan2, Greatest, Least, Nullif;
    JobState: Planning, Running, Committing, Done, Failed, Cancelled;
    JoinKind: Inner, Left, Right, Full, Semi, Anti;
    OutputMode: ErrorIfExists, Overwrite, Append;
    StepKind: Inner, ProbeOuter, BuildOuter, FullOuter, ProbeSemi, ProbeAnti, BuildSemi, BuildAnti;
    TextRecord: Line, Word;
}
