//! Where shuffle objects are, and what they are called.

use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::id::{JobId, StageId};
use crate::storage::half_written::{self, HalfWritten};
use crate::storage::{OverflowStore, ProgramStore, Stores, file_error, local_path, storage_error};

/// How the buffers of a block are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: for memory, where blocks are used as they lie.
    None,
    /// LZ4 frames: for local disks.
    Lz4,
    /// ZSTD at its fastest level: for stores behind a network.
    Zstd,
}

/// The place for shuffle objects.
#[derive(Debug, Clone)]
pub struct ShuffleStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    root: Path,
    pub(crate) compression: Compression,
    /// Where the root is, if that is a directory of this machine.
    directory: Option<PathBuf>,
}

/// A shuffle object, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShuffleObject {
    /// The job.
    pub job: JobId,
    /// The stage that wrote it.
    pub stage: StageId,
    /// The task that wrote it.
    pub task: u32,
    /// The attempt that wrote it.
    pub attempt: u32,
}

impl ShuffleObject {
    /// What an object below a root of `depth` parts is; none if it is no shuffle object.
    fn parse(path: &Path, depth: usize) -> Option<Self> {
        let mut parts = path.parts().skip(depth + 1);
        let (job, stage, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Self::named(job.as_ref(), stage.as_ref(), name.as_ref())
    }

    /// What the last three parts of a name say.
    pub(super) fn named(job: &str, stage: &str, name: &str) -> Option<Self> {
        let (task, attempt) = name.strip_prefix('t')?.split_once("-a")?;
        Some(ShuffleObject {
            job: job.parse().ok()?,
            stage: StageId(stage.strip_prefix('s')?.parse().ok()?),
            task: task.parse().ok()?,
            attempt: attempt.parse().ok()?,
        })
    }
}

impl ShuffleStore {
    /// Objects below `root` in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, compression: Compression) -> Self {
        ShuffleStore {
            store,
            root,
            compression,
            directory: None,
        }
    }

    /// Objects below `url`; a local directory is made if it is missing.
    ///
    /// # Errors
    /// `Invalid` for a URL that no store stands behind, or a directory that cannot be made.
    pub fn open(stores: &Stores, url: &str) -> Result<Self> {
        let Some(directory) = local_path(url) else {
            let (store, root) = stores.get(url)?;
            return Ok(ShuffleStore::new(store, root, Compression::Zstd));
        };
        // A store of our own: it removes directories that become empty, up to this one.
        let made =
            std::fs::create_dir_all(&directory).map_err(|error| file_error("create", url, error));
        made?;
        let store = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|error| storage_error("open", url, error))?
            .with_automatic_cleanup(true);
        Ok(ShuffleStore {
            directory: Some(directory),
            ..ShuffleStore::new(Arc::new(store), Path::ROOT, Compression::Lz4)
        })
    }

    /// Objects in memory, uncompressed, so that they are read where they lie.
    pub fn in_memory(store: Arc<OverflowStore>) -> Self {
        ShuffleStore::new(store, Path::ROOT, Compression::None)
    }

    /// The place for programs, beside these objects.
    pub fn programs(&self) -> ProgramStore {
        ProgramStore::new(Arc::clone(&self.store), self.root.clone().join("programs"))
    }

    /// The name of what an attempt writes. It begins with four digits of a hash, because stores
    /// spread their load by the beginning of names.
    pub fn object_path(&self, job: JobId, stage: StageId, task: u32, attempt: u32) -> Path {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&job.value().to_le_bytes());
        id[8..12].copy_from_slice(&stage.0.to_le_bytes());
        id[12..16].copy_from_slice(&task.to_le_bytes());
        id[16..].copy_from_slice(&attempt.to_le_bytes());
        let hash = xxh3_64(&id) & 0xffff;
        let names = [
            format!("{hash:04x}"),
            job.to_string(),
            stage.to_string(),
            format!("t{task}-a{attempt}"),
        ];
        names.into_iter().fold(self.root.clone(), Path::join)
    }

    /// Every shuffle object that there is, of whatever job.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn objects(&self) -> Result<Vec<ShuffleObject>> {
        let found = self.sized_objects().await?;
        Ok(found.into_iter().map(|(object, _)| object).collect())
    }

    /// The same with the bytes of each.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn sized_objects(&self) -> Result<Vec<(ShuffleObject, u64)>> {
        let depth = self.root.parts().count();
        let listed = self.store.list(Some(&self.root));
        let found = listed.map_ok(|object| {
            let name = ShuffleObject::parse(&object.location, depth)?;
            Some((name, object.size))
        });
        let found: Vec<_> = found
            .try_collect()
            .await
            .map_err(|error| storage_error("list", "shuffle objects", error))?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Files of objects that were never finished, or are being written: only file systems have
    /// them.
    ///
    /// # Errors
    /// What the file system answers.
    pub async fn half_written(&self) -> Result<Vec<HalfWritten>> {
        let Some(directory) = self.directory.clone() else {
            return Ok(Vec::new());
        };
        let found = tokio::task::spawn_blocking(move || half_written::find(&directory)).await;
        let found = found.map_err(|error| {
            Error::internal("a look at the storage was cut off").with_source(error)
        })?;
        found.map_err(|error| file_error("list", "shuffle objects", error))
    }

    /// Deletes the objects of a job that ended, `(stage, task, attempt)` each. Objects that are
    /// not there are no error: an attempt without rows writes none.
    ///
    /// # Errors
    /// The first failure; the other objects are deleted all the same.
    pub async fn delete_job(&self, job: JobId, objects: &[(StageId, u32, u32)]) -> Result<()> {
        let paths: Vec<_> = objects
            .iter()
            .map(|&(stage, task, attempt)| Ok(self.object_path(job, stage, task, attempt)))
            .collect();
        let mut answers = self.store.delete_stream(stream::iter(paths).boxed());
        let mut first = Ok(());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) if first.is_ok() => {
                    let what = format!("shuffle objects of job {job}");
                    first = Err(storage_error("delete", &what, error));
                }
                Err(_) => {}
            }
        }
        first
    }
}
