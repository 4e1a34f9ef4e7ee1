//! A large file of a local disk, written past the page cache.
//!
//! Output has to be on disk before it is committed, so what goes through the page cache is copied
//! there, and then waited for all the same. Written directly it is there at once, and takes neither
//! memory nor the time that it costs to find some. Directly goes only what begins and ends at
//! multiples of a disk's blocks, in memory too; so it goes through a buffer that does, and the end
//! of a file is cut off when it is complete. Whatever does not go in this way gets ordinary writes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use rustix::fs::{FsWord, OFlags, fcntl_getfl, fcntl_setfl, fstatfs};

use crate::storage::on_file_thread;

/// What disks ask for: a page is a multiple of the blocks of all of them.
const ALIGNMENT: usize = 4096;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// File systems of local disks, by the numbers that `statfs` has for them: ext4, XFS, and what
/// containers have above these. Others wait for a network, or do something else with the bytes.
const DIRECT: [FsWord; 3] = [0xef53, 0x5846_5342, 0x794c_7630];

/// The upload of a file: parts of one multiple of a page, and a last one of any size.
#[derive(Debug)]
pub(super) struct LocalUpload {
    bytes: u64,
    file: Arc<Mutex<Unfinished>>,
}

impl LocalUpload {
    /// Begins the file at `path`, with the directories that it is in.
    pub(super) async fn begin(path: PathBuf) -> Result<Self> {
        let file = work(move || Unfinished::create(path)).await?;
        Ok(LocalUpload {
            bytes: 0,
            file: Arc::new(Mutex::new(file)),
        })
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let mut offset = self.bytes;
        self.bytes += part.content_length() as u64;
        let file = Arc::clone(&self.file);
        let write = move || {
            let mut file = lock(&file);
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
        work(move || lock(&file).complete(bytes)).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let file = Arc::clone(&self.file);
        work(move || lock(&file).remove()).await
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

fn lock(file: &Mutex<Unfinished>) -> MutexGuard<'_, Unfinished> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that goes with this, unless it has been completed.
#[derive(Debug)]
struct Unfinished {
    file: File,
    /// Whether what is written goes to disk directly.
    is_direct: bool,
    /// Where it is to be.
    path: PathBuf,
    /// Where it is; nowhere if it has been removed.
    current: Option<PathBuf>,
}

impl Unfinished {
    /// Creates a file beside `path` under a name that nobody has, `<path>#<number>`, which is how
    /// stores call a file that is not finished.
    fn create(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut number = 1;
        loop {
            let mut name = path.as_os_str().to_owned();
            name.push(format!("#{number}"));
            let file = match File::create_new(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    continue;
                }
                created => created?,
            };
            let is_direct = fstatfs(&file).is_ok_and(|found| DIRECT.contains(&found.f_type))
                && set_direct(&file, true).is_ok();
            return Ok(Unfinished {
                file,
                is_direct,
                path,
                current: Some(name.into()),
            });
        }
    }

    /// Writes `bytes`, with zeros behind them up to the next multiple of [`ALIGNMENT`].
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        if self.is_direct && offset.is_multiple_of(ALIGNMENT as u64) {
            let mut buffer = vec![0; BUFFER_BYTES + ALIGNMENT];
            for piece in bytes.chunks(BUFFER_BYTES) {
                let piece_at = offset + written as u64;
                let aligned = aligned(&mut buffer, piece);
                if self.file.write_all_at(aligned, piece_at).is_err() {
                    break;
                }
                written += piece.len();
            }
        }
        if written == bytes.len() {
            return Ok(());
        }
        // What has an error of its own, as on a full disk, has it again.
        if std::mem::take(&mut self.is_direct) {
            set_direct(&self.file, false)?;
        }
        self.file
            .write_all_at(&bytes[written..], offset + written as u64)
    }

    /// Brings the file to disk, `bytes` long, and gives it its name.
    fn complete(&mut self, bytes: u64) -> io::Result<()> {
        let unfinished = self.current.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.file.set_len(bytes)?;
        self.file.sync_data()?;
        fs::rename(unfinished, &self.path)?;
        self.current = Some(self.path.clone());
        Ok(())
    }

    /// Removes the file, whatever its name is by now.
    fn remove(&mut self) -> io::Result<()> {
        self.current.take().map_or(Ok(()), fs::remove_file)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let unfinished = self.current.take().filter(|path| *path != self.path);
        if let Some(Err(error)) = unfinished.map(fs::remove_file) {
            tracing::debug!(path = %self.path.display(), %error, "an unfinished file stays behind");
        }
    }
}

/// Makes writes go to disk directly from now on, or not.
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, is_direct);
    Ok(fcntl_setfl(file, flags)?)
}

/// A copy of `piece` in `buffer` that begins and ends at multiples of [`ALIGNMENT`].
fn aligned<'a>(buffer: &'a mut [u8], piece: &[u8]) -> &'a [u8] {
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let whole = piece.len().next_multiple_of(ALIGNMENT);
    let aligned = &mut buffer[start..start + whole];
    aligned[..piece.len()].copy_from_slice(piece);
    aligned[piece.len()..].fill(0);
    aligned
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PART: usize = BUFFER_BYTES + 3 * ALIGNMENT;

    fn numbers(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    fn count(directory: &Path) -> usize {
        fs::read_dir(directory).expect("a directory").count()
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
        // They differ in what they can do; the second is in memory as a rule.
        for parent in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(directory) = tempfile::tempdir_in(&parent) else {
                continue;
            };
            let kind = rustix::fs::statfs(directory.path()).expect("a file system");
            let is_disk = kind.f_type == DIRECT[0];
            for bytes in [0, 1, ALIGNMENT, PART - 1, PART, PART + 1, 3 * PART + 4097] {
                let path = directory.path().join("a/b").join(bytes.to_string());
                let content = numbers(bytes);
                let mut upload = write(&path, &content).await;
                assert!(!path.exists(), "it is not complete");
                assert!(lock(&upload.file).is_direct || !is_disk, "ext4 can do it");
                upload.complete().await.expect("it can be renamed");
                assert!(fs::read(&path).expect("a file") == content, "{bytes}");
            }
            assert_eq!(count(&directory.path().join("a/b")), 7, "nothing else");
        }
    }

    #[tokio::test]
    async fn two_of_one_name_are_not_in_each_others_way_and_what_is_given_up_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut first = write(&path, &numbers(PART + 5)).await;
        let mut second = write(&path, &numbers(7)).await;
        let third = write(&path, &numbers(7)).await;
        first.complete().await.expect("it can be renamed");
        assert_eq!(count(directory.path()), 3);
        second.abort().await.expect("it can be removed");
        second.complete().await.expect_err("there is no such file");
        drop((second, third));
        assert_eq!(count(directory.path()), 1);
        assert!(fs::read(&path).expect("a file") == numbers(PART + 5));
        first.abort().await.expect("it can be removed all the same");
        assert_eq!(count(directory.path()), 0);
    }

    #[tokio::test]
    async fn what_cannot_have_its_name_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("by/directories")).expect("directories");
        let mut upload = write(&path, &numbers(PART)).await;
        upload.complete().await.expect_err("it is a directory");
        assert_eq!(count(directory.path()), 2);
        drop(upload);
        assert_eq!(count(directory.path()), 1);
    }

    #[test]
    fn what_cannot_be_written_directly_is_written_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut file = Unfinished::create(path.clone()).expect("a file");
        file.write(&numbers(3 * BUFFER_BYTES), 1).expect("room");
        assert!(!file.is_direct, "a disk has no block that begins there");
        file.complete(3 * BUFFER_BYTES as u64 + 1).expect("a name");
        assert!(fs::read(&path).expect("a file")[1..] == numbers(3 * BUFFER_BYTES));
    }
}
