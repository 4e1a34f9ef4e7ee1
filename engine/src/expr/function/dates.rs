//! Parts of dates and timestamps, and units of time.
//!
//! Dates are computed with as days, timestamps as microseconds of local time: what a clock shows
//! in the timestamp's zone.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int64Array, TimestampMicrosecondArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Offset, TimeZone};

use super::calendar::{DAY_MICROS, Unit, civil, day_of_week, day_of_year, iso_week};
use super::{Binding, argument};
use crate::error::{Error, Result};
use crate::expr::compile::Typed;
use crate::expr::eval::Value;
use crate::expr::{Function, coerce};

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let function = call.function;
    let unit = match function {
        Function::DateTrunc | Function::DateDiff => {
            call.strings([0])?;
            Some(named_unit(&mut call)?)
        }
        _ => None,
    };
    for index in 0..call.count() {
        moment(&mut call, index)?;
    }
    let zone = match call.data_type(0) {
        DataType::Timestamp(_, Some(zone)) => Some(zone.parse::<Tz>().map_err(Error::from)?),
        _ => None,
    };
    Ok(match (function, unit) {
        (Function::DateTrunc, Some(unit)) => {
            let data_type = call.data_type(0);
            call.partial(data_type.clone(), move |values, _| {
                truncated(argument(values, 0)?.array(), unit, zone, &data_type)
            })
        }
        (_, Some(unit)) => {
            let Some(common) = coerce::common(&call.data_type(0), &call.data_type(1)) else {
                let found = call.data_type(1);
                return Err(call.needs(&format!("{} or alike", call.data_type(0)), &found));
            };
            call.cast(0, &common)?;
            call.cast(1, &common)?;
            call.total(DataType::Int64, move |values, rows| {
                difference(values, rows, unit, zone)
            })
        }
        (function, None) => call.total(DataType::Int64, move |values, _| {
            let array = argument(values, 0)?.array();
            // An epoch is the same everywhere.
            let zone = zone.filter(|_| function != Function::EpochSeconds);
            Ok(Arc::new(part(function, &Moments::of(array, zone)?)))
        }),
    })
}

/// Takes out the first argument, the name of a unit.
fn named_unit(call: &mut Binding<'_>) -> Result<Unit> {
    let name = call.constant_string(0, "unit")?;
    Unit::named(&name).ok_or_else(|| {
        Error::invalid(format!(
            "{}: unknown unit {name:?} units={}",
            call.expr,
            Unit::NAMES
        ))
    })
}

/// Requires a date or timestamp; the latter in microseconds.
fn moment(call: &mut Binding<'_>, index: usize) -> Result<()> {
    let to = match call.data_type(index) {
        DataType::Date32 | DataType::Null => DataType::Date32,
        // A string beside a date is meant as one; a column of strings is not.
        DataType::Utf8View if call.args[index].constant().is_some() => DataType::Date32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone),
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        found => return Err(call.needs("a date or timestamp", &found)),
    };
    call.cast(index, &to)
}

/// Dates as days, timestamps as microseconds of local time.
enum Moments {
    Days(ScalarBuffer<i32>, Option<NullBuffer>),
    Micros(ScalarBuffer<i64>, Option<NullBuffer>),
}

impl Moments {
    fn of(array: &dyn Array, zone: Option<Tz>) -> Result<Moments> {
        if let Some(dates) = array.as_primitive_opt::<Date32Type>() {
            return Ok(Moments::Days(
                dates.values().clone(),
                dates.nulls().cloned(),
            ));
        }
        let Some(times) = array.as_primitive_opt::<TimestampMicrosecondType>() else {
            return Err(Error::internal("neither dates nor timestamps"));
        };
        let nulls = times.nulls().cloned();
        let values = match zone {
            None => times.values().clone(),
            Some(zone) => times
                .values()
                .iter()
                .map(|utc| utc.wrapping_add(offset(*utc, zone)))
                .collect(),
        };
        Ok(Moments::Micros(values, nulls))
    }
}

/// Microseconds that clocks in `zone` are ahead at a moment.
fn offset(utc: i64, zone: Tz) -> i64 {
    DateTime::from_timestamp_micros(utc).map_or(0, |utc| {
        let offset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
        i64::from(offset.local_minus_utc()) * 1_000_000
    })
}

/// A part of each moment. Each is a loop of its own, without a look at which part it is.
fn part(function: Function, moments: &Moments) -> Int64Array {
    let of_day = |f: fn(i64) -> i64| by(moments, |days, _| f(days));
    let of_time = |unit: i64, count: i64| by(moments, move |_, time| time / unit % count);
    match function {
        Function::Year => of_day(|days| civil(days).0),
        Function::Quarter => of_day(|days| (civil(days).1 + 2) / 3),
        Function::Month => of_day(|days| civil(days).1),
        Function::Week => of_day(iso_week),
        Function::Day => of_day(|days| civil(days).2),
        Function::DayOfWeek => of_day(day_of_week),
        Function::DayOfYear => of_day(day_of_year),
        Function::Hour => of_time(3_600_000_000, 24),
        Function::Minute => of_time(60_000_000, 60),
        Function::Second => of_time(1_000_000, 60),
        _ => by(moments, |days, time| days * 86_400 + time / 1_000_000),
    }
}

/// `f` of the days and the microseconds of the day.
#[inline(always)]
fn by(moments: &Moments, f: impl Fn(i64, i64) -> i64) -> Int64Array {
    let (values, nulls): (Vec<i64>, _) = match moments {
        Moments::Days(days, nulls) => {
            let values = days.iter().map(|days| f(i64::from(*days), 0));
            (values.collect(), nulls)
        }
        Moments::Micros(micros, nulls) => {
            let split =
                |micros: &i64| f(micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
            (micros.iter().map(split).collect(), nulls)
        }
    };
    Int64Array::new(values.into(), nulls.clone())
}

fn truncated(
    array: &dyn Array,
    unit: Unit,
    zone: Option<Tz>,
    data_type: &DataType,
) -> Result<ArrayRef> {
    match Moments::of(array, zone)? {
        Moments::Days(days, nulls) => {
            let first = |days: &i32| unit.first_day(i64::from(*days)).max(i32::MIN.into()) as i32;
            let values: Vec<i32> = days.iter().map(first).collect();
            Ok(Arc::new(Date32Array::new(values.into(), nulls)))
        }
        Moments::Micros(micros, nulls) => {
            let is_valid = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
            let start = |(row, micros): (usize, &i64)| {
                let start = unit.start(*micros).and_then(|local| match zone {
                    None => Some(local),
                    Some(zone) => utc(local, zone),
                });
                match start {
                    Some(start) => Ok(start),
                    None if !is_valid(row) => Ok(0),
                    None => Err(Error::invalid(format!(
                        "a timestamp is out of range micros={micros}"
                    ))),
                }
            };
            let values = micros.iter().enumerate().map(start);
            let values = values.collect::<Result<Vec<i64>>>()?;
            let array = TimestampMicrosecondArray::new(values.into(), nulls);
            Ok(Arc::new(array.with_data_type(data_type.clone())))
        }
    }
}

/// The first moment at which clocks in `zone` show this, or would if they were not put forward.
fn utc(local: i64, zone: Tz) -> Option<i64> {
    let shown = DateTime::from_timestamp_micros(local)?.naive_utc();
    match zone.from_local_datetime(&shown).earliest() {
        Some(moment) => Some(moment.timestamp_micros()),
        None => local.checked_sub(offset(local, zone)),
    }
}

fn difference(values: &[Value], rows: usize, unit: Unit, zone: Option<Tz>) -> Result<ArrayRef> {
    let numbers = |index| -> Result<(Int64Array, bool)> {
        let value = argument(values, index)?;
        let numbers = match Moments::of(value.array(), zone)? {
            Moments::Days(days, nulls) => {
                let numbers = days.iter().map(|days| unit.number_of_day(i64::from(*days)));
                Int64Array::new(numbers.collect(), nulls)
            }
            Moments::Micros(micros, nulls) => {
                let numbers = micros.iter().map(|micros| unit.number(*micros));
                Int64Array::new(numbers.collect(), nulls)
            }
        };
        Ok((numbers, value.is_scalar()))
    };
    let (from, to) = (numbers(0)?, numbers(1)?);
    let at = |(numbers, is_scalar): &(Int64Array, bool), row| {
        let row = if *is_scalar { 0 } else { row };
        numbers.is_valid(row).then(|| numbers.value(row))
    };
    let difference = |row| Some(at(&to, row)?.wrapping_sub(at(&from, row)?));
    Ok(Arc::new((0..rows).map(difference).collect::<Int64Array>()))
}
