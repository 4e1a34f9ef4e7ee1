//! One file on its way to storage.
//!
//! Bytes are put in by the lane's compute thread and taken out by the task's async loop, part by
//! part as they fill. A file that has ended is finished as soon as the loop comes by, while its
//! lane writes the next one. How parts get into storage is a [`Transfer`]'s matter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;
use xxhash_rust::xxh3::Xxh3;

use super::transfer::Transfer;
use crate::error::Result;
use crate::limits::UPLOAD_PART_BYTES;
use crate::metrics::TaskMetrics;
use crate::plan::OutputFile;

/// Bytes that may wait while another part of the same file is on its way.
const WAITING_BYTES: usize = 4 * UPLOAD_PART_BYTES;

/// A file that a lane writes.
pub(super) struct Slot {
    name: String,
    metrics: Arc<TaskMetrics>,
    inbox: Mutex<Inbox>,
    upload: AsyncMutex<Upload>,
}

/// What the lane has put in and nobody has taken out yet.
#[derive(Default)]
struct Inbox {
    /// Full parts, and in the end one that need not be.
    waiting: VecDeque<Bytes>,
    rows: u64,
    life: Life,
}

/// Where a file is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Life {
    /// More may be put in.
    #[default]
    Growing,
    /// All of it has been put in.
    Ended,
    /// All of it is in storage.
    Stored,
}

/// How far the file has come.
struct Upload {
    transfer: Transfer,
    bytes: u64,
    hash: Option<Box<Xxh3>>,
    /// The file, once all of it is there.
    file: Option<OutputFile>,
}

impl Slot {
    pub(super) fn new(name: String, transfer: Transfer, metrics: &Arc<TaskMetrics>) -> Self {
        Slot {
            name,
            metrics: Arc::clone(metrics),
            inbox: Mutex::default(),
            upload: AsyncMutex::new(Upload {
                transfer,
                bytes: 0,
                hash: None,
                file: None,
            }),
        }
    }

    /// Adds parts, all of which are full but for the last one of the file, and rows that are in
    /// these or later ones.
    pub(super) fn put(&self, parts: Vec<Vec<u8>>, rows: u64) {
        let mut inbox = self.inbox();
        inbox.rows += rows;
        inbox.waiting.extend(parts.into_iter().map(Bytes::from));
    }

    /// The file is complete with what was put in.
    pub(super) fn end(&self) {
        self.inbox().life = Life::Ended;
    }

    /// Whether there is nothing left to flush.
    pub(super) fn is_stored(&self) -> bool {
        self.inbox().life == Life::Stored
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.inbox().waiting.iter().map(Bytes::len).sum()
    }

    /// Uploads the parts that are full, or all of a file that has ended. Where somebody else is at
    /// it already, leaves it to them, unless so much waits that the caller has to wait too.
    pub(super) async fn flush(&self) -> Result<()> {
        let ended = self.inbox().life != Life::Growing;
        if self.waiting() < UPLOAD_PART_BYTES && !ended {
            return Ok(());
        }
        let mut upload = match self.upload.try_lock() {
            Ok(upload) => upload,
            Err(_) if self.waiting() < WAITING_BYTES => return Ok(()),
            Err(_) => self.upload.lock().await,
        };
        match ended {
            true => self.finish(&mut upload).await.map(drop),
            false => self.put_parts(&mut upload).await,
        }
    }

    async fn put_parts(&self, upload: &mut Upload) -> Result<()> {
        while let Some(part) = self.take(|part| part.len() == UPLOAD_PART_BYTES) {
            self.put_part(upload, part).await?;
        }
        Ok(())
    }

    async fn put_part(&self, upload: &mut Upload, part: Bytes) -> Result<()> {
        upload.add(&part);
        upload.transfer.put_part(part, &self.metrics).await
    }

    /// Uploads what is left.
    pub(super) async fn close(&self) -> Result<OutputFile> {
        let mut upload = self.upload.lock().await;
        self.finish(&mut upload).await
    }

    async fn finish(&self, upload: &mut Upload) -> Result<OutputFile> {
        if let Some(file) = &upload.file {
            return Ok(file.clone());
        }
        self.put_parts(upload).await?;
        let rest = self.take(|_| true).unwrap_or_default();
        upload.add(&rest);
        let pending = upload.transfer.finish(rest, upload.bytes, &self.metrics);
        let pending = pending.await?;
        TaskMetrics::count(&self.metrics.objects, 1);
        TaskMetrics::count(&self.metrics.bytes_out, upload.bytes);
        let file = OutputFile {
            name: self.name.clone(),
            rows: self.inbox().rows,
            bytes: upload.bytes,
            checksum: upload
                .hash
                .as_ref()
                .map_or_else(|| Xxh3::new().digest(), |hash| hash.digest()),
            pending,
        };
        upload.file = Some(file.clone());
        self.inbox().life = Life::Stored;
        Ok(file)
    }

    /// Removes what was written, as far as that is possible.
    pub(super) async fn abort(&self) {
        self.upload.lock().await.transfer.abort().await;
    }

    /// Takes out the first part that waits, if it is `wanted`.
    fn take(&self, wanted: impl FnOnce(&Bytes) -> bool) -> Option<Bytes> {
        let mut inbox = self.inbox();
        let is_wanted = inbox.waiting.front().is_some_and(wanted);
        is_wanted.then(|| inbox.waiting.pop_front()).flatten()
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.get_or_insert_default().update(bytes);
    }
}
