//! A large file of this machine, written past the page cache.
//!
//! Output has to be on disk before it is committed, so what goes through the page cache is copied
//! there, and then waited for all the same. Written directly it is there at once, and takes neither
//! memory nor the time that it costs to find some. Directly goes only what begins and ends at
//! multiples of a disk's blocks, in memory too; so it goes through a buffer that does, and the end
//! of a file is cut off when it is complete. File systems that cannot do it get ordinary writes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::storage::on_file_thread;

/// What disks ask for: a page is a multiple of the blocks of all of them.
const ALIGNMENT: usize = 4096;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// The upload of a file: parts of one multiple of a page, and a last one of any size.
pub(super) struct LocalUpload {
    /// Where it is to be, and where it is until it is complete.
    path: PathBuf,
    unfinished: PathBuf,
    bytes: u64,
    file: Arc<Mutex<Direct>>,
}

impl LocalUpload {
    /// Begins the file at `path`, with the directories that it is in.
    pub(super) async fn begin(path: PathBuf) -> Result<Self> {
        work(move || {
            let (file, unfinished) = create_beside(&path)?;
            Ok(LocalUpload {
                path,
                unfinished,
                bytes: 0,
                file: Arc::new(Mutex::new(Direct::new(file))),
            })
        })
        .await
    }
}

impl std::fmt::Debug for LocalUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalUpload")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let mut offset = self.bytes;
        self.bytes += part.content_length() as u64;
        let file = Arc::clone(&self.file);
        let write = move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in part {
                file.write(&piece, offset)?;
                offset += piece.len() as u64;
            }
            Ok(())
        };
        work(write).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (file, bytes) = (Arc::clone(&self.file), self.bytes);
        let (from, to) = (self.unfinished.clone(), self.path.clone());
        work(move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.file.set_len(bytes)?;
            file.file.sync_data()?;
            fs::rename(from, to)
        })
        .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let unfinished = self.unfinished.clone();
        work(move || fs::remove_file(unfinished)).await
    }
}

async fn work<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = on_file_thread(work).await;
    let done = done.map_err(|source| Error::JoinError { source })?;
    done.map_err(|error| Error::Generic {
        store: "LocalUpload",
        source: error.into(),
    })
}

/// Creates a file beside `path` under a name that nobody has, `<path>#<number>`, which is how
/// stores call a file that is not finished.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        match File::create_new(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => return Ok((created?, name.into())),
        }
    }
}

/// A file, and a buffer through which it is written.
struct Direct {
    file: File,
    /// Whether what is written goes to disk directly.
    is_direct: bool,
    buffer: Vec<u8>,
}

impl Direct {
    fn new(file: File) -> Self {
        let set = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT));
        Direct {
            file,
            is_direct: set.is_ok(),
            buffer: Vec::new(),
        }
    }

    /// Writes `bytes`, with zeros behind them up to the next multiple of [`ALIGNMENT`], as which
    /// `offset` is one. What is not, and what the file system does not take, goes the usual way.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        while self.is_direct && written < bytes.len() {
            let piece = &bytes[written..bytes.len().min(written + BUFFER_BYTES)];
            let at = offset + written as u64;
            let aligned = aligned(&mut self.buffer, piece);
            match self.file.write_all_at(aligned, at) {
                Ok(()) => written += piece.len(),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let flags = fcntl_getfl(&self.file)?;
                    fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
                    self.is_direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.file
            .write_all_at(&bytes[written..], offset + written as u64)
    }
}

/// A copy of `piece` in `buffer` that begins and ends at multiples of [`ALIGNMENT`].
fn aligned<'a>(buffer: &'a mut Vec<u8>, piece: &[u8]) -> &'a [u8] {
    buffer.resize(BUFFER_BYTES + ALIGNMENT, 0);
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let whole = piece.len().next_multiple_of(ALIGNMENT);
    let aligned = &mut buffer[start..start + whole];
    aligned[..piece.len()].copy_from_slice(piece);
    aligned[piece.len()..].fill(0);
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = BUFFER_BYTES + 3 * ALIGNMENT;

    fn numbers(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    /// Writes `bytes` part by part, of [`PART`] each but the last.
    async fn write(path: &Path, bytes: &[u8]) -> LocalUpload {
        let upload = LocalUpload::begin(path.to_owned()).await;
        let mut upload = upload.expect("a file can be made");
        for part in bytes.chunks(PART) {
            let part = PutPayload::from(part.to_vec());
            upload.put_part(part).await.expect("there is room");
        }
        upload
    }

    #[tokio::test]
    async fn what_is_written_is_there_when_it_is_complete_whatever_its_size() {
        // Where file systems differ in what they can do; the second is in memory as a rule.
        for parent in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(directory) = tempfile::tempdir_in(&parent) else {
                continue;
            };
            for bytes in [0, 1, ALIGNMENT, PART - 1, PART, PART + 1, 3 * PART + 4097] {
                let path = directory.path().join("a/b").join(bytes.to_string());
                let content = numbers(bytes);
                let mut upload = write(&path, &content).await;
                assert!(!path.exists(), "it is not complete");
                upload.complete().await.expect("it can be renamed");
                assert!(fs::read(&path).expect("a file") == content, "{bytes}");
            }
            let left = fs::read_dir(directory.path().join("a/b")).expect("a directory");
            assert_eq!(left.count(), 7, "nothing else is left");
        }
    }

    #[tokio::test]
    async fn two_of_one_name_are_not_in_each_others_way_and_what_is_given_up_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut first = write(&path, &numbers(PART + 5)).await;
        let mut second = write(&path, &numbers(7)).await;
        first.complete().await.expect("it can be renamed");
        second.abort().await.expect("it can be removed");
        assert!(fs::read(&path).expect("a file") == numbers(PART + 5));
        let left = fs::read_dir(directory.path()).expect("a directory");
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn what_cannot_be_written_directly_is_written_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut file = Direct::new(File::create_new(&path).expect("a file"));
        // No file system takes that directly.
        file.write(&numbers(3 * BUFFER_BYTES), 1).expect("room");
        assert!(fs::read(&path).expect("a file")[1..] == numbers(3 * BUFFER_BYTES));
    }
}
