//! The keys of a join's build rows, as far as a scan can use them: bounds, and who may be there.
//!
//! A scan that knows the keys of a later join leaves out what the join would drop: whole row
//! groups and pages by the bounds, single rows by membership. A wrong "yes" costs time, a wrong
//! "no" would lose rows, so membership may only err to the one side.
//!
//! Keys that are numbers close to one another have a bit each, which is exact. Others go into a
//! split block bloom filter, as the Parquet format describes it. Filters are built by all threads
//! without a lock: each owns a range of the filter, and reads all keys.

mod builder;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, StringViewArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{max_binary_view, max_string_view, min_binary_view, min_string_view, take};
use arrow::datatypes::DataType;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::error::Result;
use crate::kernel::hash::hash_columns;
use crate::kernel::number::{Range, is_number, numbers, range};
use crate::limits::BATCH_ROWS;

pub use builder::KeyFilterBuilder;

/// The keys of one column of build rows.
#[derive(Debug)]
pub struct KeyFilter {
    bounds: Option<(ArrayRef, ArrayRef)>,
    rows: usize,
    members: Members,
}

#[derive(Debug)]
enum Members {
    /// A bit for each number from the least key to the greatest.
    Bits {
        least: i64,
        span: u64,
        words: Vec<u64>,
    },
    /// By hash. A block is 256 bits, eight words of which a key sets a bit each.
    Blocks(Vec<[u32; 8]>),
}

/// One odd multiplier for each word of a block, as in the Parquet format.
const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// Keys have a bit each while there are at most so many bits for a key.
const BITS_PER_KEY: u64 = 64;

/// So many bits are always few enough.
const BITS_SMALL: u64 = 1 << 16;

/// So many bits are always too many.
const BITS_MAX: u64 = 512 << 20;

/// Keys in a block of a bloom filter: about one in a hundred others passes.
const KEYS_PER_BLOCK: usize = 20;

/// Most threads that build one filter; each of them reads every key.
const PARTS_MAX: usize = 16;

impl KeyFilter {
    /// The filter of `keys`, nulls left out. `bounds` are the least and the greatest of them, each
    /// an array of length one, where somebody knows them.
    ///
    /// # Errors
    /// `Invalid` for keys of a type that cannot be hashed.
    pub fn new(keys: &ArrayRef, bounds: Option<(ArrayRef, ArrayRef)>) -> Result<Self> {
        let mut filter = KeyFilter::of_pieces(std::slice::from_ref(keys), keys.data_type())?;
        filter.bounds = bounds.or(filter.bounds);
        Ok(filter)
    }

    /// The filter of all keys in `pieces`, which are of type `data_type`, nulls left out. Knows the
    /// bounds of strings and of what is a number but for floats.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn of_pieces(pieces: &[ArrayRef], data_type: &DataType) -> Result<Self> {
        let rows = pieces
            .iter()
            .map(|piece| piece.len() - piece.logical_null_count())
            .sum();
        if !is_number(data_type) {
            return Ok(KeyFilter {
                bounds: string_bounds(pieces, data_type),
                rows,
                members: Members::Blocks(blocks(pieces, rows, hashes)?),
            });
        }
        let ranges = pieces.par_iter().map(range).collect::<Result<Vec<_>>>()?;
        let least = ranges.iter().flatten().map(|range| range.0).min();
        let greatest = ranges.iter().flatten().map(|range| range.1).max();
        let (Some(least), Some(greatest)) = (least, greatest) else {
            return Ok(KeyFilter {
                bounds: None,
                rows: 0,
                members: Members::Blocks(vec![[0; 8]]),
            });
        };
        let span = greatest.wrapping_sub(least) as u64;
        let bits_max = (rows as u64 * BITS_PER_KEY).clamp(BITS_SMALL, BITS_MAX);
        let members = match span < bits_max {
            true => Members::Bits {
                least,
                span,
                words: bits_of(pieces, &ranges, least, span)?,
            },
            false => Members::Blocks(blocks(pieces, rows, number_hashes)?),
        };
        let bounds = match data_type.is_floating() {
            true => None,
            false => Some((
                key_of(pieces, &ranges, least)?,
                key_of(pieces, &ranges, greatest)?,
            )),
        };
        Ok(KeyFilter {
            bounds,
            rows,
            members,
        })
    }

    /// An upper bound of the bytes that a filter of `rows` keys takes.
    pub fn bytes_max(rows: usize) -> u64 {
        let bits = (rows as u64 * BITS_PER_KEY).clamp(BITS_SMALL, BITS_MAX) / 8;
        bits.max(32 * block_count(rows) as u64)
    }

    /// The bytes that the filter takes.
    pub fn bytes(&self) -> u64 {
        match &self.members {
            Members::Bits { words, .. } => 8 * words.len() as u64,
            Members::Blocks(blocks) => 32 * blocks.len() as u64,
        }
    }

    /// Build rows that have a key; 0 means that no probe row has a match.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The least and the greatest key, each an array of length one, of the keys' type.
    pub fn bounds(&self) -> Option<(&ArrayRef, &ArrayRef)> {
        self.bounds
            .as_ref()
            .map(|(least, greatest)| (least, greatest))
    }

    /// Which of `values`, an array of the keys' type, may be among the keys. Null never is.
    ///
    /// # Errors
    /// `Invalid` for values of a type that cannot be hashed.
    pub fn contains(&self, values: &ArrayRef) -> Result<BooleanBuffer> {
        let found = match &self.members {
            Members::Bits { least, span, words } => {
                let values = numbers(values)?;
                let is_member = |value: i64| {
                    let place = value.wrapping_sub(*least) as u64;
                    // Out of range means another place, whose bit then does not count.
                    let word = words[(place.min(*span) / 64) as usize];
                    (word >> (place % 64) & 1 == 1) & (place <= *span)
                };
                BooleanBuffer::collect_bool(values.len(), |row| is_member(values[row]))
            }
            Members::Blocks(blocks) if is_number(values.data_type()) => {
                let values = numbers(values)?;
                let is_member = |row: usize| may_have(blocks, number_hash(values[row]));
                BooleanBuffer::collect_bool(values.len(), is_member)
            }
            Members::Blocks(blocks) => {
                let mut hashes = Vec::new();
                hash_columns(std::slice::from_ref(values), &mut hashes)?;
                BooleanBuffer::collect_bool(values.len(), |row| may_have(blocks, hashes[row]))
            }
        };
        Ok(match values.logical_nulls() {
            Some(nulls) => &found & nulls.inner(),
            None => found,
        })
    }
}

/// The words of a filter with a bit for each number in the range.
fn bits_of(pieces: &[ArrayRef], ranges: &[Range], least: i64, span: u64) -> Result<Vec<u64>> {
    let mut words = vec![0u64; (span / 64) as usize + 1];
    let part = part_len(words.len());
    let place = |number: i64| number.wrapping_sub(least) as u64;
    let parts = words.par_chunks_mut(part).enumerate();
    let filled = parts.map(|(number, words)| {
        let first = (number * part * 64) as u64;
        let end = first + 64 * words.len() as u64;
        // Rows are often in the order of their keys: then few pieces have to do with this part.
        let pieces = pieces.iter().zip(ranges).filter(|(_, range)| {
            range.is_some_and(|(least, greatest)| place(least) < end && place(greatest) >= first)
        });
        for (piece, _) in pieces {
            let numbers = numbers(piece)?;
            let places = |number: i64| place(number).wrapping_sub(first);
            match piece.logical_nulls() {
                None => set_bits(words, numbers.iter().map(|number| places(*number))),
                Some(nulls) => {
                    set_bits(words, nulls.valid_indices().map(|row| places(numbers[row])));
                }
            }
        }
        Ok(())
    });
    filled.collect::<Result<Vec<()>>>()?;
    Ok(words)
}

/// Sets the bits at `places`, those behind the end left out. Bits of one word that follow one
/// another are put together first, so that no write waits for the one before it.
fn set_bits(words: &mut [u64], places: impl Iterator<Item = u64>) {
    let (mut at, mut bits) = (0, 0);
    let mut put = |at: u64, bits: u64| {
        if let Some(word) = words.get_mut(at as usize) {
            *word |= bits;
        }
    };
    for place in places {
        if place / 64 != at {
            put(at, bits);
            (at, bits) = (place / 64, 0);
        }
        bits |= 1 << (place % 64);
    }
    put(at, bits);
}

/// The blocks of a bloom filter. `hashes` overwrites its vector with the hashes of some rows.
fn blocks(
    pieces: &[ArrayRef],
    rows: usize,
    hashes: impl Fn(&ArrayRef, &mut Vec<u64>) -> Result<()> + Sync,
) -> Result<Vec<[u32; 8]>> {
    let count = block_count(rows);
    let mut blocks = vec![[0; 8]; count];
    let part = part_len(count);
    let parts = blocks.par_chunks_mut(part).enumerate();
    let filled = parts.map(|(number, blocks)| {
        let mut made = Vec::new();
        for piece in pieces {
            for start in (0..piece.len()).step_by(BATCH_ROWS) {
                let some = piece.slice(start, BATCH_ROWS.min(piece.len() - start));
                hashes(&some, &mut made)?;
                let nulls = some.logical_nulls();
                for (row, &hash) in made.iter().enumerate() {
                    let place = place(hash, count).wrapping_sub(number * part);
                    if let Some(block) = blocks.get_mut(place)
                        && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
                    {
                        for (word, bit) in block.iter_mut().zip(bits(hash)) {
                            *word |= bit;
                        }
                    }
                }
            }
        }
        Ok(())
    });
    filled.collect::<Result<Vec<()>>>()?;
    Ok(blocks)
}

fn block_count(rows: usize) -> usize {
    rows.div_ceil(KEYS_PER_BLOCK).next_power_of_two()
}

/// How long the range is that each thread owns.
fn part_len(len: usize) -> usize {
    len.div_ceil(rayon::current_num_threads().min(PARTS_MAX))
        .max(1)
}

fn hashes(keys: &ArrayRef, hashes: &mut Vec<u64>) -> Result<()> {
    hash_columns(std::slice::from_ref(keys), hashes)
}

fn number_hashes(keys: &ArrayRef, hashes: &mut Vec<u64>) -> Result<()> {
    hashes.clear();
    hashes.extend(numbers(keys)?.iter().map(|number| number_hash(*number)));
    Ok(())
}

#[inline]
fn number_hash(number: i64) -> u64 {
    let product =
        u128::from(number as u64 ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xa076_1d64_78bd_642fu64);
    product as u64 ^ (product >> 64) as u64
}

/// The key with this number, as an array of its own.
fn key_of(pieces: &[ArrayRef], ranges: &[Range], wanted: i64) -> Result<ArrayRef> {
    let has = |range: &&Range| {
        range.is_some_and(|(least, greatest)| least == wanted || greatest == wanted)
    };
    let piece = ranges.iter().position(|range| has(&range)).unwrap_or(0);
    let numbers = numbers(&pieces[piece])?;
    let mut rows = 0..numbers.len();
    let row = rows.find(|&row| numbers[row] == wanted && pieces[piece].is_valid(row));
    let row = UInt32Array::from(vec![row.unwrap_or(0) as u32]);
    Ok(take(&pieces[piece], &row, None)?)
}

/// The least and the greatest of strings or bytes.
fn string_bounds(pieces: &[ArrayRef], data_type: &DataType) -> Option<(ArrayRef, ArrayRef)> {
    match data_type {
        DataType::Utf8View => {
            let strings = || pieces.iter().map(|piece| piece.as_string_view());
            let least = strings().filter_map(min_string_view).min()?;
            let greatest = strings().filter_map(max_string_view).max()?;
            let one = |value: &str| Arc::new(StringViewArray::from(vec![value])) as ArrayRef;
            Some((one(least), one(greatest)))
        }
        DataType::BinaryView => {
            let values = || pieces.iter().map(|piece| piece.as_binary_view());
            let least = values().filter_map(min_binary_view).min()?;
            let greatest = values().filter_map(max_binary_view).max()?;
            let one = |value: &[u8]| Arc::new(BinaryViewArray::from(vec![value])) as ArrayRef;
            Some((one(least), one(greatest)))
        }
        _ => None,
    }
}

#[inline]
fn may_have(blocks: &[[u32; 8]], hash: u64) -> bool {
    let block = &blocks[place(hash, blocks.len())];
    let missing = block.iter().zip(bits(hash));
    missing.fold(0, |missing, (word, bit)| missing | (bit & !word)) == 0
}

/// The block of a key, by the upper half of its hash; `count` is a power of two.
#[inline]
fn place(hash: u64, count: usize) -> usize {
    (hash >> 32) as usize & (count - 1)
}

/// The bit that a key sets in each word of its block, by the lower half of its hash.
#[inline]
fn bits(hash: u64) -> [u32; 8] {
    SALT.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

#[cfg(test)]
mod tests;
