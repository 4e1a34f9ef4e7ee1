//! The states of groups, in columns beside the grouping table.
//!
//! There are seven layouts, whatever the types: counts, whole numbers (everything that is one
//! underneath: integers, dates, times, decimals, booleans) in 128 bits, floats, moments, bytes,
//! sets of values, and what users' functions keep. A state is found by part and row, as the group
//! is.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, BooleanArray, Float64Array,
    Int64Array, PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

use crate::error::{Error, Result};
use crate::operator::aggregate::column::{Column, Fold};
use crate::operator::aggregate::distinct::{Distinct, DistinctValues};
use crate::operator::aggregate::moments::{self, Moments};
use crate::operator::aggregate::rows::Rows;
use crate::operator::aggregate::spec::{StateKind, StateSpec};
use crate::operator::aggregate::strings::Strings;
use crate::operator::aggregate::table::{GroupRef, Table};
use crate::operator::aggregate::user::UserStates;

/// Runs `$body` with `$native` as the arrow type of a `$data_type` that is a whole number
/// underneath, and `$other` for any other type.
macro_rules! with_integer_type {
    ($data_type:expr, $native:ident => $body:expr, _ => $other:expr) => {{
        use arrow::datatypes as types;
        use arrow::datatypes::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        macro_rules! with {
            ($type:ident) => {{
                type $native = types::$type;
                $body
            }};
        }
        match $data_type {
            DataType::Int8 => with!(Int8Type),
            DataType::Int16 => with!(Int16Type),
            DataType::Int32 => with!(Int32Type),
            DataType::Int64 => with!(Int64Type),
            DataType::UInt8 => with!(UInt8Type),
            DataType::UInt16 => with!(UInt16Type),
            DataType::UInt32 => with!(UInt32Type),
            DataType::UInt64 => with!(UInt64Type),
            DataType::Date32 => with!(Date32Type),
            DataType::Date64 => with!(Date64Type),
            DataType::Time32(Second) => with!(Time32SecondType),
            DataType::Time32(_) => with!(Time32MillisecondType),
            DataType::Time64(Microsecond) => with!(Time64MicrosecondType),
            DataType::Time64(_) => with!(Time64NanosecondType),
            DataType::Timestamp(Second, _) => with!(TimestampSecondType),
            DataType::Timestamp(Millisecond, _) => with!(TimestampMillisecondType),
            DataType::Timestamp(Microsecond, _) => with!(TimestampMicrosecondType),
            DataType::Timestamp(Nanosecond, _) => with!(TimestampNanosecondType),
            DataType::Duration(Second) => with!(DurationSecondType),
            DataType::Duration(Millisecond) => with!(DurationMillisecondType),
            DataType::Duration(Microsecond) => with!(DurationMicrosecondType),
            DataType::Duration(Nanosecond) => with!(DurationNanosecondType),
            DataType::Decimal32(..) => with!(Decimal32Type),
            DataType::Decimal64(..) => with!(Decimal64Type),
            DataType::Decimal128(..) => with!(Decimal128Type),
            _ => $other,
        }
    }};
}

/// One state of every group of a table.
pub(super) struct States {
    kind: StateKind,
    data_type: DataType,
    aggregate: String,
    layout: Layout,
    /// What is wanted of a user's function in the end are results, not states.
    results: bool,
}

enum Layout {
    /// Kept by the table.
    InTable,
    Counts(Column<i64>),
    Integers(Column<i128>),
    Floats(Column<f64>),
    Moments(Column<Moments>),
    Strings(Strings),
    Distinct(Distinct),
    /// Boxed: few aggregations have one.
    User(Box<UserStates>),
}

impl States {
    pub(super) fn new(spec: &StateSpec) -> Self {
        let (kind, data_type) = (spec.kind, spec.columns[0].data_type());
        let layout = match (kind, data_type) {
            (StateKind::User | StateKind::MergeUser, _) => match &spec.user {
                Some(function) => {
                    let merging = kind == StateKind::MergeUser;
                    Layout::User(Box::new(UserStates::new(function, merging)))
                }
                None => Layout::InTable,
            },
            (StateKind::Rows, _) => Layout::InTable,
            (StateKind::Count | StateKind::AddCounts, _) => Layout::Counts(Column::new(0)),
            (StateKind::Moments | StateKind::AddMoments, _) => {
                Layout::Moments(Column::new(Moments::default()))
            }
            (StateKind::Distinct | StateKind::MergeDistinct, _) => {
                Layout::Distinct(Distinct::new())
            }
            (_, DataType::Float32 | DataType::Float64) => {
                Layout::Floats(Column::new(empty_float(kind)))
            }
            (_, DataType::Utf8View | DataType::BinaryView) => Layout::Strings(Strings::new(kind)),
            _ => Layout::Integers(Column::new(empty_integer(kind))),
        };
        States {
            kind,
            data_type: data_type.clone(),
            aggregate: spec.aggregate.clone(),
            layout,
            results: spec.results,
        }
    }

    /// Whether it has to know the group of each row.
    pub(super) fn needs_groups(&self) -> bool {
        !matches!(self.layout, Layout::InTable)
    }

    /// Bytes for each group, as far as that is fixed.
    pub(super) fn group_bytes(&self) -> usize {
        match &self.layout {
            Layout::InTable | Layout::Distinct(_) | Layout::User(_) => 0,
            Layout::Counts(_) => size_of::<i64>(),
            Layout::Integers(column) => size_of::<i128>() + usize::from(column.is_tracked()),
            Layout::Floats(column) => size_of::<f64>() + usize::from(column.is_tracked()),
            Layout::Moments(_) => size_of::<Moments>(),
            Layout::Strings(_) => size_of::<Option<Box<[u8]>>>(),
        }
    }

    /// Bytes that values of varying length or number take.
    pub(super) fn value_bytes(&self) -> u64 {
        match &self.layout {
            Layout::Strings(strings) => strings.bytes(),
            Layout::Distinct(distinct) => distinct.bytes(),
            Layout::User(states) => states.bytes(),
            _ => 0,
        }
    }

    /// Bytes that such values may take more for `rows` more rows.
    pub(super) fn value_growth(&self, rows: usize) -> u64 {
        match &self.layout {
            Layout::Distinct(distinct) => distinct.growth(rows),
            _ => 0,
        }
    }

    /// Makes room for the groups of `table`. `masked` says that some of them may get no value.
    ///
    /// # Errors
    /// `Invalid` if this process does not have the code of a user's function.
    pub(super) fn resize(&mut self, table: &Table, masked: bool) -> Result<()> {
        match &mut self.layout {
            Layout::InTable | Layout::Distinct(_) => {}
            Layout::Counts(column) => column.resize(table, false),
            Layout::Integers(column) => column.resize(table, masked),
            Layout::Floats(column) => column.resize(table, masked),
            Layout::Moments(column) => column.resize(table, false),
            Layout::Strings(strings) => strings.resize(table),
            Layout::User(states) => states.resize(table)?,
        }
        Ok(())
    }

    /// Adds the values of the rows that `mask` lets through, after [`Self::resize`].
    ///
    /// # Errors
    /// `Invalid` if a sum overflows.
    pub(super) fn update(
        &mut self,
        rows: &Rows,
        mask: Option<&NullBuffer>,
        inputs: &[&ArrayRef],
    ) -> Result<()> {
        let mut overflow = false;
        match &mut self.layout {
            Layout::InTable => {}
            Layout::Counts(column) if self.kind == StateKind::Count => column.count(rows, mask),
            Layout::Counts(column) => {
                let values = inputs[0].as_primitive::<Int64Type>().values();
                let fold = |held: i64, value: i64| held + value;
                column.update(rows, mask, values, Fold { fold, join: fold });
            }
            Layout::Integers(column) => {
                overflow = update_integers(column, self.kind, rows, mask, inputs[0]);
            }
            Layout::Floats(column) => {
                if *inputs[0].data_type() == DataType::Float32 {
                    let values = inputs[0].as_primitive::<Float32Type>().values();
                    update_floats(column, self.kind, rows, mask, values);
                } else {
                    let values = inputs[0].as_primitive::<Float64Type>().values();
                    update_floats(column, self.kind, rows, mask, values);
                }
            }
            Layout::Moments(column) if self.kind == StateKind::Moments => {
                let values = inputs[0].as_primitive::<Float64Type>().values();
                let (fold, join) = (Moments::add, Moments::join);
                column.update(rows, mask, values, Fold { fold, join });
            }
            Layout::Moments(column) => {
                let values = moments::of_columns(inputs);
                let (fold, join) = (Moments::join, Moments::join);
                column.update(rows, mask, &values, Fold { fold, join });
            }
            Layout::Strings(strings) => strings.update(rows, mask, inputs[0]),
            // Values of groups that were put aside come by themselves.
            Layout::Distinct(_) if self.kind == StateKind::MergeDistinct => {}
            Layout::Distinct(distinct) => distinct.update(rows, mask, inputs[0]),
            Layout::User(states) => states.update(rows, mask, inputs)?,
        }
        if overflow {
            Err(self.overflow())
        } else {
            Ok(())
        }
    }

    /// Adds values of groups that were put aside, if those are kept by themselves.
    pub(super) fn update_values(&mut self, groups: &[GroupRef], values: &BinaryViewArray) {
        if let Layout::Distinct(distinct) = &mut self.layout {
            distinct.add(groups, values);
        }
    }

    /// The values that are kept by themselves: which row of `part` each belongs to.
    pub(super) fn values(&self, part: usize) -> Option<DistinctValues<'_>> {
        match &self.layout {
            Layout::Distinct(distinct) => Some(distinct.values(part)),
            _ => None,
        }
    }

    /// Takes out the states of one part.
    pub(super) fn take_part(&mut self, part: usize) -> States {
        let layout = match &mut self.layout {
            Layout::InTable => Layout::InTable,
            Layout::Counts(column) => Layout::Counts(column.take_part(part)),
            Layout::Integers(column) => Layout::Integers(column.take_part(part)),
            Layout::Floats(column) => Layout::Floats(column.take_part(part)),
            Layout::Moments(column) => Layout::Moments(column.take_part(part)),
            Layout::Strings(strings) => Layout::Strings(strings.take_part(part)),
            Layout::Distinct(distinct) => Layout::Distinct(distinct.take_part(part)),
            Layout::User(states) => Layout::User(Box::new(states.take_part(part))),
        };
        States {
            kind: self.kind,
            data_type: self.data_type.clone(),
            aggregate: self.aggregate.clone(),
            layout,
            results: self.results,
        }
    }

    /// Merges `part` of `other`, whose groups have become `groups`, after [`Self::resize`].
    ///
    /// # Errors
    /// `Invalid` if a sum overflows.
    pub(super) fn merge(&mut self, other: &States, part: usize, groups: &[GroupRef]) -> Result<()> {
        let kind = self.kind;
        let overflow = Cell::new(false);
        match (&mut self.layout, &other.layout) {
            (Layout::Counts(into), Layout::Counts(from)) => {
                into.merge(from, part, groups, |a, b| a + b);
            }
            (Layout::Integers(into), Layout::Integers(from)) => {
                into.merge(from, part, groups, |a, b| {
                    join_integers(kind, a, b, &overflow)
                });
            }
            (Layout::Floats(into), Layout::Floats(from)) => {
                into.merge(from, part, groups, |a, b| fold_floats(kind, a, b));
            }
            (Layout::Moments(into), Layout::Moments(from)) => {
                into.merge(from, part, groups, Moments::join);
            }
            (Layout::Strings(into), Layout::Strings(from)) => into.merge(from, part, groups),
            (Layout::Distinct(into), Layout::Distinct(from)) => into.merge(from, part, groups),
            (Layout::User(into), Layout::User(from)) => into.merge(from, part, groups)?,
            _ => {}
        }
        if overflow.get() {
            Err(self.overflow())
        } else {
            Ok(())
        }
    }

    /// Whether merging it with `other` can leave groups without a value.
    pub(super) fn is_masked(&self) -> bool {
        match &self.layout {
            Layout::Integers(column) => column.is_tracked(),
            Layout::Floats(column) => column.is_tracked(),
            _ => false,
        }
    }

    /// What is computed once for all of the `groups` groups of `part`, before [`Self::columns`].
    pub(super) fn settle(&mut self, part: usize, groups: usize) {
        if let Layout::Distinct(distinct) = &mut self.layout {
            distinct.settle(part, groups);
        }
    }

    /// What is to come of rows `range` of `part`, as columns; none if the table keeps it.
    ///
    /// # Errors
    /// `Invalid` if a sum does not fit its type.
    pub(super) fn columns(&self, part: usize, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        match &self.layout {
            Layout::Distinct(distinct) => {
                let counts = distinct.counts(range).to_vec();
                Ok(vec![Arc::new(Int64Array::from(counts))])
            }
            Layout::User(states) => Ok(vec![states.column(part, range, self.results)?]),
            _ => self.group_columns(part, range),
        }
    }

    /// The states of rows `range` of `part` as columns, to be put aside and merged later; none if
    /// the table keeps them, or they are values by themselves.
    ///
    /// # Errors
    /// As for [`columns`](Self::columns).
    pub(super) fn group_columns(&self, part: usize, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        let counts = |values: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
        let column: ArrayRef = match &self.layout {
            Layout::InTable | Layout::Distinct(_) => return Ok(Vec::new()),
            Layout::Counts(column) => counts(column.values(part, range)),
            Layout::Integers(column) => {
                let nulls = column.nulls(part, range.clone());
                self.integers(column.values(part, range), nulls)?
            }
            Layout::Floats(column) => {
                let nulls = column.nulls(part, range.clone());
                let values = column.values(part, range).to_vec();
                cast(&Float64Array::new(values.into(), nulls), &self.data_type)?
            }
            Layout::User(states) => states.column(part, range, false)?,
            Layout::Moments(column) => return Ok(moments::columns(column.values(part, range))),
            Layout::Strings(strings) => {
                let array = BinaryViewArray::from_iter(strings.values(part, range));
                match self.data_type {
                    DataType::Utf8View => Arc::new(array.to_string_view()?),
                    _ => Arc::new(array),
                }
            }
        };
        Ok(vec![column])
    }

    fn integers(&self, values: &[i128], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        if let DataType::Decimal128(..) = self.data_type {
            let limit = 10u128.pow(38);
            let is_large = |value: &i128| value.unsigned_abs() >= limit;
            if (0..values.len()).any(|row| is_large(&values[row]) && valid(row)) {
                return Err(self.overflow());
            }
        }
        with_integer_type!(&self.data_type,
            Native => {
                fn narrow<T: ArrowPrimitiveType>(
                    values: &[i128],
                    valid: impl Fn(usize) -> bool,
                ) -> Option<Vec<T::Native>>
                where
                    T::Native: TryFrom<i128>,
                {
                    let values = values.iter().enumerate();
                    values.map(|(row, value)| match T::Native::try_from(*value) {
                        Ok(value) => Some(value),
                        // What is there before the first value need not fit.
                        Err(_) => (!valid(row)).then(T::default_value),
                    }).collect()
                }
                let values = narrow::<Native>(values, valid).ok_or_else(|| self.overflow())?;
                let array = PrimitiveArray::<Native>::new(values.into(), nulls);
                Ok(Arc::new(array.with_data_type(self.data_type.clone())))
            },
            _ => {
                let values = values.iter().map(|value| *value == 1).collect();
                Ok(Arc::new(BooleanArray::new(values, nulls)))
            }
        )
    }

    fn overflow(&self) -> Error {
        sum_overflow(&self.data_type, &self.aggregate)
    }
}

/// The error for a sum that its type does not hold.
pub(super) fn sum_overflow(data_type: &DataType, aggregate: &str) -> Error {
    Error::invalid(format!(
        "a sum does not fit its type type={data_type} aggregate={aggregate}"
    ))
}

/// What a state starts from, so that its first value needs no case of its own.
fn empty_integer(kind: StateKind) -> i128 {
    match kind {
        StateKind::Min => i128::MAX,
        StateKind::Max => i128::MIN,
        _ => 0,
    }
}

/// The same for floats, of which -0 is the neutral one and NaN the greatest.
fn empty_float(kind: StateKind) -> f64 {
    match kind {
        StateKind::Min => f64::NAN,
        StateKind::Max => f64::NEG_INFINITY,
        _ => -0.0,
    }
}

/// Returns whether a sum overflowed.
fn update_integers(
    column: &mut Column<i128>,
    kind: StateKind,
    rows: &Rows,
    mask: Option<&NullBuffer>,
    input: &ArrayRef,
) -> bool {
    let overflow = Cell::new(false);
    with_integer_type!(input.data_type(),
        Native => {
            let values = input.as_primitive::<Native>().values();
            fold_integers(column, kind, rows, mask, values, &overflow);
        },
        _ => {
            let values: Vec<u8> = input.as_boolean().values().iter().map(u8::from).collect();
            fold_integers(column, kind, rows, mask, &values, &overflow);
        }
    );
    overflow.get()
}

fn fold_integers<V: Copy + Into<i128>>(
    column: &mut Column<i128>,
    kind: StateKind,
    rows: &Rows,
    mask: Option<&NullBuffer>,
    values: &[V],
    overflow: &Cell<bool>,
) {
    let join = |a, b| join_integers(kind, a, b, overflow);
    match kind {
        StateKind::Min => {
            let fold = |held: i128, value: V| held.min(value.into());
            column.update(rows, mask, values, Fold { fold, join });
        }
        StateKind::Max => {
            let fold = |held: i128, value: V| held.max(value.into());
            column.update(rows, mask, values, Fold { fold, join });
        }
        StateKind::First => {
            let fold = |_, value: V| value.into();
            column.update(rows, mask, values, Fold { fold, join });
        }
        // As many numbers of 64 bits as there can be rows do not overflow 128.
        _ if size_of::<V>() < size_of::<i128>() => {
            let fold = |held: i128, value: V| held.wrapping_add(value.into());
            column.update(rows, mask, values, Fold { fold, join });
        }
        _ => {
            let fold = |held: i128, value: V| checked_sum(held, value.into(), overflow);
            column.update(rows, mask, values, Fold { fold, join });
        }
    }
}

fn update_floats<V: Copy + Into<f64>>(
    column: &mut Column<f64>,
    kind: StateKind,
    rows: &Rows,
    mask: Option<&NullBuffer>,
    values: &[V],
) {
    let join = |a, b| fold_floats(kind, a, b);
    if kind == StateKind::Sum {
        let fold = |held: f64, value: V| held + value.into();
        column.update(rows, mask, values, Fold { fold, join });
    } else {
        let fold = |held, value: V| fold_floats(kind, held, value.into());
        column.update(rows, mask, values, Fold { fold, join });
    }
}

#[inline]
fn join_integers(kind: StateKind, held: i128, other: i128, overflow: &Cell<bool>) -> i128 {
    match kind {
        StateKind::Min => held.min(other),
        StateKind::Max => held.max(other),
        StateKind::First => other,
        _ => checked_sum(held, other, overflow),
    }
}

#[inline]
fn checked_sum(held: i128, value: i128, overflow: &Cell<bool>) -> i128 {
    let (sum, over) = held.overflowing_add(value);
    if over {
        overflow.set(true);
    }
    sum
}

/// NaN is greater than every number, and 0 than -0, so that the order of rows decides nothing.
#[inline]
fn fold_floats(kind: StateKind, held: f64, value: f64) -> f64 {
    let value_is_less = match (held.is_nan(), value.is_nan()) {
        (false, false) => value.total_cmp(&held).is_lt(),
        (held_is_nan, value_is_nan) => held_is_nan && !value_is_nan,
    };
    match kind {
        StateKind::Min if value_is_less => value,
        StateKind::Min => held,
        StateKind::Max if value_is_less => held,
        StateKind::Max | StateKind::First => value,
        _ => held + value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::typing;

    /// What the type check lets through has a layout, and the other way round.
    #[test]
    fn every_type_that_is_kept_has_a_layout() {
        use arrow::datatypes::{IntervalUnit, TimeUnit};
        let check = |data_type: DataType| {
            let others = matches!(
                data_type,
                DataType::Boolean
                    | DataType::Float32
                    | DataType::Float64
                    | DataType::Utf8View
                    | DataType::BinaryView
            );
            let found = with_integer_type!(&data_type, Native => {
                let _: Option<Native> = None;
                true
            }, _ => others);
            assert_eq!(typing::is_kept(&data_type), found, "{data_type}");
        };
        let units = [
            TimeUnit::Second,
            TimeUnit::Millisecond,
            TimeUnit::Microsecond,
            TimeUnit::Nanosecond,
        ];
        for unit in units {
            check(DataType::Timestamp(unit, None));
            check(DataType::Duration(unit));
        }
        check(DataType::Interval(IntervalUnit::DayTime));
        check(DataType::Time32(TimeUnit::Millisecond));
        check(DataType::Time64(TimeUnit::Nanosecond));
        check(DataType::Decimal32(5, 2));
        check(DataType::Decimal256(50, 2));
        for data_type in [
            DataType::Null,
            DataType::Boolean,
            DataType::Int8,
            DataType::UInt64,
            DataType::Float16,
            DataType::Float32,
            DataType::Date64,
            DataType::Utf8View,
            DataType::BinaryView,
            DataType::FixedSizeBinary(4),
        ] {
            check(data_type);
        }
    }
}
