//! Reading byte ranges of one input file, from this machine or from a store.
//!
//! A file of this machine is read in place, by blocking threads that exist for that. Anything
//! else is asked of its store, neighbouring ranges with one request. Every read has to bring what
//! was asked for: a file that has become shorter since it was listed is an error that says so.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, coalesce_ranges};

use crate::error::{Error, Result};
use crate::metrics::TaskMetrics;
use crate::storage::{Stores, file_error, local_path, storage_error};

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

    /// The bytes of each range, which all lie within the file.
    pub(super) async fn read_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let read = match &self.place {
            Place::Local(path) => {
                TaskMetrics::count(&self.metrics.gets, 1);
                let (path, ranges) = (Arc::clone(path), ranges.clone());
                let read = tokio::task::spawn_blocking(move || read_local(&path, &ranges)).await;
                read.unwrap_or_else(|error| Err(io::Error::other(error)))
                    .map_err(|error| self.read_error(error))?
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

fn read_local(path: &PathBuf, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let file = File::open(path)?;
    let read = |range: &Range<u64>| {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    };
    ranges.iter().map(read).collect()
}
