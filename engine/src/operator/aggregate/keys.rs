//! Keys as sixteen bytes, and back.
//!
//! A single string key is its own view. Keys of fixed width that fit are packed: the values, then a
//! bit for each that may be null. Strings together with others become one string ([`Mixed`]), and
//! everything else bytes in arrow's row format. Which way is taken depends on the columns' types
//! and on whether they may be null, so lanes agree.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, make_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};

use crate::error::Result;
use crate::kernel::hash::{INLINE_BYTES, NULL_HASH, canonical_bits, hash_inline, hash_view};
use crate::kernel::view::{binary_array, make_view, string_array, view_bytes};
use crate::operator::aggregate::mixed::Mixed;
use crate::operator::aggregate::table::{NULL_KEY, Row};

/// How the keys of one aggregation become views.
pub(super) enum KeyCodec {
    /// There are no keys: all rows are one group.
    None,
    /// One column of strings or bytes.
    View(DataType),
    /// Columns of fixed width.
    Packed(Vec<PackedColumn>),
    /// Columns of fixed width, and strings or bytes.
    Mixed(Mixed),
    /// Anything.
    Rows(RowConverter),
}

/// A column of packed keys.
pub(super) struct PackedColumn {
    data_type: DataType,
    /// Bytes of a value.
    width: usize,
    /// Where a value starts, in bits.
    shift: usize,
    /// The bit that says that it is null, if it may be.
    null_bit: Option<usize>,
}

/// The keys of a batch.
pub(super) struct EncodedKeys<'a> {
    pub(super) views: Cow<'a, [u128]>,
    buffers: Cow<'a, [Buffer]>,
    /// The views are the keys: sixteen bytes without a length among them.
    packed: bool,
    level: u32,
}

impl EncodedKeys<'_> {
    /// What views of long keys refer to.
    pub(super) fn buffers(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Buffer::as_slice).collect()
    }

    /// The hashes of some of the views.
    pub(super) fn hashes(&self, views: &[u128]) -> Vec<u64> {
        let mut hashes: Vec<u64> = if self.packed {
            views.iter().map(|view| hash_inline(*view)).collect()
        } else {
            let buffers = self.buffers();
            let hash = |view: &u128| match *view {
                NULL_KEY => NULL_HASH,
                view => hash_view(view, &buffers),
            };
            views.iter().map(hash).collect()
        };
        if self.level > 0 {
            hashes
                .iter_mut()
                .for_each(|hash| *hash = remix(*hash, self.level));
        }
        hashes
    }

    /// Bytes in long keys.
    pub(super) fn long_bytes(&self) -> usize {
        if self.packed || self.buffers.is_empty() {
            return 0;
        }
        let lens = self.views.iter().map(|view| *view as u32 as usize);
        lens.filter(|len| *len > INLINE_BYTES && *len != NULL_KEY as usize)
            .sum()
    }
}

/// Another hash for each level, so that keys which fell into one part are spread over all parts
/// of the next.
fn remix(hash: u64, level: u32) -> u64 {
    let salted = hash ^ u64::from(level).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = u128::from(salted) * 0xd6e8_feb8_6659_fd93_u128;
    product as u64 ^ (product >> 64) as u64
}

impl KeyCodec {
    pub(super) fn new(fields: &[Field]) -> Result<Self> {
        let types: Vec<&DataType> = fields.iter().map(Field::data_type).collect();
        if types.is_empty() {
            return Ok(KeyCodec::None);
        }
        if let [DataType::Utf8View | DataType::BinaryView] = types[..] {
            return Ok(KeyCodec::View(types[0].clone()));
        }
        if let Some(columns) = packed_columns(fields) {
            return Ok(KeyCodec::Packed(columns));
        }
        if let Some(mixed) = Mixed::new(&types) {
            return Ok(KeyCodec::Mixed(mixed));
        }
        let fields = types
            .into_iter()
            .map(|key| SortField::new(key.clone()))
            .collect();
        Ok(KeyCodec::Rows(RowConverter::new(fields)?))
    }

    /// Whether the views are the keys: sixteen bytes without a length among them.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self, KeyCodec::None | KeyCodec::Packed(_))
    }

    /// The keys of `rows` rows, whose hashes are those of `level`.
    pub(super) fn encode<'a>(
        &self,
        columns: &'a [ArrayRef],
        rows: usize,
        level: u32,
    ) -> Result<EncodedKeys<'a>> {
        let (views, buffers) = match self {
            KeyCodec::None => (Cow::Owned(vec![0; rows.min(1)]), Cow::Borrowed(&[][..])),
            KeyCodec::View(data_type) => encode_views(data_type, &columns[0]),
            KeyCodec::Packed(types) => {
                let views = pack(types, columns, rows);
                (Cow::Owned(views), Cow::Borrowed(&[][..]))
            }
            KeyCodec::Mixed(mixed) => {
                let (views, long) = mixed.encode(columns, rows);
                (Cow::Owned(views), Cow::Owned(vec![long]))
            }
            KeyCodec::Rows(converter) => {
                let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
                let bytes = converter.convert_columns(&columns)?.try_into_binary()?;
                let views = binary_views(&bytes);
                (Cow::Owned(views), Cow::Owned(vec![bytes.values().clone()]))
            }
        };
        Ok(EncodedKeys {
            views,
            buffers,
            packed: self.is_packed(),
            level,
        })
    }

    /// The columns behind the keys of `rows`, whose long keys lie in `arena`.
    pub(super) fn decode(&self, rows: &[Row], arena: &[Buffer]) -> Result<Vec<ArrayRef>> {
        match self {
            KeyCodec::None => Ok(Vec::new()),
            KeyCodec::View(data_type) => Ok(vec![decode_views(data_type, rows, arena)]),
            KeyCodec::Packed(types) => unpack(types, rows),
            KeyCodec::Mixed(mixed) => mixed.decode(rows, arena),
            KeyCodec::Rows(converter) => {
                let parser = converter.parser();
                let slices: Vec<&[u8]> = arena.iter().map(Buffer::as_slice).collect();
                let mut images = vec![[0; 16]; rows.len()];
                let bytes = rows.iter().zip(&mut images);
                let parsed = bytes.map(|(row, image)| {
                    // The parser wants slices that live as long as the images do.
                    parser.parse(view_bytes(row.key, &slices, image))
                });
                Ok(converter.convert_rows(parsed)?)
            }
        }
    }
}

fn encode_views<'a>(
    data_type: &DataType,
    column: &'a ArrayRef,
) -> (Cow<'a, [u128]>, Cow<'a, [Buffer]>) {
    let (views, buffers) = if *data_type == DataType::Utf8View {
        let array = column.as_string_view();
        (array.views(), array.data_buffers())
    } else {
        let array = column.as_binary_view();
        (array.views(), array.data_buffers())
    };
    let mut views: Cow<'a, [u128]> = Cow::Borrowed(views);
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
        for (view, valid) in views.to_mut().iter_mut().zip(nulls) {
            if !valid {
                *view = NULL_KEY;
            }
        }
    }
    (views, Cow::Borrowed(buffers))
}

/// The array shares the chunks of the arena that its keys lie in. Keys are stored in order of
/// arrival, so a run of rows needs hardly more of the arena than its own keys take.
fn decode_views(data_type: &DataType, rows: &[Row], arena: &[Buffer]) -> ArrayRef {
    let is_long = |key: u128| key as u32 > INLINE_BYTES as u32 && key != NULL_KEY;
    let long = || {
        rows.iter()
            .filter(|row| is_long(row.key))
            .map(|row| (row.key >> 64) as u32)
    };
    let (first, last) = (long().min().unwrap_or(0), long().max());
    let buffers = last.map_or(Vec::new(), |last| {
        arena[first as usize..=last as usize].to_vec()
    });
    let rebase = u128::from(first) << 64;
    let view = |row: &Row| match row.key {
        NULL_KEY => 0,
        key if is_long(key) => key - rebase,
        key => key,
    };
    let views: Vec<u128> = rows.iter().map(view).collect();
    let has_null = rows.iter().any(|row| row.key == NULL_KEY);
    let nulls = has_null.then(|| rows.iter().map(|row| row.key != NULL_KEY).collect());
    match data_type {
        DataType::Utf8View => Arc::new(string_array(views, buffers, nulls)),
        _ => Arc::new(binary_array(views, buffers, nulls)),
    }
}

fn binary_views(bytes: &BinaryArray) -> Vec<u128> {
    let offsets = bytes.value_offsets();
    (0..bytes.len())
        .map(|row| make_view(bytes.value(row), 0, offsets[row] as u32))
        .collect()
}

/// Bytes of a value of fixed width; none for other types.
pub(super) fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        other => other.primitive_width().filter(|width| *width <= 16),
    }
}

/// How keys of `fields` are packed; none if they do not fit.
fn packed_columns(fields: &[Field]) -> Option<Vec<PackedColumn>> {
    let mut bits = 0;
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let width = fixed_width(field.data_type())?;
        columns.push(PackedColumn {
            data_type: field.data_type().clone(),
            width,
            shift: bits,
            null_bit: None,
        });
        bits += 8 * width;
    }
    for (column, _) in columns
        .iter_mut()
        .zip(fields)
        .filter(|(_, f)| f.is_nullable())
    {
        column.null_bit = Some(bits);
        bits += 1;
    }
    (bits <= 128).then_some(columns)
}

fn pack(types: &[PackedColumn], columns: &[ArrayRef], rows: usize) -> Vec<u128> {
    let mut views = vec![0; rows];
    for (packed, column) in types.iter().zip(columns) {
        let column = canonical(column);
        let values = raw_values(&column);
        let PackedColumn { width, shift, .. } = *packed;
        match width {
            1 => pack_column::<1>(&mut views, &values, shift),
            2 => pack_column::<2>(&mut views, &values, shift),
            4 => pack_column::<4>(&mut views, &values, shift),
            8 => pack_column::<8>(&mut views, &values, shift),
            _ => pack_column::<16>(&mut views, &values, shift),
        }
        let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
        if let (Some(nulls), Some(bit)) = (nulls, packed.null_bit) {
            let value_mask = !(u128::MAX >> (128 - 8 * width) << shift);
            for (view, valid) in views.iter_mut().zip(nulls) {
                if !valid {
                    *view = (*view & value_mask) | 1 << bit;
                }
            }
        }
    }
    views
}

fn pack_column<const WIDTH: usize>(views: &mut [u128], values: &[u8], shift: usize) {
    for (view, value) in views.iter_mut().zip(values.as_chunks::<WIDTH>().0) {
        let mut bytes = [0; 16];
        bytes[..WIDTH].copy_from_slice(value);
        *view |= u128::from_le_bytes(bytes) << shift;
    }
}

/// The values of a column of fixed width, one after the other.
pub(super) fn raw_values(column: &ArrayRef) -> Buffer {
    if let Some(booleans) = column.as_boolean_opt() {
        return booleans.values().iter().map(u8::from).collect();
    }
    let data = column.to_data();
    let width = column.data_type().primitive_width().unwrap_or(1);
    data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width)
}

fn unpack(types: &[PackedColumn], rows: &[Row]) -> Result<Vec<ArrayRef>> {
    let column = |column: &PackedColumn| {
        let mut values = Vec::with_capacity(rows.len() * column.width);
        for row in rows {
            let bytes = (row.key >> column.shift).to_le_bytes();
            values.extend_from_slice(&bytes[..column.width]);
        }
        let is_null = |row: &Row| column.null_bit.is_some_and(|bit| row.key >> bit & 1 == 1);
        let valid: NullBuffer = rows.iter().map(|row| !is_null(row)).collect();
        fixed_array(&column.data_type, values, valid)
    };
    types.iter().map(column).collect()
}

/// The column of a type of fixed width, of values one after the other.
pub(super) fn fixed_array(
    data_type: &DataType,
    values: Vec<u8>,
    valid: NullBuffer,
) -> Result<ArrayRef> {
    let rows = valid.len();
    let nulls = (valid.null_count() > 0).then_some(valid);
    if *data_type == DataType::Boolean {
        let values = values.iter().map(|value| *value == 1).collect();
        return Ok(Arc::new(BooleanArray::new(values, nulls)));
    }
    let data = arrow::array::ArrayData::builder(data_type.clone())
        .len(rows)
        .add_buffer(Buffer::from_slice_ref(&values))
        .nulls(nulls)
        .build()?;
    Ok(make_array(data))
}

/// The column with one zero and one NaN, so that equal numbers have equal bytes.
pub(super) fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            let array: Float32Array = column.as_primitive::<Float32Type>().unary(|value| {
                if value == 0.0 {
                    0.0
                } else if value.is_nan() {
                    f32::NAN
                } else {
                    value
                }
            });
            Arc::new(array)
        }
        DataType::Float64 => {
            let array: Float64Array = column
                .as_primitive::<Float64Type>()
                .unary(|value| f64::from_bits(canonical_bits(value)));
            Arc::new(array)
        }
        _ => Arc::clone(column),
    }
}
