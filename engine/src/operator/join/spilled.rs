//! Partitions on disk, joined one after the other.
//!
//! Once all probe rows have come, the rows of a partition, of both sides, are a join of their own,
//! smaller than the first one by a factor. If its build rows fit into memory it is done as any
//! other; if not, it spills in turn, by other bits of the hash. Where one key has so many rows
//! that splitting is in vain, [`chunks`](super::chunks) does without.

use std::cmp::Reverse;
use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::operator::join::partition::{PARTITIONS, Partitions};
use crate::operator::join::{Builder, Join, JoinSpec, Resources, chunks};
use crate::operator::{Breaker, Emit, Morsel, Operator};
use crate::spill::Run;

/// Levels by which rows are split, at most: a million parts.
const LEVELS: u32 = 4;

/// A partition with more than one of so many rows is not split again: with so many it has a key
/// that would be as large as it is.
const STUBBORN_SHARE: u64 = 4;

/// The build rows of a table for which there was no memory.
pub(super) struct SpilledRows {
    /// By which bits they are split.
    pub(super) level: u32,
    /// Of each partition.
    runs: Vec<Vec<Run>>,
}

impl SpilledRows {
    /// The rows of some files, each of which has a run of each partition of `level`.
    pub(super) fn new(files: Vec<Vec<Run>>, level: u32) -> Self {
        SpilledRows {
            level,
            runs: by_partition(files),
        }
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
    level: u32,
    /// It is not to be split.
    is_stubborn: bool,
}

impl Partition {
    /// Joins the rows, on the calling thread.
    fn join(self, emit: Emit<'_>) -> Result<()> {
        if self.is_stubborn || self.level == LEVELS {
            return chunks::join(&self, emit);
        }
        let spec = Arc::clone(&self.spec);
        let builder = Builder::new(spec, Vec::new(), &self.resources);
        let builder = builder.with_cap(self.cap()).at_level(self.level);
        for run in self.build {
            for piece in run.read() {
                self.resources.cancel.check()?;
                builder.add_piece(piece?)?;
            }
        }
        let table = Arc::new(builder.finish()?);
        let join = Join::new(self.spec, table, &self.resources);
        let mut lane = join.lane()?;
        for run in self.probe {
            for batch in run.read() {
                self.resources.cancel.check()?;
                lane.push(batch?, emit)?;
            }
        }
        lane.finish(emit)?;
        drop(lane);
        for rows in join.build_ranges() {
            join.emit_build_rows(rows, emit)?;
        }
        let parts = join.partitions();
        // The memory of this table is for those of its parts.
        drop(join);
        parts.into_iter().try_for_each(|part| part.join(emit))
    }

    /// Bytes that a table of one lane may take: others have one too, and rows go on from here.
    pub(super) fn cap(&self) -> u64 {
        let lanes = rayon::current_num_threads() as u64;
        let cap = self.resources.memory.free() / (lanes + 1);
        cap.max(self.resources.unasked_bytes)
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

    /// The partitions that are still to be joined, the largest first.
    fn partitions(&self) -> Vec<Partition> {
        let Some(spilled) = &self.table.spilled else {
            return Vec::new();
        };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let probes = by_partition(std::mem::take(&mut *probes));
        let all = self.table.rows();
        let has_keys = !self.spec.key_types.is_empty();
        let parts = spilled.runs.iter().zip(probes).map(|(build, probe)| {
            let is_large = rows(build) > all / STUBBORN_SHARE;
            Partition {
                spec: Arc::clone(&self.spec),
                resources: self.resources.clone(),
                build: build.clone(),
                probe,
                level: spilled.level + 1,
                is_stubborn: is_large || !has_keys,
            }
        });
        let emits_build_rows = self.spec.kind.emits_build_rows();
        let is_open = |part: &Partition| {
            !part.build.is_empty() && (emits_build_rows || !part.probe.is_empty())
        };
        let mut parts: Vec<Partition> = parts.filter(is_open).collect();
        parts.sort_by_key(|part| Reverse(part.bytes()));
        parts
    }
}

/// What is left of a join when all probe rows have come: build rows that come out by themselves,
/// and what is on disk.
pub(super) struct Rest(pub(super) Arc<Join>);

impl Breaker for Rest {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        self.0.lane()
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let partitions = self
            .0
            .partitions()
            .into_iter()
            .map(|partition| Box::new(move |emit: Emit<'_>| partition.join(emit)) as Morsel);
        let ranges = self.0.build_ranges().map(|rows| {
            let join = Arc::clone(&self.0);
            Box::new(move |emit: Emit<'_>| join.emit_build_rows(rows, emit)) as Morsel
        });
        Ok(ranges.chain(partitions).collect())
    }
}
