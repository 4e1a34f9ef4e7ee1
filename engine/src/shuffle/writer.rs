//! The sink that writes a shuffle object.
//!
//! Lanes scatter their rows into buffers of their own, one per partition, and encode a buffer as
//! a block when it is full or memory is short. Finished blocks are shared: they wait, in memory
//! or in a temporary file, until the attempt closes and the object is laid out partition by
//! partition. Rows are only ever appended, so that is the one ordering step there is.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::block::BlockEncoder;
use super::gather::{Column, PartitionBuffer};
use super::object::{Block, ObjectWriter, lock};
use crate::context::TaskContext;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TaskId;
use crate::kernel::hash::hash_columns;
use crate::limits::{SHUFFLE_BLOCK_BYTES, SHUFFLE_BLOCK_ROWS, SHUFFLE_PARTITIONS_MAX};
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::{Emit, Operator};
use crate::plan::{PartitionMeta, Partitioning, TaskOutput};
use crate::sink::Sink;

/// Writes one shuffle object: the rows of an attempt, spread over partitions.
pub struct ShuffleSink(Arc<Shared>);

struct Shared {
    /// Columns of the rows, as readers will see them.
    schema: SchemaRef,
    /// Indices of the key columns; none where there is one partition.
    keys: Vec<usize>,
    memory: Arc<MemoryBudget>,
    partitions: Vec<Mutex<Partition>>,
    object: ObjectWriter,
}

/// The finished blocks of a partition.
#[derive(Default)]
struct Partition {
    blocks: Vec<Block>,
    bytes: u64,
    rows: u64,
    /// Of all bytes so far; none where there are none, since a state is half a kilobyte.
    hash: Option<Box<Xxh3>>,
}

impl ShuffleSink {
    /// A sink for the rows of `task`'s `attempt`, which have the columns of `schema`.
    ///
    /// # Errors
    /// `Internal` if a key is not in the schema or the number of partitions is out of bounds:
    /// the planner made a mistake.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a sink is only ever used as the trait"
    )]
    pub fn new(
        partitioning: &Partitioning,
        schema: SchemaRef,
        task: TaskId,
        attempt: u32,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn Sink>> {
        let count = partitioning.count();
        if count == 0 || count > SHUFFLE_PARTITIONS_MAX {
            return Err(Error::internal(format!(
                "impossible number of partitions count={count}"
            )));
        }
        let keys = match partitioning {
            Partitioning::Hash { keys, .. } if count > 1 => keys.as_slice(),
            _ => &[],
        };
        let index = |key: &String| {
            schema.index_of(key).map_err(|_| {
                Error::internal(format!(
                    "a shuffle key is not a column of its stage key={key}"
                ))
            })
        };
        let keys = keys.iter().map(index).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ShuffleSink(Arc::new(Shared {
            schema,
            keys,
            memory: Arc::clone(&ctx.memory),
            partitions: (0..count).map(|_| Mutex::default()).collect(),
            object: ObjectWriter::new(task, attempt, ctx),
        }))))
    }
}

#[async_trait]
impl Sink for ShuffleSink {
    fn lane(&self, _lane: usize) -> Result<Box<dyn Operator>> {
        let shared = Arc::clone(&self.0);
        let compression = shared.object.compression();
        let apart = shared.memory.is_watched();
        let encoder = BlockEncoder::new(Arc::clone(&shared.schema), compression, apart)?;
        let buffers = shared
            .partitions
            .iter()
            .map(|_| PartitionBuffer::new(&shared.schema));
        Ok(Box::new(ShuffleLane {
            buffers: buffers.collect(),
            encoder,
            held: shared.memory.reserve("shuffle write"),
            hashes: Vec::new(),
            scatter: Scatter::default(),
            shared,
        }))
    }

    async fn flush(&self) -> Result<()> {
        // Nothing can be written before the attempt closes: the first partition may still grow.
        Ok(())
    }

    async fn close(&self) -> Result<TaskOutput> {
        let mut index = Vec::with_capacity(self.0.partitions.len());
        let mut blocks = Vec::new();
        for partition in &self.0.partitions {
            let mut partition = std::mem::take(&mut *lock(partition));
            blocks.append(&mut partition.blocks);
            index.push(PartitionMeta {
                bytes: partition.bytes,
                rows: partition.rows,
                checksum: partition.hash.map_or(0, |hash| hash.digest()),
            });
        }
        self.0.object.put(blocks, &index).await?;
        Ok(TaskOutput::Shuffle(index))
    }

    async fn abort(&self) {
        for partition in &self.0.partitions {
            *lock(partition) = Partition::default();
        }
        self.0.object.remove().await;
    }
}

impl Shared {
    /// Brings half of the blocks that wait in memory to disk; false where that is hardly anything,
    /// or more than there is room for.
    fn spill(&self) -> Result<bool> {
        let waiting = self.object.waiting_bytes();
        if waiting < self.memory.unasked() {
            return Ok(false);
        }
        for partition in &self.partitions {
            let mut number = 0;
            // Nobody waits for more than one block to be written.
            while let Some(block) = lock(partition).blocks.get_mut(number) {
                match self.object.spill(block) {
                    Err(error) if error.kind() == ErrorKind::Exhausted => return Ok(false),
                    spilled => spilled?,
                }
                if self.object.waiting_bytes() <= waiting / 2 {
                    return Ok(true);
                }
                number += 1;
            }
        }
        Ok(true)
    }

    /// Puts a finished block behind those of its partition.
    fn add(&self, partition: usize, block: Vec<u8>, rows: usize) -> Result<()> {
        let bytes = block.len();
        let block = Bytes::from(block);
        let kept = self.object.keep(block.clone())?;
        let mut partition = lock(&self.partitions[partition]);
        partition.hash.get_or_insert_default().update(&block);
        partition.bytes += bytes as u64;
        partition.rows += rows as u64;
        partition.blocks.push(kept);
        Ok(())
    }
}

/// One lane's part of the sink.
struct ShuffleLane {
    shared: Arc<Shared>,
    buffers: Vec<PartitionBuffer>,
    encoder: BlockEncoder,
    held: Reservation,
    hashes: Vec<u64>,
    scatter: Scatter,
}

impl Operator for ShuffleLane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        let rows = u32::try_from(batch.num_rows())
            .map_err(|_| Error::internal("a batch has more rows than 32 bits count"))?;
        let keys = self
            .shared
            .keys
            .iter()
            .map(|&key| Arc::clone(batch.column(key)));
        let keys: Vec<ArrayRef> = keys.collect();
        if keys.is_empty() {
            self.scatter.all(rows);
        } else {
            hash_columns(&keys, &mut self.hashes)?;
            self.scatter.by_hash(&self.hashes, self.buffers.len());
        }
        let columns: Vec<Column> = batch.columns().iter().map(Column::of).collect();
        for partition in 0..self.scatter.partitions() {
            self.extend(partition, &columns)?;
        }
        self.reserve()
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        self.held.shrink(self.held.bytes());
        self.seal_all()
    }
}

impl ShuffleLane {
    fn extend(&mut self, partition: usize, columns: &[Column]) -> Result<()> {
        let mut indices = self.scatter.range(partition);
        while !indices.is_empty() {
            let buffer = &mut self.buffers[partition];
            let room = SHUFFLE_BLOCK_ROWS - buffer.rows();
            let end = indices.end.min(indices.start + room);
            buffer.extend(columns, &self.scatter.rows[indices.start..end])?;
            indices.start = end;
            if buffer.rows() >= SHUFFLE_BLOCK_ROWS || buffer.bytes() >= SHUFFLE_BLOCK_BYTES as u64 {
                self.seal(partition)?;
            }
        }
        Ok(())
    }

    /// Reserves what the buffers hold. Where that is refused, blocks that wait in memory go to disk
    /// first, so that buffers go on growing; then the buffers become blocks, unless they are so
    /// small that these would hardly be worth it.
    fn reserve(&mut self) -> Result<()> {
        let bytes = self.buffers.iter().map(PartitionBuffer::allocated_bytes);
        let bytes = bytes.sum();
        if self.held.try_resize(bytes) {
            return Ok(());
        }
        if self.shared.spill()? && self.held.try_resize(bytes) {
            return Ok(());
        }
        if bytes < self.shared.memory.unasked() {
            return Ok(());
        }
        self.held.shrink(self.held.bytes());
        self.seal_all()
    }

    fn seal_all(&mut self) -> Result<()> {
        (0..self.buffers.len()).try_for_each(|partition| self.seal(partition))
    }

    fn seal(&mut self, partition: usize) -> Result<()> {
        let rows = self.buffers[partition].rows();
        if rows == 0 {
            return Ok(());
        }
        let batch = self.buffers[partition].finish(&self.shared.schema)?;
        let block = self.encoder.encode(&batch)?;
        self.shared.add(partition, block, rows)
    }
}

/// The rows of a batch in the order of their partitions: a counting sort.
#[derive(Default)]
struct Scatter {
    /// Partition of each row.
    targets: Vec<u16>,
    /// Row numbers, partition by partition.
    rows: Vec<u32>,
    /// Where each partition ends in `rows`.
    ends: Vec<u32>,
}

impl Scatter {
    fn partitions(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, partition: usize) -> std::ops::Range<usize> {
        let start = partition
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        start as usize..self.ends[partition] as usize
    }

    fn all(&mut self, rows: u32) {
        self.rows.clear();
        self.rows.extend(0..rows);
        self.ends.clear();
        self.ends.push(rows);
    }

    fn by_hash(&mut self, hashes: &[u64], partitions: usize) {
        self.ends.clear();
        self.ends.resize(partitions, 0);
        self.targets.clear();
        self.targets.extend(
            hashes
                .iter()
                .map(|&hash| partition_of(hash, partitions as u64) as u16),
        );
        for &target in &self.targets {
            self.ends[usize::from(target)] += 1;
        }
        // From counts to starts; writing a row moves its partition's start to its end.
        let mut start = 0;
        for end in &mut self.ends {
            start += std::mem::replace(end, start);
        }
        self.rows.clear();
        self.rows.resize(hashes.len(), 0);
        for (row, &target) in self.targets.iter().enumerate() {
            let end = &mut self.ends[usize::from(target)];
            self.rows[*end as usize] = row as u32;
            *end += 1;
        }
    }
}

/// The partition of a row: the upper half of its hash, scaled. The lower half is left to the
/// tables that the partition's reader builds.
fn partition_of(hash: u64, partitions: u64) -> u64 {
    ((hash >> 32) * partitions) >> 32
}
