//! Keys of several columns, strings among them, as the bytes of one string.
//!
//! A value is a byte that says how long it is, or that it is null, and then its bytes; the types
//! are the same for all keys, so one key's bytes are never the beginning of another's. Keys of at
//! most twelve bytes, such as those of two short codes, are built column by column inside their
//! views and never exist anywhere else.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::DataType;

use crate::error::Result;
use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::view::{make_view, outside_bytes, view_bytes};
use crate::operator::aggregate::keys::{canonical, fixed_array, fixed_width, raw_values};
use crate::operator::aggregate::table::Row;

/// Instead of the length: a string whose length follows in four bytes, and null.
const LONG: u8 = 254;
const NULL: u8 = 255;

/// How keys of some types become bytes.
pub(super) struct Mixed(Vec<Kind>);

enum Kind {
    Fixed(DataType, usize),
    View(DataType),
}

/// The values of a column.
enum Values<'a> {
    Fixed(Buffer, usize),
    View(&'a [u128], Vec<&'a [u8]>),
}

impl Mixed {
    /// None if there is a type that is not taken.
    pub(super) fn new(types: &[&DataType]) -> Option<Self> {
        let kind = |&data_type: &&DataType| match data_type {
            DataType::Utf8View | DataType::BinaryView => Some(Kind::View(data_type.clone())),
            other => Some(Kind::Fixed(other.clone(), fixed_width(other)?)),
        };
        types.iter().map(kind).collect::<Option<_>>().map(Mixed)
    }

    /// The views of the keys, and the buffer of those that are long.
    pub(super) fn encode(&self, columns: &[ArrayRef], rows: usize) -> (Vec<u128>, Buffer) {
        let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        let values = self.0.iter().zip(&columns).map(|(kind, column)| {
            let values = match kind {
                Kind::Fixed(_, width) => Values::Fixed(raw_values(column), *width),
                Kind::View(DataType::Utf8View) => {
                    let array = column.as_string_view();
                    Values::View(array.views(), slices(array.data_buffers()))
                }
                Kind::View(_) => {
                    let array = column.as_binary_view();
                    Values::View(array.views(), slices(array.data_buffers()))
                }
            };
            (values, column.nulls())
        });
        let values: Vec<_> = values.collect();
        let (mut images, mut lens) = (vec![0u128; rows], vec![0u32; rows]);
        for (values, nulls) in &values {
            add_column(&mut images, &mut lens, values, *nulls);
        }
        let mut long = Vec::new();
        let view = |(row, (image, len)): (usize, (&u128, &u32))| {
            if *len as usize <= INLINE_BYTES {
                return image << 32 | u128::from(*len);
            }
            let start = long.len();
            for (values, nulls) in &values {
                let valid = nulls.is_none_or(|nulls| nulls.is_valid(row));
                push_value(&mut long, values, row, valid);
            }
            make_view(&long[start..], 0, start as u32)
        };
        let views = images.iter().zip(&lens).enumerate().map(view).collect();
        (views, Buffer::from_vec(long))
    }

    /// The columns behind the keys of `rows`, whose long keys lie in `arena`.
    pub(super) fn decode(&self, rows: &[Row], arena: &[Buffer]) -> Result<Vec<ArrayRef>> {
        let arena = slices(arena);
        let mut images = vec![[0; 16]; rows.len()];
        let mut rest: Vec<&[u8]> = rows
            .iter()
            .zip(&mut images)
            .map(|(row, image)| view_bytes(row.key, &arena, image))
            .collect();
        self.0.iter().map(|kind| kind.decode(&mut rest)).collect()
    }
}

impl Kind {
    /// Takes a column's values off the front of each key.
    fn decode(&self, rest: &mut [&[u8]]) -> Result<ArrayRef> {
        match self {
            Kind::Fixed(data_type, width) => {
                let mut values = Vec::with_capacity(rest.len() * width);
                let mut valid = Vec::with_capacity(rest.len());
                for key in rest {
                    valid.push(key[0] != NULL);
                    values.extend_from_slice(&key[1..=*width]);
                    *key = &key[1 + width..];
                }
                fixed_array(data_type, values, NullBuffer::from(valid))
            }
            Kind::View(data_type) => {
                let mut values = BinaryViewBuilder::with_capacity(rest.len());
                for key in rest {
                    let (start, len) = match key[0] {
                        NULL => (1, 0),
                        LONG => (5, length(&key[1..5])),
                        len => (1, usize::from(len)),
                    };
                    match key[0] {
                        NULL => values.append_null(),
                        _ => values.append_value(&key[start..start + len]),
                    }
                    *key = &key[start + len..];
                }
                let values = values.finish();
                Ok(match data_type {
                    DataType::Utf8View => Arc::new(values.to_string_view()?),
                    _ => Arc::new(values),
                })
            }
        }
    }
}

/// Adds the values of a column to the images of the keys, as far as these are short.
fn add_column(
    images: &mut [u128],
    lens: &mut [u32],
    values: &Values<'_>,
    nulls: Option<&NullBuffer>,
) {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    match values {
        Values::View(views, _) => {
            add_values(images, lens, views.iter().copied(), nulls, 1, |view| {
                let len = view as u32;
                let is_short = len <= INLINE_BYTES as u32;
                let bytes = if is_short { view >> 32 << 8 } else { 0 };
                (bytes | u128::from(len as u8), 1 + len)
            });
        }
        Values::Fixed(bytes, width) => {
            let value = |value: &[u8]| {
                let mut image = [0; 16];
                image[..*width].copy_from_slice(value);
                u128::from_le_bytes(image)
            };
            let values = bytes.chunks_exact(*width).map(value);
            let len = 1 + *width as u32;
            add_values(images, lens, values, nulls, len, |value| (value << 8, len));
        }
    }
}

/// Adds what `piece` makes of each value, or for a null its mark and as many bytes as it takes.
#[inline(always)]
fn add_values(
    images: &mut [u128],
    lens: &mut [u32],
    values: impl Iterator<Item = u128>,
    nulls: Option<&NullBuffer>,
    null_len: u32,
    piece: impl Fn(u128) -> (u128, u32),
) {
    let rows = images.iter_mut().zip(lens).zip(values);
    let add = |image: &mut u128, len: &mut u32, (bytes, more): (u128, u32)| {
        // What is shifted out belongs to a key that is too long for its image.
        let shifted = bytes << (8 * (*len & 15));
        *image |= if *len < 16 { shifted } else { 0 };
        *len = len.saturating_add(more);
    };
    match nulls {
        None => rows.for_each(|((image, len), value)| add(image, len, piece(value))),
        Some(nulls) => {
            for (((image, len), value), valid) in rows.zip(nulls) {
                let null = (u128::from(NULL), null_len);
                add(image, len, if valid { piece(value) } else { null });
            }
        }
    }
}

/// The same for one value of a long key.
fn push_value(key: &mut Vec<u8>, values: &Values<'_>, row: usize, valid: bool) {
    match values {
        Values::View(..) if !valid => key.push(NULL),
        Values::View(views, buffers) => {
            let view = views[row];
            let image = view.to_le_bytes();
            let len = view as u32 as usize;
            let bytes = if len <= INLINE_BYTES {
                &image[4..4 + len]
            } else {
                outside_bytes(view, buffers)
            };
            if len < usize::from(LONG) {
                key.push(len as u8);
            } else {
                key.push(LONG);
                key.extend_from_slice(&(len as u32).to_le_bytes());
            }
            key.extend_from_slice(bytes);
        }
        Values::Fixed(_, width) if !valid => {
            key.push(NULL);
            key.resize(key.len() + width, 0);
        }
        Values::Fixed(bytes, width) => {
            key.push(0);
            key.extend_from_slice(&bytes[row * width..][..*width]);
        }
    }
}

fn length(bytes: &[u8]) -> usize {
    let bytes = bytes.try_into().expect("four bytes of length");
    u32::from_le_bytes(bytes) as usize
}

fn slices(buffers: &[Buffer]) -> Vec<&[u8]> {
    buffers.iter().map(Buffer::as_slice).collect()
}
