//! Values that lie one after the other in a page, as they are.
//!
//! Numbers are copied or widened. Of a string only a view is made, which points into the page. That
//! a page's strings are UTF-8 is asked once for the whole page where their lengths allow it: four
//! bytes of length that are all ASCII do not disturb the text that they stand between.

use std::ops::Range;

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
pub(super) trait Item: ArrowNativeType + Send {
    /// The low bits of `bits`.
    fn low(bits: u128) -> Self;
}

macro_rules! items {
    ($($item:ty)*) => { $(
        impl Item for $item {
            #[inline(always)]
            fn low(bits: u128) -> Self {
                bits as $item
            }
        }
    )* };
}

items!(u8 u16 u32 u64 u128);

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
                out.reserve(count);
                for _ in 0..count {
                    let value = self.next_bytes(bytes)?;
                    out.push(T::low(self.view(bytes, value, is_text, buffer)?));
                }
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
                out.reserve(mask.count_set_bits());
                let mut row = 0;
                for wanted in mask.set_indices() {
                    self.skip(bytes, wanted - row)?;
                    let value = self.next_bytes(bytes)?;
                    out.push(T::low(self.view(bytes, value, is_text, buffer)?));
                    row = wanted + 1;
                }
                self.skip(bytes, mask.len() - row)?;
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
            Source::Bytes { .. } => (0..count).try_for_each(|_| self.next_bytes(bytes).map(drop)),
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

    /// Where the next string lies.
    #[inline(always)]
    fn next_bytes(&mut self, bytes: &[u8]) -> Result<Range<usize>> {
        let rest = &bytes[self.left.clone()];
        let Some((length, rest)) = rest.split_first_chunk() else {
            return Err(ends_early());
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(ends_early());
        }
        let start = self.left.start + 4;
        self.left.start = start + length;
        Ok(start..start + length)
    }

    /// The view of a string, which is looked at more closely if the page as a whole was not text.
    #[inline(always)]
    fn view(&self, bytes: &[u8], value: Range<usize>, is_text: bool, buffer: u32) -> Result<u128> {
        let Range { start, end } = value;
        // A character may begin behind the value. None continues into it: the last byte of its
        // length, which is less than 2^31, stands before it.
        let is_boundary = || match end < self.left.end {
            true => bytes[end] as i8 >= -0x40,
            false => true,
        };
        if is_text && !(self.is_checked && is_boundary()) && from_utf8(&bytes[start..end]).is_err()
        {
            return Err(Error::invalid("a string is not UTF-8"));
        }
        let padded = bytes.len().saturating_sub(PADDING_BYTES);
        Ok(if end <= padded {
            view_of(Padded::new(bytes, padded), start, end, buffer, 0)
        } else {
            make_view(&bytes[start..end], buffer, start as u32)
        })
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
