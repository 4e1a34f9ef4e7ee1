//! The keys of a join's build rows, as far as a scan can use them: bounds, and who may be there.
//!
//! A scan that knows the keys of a later join leaves out what the join would drop: whole row
//! groups and pages by the bounds, single rows by membership. A wrong "yes" costs time, a wrong
//! "no" would lose rows, so membership may only err to the one side.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::BooleanBuffer;

use crate::error::Result;
use crate::kernel::hash::hash_columns;

/// The keys of one column of build rows.
#[derive(Debug)]
pub struct KeyFilter {
    bounds: Option<(ArrayRef, ArrayRef)>,
    rows: usize,
    /// A block is 256 bits, eight words of which a key sets a bit each (a split block bloom
    /// filter, as the Parquet format describes it).
    blocks: Vec<[u32; 8]>,
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

impl KeyFilter {
    /// The filter of `keys`, nulls left out. `bounds` are the least and the greatest of them, each
    /// an array of length one, where somebody knows them.
    ///
    /// # Errors
    /// `Internal` for keys of a type that cannot be hashed.
    pub fn new(keys: &ArrayRef, bounds: Option<(ArrayRef, ArrayRef)>) -> Result<Self> {
        let rows = keys.len() - keys.null_count();
        let count = (rows.div_ceil(20)).next_power_of_two();
        let mut blocks = vec![[0; 8]; count];
        let mut hashes = Vec::new();
        hash_columns(std::slice::from_ref(keys), &mut hashes)?;
        for (row, hash) in hashes.into_iter().enumerate() {
            if keys.is_valid(row) {
                let block = &mut blocks[place(hash, count)];
                for (word, bit) in block.iter_mut().zip(bits(hash)) {
                    *word |= bit;
                }
            }
        }
        Ok(KeyFilter {
            bounds,
            rows,
            blocks,
        })
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
    /// `Internal` for values of a type that cannot be hashed.
    pub fn contains(&self, values: &ArrayRef) -> Result<BooleanBuffer> {
        let mut hashes = Vec::new();
        hash_columns(std::slice::from_ref(values), &mut hashes)?;
        let count = self.blocks.len();
        let found = BooleanBuffer::collect_bool(values.len(), |row| {
            let block = &self.blocks[place(hashes[row], count)];
            let mut words = block.iter().zip(bits(hashes[row]));
            words.all(|(word, bit)| word & bit != 0)
        });
        Ok(match values.nulls() {
            Some(nulls) => &found & nulls.inner(),
            None => found,
        })
    }
}

/// The block of a key, by the upper half of its hash; `count` is a power of two.
fn place(hash: u64, count: usize) -> usize {
    (hash >> 32) as usize & (count - 1)
}

/// The bit that a key sets in each word of its block, by the lower half of its hash.
fn bits(hash: u64) -> [u32; 8] {
    SALT.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn no_key_is_missed_and_few_others_pass() {
        let keys: ArrayRef = Arc::new((0..10_000).map(|key| Some(key * 7)).collect::<Int64Array>());
        let filter = KeyFilter::new(&keys, None).expect("integers can be hashed");
        let all = filter.contains(&keys).expect("the same type");
        assert_eq!(all.count_set_bits(), 10_000);
        let others: ArrayRef = Arc::new((0..10_000).map(|key| key * 7 + 3).collect::<Int64Array>());
        let passed = filter.contains(&others).expect("the same type");
        assert!(passed.count_set_bits() < 500, "{}", passed.count_set_bits());
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(7)]));
        let passed = filter.contains(&nulls).expect("the same type");
        assert_eq!(passed.iter().collect::<Vec<_>>(), [false, true]);
    }
}
