//! How the parts of a file get into storage, and who makes them visible.
//!
//! A staged file is whole as soon as its transfer has been finished: one request where it is less
//! than a part, or an upload that is completed at once. A pending file stays an upload, under the
//! name that it is to have, and completing it is the driver's decision. Before its first part is
//! sent a record of it is put into the staging directory, which is where those who clear up after
//! a dead executor find out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::local::LocalUpload;
use crate::error::Result;
use crate::metrics::TaskMetrics;
use crate::plan::PendingUpload;
use crate::storage::{local_path, storage_error};

/// The way of one file to storage.
pub(super) struct Transfer {
    url: String,
    way: Way,
}

enum Way {
    Staged(Staged),
    Pending(Pending),
}

/// A file that is whole at the end.
struct Staged {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// The same where it is a file of this machine.
    local: Option<PathBuf>,
    parts: Option<Box<dyn MultipartUpload>>,
    /// A request that makes the file visible has been made.
    visible: bool,
}

/// A file that stays an upload.
struct Pending {
    uploads: Arc<dyn MultipartStore>,
    path: Path,
    store: Arc<dyn ObjectStore>,
    record: Path,
    id: Option<String>,
    parts: Vec<String>,
}

impl Transfer {
    /// To `path` in the staging directory.
    pub(super) fn staged(url: String, store: Arc<dyn ObjectStore>, path: Path) -> Self {
        let way = Way::Staged(Staged {
            store,
            path,
            local: local_path(&url),
            parts: None,
            visible: false,
        });
        Transfer { url, way }
    }

    /// To its place in the output, with a record in the staging directory.
    pub(super) fn pending(
        url: String,
        (uploads, path): (Arc<dyn MultipartStore>, Path),
        (store, record): (Arc<dyn ObjectStore>, Path),
    ) -> Self {
        let way = Way::Pending(Pending {
            uploads,
            path,
            store,
            record,
            id: None,
            parts: Vec::new(),
        });
        Transfer { url, way }
    }

    /// Sends a part behind those before it.
    pub(super) async fn put_part(&mut self, part: Bytes, metrics: &TaskMetrics) -> Result<()> {
        let sent = match &mut self.way {
            Way::Staged(staged) => staged.put_part(part, metrics).await,
            Way::Pending(pending) => pending.put_part(part, metrics).await,
        };
        sent.map_err(|error| storage_error("write", &self.url, error))
    }

    /// Sends the rest of a file that has `bytes` with it; gives the upload that is to be completed
    /// if the file is none before that.
    pub(super) async fn finish(
        &mut self,
        rest: Bytes,
        bytes: u64,
        metrics: &TaskMetrics,
    ) -> Result<Option<PendingUpload>> {
        let failed = |error| storage_error("write", &self.url, error);
        match &mut self.way {
            Way::Staged(staged) => {
                staged.finish(rest, bytes, metrics).await.map_err(failed)?;
                Ok(None)
            }
            Way::Pending(pending) => {
                let upload = pending.finish(rest, metrics).await;
                upload.map(Some).map_err(failed)
            }
        }
    }

    /// Removes what was sent, as far as that is possible.
    pub(super) async fn abort(&mut self) {
        // The first error, which is why it is aborted, tells more than one about tidying up.
        match &mut self.way {
            Way::Staged(staged) => {
                if let Some(mut parts) = staged.parts.take() {
                    drop(parts.abort().await);
                }
                if staged.visible {
                    drop(staged.store.delete(&staged.path).await);
                }
            }
            Way::Pending(pending) => {
                let Some(id) = pending.id.take() else {
                    return;
                };
                // What cannot be aborted keeps its record.
                let aborted = pending.uploads.abort_multipart(&pending.path, &id).await;
                if aborted.is_ok() {
                    drop(pending.store.delete(&pending.record).await);
                }
            }
        }
    }
}

impl Staged {
    async fn put_part(&mut self, part: Bytes, metrics: &TaskMetrics) -> object_store::Result<()> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                count_put(metrics);
                none.insert(match &self.local {
                    Some(path) => Box::new(LocalUpload::begin(path.clone()).await?),
                    None => self.store.put_multipart(&self.path).await?,
                })
            }
        };
        count_put(metrics);
        parts.put_part(PutPayload::from(part)).await
    }

    async fn finish(
        &mut self,
        rest: Bytes,
        bytes: u64,
        metrics: &TaskMetrics,
    ) -> object_store::Result<()> {
        self.visible = true;
        if self.parts.is_some() && !rest.is_empty() {
            self.put_part(rest.clone(), metrics).await?;
        }
        count_put(metrics);
        let Some(parts) = &mut self.parts else {
            let put = self.store.put(&self.path, PutPayload::from(rest)).await;
            return put.map(drop);
        };
        if let Err(error) = parts.complete().await {
            // A lost answer looks like a failure though the file is there; its name is this
            // attempt's alone, so one of the right size is ours.
            match self.store.head(&self.path).await {
                Ok(meta) if meta.size == bytes => {}
                _ => return Err(error),
            }
        }
        // Until then it is not known what there is to remove.
        self.parts = None;
        Ok(())
    }
}

impl Pending {
    async fn put_part(&mut self, part: Bytes, metrics: &TaskMetrics) -> object_store::Result<()> {
        let id = self.begin(metrics).await?;
        count_put(metrics);
        let part = PutPayload::from(part);
        let sent = self
            .uploads
            .put_part(&self.path, &id, self.parts.len(), part);
        let PartId { content_id } = sent.await?;
        self.parts.push(content_id);
        Ok(())
    }

    /// Begins the upload and records it, if that has not been done; gives its id.
    async fn begin(&mut self, metrics: &TaskMetrics) -> object_store::Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        count_put(metrics);
        let id = self.uploads.create_multipart(&self.path).await?;
        self.id = Some(id.clone());
        count_put(metrics);
        let record = PutPayload::from(id.clone());
        self.store.put(&self.record, record).await?;
        Ok(id)
    }

    async fn finish(
        &mut self,
        rest: Bytes,
        metrics: &TaskMetrics,
    ) -> object_store::Result<PendingUpload> {
        let id = self.begin(metrics).await?;
        // An empty file has no parts: not every store takes an empty one.
        if !rest.is_empty() {
            self.put_part(rest, metrics).await?;
        }
        let parts = self.parts.clone();
        Ok(PendingUpload { id, parts })
    }
}

fn count_put(metrics: &TaskMetrics) {
    TaskMetrics::count(&metrics.puts, 1);
}
