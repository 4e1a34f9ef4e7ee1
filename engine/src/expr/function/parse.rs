//! Strings as dates and timestamps.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use chrono::format::{Item, StrftimeItems};
use chrono::{NaiveDate, NaiveDateTime};

use super::calendar::DAY_MICROS;
use super::{Binding, texts};
use crate::error::{Error, Result};
use crate::expr::Function;
use crate::expr::compile::Typed;

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let is_date = call.function == Function::ToDate;
    let to = match is_date {
        true => DataType::Date32,
        false => DataType::Timestamp(TimeUnit::Microsecond, None),
    };
    if call.count() == 1 {
        let found = call.data_type(0);
        if !found.is_temporal() && !matches!(found, DataType::Utf8View | DataType::Null) {
            return Err(call.needs("a string, date or timestamp", &found));
        }
        return call.args.remove(0).cast(&to, call.expr);
    }
    call.strings([0, 1])?;
    let format = call.constant_string(1, "format")?;
    if StrftimeItems::new(&format).any(|item| item == Item::Error) {
        return Err(Error::invalid(format!(
            "{}: bad format format={format:?}",
            call.expr
        )));
    }
    Ok(call.partial(to, move |values, rows| -> Result<ArrayRef> {
        let text = texts(values, 0)?;
        let micros = |row| text.get(row).map(|text| parse(text, &format)).transpose();
        let micros = (0..rows)
            .map(micros)
            .collect::<Result<Vec<Option<i64>>>>()?;
        Ok(if is_date {
            let day = |micros: i64| micros.div_euclid(DAY_MICROS) as i32;
            let days = micros.into_iter().map(|micros| micros.map(day));
            Arc::new(days.collect::<Date32Array>())
        } else {
            Arc::new(TimestampMicrosecondArray::from(micros))
        })
    }))
}

/// Microseconds since 1970-01-01; a format without a time means midnight.
fn parse(text: &str, format: &str) -> Result<i64> {
    let moment = NaiveDateTime::parse_from_str(text, format).or_else(|error| {
        let date = NaiveDate::parse_from_str(text, format).map_err(|_| error)?;
        Ok(date.and_time(chrono::NaiveTime::MIN))
    });
    match moment {
        Ok(moment) => Ok(moment.and_utc().timestamp_micros()),
        Err(error) => {
            let error: chrono::ParseError = error;
            Err(Error::invalid(format!(
                "a string does not have the format: {error} value={text:?} format={format:?}"
            )))
        }
    }
}
