//! The objects of a journal.
//!
//! An entry is framed by a magic word and a checksum: a store may have kept half of it and said
//! that all is well, and a journal that is read wrong is worse than one that is not read.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kiln_engine::storage::{Created, Stores, create, local_path, storage_error};
use kiln_engine::{Error, ErrorKind, Result, limits};
use kiln_proto::convert::journal::decode_entry;
use kiln_proto::message::{Entry, Record};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use xxhash_rust::xxh3::xxh3_64;

/// Begins every object: what it is, and the version of the frame.
const MAGIC: &[u8; 8] = b"kilnjnl1";

/// The part of that which no version changes.
const MAGIC_ALWAYS: &[u8; 7] = b"kilnjnl";

/// Times that a journal is read anew because a leader has tidied it up meanwhile.
const LOADS_MAX: usize = 10;

/// The place of a journal.
#[derive(Debug, Clone)]
pub struct JournalStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: Arc<str>,
}

/// A journal, as somebody has found it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Loaded {
    /// What stands for all entries up to its number.
    pub(crate) snapshot: Option<Entry>,
    /// The entries behind it, in order.
    pub(crate) entries: Vec<Entry>,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
}

impl Loaded {
    /// The number of the last entry; 0 where there is none.
    pub(crate) fn end(&self) -> u64 {
        self.last().map_or(0, |entry| entry.sequence)
    }

    /// The newest leadership; 0 where there was none.
    pub(crate) fn term(&self) -> u64 {
        self.last().map_or(0, |entry| entry.term)
    }

    /// The last entry, or the snapshot if there is none behind it.
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.last().or(self.snapshot.as_ref())
    }

    /// All records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        let entries = self.snapshot.iter().chain(&self.entries);
        entries.flat_map(|entry| &entry.records)
    }
}

impl JournalStore {
    /// The journal of the cluster whose storage is at `url`. On local disks what is written is
    /// made to survive a loss of power.
    ///
    /// # Errors
    /// `Invalid` for a URL that no store stands behind, or a directory that cannot be made.
    pub fn open(stores: &Stores, url: &str) -> Result<Self> {
        let (store, root): (Arc<dyn ObjectStore>, Path) = match local_path(url) {
            None => stores.get(url)?,
            Some(directory) => {
                let failed = |error| storage_error("open", url, error);
                std::fs::create_dir_all(&directory).map_err(|error| {
                    Error::invalid(format!("cannot create a directory url={url}"))
                        .with_source(error)
                })?;
                let store = LocalFileSystem::new_with_prefix(&directory).map_err(failed)?;
                (Arc::new(store.with_fsync(true)), Path::ROOT)
            }
        };
        Ok(JournalStore::new(store, root, url))
    }

    /// The journal below `root` in `store`, which people know as `url`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, url: &str) -> Self {
        let root = root.join("journal");
        let url = url.into();
        JournalStore { store, root, url }
    }

    fn entries(&self) -> Path {
        self.root.clone().join("entries")
    }

    fn snapshots(&self) -> Path {
        self.root.clone().join("snapshots")
    }

    /// Creates an entry, or finds that somebody else has.
    ///
    /// # Errors
    /// `Unavailable` if it is not known whether it was created: ask again.
    pub(crate) async fn append(&self, sequence: u64, entry: &[u8]) -> Result<Created> {
        let path = numbered(self.entries(), sequence);
        create(&*self.store, &path, framed(entry)).await
    }

    /// The entry of that number.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged; what the store answers.
    pub(crate) async fn entry(&self, sequence: u64) -> Result<Option<Entry>> {
        let path = numbered(self.entries(), sequence);
        let Some(bytes) = self.get(&path).await? else {
            return Ok(None);
        };
        self.decode(&path, &bytes).map(Some)
    }

    /// Writes a snapshot, and sees that it is there: what it stands for will be removed.
    ///
    /// # Errors
    /// `Unavailable` if the store has kept something else; what it answers.
    pub(crate) async fn put_snapshot(&self, sequence: u64, entry: &[u8]) -> Result<()> {
        let path = numbered(self.snapshots(), sequence);
        let body = framed(entry);
        let put = self.store.put(&path, body.clone().into()).await;
        put.map_err(|error| self.failed("write", error))?;
        if self.get(&path).await? == Some(body) {
            return Ok(());
        }
        // Or nobody could read the journal any more.
        let removed = self.store.delete(&path).await;
        removed.map_err(|error| self.failed("remove", error))?;
        Err(Error::unavailable(format!(
            "the storage did not keep what was written object={path} url={}",
            self.url
        )))
    }

    /// The number of the newest snapshot; 0 where there is none.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn newest_snapshot(&self) -> Result<u64> {
        let found = self.list(&self.snapshots()).await?;
        Ok(found.last().copied().unwrap_or_default())
    }

    /// The newest snapshot and the entries behind it.
    ///
    /// # Errors
    /// `Corrupt` if something is missing or damaged; what the store answers.
    pub(crate) async fn load(&self) -> Result<Loaded> {
        for _ in 0..LOADS_MAX {
            if let Some(loaded) = self.try_load().await? {
                return Ok(loaded);
            }
        }
        Err(self.corrupt("an entry is missing"))
    }

    /// None if something went away meanwhile, as it does when a leader has written a snapshot.
    async fn try_load(&self) -> Result<Option<Loaded>> {
        let mut loaded = Loaded::default();
        let snapshot = self.newest_snapshot().await?;
        if snapshot > 0 {
            let path = numbered(self.snapshots(), snapshot);
            let Some(bytes) = self.get(&path).await? else {
                return Ok(None);
            };
            loaded.bytes += bytes.len() as u64;
            loaded.snapshot = Some(self.decode(&path, &bytes)?);
        }
        let numbers = self.list(&self.entries()).await?.into_iter();
        let numbers = numbers.filter(|&number| number > snapshot);
        let mut reads = stream::iter(numbers)
            .map(|number| async move {
                let path = numbered(self.entries(), number);
                Ok::<_, Error>((number, self.get(&path).await?))
            })
            .buffered(limits::PREFETCH_REQUESTS);
        let mut next = snapshot + 1;
        while let Some((number, bytes)) = reads.try_next().await? {
            let Some(bytes) = bytes.filter(|_| number == next) else {
                return Ok(None);
            };
            self.load_entry(&mut loaded, number, &bytes)?;
            next += 1;
        }
        // The newest are there, too, if a list does not show them yet.
        while let Some(bytes) = self.get(&numbered(self.entries(), next)).await? {
            self.load_entry(&mut loaded, next, &bytes)?;
            next += 1;
        }
        Ok(Some(loaded))
    }

    fn load_entry(&self, loaded: &mut Loaded, number: u64, bytes: &[u8]) -> Result<()> {
        let entry = self.decode(&numbered(self.entries(), number), bytes)?;
        if entry.sequence != number {
            return Err(self.corrupt(&format!("entry {number} is {}", entry.sequence)));
        }
        loaded.bytes += bytes.len() as u64;
        loaded.entries.push(entry);
        Ok(())
    }

    /// Removes the entries of these numbers and the snapshots before `snapshot`.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn remove_before(&self, snapshot: u64, entries: &[u64]) -> Result<()> {
        let snapshots = self.list(&self.snapshots()).await?.into_iter();
        let snapshots = snapshots.filter(|&number| number < snapshot);
        let snapshots = snapshots.map(|number| numbered(self.snapshots(), number));
        let entries = entries
            .iter()
            .map(|&number| numbered(self.entries(), number));
        let gone: Vec<_> = snapshots.chain(entries).map(Ok).collect();
        let mut answers = self.store.delete_stream(stream::iter(gone).boxed());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("remove", error)),
            }
        }
        Ok(())
    }

    /// The numbers of all entries that are there, in order.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn numbers(&self) -> Result<Vec<u64>> {
        self.list(&self.entries()).await
    }

    /// The numbers by which objects in a directory are called, in order.
    async fn list(&self, directory: &Path) -> Result<Vec<u64>> {
        let names = self.store.list(Some(directory)).map_ok(|object| {
            let name = object.location.filename();
            name.and_then(|name| name.parse().ok())
        });
        let numbers: Vec<Option<u64>> = names
            .try_collect()
            .await
            .map_err(|error| self.failed("list", error))?;
        let mut numbers: Vec<u64> = numbers.into_iter().flatten().collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        let bytes = match self.store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    fn decode(&self, path: &Path, bytes: &[u8]) -> Result<Entry> {
        let unread = || format!("cannot read the journal object={path} url={}", self.url);
        let body = unframed(bytes).ok_or_else(|| {
            let is_newer = bytes.starts_with(MAGIC_ALWAYS) && !bytes.starts_with(MAGIC);
            match is_newer {
                true => Error::corrupt(format!("{}: a newer version of kiln wrote it", unread())),
                false => self.corrupt(&format!("{path} is not what was written")),
            }
        })?;
        decode_entry(body)
            .map_err(|error| Error::new(ErrorKind::Corrupt, unread()).with_source(error))
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(format!("the journal is damaged: {what} url={}", self.url))
    }

    fn failed(&self, what: &str, error: object_store::Error) -> Error {
        storage_error(what, &format!("the journal of {}", self.url), error)
    }
}

fn numbered(directory: Path, number: u64) -> Path {
    directory.join(format!("{number:020}"))
}

fn framed(body: &[u8]) -> Bytes {
    let checksum = xxh3_64(body).to_le_bytes();
    [MAGIC, &checksum, body].concat().into()
}

fn unframed(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    (xxh3_64(body) == u64::from_le_bytes(*checksum)).then_some(body)
}
