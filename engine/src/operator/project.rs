//! Computes one output column per expression.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::Result;
use crate::expr::Expr;
use crate::expr::eval::{Compiled, compile};
use crate::operator::{Emit, Operator};

/// A projection of rows of `schema`.
///
/// # Errors
/// `Invalid` if an expression does not fit the schema.
pub fn new(exprs: &[Expr], schema: &Schema) -> Result<Box<dyn Operator>> {
    let columns = exprs
        .iter()
        .map(|expr| compile(expr, schema))
        .collect::<Result<Vec<_>>>()?;
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| column.field().clone())
        .collect();
    Ok(Box::new(Project {
        columns,
        schema: Arc::new(Schema::new(fields)),
    }))
}

struct Project {
    columns: Vec<Compiled>,
    schema: SchemaRef,
}

impl Operator for Project {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let columns = self
            .columns
            .iter()
            .map(|column| column.evaluate(&batch))
            .collect::<Result<_>>()?;
        // Without columns there are still rows.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        emit(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}
