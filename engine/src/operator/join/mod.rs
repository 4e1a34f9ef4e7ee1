//! Joins: rows that flow by are looked up in rows that were read before.
//!
//! The *build* rows become a [`JoinTable`] once, by all threads together, before the first *probe*
//! row flows; from then on the table is only read. A lane looks up a whole batch at a time and
//! hands on pairs of row numbers, column by column gathered at the very end. No batch that comes
//! out is longer than [`crate::limits::BATCH_ROWS`], however many matches a key has.
//!
//! - [`spec`]: a join step checked against its columns;
//! - [`build`], [`piece`], [`room`]: build rows are taken; [`table`], [`columns`]: and become one;
//! - [`keys`]: keys as numbers of 64 bits, [`index`]: from such a number to rows;
//! - [`probe`], [`pairs`]: look-ups on a lane; [`output`]: small batches of what they find;
//! - [`flags`]: the kinds that emit build rows when all probe rows have been seen;
//! - [`partition`], [`scatter`]: rows go to disk for which there is no memory, of the build side
//!   and, in a [`lane`], those that would look for them;
//! - [`spilled`], [`work`]: what is on disk is joined partition by partition, or, where these do
//!   not get smaller, in [`chunks`] with [`matches`](mod@matches) noted; [`filters`] know these
//!   keys, too.
//!
//! All of a join can be on disk (`docs/decisions/0010-joins-larger-than-memory.md`): what is in
//! memory of either side at any time is reserved, but for [`Resources::unasked_bytes`].
//!
//! Equality is that of `=` in expressions: null equals nothing, NaN equals itself, and 0.0 and
//! -0.0 are two values.

mod build;
mod chunks;
mod columns;
mod filters;
mod flags;
mod index;
mod keys;
mod lane;
mod matches;
mod output;
mod pairs;
mod partition;
mod piece;
mod probe;
mod room;
mod scatter;
mod spec;
mod spilled;
mod table;
mod work;

use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::operator::{Breaker, Operator};
use crate::plan::JoinStep;
use crate::spill::Run;

pub use build::Builder;
pub use spec::{JoinSpec, can_filter};
pub use table::{FilterRequest, JoinTable};

use flags::{Chains, Flags};
use lane::SpillingLane;
use output::Output;
use probe::Probe;
use spilled::Rest;

/// Who reserves the memory of tables, in errors.
const OWNER: &str = "join";

/// What a join has of its attempt.
#[derive(Debug, Clone)]
pub struct Resources {
    /// The bytes that may be reserved; what is too much for them goes to its disk.
    pub memory: Arc<MemoryBudget>,
    /// Counters.
    pub metrics: Arc<TaskMetrics>,
    /// Set when the attempt should stop.
    pub cancel: CancelToken,
    /// Bytes that a table may always have, and rows that are on their way to disk.
    pub unasked_bytes: u64,
}

impl Resources {
    /// Those of an attempt.
    pub fn of(ctx: &TaskContext) -> Self {
        Resources {
            memory: Arc::clone(&ctx.memory),
            metrics: Arc::clone(&ctx.metrics),
            cancel: ctx.cancel.clone(),
            unasked_bytes: ctx.memory.unasked(),
        }
    }
}

/// A join ready to run: what to do, the rows to look up in, and which of them were found.
pub struct Join {
    spec: Arc<JoinSpec>,
    table: Arc<JoinTable>,
    resources: Resources,
    flags: Option<Flags>,
    chains: Option<Chains>,
    /// Probe rows on disk, of each lane a run for each partition.
    probes: Mutex<Vec<Vec<Run>>>,
}

impl Join {
    /// A join of rows that flow with the rows of `table`, which was built for the same step.
    pub fn new(spec: Arc<JoinSpec>, table: Arc<JoinTable>, resources: &Resources) -> Arc<Self> {
        let flags = spec.kind.emits_build_rows().then(|| table.flags());
        // Where a condition decides about each pair, rows that are marked are left out of the
        // chains; without one, whole keys are marked at once.
        let chains = spec.only_marks_pairs().then(|| table.chains());
        Arc::new(Join {
            spec,
            table,
            resources: resources.clone(),
            flags,
            chains,
            probes: Mutex::default(),
        })
    }

    /// One lane's part.
    ///
    /// # Errors
    /// Where the build rows cannot be copied.
    pub fn lane(self: &Arc<Self>) -> Result<Box<dyn Operator>> {
        let output = Output::new(Probe::new(Arc::clone(self))?);
        Ok(match &self.table.spilled {
            None => Box::new(output),
            Some(spilled) => {
                let spilled = (spilled.partitions(), spilled.level);
                Box::new(SpillingLane::new(Arc::clone(self), output, spilled))
            }
        })
    }

    /// The join as a breaker, if rows come out once all lanes have looked up: build rows of some
    /// kinds, and what is joined on disk. To be asked for once.
    pub fn breaker(self: &Arc<Self>) -> Option<Arc<dyn Breaker>> {
        let has_rest = self.flags.is_some() || self.table.has_spilled();
        has_rest.then(|| Arc::new(Rest::new(Arc::clone(self))) as Arc<dyn Breaker>)
    }
}

/// The columns that `step` makes of probe rows of `probe` and build rows of `build`.
///
/// # Errors
/// `Invalid` if the step does not fit the columns.
pub fn output_schema(step: &JoinStep, probe: &Schema, build: &Schema) -> Result<SchemaRef> {
    Ok(Arc::clone(JoinSpec::new(step, probe, build)?.schema()))
}
