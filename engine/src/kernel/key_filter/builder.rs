//! A filter of keys that come a few at a time and do not stay.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;

use super::{KeyFilter, Members, bits, block_count, hashes, key_of, number_hashes, place};
use crate::error::Result;
use crate::kernel::number::{Range, is_number, range};

/// Takes keys from several threads at once.
pub struct KeyFilterBuilder {
    data_type: DataType,
    blocks: Vec<[AtomicU32; 8]>,
    rows: AtomicUsize,
    bounds: Mutex<Bounds>,
}

/// The least and the greatest key so far, as numbers and as arrays of length one.
#[derive(Default)]
struct Bounds {
    range: Range,
    keys: Option<(ArrayRef, ArrayRef)>,
}

impl KeyFilterBuilder {
    /// For about `rows` keys of type `data_type`. If more come, more of others pass, too.
    pub fn new(data_type: &DataType, rows: usize) -> Self {
        let block = |_| std::array::from_fn(|_| AtomicU32::new(0));
        KeyFilterBuilder {
            data_type: data_type.clone(),
            blocks: (0..block_count(rows)).map(block).collect(),
            rows: AtomicUsize::new(0),
            bounds: Mutex::default(),
        }
    }

    /// The bytes of a filter for `rows` keys.
    pub fn bytes(rows: usize) -> u64 {
        32 * block_count(rows) as u64
    }

    /// Adds `keys`, nulls left out.
    ///
    /// # Errors
    /// `Invalid` for keys of a type that cannot be hashed.
    pub fn add(&self, keys: &ArrayRef) -> Result<()> {
        let mut made = Vec::new();
        match is_number(&self.data_type) {
            true => number_hashes(keys, &mut made)?,
            false => hashes(keys, &mut made)?,
        }
        let nulls = keys.logical_nulls();
        for (row, &hash) in made.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let block = &self.blocks[place(hash, self.blocks.len())];
            for (word, bit) in block.iter().zip(bits(hash)) {
                // Others set bits at the same time, and nobody reads before all have ended.
                if word.load(Ordering::Relaxed) & bit == 0 {
                    word.fetch_or(bit, Ordering::Relaxed);
                }
            }
        }
        let rows = keys.len() - nulls.map_or(0, |nulls| nulls.null_count());
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.widen(keys)
    }

    /// Takes `keys` into the bounds.
    fn widen(&self, keys: &ArrayRef) -> Result<()> {
        if !is_number(&self.data_type) || self.data_type.is_floating() {
            return Ok(());
        }
        let Some((least, greatest)) = range(keys)? else {
            return Ok(());
        };
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = bounds.range.unwrap_or((i64::MAX, i64::MIN));
        let key = |number: i64| {
            let range = Some((least, greatest));
            key_of(std::slice::from_ref(keys), &[range], number)
        };
        let (mut low, mut high) = bounds.keys.take().unzip();
        if low.is_none() || least < known.0 {
            low = Some(key(least)?);
        }
        if high.is_none() || greatest > known.1 {
            high = Some(key(greatest)?);
        }
        bounds.range = Some((known.0.min(least), known.1.max(greatest)));
        bounds.keys = low.zip(high);
        Ok(())
    }

    /// The filter of all keys added. Knows the bounds of what is a number but for floats.
    pub fn finish(self) -> KeyFilter {
        let bounds = self.bounds.into_inner();
        let blocks = self.blocks.into_iter();
        let blocks = blocks.map(|block| block.map(AtomicU32::into_inner));
        KeyFilter {
            bounds: bounds.unwrap_or_else(PoisonError::into_inner).keys,
            rows: self.rows.into_inner(),
            members: Members::Blocks(blocks.collect()),
        }
    }
}
