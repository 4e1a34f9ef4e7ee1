//! Gives rows to a function of a user's program and passes on what it makes.

use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::operator::{Emit, Operator};
use crate::udf::{TableLane, TableUdf, UdfContext};

/// A lane of `function`, which has a body.
///
/// # Errors
/// `Invalid` if this process does not have the function's code.
pub fn new(function: &TableUdf, context: &UdfContext) -> Result<Box<dyn Operator>> {
    let Some(body) = function.body() else {
        return Err(Error::invalid(format!(
            "this process does not have the code of a function name={:?}",
            function.name()
        )));
    };
    Ok(Box::new(Apply {
        lane: body.lane(),
        context: context.clone(),
    }))
}

struct Apply {
    lane: Box<dyn TableLane>,
    context: UdfContext,
}

impl Operator for Apply {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        self.lane.push(&batch, &self.context, emit)
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<()> {
        self.lane.finish(&self.context, emit)
    }
}
