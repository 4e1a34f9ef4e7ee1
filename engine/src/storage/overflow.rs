//! An object store in memory that overflows to local disk.
//!
//! Embedded runs shuffle through the same code as a cluster, over this store. Bytes are kept as
//! they were put, without a copy, and a read of them is a slice. What the allowance or the
//! process's budget has no room for becomes a file in a temporary directory, which is made when
//! first needed and goes with the store.
//!
//! Invariant: a segment in memory holds a permit for its bytes, and gives it back when the last
//! object that shows it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
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
use tempfile::TempDir;

use crate::memory::{MemoryBudget, Reservation};

const NAME: &str = "OverflowStore";

/// An object store in memory that overflows to local disk.
pub struct OverflowStore {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Mutex<BTreeMap<Path, Object>>,
    ledger: Arc<Ledger>,
    disk: Disk,
    version: AtomicU64,
}

#[derive(Clone)]
struct Object {
    segments: Arc<[Segment]>,
    bytes: u64,
    modified: DateTime<Utc>,
    version: u64,
}

/// A run of bytes of an object.
#[derive(Clone)]
enum Segment {
    Memory(
        Bytes,
        #[expect(dead_code, reason = "held for its drop")] Arc<Permit>,
    ),
    Disk(Arc<DiskFile>, u64),
}

impl OverflowStore {
    /// A store that keeps at most `bytes_max` in memory, reserved from `budget` where there is
    /// one, and the rest in a temporary directory below `directory`, the system's by default.
    pub fn new(
        bytes_max: u64,
        budget: Option<&Arc<MemoryBudget>>,
        directory: Option<PathBuf>,
    ) -> Arc<Self> {
        let reservation = budget.map(|budget| budget.reserve("shuffle store"));
        let held = Mutex::new(Held {
            bytes: 0,
            reservation,
        });
        let parent = directory.unwrap_or_else(std::env::temp_dir);
        Arc::new(OverflowStore {
            shared: Arc::new(Shared {
                objects: Mutex::default(),
                ledger: Arc::new(Ledger { bytes_max, held }),
                disk: Disk {
                    parent,
                    directory: Mutex::default(),
                    next: AtomicU64::new(0),
                },
                version: AtomicU64::new(0),
            }),
        })
    }

    /// Bytes held in memory now.
    pub fn memory_bytes(&self) -> u64 {
        lock(&self.shared.ledger.held).bytes
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

// ---- memory ----------------------------------------------------------------------------------

/// Who may hold how much memory.
struct Ledger {
    bytes_max: u64,
    held: Mutex<Held>,
}

struct Held {
    bytes: u64,
    reservation: Option<Reservation>,
}

/// Bytes in memory, given back when dropped.
struct Permit {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    fn take(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut held = lock(&self.held);
        held.bytes
            .checked_add(bytes)
            .filter(|&sum| sum <= self.bytes_max)?;
        if let Some(reservation) = &mut held.reservation
            && !reservation.try_grow(bytes)
        {
            return None;
        }
        held.bytes += bytes;
        Some(Permit {
            ledger: Arc::clone(self),
            bytes,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = lock(&self.ledger.held);
        held.bytes -= self.bytes;
        if let Some(reservation) = &mut held.reservation {
            reservation.shrink(self.bytes);
        }
    }
}

// ---- disk ------------------------------------------------------------------------------------

struct Disk {
    parent: PathBuf,
    directory: Mutex<Option<Arc<TempDir>>>,
    next: AtomicU64,
}

/// A file that goes when nobody shows it any more.
struct DiskFile {
    file: File,
    path: PathBuf,
    /// The directory outlives its files.
    _directory: Arc<TempDir>,
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "an overflow file stays behind");
        }
    }
}

impl Disk {
    fn directory(&self) -> io::Result<Arc<TempDir>> {
        let mut directory = lock(&self.directory);
        if let Some(directory) = &*directory {
            return Ok(Arc::clone(directory));
        }
        let made = tempfile::Builder::new()
            .prefix("kiln-shuffle-")
            .tempdir_in(&self.parent)?;
        Ok(Arc::clone(directory.insert(Arc::new(made))))
    }

    fn write(&self, payload: &PutPayload) -> io::Result<DiskFile> {
        let directory = self.directory()?;
        let path = directory
            .path()
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        // Made before the bytes are written, so that a full disk leaves no half file.
        let made = DiskFile {
            file,
            path,
            _directory: directory,
        };
        for bytes in payload {
            (&made.file).write_all(bytes)?;
        }
        Ok(made)
    }
}

impl Shared {
    /// Keeps the bytes in memory, or on disk where there is no room.
    async fn keep(self: &Arc<Self>, payload: PutPayload) -> Result<Vec<Segment>> {
        let bytes = payload.content_length() as u64;
        if let Some(permit) = self.ledger.take(bytes) {
            let permit = Arc::new(permit);
            let segment = |bytes| Segment::Memory(bytes, Arc::clone(&permit));
            return Ok(payload.into_iter().map(segment).collect());
        }
        let shared = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || shared.disk.write(&payload)).await?;
        Ok(vec![Segment::Disk(
            Arc::new(written.map_err(generic)?),
            bytes,
        )])
    }

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

impl Segment {
    fn bytes(&self) -> u64 {
        match self {
            Segment::Memory(bytes, _) => bytes.len() as u64,
            Segment::Disk(_, bytes) => *bytes,
        }
    }

    async fn read(self, range: Range<u64>) -> Result<Bytes> {
        match self {
            Segment::Memory(bytes, _) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Segment::Disk(file, _) => {
                let read = move || {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    file.file
                        .read_exact_at(&mut bytes, range.start)
                        .map(|()| Bytes::from(bytes))
                };
                tokio::task::spawn_blocking(read).await?.map_err(generic)
            }
        }
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

// ---- the trait -------------------------------------------------------------------------------

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
        let segments = self.shared.keep(payload).await?;
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
        let shared = Arc::clone(&self.shared);
        async move {
            let segments = shared.keep(payload).await?;
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
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::storage_error;

    fn path(name: &str) -> Path {
        Path::from(name)
    }

    fn files(directory: &TempDir) -> usize {
        let below = |path: PathBuf| std::fs::read_dir(path).expect("a directory").count();
        let top = std::fs::read_dir(directory.path()).expect("a directory");
        top.map(|entry| below(entry.expect("an entry").path()))
            .sum()
    }

    #[tokio::test]
    async fn what_does_not_fit_lies_on_disk_and_reads_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = OverflowStore::new(10, None, Some(directory.path().to_owned()));
        store
            .put(&path("a"), "01234567".into())
            .await
            .expect("a put");
        assert_eq!(files(&directory), 0, "nothing is made before it is needed");
        store
            .put(&path("b"), "abcdefgh".into())
            .await
            .expect("a put");
        assert_eq!(
            (store.memory_bytes(), store.bytes(), files(&directory)),
            (8, 16, 1)
        );
        for (name, text) in [("a", "01234567"), ("b", "abcdefgh")] {
            let path = path(name);
            let get = |range| store.get_range(&path, range);
            assert_eq!(get(0..8).await.expect("a get"), text);
            assert_eq!(get(2..5).await.expect("a get"), text[2..5]);
            assert_eq!(
                get(6..20).await.expect("a get"),
                text[6..],
                "cut at the end"
            );
            assert!(get(9..10).await.is_err(), "behind the end");
            assert_eq!(store.head(&path).await.expect("a head").size, 8);
        }
        store.delete(&path("a")).await.expect("a delete");
        store.put(&path("c"), "x".into()).await.expect("a put");
        assert_eq!(store.memory_bytes(), 1, "deleting makes room");
        store.put(&path("b"), "y".into()).await.expect("a put");
        assert_eq!(
            (store.memory_bytes(), files(&directory)),
            (2, 0),
            "overwriting too"
        );
        let missing = store.delete(&path("a")).await.expect_err("deleted");
        assert!(matches!(missing, Error::NotFound { .. }));
        drop(store);
        let left = std::fs::read_dir(directory.path())
            .expect("a directory")
            .count();
        assert_eq!(left, 0, "the temporary directory goes with the store");
    }

    #[tokio::test]
    async fn memory_is_reserved_and_read_without_a_copy() {
        let budget = MemoryBudget::new(100);
        let store = OverflowStore::new(1000, Some(&budget), None);
        let bytes = Bytes::from(vec![7; 60]);
        store
            .put(&path("a"), bytes.clone().into())
            .await
            .expect("a put");
        store
            .put(&path("b"), vec![8; 60].into())
            .await
            .expect("a put");
        assert_eq!(
            (budget.used(), store.memory_bytes()),
            (60, 60),
            "the budget has no more"
        );
        let read = store.get_range(&path("a"), 10..20).await.expect("a get");
        assert_eq!(read.as_ptr(), bytes[10..].as_ptr());
        store.copy(&path("a"), &path("c")).await.expect("a copy");
        store.delete(&path("a")).await.expect("a delete");
        assert_eq!(budget.used(), 60, "the copy still shows the bytes");
        store.delete(&path("c")).await.expect("a delete");
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn parts_become_one_object_when_complete() {
        let store = OverflowStore::new(5, None, None);
        let mut upload = store.put_multipart(&path("a/x")).await.expect("an upload");
        // The second part does not fit in memory; parts finish in any order.
        let parts = [
            upload.put_part("0123".into()),
            upload.put_part("4567".into()),
        ];
        let [first, second] = parts;
        second.await.expect("a part");
        first.await.expect("a part");
        assert!(
            store.head(&path("a/x")).await.is_err(),
            "not there before it is complete"
        );
        upload.complete().await.expect("complete");
        let whole = store.get(&path("a/x")).await.expect("a get").bytes().await;
        assert_eq!(whole.expect("bytes"), "01234567");
        assert_eq!(
            store.get_range(&path("a/x"), 3..6).await.expect("a get"),
            "345"
        );

        let mut aborted = store.put_multipart(&path("a/y")).await.expect("an upload");
        aborted.put_part("4".into()).await.expect("a part");
        aborted.abort().await.expect("an abort");
        let mut lacking = store.put_multipart(&path("a/y")).await.expect("an upload");
        drop(lacking.put_part("4".into()));
        assert!(lacking.complete().await.is_err(), "a part was never sent");
        assert!(store.head(&path("a/y")).await.is_err());
    }

    #[tokio::test]
    async fn names_and_modes_are_those_of_a_store() {
        let store = OverflowStore::new(100, None, None);
        for name in ["a/1", "a/b/2", "ab/3", "4"] {
            store.put(&path(name), "x".into()).await.expect("a put");
        }
        let list = |prefix: &str| {
            let names = store
                .list(Some(&path(prefix)))
                .map_ok(|meta| meta.location.to_string());
            names.try_collect::<Vec<_>>()
        };
        assert_eq!(list("a").await.expect("a list"), ["a/1", "a/b/2"]);
        assert_eq!(list("a/1").await.expect("a list"), [""; 0]);
        let top = store.list_with_delimiter(None).await.expect("a list");
        assert_eq!(top.common_prefixes, [path("a"), path("ab")]);
        assert_eq!(top.objects.len(), 1);
        let four = path("4");
        let create = || store.put_opts(&four, "y".into(), PutMode::Create.into());
        let taken = create().await.expect_err("it exists");
        assert!(matches!(taken, Error::AlreadyExists { .. }));
        store.delete(&four).await.expect("a delete");
        create().await.expect("it is gone");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_tasks_share_it() {
        let budget = MemoryBudget::new(1 << 20);
        let store = OverflowStore::new(10_000, Some(&budget), None);
        let work = |task: u8| {
            let store = Arc::clone(&store);
            async move {
                for round in 0..50_u8 {
                    let name = path(&format!("{task}/{round}"));
                    store
                        .put(&name, vec![task ^ round; 997].into())
                        .await
                        .expect("a put");
                    let bytes = store.get_range(&name, 100..900).await.expect("a get");
                    assert_eq!(bytes, vec![task ^ round; 800]);
                    if round % 3 != 0 {
                        store.delete(&name).await.expect("a delete");
                    }
                }
            }
        };
        let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(work(task))).collect();
        for task in tasks {
            task.await.expect("a task");
        }
        assert_eq!(store.list(None).count().await, 8 * 17);
        assert_eq!(store.bytes(), 8 * 17 * 997);
        assert!(store.memory_bytes() <= 10_000 && budget.used() == store.memory_bytes());
        drop(store);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_full_disk_is_exhausted() {
        let full = generic(io::Error::from_raw_os_error(28));
        let error = storage_error("write", "t0-a0", full);
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(
            error
                .report()
                .starts_with("cannot write t0-a0: no space left on device")
        );
        let nowhere = OverflowStore::new(0, None, Some("/no/such/directory".into()));
        let refused = nowhere
            .put(&path("a"), "x".into())
            .await
            .expect_err("no directory");
        let error = storage_error("write", "a", refused);
        assert_eq!(error.message(), "cannot write a: no such file or directory");
    }
}
