//! Functions of users' programs (user-defined functions, UDFs).
//!
//! A plan names a function: its name, the parameters it was made with, and what it gives. The
//! *body*, which does the work, is only there in a process that has the user's code: where a
//! session is embedded the body goes with the plan, and where a plan has come over a wire the
//! program that runs it looks the name up in what it has [registered](Functions). Whoever only
//! plans and schedules never needs a body.
//!
//! An attempt calls bodies through a guard of its own ([`Udf::bound`]): what they do wrong becomes
//! an error that names the function and the input it was given.

mod guard;
mod registry;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::Result;

pub use guard::{CallBoard, UdfContext, UdfHost};
pub use registry::Functions;

/// Where a function over rows pushes the batches that it makes.
pub type EmitRows<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<()>;

/// A function as a plan names it, with its body of type `B` where this process has it.
///
/// Two are equal if they have the same name, parameters and result: a body that is missing makes
/// no other plan of it.
pub struct Udf<O, B: ?Sized> {
    named: Arc<Named<O>>,
    body: Option<Arc<B>>,
}

/// What a plan says of a function.
#[derive(PartialEq)]
struct Named<O> {
    name: String,
    parameters: String,
    output: O,
}

/// A function from values of one row to a value.
pub type ScalarUdf = Udf<ScalarType, dyn ScalarBody>;

/// A function from rows to any number of rows of other columns.
pub type TableUdf = Udf<SchemaRef, dyn TableBody>;

/// A function from the rows of a group to a value.
pub type AggregateUdf = Udf<AggregateType, dyn AggregateBody>;

/// A function from rows in groups to any number of rows of other columns.
pub type GroupUdf = Udf<SchemaRef, dyn GroupBody>;

/// What a scalar function takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarType {
    /// The types of its arguments, to which they are converted without loss; none if it takes
    /// whatever it is given.
    pub arguments: Option<Vec<DataType>>,
    /// The type of its result.
    pub returns: DataType,
}

/// What an aggregate function takes, keeps and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateType {
    /// The types of its arguments, to which they are converted without loss.
    pub arguments: Vec<DataType>,
    /// The type in which its states travel.
    pub state: DataType,
    /// The type of its result.
    pub returns: DataType,
}

/// The code of a scalar function.
pub trait ScalarBody: Send + Sync {
    /// The results for `rows` rows. Each argument is a column of that length.
    ///
    /// # Errors
    /// Whatever the function says; it fails the attempt.
    fn call(&self, args: &[ArrayRef], rows: usize) -> Result<ArrayRef>;
}

/// The code of a function over rows.
pub trait TableBody: Send + Sync {
    /// The part that is given the rows of one lane of an attempt.
    fn lane(&self) -> Box<dyn TableLane>;
}

/// A function over rows at work: it may keep something from batch to batch. Where the attempt
/// fails or is cancelled it is dropped without having finished.
pub trait TableLane: Send {
    /// Pushes what it makes of the rows of `batch`.
    ///
    /// # Errors
    /// Whatever the function says, and what `emit` answered; it fails the attempt.
    fn push(&mut self, batch: &RecordBatch, context: &UdfContext, emit: EmitRows<'_>)
    -> Result<()>;

    /// No more rows come on this lane: pushes what it held back.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    fn finish(&mut self, _context: &UdfContext, _emit: EmitRows<'_>) -> Result<()> {
        Ok(())
    }
}

/// The code of an aggregate function.
pub trait AggregateBody: Send + Sync {
    /// States for groups that are numbered from 0, of which there are none yet.
    fn groups(&self) -> Box<dyn GroupStates>;
}

/// The states of groups, which are numbered from 0.
pub trait GroupStates: Send + Sync {
    /// Makes room for `groups` groups in all; those that are new have seen no row.
    fn resize(&mut self, groups: usize);

    /// Adds row `rows[i]` of `args` to group `groups[i]`, for each `i`.
    ///
    /// # Errors
    /// Whatever the function says; it fails the attempt.
    fn update(&mut self, groups: &[u32], rows: &[u32], args: &[ArrayRef]) -> Result<()>;

    /// Merges the state in row `rows[i]` of `states` into group `groups[i]`, for each `i`.
    ///
    /// # Errors
    /// As for [`update`](Self::update); `Corrupt` for a state that cannot be read.
    fn merge(&mut self, groups: &[u32], rows: &[u32], states: &ArrayRef) -> Result<()>;

    /// The states of some groups, in order.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    fn states(&self, groups: Range<usize>) -> Result<ArrayRef>;

    /// The results of some groups, in order.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    fn results(&self, groups: Range<usize>) -> Result<ArrayRef>;

    /// About how many bytes they take.
    fn bytes(&self) -> u64;
}

/// The code of a function over groups.
pub trait GroupBody: Send + Sync {
    /// Pushes what it makes of groups.
    ///
    /// # Errors
    /// Whatever the function says, and what `groups` and `emit` answered; it fails the attempt.
    fn call(&self, groups: &mut dyn Groups, context: &UdfContext, emit: EmitRows<'_>)
    -> Result<()>;
}

/// Groups of rows, one after the other. However large a group is, no more than a batch of it is
/// in memory for this.
pub trait Groups {
    /// Goes on to the next group, past whatever is left of this one; false if there is none.
    ///
    /// # Errors
    /// What reading answered.
    fn next_group(&mut self) -> Result<bool>;

    /// The next rows of this group: a range of a batch. None after the last. The first call gives
    /// at least one row.
    ///
    /// # Errors
    /// What reading answered.
    fn next_rows(&mut self) -> Result<Option<(&RecordBatch, Range<usize>)>>;
}

impl<O, B: ?Sized> Udf<O, B> {
    /// A function by its name and the parameters that it was made with, as JSON; empty for none.
    pub fn new(
        name: impl Into<String>,
        parameters: impl Into<String>,
        output: O,
        body: Option<Arc<B>>,
    ) -> Self {
        let named = Named {
            name: name.into(),
            parameters: parameters.into(),
            output,
        };
        Udf {
            named: Arc::new(named),
            body,
        }
    }

    /// The name by which it is registered.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// The parameters that it was made with, as JSON; empty for none.
    pub fn parameters(&self) -> &str {
        &self.named.parameters
    }

    /// What it takes and gives.
    pub fn output(&self) -> &O {
        &self.named.output
    }

    /// Its code, if this process has it.
    pub fn body(&self) -> Option<&Arc<B>> {
        self.body.as_ref()
    }

    /// The same function with another body.
    fn with_body(&self, body: Arc<B>) -> Self {
        Udf {
            named: Arc::clone(&self.named),
            body: Some(body),
        }
    }
}

impl<O, B: ?Sized> Clone for Udf<O, B> {
    fn clone(&self) -> Self {
        Udf {
            named: Arc::clone(&self.named),
            body: self.body.clone(),
        }
    }
}

impl<O: PartialEq, B: ?Sized> PartialEq for Udf<O, B> {
    fn eq(&self, other: &Self) -> bool {
        self.named == other.named
    }
}

impl<O: fmt::Debug, B: ?Sized> fmt::Debug for Udf<O, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Udf({self} -> {:?})", self.output())
    }
}

impl<O, B: ?Sized> fmt::Display for Udf<O, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.parameters() {
            "" => Ok(()),
            parameters => write!(f, "[{parameters}]"),
        }
    }
}
