//! The row hash: which partition of a shuffle a row belongs to, and where its group is found.
//!
//! It is frozen. A retried task on another machine and of another version has to spread rows
//! exactly as the first attempt did, so equal values hash equal whatever the process, the byte
//! order of the machine, the string layout (`Utf8`, `LargeUtf8`, `Utf8View`) or the width of an
//! integer. There is no random seed. A test pins values; changing one is a change of format.
//!
//! Users take different bits: a shuffle partitions by the top of the upper half
//! (`((hash >> 32) * partitions) >> 32`), the grouping table by the low bits of the upper half and
//! the lower half. Both stay evenly spread when the other has already been applied.
//!
//! The mixing step is the folded 64×64→128 bit product (as in wyhash, public domain).

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::error::{Error, Result};

/// Longest value that a view holds in itself.
pub const INLINE_BYTES: usize = 12;

// Odd constants with balanced bits: the fractional digits of well-known irrationals.
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd1b5_4a32_d192_ed03;
const K2: u64 = 0xa076_1d64_78bd_642f;
const K3: u64 = 0xe703_7ed1_a0b4_28db;

/// What a null hashes to, whatever its type.
const NULL: u64 = 0x8ebc_6af0_9c88_c6e3;

/// Hashes every row over all `columns`, which are of one length. `hashes` is overwritten; without
/// columns it ends up empty.
///
/// # Errors
/// `Invalid` for a type that has no hash (nested types).
pub fn hash_columns(columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()> {
    hashes.clear();
    let Some(first) = columns.first() else {
        return Ok(());
    };
    hashes.resize(first.len(), 0);
    for (index, column) in columns.iter().enumerate() {
        assert_eq!(
            column.len(),
            hashes.len(),
            "columns of one batch have one length"
        );
        if index == 0 {
            hash_column(column, hashes, |_, value| value)?;
        } else {
            hash_column(column, hashes, combine)?;
        }
    }
    Ok(())
}

/// The hash of a string or of bytes.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    if bytes.len() > INLINE_BYTES {
        return hash_long(bytes);
    }
    let mut image = [0u8; 16];
    image[0] = bytes.len() as u8;
    image[4..4 + bytes.len()].copy_from_slice(bytes);
    hash_inline(u128::from_le_bytes(image))
}

/// The hash of a value of at most [`INLINE_BYTES`], given as its view: length in the low 32 bits,
/// then the bytes, then zeros.
#[inline]
pub fn hash_inline(view: u128) -> u64 {
    finish(fold(view as u64 ^ K0, (view >> 64) as u64 ^ K1))
}

/// The hash of the value behind any view: `buffers` are those of its array.
#[inline]
pub fn hash_view(view: u128, buffers: &[&[u8]]) -> u64 {
    let len = view as u32 as usize;
    if len <= INLINE_BYTES {
        return hash_inline(view);
    }
    let (buffer, start) = ((view >> 64) as u32 as usize, (view >> 96) as usize);
    hash_long(&buffers[buffer][start..start + len])
}

/// More than [`INLINE_BYTES`] bytes.
#[inline]
fn hash_long(bytes: &[u8]) -> u64 {
    let word = |at: usize| {
        u64::from_le_bytes(
            bytes[at..at + 8]
                .try_into()
                .expect("the slice has eight bytes"),
        )
    };
    let len = bytes.len();
    let mut hash = K2 ^ len as u64;
    let mut at = 0;
    while at + 16 < len {
        hash = fold(hash ^ word(at), word(at + 8) ^ K3);
        at += 16;
    }
    // The last sixteen bytes; where there are fewer, two words that overlap.
    finish(fold(
        hash ^ word(len.saturating_sub(16)),
        word(len - 8) ^ K1,
    ))
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn finish(hash: u64) -> u64 {
    fold(hash ^ K2, K0)
}

#[inline]
fn combine(row: u64, value: u64) -> u64 {
    fold(row.rotate_left(29) ^ K1, value ^ K3)
}

#[inline]
fn hash_integer(value: i64) -> u64 {
    finish(fold(value as u64 ^ K3, K1))
}

#[inline]
fn hash_wide(value: i128) -> u64 {
    finish(fold(value as u64 ^ K0, (value >> 64) as u64 ^ K3))
}

/// Equal numbers have equal bits here: one zero, one NaN.
#[inline]
fn hash_float(value: f64) -> u64 {
    hash_integer(canonical_bits(value) as i64)
}

/// The bits of a float where all zeros are one and all NaNs are one.
#[inline]
pub(crate) fn canonical_bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

fn hash_column(
    column: &ArrayRef,
    hashes: &mut [u64],
    mix: impl Fn(u64, u64) -> u64 + Copy,
) -> Result<()> {
    macro_rules! integers {
        ($type:ty) => {{
            let array = column.as_primitive::<$type>();
            primitive(array, hashes, mix, |value| hash_integer(i64::from(value)))
        }};
    }
    macro_rules! decimals {
        ($type:ty) => {{
            let array = column.as_primitive::<$type>();
            primitive(array, hashes, mix, |value| hash_wide(i128::from(value)))
        }};
    }
    macro_rules! bytes {
        ($array:expr) => {{
            let array = $array;
            each(column, hashes, mix, |row| {
                hash_bytes(array.value(row).as_ref())
            })
        }};
    }
    match column.data_type() {
        DataType::Null => each(column, hashes, mix, |_| NULL),
        DataType::Boolean => {
            let array = column.as_boolean();
            each(column, hashes, mix, |row| {
                hash_integer(i64::from(array.value(row)))
            });
        }
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => {
            let array = column.as_primitive::<UInt64Type>();
            primitive(array, hashes, mix, |value| hash_integer(value as i64));
        }
        DataType::Float32 => {
            let array = column.as_primitive::<Float32Type>();
            primitive(array, hashes, mix, |value| hash_float(f64::from(value)));
        }
        DataType::Float64 => {
            primitive(
                column.as_primitive::<Float64Type>(),
                hashes,
                mix,
                hash_float,
            );
        }
        DataType::Date32 => integers!(Date32Type),
        DataType::Date64 => integers!(Date64Type),
        DataType::Time32(TimeUnit::Second) => integers!(Time32SecondType),
        DataType::Time32(_) => integers!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => integers!(Time64MicrosecondType),
        DataType::Time64(_) => integers!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => integers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => integers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => integers!(TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => integers!(DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => integers!(DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => integers!(DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => integers!(DurationNanosecondType),
        DataType::Decimal32(..) => decimals!(Decimal32Type),
        DataType::Decimal64(..) => decimals!(Decimal64Type),
        DataType::Decimal128(..) => decimals!(Decimal128Type),
        DataType::Utf8 => bytes!(column.as_string::<i32>()),
        DataType::LargeUtf8 => bytes!(column.as_string::<i64>()),
        DataType::Utf8View => {
            let array = column.as_string_view();
            views(column, array.views(), array.data_buffers(), hashes, mix);
        }
        DataType::Binary => bytes!(column.as_binary::<i32>()),
        DataType::LargeBinary => bytes!(column.as_binary::<i64>()),
        DataType::BinaryView => {
            let array = column.as_binary_view();
            views(column, array.views(), array.data_buffers(), hashes, mix);
        }
        DataType::FixedSizeBinary(_) => bytes!(column.as_fixed_size_binary()),
        other => {
            return Err(Error::invalid(format!(
                "rows cannot be hashed by type={other}"
            )));
        }
    }
    Ok(())
}

fn primitive<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    hashes: &mut [u64],
    mix: impl Fn(u64, u64) -> u64,
    hash: impl Fn(T::Native) -> u64,
) {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => {
            for (row, value) in hashes.iter_mut().zip(array.values()) {
                *row = mix(*row, hash(*value));
            }
        }
        Some(nulls) => {
            for ((row, value), valid) in hashes.iter_mut().zip(array.values()).zip(nulls) {
                *row = mix(*row, if valid { hash(*value) } else { NULL });
            }
        }
    }
}

fn views(
    array: &ArrayRef,
    views: &[u128],
    buffers: &[arrow::buffer::Buffer],
    hashes: &mut [u64],
    mix: impl Fn(u64, u64) -> u64,
) {
    let buffers: Vec<&[u8]> = buffers.iter().map(|buffer| buffer.as_slice()).collect();
    each(array, hashes, mix, |row| hash_view(views[row], &buffers));
}

fn each(
    array: &ArrayRef,
    hashes: &mut [u64],
    mix: impl Fn(u64, u64) -> u64,
    hash: impl Fn(usize) -> u64,
) {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    for (row, out) in hashes.iter_mut().enumerate() {
        let valid = nulls.is_none_or(|nulls| nulls.is_valid(row));
        *out = mix(*out, if valid { hash(row) } else { NULL });
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal64Array, Decimal128Array,
        Float32Array, Float64Array, Int8Array, Int64Array, LargeStringArray, NullArray,
        StringArray, StringViewArray, TimestampMicrosecondArray, UInt64Array,
    };
    use expect_test::expect;

    use super::*;

    fn hash_of(columns: &[ArrayRef]) -> Vec<u64> {
        let mut hashes = vec![7; 3];
        hash_columns(columns, &mut hashes).expect("these types have a hash");
        hashes
    }

    #[test]
    fn values_are_frozen() {
        let text = vec![
            Some(""),
            Some("a"),
            Some("twelve bytes"),
            Some("thirteen byte"),
            Some("sixteen bytes ok"),
            Some("seventeen bytes k"),
            Some("a string of more than thirty-two bytes, ä"),
            None,
        ];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("string", Arc::new(StringArray::from(text))),
            (
                "int",
                Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), None])),
            ),
            ("uint", Arc::new(UInt64Array::from(vec![u64::MAX]))),
            (
                "float",
                Arc::new(Float64Array::from(vec![0.0, 1.5, f64::INFINITY, f64::NAN])),
            ),
            ("boolean", Arc::new(BooleanArray::from(vec![false, true]))),
            ("date", Arc::new(Date32Array::from(vec![19_000]))),
            (
                "timestamp",
                Arc::new(TimestampMicrosecondArray::from(vec![1 << 50])),
            ),
            (
                "decimal",
                Arc::new(Decimal128Array::from(vec![1, -1, 1 << 100])),
            ),
            ("null", Arc::new(NullArray::new(1))),
        ];
        let mut lines = String::new();
        for (name, column) in &columns {
            let hashes = hash_of(std::slice::from_ref(column));
            writeln!(lines, "{name} {hashes:016x?}").expect("writing to a string");
        }
        let pair: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(StringArray::from(vec!["a"])),
        ];
        writeln!(lines, "pair {:016x?}", hash_of(&pair)).expect("writing to a string");
        expect![[r#"
            string [0c0b867badd2faae, 788f389162e91a11, 143f6b7161957129, 3bb62d46bfe4adca, c524ec05e2a9989e, 2b600e88aac5f292, 66d35e24cae65784, 8ebc6af09c88c6e3]
            int [276b3e1bed0c0011, 4829dd5221fc2259, ffbceb262e336a8d, 8ebc6af09c88c6e3]
            uint [ffbceb262e336a8d]
            float [276b3e1bed0c0011, 8b9ffdf8d8dd544a, ec65a9cef89e397b, ef1f183dd760a554]
            boolean [276b3e1bed0c0011, 4829dd5221fc2259]
            date [73c418825b4276db]
            timestamp [9bf84b0b75718176]
            decimal [eb8cc8fa744c9f1c, 84f348b93c3e9a26, 638389d4d6f0b17f]
            null [8ebc6af09c88c6e3]
            pair [cf93d9d0a9edb83e]
        "#]].assert_eq(&lines);
    }

    #[test]
    fn layouts_and_widths_of_equal_values_hash_equal() {
        let text = vec![
            Some("short"),
            None,
            Some("longer than twelve bytes"),
            Some(""),
        ];
        let bytes: Vec<Option<&[u8]>> = text.iter().map(|v| v.map(str::as_bytes)).collect();
        let expected = hash_of(&[Arc::new(StringArray::from(text.clone()))]);
        let same: Vec<ArrayRef> = vec![
            Arc::new(LargeStringArray::from(text.clone())),
            Arc::new(StringViewArray::from(text)),
            Arc::new(BinaryArray::from(bytes.clone())),
            Arc::new(BinaryViewArray::from(bytes)),
        ];
        for array in same {
            assert_eq!(
                hash_of(std::slice::from_ref(&array)),
                expected,
                "{}",
                array.data_type()
            );
        }
        assert_eq!(
            hash_of(&[Arc::new(Int8Array::from(vec![Some(-3), None]))]),
            hash_of(&[Arc::new(Int64Array::from(vec![Some(-3), None]))]),
        );
        assert_eq!(
            hash_of(&[Arc::new(Decimal64Array::from(vec![-3]))]),
            hash_of(&[Arc::new(Decimal128Array::from(vec![-3]))]),
        );
        assert_eq!(
            hash_of(&[Arc::new(Float32Array::from(vec![-0.0, f32::NAN, 0.5]))]),
            hash_of(&[Arc::new(Float64Array::from(vec![0.0, -f64::NAN, 0.5]))]),
        );
    }

    #[test]
    fn slices_hash_as_their_rows_do() {
        let array: ArrayRef = Arc::new(StringViewArray::from(vec![
            Some("first"),
            None,
            Some("third, which is longer"),
        ]));
        assert_eq!(hash_of(&[array.slice(1, 2)]), hash_of(&[array])[1..]);
    }

    #[test]
    fn bits_are_spread_evenly_for_every_user() {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..64_000));
        let pairs: [ArrayRef; 2] = [Arc::new(Int64Array::from(vec![5; 64_000])), keys.clone()];
        for hashes in [hash_of(&[keys]), hash_of(&pairs)] {
            for shift in [0, 26, 32, 58] {
                let mut buckets = [0u32; 64];
                for hash in &hashes {
                    buckets[(hash >> shift) as usize % 64] += 1;
                }
                let (low, high) = (buckets.iter().min(), buckets.iter().max());
                assert!(
                    low > Some(&850) && high < Some(&1150),
                    "{shift} {low:?} {high:?}"
                );
            }
        }
    }

    #[test]
    fn nested_types_are_refused() {
        let list = arrow::array::new_empty_array(&DataType::new_list(DataType::Int64, true));
        let error = hash_columns(&[list], &mut Vec::new()).expect_err("lists have no hash");
        assert!(
            error
                .message()
                .starts_with("rows cannot be hashed by type="),
            "{error}"
        );
    }
}
