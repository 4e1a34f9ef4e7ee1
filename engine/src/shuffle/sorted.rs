//! The sink that writes a shuffle object whose rows are in order.
//!
//! It is fed by a sort, sequence by sequence, each of which one lane works on. Rows become blocks
//! as they come, and some blocks a *stretch*: it is stored as a partition is, and the report says
//! of each with which key it begins. By these the driver cuts the order, so many small stretches
//! tell more; a task that has much to write makes them larger as it goes on, and their number
//! stays bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::block::BlockEncoder;
use super::gather::{Column, PartitionBuffer};
use super::object::{Block, ObjectWriter, lock};
use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::expr::SortKey;
use crate::id::TaskId;
use crate::limits::{
    SHUFFLE_BLOCK_BYTES, SHUFFLE_BLOCK_ROWS, SHUFFLE_PARTITIONS_MAX, SORTED_SEQUENCE_BYTES,
    STRETCH_BYTES, STRETCHES_SAME,
};
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::cuts::CutKeys;
use crate::operator::{Emit, Operator};
use crate::plan::{PartitionMeta, Stretch, TaskOutput};
use crate::sink::Sink;

/// Writes one shuffle object: the rows of an attempt, in order.
pub struct SortedSink(Arc<Shared>);

struct Shared {
    schema: SchemaRef,
    keys: CutKeys,
    memory: Arc<MemoryBudget>,
    object: ObjectWriter,
    /// Stretches begun.
    begun: AtomicU32,
    /// By sequence, and within it.
    finished: Mutex<BTreeMap<(u32, u32), Finished>>,
}

struct Finished {
    stretch: Stretch,
    blocks: Vec<Block>,
}

impl SortedSink {
    /// A sink for the rows of `task`'s `attempt`, which have the columns of `schema` and come in
    /// the order of `keys`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a sink is only ever used as the trait"
    )]
    pub fn new(
        keys: &[SortKey],
        schema: SchemaRef,
        task: TaskId,
        attempt: u32,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(SortedSink(Arc::new(Shared {
            keys: CutKeys::new(keys, &schema)?,
            schema,
            memory: Arc::clone(&ctx.memory),
            object: ObjectWriter::new(task, attempt, ctx),
            begun: AtomicU32::new(0),
            finished: Mutex::default(),
        }))))
    }
}

#[async_trait]
impl Sink for SortedSink {
    fn lane(&self, _lane: usize) -> Result<Box<dyn Operator>> {
        let shared = Arc::clone(&self.0);
        let compression = shared.object.compression();
        Ok(Box::new(SortedLane {
            buffer: PartitionBuffer::new(&shared.schema),
            encoder: BlockEncoder::new(
                Arc::clone(&shared.schema),
                compression,
                shared.memory.is_watched(),
            )?,
            held: shared.memory.reserve("shuffle write"),
            indices: Vec::new(),
            sequence: 0,
            ended: 0,
            open: None,
            shared,
        }))
    }

    fn sequence_bytes(&self) -> Option<u64> {
        Some(SORTED_SEQUENCE_BYTES)
    }

    async fn flush(&self) -> Result<()> {
        // Nothing can be written before the attempt closes: the first sequence may still grow.
        Ok(())
    }

    async fn close(&self) -> Result<TaskOutput> {
        let finished = std::mem::take(&mut *lock(&self.0.finished));
        let mut stretches = Vec::with_capacity(finished.len());
        let mut blocks = Vec::new();
        for (_, mut finished) in finished {
            blocks.append(&mut finished.blocks);
            stretches.push(finished.stretch);
        }
        let index: Vec<PartitionMeta> = stretches.iter().map(|one| one.partition).collect();
        self.0.object.put(blocks, &index).await?;
        Ok(TaskOutput::Sorted(stretches))
    }

    async fn abort(&self) {
        lock(&self.0.finished).clear();
        self.0.object.remove().await;
    }
}

/// One lane's part of the sink.
struct SortedLane {
    shared: Arc<Shared>,
    /// Rows that will be the next block.
    buffer: PartitionBuffer,
    encoder: BlockEncoder,
    held: Reservation,
    indices: Vec<u32>,
    /// Where rows are in the order.
    sequence: u32,
    /// Stretches of the sequence that have ended.
    ended: u32,
    open: Option<Open>,
}

/// The stretch that is being written.
struct Open {
    first_key: Bytes,
    /// Bytes of rows that it still gets.
    wanted: u64,
    stored: PartitionMeta,
    hash: Box<Xxh3>,
    blocks: Vec<Block>,
}

impl SortedLane {
    /// The stretch that is being written; one that begins with a row of `batch` if there is none.
    fn open(&mut self, batch: &RecordBatch, row: usize) -> Result<&mut Open> {
        Ok(match &mut self.open {
            Some(open) => open,
            none => none.insert(Open {
                first_key: self.shared.keys.of_row(batch, row)?,
                wanted: self.shared.begin_stretch()?,
                stored: PartitionMeta::default(),
                hash: Box::default(),
                blocks: Vec::new(),
            }),
        })
    }

    /// Makes a block of the rows gathered; it is the last of its stretch once that is large.
    fn seal(&mut self) -> Result<()> {
        let (rows, bytes) = (self.buffer.rows(), self.buffer.bytes());
        let Some(open) = self.open.as_mut().filter(|_| rows > 0) else {
            return Ok(());
        };
        let batch = self.buffer.finish(&self.shared.schema)?;
        let block = Bytes::from(self.encoder.encode(&batch)?);
        open.hash.update(&block);
        open.stored.rows += rows as u64;
        open.stored.bytes += block.len() as u64;
        open.blocks.push(self.shared.object.keep(block)?);
        open.wanted = open.wanted.saturating_sub(bytes);
        match open.wanted {
            0 => self.end_stretch(),
            _ => Ok(()),
        }
    }

    fn end_stretch(&mut self) -> Result<()> {
        self.seal()?;
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.stored.checksum = open.hash.digest();
        let finished = Finished {
            stretch: Stretch {
                partition: open.stored,
                first_key: open.first_key,
            },
            blocks: open.blocks,
        };
        lock(&self.shared.finished).insert((self.sequence, self.ended), finished);
        self.ended += 1;
        Ok(())
    }
}

impl Shared {
    /// How many bytes of rows the next stretch gets.
    fn begin_stretch(&self) -> Result<u64> {
        let before = self.begun.fetch_add(1, Ordering::Relaxed);
        if before >= SHUFFLE_PARTITIONS_MAX {
            return Err(Error::exhausted(format!(
                "a task has more rows to sort than one object holds stretches={before}"
            )));
        }
        Ok(STRETCH_BYTES << (before / STRETCHES_SAME))
    }
}

impl Operator for SortedLane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        let count = batch.num_rows();
        let row_bytes = (batch.get_array_memory_size() / count.max(1)).max(1);
        let columns: Vec<Column> = batch.columns().iter().map(Column::of).collect();
        let mut next = 0;
        while next < count {
            let wanted = self
                .open(&batch, next)?
                .wanted
                .min(SHUFFLE_BLOCK_BYTES as u64);
            let missing = wanted.saturating_sub(self.buffer.bytes()) / row_bytes as u64;
            let room = (SHUFFLE_BLOCK_ROWS - self.buffer.rows()).min(count - next);
            let rows = usize::try_from(missing).map_or(room, |missing| missing.clamp(1, room));
            self.indices.clear();
            self.indices
                .extend((next..next + rows).map(|row| row as u32));
            self.buffer.extend(&columns, &self.indices)?;
            next += rows;
            if self.buffer.bytes() >= wanted || self.buffer.rows() >= SHUFFLE_BLOCK_ROWS {
                self.seal()?;
            }
        }
        let bytes = self.buffer.allocated_bytes();
        if self.held.try_resize(bytes) || bytes < self.shared.memory.unasked() {
            return Ok(());
        }
        self.held.shrink(self.held.bytes());
        self.seal()
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        self.end_stretch()?;
        self.held.shrink(self.held.bytes());
        Ok(())
    }

    fn begin_sequence(&mut self, number: u32) -> Result<()> {
        self.end_stretch()?;
        (self.sequence, self.ended) = (number, 0);
        Ok(())
    }
}
