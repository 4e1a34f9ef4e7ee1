//! MapReduce as people know it, with Rust types: map, combine and reduce.
//!
//! A job is closures and the names by which workers know them. It adds no way of running anything:
//! given rows it becomes a data frame ([`MapReduce::run_on`]), whose plan is a function over rows
//! (map), an aggregate (combine), and a function over rows or groups (reduce). What stands before
//! and after it are data frames too, so jobs feed one another.

mod bad;
mod builder;
mod by;
mod combine;
mod job;
mod map;
mod pairs;
mod reduce;
mod regroup;
mod session;
mod values;

use arrow::array::ArrayRef;
use kiln_engine::{Error, Result};

pub use builder::{MapReduceBuilder, MapReduceTarget, NoReduce, Reduced, Unmapped, Unregistered};
pub use by::SortBy;
pub use job::MapReduce;
pub(crate) use job::Reduce;
pub use map::{MapFn, Mapper};
pub use pairs::Pairs;
pub use reduce::ReduceFn;
pub use session::{MapInput, MapReduceOnSession, MapReduceRun, OnSession};
pub use values::Values;

/// The only one of some columns.
///
/// # Errors
/// `Invalid` if there are more or fewer.
fn only(columns: &[ArrayRef]) -> Result<&ArrayRef> {
    match columns {
        [column] => Ok(column),
        columns => Err(Error::invalid(format!(
            "a value is one column found={}",
            columns.len()
        ))),
    }
}
