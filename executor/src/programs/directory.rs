//! The directory that an executor has for itself: programs, and the files of their processes.
//!
//! It is removed when the executor leaves. One that was killed leaves its directory behind, and
//! the next executor on the machine clears it away: a directory is somebody's as long as its lock
//! is held, and locks do not outlive processes.

use std::fs::File;
use std::io::Result;
use std::path::Path;

use tempfile::{Builder, TempDir};

const PREFIX: &str = "kiln-programs-";

/// The name of the file whose lock says that a directory is in use.
const LOCK: &str = "lock";

/// A directory of this executor.
pub(super) struct Directory {
    directory: TempDir,
    _lock: File,
}

impl Directory {
    /// A new one in `parent`; those that nobody uses any more go.
    ///
    /// # Errors
    /// What the file system answers.
    pub(super) fn create(parent: &Path) -> Result<Self> {
        clear_away(parent);
        let directory = Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // It gets its name when it is locked, so that nobody finds it in between.
        let unnamed = directory.path().join("lock-to-be");
        let lock = File::create_new(&unnamed)?;
        lock.lock()?;
        std::fs::rename(unnamed, directory.path().join(LOCK))?;
        Ok(Directory {
            directory,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes directories of executors that are gone. What cannot be removed, because it is another
/// user's or is being removed already, is left to others.
fn clear_away(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            continue;
        }
        let lock = File::open(entry.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            tracing::info!(path = %entry.path().display(), "removing what a dead executor left");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let other = parent.path().join("something-else");
        std::fs::create_dir(&other).expect("a directory");
        let living = Directory::create(parent.path()).expect("a directory");
        let mut dead = Directory::create(parent.path()).expect("another");
        std::fs::write(dead.path().join("program"), "x").expect("a file");
        dead.directory.disable_cleanup(true);
        let left = dead.path().to_owned();
        drop(dead);
        assert!(left.exists());
        let next = Directory::create(parent.path()).expect("a third");
        assert!(!left.exists() && other.exists());
        assert!(living.path().exists() && next.path().exists());
    }
}
