//! Which rows go to disk together, where the build rows do not fit into memory.
//!
//! Rows of either side with equal keys are in one partition, whatever they are next to. A partition
//! that is too large is split again at another *level*, by other bits of the same hash.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::kernel::hash::hash_columns;
use crate::operator::order::compact;

/// Partitions of one level.
pub(super) const PARTITIONS: usize = 1 << BITS;

const BITS: u32 = 5;

/// What stands for no partition: the row has no match, and stays where it is.
const NONE: u8 = PARTITIONS as u8;

/// Some of the partitions of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Partitions(u64);

impl Partitions {
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, partition: usize) -> bool {
        self.0 >> partition & 1 == 1
    }

    pub(super) fn add(&mut self, partition: usize) {
        self.0 |= 1 << partition;
    }

    /// Adds half of those that it does not have, or the last one.
    pub(super) fn add_half(&mut self) {
        let (all, had) = (0..PARTITIONS, *self);
        let others: Vec<usize> = all.filter(|partition| !had.has(*partition)).collect();
        let half = others.len().div_ceil(2);
        others
            .into_iter()
            .take(half)
            .for_each(|part| self.add(part));
    }
}

/// The partition of every row of a batch.
pub(super) enum Places {
    /// There are no keys: all rows belong together, in partition 0.
    Together,
    Each(Vec<u8>),
}

impl Places {
    /// Those of `keys` at `level`.
    ///
    /// # Errors
    /// `Invalid` for keys of a type that has no hash.
    pub(super) fn new(keys: &[ArrayRef], level: u32) -> Result<Self> {
        if keys.is_empty() {
            return Ok(Places::Together);
        }
        let mut hashes = Vec::new();
        hash_columns(keys, &mut hashes)?;
        let places = hashes.into_iter().map(|hash| partition_of(hash, level));
        Ok(Places::Each(places.collect()))
    }

    /// Those of rows that look for a match: a row with a null has none, and so no partition.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(super) fn of_probe_rows(keys: &[ArrayRef], level: u32) -> Result<Self> {
        let mut places = Places::new(keys, level)?;
        if let Places::Each(places) = &mut places {
            for nulls in keys.iter().filter_map(|key| key.logical_nulls()) {
                for (place, is_valid) in places.iter_mut().zip(&nulls) {
                    *place = if is_valid { *place } else { NONE };
                }
            }
        }
        Ok(places)
    }

    /// Adds the number of rows of each partition to `counts`; there are `rows`.
    pub(super) fn count(&self, rows: usize, counts: &mut [usize; PARTITIONS]) {
        match self {
            Places::Together => counts[0] += rows,
            Places::Each(places) => {
                for place in places {
                    counts[*place as usize] += 1;
                }
            }
        }
    }
}

/// The hash is mixed anew for each level: what shuffles, indexes and other levels made of it says
/// nothing about the outcome.
#[inline]
fn partition_of(hash: u64, level: u32) -> u8 {
    let salt = 0x8cb9_2ba7_2f3d_8dd7u64.wrapping_mul(2 * u64::from(level) + 1);
    let product = u128::from(hash ^ salt) * u128::from(0xd6e8_feb8_6659_fd93u64);
    ((product as u64 ^ (product >> 64) as u64) >> (64 - BITS)) as u8
}

/// A batch in two parts.
pub(super) struct Split {
    /// Rows of other partitions.
    pub(super) others: RecordBatch,
    /// Rows of the partitions that were asked for, and which of them; none if there are none.
    pub(super) chosen: Option<(RecordBatch, Places)>,
}

impl Split {
    /// Parts the rows of `partitions` from others.
    ///
    /// # Errors
    /// What arrow answers where it is asked.
    pub(super) fn new(batch: RecordBatch, places: Places, partitions: Partitions) -> Result<Self> {
        let rows = batch.num_rows();
        let is_chosen = |place: &u8| partitions.has(*place as usize);
        let (chosen, places) = match places {
            Places::Together if partitions.has(0) => (rows, Places::Together),
            Places::Together => (0, Places::Together),
            Places::Each(places) => {
                let chosen = places.iter().filter(|place| is_chosen(place)).count();
                (chosen, Places::Each(places))
            }
        };
        if chosen == 0 {
            return Ok(Split {
                others: batch,
                chosen: None,
            });
        }
        if chosen == rows {
            return Ok(Split {
                others: batch.slice(0, 0),
                chosen: Some((batch, places)),
            });
        }
        let Places::Each(mut places) = places else {
            return Err(crate::Error::internal(
                "rows that belong together are split",
            ));
        };
        let mask = BooleanBuffer::collect_bool(rows, |row| is_chosen(&places[row]));
        let others = filter_record_batch(&batch, &BooleanArray::new(!&mask, None))?;
        let chosen = filter_record_batch(&batch, &BooleanArray::new(mask, None))?;
        places.retain(is_chosen);
        Ok(Split {
            others: compact(others)?,
            chosen: Some((compact(chosen)?, Places::Each(places))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn places(keys: impl Iterator<Item = i64>, level: u32) -> Vec<u8> {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        match Places::new(&[keys], level).expect("numbers have a hash") {
            Places::Each(places) => places,
            Places::Together => panic!("there is a key"),
        }
    }

    #[test]
    fn every_level_spreads_what_another_has_put_together() {
        for (first, second) in [(0, 1), (1, 0), (1, 2), (0, 3)] {
            let together: Vec<i64> = places(0..64_000, first)
                .into_iter()
                .zip(0..)
                .filter_map(|(place, key)| (place == 3).then_some(key))
                .collect();
            assert!((1800..2200).contains(&together.len()), "level={first}");
            let mut counts = [0; PARTITIONS];
            let rows = together.len();
            Places::Each(places(together.into_iter(), second)).count(rows, &mut counts);
            let range = (counts.iter().min(), counts.iter().max());
            assert!(range.0 > Some(&30) && range.1 < Some(&110), "{counts:?}");
        }
    }
}
