//! Rows in memory, and what it takes to put them in order.
//!
//! Rows lie in blocks, in the order in which they came; a block has rows of one morsel only, and
//! knows which one. What is sorted is *places*: the prefix of a row's key and where the row is.
//! Once blocks are put in the order of their morsels, rows with equal keys are in the order of the
//! input if they are in that of their places.

use std::cmp::Ordering;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::kernel::view::prefetch;
use crate::limits;
use crate::memory::Reservation;
use crate::operator::sort::Setup;
use crate::operator::sort::keys::Prefix;

/// Bytes of a block to which more rows of the same morsel are added.
const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of rows that become one batch, at most, unless one row alone has more.
pub(super) const BATCH_BYTES: usize = 16 << 20;

/// Rows that are asked for ahead of the one that is looked at.
const AHEAD: usize = 16;

/// Bytes that are fetched from memory at once.
const LINE_BYTES: usize = 64;

/// Bytes that every row takes beside its own: its place, and a part of that once more while places
/// are moved.
pub(super) const ROW_BYTES: usize = size_of::<Place>() + size_of::<Place>() / 4;

/// A row.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) prefix: Prefix,
    pub(super) block: u32,
    /// Where it begins in the block.
    pub(super) start: u32,
}

/// Rows that came one after the other.
pub(super) struct Block {
    /// Which morsel they are from, in the order of the input.
    position: u64,
    bytes: Vec<u8>,
    /// They are of block 0 until blocks have got their numbers.
    places: Vec<Place>,
}

/// Rows of one lane, and the memory for them.
pub(super) struct Held {
    blocks: Vec<Block>,
    pub(super) reservation: Reservation,
    /// Bytes for which nothing was reserved.
    pub(super) unasked: u64,
}

impl Held {
    pub(super) fn new(setup: &Setup) -> Self {
        Held {
            blocks: Vec::new(),
            reservation: setup.memory.reserve(setup.owner),
            unasked: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes that would be free if the rows were not here.
    pub(super) fn bytes(&self) -> u64 {
        self.reservation.bytes() + self.unasked
    }

    /// Takes over the rows of another lane.
    pub(super) fn absorb(&mut self, other: Held) {
        self.blocks.extend(other.blocks);
        self.reservation.absorb(other.reservation);
        self.unasked += other.unasked;
    }

    /// Adds the rows that `laid_out` appends, `rows` of them in `bytes` bytes, which are of the
    /// morsel at `position`.
    ///
    /// # Errors
    /// What `laid_out` answered.
    pub(super) fn add(
        &mut self,
        position: u64,
        (rows, bytes): (usize, usize),
        laid_out: impl FnOnce(&mut Vec<u8>, &mut Vec<Place>) -> Result<()>,
    ) -> Result<()> {
        let fits = |block: &&mut Block| {
            block.position == position && block.bytes.len() + bytes <= BLOCK_BYTES
        };
        if let Some(block) = self.blocks.last_mut().filter(fits) {
            return laid_out(&mut block.bytes, &mut block.places);
        }
        let mut block = Block {
            position,
            bytes: Vec::with_capacity(bytes),
            places: Vec::with_capacity(rows),
        };
        laid_out(&mut block.bytes, &mut block.places)?;
        self.blocks.push(block);
        Ok(())
    }

    /// The rows with their places, a list for each block.
    pub(super) fn into_rows(self) -> (Rows, Vec<Vec<Place>>) {
        let Held {
            mut blocks,
            reservation,
            ..
        } = self;
        blocks.sort_by_key(|block| block.position);
        let mut rows = Rows {
            blocks: Vec::with_capacity(blocks.len()),
            positions: Vec::with_capacity(blocks.len()),
            _reservation: reservation,
        };
        let mut places = Vec::with_capacity(blocks.len());
        for (number, mut block) in (0..).zip(blocks) {
            for place in &mut block.places {
                place.block = number;
            }
            rows.blocks.push(block.bytes);
            rows.positions.push(block.position);
            places.push(block.places);
        }
        (rows, places)
    }
}

/// All places in one list. Those that have been moved do not take memory twice.
pub(super) fn in_one(places: Vec<Vec<Place>>) -> Vec<Place> {
    let mut all = Vec::with_capacity(places.iter().map(Vec::len).sum());
    for some in places {
        all.extend_from_slice(&some);
    }
    all
}

/// Rows that stay where they are.
pub(super) struct Rows {
    blocks: Vec<Vec<u8>>,
    positions: Vec<u64>,
    _reservation: Reservation,
}

impl Rows {
    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }

    #[inline]
    pub(super) fn row(&self, setup: &Setup, place: &Place) -> &[u8] {
        setup
            .layout
            .row(&self.blocks[place.block as usize], place.start as usize)
    }

    /// Which morsel a row is from.
    pub(super) fn position(&self, place: &Place) -> u64 {
        self.positions[place.block as usize]
    }

    /// Compares rows by key; equal ones by where they were in the input.
    #[inline]
    pub(super) fn compare(&self, setup: &Setup, one: &Place, other: &Place) -> Ordering {
        let rows = (
            (one.prefix, || self.row(setup, one)),
            (other.prefix, || self.row(setup, other)),
        );
        let keys = setup.keys.compare(&setup.layout, rows.0, rows.1);
        keys.then_with(|| (one.block, one.start).cmp(&(other.block, other.start)))
    }

    /// Puts rows in order.
    pub(super) fn sort(&self, setup: &Setup, places: &mut [Place]) {
        places.sort_unstable_by(|one, other| self.compare(setup, one, other));
    }

    /// The same, for rows that may be in order piece by piece, as those are that several tasks have
    /// sorted. It finds such pieces and merges them; it takes memory for half of the places.
    pub(super) fn sort_runs(&self, setup: &Setup, places: &mut [Place]) {
        places.sort_by(|one, other| self.compare(setup, one, other));
    }

    /// Hands the rows at `places` to `take`, in this order.
    pub(super) fn pick<'a>(
        &'a self,
        setup: &Setup,
        places: &[Place],
        mut take: impl FnMut(&Place, &'a [u8]) -> Result<()>,
    ) -> Result<()> {
        for (index, place) in places.iter().enumerate() {
            if let Some(place) = places.get(index + AHEAD) {
                let block = &self.blocks[place.block as usize];
                prefetch(block, place.start as usize);
                prefetch(block, place.start as usize + LINE_BYTES);
            }
            take(place, self.row(setup, place))?;
        }
        Ok(())
    }

    /// The rows at `places`, in this order, batch by batch.
    pub(super) fn batches(
        &self,
        setup: &Setup,
        places: &[Place],
        emit: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        self.pick(setup, places, |_, row| match batch.add(row) {
            true => emit(setup.layout.batch(&batch.take())?),
            false => Ok(()),
        })?;
        match batch.rows.is_empty() {
            true => Ok(()),
            false => emit(setup.layout.batch(&batch.rows)?),
        }
    }
}

/// Rows that become a batch.
#[derive(Default)]
struct Batch<'a> {
    rows: Vec<&'a [u8]>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    /// Adds a row; says whether they are enough.
    fn add(&mut self, row: &'a [u8]) -> bool {
        self.rows.push(row);
        self.bytes += row.len();
        self.rows.len() >= limits::BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Vec<&'a [u8]> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}
