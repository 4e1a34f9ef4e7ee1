//! The grouping table: from keys to groups, with many cache misses under way at once.
//!
//! A key is sixteen bytes, a view as in [`crate::kernel::view`]: keys of at most twelve bytes are
//! held in it, longer ones live in the table's arena. In a *packed* table the sixteen bytes are the
//! key, without a length among them. The table is cut by bits of the key's hash
//! into [`PARTS`] parts that never meet again, so that lanes can be merged part by part.
//!
//! A part has *slots*, eight bytes each (a tag of the hash and a row number, probed linearly), and
//! *rows*, in order of arrival, which hold key, hash and count. Growing moves slots only. Keys are
//! looked up in small batches: all slots are asked for, then all rows, then all long keys, so that
//! a key costs the time of its instructions and not of its misses.

use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::view::{make_view, outside_bytes, prefetch};

/// Parts of a table, a power of two.
pub(super) const PARTS: usize = 64;

/// Keys that are looked up together.
const TOGETHER: usize = 32;

/// Slots that a part starts with.
const SLOTS_MIN: usize = 16;

/// Rows and bytes that are allocated together once a part is large.
const CHUNK_ROWS: usize = 16 << 10;
const CHUNK_BYTES: usize = 64 << 10;

/// Most rows of one part, so that a [`GroupRef`] has room for their numbers. With the part it is
/// four billion groups: memory ends first unless keys were made to fall into one part.
const PART_ROWS_MAX: usize = u32::MAX as usize / PARTS;

/// A view that no value has; stands for null. Its length is not one a view may have.
pub(super) const NULL_KEY: u128 = u32::MAX as u128;

/// Where a group is: its part and its row there, in one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GroupRef(u32);

impl GroupRef {
    fn new(part: usize, row: u32) -> Self {
        GroupRef(row * PARTS as u32 + part as u32)
    }

    /// The part.
    #[inline(always)]
    pub(super) fn part(self) -> usize {
        self.0 as usize % PARTS
    }

    /// The row in the part.
    #[inline(always)]
    pub(super) fn row(self) -> usize {
        self.0 as usize / PARTS
    }

    /// The number: less than [`PARTS`] times the rows of the largest part.
    #[inline(always)]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    /// The group of that number.
    pub(super) fn from_index(index: usize) -> Self {
        GroupRef(index as u32)
    }
}

/// A group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The key; a long one refers to the part's arena.
    pub(super) key: u128,
    /// Its hash.
    pub(super) hash: u64,
    /// Rows of input, or the sum of the weights they came with.
    pub(super) count: u64,
}

/// A batch of keys to find or add.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) views: &'a [u128],
    pub(super) hashes: &'a [u64],
    /// What views of long keys refer to.
    pub(super) buffers: &'a [&'a [u8]],
    /// What to add to the count of each key's group; one where there are none.
    pub(super) weights: Option<&'a [u64]>,
}

/// Groups by key.
pub(super) struct Table {
    parts: Box<[Part]>,
    packed: bool,
}

/// The groups whose hash has the same part bits.
#[derive(Default)]
pub(super) struct Part {
    /// Zero, or the tag in the upper half and the row number plus one in the lower.
    slots: Vec<u64>,
    /// Chunks of rows, all but the last full.
    rows: Vec<Vec<Row>>,
    len: usize,
    /// Chunks of long keys.
    arena: Vec<Vec<u8>>,
    arena_bytes: usize,
    packed: bool,
}

/// Which part a key belongs to: bits that neither the slots nor a shuffle's partitioning use.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

impl Table {
    /// An empty table, for keys that are packed or not.
    pub(super) fn new(packed: bool) -> Self {
        let part = |_| Part {
            packed,
            ..Part::default()
        };
        Table {
            parts: (0..PARTS).map(part).collect(),
            packed,
        }
    }

    /// A table that has `part` as its part `number` and nothing else.
    pub(super) fn of_part(number: usize, part: Part) -> Self {
        let mut table = Table::new(part.packed);
        table.parts[number] = part;
        table
    }

    /// A table that has this one's part `number`, which is taken out, and nothing else.
    pub(super) fn take_part(&mut self, number: usize) -> Self {
        Table::of_part(number, std::mem::take(&mut self.parts[number]))
    }

    /// `hash`, changed so that its key belongs to `part`.
    pub(super) fn hash_for_part(hash: u64, part: usize) -> u64 {
        hash & !((PARTS as u64 - 1) << 32) | (part as u64) << 32
    }

    pub(super) fn part(&self, number: usize) -> &Part {
        &self.parts[number]
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.parts.into_vec()
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// Whether `rows` more keys can be numbered, in whatever part they are.
    pub(super) fn has_numbers(&self, rows: usize) -> bool {
        self.parts
            .iter()
            .all(|part| part.len + rows <= PART_ROWS_MAX)
    }

    /// Bytes that are allocated.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Bytes that may have to be allocated for `rows` more keys with `key_bytes` in long ones.
    pub(super) fn growth(&self, rows: usize, key_bytes: usize) -> u64 {
        let each = rows.div_ceil(PARTS) * 2;
        let slots: usize = self.parts.iter().map(|part| part.slot_growth(each)).sum();
        (slots * 8 + rows * size_of::<Row>() + key_bytes) as u64
    }

    /// Finds or adds the group of each key and adds to its count. `groups`, if given, is
    /// extended by where they are.
    pub(super) fn update(&mut self, keys: Keys<'_>, mut groups: Option<&mut Vec<GroupRef>>) {
        let mut at = 0;
        while at < keys.views.len() {
            let len = TOGETHER.min(keys.views.len() - at);
            let mut rows = [0; TOGETHER];
            self.update_together(keys, at, len, &mut rows);
            if let Some(groups) = groups.as_deref_mut() {
                let found = rows[..len].iter().zip(&keys.hashes[at..]);
                groups.extend(found.map(|(&row, &hash)| GroupRef::new(part_of(hash), row)));
            }
            at += len;
        }
    }

    #[inline]
    fn update_together(
        &mut self,
        keys: Keys<'_>,
        at: usize,
        len: usize,
        found: &mut [u32; TOGETHER],
    ) {
        let views = &keys.views[at..at + len];
        let hashes = &keys.hashes[at..at + len];
        for &hash in hashes {
            self.parts[part_of(hash)].prefetch_slot(hash);
        }
        for (&hash, candidate) in hashes.iter().zip(found.iter_mut()) {
            *candidate = self.parts[part_of(hash)].candidate(hash);
        }
        // Bits of the keys whose candidate was not theirs or is not certain yet.
        let mut open = 0u32;
        for index in 0..len {
            let (view, hash, row) = (views[index], hashes[index], found[index]);
            let weight = keys.weights.map_or(1, |weights| weights[at + index]);
            let part = &mut self.parts[part_of(hash)];
            let is_inline = self.packed || view as u32 <= INLINE_BYTES as u32;
            match part.row_mut(row) {
                Some(row) if row.key == view && is_inline => row.count += weight,
                Some(row) if !is_inline && row.hash == hash => {
                    let key = row.key;
                    part.prefetch_key(key);
                    open |= 1 << index;
                }
                _ => open |= 1 << index,
            }
        }
        while open != 0 {
            let index = open.trailing_zeros() as usize;
            open &= open - 1;
            let weight = keys.weights.map_or(1, |weights| weights[at + index]);
            let part = &mut self.parts[part_of(hashes[index])];
            found[index] = part.add(views[index], hashes[index], keys.buffers, weight);
        }
    }
}

impl Part {
    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that are allocated.
    pub(super) fn bytes(&self) -> u64 {
        let rows: usize = self.rows.iter().map(Vec::capacity).sum();
        (self.slots.capacity() * 8 + rows * size_of::<Row>() + self.arena_bytes) as u64
    }

    /// A group by its row.
    pub(super) fn row(&self, row: usize) -> Row {
        self.rows[row / CHUNK_ROWS][row % CHUNK_ROWS]
    }

    /// The groups, in chunks; `chunk` is less than [`Self::chunks`].
    pub(super) fn chunk(&self, chunk: usize) -> &[Row] {
        &self.rows[chunk]
    }

    /// How many chunks of groups there are.
    pub(super) fn chunks(&self) -> usize {
        self.rows.len()
    }

    /// Takes the long keys out, chunk by chunk, as the keys' views number them.
    pub(super) fn take_arena(&mut self) -> Vec<Vec<u8>> {
        self.arena_bytes = 0;
        std::mem::take(&mut self.arena)
    }

    /// The long keys.
    pub(super) fn arena(&self) -> Vec<&[u8]> {
        self.arena.iter().map(Vec::as_slice).collect()
    }

    /// Gives back the slots, when no more keys will be looked up.
    pub(super) fn drop_slots(&mut self) {
        self.slots = Vec::new();
    }

    #[inline(always)]
    fn prefetch_slot(&self, hash: u64) {
        prefetch(&self.slots, hash as u32 as usize & self.mask());
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    /// The row that the first slot for `hash` refers to, which is most often the right one, and
    /// `u32::MAX` if that slot is empty. Asks for the row.
    #[inline(always)]
    fn candidate(&self, hash: u64) -> u32 {
        let slot = self
            .slots
            .get(hash as u32 as usize & self.mask())
            .copied()
            .unwrap_or(0);
        let row = (slot as u32).wrapping_sub(1);
        if let Some(chunk) = self.rows.get(row as usize / CHUNK_ROWS) {
            prefetch(chunk, row as usize % CHUNK_ROWS);
        }
        row
    }

    #[inline(always)]
    fn row_mut(&mut self, row: u32) -> Option<&mut Row> {
        self.rows
            .get_mut(row as usize / CHUNK_ROWS)?
            .get_mut(row as usize % CHUNK_ROWS)
    }

    #[inline(always)]
    fn prefetch_key(&self, key: u128) {
        if let Some(chunk) = self.arena.get((key >> 64) as u32 as usize) {
            prefetch(chunk, (key >> 96) as usize);
        }
    }

    /// Finds or adds the group of one key; returns its row.
    fn add(&mut self, view: u128, hash: u64, buffers: &[&[u8]], weight: u64) -> u32 {
        if self.slots.len() * 5 <= (self.len + 1) * 8 {
            self.grow();
        }
        let mask = self.mask();
        let tag = hash << 32;
        let mut at = hash as u32 as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            if slot & !u64::from(u32::MAX) == tag {
                let number = slot as u32 - 1;
                let row =
                    &mut self.rows[number as usize / CHUNK_ROWS][number as usize % CHUNK_ROWS];
                let is_same = |key: u128| match self.packed {
                    true => key == view,
                    false => same_key(key, &self.arena, view, buffers),
                };
                if row.hash == hash && is_same(row.key) {
                    row.count += weight;
                    return number;
                }
            }
            at = (at + 1) & mask;
        }
        let key = self.keep_key(view, buffers);
        let number = self.push(Row {
            key,
            hash,
            count: weight,
        });
        self.slots[at] = tag | u64::from(number + 1);
        number
    }

    fn push(&mut self, row: Row) -> u32 {
        let number = self.len;
        if number.is_multiple_of(CHUNK_ROWS) {
            // The first chunk grows like any vector, so that small tables stay small.
            let capacity = if number == 0 {
                SLOTS_MIN / 2
            } else {
                CHUNK_ROWS
            };
            self.rows.push(Vec::with_capacity(capacity));
        }
        self.rows[number / CHUNK_ROWS].push(row);
        self.len += 1;
        number as u32
    }

    /// The view of a key that the table owns.
    fn keep_key(&mut self, view: u128, buffers: &[&[u8]]) -> u128 {
        let len = view as u32 as usize;
        if self.packed || len <= INLINE_BYTES || view == NULL_KEY {
            return view;
        }
        let bytes = outside_bytes(view, buffers);
        if self
            .arena
            .last()
            .is_none_or(|chunk| chunk.len() + len > CHUNK_BYTES)
        {
            let capacity = if self.arena.is_empty() {
                256
            } else {
                CHUNK_BYTES
            };
            self.arena_bytes += capacity.max(len);
            self.arena.push(Vec::with_capacity(capacity.max(len)));
        }
        let number = self.arena.len() - 1;
        let chunk = &mut self.arena[number];
        let before = chunk.capacity();
        let offset = chunk.len();
        chunk.extend_from_slice(bytes);
        self.arena_bytes += chunk.capacity() - before;
        make_view(bytes, number as u32, offset as u32)
    }

    fn slot_growth(&self, rows: usize) -> usize {
        let mut slots = self.slots.len().max(SLOTS_MIN);
        while slots * 5 <= (self.len + rows + 1) * 8 {
            slots *= 2;
        }
        if slots > self.slots.len() { slots } else { 0 }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let mask = slots - 1;
        let old = std::mem::replace(&mut self.slots, vec![0; slots]);
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let mut at = (slot >> 32) as usize & mask;
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }
}

/// Whether a key of the table is that of a view into other buffers.
#[inline]
fn same_key(key: u128, arena: &[Vec<u8>], view: u128, buffers: &[&[u8]]) -> bool {
    if view as u32 as usize <= INLINE_BYTES || view as u64 == NULL_KEY as u64 {
        return key == view;
    }
    // Length and first bytes first.
    key as u64 == view as u64 && {
        let (chunk, start) = ((key >> 64) as u32 as usize, (key >> 96) as usize);
        arena[chunk][start..start + key as u32 as usize] == *outside_bytes(view, buffers)
    }
}
