//! Directories for what a process needs only while it lives.
//!
//! Whoever is killed cannot remove what it has written. So each of these directories has a lock,
//! which the system takes back when its process is gone, however that came: a directory whose lock
//! can be had is nobody's. A directory without a lock file is let alone, since it may be in the
//! making, and so is what belongs to another user.

use std::fs::{self, File};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

/// The name of the file whose lock says that a directory is in use.
const LOCK: &str = "lock";

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScratchKind {
    /// The storage of a driver that was given none.
    Driver,
    /// What shuffles of a process do not fit into its memory.
    Shuffle,
    /// Programs of users on an executor, and files of their processes.
    Programs,
    /// What a command and a program that it starts tell one another.
    Submit,
}

impl ScratchKind {
    const ALL: [ScratchKind; 4] = [
        ScratchKind::Driver,
        ScratchKind::Shuffle,
        ScratchKind::Programs,
        ScratchKind::Submit,
    ];

    /// How the names of such directories begin.
    fn prefix(self) -> &'static str {
        match self {
            ScratchKind::Driver => "kiln-driver-",
            ScratchKind::Shuffle => "kiln-shuffle-",
            ScratchKind::Programs => "kiln-programs-",
            ScratchKind::Submit => "kiln-jobs-",
        }
    }

    fn of(directory: &Path) -> Option<Self> {
        let name = directory.file_name()?.as_encoded_bytes();
        let is_one = |kind: &ScratchKind| name.starts_with(kind.prefix().as_bytes());
        ScratchKind::ALL.into_iter().find(is_one)
    }
}

/// A directory of this process, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new one in `parent`. Those of its kind that nobody uses any more go.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn create(parent: &Path, kind: ScratchKind) -> Result<Self> {
        clear_away(parent, kind);
        let directory = Builder::new().prefix(kind.prefix()).tempdir_in(parent)?;
        // It gets its name when it is locked, so that nobody finds it in between.
        let unnamed = directory.path().join("lock-to-be");
        let lock = File::create_new(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, directory.path().join(LOCK))?;
        Ok(Scratch {
            directory,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The lock file goes last, with the directory: what is left until then can be found.
        if let Err(error) = empty(self.path()) {
            tracing::debug!(path = %self.path().display(), %error, "it stays behind");
        }
    }
}

/// A directory whose process is gone. Nobody else takes it for one while this is held.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    _lock: File,
}

impl Abandoned {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many files are in it, and their bytes. What goes away meanwhile does not count.
    pub fn contents(&self) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0);
        let mut left = vec![self.path.clone()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => left.push(entry.path()),
                    Ok(found) if entry.path() != self.path.join(LOCK) => {
                        files += 1;
                        bytes += found.len();
                    }
                    _ => {}
                }
            }
        }
        (files, bytes)
    }

    /// Removes it. The lock file goes last: what is left of a directory that could not be removed
    /// is found again.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn remove(self) -> Result<()> {
        empty(&self.path)?;
        fs::remove_file(self.path.join(LOCK))?;
        fs::remove_dir(&self.path)
    }
}

/// Removes all that is in a directory, except for the lock file.
fn empty(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The directories in `parent` whose processes are gone, in the order of their names.
///
/// # Errors
/// What the file system answers, unless there is no `parent`.
pub fn abandoned(parent: &Path) -> Result<Vec<Abandoned>> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if ScratchKind::of(&path).is_some() {
            found.extend(take(path));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The directory at `path`, if it is of this user and nobody has it.
fn take(path: PathBuf) -> Option<Abandoned> {
    // Links are not followed: in a directory that all may write to, anybody may have made them.
    let found = fs::symlink_metadata(&path).ok()?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let lock = File::open(path.join(LOCK)).ok()?;
    lock.try_lock().ok()?;
    // Whoever had it may have removed it since.
    path.join(LOCK)
        .exists()
        .then_some(Abandoned { path, _lock: lock })
}

/// Removes directories of the dead. What cannot be removed is left to others.
fn clear_away(parent: &Path, kind: ScratchKind) {
    let is_one = |one: &Abandoned| ScratchKind::of(&one.path) == Some(kind);
    for one in abandoned(parent)
        .unwrap_or_default()
        .into_iter()
        .filter(is_one)
    {
        let path = one.path.clone();
        tracing::info!(path = %path.display(), "removing what a dead process left");
        if let Err(error) = one.remove() {
            tracing::debug!(path = %path.display(), %error, "it stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as a process leaves it that is killed.
    fn left(parent: &Path, kind: ScratchKind) -> PathBuf {
        let dead = parent.join(format!("{}dead", kind.prefix()));
        fs::create_dir_all(dead.join("deep")).expect("room for a directory");
        for (name, text) in [("deep/file", "12345"), ("other", "123"), (LOCK, "")] {
            fs::write(dead.join(name), text).expect("room for a file");
        }
        dead
    }

    fn paths(parent: &Path) -> Vec<PathBuf> {
        let found = abandoned(parent).expect("it can be read");
        found.iter().map(|one| one.path().to_owned()).collect()
    }

    #[test]
    fn directories_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path();
        let living = Scratch::create(path, ScratchKind::Driver).expect("a directory");
        let dead = left(path, ScratchKind::Driver);
        let other = left(path, ScratchKind::Shuffle);
        assert_eq!(paths(path), [dead.clone(), other.clone()]);
        let next = Scratch::create(path, ScratchKind::Driver).expect("another");
        assert!(!dead.exists() && living.path().exists() && next.path().exists());
        let found = abandoned(path).expect("it can be read").pop();
        let found = found.expect("one of another kind is left");
        assert_eq!((found.path(), found.contents()), (other.as_path(), (2, 8)));
        assert_eq!(paths(path), Vec::<PathBuf>::new(), "somebody has it");
        found.remove().expect("nothing is in the way");
        assert!(!other.exists());
        let (living, next) = (living.path().to_owned(), drop_and_name(living, next));
        assert!(!living.exists() && !next.exists());
    }

    /// Drops both; the path of the second.
    fn drop_and_name(_one: Scratch, other: Scratch) -> PathBuf {
        other.path().to_owned()
    }

    #[test]
    fn what_was_not_made_here_is_let_alone() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        fs::write(elsewhere.path().join(LOCK), "").expect("room for a file");
        let at = |name: &str| parent.path().join(name);
        std::os::unix::fs::symlink(elsewhere.path(), at("kiln-driver-link")).expect("a link");
        fs::create_dir(at("kiln-driver-young")).expect("room for a directory");
        fs::write(at("kiln-driver-file"), "").expect("room for a file");
        fs::create_dir(at("something-else")).expect("room for a directory");
        fs::write(at("something-else").join(LOCK), "").expect("room for a file");
        assert_eq!(paths(parent.path()), Vec::<PathBuf>::new());
        assert_eq!(paths(&at("missing")), Vec::<PathBuf>::new());
    }
}
