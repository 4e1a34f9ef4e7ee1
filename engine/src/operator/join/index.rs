//! From the code of a key to the build rows that have it.
//!
//! A code leads to the last row that has it, and each row to the one before: a chain, which is only
//! stored if any code appears twice. Rows are numbered from 1 here, so that 0 is no row. Where
//! the codes lie close together they are places in an array; otherwise they are hashed into slots of
//! eight bytes, half of which tells most other codes apart without a look elsewhere.
//!
//! The index is built by all threads at once without a lock: each owns a range of places, reads all
//! codes and enters those that fall into its range.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrow::array::ArrayRef;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::error::Result;
use crate::kernel::view::prefetch;
use crate::limits::BATCH_ROWS;
use crate::operator::join::keys::{Encoder, MISS};

/// An array of places may have so many for each row.
const PLACES_PER_ROW: u64 = 8;

/// An array of so many places is always small enough.
const PLACES_SMALL: u64 = 1 << 20;

/// Rows from which building is worth several threads.
const PARALLEL_ROWS: usize = 1 << 16;

/// Most threads that build one index; each of them reads every code.
const PARTS_MAX: usize = 16;

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
    Places(usize),
    /// Codes of at most 32 bits.
    Narrow,
    Wide,
}

/// The codes of all rows.
pub(super) enum Codes<'a> {
    /// As numbers.
    Stored(Vec<u64>),
    /// As keys, some rows at a time, from which every thread makes the codes anew: cheaper than
    /// memory, where keys are whole numbers.
    Keys(&'a Encoder, Vec<&'a [ArrayRef]>),
}

impl Codes<'_> {
    /// Calls `visit` with the number (from 0) of a row and the codes of that row and of those behind
    /// it, until all rows were visited or it does not want to go on.
    fn visit(&self, mut visit: impl FnMut(usize, &[u64]) -> Go) -> Result<Go> {
        match self {
            Codes::Stored(codes) => {
                for (chunk, codes) in codes.chunks(BATCH_ROWS).enumerate() {
                    let go = visit(chunk * BATCH_ROWS, codes);
                    if go != Go::On {
                        return Ok(go);
                    }
                }
            }
            Codes::Keys(encoder, pieces) => {
                let (mut codes, mut first) = (Vec::new(), 0);
                for keys in pieces {
                    encoder.encode(keys, &mut codes)?;
                    let go = visit(first, &codes);
                    if go != Go::On {
                        return Ok(go);
                    }
                    first += codes.len();
                }
            }
        }
        Ok(Go::On)
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    /// A code has come a second time and there is nowhere to note it.
    Repeated,
    /// A part has no slots left.
    Full,
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

    /// Bytes of an index of `rows` rows.
    pub(super) fn bytes(self, rows: usize) -> u64 {
        let next = 4 * rows as u64;
        let slots = 8 * slot_count(rows) as u64;
        match self {
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
    /// code [`MISS`] are left out. A wide layout needs stored codes.
    ///
    /// # Errors
    /// What making the codes answered.
    pub(super) fn new(
        layout: Layout,
        rows: u32,
        codes: Codes<'_>,
        threads: usize,
    ) -> Result<Index> {
        let parts = match (rows as usize) < PARALLEL_ROWS {
            true => 1,
            false => threads.next_power_of_two().min(PARTS_MAX),
        };
        let mut attempt = Attempt {
            layout,
            rows,
            codes,
            parts,
            next: None,
            stopped: AtomicBool::new(false),
        };
        loop {
            let (heads, go) = attempt.heads()?;
            match go {
                Go::On => return Ok(attempt.index(heads)),
                Go::Repeated => {
                    attempt.next = Some((0..rows).map(|_| AtomicU32::new(0)).collect());
                }
                Go::Full => attempt.parts = 1,
            }
            attempt.stopped = AtomicBool::new(false);
        }
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

/// A build under way: started over where it turns out that more is needed.
struct Attempt<'a> {
    layout: Layout,
    rows: u32,
    codes: Codes<'a>,
    parts: usize,
    /// Atomic because any thread may enter any row; each row is entered by one.
    next: Option<Vec<AtomicU32>>,
    stopped: AtomicBool,
}

impl Attempt<'_> {
    fn heads(&self) -> Result<(Heads, Go)> {
        Ok(match self.layout {
            Layout::Places(count) => {
                let mut places = vec![0; count];
                let part = count.div_ceil(self.parts).max(1);
                let parts = places.par_chunks_mut(part).enumerate();
                let parts = parts.map(|(number, places)| self.fill_places(number * part, places));
                let go = parts.try_reduce(|| Go::On, first_reason)?;
                (Heads::Places(places), go)
            }
            Layout::Narrow | Layout::Wide => {
                let count = slot_count(self.rows as usize);
                let part = count / self.parts;
                let mut slots = Slots {
                    slots: vec![0; count],
                    part_mask: part - 1,
                    shift: 64 - count.trailing_zeros(),
                    codes: Vec::new(),
                };
                let shift = slots.shift;
                let parts = slots.slots.par_chunks_mut(part).enumerate();
                let parts = parts.map(|(number, slots)| match self.layout {
                    Layout::Narrow => self.fill_slots::<true>(number * part, shift, slots),
                    _ => self.fill_slots::<false>(number * part, shift, slots),
                });
                let go = parts.try_reduce(|| Go::On, first_reason)?;
                (Heads::Slots(slots), go)
            }
        })
    }

    /// Enters what belongs to the places from `first` on.
    fn fill_places(&self, first: usize, places: &mut [u32]) -> Result<Go> {
        let first = first as u64;
        self.visit(|row, codes| {
            for (row, code) in (row as u32 + 1..).zip(codes) {
                let place = code.wrapping_sub(first);
                if let Some(head) = places.get_mut(place as usize) {
                    if *head != 0 && !self.follow(row, *head) {
                        return Go::Repeated;
                    }
                    *head = row;
                }
            }
            Go::On
        })
    }

    /// Enters what belongs to the part of the slots from `first` on.
    fn fill_slots<const NARROW: bool>(
        &self,
        first: usize,
        shift: u32,
        slots: &mut [u64],
    ) -> Result<Go> {
        let mask = slots.len() - 1;
        let mut free = slots.len() - slots.len() / 8;
        let stored = self.stored();
        self.visit(|row, codes| {
            for (row, &code) in (row as u32 + 1..).zip(codes) {
                let hash = mix(code);
                let mut place = ((hash >> shift) as usize).wrapping_sub(first);
                if place >= slots.len() || code == MISS {
                    continue;
                }
                let check = check::<NARROW>(code, hash);
                loop {
                    let slot = slots[place];
                    if slot == 0 {
                        free -= 1;
                        break;
                    }
                    let same = (slot >> 32) as u32 == check
                        && (NARROW || stored[slot as u32 as usize - 1] == code);
                    if same && !self.follow(row, slot as u32) {
                        return Go::Repeated;
                    }
                    if same {
                        break;
                    }
                    place = (place + 1) & mask;
                }
                slots[place] = u64::from(check) << 32 | u64::from(row);
                if free == 0 {
                    return Go::Full;
                }
            }
            Go::On
        })
    }

    fn stored(&self) -> &[u64] {
        match &self.codes {
            Codes::Stored(codes) => codes,
            Codes::Keys(..) => &[],
        }
    }

    /// Visits all codes, unless another thread has found that this is in vain.
    fn visit(&self, mut visit: impl FnMut(usize, &[u64]) -> Go) -> Result<Go> {
        let stopped = Cell::new(false);
        let go = self.codes.visit(|row, codes| {
            if self.stopped.load(Ordering::Relaxed) {
                stopped.set(true);
                return Go::Full;
            }
            visit(row, codes)
        })?;
        if go != Go::On {
            self.stopped.store(true, Ordering::Relaxed);
        }
        // Whoever stopped first says why.
        Ok(if stopped.get() { Go::On } else { go })
    }

    /// Notes that `row` has the code that `before` has; false if there is nowhere to note it.
    #[inline]
    fn follow(&self, row: u32, before: u32) -> bool {
        let Some(next) = &self.next else {
            return false;
        };
        next[row as usize - 1].store(before, Ordering::Relaxed);
        true
    }

    fn index(self, mut heads: Heads) -> Index {
        if let (Heads::Slots(slots), Layout::Wide, Codes::Stored(codes)) =
            (&mut heads, self.layout, self.codes)
        {
            slots.codes = codes;
        }
        let next = self.next.unwrap_or_default().into_iter();
        Index {
            heads,
            next: next.map(AtomicU32::into_inner).collect(),
            rows: self.rows,
        }
    }
}

fn first_reason(a: Go, b: Go) -> Result<Go> {
    Ok(if a == Go::On { b } else { a })
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

/// What a slot keeps of a code: all of it where it is narrow. [`MISS`] is like no narrow code.
#[inline]
fn check<const NARROW: bool>(code: u64, hash: u64) -> u32 {
    if NARROW { code as u32 } else { hash as u32 }
}

#[inline]
fn mix(code: u64) -> u64 {
    let product = u128::from(code ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xd1b5_4a32_d192_ed03u64);
    product as u64 ^ (product >> 64) as u64
}
