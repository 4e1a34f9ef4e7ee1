//! Keys as numbers of 64 bits.
//!
//! Most keys are whole numbers, dates or small decimals, alone or in pairs. Such keys become one
//! *code*: every key is a digit whose base is the range that the build rows have, and a probe row
//! outside of a range has no match. Equal keys have equal codes and different keys different
//! ones, so nothing else is ever compared. Where the ranges are too wide, or a key is a string, the
//! code is a hash, and rows of equal codes are compared afterwards.

use std::sync::Arc;

use arrow::array::types::Decimal128Type;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::DataType;

use crate::error::Result;
use crate::kernel::hash::{INLINE_BYTES, hash_columns};
use crate::kernel::number::{Range, is_number, numbers};

/// The code of a key that no build row has: null, or outside of a range.
pub(super) const MISS: u64 = u64::MAX;

/// How keys become codes.
#[derive(Debug)]
pub(super) enum Encoder {
    /// Every key is a digit.
    Exact(Vec<Digit>),
    /// By hash: equal codes still have to be compared.
    Hashed,
}

/// The range of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digit {
    least: i64,
    /// The greatest less the least.
    span: u64,
    weight: u64,
}

impl Encoder {
    /// For keys of these ranges (none for a key that is never a number); none of a range: there
    /// are no keys. The second value is how many codes there may be.
    pub(super) fn new(ranges: Option<Vec<Range>>) -> (Self, u64) {
        let Some(ranges) = ranges else {
            return (Encoder::Hashed, MISS);
        };
        let mut digits = Vec::with_capacity(ranges.len());
        let mut codes: u128 = 1;
        for range in ranges {
            let (least, greatest) = range.unwrap_or((0, 0));
            let span = greatest.wrapping_sub(least) as u64;
            let weight = codes as u64;
            digits.push(Digit {
                least,
                span,
                weight,
            });
            codes *= u128::from(span) + 1;
            if codes >= u128::from(MISS) {
                return (Encoder::Hashed, MISS);
            }
        }
        (Encoder::Exact(digits), codes as u64)
    }

    pub(super) fn is_exact(&self) -> bool {
        matches!(self, Encoder::Exact(_))
    }

    /// Overwrites `codes` with those of the rows of `keys`.
    pub(super) fn encode(&self, keys: &[ArrayRef], codes: &mut Vec<u64>) -> Result<()> {
        match self {
            Encoder::Hashed => {
                hash_columns(keys, codes)?;
                for code in codes.iter_mut() {
                    *code = (*code).min(MISS - 1);
                }
            }
            Encoder::Exact(digits) => {
                codes.clear();
                for (place, (digit, key)) in digits.iter().zip(keys).enumerate() {
                    let numbers = numbers(key)?;
                    if place == 0 {
                        codes.extend(numbers.iter().map(|number| digit.first(*number)));
                        continue;
                    }
                    for (code, number) in codes.iter_mut().zip(numbers.iter()) {
                        *code = digit.add(*code, *number);
                    }
                }
            }
        }
        for nulls in keys.iter().filter_map(|key| key.logical_nulls()) {
            forget_nulls(&nulls, codes);
        }
        Ok(())
    }
}

impl Digit {
    #[inline]
    fn first(self, number: i64) -> u64 {
        let offset = number.wrapping_sub(self.least) as u64;
        if offset <= self.span { offset } else { MISS }
    }

    #[inline]
    fn add(self, code: u64, number: i64) -> u64 {
        let offset = number.wrapping_sub(self.least) as u64;
        let sum = offset.wrapping_mul(self.weight).wrapping_add(code);
        if offset <= self.span && code != MISS {
            sum
        } else {
            MISS
        }
    }
}

fn forget_nulls(nulls: &NullBuffer, codes: &mut [u64]) {
    if nulls.null_count() > 0 {
        for (code, valid) in codes.iter_mut().zip(nulls) {
            if !valid {
                *code = MISS;
            }
        }
    }
}

/// Whether keys of this type can be looked up.
pub(super) fn is_key(data_type: &DataType) -> bool {
    let others = [DataType::Utf8View, DataType::BinaryView];
    is_number(data_type)
        || matches!(data_type, DataType::Decimal128(..))
        || others.contains(data_type)
}

/// A key column of build rows as [`retain_equal`] wants it: numbers of 64 bits as such.
///
/// # Errors
/// None for a type that is a key.
pub(super) fn comparable(key: &ArrayRef) -> Result<ArrayRef> {
    if !is_number(key.data_type()) {
        return Ok(Arc::clone(key));
    }
    Ok(Arc::new(Int64Array::from(numbers(key)?.into_owned())))
}

/// Keeps those pairs of rows whose keys are equal. `builds` are [`comparable`]; none of these rows
/// has a null key.
pub(super) fn retain_equal(
    builds: &[ArrayRef],
    probes: &[ArrayRef],
    build_rows: &mut Vec<u32>,
    probe_rows: &mut Vec<u32>,
) -> Result<()> {
    for (build, probe) in builds.iter().zip(probes) {
        match build.data_type() {
            DataType::Utf8View => {
                let (a, b) = (build.as_string_view(), probe.as_string_view());
                let (a, b) = ((a.views(), a.data_buffers()), (b.views(), b.data_buffers()));
                retain(build_rows, probe_rows, |i, j| {
                    same_view(a.0[i], a.1, b.0[j], b.1)
                });
            }
            DataType::BinaryView => {
                let (a, b) = (build.as_binary_view(), probe.as_binary_view());
                let (a, b) = ((a.views(), a.data_buffers()), (b.views(), b.data_buffers()));
                retain(build_rows, probe_rows, |i, j| {
                    same_view(a.0[i], a.1, b.0[j], b.1)
                });
            }
            DataType::Decimal128(..) => {
                let a = build.as_primitive::<Decimal128Type>().values();
                let b = probe.as_primitive::<Decimal128Type>().values();
                retain(build_rows, probe_rows, |i, j| a[i] == b[j]);
            }
            _ => {
                let (a, b) = (numbers(build)?, numbers(probe)?);
                retain(build_rows, probe_rows, |i, j| a[i] == b[j]);
            }
        }
    }
    Ok(())
}

/// Keeps the pairs for which `keep`, of build and probe row, is true.
#[inline]
fn retain(
    build_rows: &mut Vec<u32>,
    probe_rows: &mut Vec<u32>,
    keep: impl Fn(usize, usize) -> bool,
) {
    let mut kept = 0;
    for pair in 0..build_rows.len() {
        let (build, probe) = (build_rows[pair], probe_rows[pair]);
        build_rows[kept] = build;
        probe_rows[kept] = probe;
        kept += usize::from(keep(build as usize, probe as usize));
    }
    build_rows.truncate(kept);
    probe_rows.truncate(kept);
}

/// Whether two views stand for the same bytes; most differ in length or in the first four.
#[inline]
fn same_view(a: u128, a_buffers: &[Buffer], b: u128, b_buffers: &[Buffer]) -> bool {
    if a as u64 != b as u64 {
        return false;
    }
    let len = a as u32 as usize;
    if len <= INLINE_BYTES {
        return a == b;
    }
    bytes(a, len, a_buffers) == bytes(b, len, b_buffers)
}

#[inline]
fn bytes(view: u128, len: usize, buffers: &[Buffer]) -> &[u8] {
    let (buffer, start) = ((view >> 64) as u32 as usize, (view >> 96) as usize);
    &buffers[buffer].as_slice()[start..start + len]
}
