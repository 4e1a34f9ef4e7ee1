//! Reading byte ranges of one input file, from this machine or from a store.
//!
//! A file of this machine is read in place, by blocking threads that exist for that. Anything
//! else is asked of its store, neighbouring ranges with one request. Every read has to bring what
//! was asked for: a file that has become shorter since it was listed is an error that says so.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, coalesce_ranges};

use crate::error::{Error, Result};
use crate::metrics::TaskMetrics;
use crate::storage::{Stores, file_error, local_path, on_file_thread, read_ranges, storage_error};

/// Ranges of an object closer than this are fetched together: reading a megabyte over is cheaper
/// than another request.
const GAP_BYTES: u64 = 1 << 20;

/// An input file of known size.
#[derive(Clone)]
pub(super) struct InputFile {
    url: Arc<str>,
    bytes: u64,
    place: Place,
    metrics: Arc<TaskMetrics>,
}

#[derive(Clone)]
enum Place {
    Local(Arc<PathBuf>),
    Store(Arc<dyn ObjectStore>, Path),
}

impl InputFile {
    /// The file of `bytes` bytes at `url`, wherever that is.
    pub(super) fn new(
        url: &str,
        bytes: u64,
        stores: &Stores,
        metrics: &Arc<TaskMetrics>,
    ) -> Result<Self> {
        let place = match local_path(url) {
            Some(path) => Place::Local(Arc::new(path)),
            None => {
                let (store, path) = stores.get(url)?;
                Place::Store(store, path)
            }
        };
        Ok(InputFile {
            url: url.into(),
            bytes,
            place,
            metrics: Arc::clone(metrics),
        })
    }

    /// The object at `path` of `store`, called `url` in errors. What is read is not counted.
    pub(super) fn in_store(
        store: Arc<dyn ObjectStore>,
        path: &Path,
        url: &str,
        bytes: u64,
    ) -> Self {
        InputFile {
            url: url.into(),
            bytes,
            place: Place::Store(store, path.clone()),
            metrics: Arc::default(),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Size of the whole file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn metrics(&self) -> &Arc<TaskMetrics> {
        &self.metrics
    }

    /// The bytes of one range.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut read = self.read_all(vec![range]).await?;
        read.pop()
            .ok_or_else(|| Error::internal("a read without an answer"))
    }

    /// What becomes another when the file is written again; none if its store does not say.
    pub(super) async fn version(&self) -> Result<Option<String>> {
        match &self.place {
            Place::Local(path) => {
                let path = Arc::clone(path);
                let read = on_file_thread(move || local_version(&path)).await;
                let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
                read.map(Some).map_err(|error| self.read_error(error))
            }
            Place::Store(store, path) => {
                let head = store.head(path).await;
                let head = head.map_err(|error| storage_error("read", &self.url, error))?;
                Ok(head.e_tag)
            }
        }
    }

    /// The bytes of one range, and the version of the file that they are of.
    pub(super) async fn read_versioned(
        &self,
        range: Range<u64>,
    ) -> Result<(Bytes, Option<String>)> {
        let Place::Store(store, path) = &self.place else {
            // Asked first: should the file be written in between, its version is an old one.
            let version = self.version().await?;
            return Ok((self.read(range).await?, version));
        };
        TaskMetrics::count(&self.metrics.gets, 1);
        let options = GetOptions::new().with_range(Some(range.clone()));
        let failed = |error| storage_error("read", &self.url, error);
        let found = store.get_opts(path, options).await.map_err(failed)?;
        let version = found.meta.e_tag.clone();
        let bytes = found.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.shrunk());
        }
        TaskMetrics::count(&self.metrics.bytes_in, bytes.len() as u64);
        Ok((bytes, version))
    }

    /// The bytes of each range, which all lie within the file.
    pub(super) async fn read_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let read = match &self.place {
            Place::Local(path) => {
                TaskMetrics::count(&self.metrics.gets, 1);
                let path = Arc::clone(path);
                let read = read_ranges(move || File::open(&*path), &ranges).await;
                read.map_err(|error| self.read_error(error))?
            }
            Place::Store(store, path) => {
                let fetch = |range: Range<u64>| {
                    TaskMetrics::count(&self.metrics.gets, 1);
                    store.get_range(path, range)
                };
                coalesce_ranges(&ranges, fetch, GAP_BYTES)
                    .await
                    .map_err(|error| storage_error("read", &self.url, error))?
            }
        };
        for (range, bytes) in ranges.iter().zip(&read) {
            if bytes.len() as u64 != range.end - range.start {
                return Err(self.shrunk());
            }
            TaskMetrics::count(&self.metrics.bytes_in, bytes.len() as u64);
        }
        Ok(read)
    }

    fn read_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.shrunk(),
            _ => file_error("read", &self.url, error),
        }
    }

    fn shrunk(&self) -> Error {
        Error::invalid(format!(
            "the file is shorter than when it was listed file={} listed_bytes={}",
            self.url, self.bytes
        ))
    }
}

/// Which file it is and when it was last written.
fn local_version(path: &PathBuf) -> io::Result<String> {
    let found = std::fs::metadata(path)?;
    let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
    Ok(format!(
        "{}-{}-{seconds}.{nanos:09}",
        found.dev(),
        found.ino()
    ))
}
