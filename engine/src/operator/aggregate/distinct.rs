//! Counting different values: a second table whose keys are pairs of group and value.
//!
//! A pair's key is four bytes of its group's row and then the bytes of the value, and its hash is
//! made to name the group's part. So the pairs of a part's groups lie in the same part of this
//! table, lanes are merged part by part as everything else is, and values of up to eight bytes
//! need nothing beyond their row. Nothing is counted on the way: at the end, a group has as many
//! values as there are pairs with its row.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, BinaryViewBuilder};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;

use crate::kernel::hash::{INLINE_BYTES, hash_view};
use crate::kernel::view::{make_view, view_bytes};
use crate::limits;
use crate::operator::aggregate::keys::{canonical, raw_values};
use crate::operator::aggregate::rows::Rows;
use crate::operator::aggregate::table::{GroupRef, Keys, Part, Table};

/// Bytes of a group's row in a pair.
const ROW_BYTES: usize = 4;

/// Pairs that are merged together.
const MERGED_PAIRS: usize = 1024;

/// The different pairs of group and value.
pub(super) struct Distinct {
    pairs: Table,
    /// What [`Self::settle`] found.
    counts: Vec<i64>,
}

/// Pairs on their way into the table.
#[derive(Default)]
struct Pairs {
    views: Vec<u128>,
    hashes: Vec<u64>,
    bytes: Vec<u8>,
}

impl Pairs {
    /// Adds the pair of `group` and the value in `value`.
    fn push(&mut self, group: GroupRef, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes
            .extend_from_slice(&(group.row() as u32).to_le_bytes());
        self.bytes.extend_from_slice(value);
        let view = make_view(&self.bytes[start..], 0, start as u32);
        if self.bytes.len() - start <= INLINE_BYTES {
            self.bytes.truncate(start);
        }
        self.push_view(group, view);
    }

    /// Adds the pair of `group` and a value of eight bytes.
    fn push_integer(&mut self, group: GroupRef, value: u64) {
        let row = u128::from(group.row() as u32) << 32;
        self.push_view(group, u128::from(value) << 64 | row | INLINE_BYTES as u128);
    }

    fn push_view(&mut self, group: GroupRef, view: u128) {
        let hash = hash_view(view, &[&self.bytes]);
        self.views.push(view);
        self.hashes.push(Table::hash_for_part(hash, group.part()));
    }

    fn update(&mut self, table: &mut Table) {
        let keys = Keys {
            views: &self.views,
            hashes: &self.hashes,
            buffers: &[&self.bytes],
            weights: None,
        };
        table.update(keys, None);
        self.views.clear();
        self.hashes.clear();
        self.bytes.clear();
    }
}

impl Distinct {
    pub(super) fn new() -> Self {
        Distinct {
            pairs: Table::new(false),
            counts: Vec::new(),
        }
    }

    /// Bytes that are allocated.
    pub(super) fn bytes(&self) -> u64 {
        self.pairs.bytes()
    }

    /// Bytes that may have to be allocated for `rows` more values, apart from long ones.
    pub(super) fn growth(&self, rows: usize) -> u64 {
        self.pairs.growth(rows, 0)
    }

    /// Adds the values of the rows that `mask` lets through.
    pub(super) fn update(&mut self, rows: &Rows, mask: Option<&NullBuffer>, values: &ArrayRef) {
        let groups = rows.groups();
        let mut pairs = Pairs::default();
        let valid = |row: &usize| mask.is_none_or(|mask| mask.is_valid(*row));
        let rows = (0..groups.len()).filter(valid);
        match values.data_type() {
            DataType::Utf8View => {
                let values = values.as_string_view();
                rows.for_each(|row| pairs.push(groups[row], values.value(row).as_bytes()));
            }
            DataType::BinaryView => {
                let values = values.as_binary_view();
                rows.for_each(|row| pairs.push(groups[row], values.value(row)));
            }
            other => {
                let width = other.primitive_width().unwrap_or(1);
                let bytes = raw_values(&canonical(values));
                let mut padded = [0; 8];
                for row in rows {
                    let value = &bytes[row * width..][..width];
                    if width <= padded.len() {
                        padded[..width].copy_from_slice(value);
                        pairs.push_integer(groups[row], u64::from_le_bytes(padded));
                    } else {
                        pairs.push(groups[row], value);
                    }
                }
            }
        }
        pairs.update(&mut self.pairs);
    }

    /// Adds values as [`DistinctValues`] gives them.
    pub(super) fn add(&mut self, groups: &[GroupRef], values: &BinaryViewArray) {
        let mut pairs = Pairs::default();
        for (row, group) in groups.iter().enumerate() {
            pairs.push(*group, values.value(row));
        }
        pairs.update(&mut self.pairs);
    }

    /// The values of the groups of one part.
    pub(super) fn values(&self, part: usize) -> DistinctValues<'_> {
        DistinctValues {
            pairs: self.pairs.part(part),
            chunk: 0,
            start: 0,
        }
    }

    /// Merges `part` of `other`, whose groups have become `groups`.
    pub(super) fn merge(&mut self, other: &Self, part: usize, groups: &[GroupRef]) {
        let from = other.pairs.part(part);
        let arena = from.arena();
        let mut pairs = Pairs::default();
        let mut scratch = [0; 16];
        for chunk in 0..from.chunks() {
            for rows in from.chunk(chunk).chunks(MERGED_PAIRS) {
                for row in rows {
                    let group = groups[row_of(row.key)];
                    let value = &view_bytes(row.key, &arena, &mut scratch)[ROW_BYTES..];
                    pairs.push(group, value);
                }
                pairs.update(&mut self.pairs);
            }
        }
    }

    /// Takes out one part.
    pub(super) fn take_part(&mut self, part: usize) -> Self {
        Distinct {
            pairs: self.pairs.take_part(part),
            counts: Vec::new(),
        }
    }

    /// Counts the values of each of the `groups` groups of `part`.
    pub(super) fn settle(&mut self, part: usize, groups: usize) {
        self.counts = vec![0; groups];
        let part = self.pairs.part(part);
        for chunk in 0..part.chunks() {
            for row in part.chunk(chunk) {
                self.counts[row_of(row.key)] += 1;
            }
        }
    }

    /// How many values some of these groups have.
    pub(super) fn counts(&self, range: Range<usize>) -> &[i64] {
        &self.counts[range]
    }
}

/// The values of the groups of a part, some at a time.
pub(super) struct DistinctValues<'a> {
    pairs: &'a Part,
    chunk: usize,
    start: usize,
}

impl Iterator for DistinctValues<'_> {
    /// For each value the row of its group, and its bytes.
    type Item = (Vec<usize>, BinaryViewArray);

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk == self.pairs.chunks() {
            return None;
        }
        let arena = self.pairs.arena();
        let chunk = &self.pairs.chunk(self.chunk)[self.start..];
        let some = &chunk[..chunk.len().min(limits::BATCH_ROWS)];
        match some.len() == chunk.len() {
            true => (self.chunk, self.start) = (self.chunk + 1, 0),
            false => self.start += some.len(),
        }
        let rows = some.iter().map(|pair| row_of(pair.key)).collect();
        let mut scratch = [0; 16];
        let mut values = BinaryViewBuilder::with_capacity(some.len());
        for pair in some {
            values.append_value(&view_bytes(pair.key, &arena, &mut scratch)[ROW_BYTES..]);
        }
        Some((rows, values.finish()))
    }
}

/// The row of a pair's group: the first four bytes, which lie in the view however long it is.
fn row_of(key: u128) -> usize {
    (key >> 32) as u32 as usize
}
