//! Commit on a file system: everything is made ready inside the staging directory, and one rename
//! makes it the output.
//!
//! Files that lost, however late they are written, stay outside the directory that is renamed.
//! A rename replaces an empty directory at most, so what appeared meanwhile is safe.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_engine::storage::storage_error;
use kiln_engine::{Error, Result};

use super::{MANIFEST, Manifest, Move, SUCCESS, check_size, exists, missing};

/// The directory inside the staging directory that becomes the output.
const READY: &str = "_ready";

pub(super) fn prepare(url: &str, target: &Path, staging: &Path) -> Result<()> {
    if is_taken(url, target)? {
        return Err(exists(url));
    }
    fs::create_dir_all(staging).map_err(failed("create output directory", url))
}

/// Removes a directory, if it is there.
pub(super) fn remove(url: &str, directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove staging directory", url)(error))
        }
        _ => Ok(()),
    }
}

/// A commit, in steps that may each be repeated.
pub(super) struct Commit<'a> {
    url: &'a str,
    target: &'a Path,
    staging: &'a Path,
    ready: PathBuf,
}

impl<'a> Commit<'a> {
    pub(super) fn new(url: &'a str, target: &'a Path, staging: &'a Path) -> Self {
        let ready = staging.join(READY);
        Commit {
            url,
            target,
            staging,
            ready,
        }
    }

    pub(super) fn run(&self, moves: &[Move], manifest: &Manifest) -> Result<()> {
        if !self.is_finished(manifest)? {
            if is_taken(self.url, self.target)? {
                return Err(exists(self.url));
            }
            self.collect(moves)?;
            self.describe(manifest)?;
            self.publish()?;
        }
        // The output is there; what cannot be removed is only garbage.
        if let Err(error) = remove(self.url, self.staging) {
            tracing::warn!(error = error.report(), "staging directory left behind");
        }
        Ok(())
    }

    /// Whether the output is there and ours.
    fn is_finished(&self, manifest: &Manifest) -> Result<bool> {
        match fs::read(self.target.join(MANIFEST)) {
            Ok(text) => {
                Ok(Manifest::from_json(&text).is_some_and(|found| found.job == manifest.job))
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(failed("read", self.url)(error)),
        }
    }

    /// Moves the files that won into the directory to be.
    fn collect(&self, moves: &[Move]) -> Result<()> {
        let create = || failed("create output directory", self.url);
        fs::create_dir_all(&self.ready).map_err(create())?;
        let mut directories = BTreeSet::new();
        for file in moves {
            let to = self.ready.join(&file.to);
            if let Some(directory) = to.parent().filter(|parent| *parent != self.ready)
                && directories.insert(directory.to_owned())
            {
                fs::create_dir_all(directory).map_err(create())?;
            }
            match fs::rename(self.staging.join(&file.from), &to) {
                // It was moved before, or it is gone: the next look tells.
                Err(error) if !is_absent(&error) => return Err(failed("write", self.url)(error)),
                _ => {}
            }
            let moved = File::open(&to).map_err(|_| missing(&file.from, self.url))?;
            let bytes = moved.metadata().map_err(failed("read", self.url))?.len();
            check_size(file, bytes, self.url)?;
            moved.sync_all().map_err(failed("write", self.url))?;
        }
        let mut directories = directories.iter();
        directories
            .try_for_each(|directory| sync_directory(directory))
            .map_err(failed("write", self.url))
    }

    /// Adds manifest and `_SUCCESS`.
    fn describe(&self, manifest: &Manifest) -> Result<()> {
        let write = |name: &str, text: &str| -> io::Result<()> {
            let mut file = File::create(self.ready.join(name))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write(MANIFEST, &manifest.to_json())
            .and_then(|()| write(SUCCESS, ""))
            .and_then(|()| sync_directory(&self.ready))
            .map_err(failed("write", self.url))
    }

    /// Makes the directory the output.
    fn publish(&self) -> Result<()> {
        fs::rename(&self.ready, self.target).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::NotADirectory => exists(self.url),
            _ => failed("write", self.url)(error),
        })?;
        let parent = self.target.parent().unwrap_or(self.target);
        sync_directory(parent).map_err(failed("write", self.url))
    }
}

/// Whether something is at `target` that a rename must not or cannot replace.
fn is_taken(url: &str, target: &Path) -> Result<bool> {
    let found = match fs::symlink_metadata(target) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("create output directory", url)(error)),
    };
    if !found.is_dir() {
        return Ok(true);
    }
    let mut entries = fs::read_dir(target).map_err(failed("read", url))?;
    Ok(entries.next().is_some())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(what: &'static str, url: &str) -> impl Fn(io::Error) -> Error {
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

#[cfg(test)]
mod tests {
    use kiln_engine::ErrorKind;
    use kiln_engine::id::JobId;
    use kiln_engine::plan::{FileFormat, Output, OutputFile, OutputOptions};
    use kiln_engine::storage::{Stores, local_path, local_url, staging_url};

    use super::super::{commit, discard, manifest, names, prepare};
    use super::*;

    /// An output in a directory of its own, and the job that makes it.
    struct Job {
        directory: tempfile::TempDir,
        stores: Stores,
        id: JobId,
        output: Output,
    }

    impl Job {
        /// A job whose attempts have written `a` and `b`, which won, and `c`, which lost.
        async fn written() -> Self {
            let job = Job::new();
            prepare(&job.stores, job.id, &job.output)
                .await
                .expect("prepared");
            for (name, text) in [("a", "first"), ("b", "second"), ("c", "lost")] {
                fs::write(job.staging().join(name), text).expect("a file");
            }
            job
        }

        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let url = local_url(&directory.path().join("deep/out"));
            let output = Output {
                url,
                format: FileFormat::Csv,
                options: OutputOptions::default(),
            };
            Job {
                directory,
                stores: Stores::new(),
                id: JobId::new(7),
                output,
            }
        }

        fn target(&self) -> PathBuf {
            self.directory.path().join("deep/out")
        }

        fn staging(&self) -> PathBuf {
            let url = staging_url(&self.output.url, self.id).expect("a staging directory");
            local_path(&url).expect("a local one")
        }

        fn won() -> Vec<OutputFile> {
            let file = |name: &str, rows, bytes| OutputFile {
                name: name.to_owned(),
                rows,
                bytes,
                checksum: u64::MAX - rows,
            };
            vec![file("b", 2, 6), file("a", 1, 5)]
        }

        async fn commit(&self) -> Result<Vec<OutputFile>> {
            commit(&self.stores, self.id, &self.output, Job::won()).await
        }

        /// Everything below the test's directory, hidden names included.
        fn tree(&self) -> Vec<String> {
            let mut found = Vec::new();
            let mut left = vec![self.directory.path().to_owned()];
            while let Some(directory) = left.pop() {
                for entry in fs::read_dir(directory).expect("a directory") {
                    let path = entry.expect("an entry").path();
                    if path.is_dir() {
                        left.push(path);
                    } else {
                        let path = path.strip_prefix(self.directory.path()).expect("below it");
                        found.push(path.display().to_string());
                    }
                }
            }
            found.sort();
            found
        }
    }

    const COMMITTED: [&str; 4] = [
        "deep/out/_SUCCESS",
        "deep/out/_manifest.json",
        "deep/out/part-00000.csv",
        "deep/out/part-00001.csv",
    ];

    #[tokio::test]
    async fn winners_get_their_names_and_the_rest_goes() {
        let job = Job::written().await;
        let files = job.commit().await.expect("committed");
        assert_eq!(job.tree(), COMMITTED);
        assert_eq!(
            files.iter().map(|file| file.rows).collect::<Vec<_>>(),
            [2, 1]
        );
        let read = |name: &str| fs::read_to_string(job.target().join(name)).expect(name);
        assert_eq!(read("part-00000.csv"), "second");
        expect_test::expect![[r#"
            {
              "version": 1,
              "job": "000000000007",
              "format": "csv",
              "rows": 3,
              "bytes": 11,
              "files": [
                {
                  "name": "part-00000.csv",
                  "rows": 2,
                  "bytes": 6,
                  "xxh3": "fffffffffffffffd"
                },
                {
                  "name": "part-00001.csv",
                  "rows": 1,
                  "bytes": 5,
                  "xxh3": "fffffffffffffffe"
                }
              ]
            }
        "#]]
        .assert_eq(&read(MANIFEST));
    }

    #[tokio::test]
    async fn files_in_directories_stay_in_them() {
        let job = Job::written().await;
        fs::create_dir(job.staging().join("errors")).expect("a directory");
        fs::rename(job.staging().join("b"), job.staging().join("errors/b")).expect("moved");
        let mut files = Job::won();
        files[0].name = "errors/b".to_owned();
        for _ in 0..2 {
            let committed = commit(&job.stores, job.id, &job.output, files.clone()).await;
            let names: Vec<String> = committed
                .expect("committed")
                .into_iter()
                .map(|f| f.name)
                .collect();
            assert_eq!(names, ["errors/part-00000.csv", "part-00000.csv"]);
        }
        let expected = [
            "deep/out/_SUCCESS",
            "deep/out/_manifest.json",
            "deep/out/errors/part-00000.csv",
            "deep/out/part-00000.csv",
        ];
        assert_eq!(job.tree(), expected);
    }

    #[tokio::test]
    async fn a_commit_that_was_cut_off_anywhere_is_finished_by_the_next() {
        for steps in 0..=5 {
            let job = Job::written().await;
            let (target, staging) = (job.target(), job.staging());
            let cut_off = Commit::new(&job.output.url, &target, &staging);
            let (moves, files) = names(&job.output, Job::won()).expect("names");
            let run = |step: usize| match step {
                0 => cut_off.collect(&moves[..1]),
                1 => cut_off.collect(&moves),
                2 => fs::write(cut_off.ready.join(MANIFEST), "{ torn").map_err(failed("", "")),
                3 => cut_off.describe(&manifest(job.id, &job.output, &files)),
                _ => cut_off.publish(),
            };
            for step in 0..steps {
                run(step).expect("a step");
            }
            assert_eq!(
                target.exists(),
                steps == 5,
                "nothing shows before the last step"
            );
            assert_eq!(
                job.commit().await.expect("committed"),
                files,
                "after {steps} steps"
            );
            assert_eq!(job.tree(), COMMITTED, "after {steps} steps");
            assert_eq!(job.commit().await.expect("committed again"), files);
            discard(&job.stores, job.id, &job.output)
                .await
                .expect("nothing to discard");
            assert_eq!(job.tree(), COMMITTED, "after {steps} steps");
        }
    }

    #[tokio::test]
    async fn an_output_that_is_there_is_never_replaced() {
        let job = Job::new();
        fs::create_dir_all(job.target()).expect("an empty directory");
        prepare(&job.stores, job.id, &job.output)
            .await
            .expect("an empty directory is none");

        let job = Job::new();
        fs::create_dir_all(job.target().join("x")).expect("a directory");
        let error = prepare(&job.stores, job.id, &job.output)
            .await
            .expect_err("it is there");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.message(),
            format!("output already exists url={}", job.output.url)
        );

        let job = Job::written().await;
        fs::write(job.target(), "a file").expect("a file");
        assert_eq!(
            job.commit().await.expect_err("it is there").kind(),
            ErrorKind::Invalid
        );
        let (target, staging) = (job.target(), job.staging());
        let late = Commit::new(&job.output.url, &target, &staging);
        fs::create_dir(&late.ready).expect("a directory");
        assert_eq!(
            late.publish().expect_err("a file").kind(),
            ErrorKind::Invalid
        );
        fs::remove_file(&target).expect("removed");
        fs::create_dir_all(target.join("x")).expect("a directory");
        assert_eq!(
            late.publish().expect_err("a directory").kind(),
            ErrorKind::Invalid
        );
        discard(&job.stores, job.id, &job.output)
            .await
            .expect("discarded");
        assert!(!staging.exists() && target.join("x").exists());
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_cut_stops_the_commit() {
        let job = Job::written().await;
        fs::remove_file(job.staging().join("a")).expect("removed");
        let error = job.commit().await.expect_err("a is gone");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("name=a"), "{}", error.report());

        let job = Job::written().await;
        fs::write(job.staging().join("b"), "sec").expect("a short file");
        let error = job.commit().await.expect_err("b is short");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.message().contains("expected=6 found=3"),
            "{}",
            error.report()
        );
        assert!(!job.target().exists());
    }

    #[tokio::test]
    async fn names_from_executors_stay_in_the_staging_directory() {
        let job = Job::written().await;
        for name in [
            "../a",
            "/etc/passwd",
            "..",
            "",
            "_ready",
            "a/../b",
            "a/b/c",
            "_ready/a",
        ] {
            let mut files = Job::won();
            files[0].name = name.to_owned();
            let error = commit(&job.stores, job.id, &job.output, files)
                .await
                .expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Internal);
        }
    }

    #[tokio::test]
    async fn a_parent_that_is_a_file_is_named() {
        let job = Job::new();
        fs::write(job.directory.path().join("deep"), "").expect("a file");
        let error = prepare(&job.stores, job.id, &job.output)
            .await
            .expect_err("no directory");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.message().contains(&job.output.url),
            "{}",
            error.report()
        );
    }
}
