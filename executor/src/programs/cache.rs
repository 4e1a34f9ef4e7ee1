//! Programs that were fetched from storage: each once, however many tasks want it at once.
//!
//! A program is kept for later jobs. When those that are kept become too many, the ones that were
//! used longest ago go, except for those that a process runs.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_engine::plan::Sha256;
use kiln_engine::storage::ProgramStore;
use kiln_engine::{Error, Result};
use tokio::sync::OnceCell;

/// Whoever runs a program may read it and start it; nobody may change it.
const MODE: u32 = 0o500;

/// The programs that an executor has.
pub(super) struct Cache {
    bytes_max: u64,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_hash: HashMap<Sha256, Entry>,
    /// Counts the uses of all programs; also makes names of files.
    uses: u64,
}

struct Entry {
    program: Arc<OnceCell<Arc<Cached>>>,
    bytes: u64,
    used: u64,
}

/// A program on disk; its file is removed when nobody has it any more.
pub(super) struct Cached {
    path: PathBuf,
}

impl Cached {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        // The directory that it is in goes too in the end, with whatever is left there.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Cache {
            bytes_max,
            entries: Mutex::default(),
        }
    }

    /// The program of that hash, in a file in `directory`; fetched if this has not got it.
    ///
    /// # Errors
    /// What fetching answers. The next one who asks tries again.
    pub(super) async fn get(
        &self,
        (sha256, bytes): (Sha256, u64),
        store: &ProgramStore,
        directory: &Path,
    ) -> Result<Arc<Cached>> {
        let (cell, path) = self.entry(sha256, bytes, directory);
        let fetch = async {
            let program = Cached { path };
            store.fetch(sha256, bytes, &program.path).await?;
            let mode = std::fs::Permissions::from_mode(MODE);
            std::fs::set_permissions(&program.path, mode).map_err(|error| {
                let text = format!("cannot make a program executable sha256={sha256}");
                Error::unavailable(text).with_source(error)
            })?;
            tracing::info!(%sha256, bytes, "fetched a program");
            Ok::<_, Error>(Arc::new(program))
        };
        let program = Arc::clone(cell.get_or_try_init(|| fetch).await?);
        drop(cell);
        self.make_room();
        Ok(program)
    }

    /// Where the program of that hash is or will be, and a file for it.
    fn entry(
        &self,
        sha256: Sha256,
        bytes: u64,
        directory: &Path,
    ) -> (Arc<OnceCell<Arc<Cached>>>, PathBuf) {
        let mut entries = self.lock();
        entries.uses += 1;
        let used = entries.uses;
        let entry = entries.by_hash.entry(sha256).or_insert_with(|| Entry {
            program: Arc::default(),
            bytes,
            used,
        });
        entry.used = used;
        let path = directory.join(format!("program-{used}"));
        (Arc::clone(&entry.program), path)
    }

    /// Lets go of programs until those that are kept are not too many. One that is being fetched
    /// or run stays.
    fn make_room(&self) {
        let mut entries = self.lock();
        let mut kept: u64 = entries.by_hash.values().map(|entry| entry.bytes).sum();
        while kept > self.bytes_max {
            let free = entries.by_hash.iter().filter(|(_, entry)| entry.is_free());
            let Some((&oldest, entry)) = free.min_by_key(|(_, entry)| entry.used) else {
                return;
            };
            kept -= entry.bytes;
            entries.by_hash.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether nobody fetches or runs it.
    fn is_free(&self) -> bool {
        let runs = self
            .program
            .get()
            .map_or(0, |program| Arc::strong_count(program) - 1);
        Arc::strong_count(&self.program) == 1 && runs == 0
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use kiln_engine::storage::{Compression, ShuffleStore, Stores};
    use sha2::Digest as _;

    use super::*;

    struct Place {
        directory: tempfile::TempDir,
        store: ProgramStore,
    }

    impl Place {
        fn new() -> Self {
            let (store, root) = Stores::new().get("memory:///x").expect("a store");
            let shuffle = ShuffleStore::new(store, root, Compression::None);
            Place {
                directory: tempfile::tempdir().expect("a temporary directory"),
                store: shuffle.programs(),
            }
        }

        async fn stage(&self, bytes: &'static [u8]) -> (Sha256, u64) {
            let sha256 = Sha256(sha2::Sha256::digest(bytes).into());
            let length = bytes.len() as u64;
            let mut staging = self.store.stage(sha256, length).await.expect("a store");
            staging.push(bytes.into()).await.expect("as announced");
            staging.finish().await.expect("as announced");
            (sha256, length)
        }

        async fn get(&self, cache: &Cache, which: (Sha256, u64)) -> Result<Arc<Cached>> {
            cache.get(which, &self.store, self.directory.path()).await
        }

        fn files(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(self.directory.path()).expect("a directory");
            let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
            files.sort();
            files
        }
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_and_is_not_run_goes() {
        let (place, cache) = (Place::new(), Cache::new(9));
        let (one, two) = (place.stage(b"one").await, place.stage(b"two").await);
        let (three, four) = (place.stage(b"three").await, place.stage(b"four").await);
        let first = place.get(&cache, one).await.expect("staged");
        let mode = std::fs::metadata(first.path())
            .expect("a file")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o500);
        let second = place.get(&cache, two).await.expect("staged");
        let again = place.get(&cache, one).await.expect("here");
        assert_eq!((first.path(), place.files().len()), (again.path(), 2));
        // The third is one too many, but all three are run.
        let third = place.get(&cache, three).await.expect("staged");
        assert_eq!(place.files().len(), 3);
        // Nobody runs them any more, and the two that were used longest ago make room.
        let kept = third.path().to_owned();
        drop((first, second, again, third));
        let fourth = place.get(&cache, four).await.expect("staged");
        assert_eq!(place.files(), [kept, fourth.path().to_owned()]);
    }

    #[tokio::test]
    async fn what_is_missing_or_damaged_is_not_kept() {
        let (place, cache) = (Place::new(), Cache::new(8));
        let missing = (Sha256([7; 32]), 3);
        let error = place.get(&cache, missing).await.map(|_| ());
        let error = error.expect_err("nobody staged it");
        assert!(error.message().contains("0707"), "{}", error.report());
        let (sha256, bytes) = place.stage(b"whole").await;
        let error = place.get(&cache, (sha256, bytes + 1)).await.map(|_| ());
        let error = error.expect_err("it is shorter");
        assert!(
            error.message().contains("it is shorter"),
            "{}",
            error.report()
        );
        assert_eq!(place.files().len(), 0);
        place.get(&cache, (sha256, bytes)).await.expect("staged");
    }
}
