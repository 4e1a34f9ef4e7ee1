//! Taking build rows until all are there, in memory or on disk.
//!
//! Batches come from several threads: each is reduced at once to the columns that are needed, and
//! to the rows that can have a match unless the kind emits the others too. Where there is no
//! memory for more, the rows of some partitions go to disk, the largest first, and so do their
//! rows that come later: whatever is in memory at any time is of partitions that are there as a
//! whole.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::operator::join::filters::Filters;
use crate::operator::join::partition::{PARTITIONS, Partitions, Places, Split};
use crate::operator::join::room::Room;
use crate::operator::join::scatter::Scatter;
use crate::operator::join::spilled::SpilledRows;
use crate::operator::join::table::{FilterRequest, JoinTable, Plan, PlanBytes};
use crate::operator::join::{JoinSpec, Resources, piece};

/// Rows of one table: they are numbered with 32 bits.
pub(super) const ROWS_MAX: usize = u32::MAX as usize - 1;

/// Takes build rows until all are there.
pub struct Builder {
    spec: Arc<JoinSpec>,
    requests: Vec<FilterRequest>,
    resources: Resources,
    level: u32,
    /// About how many rows come, if that is known.
    expected: Option<usize>,
    taken: Mutex<Taken>,
    /// Ends that no thread has at the moment. Locked on its own, or under `taken`.
    scatters: Mutex<Vec<Scatter>>,
}

/// The rows in memory.
struct Taken {
    pieces: Vec<RecordBatch>,
    rows: usize,
    room: Room,
    /// Partitions that have no rows here.
    spilled: Partitions,
    /// Made of all rows once some are spilled: of those that are here then, and of all that come.
    filters: Option<Arc<Filters>>,
}

impl Taken {
    /// Adds the rows of `piece`, if there is memory for them.
    fn try_push(&mut self, piece: &RecordBatch) -> bool {
        let rows = self.rows + piece.num_rows();
        let fits = rows <= ROWS_MAX && self.room.try_grow(piece::bytes(piece));
        if fits {
            self.rows = rows;
            self.pieces.push(piece.clone());
        }
        fits
    }
}

impl Builder {
    /// A builder of the table that `spec` wants.
    pub fn new(spec: Arc<JoinSpec>, requests: Vec<FilterRequest>, resources: &Resources) -> Self {
        let taken = Taken {
            pieces: Vec::new(),
            rows: 0,
            room: Room::new(resources, u64::MAX),
            spilled: Partitions::default(),
            filters: None,
        };
        Builder {
            spec,
            requests,
            resources: resources.clone(),
            level: 0,
            expected: None,
            taken: Mutex::new(taken),
            scatters: Mutex::default(),
        }
    }

    /// Lets the table take no more than `bytes` of memory.
    #[must_use]
    pub fn with_cap(self, bytes: u64) -> Self {
        locked(&self.taken).room = Room::new(&self.resources, bytes);
        self
    }

    /// Lets filters be made for about so many rows, if some of these go to disk.
    #[must_use]
    pub fn expecting(self, rows: usize) -> Self {
        Builder {
            expected: Some(rows),
            ..self
        }
    }

    /// Spills by the bits of `level`.
    #[must_use]
    pub(super) fn at_level(self, level: u32) -> Self {
        Builder { level, ..self }
    }

    /// Takes the rows of `batch`. May be called by several threads at once.
    ///
    /// # Errors
    /// `Exhausted` if there is room for them neither in memory nor on disk; `Invalid` if a key
    /// cannot be computed.
    pub fn add(&self, batch: &RecordBatch) -> Result<()> {
        self.resources.cancel.check()?;
        self.add_piece(piece::of(&self.spec, batch)?)
    }

    /// Takes the rows of a piece.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub(super) fn add_piece(&self, mut piece: RecordBatch) -> Result<()> {
        // Partitions whose rows are no longer in the piece.
        let mut written = Partitions::default();
        while piece.num_rows() > 0 {
            let filters = {
                let mut taken = locked(&self.taken);
                if taken.spilled == written {
                    if taken.try_push(&piece) {
                        return Ok(());
                    }
                    let kept = taken.rows / 3 * 2;
                    self.keep_at_most(kept, self.expected, &mut taken)?;
                }
                let is_new = written.is_empty();
                written = taken.spilled;
                taken.filters.clone().filter(|_| is_new)
            };
            let keys = self.spec.keys_of(&piece);
            if let Some(filters) = filters {
                filters.add(&keys)?;
            }
            let places = Places::new(&keys, self.level)?;
            piece = self.spill(piece, places, written)?;
        }
        Ok(())
    }

    /// Writes those rows of `piece` to disk that belong to `partitions`; gives back the others.
    fn spill(
        &self,
        piece: RecordBatch,
        places: Places,
        partitions: Partitions,
    ) -> Result<RecordBatch> {
        let Split { others, chosen } = Split::new(piece, places, partitions)?;
        if let Some((rows, places)) = chosen {
            let scatter = locked(&self.scatters).pop();
            let mut scatter = match scatter {
                Some(scatter) => scatter,
                None => Scatter::new(&self.resources, self.spec.piece_schema())?,
            };
            scatter.push(rows, &places)?;
            locked(&self.scatters).push(scatter);
        }
        Ok(others)
    }

    /// Spills partitions, at least one and the largest first, until at most `rows` rows are in
    /// memory. About `expected` come in all, if that is known.
    fn keep_at_most(&self, rows: usize, expected: Option<usize>, taken: &mut Taken) -> Result<()> {
        if taken.spilled.is_empty() {
            taken.filters = self.filters(expected, &taken.pieces)?;
        }
        let mut counts = [0; PARTITIONS];
        let mut places = Vec::with_capacity(taken.pieces.len());
        for piece in &taken.pieces {
            self.resources.cancel.check()?;
            let of_piece = Places::new(&self.spec.keys_of(piece), self.level)?;
            of_piece.count(piece.num_rows(), &mut counts);
            places.push(of_piece);
        }
        let spilled = &mut taken.spilled;
        if taken.rows == 0 {
            // What there is no memory for has not come yet.
            spilled.add_half();
        }
        let mut order: Vec<usize> = (0..PARTITIONS).collect();
        order.sort_by_key(|partition| Reverse(counts[*partition]));
        let mut left = taken.rows;
        let mut more = order.into_iter().filter(|partition| counts[*partition] > 0);
        while let Some(partition) = more.next().filter(|_| left > rows || left == taken.rows) {
            spilled.add(partition);
            left -= counts[partition];
        }
        let spilled = *spilled;
        let pieces = std::mem::take(&mut taken.pieces);
        let mut bytes = 0;
        for (piece, places) in pieces.into_iter().zip(places) {
            let others = self.spill(piece, places, spilled)?;
            if others.num_rows() > 0 {
                bytes += piece::bytes(&others);
                taken.pieces.push(others);
            }
        }
        taken.rows = left;
        taken.room.shrink(taken.room.bytes().saturating_sub(bytes));
        Ok(())
    }

    /// Filters to be made while rows come, with the rows of `pieces`.
    fn filters(
        &self,
        expected: Option<usize>,
        pieces: &[RecordBatch],
    ) -> Result<Option<Arc<Filters>>> {
        let filters = expected.and_then(|rows| Filters::new(&self.requests, rows, &self.resources));
        if let Some(filters) = &filters {
            for piece in pieces {
                self.resources.cancel.check()?;
                filters.add(&self.spec.keys_of(piece))?;
            }
        }
        Ok(filters.map(Arc::new))
    }

    /// The table of all rows taken. Runs on the calling pool's threads.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub fn finish(self) -> Result<JoinTable> {
        let (plan, bytes) = self.plan()?;
        self.resources.cancel.check()?;
        let Builder {
            spec,
            requests,
            resources,
            level,
            taken,
            scatters,
            ..
        } = self;
        let taken = taken.into_inner().unwrap_or_else(PoisonError::into_inner);
        let scatters = scatters.into_inner();
        let scatters = scatters.unwrap_or_else(PoisonError::into_inner);
        let runs = scatters.into_iter().map(Scatter::finish);
        let runs = runs.collect::<Result<Vec<_>>>()?;
        resources.cancel.check()?;
        let requests = if runs.is_empty() {
            requests
        } else {
            Vec::new()
        };
        let mut table = plan.table(&spec, &requests, taken.pieces, (taken.room, bytes))?;
        if !runs.is_empty() {
            let filters = taken.filters.and_then(Arc::into_inner);
            table.spilled = Some(SpilledRows::new(runs, level, filters.map(Filters::finish)));
        }
        Ok(table)
    }

    /// How to make the table of what is in memory: all of it, or so much that there is memory for
    /// what the table takes beside.
    fn plan(&self) -> Result<(Plan, PlanBytes)> {
        let mut taken = locked(&self.taken);
        loop {
            self.resources.cancel.check()?;
            let mut plan = Some(Plan::new(&self.spec, &taken.pieces, taken.rows)?);
            let mut least = u64::MAX;
            while let Some(some) = plan {
                let requests = match taken.spilled.is_empty() {
                    true => self.requests.as_slice(),
                    false => &[],
                };
                let bytes = some.bytes(&self.spec, requests, &taken.pieces);
                if taken.room.try_grow(bytes.sum()) {
                    return Ok((some, bytes));
                }
                if taken.rows == 0 {
                    taken.room.grow(bytes.sum());
                    return Ok((some, bytes));
                }
                least = least.min(bytes.sum());
                plan = some.smaller();
            }
            // In thousandths, and a little less than would fit as it seems.
            let wanted = taken.room.bytes().saturating_add(least);
            let fits = taken.room.bytes_max().saturating_mul(950) / wanted.max(1);
            let kept = taken.rows as u64 * fits.min(900) / 1000;
            let rows = taken.rows;
            self.keep_at_most(kept as usize, Some(rows), &mut taken)?;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
