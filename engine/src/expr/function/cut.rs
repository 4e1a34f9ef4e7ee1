//! Functions whose result is a part of a string: no character is copied.
//!
//! A view of the whole becomes a view of the part, into the same buffer; a part of up to twelve
//! bytes lies inside its view.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder};

use arrow::datatypes::DataType;

use super::{Binding, Texts, integers, texts};
use crate::error::Result;
use crate::expr::Function;
use crate::expr::compile::Typed;
use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::view::{make_view, string_array};

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let text = DataType::Utf8View;
    call.strings([0])?;
    Ok(match call.function {
        Function::Ltrim => trimmed(call, str::trim_start),
        Function::Rtrim => trimmed(call, str::trim_end),
        Function::Substring => {
            call.integers(1..call.count())?;
            let has_length = call.count() == 3;
            call.total(text, move |values, rows| {
                let start = integers(values, 1)?;
                let length = integers(values, if has_length { 2 } else { 1 })?;
                Ok(cut(texts(values, 0)?, rows, |row, text| {
                    let first = start(row)?.saturating_sub(1);
                    let end = match has_length {
                        true => first.saturating_add(length(row)?.max(0)),
                        false => i64::MAX,
                    };
                    Some(between(text, first, end))
                }))
            })
        }
        Function::Left | Function::Right => {
            call.integers([1])?;
            let left = call.function == Function::Left;
            call.total(text, move |values, rows| {
                let wanted = integers(values, 1)?;
                Ok(cut(texts(values, 0)?, rows, |row, text| {
                    let wanted = wanted(row)?;
                    Some(match (left, wanted) {
                        (true, 0..) => between(text, 0, wanted),
                        (true, _) => between(text, 0, chars(text).saturating_add(wanted)),
                        (false, 0..) => between(text, chars(text) - wanted, i64::MAX),
                        (false, _) => between(text, wanted.saturating_neg(), i64::MAX),
                    })
                }))
            })
        }
        Function::SplitPart => {
            call.strings([1])?;
            call.integers([2])?;
            call.total(text, |values, rows| {
                let (separator, wanted) = (texts(values, 1)?, integers(values, 2)?);
                Ok(cut(texts(values, 0)?, rows, |row, text| {
                    Some(part(text, separator.get(row)?, wanted(row)?))
                }))
            })
        }
        _ => trimmed(call, str::trim),
    })
}

fn trimmed(call: Binding<'_>, trim: fn(&str) -> &str) -> Typed {
    call.total(DataType::Utf8View, move |values, rows| {
        Ok(cut(texts(values, 0)?, rows, |_, text| {
            Some(place_of(trim(text), text))
        }))
    })
}

/// Where a part of `text` lies in it.
fn place_of(part: &str, text: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

fn chars(text: &str) -> i64 {
    if text.is_ascii() {
        text.len() as i64
    } else {
        text.chars().count() as i64
    }
}

/// The bytes of the characters from `first` on and before `end`, as far as there are any.
fn between(text: &str, first: i64, end: i64) -> Range<usize> {
    let first = usize::try_from(first).unwrap_or(0);
    let end = usize::try_from(end).unwrap_or(0).max(first);
    if text.is_ascii() {
        return first.min(text.len())..end.min(text.len());
    }
    let mut places = text.char_indices().map(|(place, _)| place);
    let start = places.nth(first).unwrap_or(text.len());
    let end = match end - first {
        0 => start,
        more => places.nth(more - 1).unwrap_or(text.len()),
    };
    start..end
}

/// The part with this number, or the empty end where there is none.
fn part(text: &str, separator: &str, wanted: i64) -> Range<usize> {
    let nth = wanted.unsigned_abs().saturating_sub(1) as usize;
    let found = if separator.is_empty() {
        (wanted.unsigned_abs() == 1).then_some(text)
    } else if wanted > 0 {
        text.split(separator).nth(nth)
    } else if wanted < 0 {
        text.rsplit(separator).nth(nth)
    } else {
        None
    };
    found.map_or(text.len()..text.len(), |part| place_of(part, text))
}

/// For each row the part of its string that `range` says; null where it says none.
pub(super) fn cut(
    texts: Texts<'_>,
    rows: usize,
    range: impl Fn(usize, &str) -> Option<Range<usize>>,
) -> ArrayRef {
    let stored = texts.array.views();
    let mut views = Vec::with_capacity(rows);
    let mut nulls = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let text = texts.get(row);
        let Some((text, range)) = text.and_then(|text| Some((text, range(row, text)?))) else {
            views.push(0);
            nulls.append_null();
            continue;
        };
        let view = stored[texts.place(row)];
        let part = &text[range.clone()];
        nulls.append_non_null();
        views.push(if part.len() == text.len() {
            view
        } else if part.len() <= INLINE_BYTES {
            make_view(part.as_bytes(), 0, 0)
        } else {
            // Longer than a view holds, so the whole is in a buffer too.
            let (buffer, offset) = ((view >> 64) as u32, (view >> 96) as u32);
            make_view(part.as_bytes(), buffer, offset + range.start as u32)
        });
    }
    let buffers = texts.array.data_buffers().to_vec();
    Arc::new(string_array(views, buffers, nulls.finish()))
}
