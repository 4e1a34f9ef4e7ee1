//! The sink that writes a shuffle object.
//!
//! Lanes scatter their rows into buffers of their own, one per partition, and encode a buffer as
//! a block when it is full or memory is short. Finished blocks are shared: they wait, in memory
//! or in a temporary file, until the attempt closes and the object is laid out partition by
//! partition. Rows are only ever appended, so that is the one ordering step there is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use xxhash_rust::xxh3::Xxh3;

use super::block::BlockEncoder;
use super::gather::{Column, PartitionBuffer};
use super::layout;
use super::upload::upload;
use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::id::TaskId;
use crate::kernel::hash::hash_columns;
use crate::limits::{SHUFFLE_BLOCK_BYTES, SHUFFLE_BLOCK_ROWS, SHUFFLE_PARTITIONS_MAX};
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::TaskMetrics;
use crate::operator::{Emit, Operator};
use crate::plan::{PartitionMeta, Partitioning, TaskOutput};
use crate::sink::Sink;
use crate::storage::ShuffleStore;
use crate::storage::file_error;

/// Writes one shuffle object: the rows of an attempt, spread over partitions.
pub struct ShuffleSink {
    shared: Arc<Shared>,
    store: ShuffleStore,
    path: Path,
    /// An upload has begun, so there may be something to remove.
    uploaded: AtomicBool,
}

struct Shared {
    /// Columns of the rows, as readers will see them.
    schema: SchemaRef,
    /// Indices of the key columns; none where there is one partition.
    keys: Vec<usize>,
    store: ShuffleStore,
    memory: Arc<MemoryBudget>,
    metrics: Arc<TaskMetrics>,
    partitions: Vec<Mutex<Partition>>,
    held: Mutex<Reservation>,
    spill: Mutex<Option<Arc<Spill>>>,
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

/// A finished block.
pub(super) enum Block {
    Memory(Bytes),
    Disk {
        file: Arc<Spill>,
        offset: u64,
        bytes: usize,
    },
}

/// Blocks that did not fit in memory.
pub(super) struct Spill {
    file: File,
    end: Mutex<u64>,
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
        let store = ctx.shuffle.clone();
        let path = store.object_path(task.job, task.stage, task.task, attempt);
        let shared = Arc::new(Shared {
            schema,
            keys,
            store: store.clone(),
            memory: Arc::clone(&ctx.memory),
            metrics: Arc::clone(&ctx.metrics),
            partitions: (0..count).map(|_| Mutex::default()).collect(),
            held: Mutex::new(ctx.memory.reserve("shuffle write")),
            spill: Mutex::default(),
        });
        Ok(Arc::new(ShuffleSink {
            shared,
            store,
            path,
            uploaded: AtomicBool::new(false),
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Sink for ShuffleSink {
    fn lane(&self, _lane: usize) -> Result<Box<dyn Operator>> {
        let shared = Arc::clone(&self.shared);
        let encoder = BlockEncoder::new(Arc::clone(&shared.schema), shared.store.compression)?;
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
        let mut index = Vec::with_capacity(self.shared.partitions.len());
        let mut blocks = Vec::new();
        for partition in &self.shared.partitions {
            let mut partition = std::mem::take(&mut *lock(partition));
            blocks.append(&mut partition.blocks);
            index.push(PartitionMeta {
                bytes: partition.bytes,
                rows: partition.rows,
                checksum: partition.hash.map_or(0, |hash| hash.digest()),
            });
        }
        if !blocks.is_empty() {
            let footer = Bytes::from(layout::footer(&index));
            let bytes = index.iter().map(|meta| meta.bytes).sum::<u64>() + footer.len() as u64;
            blocks.push(Block::Memory(footer));
            self.uploaded.store(true, Ordering::Relaxed);
            // What is handed to the store is the store's to account for.
            let given = |bytes: usize| lock(&self.shared.held).shrink(bytes as u64);
            let puts = upload(&self.store.store, &self.path, blocks, bytes, given).await?;
            let metrics = &self.shared.metrics;
            TaskMetrics::count(&metrics.puts, puts);
            TaskMetrics::count(&metrics.objects, 1);
            TaskMetrics::count(&metrics.bytes_out, bytes);
            TaskMetrics::count(&metrics.rows_out, index.iter().map(|meta| meta.rows).sum());
        }
        Ok(TaskOutput::Shuffle(index))
    }

    async fn abort(&self) {
        for partition in &self.shared.partitions {
            *lock(partition) = Partition::default();
        }
        if self.uploaded.load(Ordering::Relaxed)
            && let Err(error) = self.store.store.delete(&self.path).await
        {
            tracing::debug!(object = %self.path, %error, "an unused shuffle object stays behind");
        }
    }
}

impl Shared {
    /// Puts a finished block behind those of its partition.
    fn add(&self, partition: usize, block: Vec<u8>, rows: usize) -> Result<()> {
        let bytes = block.len();
        let block = Bytes::from(block);
        let kept = if lock(&self.held).try_grow(bytes as u64) {
            Block::Memory(block.clone())
        } else {
            self.spill(&block)?
        };
        let mut partition = lock(&self.partitions[partition]);
        partition.hash.get_or_insert_default().update(&block);
        partition.bytes += bytes as u64;
        partition.rows += rows as u64;
        partition.blocks.push(kept);
        Ok(())
    }

    fn spill(&self, block: &Bytes) -> Result<Block> {
        let failed = |error| file_error("write", "temporary shuffle file", error);
        let file = {
            let mut spill = lock(&self.spill);
            match &*spill {
                Some(file) => Arc::clone(file),
                None => {
                    let file = tempfile::tempfile().map_err(failed)?;
                    Arc::clone(spill.insert(Arc::new(Spill {
                        file,
                        end: Mutex::new(0),
                    })))
                }
            }
        };
        let bytes = block.len();
        let offset = {
            let mut end = lock(&file.end);
            let offset = *end;
            *end += bytes as u64;
            offset
        };
        file.file.write_all_at(block, offset).map_err(failed)?;
        TaskMetrics::count(&self.metrics.spilled_bytes, bytes as u64);
        Ok(Block::Disk {
            file,
            offset,
            bytes,
        })
    }
}

impl Spill {
    pub(super) fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let mut block = vec![0; bytes];
        self.file.read_exact_at(&mut block, offset)?;
        Ok(Bytes::from(block))
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
        self.seal_all()?;
        self.held.shrink(self.held.bytes());
        Ok(())
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

    /// Reserves what the buffers hold; where that is refused, they become blocks.
    fn reserve(&mut self) -> Result<()> {
        let bytes = self.buffers.iter().map(PartitionBuffer::bytes).sum();
        if !self.held.try_resize(bytes) {
            self.held.shrink(self.held.bytes());
            self.seal_all()?;
        }
        Ok(())
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
