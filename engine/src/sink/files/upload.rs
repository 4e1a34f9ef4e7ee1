//! One file on its way to storage.
//!
//! Bytes are put in by the lane's compute thread and taken out by the task's async loop. A file
//! of less than a part is one request when it is complete; a larger one is uploaded in parts of
//! equal size as they fill, and becomes visible only when all of it is there. A file that has
//! ended is finished as soon as the loop comes by, while its lane writes the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::Mutex as AsyncMutex;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::limits::UPLOAD_PART_BYTES;
use crate::metrics::TaskMetrics;
use crate::plan::OutputFile;
use crate::storage::storage_error;

/// Bytes that may wait while another part of the same file is on its way.
const WAITING_BYTES: usize = 4 * UPLOAD_PART_BYTES;

/// A file that a lane writes.
pub(super) struct Slot {
    name: String,
    url: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
    metrics: Arc<TaskMetrics>,
    inbox: Mutex<Inbox>,
    upload: AsyncMutex<Upload>,
}

/// What the lane has put in and nobody has taken out yet.
#[derive(Default)]
struct Inbox {
    waiting: BytesMut,
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
#[derive(Default)]
struct Upload {
    parts: Option<Box<dyn MultipartUpload>>,
    bytes: u64,
    hash: Option<Box<Xxh3>>,
    /// A request that makes the file visible has been made.
    visible: bool,
    /// The file, once all of it is there.
    file: Option<OutputFile>,
}

impl Slot {
    pub(super) fn new(
        name: String,
        url: String,
        store: Arc<dyn ObjectStore>,
        path: Path,
        metrics: &Arc<TaskMetrics>,
    ) -> Self {
        Slot {
            name,
            url,
            store,
            path,
            metrics: Arc::clone(metrics),
            inbox: Mutex::default(),
            upload: AsyncMutex::default(),
        }
    }

    /// Adds bytes, and rows that are in these or later ones.
    pub(super) fn put(&self, bytes: Vec<u8>, rows: u64) {
        let mut inbox = self.inbox();
        inbox.rows += rows;
        match inbox.waiting.is_empty() {
            true => inbox.waiting = Bytes::from(bytes).into(),
            false => inbox.waiting.extend_from_slice(&bytes),
        }
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
        self.inbox().waiting.len()
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
        while let Some(part) = self.take(UPLOAD_PART_BYTES) {
            self.put_part(upload, part).await?;
        }
        Ok(())
    }

    async fn put_part(&self, upload: &mut Upload, part: Bytes) -> Result<()> {
        upload.add(&part);
        let parts = match &mut upload.parts {
            Some(parts) => parts,
            none => {
                self.count_put();
                let parts = self.store.put_multipart(&self.path).await;
                none.insert(parts.map_err(|error| self.error(error))?)
            }
        };
        self.count_put();
        parts
            .put_part(PutPayload::from(part))
            .await
            .map_err(|error| self.error(error))
    }

    /// Uploads what is left and makes the file visible.
    pub(super) async fn close(&self) -> Result<OutputFile> {
        let mut upload = self.upload.lock().await;
        self.finish(&mut upload).await
    }

    async fn finish(&self, upload: &mut Upload) -> Result<OutputFile> {
        if let Some(file) = &upload.file {
            return Ok(file.clone());
        }
        self.put_parts(upload).await?;
        let rest = self.take(0).unwrap_or_default();
        upload.visible = true;
        if upload.parts.is_none() {
            upload.add(&rest);
            self.count_put();
            let put = self.store.put(&self.path, PutPayload::from(rest)).await;
            put.map_err(|error| self.error(error))?;
        } else {
            if !rest.is_empty() {
                self.put_part(upload, rest).await?;
            }
            self.complete(upload).await?;
        }
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
        };
        upload.file = Some(file.clone());
        self.inbox().life = Life::Stored;
        Ok(file)
    }

    async fn complete(&self, upload: &mut Upload) -> Result<()> {
        let Some(mut parts) = upload.parts.take() else {
            return Err(Error::internal("an upload without parts was completed"));
        };
        self.count_put();
        if let Err(error) = parts.complete().await {
            // A lost answer looks like a failure though the file is there; its name is this
            // attempt's alone, so one of the right size is ours.
            match self.store.head(&self.path).await {
                Ok(meta) if meta.size == upload.bytes => {}
                _ => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    /// Removes what was written, as far as that is possible.
    pub(super) async fn abort(&self) {
        let mut upload = self.upload.lock().await;
        if let Some(mut parts) = upload.parts.take() {
            // The first error tells more than one about tidying up.
            drop(parts.abort().await);
        }
        if upload.visible {
            drop(self.store.delete(&self.path).await);
        }
    }

    /// Takes `bytes` out once that many wait; with 0, all that wait.
    fn take(&self, bytes: usize) -> Option<Bytes> {
        let mut inbox = self.inbox();
        let waiting = inbox.waiting.len();
        if waiting < bytes || waiting == 0 {
            return None;
        }
        let taken = inbox
            .waiting
            .split_to(if bytes == 0 { waiting } else { bytes });
        Some(taken.freeze())
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_put(&self) {
        TaskMetrics::count(&self.metrics.puts, 1);
    }

    fn error(&self, error: object_store::Error) -> Error {
        storage_error("write", &self.url, error)
    }
}

impl Upload {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.get_or_insert_default().update(bytes);
    }
}
