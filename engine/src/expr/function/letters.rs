//! Upper and lower case of strings, fast for the ASCII that most text is.
//!
//! A view of up to twelve bytes holds its string inside, so an ASCII one changes case in two
//! machine words without touching memory. A longer string that is already in the wanted case
//! keeps pointing at its old bytes; only what changes is written to a new buffer. Strings with
//! other characters follow Unicode's full mapping, which may change their length.
//!
//! This module makes views without having them validated again; what makes that sound stands at
//! the one `unsafe` call.

use std::sync::Arc;

use arrow::array::{Array, ByteView, MAX_INLINE_VIEW_LEN, StringViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};

use crate::error::{Error, Result};

/// Strings in Unicode lower case.
pub(super) fn lower(text: &StringViewArray) -> Result<StringViewArray> {
    map::<Lower>(text)
}

/// Strings in Unicode upper case.
pub(super) fn upper(text: &StringViewArray) -> Result<StringViewArray> {
    map::<Upper>(text)
}

trait Case {
    /// First of the 26 ASCII letters that this case replaces.
    const REPLACED: u8;
    fn ascii(byte: u8) -> u8;
    fn full(text: &str) -> String;
}

struct Lower;

impl Case for Lower {
    const REPLACED: u8 = b'A';

    fn ascii(byte: u8) -> u8 {
        byte.to_ascii_lowercase()
    }

    fn full(text: &str) -> String {
        text.to_lowercase()
    }
}

struct Upper;

impl Case for Upper {
    const REPLACED: u8 = b'a';

    fn ascii(byte: u8) -> u8 {
        byte.to_ascii_uppercase()
    }

    fn full(text: &str) -> String {
        text.to_uppercase()
    }
}

const HIGH_BITS: u128 = repeat(0x80);

const fn repeat(byte: u8) -> u128 {
    u128::from_ne_bytes([byte; 16])
}

/// Flips the case bit of each byte that is one of the replaced letters. `bytes` are all ASCII, so
/// the additions carry only into each byte's own high bit.
fn flip<C: Case>(bytes: u128) -> u128 {
    let from_first = bytes + repeat(0x80 - C::REPLACED);
    let past_last = bytes + repeat(0x80 - C::REPLACED - 26);
    let letters = from_first & !past_last & HIGH_BITS;
    bytes ^ (letters >> 2)
}

fn map<C: Case>(text: &StringViewArray) -> Result<StringViewArray> {
    let mut out = Writer::new(text.data_buffers());
    let mut views = Vec::with_capacity(text.len());
    for (row, &view) in text.views().iter().enumerate() {
        // The length is in the low four bytes, an inline string in the twelve above.
        let bytes = view >> 32 << 32;
        if view as u32 <= MAX_INLINE_VIEW_LEN && bytes & HIGH_BITS == 0 {
            views.push(flip::<C>(bytes) | (view & u128::from(u32::MAX)));
        } else if text.is_null(row) {
            views.push(0);
        } else {
            views.push(out.map::<C>(text.value(row), view)?);
        }
    }
    let buffers = out.finish();
    // SAFETY: every view is (a) inline, made of ASCII bytes by `flip`, which maps ASCII to ASCII,
    // or by `Writer::view` from a `str`; or (b) the input's own view, whose buffers are all kept
    // at their index; or (c) made by `Writer::view` with the range and prefix of a whole `str` in
    // a buffer of the writer. Padding of inline views stays zero, because `flip` leaves zero
    // bytes as they are. Null rows have the empty view.
    #[expect(
        unsafe_code,
        reason = "validating 100 million words again would double their cost"
    )]
    let result = unsafe {
        StringViewArray::new_unchecked(ScalarBuffer::from(views), buffers, text.nulls().cloned())
    };
    Ok(result)
}

/// The input's buffers, and behind them those with the strings that changed.
struct Writer {
    buffers: Vec<Buffer>,
    open: Vec<u8>,
}

impl Writer {
    fn new(kept: &[Buffer]) -> Self {
        Writer {
            buffers: kept.to_vec(),
            open: Vec::new(),
        }
    }

    fn map<C: Case>(&mut self, value: &str, view: u128) -> Result<u128> {
        if !value.is_ascii() {
            let mapped = C::full(value);
            return if mapped == value {
                Ok(view)
            } else {
                self.view(&mapped)
            };
        }
        let last = C::REPLACED + 25;
        if !value
            .bytes()
            .any(|byte| (C::REPLACED..=last).contains(&byte))
        {
            return Ok(view);
        }
        let offset = self.room(value.len())?;
        self.open.extend(value.bytes().map(C::ascii));
        Ok(self.written(offset))
    }

    /// A view of a copy of `value`.
    fn view(&mut self, value: &str) -> Result<u128> {
        let length = u32::try_from(value.len()).map_err(|_| too_long(value.len()))?;
        if length <= MAX_INLINE_VIEW_LEN {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4..4 + value.len()].copy_from_slice(value.as_bytes());
            return Ok(u128::from_le_bytes(bytes));
        }
        let offset = self.room(value.len())?;
        self.open.extend_from_slice(value.as_bytes());
        Ok(self.written(offset))
    }

    /// Makes room for `bytes` more in the open buffer and tells where they will start. Offsets
    /// and lengths have 31 bits, so a full buffer is closed and another opened.
    fn room(&mut self, bytes: usize) -> Result<usize> {
        const MAX: usize = i32::MAX as usize;
        if bytes > MAX {
            return Err(too_long(bytes));
        }
        if self.open.len() > MAX - bytes {
            self.buffers
                .push(Buffer::from_vec(std::mem::take(&mut self.open)));
        }
        Ok(self.open.len())
    }

    /// The view of what was written to the open buffer from `offset` on.
    fn written(&self, offset: usize) -> u128 {
        let bytes = &self.open[offset..];
        let mut prefix = [0; 4];
        prefix.copy_from_slice(&bytes[..4]);
        ByteView {
            length: bytes.len() as u32,
            prefix: u32::from_le_bytes(prefix),
            buffer_index: self.buffers.len() as u32,
            offset: offset as u32,
        }
        .as_u128()
    }

    fn finish(mut self) -> Arc<[Buffer]> {
        if !self.open.is_empty() {
            self.buffers.push(Buffer::from_vec(self.open));
        }
        self.buffers.into()
    }
}

fn too_long(bytes: usize) -> Error {
    Error::invalid(format!(
        "a string is too long to change its case bytes={bytes}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[Option<&str>]) {
        let text: StringViewArray = values.iter().copied().collect();
        let expect = |found: Result<StringViewArray>, expected: fn(&str) -> String| {
            let found = found.expect("no string is too long");
            found.to_data().validate_full().expect("a valid array");
            let expected: StringViewArray =
                values.iter().map(|value| value.map(expected)).collect();
            assert_eq!(found, expected);
        };
        expect(lower(&text), str::to_lowercase);
        expect(upper(&text), str::to_uppercase);
    }

    #[test]
    fn ascii_unicode_short_long_and_null() {
        check(&[
            Some("The"),
            Some(""),
            None,
            Some("@AZ[`az{\0\x7f"),
            Some("exactly12BYT"),
            Some("Thirteen.Byte"),
            Some("already in lower case"),
            Some("ALREADY IN UPPER CASE"),
            Some("ÄÖÜ straße"),
            Some("İstanbul"),
            Some("ΟΔΥΣΣΕΥΣ in a longer Text"),
            Some("ﬁ"),
        ]);
    }

    #[test]
    fn random_strings() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let values: Vec<Option<String>> = (0..random.usize(..20))
                .map(|_| {
                    let ascii = random.bool();
                    let limit = if ascii { 128 } else { 0x500 };
                    let length = random.usize(..24);
                    let char = |random: &mut fastrand::Rng| {
                        char::from_u32(random.u32(..limit)).unwrap_or('x')
                    };
                    (random.u8(..8) > 0).then(|| (0..length).map(|_| char(&mut random)).collect())
                })
                .collect();
            check(&values.iter().map(Option::as_deref).collect::<Vec<_>>());
        }
    }

    #[test]
    fn unchanged_long_strings_keep_their_bytes() {
        let text = StringViewArray::from(vec!["already in lower case"]);
        let found = lower(&text).expect("short enough");
        assert_eq!(found.data_buffers().len(), 1);
        assert_eq!(
            found.data_buffers()[0].as_ptr(),
            text.data_buffers()[0].as_ptr()
        );
    }
}
