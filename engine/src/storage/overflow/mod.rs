//! An object store in memory that overflows to local disk.
//!
//! Embedded runs shuffle through the same code as a cluster, over this store. Bytes are kept as
//! they were put, without a copy, and a read of them is a slice. What the allowance or the
//! process's budget has no room for becomes a file in a temporary directory, which is made when
//! first needed and goes with the store.
//!
//! Invariant: a segment in memory holds a permit for its bytes, and gives it back when the last
//! object that shows it is gone.

mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

use self::space::{Segment, Space};
use crate::memory::MemoryBudget;

const NAME: &str = "OverflowStore";

/// An object store in memory that overflows to local disk.
pub struct OverflowStore {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Mutex<BTreeMap<Path, Object>>,
    space: Arc<Space>,
    version: AtomicU64,
}

#[derive(Clone)]
struct Object {
    segments: Arc<[Segment]>,
    bytes: u64,
    modified: DateTime<Utc>,
    version: u64,
}

impl OverflowStore {
    /// A store that keeps at most `bytes_max` in memory, reserved from `budget` where there is
    /// one, and the rest in a temporary directory below `directory`, the system's by default.
    pub fn new(
        bytes_max: u64,
        budget: Option<&Arc<MemoryBudget>>,
        directory: Option<PathBuf>,
    ) -> Arc<Self> {
        Arc::new(OverflowStore {
            shared: Arc::new(Shared {
                objects: Mutex::default(),
                space: Arc::new(Space::new(bytes_max, budget, directory)),
                version: AtomicU64::new(0),
            }),
        })
    }

    /// Bytes held in memory now.
    pub fn memory_bytes(&self) -> u64 {
        self.shared.space.memory_bytes()
    }

    /// Bytes of all objects, wherever they are.
    pub fn bytes(&self) -> u64 {
        lock(&self.shared.objects)
            .values()
            .map(|object| object.bytes)
            .sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(location: &Path) -> Error {
    Error::NotFound {
        path: location.to_string(),
        source: "no such object".into(),
    }
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: NAME,
        source: source.into(),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: NAME.to_owned(),
    }
}

impl Shared {
    fn insert(&self, location: &Path, segments: Vec<Segment>, create: bool) -> Result<PutResult> {
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let bytes = segments.iter().map(Segment::bytes).sum();
        let object = Object {
            segments: segments.into(),
            bytes,
            modified: Utc::now(),
            version,
        };
        let mut objects = lock(&self.objects);
        if create && objects.contains_key(location) {
            return Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "an object of that name exists".into(),
            });
        }
        let before = objects.insert(location.clone(), object);
        // Freeing may delete a file; nobody should wait for that.
        drop(objects);
        drop(before);
        Ok(PutResult {
            e_tag: Some(version.to_string()),
            version: None,
            extensions: Default::default(),
        })
    }

    fn object(&self, location: &Path) -> Result<Object> {
        lock(&self.objects)
            .get(location)
            .cloned()
            .ok_or_else(|| not_found(location))
    }
}

impl Object {
    fn meta(&self, location: &Path) -> ObjectMeta {
        ObjectMeta {
            location: location.clone(),
            last_modified: self.modified,
            size: self.bytes,
            e_tag: Some(self.version.to_string()),
            version: None,
        }
    }

    /// The bytes of `range`, a piece per segment.
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for segment in self.segments.iter() {
            let end = start + segment.bytes();
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                pieces.push((segment.clone(), from - start..to - start));
            }
            start = end;
        }
        stream::iter(pieces)
            .then(|(segment, range)| segment.read(range))
            .boxed()
    }
}

impl fmt::Debug for OverflowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(NAME)
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for OverflowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

#[async_trait]
impl ObjectStore for OverflowStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("conditional update")),
        };
        let segments = self.shared.space.keep(payload).await?;
        self.shared.insert(location, segments, create)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(Upload {
            shared,
            location: location.clone(),
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.shared.object(location)?;
        let meta = object.meta(location);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range.as_range(object.bytes).map_err(generic)?,
            None => 0..object.bytes,
        };
        let pieces = if options.head {
            stream::empty().boxed()
        } else {
            object.read(range.clone())
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(pieces),
            meta,
            range,
            attributes: Attributes::new(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let shared = Arc::clone(&self.shared);
        let delete = move |location: Result<Path>| {
            let location = location?;
            let object = lock(&shared.objects).remove(&location);
            object
                .map(|_| location.clone())
                .ok_or_else(|| not_found(&location))
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let below = |location: &Path| {
            location
                .prefix_match(&prefix)
                .is_some_and(|mut parts| parts.next().is_some())
        };
        let objects = lock(&self.shared.objects);
        let listed: Vec<_> = objects
            .iter()
            .filter(|(location, _)| below(location))
            .map(|(location, object)| Ok(object.meta(location)))
            .collect();
        stream::iter(listed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut common_prefixes = BTreeSet::new();
        let mut objects = Vec::new();
        for (location, object) in lock(&self.shared.objects).iter() {
            let Some(mut parts) = location.prefix_match(&prefix) else {
                continue;
            };
            match (parts.next(), parts.next()) {
                (Some(directory), Some(_)) => {
                    common_prefixes.insert(prefix.clone().join(directory));
                }
                (Some(_), None) => objects.push(object.meta(location)),
                (None, _) => {}
            }
        }
        let common_prefixes = common_prefixes.into_iter().collect();
        Ok(ListResult {
            common_prefixes,
            objects,
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let object = self.shared.object(from)?;
        let create = matches!(options.mode, CopyMode::Create);
        self.shared
            .insert(to, object.segments.to_vec(), create)
            .map(drop)
    }
}

/// An object that arrives in parts. Each part is kept like an object of its own.
struct Upload {
    shared: Arc<Shared>,
    location: Path,
    parts: Vec<Arc<Mutex<Option<Vec<Segment>>>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let slot = Arc::new(Mutex::new(None));
        self.parts.push(Arc::clone(&slot));
        let space = Arc::clone(&self.shared.space);
        async move {
            let segments = space.keep(payload).await?;
            *lock(&slot) = Some(segments);
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut segments = Vec::new();
        for part in self.parts.drain(..) {
            let part = lock(&part).take();
            segments.extend(part.ok_or_else(|| generic("a part was not uploaded"))?);
        }
        self.shared.insert(&self.location, segments, false)
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
