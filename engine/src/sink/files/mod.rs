//! The sink that writes output files: one per lane that has rows.
//!
//! A lane encodes its rows ([`encode`]) and leaves finished bytes in its slot ([`upload`]); the
//! task writes them out between morsels. What waits is bounded: a slot holds some parts at most
//! before the lane has to wait for storage.
//!
//! Files have names of the attempt's own in the job's staging directory, so a second attempt
//! never meets the first; the driver decides whose files become the output.

mod encode;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::context::TaskContext;
use crate::error::Result;
use crate::id::TaskId;
use crate::memory::Reservation;
use crate::metrics::TaskMetrics;
use crate::operator::{Emit, Operator};
use crate::plan::{FileFormat, Output, OutputFile, TaskOutput};
use crate::sink::Sink;
use crate::storage::staging_url;
use encode::Encoder;
use upload::Slot;

/// Writes the rows of one attempt to files.
pub struct FileSink {
    format: FileFormat,
    schema: SchemaRef,
    task: TaskId,
    attempt: u32,
    /// URL of the directory that files are written to.
    staging: String,
    ctx: TaskContext,
    /// The lanes' files, by lane.
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl FileSink {
    /// A sink for the rows of `task`'s `attempt`, which have the columns of `schema`.
    ///
    /// # Errors
    /// `Invalid` if the format cannot hold a column's type, or `output` is no place to write to.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a sink is only ever used as the trait"
    )]
    pub fn new(
        output: &Output,
        schema: SchemaRef,
        task: TaskId,
        attempt: u32,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn Sink>> {
        encode::check(output.format, &schema)?;
        let staging = staging_url(&output.url, task.job)?;
        ctx.stores.get(&staging)?;
        Ok(Arc::new(FileSink {
            format: output.format,
            schema,
            task,
            attempt,
            staging,
            ctx: ctx.clone(),
            slots: Mutex::new(Vec::new()),
        }))
    }

    fn slot(&self, lane: usize) -> Result<Arc<Slot>> {
        let extension = self.format.extension();
        let name = format!(
            "t{:05}-a{}-l{lane}.{extension}",
            self.task.task, self.attempt
        );
        let url = format!("{}/{name}", self.staging);
        let (store, path) = self.ctx.stores.get(&url)?;
        Ok(Arc::new(Slot::new(
            name,
            url,
            store,
            path,
            &self.ctx.metrics,
        )))
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, slot: &Arc<Slot>) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(slot));
    }
}

#[async_trait]
impl Sink for FileSink {
    fn lane(&self, lane: usize) -> Result<Box<dyn Operator>> {
        let slot = self.slot(lane)?;
        self.add(&slot);
        Ok(Box::new(Lane {
            format: self.format,
            schema: Arc::clone(&self.schema),
            encoder: None,
            slot,
            reservation: self.ctx.memory.reserve("file sink"),
            metrics: Arc::clone(&self.ctx.metrics),
        }))
    }

    async fn flush(&self) -> Result<()> {
        for slot in self.slots() {
            slot.flush().await?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<TaskOutput> {
        let mut files: Vec<OutputFile> = Vec::new();
        for slot in self.slots() {
            files.extend(slot.close().await?);
        }
        if files.is_empty() && self.task.task == 0 {
            // An empty result is a file too: it says what the columns would have been.
            let slot = self.slot(0)?;
            self.add(&slot);
            let encoder = Encoder::new(self.format, &self.schema)?;
            slot.put(encoder.finish()?, 0);
            files.extend(slot.close().await?);
        }
        Ok(TaskOutput::Files(files))
    }

    async fn abort(&self) {
        for slot in self.slots() {
            slot.abort().await;
        }
    }
}

/// One lane: rows in, bytes into the slot.
struct Lane {
    format: FileFormat,
    schema: SchemaRef,
    /// Made for the first row.
    encoder: Option<Encoder>,
    slot: Arc<Slot>,
    reservation: Reservation,
    metrics: Arc<TaskMetrics>,
}

impl Lane {
    /// Reserves what is held. Where that is refused, the encoder first gives up what it can.
    fn reserve(&mut self) -> Result<()> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        let waiting = self.slot.waiting() as u64;
        if self.reservation.try_resize(encoder.held() as u64 + waiting) {
            return Ok(());
        }
        self.slot.put(encoder.cut()?, 0);
        let held = encoder.held() as u64 + self.slot.waiting() as u64;
        let missing = held.saturating_sub(self.reservation.bytes());
        self.reservation.grow(missing)
    }
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new(self.format, &self.schema)?),
        };
        let rows = batch.num_rows() as u64;
        self.slot.put(encoder.write(&batch)?, rows);
        TaskMetrics::count(&self.metrics.rows_out, rows);
        self.reserve()
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        if let Some(encoder) = self.encoder.take() {
            self.slot.put(encoder.finish()?, 0);
        }
        Ok(())
    }
}
