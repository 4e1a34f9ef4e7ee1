//! Joins: rows that flow by are looked up in rows that were read before.
//!
//! The *build* rows become a [`JoinTable`] once, by all threads together, before the first *probe*
//! row flows; from then on the table is only read. A lane looks up a whole batch at a time and
//! hands on pairs of row numbers, column by column gathered at the very end. No batch that comes
//! out is longer than [`crate::limits::BATCH_ROWS`], however many matches a key has.
//!
//! - [`spec`]: a join step checked against its columns;
//! - [`build`], [`columns`]: from batches to a table;
//! - [`keys`]: keys as numbers of 64 bits, [`index`]: from such a number to rows;
//! - [`probe`], [`pairs`]: look-ups on a lane; [`output`]: small batches of what they find;
//! - [`flags`]: the kinds that emit build rows when all probe rows have been seen.
//!
//! Equality is that of `=` in expressions: null equals nothing, NaN equals itself, and 0.0 and
//! -0.0 are two values.

mod build;
mod columns;
mod flags;
mod index;
mod keys;
mod output;
mod pairs;
mod probe;
mod spec;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::context::CancelToken;
use crate::error::Result;
use crate::operator::{Breaker, Operator};
use crate::plan::JoinStep;

pub use build::{Builder, FilterRequest, JoinTable};
pub use spec::{JoinSpec, can_filter};

use flags::{Chains, Flags};

/// Who reserves the memory of tables, in errors.
const OWNER: &str = "join";

/// A join ready to run: what to do, the rows to look up in, and which of them were found.
pub struct Join {
    spec: Arc<JoinSpec>,
    table: Arc<JoinTable>,
    flags: Option<Flags>,
    chains: Option<Chains>,
    cancel: CancelToken,
}

impl Join {
    /// A join of rows that flow with the rows of `table`, which was built for the same step.
    ///
    /// # Errors
    /// `Exhausted` if there is no memory to mark build rows that are found.
    pub fn new(
        spec: Arc<JoinSpec>,
        table: Arc<JoinTable>,
        cancel: CancelToken,
    ) -> Result<Arc<Self>> {
        let flags = match spec.kind.emits_build_rows() {
            true => Some(table.flags()?),
            false => None,
        };
        // Where a condition decides about each pair, rows that are marked are left out of the
        // chains; without one, whole keys are marked at once.
        let only_marks = flags.is_some() && !spec.emits_pairs();
        let chains = match only_marks && spec.filter.is_some() {
            true => Some(table.chains()?),
            false => None,
        };
        Ok(Arc::new(Join {
            spec,
            table,
            flags,
            chains,
            cancel,
        }))
    }

    /// One lane's part.
    ///
    /// # Errors
    /// Where the build rows cannot be copied.
    pub fn lane(self: &Arc<Self>) -> Result<Box<dyn Operator>> {
        let probe = probe::Probe::new(Arc::clone(self))?;
        Ok(Box::new(output::Output::new(probe)))
    }

    /// The join as a breaker, if its kind emits build rows once all lanes have looked up.
    pub fn breaker(self: &Arc<Self>) -> Option<Arc<dyn Breaker>> {
        let emits = self.flags.is_some();
        emits.then(|| Arc::new(flags::BuildRows(Arc::clone(self))) as Arc<dyn Breaker>)
    }
}

/// The columns that `step` makes of probe rows of `probe` and build rows of `build`.
///
/// # Errors
/// `Invalid` if the step does not fit the columns.
pub fn output_schema(step: &JoinStep, probe: &Schema, build: &Schema) -> Result<SchemaRef> {
    Ok(Arc::clone(JoinSpec::new(step, probe, build)?.schema()))
}
