//! From the code of a key to the build rows that have it.
//!
//! A code leads to the last row that has it, and each row to the one before: a chain, which is
//! only stored if any code appears twice. Rows are numbered from 1 here, so that 0 is no row.
//! Where the codes lie close together they are places in an array; otherwise they are hashed into
//! slots of eight bytes, half of which tells most other codes apart without a look elsewhere.

mod fill;

use crate::error::Result;
use crate::kernel::view::prefetch;

pub(super) use fill::Codes;

/// An array of places may have so many for each row.
const PLACES_PER_ROW: u64 = 8;

/// An array of so many places is always small enough.
const PLACES_SMALL: u64 = 1 << 20;

/// Codes that are looked up together: their slots are on the way while the first is compared.
const TOGETHER: usize = 128;

/// The rows behind codes.
#[derive(Debug)]
pub(super) struct Index {
    heads: Heads,
    /// The row before each row that has the same code; empty if all codes are different.
    next: Vec<u32>,
    rows: u32,
}

#[derive(Debug)]
enum Heads {
    /// There are no keys: every row meets every row.
    All,
    /// The code is the place.
    Places(Vec<u32>),
    /// The code is hashed.
    Slots(Slots),
}

/// Slots with open addressing. A slot is empty or holds 32 bits to compare and the row.
#[derive(Debug)]
struct Slots {
    slots: Vec<u64>,
    /// Slots are split in parts; a search that comes to the end of a part goes on at its start.
    part_mask: usize,
    /// How far a hash is shifted to be a place.
    shift: u32,
    /// Every row's code, unless all of a code is in its slot.
    codes: Vec<u64>,
}

/// How an index will be laid out, and so how much memory it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// There are no keys.
    None,
    Places(usize),
    /// Codes of at most 32 bits.
    Narrow,
    Wide,
}

impl Layout {
    /// For `rows` rows whose codes are less than `codes`.
    pub(super) fn new(rows: usize, codes: u64, exact: bool) -> Layout {
        let places = (rows as u64)
            .saturating_mul(PLACES_PER_ROW)
            .max(PLACES_SMALL);
        match exact {
            true if codes <= places => Layout::Places(codes as usize),
            true if codes <= u64::from(u32::MAX) => Layout::Narrow,
            _ => Layout::Wide,
        }
    }

    /// A layout that takes less memory for `rows` rows whose codes are less than `codes`.
    pub(super) fn smaller(self, rows: usize, codes: u64) -> Option<Layout> {
        let other = match self {
            Layout::Places(_) if codes <= u64::from(u32::MAX) => Layout::Narrow,
            Layout::Places(_) => Layout::Wide,
            _ => return None,
        };
        (other.bytes(rows) < self.bytes(rows)).then_some(other)
    }

    /// An upper bound of the bytes of the smallest index of `rows` rows, with codes that are only
    /// there while it is made.
    pub(super) fn bytes_max(rows: usize) -> u64 {
        Layout::Wide.bytes(rows)
    }

    /// Bytes of an index of `rows` rows.
    pub(super) fn bytes(self, rows: usize) -> u64 {
        let next = 4 * rows as u64;
        let slots = 8 * slot_count(rows) as u64;
        match self {
            Layout::None => 0,
            Layout::Places(places) => 4 * places as u64 + next,
            Layout::Narrow => slots + next,
            Layout::Wide => slots + next + 8 * rows as u64,
        }
    }
}

/// Between a third and two thirds of the slots are taken.
fn slot_count(rows: usize) -> usize {
    (rows + rows / 2).next_power_of_two().max(16)
}

impl Index {
    /// The index of `rows` rows without keys.
    pub(super) fn all(rows: u32) -> Index {
        Index {
            heads: Heads::All,
            next: Vec::new(),
            rows,
        }
    }

    /// The index of `rows` rows with `codes`, entered by up to `threads` threads. Rows with the
    /// code [`MISS`](super::keys::MISS) are left out. A wide layout needs stored codes; with none
    /// there are no codes.
    ///
    /// # Errors
    /// What making the codes answered.
    pub(super) fn new(
        layout: Layout,
        rows: u32,
        codes: Codes<'_>,
        threads: usize,
    ) -> Result<Index> {
        fill::index(layout, rows, codes, threads)
    }

    /// Whether no code has more than one row.
    pub(super) fn is_unique(&self) -> bool {
        match self.heads {
            Heads::All => self.rows <= 1,
            _ => self.next.is_empty(),
        }
    }

    /// The row before `row` that has the same code, or 0.
    #[inline]
    pub(super) fn next(&self, row: u32) -> u32 {
        match self.heads {
            Heads::All if row < self.rows => row + 1,
            Heads::All => 0,
            _ => self.next.get(row as usize - 1).copied().unwrap_or(0),
        }
    }

    /// Overwrites `found` with the last row of each code, or 0. Without keys, `codes` is as long as
    /// there are rows and not read.
    pub(super) fn find(&self, codes: &[u64], found: &mut Vec<u32>) {
        found.clear();
        match &self.heads {
            Heads::All => found.resize(codes.len(), u32::from(self.rows > 0)),
            Heads::Places(places) => {
                let row = |code: &u64| places.get(*code as usize).copied().unwrap_or(0);
                found.extend(codes.iter().map(row));
            }
            Heads::Slots(slots) if slots.codes.is_empty() => slots.find::<true>(codes, found),
            Heads::Slots(slots) => slots.find::<false>(codes, found),
        }
    }
}

impl Slots {
    fn find<const NARROW: bool>(&self, codes: &[u64], found: &mut Vec<u32>) {
        let mut places = [0; TOGETHER];
        for codes in codes.chunks(TOGETHER) {
            for (place, code) in places.iter_mut().zip(codes) {
                *place = (mix(*code) >> self.shift) as usize;
                prefetch(&self.slots, *place);
            }
            let rows = places.iter().zip(codes);
            found.extend(rows.map(|(place, code)| self.search::<NARROW>(*place, *code)));
        }
    }

    #[inline]
    fn search<const NARROW: bool>(&self, mut place: usize, code: u64) -> u32 {
        let check = check::<NARROW>(code, if NARROW { 0 } else { mix(code) });
        loop {
            let slot = self.slots[place];
            let row = slot as u32;
            if row == 0 {
                return 0;
            }
            let same = (slot >> 32) as u32 == check;
            if same && (NARROW || self.codes[row as usize - 1] == code) {
                return row;
            }
            place = place & !self.part_mask | (place + 1) & self.part_mask;
        }
    }
}

/// What a slot keeps of a code: all of it where it is narrow, for what stands for no match is like
/// no narrow code.
#[inline]
fn check<const NARROW: bool>(code: u64, hash: u64) -> u32 {
    if NARROW { code as u32 } else { hash as u32 }
}

#[inline]
fn mix(code: u64) -> u64 {
    let product = u128::from(code ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xd1b5_4a32_d192_ed03u64);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests;
