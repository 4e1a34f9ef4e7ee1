//! Functions of strings whose result is new text, a number or a list.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, ListBuilder, StringViewArray,
    StringViewBuilder,
};
use arrow::datatypes::{DataType, Field};

use super::{Binding, Texts, argument, integers, letters, texts};
use crate::error::{Error, Result};
use crate::expr::Function;
use crate::expr::compile::Typed;
use crate::expr::eval::Value;
use crate::kernel::words::words_list;
use crate::limits;

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let text = DataType::Utf8View;
    let function = call.function;
    match function {
        Function::Chr => call.integers([0])?,
        Function::Repeat => {
            call.strings([0])?;
            call.integers([1])?;
        }
        Function::Lpad | Function::Rpad => {
            call.strings([0])?;
            call.integers([1])?;
            call.strings(2..call.count())?;
        }
        _ => call.strings(0..call.count())?,
    }
    Ok(match function {
        Function::Words => call.total(list_type(), |values, _| words(whole(values)?)),
        Function::Lower => call.total(text, |values, _| {
            Ok(Arc::new(letters::lower(whole(values)?)?))
        }),
        Function::Upper => call.total(text, |values, _| {
            Ok(Arc::new(letters::upper(whole(values)?)?))
        }),
        Function::Length => counted(call, |text| text.chars().count() as i64),
        Function::Ascii => counted(call, |text| {
            text.chars()
                .next()
                .map_or(0, |first| i64::from(u32::from(first)))
        }),
        Function::Strpos => call.total(DataType::Int64, |values, rows| {
            let (text, part) = (texts(values, 0)?, texts(values, 1)?);
            let place = |row| Some(position(text.get(row)?, part.get(row)?));
            Ok(Arc::new((0..rows).map(place).collect::<Int64Array>()))
        }),
        Function::Split => call.total(list_type(), split),
        Function::Reverse => call.partial(text, |values, rows| {
            map(values, rows, |text, out| {
                text.chars().rev().try_for_each(|char| out.push_char(char))
            })
        }),
        Function::Initcap => call.partial(text, |values, rows| map(values, rows, initcap)),
        Function::Concat => call.partial(text, concat),
        Function::Replace => call.partial(text, replace),
        Function::Repeat => call.partial(text, repeat),
        Function::Chr => call.partial(text, chr),
        left_or_right => {
            let is_left = left_or_right == Function::Lpad;
            call.partial(text, move |values, rows| pad(values, rows, is_left))
        }
    })
}

/// The type of `words` and `split`.
fn list_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)))
}

/// The only argument as a column; where it is one value, it is the only row.
fn whole(values: &[Value]) -> Result<&StringViewArray> {
    Ok(argument(values, 0)?.array().as_string_view())
}

fn counted(call: Binding<'_>, count: fn(&str) -> i64) -> Typed {
    call.total(DataType::Int64, move |values, _| {
        let counts = whole(values)?.iter().map(|text| text.map(count));
        Ok(Arc::new(counts.collect::<Int64Array>()))
    })
}

/// New text of a row, and how much all rows may still have.
pub(super) struct Made {
    text: String,
    bytes_left: usize,
}

impl Made {
    /// Appends to the text of this row.
    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        self.reserve(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    fn push_char(&mut self, char: char) -> Result<()> {
        self.push(char.encode_utf8(&mut [0; 4]))
    }

    /// Refuses what would be too much before it is made.
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.text.len().saturating_add(bytes) <= self.bytes_left {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "strings of one batch get too long bytes_max={}",
            limits::EXPR_TEXT_BYTES_MAX
        )))
    }
}

/// A string per row, as `make` writes it; null where that answers false.
pub(super) fn each(
    rows: usize,
    mut make: impl FnMut(usize, &mut Made) -> Result<bool>,
) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(rows);
    let mut out = Made {
        text: String::new(),
        bytes_left: limits::EXPR_TEXT_BYTES_MAX,
    };
    for row in 0..rows {
        out.text.clear();
        if make(row, &mut out)? {
            builder.append_value(&out.text);
            out.bytes_left -= out.text.len();
        } else {
            builder.append_null();
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn map(
    values: &[Value],
    rows: usize,
    make: impl Fn(&str, &mut Made) -> Result<()>,
) -> Result<ArrayRef> {
    let text = texts(values, 0)?;
    each(rows, |row, out| match text.get(row) {
        Some(text) => make(text, out).map(|()| true),
        None => Ok(false),
    })
}

/// The kernel's list under the type that the check has promised.
fn words(text: &StringViewArray) -> Result<ArrayRef> {
    let list = words_list(text)?;
    let DataType::List(field) = list_type() else {
        return Err(Error::internal("words are a list"));
    };
    if list.data_type() == &DataType::List(Arc::clone(&field)) {
        return Ok(Arc::new(list));
    }
    let (_, offsets, values, nulls) = list.into_parts();
    Ok(Arc::new(ListArray::try_new(field, offsets, values, nulls)?))
}

fn split(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let (text, separator) = (texts(values, 0)?, texts(values, 1)?);
    let mut builder = ListBuilder::new(StringViewBuilder::new());
    for row in 0..rows {
        let (Some(text), Some(separator)) = (text.get(row), separator.get(row)) else {
            builder.append_null();
            continue;
        };
        if separator.is_empty() {
            let mut char = [0; 4];
            for part in text.chars() {
                builder.values().append_value(part.encode_utf8(&mut char));
            }
        } else {
            text.split(separator)
                .for_each(|part| builder.values().append_value(part));
        }
        builder.append(true);
    }
    Ok(Arc::new(builder.finish()))
}

/// Where `part` starts in `text`, in characters from 1; 0 if nowhere.
fn position(text: &str, part: &str) -> i64 {
    let chars = |at: usize| text[..at].chars().count() as i64 + 1;
    text.find(part).map_or(0, chars)
}

fn initcap(text: &str, out: &mut Made) -> Result<()> {
    let mut inside = false;
    for char in text.chars() {
        if inside {
            char.to_lowercase()
                .try_for_each(|char| out.push_char(char))?;
        } else {
            char.to_uppercase()
                .try_for_each(|char| out.push_char(char))?;
        }
        inside = char.is_alphanumeric();
    }
    Ok(())
}

fn concat(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let parts = (0..values.len()).map(|index| texts(values, index));
    let parts = parts.collect::<Result<Vec<Texts<'_>>>>()?;
    each(rows, |row, out| {
        for part in &parts {
            let Some(text) = part.get(row) else {
                return Ok(false);
            };
            out.push(text)?;
        }
        Ok(true)
    })
}

fn replace(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let (text, from, to) = (texts(values, 0)?, texts(values, 1)?, texts(values, 2)?);
    each(rows, |row, out| {
        let (Some(text), Some(from), Some(to)) = (text.get(row), from.get(row), to.get(row)) else {
            return Ok(false);
        };
        if from.is_empty() {
            out.push(text)?;
            return Ok(true);
        }
        for (index, part) in text.split(from).enumerate() {
            if index > 0 {
                out.push(to)?;
            }
            out.push(part)?;
        }
        Ok(true)
    })
}

fn repeat(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let (text, times) = (texts(values, 0)?, integers(values, 1)?);
    each(rows, |row, out| {
        let (Some(text), Some(times)) = (text.get(row), times(row)) else {
            return Ok(false);
        };
        let times = usize::try_from(times).unwrap_or(0);
        if !text.is_empty() {
            out.reserve(text.len().saturating_mul(times))?;
            (0..times).try_for_each(|_| out.push(text))?;
        }
        Ok(true)
    })
}

fn chr(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let code = integers(values, 0)?;
    each(rows, |row, out| {
        let Some(code) = code(row) else {
            return Ok(false);
        };
        let char = u32::try_from(code).ok().and_then(char::from_u32);
        let char =
            char.ok_or_else(|| Error::invalid(format!("no character has this code code={code}")))?;
        out.push_char(char)?;
        Ok(true)
    })
}

fn pad(values: &[Value], rows: usize, is_left: bool) -> Result<ArrayRef> {
    let (text, wanted) = (texts(values, 0)?, integers(values, 1)?);
    let fill = if values.len() > 2 {
        Some(texts(values, 2)?)
    } else {
        None
    };
    each(rows, |row, out| {
        let fill = match &fill {
            Some(fill) => fill.get(row),
            None => Some(" "),
        };
        let (Some(text), Some(wanted), Some(fill)) = (text.get(row), wanted(row), fill) else {
            return Ok(false);
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let chars = text.chars().count();
        let missing = match fill.is_empty() {
            true => 0,
            false => wanted.saturating_sub(chars),
        };
        out.reserve(missing)?;
        let filled = |out: &mut Made| -> Result<()> {
            let mut chars = fill.chars().cycle().take(missing);
            chars.try_for_each(|char| out.push_char(char))
        };
        if is_left {
            filled(out)?;
        }
        text.chars()
            .take(wanted)
            .try_for_each(|char| out.push_char(char))?;
        if !is_left {
            filled(out)?;
        }
        Ok(true)
    })
}
