//! Files that somebody is writing, or was when it was killed.
//!
//! On a file system an object is written under the name `<object>#<number>` and then renamed.
//! Stores do not list such files, so what a killed process left would stay for ever, and nobody
//! would see why the disk is full.

use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ShuffleObject, file_error, local_url};
use crate::error::Result;
use crate::id::JobId;
use crate::plan::Sha256;

/// A file of an object that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfWritten {
    /// Where it is.
    pub path: PathBuf,
    /// The job whose shuffle object it was to be; none for a program.
    pub job: Option<JobId>,
    /// What has been written.
    pub bytes: u64,
    /// When something was last written.
    pub since: SystemTime,
}

impl HalfWritten {
    /// Removes it, and the directories that are empty then. Nothing there is no error.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(file_error("remove", &local_url(&self.path), error));
            }
            _ => {}
        }
        // `<root>/<hash>/<job>/<stage>/<file>`, or `<root>/programs/<file>`.
        let above = if self.job.is_some() { 3 } else { 1 };
        for directory in self.path.ancestors().skip(1).take(above) {
            // It is not empty as a rule.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The half-written files of shuffle objects and programs below `root`, in the order of their
/// paths.
pub(super) fn find(root: &Path) -> io::Result<Vec<HalfWritten>> {
    let mut found = Vec::new();
    for top in entries(root)? {
        if name(&top) == "programs" {
            for file in entries(&top.path())? {
                let is_program = |name: &str| name.parse::<Sha256>().is_ok();
                if unfinished(&name(&file)).is_some_and(is_program) {
                    found.extend(described(&file, None)?);
                }
            }
            continue;
        }
        for job in entries(&top.path())? {
            for stage in entries(&job.path())? {
                for file in entries(&stage.path())? {
                    let file_name = name(&file);
                    let object = unfinished(&file_name).and_then(|object| {
                        ShuffleObject::named(&name(&job), &name(&stage), object)
                    });
                    if let Some(object) = object {
                        found.extend(described(&file, Some(object.job))?);
                    }
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The name of the object that a half-written file was to become.
fn unfinished(file: &str) -> Option<&str> {
    let (object, number) = file.split_once('#')?;
    number.parse::<u64>().ok().map(|_| object)
}

/// What is in a directory; nothing where there is none, or none any more.
fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn name(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// None if it is gone.
fn described(entry: &DirEntry, job: Option<JobId>) -> io::Result<Option<HalfWritten>> {
    let found = match entry.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    Ok(Some(HalfWritten {
        path: entry.path(),
        job,
        bytes: found.len(),
        since: found.modified()?,
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use object_store::ObjectStoreExt as _;

    use super::*;
    use crate::id::StageId;
    use crate::storage::{ShuffleStore, Stores, local_url};

    #[tokio::test]
    async fn what_a_writer_left_is_found_and_removed_and_finished_objects_stay() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stores = Stores::new();
        let url = local_url(directory.path());
        let shuffle = ShuffleStore::open(&stores, &url).expect("a directory");
        assert_eq!(shuffle.half_written().await.expect("listed"), []);
        let job = JobId::new(0xabc);
        let path = |task| shuffle.object_path(job, StageId(1), task, 0);
        let payload = Bytes::from_static(b"12345");
        let put = shuffle.store.put(&path(0), payload.clone().into()).await;
        put.expect("room for an object");
        // The writers of both are never heard of again.
        let mut upload = shuffle.store.put_multipart(&path(1)).await.expect("begun");
        upload.put_part(payload.into()).await.expect("written");
        std::mem::forget(upload);
        let sha256 = Sha256([7; 32]);
        let staging = shuffle.programs().stage(sha256, 100).await.expect("begun");
        std::mem::forget(staging);
        let found = shuffle.half_written().await.expect("listed");
        let seen: Vec<_> = found.iter().map(|one| (one.job, one.bytes)).collect();
        assert!(seen.len() == 2, "{found:?}");
        assert!(
            seen.contains(&(Some(job), 5)) && seen.contains(&(None, 0)),
            "{seen:?}"
        );
        for one in &found {
            one.remove().expect("nothing is in the way");
            one.remove().expect("twice is no error");
        }
        assert_eq!(shuffle.half_written().await.expect("listed"), []);
        assert!(!directory.path().join("programs").exists());
        let kept = shuffle.sized_objects().await.expect("listed");
        assert_eq!(
            kept.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(),
            [5]
        );
    }
}
