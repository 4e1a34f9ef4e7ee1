//! [`Rows`]: the result of a job as it arrives, batch by batch.
//!
//! Nothing is asked for that nobody has taken: a result may be larger than the memory of whoever
//! reads it, who may take as long for it as they like.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_engine::{Error, Result, limits};

use crate::connection::Connection;

/// The rows of a job that is done, in order. An iterator of batches, which ends with the first
/// error: what was read before it is right, but not all.
pub struct Rows {
    connection: Connection,
    schema: SchemaRef,
    /// Taken while somebody waits for the next batch, and for good after an error.
    batches: Option<BoxStream<'static, Result<RecordBatch>>>,
}

impl Rows {
    pub(crate) fn new(
        connection: Connection,
        schema: SchemaRef,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Self {
        Rows {
            connection,
            schema,
            batches: Some(batches),
        }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// All rows: at least one batch, which is empty where there are no rows.
    ///
    /// # Errors
    /// Why they cannot be read; `Exhausted` if there are too many for one process.
    pub(crate) fn collect_all(self) -> Result<Vec<RecordBatch>> {
        let schema = self.schema.clone();
        let (mut batches, mut rows, mut bytes) = (Vec::new(), 0_u64, 0_u64);
        for batch in self {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            bytes += batch.get_array_memory_size() as u64;
            if rows > limits::COLLECT_ROWS_MAX || bytes > limits::COLLECT_BYTES_MAX {
                return Err(Error::exhausted(format!(
                    "the result is too large to collect: write files instead, or read it batch by \
                     batch rows>={rows} bytes>={bytes} limit_rows={} limit_bytes={}",
                    limits::COLLECT_ROWS_MAX,
                    limits::COLLECT_BYTES_MAX
                )));
            }
            batches.push(batch);
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        Ok(batches)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batches = self.batches.take()?;
        let next = self.connection.wait(async move {
            let next = batches.next().await.transpose()?;
            Ok(next.map(|batch| (batch, batches)))
        });
        match next.transpose()? {
            Ok((batch, batches)) => {
                self.batches = Some(batches);
                Some(Ok(batch))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
