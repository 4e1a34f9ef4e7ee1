//! Entering all rows into an index, by all threads at once and without a lock.
//!
//! Each thread owns a range of places, reads all codes and enters those that fall into its range.
//! Where it turns out that codes repeat, or that a range has no room left, all of it starts over
//! with what it lacked: most build sides have no key twice, and then need no chains.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrow::array::ArrayRef;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::{Heads, Index, Layout, Slots, check, mix, slot_count};
use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::join::keys::{Encoder, MISS};

/// Rows from which building is worth several threads.
pub(super) const PARALLEL_ROWS: usize = 1 << 16;

/// Most threads that build one index; each of them reads every code.
pub(super) const PARTS_MAX: usize = 16;

/// The codes of all rows.
pub(in crate::operator::join) enum Codes<'a> {
    /// As numbers.
    Stored(Vec<u64>),
    /// As keys, some rows at a time, from which every thread makes the codes anew: cheaper than
    /// memory, where keys are whole numbers.
    Keys(&'a Encoder, Vec<&'a [ArrayRef]>),
}

impl Codes<'_> {
    /// Calls `visit` with the number (from 0) of a row and the codes of that row and of those
    /// behind it, until all rows were visited or it does not want to go on.
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
enum Go {
    On,
    /// A code has come a second time and there is nowhere to note it.
    Repeated,
    /// A part has no slots left.
    Full,
}

/// The index of `rows` rows with `codes`.
pub(super) fn index(layout: Layout, rows: u32, codes: Codes<'_>, threads: usize) -> Result<Index> {
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
            Layout::None => (Heads::All, Go::On),
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
