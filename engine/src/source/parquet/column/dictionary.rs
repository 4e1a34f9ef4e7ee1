//! The dictionary of a column chunk, and what a predicate says of it.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};

use super::Predicate;
use super::plain::Item;
use crate::error::{Error, Result};

/// The values that codes stand for. What strings point into is buffer 0 of every array.
pub(super) struct Dictionary<T: Item> {
    pub(super) values: ScalarBuffer<T>,
    pub(super) buffer: Buffer,
}

/// Which values of a dictionary a predicate wants: -1 for those, 0 for the others.
pub(super) struct Verdict {
    pub(super) marks: Vec<i32>,
    /// How many are wanted.
    pub(super) wanted: usize,
}

impl Verdict {
    /// Asks `predicate` for all values of a dictionary.
    pub(super) fn ask(predicate: Predicate<'_>, values: &ArrayRef) -> Result<Verdict> {
        let answer = asked(predicate, values)?;
        Ok(Verdict {
            marks: answer.iter().map(|wanted| -i32::from(wanted)).collect(),
            wanted: answer.count_set_bits(),
        })
    }
}

/// What `predicate` says of values none of which is null.
pub(super) fn asked(predicate: Predicate<'_>, values: &ArrayRef) -> Result<BooleanBuffer> {
    let answer = predicate(values)?;
    if answer.len() != values.len() {
        return Err(Error::internal("a predicate answers for every value"));
    }
    Ok(answer)
}
