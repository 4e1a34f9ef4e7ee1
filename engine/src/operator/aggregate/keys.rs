//! Keys as sixteen bytes, and back.
//!
//! A single string key is its own view. Keys of fixed width that fit are packed: a byte with a bit
//! for each null, then the values. Everything else becomes bytes in arrow's row format. Which way
//! is taken depends on the types only, so lanes agree.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, Float32Array,
    Float64Array, make_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};

use crate::error::Result;
use crate::kernel::hash::{INLINE_BYTES, NULL_HASH, canonical_bits, hash_columns, hash_view};
use crate::kernel::view::{binary_array, make_view, string_array, view_bytes};
use crate::operator::aggregate::table::{NULL_KEY, Row};

/// How the keys of one aggregation become views.
pub(super) enum KeyCodec {
    /// There are no keys: all rows are one group.
    None,
    /// One column of strings or bytes.
    View(DataType),
    /// Columns of these types and widths.
    Packed(Vec<(DataType, usize)>),
    /// Anything.
    Rows(RowConverter),
}

/// The keys of a batch.
pub(super) struct EncodedKeys<'a> {
    pub(super) views: Cow<'a, [u128]>,
    pub(super) hashes: Vec<u64>,
    buffers: Cow<'a, [Buffer]>,
}

impl EncodedKeys<'_> {
    /// What views of long keys refer to.
    pub(super) fn buffers(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Buffer::as_slice).collect()
    }

    /// Bytes in long keys.
    pub(super) fn long_bytes(&self) -> usize {
        let lens = self.views.iter().map(|view| *view as u32 as usize);
        lens.filter(|len| *len > INLINE_BYTES && *len != NULL_KEY as usize)
            .sum()
    }
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
        let packed: Option<Vec<(DataType, usize)>> = types
            .iter()
            .map(|&key| Some((key.clone(), packed_width(key)?)))
            .collect();
        if let Some(columns) = packed.filter(|columns| {
            let bytes: usize = columns.iter().map(|(_, width)| width).sum();
            columns.len() <= 8 && bytes < INLINE_BYTES
        }) {
            return Ok(KeyCodec::Packed(columns));
        }
        let fields = types
            .into_iter()
            .map(|key| SortField::new(key.clone()))
            .collect();
        Ok(KeyCodec::Rows(RowConverter::new(fields)?))
    }

    /// The keys of `rows` rows.
    pub(super) fn encode<'a>(
        &self,
        columns: &'a [ArrayRef],
        rows: usize,
    ) -> Result<EncodedKeys<'a>> {
        let (views, buffers) = match self {
            KeyCodec::None => (Cow::Owned(vec![0; rows.min(1)]), Cow::Borrowed(&[][..])),
            KeyCodec::View(data_type) => return encode_views(data_type, &columns[0]),
            KeyCodec::Packed(types) => (
                Cow::Owned(pack(types, columns, rows)),
                Cow::Borrowed(&[][..]),
            ),
            KeyCodec::Rows(converter) => {
                let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
                let bytes = converter.convert_columns(&columns)?.try_into_binary()?;
                (
                    Cow::Owned(binary_views(&bytes)),
                    Cow::Owned(vec![bytes.values().clone()]),
                )
            }
        };
        let mut keys = EncodedKeys {
            views,
            hashes: Vec::new(),
            buffers,
        };
        let slices = keys.buffers();
        let hashes = keys
            .views
            .iter()
            .map(|view| hash_view(*view, &slices))
            .collect();
        keys.hashes = hashes;
        Ok(keys)
    }

    /// The columns behind the keys of `rows`, whose long keys lie in `arena`.
    pub(super) fn decode(&self, rows: &[Row], arena: &[Buffer]) -> Result<Vec<ArrayRef>> {
        match self {
            KeyCodec::None => Ok(Vec::new()),
            KeyCodec::View(data_type) => Ok(vec![decode_views(data_type, rows, arena)]),
            KeyCodec::Packed(types) => unpack(types, rows),
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

fn encode_views<'a>(data_type: &DataType, column: &'a ArrayRef) -> Result<EncodedKeys<'a>> {
    let (views, buffers) = if *data_type == DataType::Utf8View {
        let array = column.as_string_view();
        (array.views(), array.data_buffers())
    } else {
        let array = column.as_binary_view();
        (array.views(), array.data_buffers())
    };
    let mut hashes = Vec::new();
    hash_columns(std::slice::from_ref(column), &mut hashes)?;
    let mut views: Cow<'a, [u128]> = Cow::Borrowed(views);
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
        for (view, valid) in views.to_mut().iter_mut().zip(nulls) {
            if !valid {
                *view = NULL_KEY;
            }
        }
    }
    debug_assert!(
        views
            .iter()
            .zip(&hashes)
            .all(|(view, hash)| *view != NULL_KEY || *hash == NULL_HASH),
        "a null hashes as one"
    );
    Ok(EncodedKeys {
        views,
        hashes,
        buffers: Cow::Borrowed(buffers),
    })
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
    let mut nulls = None;
    let views: Vec<u128> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| match row.key {
            NULL_KEY => {
                nulls = Some(index);
                0
            }
            key if is_long(key) => key - rebase,
            key => key,
        })
        .collect();
    let nulls = nulls.map(|null| (0..rows.len()).map(|index| index != null).collect());
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

/// Bytes of a packed value; none for types that are not packed.
fn packed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        other => other.primitive_width().filter(|width| *width <= 8),
    }
}

fn pack(types: &[(DataType, usize)], columns: &[ArrayRef], rows: usize) -> Vec<u128> {
    let width: usize = 1 + types.iter().map(|(_, width)| width).sum::<usize>();
    let mut views = vec![width as u128; rows];
    let mut shift = 32 + 8;
    for (index, ((_, width), column)) in types.iter().zip(columns).enumerate() {
        let column = canonical(column);
        let values = raw_values(&column);
        match width {
            1 => pack_column::<1>(&mut views, &values, shift),
            2 => pack_column::<2>(&mut views, &values, shift),
            4 => pack_column::<4>(&mut views, &values, shift),
            _ => pack_column::<8>(&mut views, &values, shift),
        }
        if let Some(nulls) = column.nulls() {
            let value_mask = !(((1u128 << (8 * width)) - 1) << shift);
            for (view, valid) in views.iter_mut().zip(nulls) {
                if !valid {
                    *view = (*view & value_mask) | 1 << (32 + index);
                }
            }
        }
        shift += 8 * width;
    }
    views
}

fn pack_column<const WIDTH: usize>(views: &mut [u128], values: &[u8], shift: usize) {
    for (view, value) in views.iter_mut().zip(values.as_chunks::<WIDTH>().0) {
        let mut bytes = [0; 8];
        bytes[..WIDTH].copy_from_slice(value);
        *view |= u128::from(u64::from_le_bytes(bytes)) << shift;
    }
}

/// The values of a column of fixed width, one after the other.
fn raw_values(column: &ArrayRef) -> Vec<u8> {
    if let Some(booleans) = column.as_boolean_opt() {
        return booleans.values().iter().map(u8::from).collect();
    }
    let data = column.to_data();
    let width = column.data_type().primitive_width().unwrap_or(1);
    data.buffers()[0].as_slice()[data.offset() * width..][..data.len() * width].to_vec()
}

fn unpack(types: &[(DataType, usize)], rows: &[Row]) -> Result<Vec<ArrayRef>> {
    let mut shift = 32 + 8;
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(types.len());
    for (index, (data_type, width)) in types.iter().enumerate() {
        let valid: NullBuffer = rows
            .iter()
            .map(|row| row.key >> (32 + index) & 1 == 0)
            .collect();
        let nulls = (valid.null_count() > 0).then_some(valid);
        if *data_type == DataType::Boolean {
            let mut values = BooleanBufferBuilder::new(rows.len());
            rows.iter()
                .for_each(|row| values.append(row.key >> shift & 1 == 1));
            columns.push(Arc::new(BooleanArray::new(values.finish(), nulls)));
        } else {
            let mut values = Vec::with_capacity(rows.len() * width);
            for row in rows {
                let bytes = ((row.key >> shift) as u64).to_le_bytes();
                values.extend_from_slice(&bytes[..*width]);
            }
            let data = arrow::array::ArrayData::builder(data_type.clone())
                .len(rows.len())
                .add_buffer(Buffer::from_slice_ref(&values))
                .nulls(nulls)
                .build()?;
            columns.push(make_array(data));
        }
        shift += 8 * width;
    }
    Ok(columns)
}

/// The column with one zero and one NaN, so that equal numbers have equal bytes.
fn canonical(column: &ArrayRef) -> ArrayRef {
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
