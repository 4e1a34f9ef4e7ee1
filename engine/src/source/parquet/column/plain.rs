//! Values that lie one after the other in a page, as they are.
//!
//! Numbers are copied or widened. Of a string only a view is made, which points into the page. That
//! a page's strings are UTF-8 is asked once for the whole page where their lengths allow it: four
//! bytes of length that are all ASCII do not disturb the text that they stand between.

use std::ops::{BitOr, Range};

use arrow::buffer::BooleanBuffer;
use arrow::datatypes::ArrowNativeType;
use simdutf8::basic::from_utf8;

use super::select::select;
use crate::error::{Error, Result};
use crate::kernel::view::{PADDING_BYTES, Padded, make_view, view_of};

/// How a column's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Truth values.
    Bits,
    /// Four bytes, to be widened with their sign or cut.
    Int32,
    /// Eight bytes.
    Int64,
    /// So many bytes, 1 to 16, the most significant first, to be widened with their sign.
    Fixed(usize),
    /// Bytes behind their length; `is_text` if they have to be UTF-8.
    Bytes { is_text: bool },
}

/// The images of values in memory: unsigned integers of their size, for strings views.
pub(super) trait Item: ArrowNativeType + BitOr<Output = Self> + Send {
    /// The low bits of `bits`.
    fn low(bits: u128) -> Self;
    /// The number with a sign of which this is the image.
    fn signed(self) -> i128;
    /// The bits of that number, turned round if it is negative.
    fn bits(self) -> Self;
}

macro_rules! items {
    ($($item:ty: $signed:ty,)*) => { $(
        impl Item for $item {
            #[inline(always)]
            fn low(bits: u128) -> Self {
                bits as $item
            }

            #[inline(always)]
            fn signed(self) -> i128 {
                self as $signed as i128
            }

            #[inline(always)]
            fn bits(self) -> Self {
                self ^ (self as $signed >> (<$signed>::BITS - 1)) as $item
            }
        }
    )* };
}

items!(u8: i8, u16: i16, u32: i32, u64: i64, u128: i128,);

/// How far the values of a page have been read. The bytes are passed to each call: always the same.
#[derive(Debug)]
pub(super) struct Plain {
    source: Source,
    /// What has not been read.
    left: Range<usize>,
    /// The rest of the page was found to be UTF-8, lengths included.
    is_checked: bool,
}

impl Plain {
    /// The values in `range` of `bytes`.
    pub(super) fn new(source: Source, bytes: &[u8], range: Range<usize>) -> Plain {
        let is_text = source == Source::Bytes { is_text: true };
        Plain {
            source,
            is_checked: is_text && from_utf8(&bytes[range.clone()]).is_ok(),
            left: range,
        }
    }

    /// Appends the next `count` values; views say that the bytes are buffer `buffer`.
    pub(super) fn read<T: Item>(
        &mut self,
        bytes: &[u8],
        count: usize,
        buffer: u32,
        out: &mut Vec<T>,
    ) -> Result<()> {
        match self.source {
            Source::Int32 => {
                let values = self.take::<4>(bytes, count)?;
                out.extend(values.iter().map(|value| int32::<T>(*value)));
            }
            Source::Int64 => {
                let values = self.take::<8>(bytes, count)?;
                out.extend(values.iter().map(|value| int64::<T>(*value)));
            }
            Source::Fixed(width) => {
                let values = self.take_fixed(bytes, width, count)?;
                out.extend(values.chunks_exact(width).map(fixed::<T>));
            }
            Source::Bytes { is_text } => {
                if count > self.left.len() / 4 {
                    return Err(ends_early());
                }
                let page = self.strings(bytes, is_text, buffer);
                out.reserve(count);
                let mut at = self.left.start;
                for _ in 0..count {
                    let value = page.next(&mut at)?;
                    out.push(T::low(page.view(value)?));
                }
                self.left.start = at;
            }
            Source::Bits => return Err(bits_are_not_plain()),
        }
        Ok(())
    }

    /// Of the next `mask.len()` values appends those that are set.
    pub(super) fn select<T: Item>(
        &mut self,
        bytes: &[u8],
        mask: &BooleanBuffer,
        buffer: u32,
        out: &mut Vec<T>,
    ) -> Result<()> {
        match self.source {
            Source::Int32 => select(self.take::<4>(bytes, mask.len())?, mask, int32, out),
            Source::Int64 => select(self.take::<8>(bytes, mask.len())?, mask, int64, out),
            Source::Fixed(width) => {
                let values = self.take_fixed(bytes, width, mask.len())?;
                let value = |index: usize| fixed::<T>(&values[index * width..][..width]);
                out.extend(mask.set_indices().map(value));
            }
            Source::Bytes { is_text } => {
                let page = self.strings(bytes, is_text, buffer);
                out.reserve(mask.count_set_bits());
                let mut row = 0;
                for wanted in mask.set_indices() {
                    page.skip(&mut self.left.start, wanted - row)?;
                    let value = page.next(&mut self.left.start)?;
                    out.push(T::low(page.view(value)?));
                    row = wanted + 1;
                }
                page.skip(&mut self.left.start, mask.len() - row)?;
            }
            Source::Bits => return Err(bits_are_not_plain()),
        }
        Ok(())
    }

    /// Passes over `count` values.
    pub(super) fn skip(&mut self, bytes: &[u8], count: usize) -> Result<()> {
        match self.source {
            Source::Int32 => self.take::<4>(bytes, count).map(drop),
            Source::Int64 => self.take::<8>(bytes, count).map(drop),
            Source::Fixed(width) => self.take_fixed(bytes, width, count).map(drop),
            Source::Bytes { is_text } => {
                let page = self.strings(bytes, is_text, 0);
                page.skip(&mut self.left.start, count)
            }
            Source::Bits => Err(bits_are_not_plain()),
        }
    }

    fn take<'a, const N: usize>(&mut self, bytes: &'a [u8], count: usize) -> Result<&'a [[u8; N]]> {
        Ok(self.take_fixed(bytes, N, count)?.as_chunks().0)
    }

    /// The bytes of `count` values of `width` bytes.
    fn take_fixed<'a>(&mut self, bytes: &'a [u8], width: usize, count: usize) -> Result<&'a [u8]> {
        if count > self.left.len() / width {
            return Err(ends_early());
        }
        let start = self.left.start;
        self.left.start += count * width;
        Ok(&bytes[start..self.left.start])
    }

    fn strings<'a>(&self, bytes: &'a [u8], is_text: bool, buffer: u32) -> Strings<'a> {
        let padded = bytes.len().saturating_sub(PADDING_BYTES);
        Strings {
            bytes,
            end: self.left.end,
            padded,
            is_checked: self.is_checked,
            is_text,
            buffer,
        }
    }
}

/// The strings of a page.
#[derive(Clone, Copy)]
struct Strings<'a> {
    bytes: &'a [u8],
    end: usize,
    /// Views of what lies before this place are made by loading whole vectors.
    padded: usize,
    is_text: bool,
    is_checked: bool,
    buffer: u32,
}

impl Strings<'_> {
    /// Where the string lies whose length is at `at`, which becomes the place of the next.
    #[inline(always)]
    fn next(self, at: &mut usize) -> Result<Range<usize>> {
        let Some((length, rest)) = self.bytes[..self.end][*at..].split_first_chunk() else {
            return Err(ends_early());
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(ends_early());
        }
        let start = *at + 4;
        *at = start + length;
        Ok(start..*at)
    }

    fn skip(self, at: &mut usize, count: usize) -> Result<()> {
        let mut place = *at;
        for _ in 0..count {
            self.next(&mut place)?;
        }
        *at = place;
        Ok(())
    }

    /// The view of a string, which is looked at more closely if the page as a whole was not text.
    #[inline(always)]
    fn view(self, value: Range<usize>) -> Result<u128> {
        let Range { start, end } = value;
        // A character may begin behind the value. None continues into it: the last byte of its
        // length, which is less than 2^31, stands before it.
        let is_boundary = || end >= self.end || self.bytes[end] as i8 >= -0x40;
        if self.is_text && !(self.is_checked && is_boundary()) {
            self.check(start..end)?;
        }
        Ok(if end <= self.padded {
            let text = Padded::new(self.bytes, self.padded);
            view_of(text, start, end, self.buffer, 0)
        } else {
            make_view(&self.bytes[start..end], self.buffer, start as u32)
        })
    }

    #[inline(never)]
    fn check(self, value: Range<usize>) -> Result<()> {
        let text = from_utf8(&self.bytes[value]);
        text.map(drop)
            .map_err(|_| Error::invalid("a string is not UTF-8"))
    }
}

#[inline(always)]
fn int32<T: Item>(bytes: [u8; 4]) -> T {
    T::low(i128::from(i32::from_le_bytes(bytes)) as u128)
}

#[inline(always)]
fn int64<T: Item>(bytes: [u8; 8]) -> T {
    T::low(i128::from(i64::from_le_bytes(bytes)) as u128)
}

/// A number of 1 to 16 bytes, the most significant first.
#[inline(always)]
fn fixed<T: Item>(bytes: &[u8]) -> T {
    let sign = if bytes[0] < 128 { 0 } else { 0xff };
    let mut image = [sign; 16];
    image[16 - bytes.len()..].copy_from_slice(bytes);
    T::low(u128::from_be_bytes(image))
}

fn ends_early() -> Error {
    Error::invalid("a page ends before its last value")
}

fn bits_are_not_plain() -> Error {
    Error::internal("truth values are read as runs")
}
