//! The calls of a file system that a commit is made of, each of which happens or does not.
//!
//! They are a trait so that tests can cut a commit off between any two of them, let two drivers
//! take turns, and look at the output after each.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_engine::Error;
use kiln_engine::storage::storage_error;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// What a commit asks of a file system.
pub(super) trait FileSystem: Sync {
    /// What is in a file.
    fn read(&self, file: &Path) -> io::Result<Vec<u8>>;

    /// The bytes of a file.
    fn size(&self, file: &Path) -> io::Result<u64>;

    /// Whether there is a directory (`true`), something else, or nothing. Links are not followed.
    fn is_directory(&self, path: &Path) -> io::Result<Option<bool>>;

    /// What is in a directory, in no order: paths, and whether each is a directory.
    fn entries(&self, directory: &Path) -> io::Result<Vec<(PathBuf, bool)>>;

    /// Makes a directory in one that is there.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Makes a file that does not exist yet, durably.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;

    /// Gives a file a second name, `to`, which does not exist yet.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a file's content, or the names in a directory, durable.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Moves a directory to a place where nothing is, or an empty one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Has two directories swap their places. Not every file system can: `Unsupported`.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, file: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_tree(&self, directory: &Path) -> io::Result<()>;
}

/// The file system of this machine.
pub(super) struct Disk;

impl FileSystem for Disk {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        fs::read(file)
    }

    fn size(&self, file: &Path) -> io::Result<u64> {
        Ok(fs::metadata(file)?.len())
    }

    fn is_directory(&self, path: &Path) -> io::Result<Option<bool>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(found.is_dir())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn entries(&self, directory: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
        let kind = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.path(), entry.file_type()?.is_dir()))
        };
        fs::read_dir(directory)?.map(kind).collect()
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let mut file = File::create_new(file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::hard_link(from, to) {
            // Some file systems have no links, and some users may not link to files of others.
            Err(error) if is_unsupported(&error) || is_refused(&error) => {
                fs::copy(from, to).map(drop)
            }
            linked => linked,
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(|errno| {
            let error = io::Error::from(errno);
            match is_unsupported(&error) {
                true => io::Error::new(io::ErrorKind::Unsupported, error),
                false => error,
            }
        })
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn remove_tree(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir_all(directory)
    }
}

/// Nothing is there.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A directory is in the way that is not empty.
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// The error for `what`, which failed for the output at `url`.
pub(super) fn failed(what: &'static str, url: &str) -> impl Fn(io::Error) -> Error + use<> {
    let url = url.to_owned();
    move |error| {
        let source = Box::new(error);
        storage_error(
            what,
            &url,
            object_store::Error::Generic {
                store: "file",
                source,
            },
        )
    }
}

/// File systems say in several ways that they cannot do something.
fn is_unsupported(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, Unsupported};
    let opnotsupp = Some(Errno::OPNOTSUPP.raw_os_error());
    matches!(error.kind(), Unsupported | InvalidInput) || error.raw_os_error() == opnotsupp
}

fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::TooManyLinks
    )
}
