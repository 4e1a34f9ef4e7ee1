//! The object of an attempt while it is made.
//!
//! Finished blocks wait, in memory or in a temporary file, until the attempt closes: only then is
//! it known where each of them comes to lie.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::layout;
use super::upload::upload;
use crate::context::TaskContext;
use crate::error::Result;
use crate::id::TaskId;
use crate::memory::{DiskBudget, DiskRoom, Reservation};
use crate::metrics::TaskMetrics;
use crate::plan::PartitionMeta;
use crate::storage::{Compression, ShuffleStore, file_error};

/// The object of an attempt.
pub(super) struct ObjectWriter {
    store: ShuffleStore,
    path: Path,
    /// An upload has begun, so there may be something to remove.
    uploaded: AtomicBool,
    metrics: Arc<TaskMetrics>,
    held: Mutex<Reservation>,
    disk: Arc<DiskBudget>,
    spill: Mutex<Option<Arc<Spill>>>,
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

/// Blocks that did not fit in memory, one after the other.
pub(super) struct Spill {
    file: File,
    room: Mutex<DiskRoom>,
}

impl ObjectWriter {
    pub(super) fn new(task: TaskId, attempt: u32, ctx: &TaskContext) -> Self {
        let store = ctx.shuffle.clone();
        ObjectWriter {
            path: store.object_path(task.job, task.stage, task.task, attempt),
            store,
            uploaded: AtomicBool::new(false),
            metrics: Arc::clone(&ctx.metrics),
            held: Mutex::new(ctx.memory.reserve("shuffle write")),
            disk: Arc::clone(ctx.memory.disk()),
            spill: Mutex::default(),
        }
    }

    /// How blocks are to be compressed.
    pub(super) fn compression(&self) -> Compression {
        self.store.compression
    }

    /// Keeps a block: on disk, where there is no memory for it.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, or the budget for it used up.
    pub(super) fn keep(&self, block: Bytes) -> Result<Block> {
        if lock(&self.held).try_grow(block.len() as u64) {
            return Ok(Block::Memory(block));
        }
        self.write(&block)
    }

    /// The bytes of the blocks that wait in memory.
    pub(super) fn waiting_bytes(&self) -> u64 {
        lock(&self.held).bytes()
    }

    /// Brings a block to disk that waits in memory.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub(super) fn spill(&self, block: &mut Block) -> Result<()> {
        if let Block::Memory(bytes) = block {
            let waited = bytes.len() as u64;
            *block = self.write(bytes)?;
            lock(&self.held).shrink(waited);
        }
        Ok(())
    }

    /// Puts a block behind those that are on disk.
    fn write(&self, block: &Bytes) -> Result<Block> {
        let failed = |error| file_error("write", "temporary shuffle file", error);
        let file = {
            let mut spill = lock(&self.spill);
            match &*spill {
                Some(file) => Arc::clone(file),
                None => {
                    let file = tempfile::tempfile_in(self.disk.directory()).map_err(failed)?;
                    let room = Mutex::new(DiskRoom::new(&self.disk));
                    Arc::clone(spill.insert(Arc::new(Spill { file, room })))
                }
            }
        };
        let bytes = block.len();
        let offset = {
            let mut room = lock(&file.room);
            let offset = room.bytes();
            room.grow(bytes as u64)?;
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

    /// Writes the object: `blocks`, partition by partition as `index` says. There is none where
    /// there are no blocks.
    ///
    /// # Errors
    /// What storage answered.
    pub(super) async fn put(&self, mut blocks: Vec<Block>, index: &[PartitionMeta]) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let footer = Bytes::from(layout::footer(index));
        let bytes = index.iter().map(|meta| meta.bytes).sum::<u64>() + footer.len() as u64;
        blocks.push(Block::Memory(footer));
        self.uploaded.store(true, Ordering::Relaxed);
        // What a request takes is the store's to account for; blocks on disk held nothing.
        let given = |bytes: usize| lock(&self.held).shrink(bytes as u64);
        let puts = upload(&self.store.store, &self.path, blocks, bytes, given).await?;
        let metrics = &self.metrics;
        TaskMetrics::count(&metrics.puts, puts);
        TaskMetrics::count(&metrics.objects, 1);
        TaskMetrics::count(&metrics.bytes_out, bytes);
        TaskMetrics::count(&metrics.rows_out, index.iter().map(|meta| meta.rows).sum());
        Ok(())
    }

    /// Removes what may have been written.
    pub(super) async fn remove(&self) {
        if self.uploaded.load(Ordering::Relaxed)
            && let Err(error) = self.store.store.delete(&self.path).await
        {
            tracing::debug!(object = %self.path, %error, "an unused shuffle object stays behind");
        }
    }
}

impl Spill {
    pub(super) fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let mut block = vec![0; bytes];
        self.file.read_exact_at(&mut block, offset)?;
        Ok(Bytes::from(block))
    }
}

/// What `mutex` guards. What is behind a lock here is whole after every step, whoever panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
