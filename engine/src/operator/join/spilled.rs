//! Partitions on disk, each to be joined on its own.
//!
//! Once all probe rows have come, the rows of a partition, of both sides, are a join of their own,
//! smaller than the first one by a factor: [`work`](super::work) for all lanes. If its build rows
//! fit into memory it is done as any other; if not, it spills in turn, by other bits of the hash.
//! Where one key has so many rows that splitting is in vain, [`chunks`](super::chunks) does
//! without.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::kernel::key_filter::KeyFilter;
use crate::operator::join::filters::MadeFilters;
use crate::operator::join::partition::{PARTITIONS, Partitions};
use crate::operator::join::work::{Pool, Work};
use crate::operator::join::{Join, JoinSpec, Resources};
use crate::operator::{Breaker, Emit, Morsel, Operator};
use crate::spill::{Run, RunReader};

/// Levels by which rows are split, at most: a million parts.
const LEVELS: u32 = 4;

/// A partition with more than one of so many rows is not split again: with so many it has a key
/// that would be as large as it is.
const STUBBORN_SHARE: u64 = 4;

/// Probe rows of a partition with more than one of so many of them are joined by several lanes,
/// each with the same build rows, unless these come out by themselves.
const SHARED_SHARE: u64 = 8;

/// The build rows of a table for which there was no memory.
pub(super) struct SpilledRows {
    /// By which bits they are split.
    pub(super) level: u32,
    /// Of each partition.
    runs: Vec<Vec<Run>>,
    /// Filters of all keys of the table.
    filters: Option<MadeFilters>,
}

impl SpilledRows {
    /// The rows of some files, each of which has a run of each partition of `level`.
    pub(super) fn new(files: Vec<Vec<Run>>, level: u32, filters: Option<MadeFilters>) -> Self {
        SpilledRows {
            level,
            runs: by_partition(files),
            filters,
        }
    }

    /// The filters that were asked for, of all keys of the table; none if there are none.
    pub(super) fn filters(&self) -> &[Arc<KeyFilter>] {
        self.filters.as_ref().map_or(&[], |made| &made.filters)
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        self.runs.iter().map(|runs| rows(runs)).sum()
    }

    /// The partitions that have rows.
    pub(super) fn partitions(&self) -> Partitions {
        let mut partitions = Partitions::default();
        for (number, runs) in self.runs.iter().enumerate() {
            if !runs.is_empty() {
                partitions.add(number);
            }
        }
        partitions
    }
}

/// The runs of each partition, without those that are empty.
fn by_partition(files: Vec<Vec<Run>>) -> Vec<Vec<Run>> {
    let mut runs = vec![Vec::new(); PARTITIONS];
    for file in files {
        for (runs, run) in runs.iter_mut().zip(file) {
            runs.extend(Some(run).filter(|run| !run.is_empty()));
        }
    }
    runs
}

/// The rows of runs, block by block.
pub(super) struct Blocks {
    /// Those that are not done, the next one last.
    runs: Vec<Run>,
    open: Option<RunReader>,
}

impl Blocks {
    pub(super) fn new(runs: &[Run]) -> Self {
        Blocks {
            runs: runs.iter().rev().cloned().collect(),
            open: None,
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(block) = self.open.as_mut().and_then(Iterator::next) {
                return Some(block);
            }
            self.open = Some(self.runs.pop()?.read());
        }
    }
}

/// How many rows runs have.
pub(super) fn rows(runs: &[Run]) -> u64 {
    runs.iter().map(Run::rows).sum()
}

/// The rows of a partition, of both sides.
pub(super) struct Partition {
    pub(super) spec: Arc<JoinSpec>,
    pub(super) resources: Resources,
    pub(super) build: Vec<Run>,
    pub(super) probe: Vec<Run>,
    /// The level at which it may be split.
    pub(super) level: u32,
    /// It is not to be split.
    is_stubborn: bool,
}

impl Partition {
    /// Whether it is split, if it is too large.
    pub(super) fn is_split(&self) -> bool {
        !self.is_stubborn && self.level < LEVELS
    }

    /// Bytes that a table of one lane may take: others have one too, and rows go on from here.
    pub(super) fn cap(&self) -> u64 {
        let lanes = rayon::current_num_threads() as u64;
        self.resources.memory.free() / (lanes + 1)
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64 {
        let runs = self.build.iter().chain(&self.probe);
        runs.map(Run::bytes).sum()
    }
}

impl Join {
    /// Takes probe rows of a lane whose partitions are on disk, a run of each.
    pub(super) fn keep_probe_rows(&self, runs: Vec<Run>) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.push(runs);
    }

    /// The partitions that are still to be joined, the largest last.
    pub(super) fn partitions(&self) -> Vec<Work> {
        let Some(spilled) = &self.table.spilled else {
            return Vec::new();
        };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let probes = by_partition(std::mem::take(&mut *probes));
        let all = self.table.rows();
        let has_keys = !self.spec.key_types.is_empty();
        let all_probes: u64 = probes.iter().map(|runs| rows(runs)).sum();
        let emits_build_rows = self.spec.kind.emits_build_rows();
        let mut parts = Vec::new();
        for (build, probe) in spilled.runs.iter().zip(probes) {
            if build.is_empty() || probe.is_empty() && !emits_build_rows {
                continue;
            }
            let part = |probe: &[Run]| Partition {
                spec: Arc::clone(&self.spec),
                resources: self.resources.clone(),
                build: build.clone(),
                probe: probe.to_vec(),
                level: spilled.level + 1,
                is_stubborn: rows(build) > all / STUBBORN_SHARE || !has_keys,
            };
            // Lanes share in the work where one key has many probe rows.
            match rows(&probe) > all_probes / SHARED_SHARE && !emits_build_rows {
                true => parts.extend(probe.chunks(1).map(part)),
                false => parts.push(part(&probe)),
            }
        }
        parts.sort_by_key(Partition::bytes);
        parts.into_iter().map(Work::Partition).collect()
    }
}

/// The join as a breaker, whose morsels are build rows that come out by themselves and what is on
/// disk. The table is let go of as soon as nobody needs it: its memory is for the tables of
/// partitions.
pub(super) struct Rest {
    join: Mutex<Option<Arc<Join>>>,
    pool: Arc<Pool>,
}

impl Rest {
    pub(super) fn new(join: Arc<Join>) -> Self {
        Rest {
            join: Mutex::new(Some(join)),
            pool: Arc::default(),
        }
    }

    fn join(&self) -> MutexGuard<'_, Option<Arc<Join>>> {
        self.join.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breaker for Rest {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        match &*self.join() {
            Some(join) => join.lane(),
            None => Err(Error::internal("a lane of a join that has ended")),
        }
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let Some(join) = self.join().take() else {
            return Ok(Vec::new());
        };
        self.pool.add(join.partitions());
        let ranges = join.build_ranges().map(|rows| {
            let join = Arc::clone(&join);
            Box::new(move |emit: Emit<'_>| join.emit_build_rows(rows, emit)) as Morsel
        });
        Ok(ranges.collect())
    }

    fn more(&self) -> Option<Morsel> {
        self.pool.morsel()
    }
}
