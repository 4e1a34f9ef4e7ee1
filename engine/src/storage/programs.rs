//! Programs of users in storage: one object each, named by the SHA-256 of its bytes.
//!
//! What the name says is checked whenever bytes go in or come out, so it does not matter who put
//! an object there, or how often.

use std::io::Write as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use sha2::Digest as _;

use crate::error::{Error, ErrorKind, Result};
use crate::plan::Sha256;
use crate::storage::{file_error, storage_error};

/// Bytes of a program that travel in one request.
const PART_BYTES: usize = 8 << 20;

/// Parts of a program that are under way at once.
const PARTS_AT_ONCE: usize = 4;

/// The place for programs.
#[derive(Debug, Clone)]
pub struct ProgramStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl ProgramStore {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        ProgramStore { store, root }
    }

    fn path(&self, sha256: Sha256) -> Path {
        self.root.clone().join(sha256.to_string())
    }

    /// The size of a program in bytes, and when it was put there; none if it is not there.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn find(&self, sha256: Sha256) -> Result<Option<(u64, SystemTime)>> {
        let path = self.path(sha256);
        match self.store.head(&path).await {
            Ok(found) => Ok(Some((found.size, found.last_modified.into()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(storage_error("look for", path.as_ref(), error)),
        }
    }

    /// The programs that are there, with their sizes in bytes, and when each was put there.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn all(&self) -> Result<Vec<(Sha256, u64, SystemTime)>> {
        let listed = self.store.list(Some(&self.root));
        let found = listed.map_ok(|object| {
            let name = object.location.filename()?.parse().ok()?;
            Some((name, object.size, object.last_modified.into()))
        });
        let found: Vec<_> = found
            .try_collect()
            .await
            .map_err(|error| storage_error("list", "programs", error))?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Removes a program. Nothing there is no error.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn remove(&self, sha256: Sha256) -> Result<()> {
        let path = self.path(sha256);
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(storage_error("remove", path.as_ref(), error)),
        }
    }

    /// Begins to put a program there.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn stage(&self, sha256: Sha256, bytes: u64) -> Result<Staging> {
        let path = self.path(sha256);
        let upload = self.store.put_multipart(&path).await;
        let upload = upload.map_err(|error| storage_error("write", path.as_ref(), error))?;
        Ok(Staging {
            upload: WriteMultipart::new_with_chunk_size(upload, PART_BYTES),
            seen: Seen::new(sha256, bytes, ErrorKind::Invalid),
            path,
        })
    }

    /// Writes a program into a new file.
    ///
    /// # Errors
    /// `Unavailable` if it is not there, or if what is there is not what its name says; what
    /// the store and the file answer.
    pub async fn fetch(&self, sha256: Sha256, bytes: u64, to: &FilePath) -> Result<()> {
        let path = self.path(sha256);
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => {
                Error::unavailable(format!("a program is not in the storage sha256={sha256}"))
            }
            error => storage_error("read", path.as_ref(), error),
        };
        let local = |error| file_error("write", &to.display().to_string(), error);
        let mut file = std::fs::File::create_new(to).map_err(local)?;
        let mut seen = Seen::new(sha256, bytes, ErrorKind::Unavailable);
        let mut pieces = self.store.get(&path).await.map_err(failed)?.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            seen.push(&piece)?;
            file.write_all(&piece).map_err(local)?;
        }
        seen.finish()
    }
}

/// A program on its way into storage. It is there when this is [finished](Self::finish), and
/// dropped before that it never will be.
pub struct Staging {
    upload: WriteMultipart,
    seen: Seen,
    path: Path,
}

impl Staging {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `Invalid` if they are more than were announced; what the store answers.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.seen.push(&bytes)?;
        let room = self.upload.wait_for_capacity(PARTS_AT_ONCE).await;
        room.map_err(|error| storage_error("write", self.path.as_ref(), error))?;
        self.upload.put(bytes);
        Ok(())
    }

    /// Puts it in place.
    ///
    /// # Errors
    /// `Invalid` if the bytes are not what was announced; what the store answers.
    pub async fn finish(self) -> Result<()> {
        if let Err(error) = self.seen.finish() {
            // What cannot be removed has no name by which anybody would find it.
            let _ = self.upload.abort().await;
            return Err(error);
        }
        let put = self.upload.finish().await;
        put.map_err(|error| storage_error("write", self.path.as_ref(), error))?;
        Ok(())
    }

    /// Gives it up.
    pub async fn abort(self) {
        // As above.
        let _ = self.upload.abort().await;
    }
}

/// The SHA-256 of a file, and its size in bytes.
///
/// # Errors
/// What reading it answers.
pub fn sha256_of_file(path: &FilePath) -> Result<(Sha256, u64)> {
    let failed = |error| file_error("read", &path.display().to_string(), error);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut digest = sha2::Sha256::new();
    let bytes = std::io::copy(&mut file, &mut digest).map_err(failed)?;
    Ok((Sha256(digest.finalize().into()), bytes))
}

/// What has gone by of a program.
struct Seen {
    expected: Sha256,
    bytes: u64,
    left: u64,
    digest: sha2::Sha256,
    /// What kind of thing is wrong where this is.
    kind: ErrorKind,
}

impl Seen {
    fn new(expected: Sha256, bytes: u64, kind: ErrorKind) -> Self {
        Seen {
            kind,
            expected,
            bytes,
            left: bytes,
            digest: sha2::Sha256::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| self.wrong("it is longer"))?;
        self.digest.update(bytes);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        if self.left > 0 {
            return Err(self.wrong("it is shorter"));
        }
        match Sha256(self.digest.clone().finalize().into()) == self.expected {
            true => Ok(()),
            false => Err(self.wrong("it has other bytes")),
        }
    }

    fn wrong(&self, what: &str) -> Error {
        let text = format!(
            "a program is not what its name says: {what} sha256={} bytes={}",
            self.expected, self.bytes
        );
        Error::new(self.kind, text)
    }
}
