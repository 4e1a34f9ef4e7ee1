//! The states of groups, in columns beside the grouping table.
//!
//! There are four layouts, whatever the types: counts, whole numbers (everything that is one
//! underneath: integers, dates, times, decimals, booleans) in 128 bits, floats, and bytes. A state
//! is found by part and row as the group is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float64Array, Int64Array,
    PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int64Type};

use crate::error::{Error, Result};
use crate::operator::aggregate::spec::{StateKind, StateSpec};
use crate::operator::aggregate::table::{GroupRef, PARTS, Table};

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
}

enum Layout {
    /// Kept by the table.
    InTable,
    Counts(Vec<Vec<i64>>),
    Integers(Vec<Column<i128>>),
    Floats(Vec<Column<f64>>),
    Bytes(Vec<Vec<Option<Box<[u8]>>>>, u64),
}

/// Values, and which of them are there.
#[derive(Clone, Default)]
struct Column<T> {
    values: Vec<T>,
    seen: Vec<bool>,
}

impl<T: Copy + Default> Column<T> {
    fn resize(&mut self, len: usize) {
        self.values.resize(len, T::default());
        self.seen.resize(len, false);
    }

    #[inline]
    fn add(&mut self, row: u32, value: T, fold: impl FnOnce(T, T) -> Option<T>) -> Option<()> {
        let row = row as usize;
        let (held, seen) = (&mut self.values[row], &mut self.seen[row]);
        *held = if *seen { fold(*held, value)? } else { value };
        *seen = true;
        Some(())
    }
}

impl States {
    pub(super) fn new(spec: &StateSpec) -> Self {
        let layout = match (spec.kind, &spec.data_type) {
            (StateKind::Rows, _) => Layout::InTable,
            (StateKind::Count | StateKind::AddCounts, _) => Layout::Counts(vec![Vec::new(); PARTS]),
            (_, DataType::Float32 | DataType::Float64) => {
                Layout::Floats(vec![Column::default(); PARTS])
            }
            (_, DataType::Utf8View | DataType::BinaryView) => {
                Layout::Bytes(vec![Vec::new(); PARTS], 0)
            }
            _ => Layout::Integers(vec![Column::default(); PARTS]),
        };
        let (data_type, aggregate) = (spec.data_type.clone(), spec.aggregate.clone());
        States {
            kind: spec.kind,
            data_type,
            aggregate,
            layout,
        }
    }

    /// Whether there are states of that type.
    pub(super) fn supports(data_type: &DataType) -> bool {
        let others = matches!(
            data_type,
            DataType::Boolean
                | DataType::Float32
                | DataType::Float64
                | DataType::Utf8View
                | DataType::BinaryView
        );
        with_integer_type!(data_type, Native => {
            let _: Option<Native> = None;
            true
        }, _ => others)
    }

    /// Whether it has to know the group of each row.
    pub(super) fn needs_groups(&self) -> bool {
        !matches!(self.layout, Layout::InTable)
    }

    /// Bytes for each group, as far as that is fixed.
    pub(super) fn group_bytes(&self) -> usize {
        match self.layout {
            Layout::InTable => 0,
            Layout::Counts(_) => 8,
            Layout::Integers(_) => 17,
            Layout::Floats(_) => 9,
            Layout::Bytes(..) => 16,
        }
    }

    /// Bytes that values of varying length take.
    pub(super) fn value_bytes(&self) -> u64 {
        match &self.layout {
            Layout::Bytes(_, bytes) => *bytes,
            _ => 0,
        }
    }

    /// Makes room for the groups that `table` has.
    pub(super) fn resize(&mut self, table: &Table) {
        let len = |number: usize| table.part(number).len();
        match &mut self.layout {
            Layout::InTable => {}
            Layout::Counts(parts) => {
                parts
                    .iter_mut()
                    .enumerate()
                    .for_each(|(n, part)| part.resize(len(n), 0));
            }
            Layout::Integers(parts) => {
                parts
                    .iter_mut()
                    .enumerate()
                    .for_each(|(n, part)| part.resize(len(n)));
            }
            Layout::Floats(parts) => {
                parts
                    .iter_mut()
                    .enumerate()
                    .for_each(|(n, part)| part.resize(len(n)));
            }
            Layout::Bytes(parts, _) => {
                parts
                    .iter_mut()
                    .enumerate()
                    .for_each(|(n, part)| part.resize(len(n), None));
            }
        }
    }

    /// Adds one value for each of `groups`.
    ///
    /// # Errors
    /// `Invalid` if a sum overflows.
    pub(super) fn update(&mut self, groups: &[GroupRef], input: &ArrayRef) -> Result<()> {
        let nulls = input.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        let rows = || {
            let nulls = nulls.as_ref();
            let valid = move |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
            groups
                .iter()
                .enumerate()
                .filter(move |(row, _)| valid(*row))
        };
        let kind = self.kind;
        let done = match &mut self.layout {
            Layout::InTable => Some(()),
            Layout::Counts(parts) => {
                if kind == StateKind::Count {
                    rows().for_each(|(_, at)| parts[at.part as usize][at.row as usize] += 1);
                } else {
                    let counts = input.as_primitive::<Int64Type>().values();
                    rows().for_each(|(row, at)| {
                        parts[at.part as usize][at.row as usize] += counts[row];
                    });
                }
                Some(())
            }
            Layout::Integers(parts) => {
                let mut add = |at: &GroupRef, value: i128| {
                    parts[at.part as usize].add(at.row, value, |a, b| fold_integers(kind, a, b))
                };
                with_integer_type!(input.data_type(),
                    Native => {
                        let values = input.as_primitive::<Native>().values();
                        rows().try_for_each(|(row, at)| add(at, i128::from(values[row])))
                    },
                    _ => {
                        let values = input.as_boolean();
                        rows().try_for_each(|(row, at)| add(at, i128::from(values.value(row))))
                    }
                )
            }
            Layout::Floats(parts) => {
                let mut add = |at: &GroupRef, value: f64| {
                    parts[at.part as usize].add(at.row, value, |a, b| Some(fold_floats(kind, a, b)))
                };
                if *input.data_type() == DataType::Float32 {
                    let values = input.as_primitive::<Float32Type>().values();
                    rows().try_for_each(|(row, at)| add(at, f64::from(values[row])))
                } else {
                    let values = input.as_primitive::<Float64Type>().values();
                    rows().try_for_each(|(row, at)| add(at, values[row]))
                }
            }
            Layout::Bytes(parts, bytes) => {
                let value = bytes_of(input);
                rows().for_each(|(row, at)| {
                    let held = &mut parts[at.part as usize][at.row as usize];
                    fold_bytes(kind, held, value(row), bytes);
                });
                Some(())
            }
        };
        done.ok_or_else(|| self.overflow())
    }

    /// Takes out the states of one part.
    pub(super) fn take_part(&mut self, part: usize) -> States {
        fn take<T: Default + Clone>(parts: &mut [T], part: usize) -> Vec<T> {
            let mut taken = vec![T::default(); PARTS];
            std::mem::swap(&mut taken[part], &mut parts[part]);
            taken
        }
        let layout = match &mut self.layout {
            Layout::InTable => Layout::InTable,
            Layout::Counts(parts) => Layout::Counts(take(parts, part)),
            Layout::Integers(parts) => Layout::Integers(take(parts, part)),
            Layout::Floats(parts) => Layout::Floats(take(parts, part)),
            Layout::Bytes(parts, _) => Layout::Bytes(take(parts, part), 0),
        };
        let (data_type, aggregate) = (self.data_type.clone(), self.aggregate.clone());
        States {
            kind: self.kind,
            data_type,
            aggregate,
            layout,
        }
    }

    /// Merges rows `first..` of `part` of `other` into the groups that `groups` names.
    ///
    /// # Errors
    /// `Invalid` if a sum overflows.
    pub(super) fn merge(
        &mut self,
        other: &States,
        part: usize,
        first: usize,
        groups: &[GroupRef],
    ) -> Result<()> {
        let kind = self.kind;
        let rows = || {
            groups
                .iter()
                .enumerate()
                .map(|(index, at)| (first + index, at.row))
        };
        let done = match (&mut self.layout, &other.layout) {
            (Layout::Counts(into), Layout::Counts(from)) => {
                rows().for_each(|(row, at)| into[part][at as usize] += from[part][row]);
                Some(())
            }
            (Layout::Integers(into), Layout::Integers(from)) => {
                let (into, from) = (&mut into[part], &from[part]);
                rows()
                    .filter(|(row, _)| from.seen[*row])
                    .try_for_each(|(row, at)| {
                        into.add(at, from.values[row], |a, b| fold_integers(kind, a, b))
                    })
            }
            (Layout::Floats(into), Layout::Floats(from)) => {
                let (into, from) = (&mut into[part], &from[part]);
                rows()
                    .filter(|(row, _)| from.seen[*row])
                    .try_for_each(|(row, at)| {
                        into.add(at, from.values[row], |a, b| Some(fold_floats(kind, a, b)))
                    })
            }
            (Layout::Bytes(into, bytes), Layout::Bytes(from, _)) => {
                for (row, at) in rows() {
                    if let Some(value) = &from[part][row] {
                        fold_bytes(kind, &mut into[part][at as usize], value, bytes);
                    }
                }
                Some(())
            }
            _ => Some(()),
        };
        done.ok_or_else(|| self.overflow())
    }

    /// The states of rows `range` of `part` as a column; none if the table keeps them.
    ///
    /// # Errors
    /// `Invalid` if a sum does not fit its type.
    pub(super) fn column(
        &self,
        part: usize,
        range: std::ops::Range<usize>,
    ) -> Result<Option<ArrayRef>> {
        Ok(Some(match &self.layout {
            Layout::InTable => return Ok(None),
            Layout::Counts(parts) => Arc::new(Int64Array::from_iter_values(
                parts[part][range].iter().copied(),
            )),
            Layout::Integers(parts) => {
                let column = &parts[part];
                self.integers(&column.values[range.clone()], &column.seen[range])?
            }
            Layout::Floats(parts) => {
                let column = &parts[part];
                let nulls = NullBuffer::from(&column.seen[range.clone()]);
                let values = column.values[range].to_vec();
                cast(
                    &Float64Array::new(values.into(), Some(nulls)),
                    &self.data_type,
                )?
            }
            Layout::Bytes(parts, _) => {
                let values = parts[part][range].iter().map(Option::as_deref);
                let array = BinaryViewArray::from_iter(values);
                match self.data_type {
                    DataType::Utf8View => Arc::new(array.to_string_view()?),
                    _ => Arc::new(array),
                }
            }
        }))
    }

    fn integers(&self, values: &[i128], seen: &[bool]) -> Result<ArrayRef> {
        if let DataType::Decimal128(..) = self.data_type {
            let limit = 10i128.pow(38);
            if values
                .iter()
                .zip(seen)
                .any(|(v, seen)| *seen && (*v >= limit || *v <= -limit))
            {
                return Err(self.overflow());
            }
        }
        with_integer_type!(&self.data_type,
            Native => {
                fn narrow<T: ArrowPrimitiveType>(values: &[i128]) -> Option<Vec<T::Native>>
                where
                    T::Native: TryFrom<i128>,
                {
                    values.iter().map(|value| T::Native::try_from(*value).ok()).collect()
                }
                let values = narrow::<Native>(values).ok_or_else(|| self.overflow())?;
                let array = PrimitiveArray::<Native>::new(values.into(), Some(seen.into()));
                Ok(Arc::new(array.with_data_type(self.data_type.clone())))
            },
            _ => {
                let values = values.iter().map(|value| *value != 0).collect();
                Ok(Arc::new(BooleanArray::new(values, Some(seen.into()))))
            }
        )
    }

    fn overflow(&self) -> Error {
        Error::invalid(format!(
            "a sum does not fit its type type={} aggregate={}",
            self.data_type, self.aggregate
        ))
    }
}

fn fold_integers(kind: StateKind, held: i128, value: i128) -> Option<i128> {
    match kind {
        StateKind::Min => Some(held.min(value)),
        StateKind::Max => Some(held.max(value)),
        _ => held.checked_add(value),
    }
}

/// NaN is greater than every number, and 0 than -0, so that the order of rows decides nothing.
fn fold_floats(kind: StateKind, held: f64, value: f64) -> f64 {
    let value_is_less = match (held.is_nan(), value.is_nan()) {
        (false, false) => value.total_cmp(&held).is_lt(),
        (held_is_nan, value_is_nan) => held_is_nan && !value_is_nan,
    };
    match kind {
        StateKind::Min if value_is_less => value,
        StateKind::Min => held,
        StateKind::Max if value_is_less => held,
        StateKind::Max => value,
        _ => held + value,
    }
}

fn fold_bytes(kind: StateKind, held: &mut Option<Box<[u8]>>, value: &[u8], bytes: &mut u64) {
    let replaces = held.as_deref().is_none_or(|held| match kind {
        StateKind::Min => value < held,
        _ => value > held,
    });
    if replaces {
        let freed = held.as_deref().map_or(0, <[u8]>::len) as u64;
        *bytes = (*bytes + value.len() as u64).saturating_sub(freed);
        *held = Some(value.into());
    }
}

fn bytes_of<'a>(input: &'a ArrayRef) -> Box<dyn Fn(usize) -> &'a [u8] + 'a> {
    if let Some(strings) = input.as_string_view_opt() {
        return Box::new(|row| strings.value(row).as_bytes());
    }
    let bytes = input.as_binary_view();
    Box::new(|row| bytes.value(row))
}
