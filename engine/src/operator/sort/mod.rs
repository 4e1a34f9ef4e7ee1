//! All rows in an order, and rows with equal keys in that of the input.
//!
//! Lanes lay rows out as bytes ([`layout`]), with a prefix of each key ([`keys`]), and hold them
//! ([`held`]). In the end the order is cut into buckets, each of which is a morsel: the lane that
//! takes it sorts it and makes columns of it again ([`buckets`]).
//!
//! Where memory is refused, the lane that wants it sorts what one of the lanes holds, mostly
//! itself, and writes it to disk as a run ([`run`]). In the end everything is on disk then, and
//! lanes merge ranges of all runs ([`spilled`], [`merge`]). So rows do not have to fit into memory,
//! and no lane waits for another.

mod layout;

mod keys;

mod held;

mod buckets;

mod run;

mod merge;

mod spilled;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::expr::SortKey;
use crate::limits;
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::operator::order::Order;
use crate::operator::{Breaker, Emit, Morsel, Operator};
use held::{Held, Place, ROW_BYTES};
use keys::Keys;
use layout::Layout;
use run::SortedRun;

/// What errors call the operator.
const OWNER: &str = "sort";

/// Bytes of rows that one morsel emits, about, and those where there is little memory.
const MORSEL_BYTES: u64 = 8 << 20;
const MORSEL_BYTES_MIN: u64 = 256 << 10;

/// Bytes of rows of a block of a run, about: one of each run is in memory while they are merged.
const RUN_BLOCK_BYTES: u64 = 512 << 10;
const RUN_BLOCK_BYTES_MIN: u64 = 32 << 10;

/// Such blocks that the budget has room for.
const RUN_BLOCKS: u64 = 2048;

/// Bytes that a lane holds without asking for them, where it is refused more: enough for a run to
/// be worth a file. Nobody spills less than this either.
const UNASKED_BYTES: u64 = 1 << 20;

/// Bytes of rows of a batch that are laid out at once, at most: places in a block have 32 bits.
const LAID_OUT_BYTES_MAX: usize = 1 << 30;

/// Bytes that are left to others: those before the sort, who read large pieces at once, and those
/// behind it, who write its rows out while it still holds them. As a share of the budget (1 / this)
/// where that is much, at least so many, but never more than another share.
const LEFT_SHARE: u64 = 8;
const LEFT_BYTES_MIN: u64 = 128 << 20;
const LEFT_SHARE_MAX: u64 = 3;

/// All rows in an order.
pub struct Sort(Arc<Setup>);

/// What lanes and morsels share.
struct Setup {
    owner: &'static str,
    layout: Layout,
    keys: Keys,
    memory: Arc<MemoryBudget>,
    cancel: CancelToken,
    metrics: Arc<TaskMetrics>,
    morsel_bytes: u64,
    block_bytes: usize,
    /// What lanes hold. Each is locked by its lane and by one that needs memory, and none together
    /// with another.
    lanes: Mutex<Vec<Arc<Mutex<Held>>>>,
    runs: Mutex<Vec<SortedRun>>,
    /// Runs that have a number.
    numbered: AtomicU32,
}

impl Sort {
    /// Rows of `schema` in the order of `keys`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    pub fn new(keys: &[SortKey], schema: &SchemaRef, ctx: &TaskContext) -> Result<Arc<Self>> {
        let setup = Setup {
            cancel: ctx.cancel.clone(),
            metrics: Arc::clone(&ctx.metrics),
            ..Setup::new(keys, schema, &ctx.memory)?
        };
        Ok(Arc::new(Sort(Arc::new(setup))))
    }

    /// The same, with no more of a context than the memory to reserve from.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn within(
        keys: &[SortKey],
        schema: &SchemaRef,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self> {
        Ok(Sort(Arc::new(Setup::new(keys, schema, memory)?)))
    }
}

impl Setup {
    fn new(keys: &[SortKey], schema: &SchemaRef, memory: &Arc<MemoryBudget>) -> Result<Self> {
        let order = Order::new(keys, schema)?;
        let layout = Layout::new(schema, Keys::are_kept(&order))?;
        let share = |of: u64| memory.limit() / of;
        let block_bytes = share(RUN_BLOCKS).clamp(RUN_BLOCK_BYTES_MIN, RUN_BLOCK_BYTES);
        Ok(Setup {
            owner: OWNER,
            keys: Keys::new(order, &layout)?,
            layout,
            memory: Arc::clone(memory),
            cancel: CancelToken::default(),
            metrics: Arc::default(),
            morsel_bytes: share(64).clamp(MORSEL_BYTES_MIN, MORSEL_BYTES),
            block_bytes: usize::try_from(block_bytes).unwrap_or(usize::MAX),
            lanes: Mutex::default(),
            runs: Mutex::default(),
            numbered: AtomicU32::new(0),
        })
    }

    /// Sorts rows and writes them to disk.
    fn spill(&self, (held, number): (Held, u32)) -> Result<()> {
        let run = SortedRun::write(self, held, number)?;
        locked(&self.runs).push(run);
        Ok(())
    }

    /// The rows of a lane and the number of the run that they will be. Whoever takes rows of the
    /// same lane later gets a higher one.
    fn take(&self, lane: &Mutex<Held>) -> (Held, u32) {
        let mut held = locked(lane);
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        (std::mem::replace(&mut *held, Held::new(self)), number)
    }

    /// Gets memory by spilling what the lane holds that has most; false if none has much.
    fn make_room(&self) -> Result<bool> {
        let lanes = locked(&self.lanes).clone();
        let largest = lanes.iter().max_by_key(|lane| locked(lane).bytes());
        let Some(lane) = largest.filter(|lane| locked(lane).bytes() > UNASKED_BYTES) else {
            return Ok(false);
        };
        let taken = self.take(lane);
        match taken.0.is_empty() {
            true => Ok(false),
            false => self.spill(taken).map(|()| true),
        }
    }

    /// Reserves memory for rows, if some is left for those behind the sort.
    fn try_reserve(&self, held: &mut Held, bytes: u64) -> bool {
        let limit = self.memory.limit();
        let left = (limit / LEFT_SHARE).max(LEFT_BYTES_MIN.min(limit / LEFT_SHARE_MAX));
        self.memory.free() >= bytes.saturating_add(left) && held.reservation.try_grow(bytes)
    }
}

/// Into how many sequences of `wanted` bytes rows of `bytes` are cut: each lane has one at least
/// where that is worth a file.
fn sequence_count(bytes: u64, wanted: Option<u64>) -> usize {
    let Some(wanted) = wanted else {
        return 1;
    };
    let for_lanes = (bytes / limits::SEQUENCE_BYTES_MIN).min(rayon::current_num_threads() as u64);
    let count = bytes.div_ceil(wanted.max(1)).max(for_lanes).max(1);
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Breaker for Sort {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        let setup = Arc::clone(&self.0);
        let held = Arc::new(Mutex::new(Held::new(&setup)));
        locked(&setup.lanes).push(Arc::clone(&held));
        let lane = Lane {
            setup,
            held,
            position: 0,
            starts: Vec::new(),
        };
        Ok(Box::new(lane))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        Ok(self.sequences(None)?.into_iter().flatten().collect())
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn sequences(&self, bytes: Option<u64>) -> Result<Vec<Vec<Morsel>>> {
        let setup = &self.0;
        let lanes = std::mem::take(&mut *locked(&setup.lanes));
        let rows = lanes.iter().map(|lane| setup.take(lane));
        let mut rows: Vec<(Held, u32)> = rows.filter(|(held, _)| !held.is_empty()).collect();
        let wanted = |total| sequence_count(total, bytes);
        if locked(&setup.runs).is_empty() {
            let Some((mut all, _)) = rows.pop() else {
                return Ok(Vec::new());
            };
            for (held, _) in rows {
                all.absorb(held);
            }
            return buckets::sequences(setup, all, wanted);
        }
        // The rest goes to disk too, or it would take the memory that merging needs.
        let spill = |rows| setup.spill(rows);
        rows.into_par_iter().try_for_each(spill)?;
        let runs = std::mem::take(&mut *locked(&setup.runs));
        spilled::sequences(setup, runs, wanted)
    }
}

/// Lays rows out and holds them.
struct Lane {
    setup: Arc<Setup>,
    held: Arc<Mutex<Held>>,
    /// Which morsel rows are of.
    position: u64,
    starts: Vec<u32>,
}

impl Lane {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let setup = Arc::clone(&self.setup);
        let keys = setup.keys.of(batch)?;
        let input = setup.layout.rows(batch, keys.rows())?;
        let (count, bytes) = (batch.num_rows(), setup.layout.bytes(&input));
        if bytes > LAID_OUT_BYTES_MAX && count > 1 {
            let half = count / 2;
            self.add(&batch.slice(0, half))?;
            return self.add(&batch.slice(half, count - half));
        }
        let starts = &mut self.starts;
        starts.clear();
        let lay_out = |out: &mut Vec<u8>, places: &mut Vec<Place>| {
            setup.layout.append(&input, out, starts)?;
            let mut starts = starts.iter();
            keys.prefixes(|prefix| {
                places.extend(starts.next().map(|&start| Place {
                    prefix,
                    block: 0,
                    start,
                }));
            });
            Ok(())
        };
        let room = (bytes + count * ROW_BYTES) as u64;
        let mut asked = setup.try_reserve(&mut locked(&self.held), room);
        while !asked && setup.make_room()? {
            asked = setup.try_reserve(&mut locked(&self.held), room);
        }
        let mut held = locked(&self.held);
        held.add(self.position, (count, bytes), lay_out)?;
        if asked {
            return Ok(());
        }
        held.unasked += room;
        let is_much = held.unasked > UNASKED_BYTES;
        drop(held);
        match is_much {
            true => setup.spill(setup.take(&self.held)),
            false => Ok(()),
        }
    }
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        self.setup.cancel.check()?;
        match batch.num_rows() {
            0 => Ok(()),
            _ => self.add(&batch),
        }
    }

    fn begin_morsel(&mut self, position: u64) {
        self.position = position;
    }
}
