//! Commit in an object store, where there is no rename: files are copied to their final names
//! between two objects of the output.
//!
//! `_manifest.json` is created first, with put-if-absent, and claims the output for one job;
//! `_SUCCESS` comes last and says that everything is there. A put-if-absent whose answer is an
//! error has not told who won, so the manifest is read back and asked.

use std::sync::Arc;

use futures::future::ready;
use futures::{StreamExt, TryStreamExt, stream};
use kiln_engine::id::JobId;
use kiln_engine::storage::{Stores, storage_error};
use kiln_engine::{Error, ErrorKind, Result, limits};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use super::{MANIFEST, Manifest, Move, SUCCESS, check_size, exists, missing};

/// An object in the staging directory, put there to learn early whether that is allowed.
const PROBE: &str = "_probe";

/// An output and its staging directory, in the store that holds both.
pub(super) struct Place<'a> {
    url: &'a str,
    store: Arc<dyn ObjectStore>,
    target: Path,
    staging: Path,
}

impl<'a> Place<'a> {
    pub(super) fn new(stores: &Stores, url: &'a str, staging: &str) -> Result<Self> {
        let (store, target) = stores.get(url)?;
        let (_, staging) = stores.get(staging)?;
        Ok(Place {
            url,
            store,
            target,
            staging,
        })
    }

    pub(super) async fn prepare(&self) -> Result<()> {
        if self.is_taken().await? {
            return Err(exists(self.url));
        }
        self.put(&self.staging.clone().join(PROBE), String::new())
            .await
    }

    pub(super) async fn commit(&self, moves: &[Move], manifest: &Manifest) -> Result<()> {
        self.claim(manifest).await?;
        if !self.is_finished().await? {
            self.copy(moves).await?;
            self.put(&self.at(SUCCESS), String::new()).await?;
        }
        // The output is there; what cannot be removed is only garbage.
        if let Err(error) = self.remove_staging().await {
            tracing::warn!(error = error.report(), "staging directory left behind");
        }
        Ok(())
    }

    pub(super) async fn discard(&self, job: JobId) -> Result<()> {
        self.remove_staging().await?;
        let manifest = match self.manifest().await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok(()),
            Err(error) => return Err(error),
        };
        if manifest.job != job.to_string() || self.is_finished().await? {
            return Ok(());
        }
        // The manifest goes last: as long as it is there, the rest is known to be ours.
        let names = manifest.files.iter().map(|file| file.name.as_str());
        for path in names.chain([MANIFEST]).map(|name| self.at(name)) {
            self.gone(self.store.delete(&path).await)?;
        }
        Ok(())
    }

    /// Makes the output ours, or finds that it is already.
    async fn claim(&self, manifest: &Manifest) -> Result<()> {
        match self.manifest().await? {
            Some(found) if found.job == manifest.job => return Ok(()),
            Some(_) => return Err(exists(self.url)),
            None if self.is_taken().await? => return Err(exists(self.url)),
            None => {}
        }
        let (path, json) = (self.at(MANIFEST), manifest.to_json());
        let created = self
            .store
            .put_opts(&path, json.into(), PutMode::Create.into())
            .await;
        let Err(error) = created else {
            return Ok(());
        };
        match self.manifest().await? {
            Some(found) if found.job == manifest.job => Ok(()),
            Some(_) => Err(exists(self.url)),
            None => Err(
                Error::unavailable(format!("cannot claim the output url={}", self.url))
                    .with_source(error),
            ),
        }
    }

    async fn copy(&self, moves: &[Move]) -> Result<()> {
        // Collected first: a spawned future must not borrow through a closure of a stream.
        let copies: Vec<_> = moves.iter().map(|file| self.copy_one(file)).collect();
        stream::iter(copies)
            .buffer_unordered(limits::PREFETCH_REQUESTS)
            .try_collect()
            .await
    }

    async fn copy_one(&self, file: &Move) -> Result<()> {
        let (from, to) = (below(&self.staging, &file.from), self.at(&file.to));
        match self.store.copy(&from, &to).await {
            Ok(()) => {}
            Err(object_store::Error::NotFound { .. }) => return Err(missing(&file.from, self.url)),
            Err(error) => return Err(self.failed("write", error)),
        }
        let found = self
            .store
            .head(&to)
            .await
            .map_err(|error| self.failed("read", error))?;
        check_size(file, found.size, self.url)
    }

    /// Whether something is there that is not the staging directory.
    async fn is_taken(&self) -> Result<bool> {
        match self.store.head(&self.target).await {
            Ok(_) => return Ok(true),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed("read", error)),
        }
        let staging = self.staging.clone();
        let mut others = self
            .store
            .list(Some(&self.target))
            .try_filter(move |object| ready(!object.location.prefix_matches(&staging)));
        let first = others.try_next().await;
        Ok(first.map_err(|error| self.failed("list", error))?.is_some())
    }

    async fn is_finished(&self) -> Result<bool> {
        match self.store.head(&self.at(SUCCESS)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// The manifest that is there; `Invalid` where it is none of ours.
    async fn manifest(&self) -> Result<Option<Manifest>> {
        let text = match self.store.get(&self.at(MANIFEST)).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match text {
            // Something else under that name is as good as somebody else's output.
            Ok(text) => Manifest::from_json(&text)
                .ok_or_else(|| exists(self.url))
                .map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    async fn remove_staging(&self) -> Result<()> {
        let objects = self
            .store
            .list(Some(&self.staging))
            .map_ok(|object| object.location);
        let mut removed = self.store.delete_stream(objects.boxed());
        while let Some(outcome) = removed.next().await {
            self.gone(outcome)?;
        }
        Ok(())
    }

    async fn put(&self, path: &Path, text: String) -> Result<()> {
        let put = self.store.put(path, text.into()).await;
        put.map(|_| ()).map_err(|error| self.failed("write", error))
    }

    /// What was not there is removed already.
    fn gone<T>(&self, removed: object_store::Result<T>) -> Result<()> {
        match removed {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", error)),
        }
    }

    fn at(&self, name: &str) -> Path {
        below(&self.target, name)
    }

    fn failed(&self, what: &str, error: object_store::Error) -> Error {
        storage_error(what, self.url, error)
    }
}

/// The object called `name`, which may be in a directory, below `place`.
fn below(place: &Path, name: &str) -> Path {
    name.split('/')
        .fold(place.clone(), |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use kiln_engine::plan::{FileFormat, Output, OutputFile, OutputOptions};
    use kiln_engine::storage::staging_url;

    use super::super::{commit, discard, manifest, names, prepare};
    use super::*;

    fn job() -> JobId {
        JobId::new(7)
    }

    fn output() -> Output {
        Output {
            url: "memory:///deep/out".to_owned(),
            format: FileFormat::Json,
            options: OutputOptions::default(),
        }
    }

    fn place(stores: &Stores) -> Place<'static> {
        let staging = staging_url(&output().url, job()).expect("a staging directory");
        Place::new(stores, "memory:///deep/out", &staging).expect("a store")
    }

    fn won() -> Vec<OutputFile> {
        let file = |name: &str| OutputFile {
            name: name.to_owned(),
            rows: 1,
            bytes: 1,
            checksum: 0,
        };
        vec![file("b"), file("a")]
    }

    /// A store in which attempts have written `a` and `b`, which won, and `c`, which lost.
    async fn written() -> Stores {
        let stores = Stores::new();
        prepare(&stores, job(), &output()).await.expect("prepared");
        let place = place(&stores);
        for name in ["a", "b", "c"] {
            place
                .put(&place.staging.clone().join(name), name.to_owned())
                .await
                .expect("a file");
        }
        stores
    }

    async fn tree(stores: &Stores) -> Vec<String> {
        let found = place(stores)
            .store
            .list(None)
            .map_ok(|object| object.location.to_string());
        let mut found: Vec<String> = found.try_collect().await.expect("a listing");
        found.sort();
        found
    }

    const COMMITTED: [&str; 4] = [
        "deep/out/_SUCCESS",
        "deep/out/_manifest.json",
        "deep/out/part-00000.json",
        "deep/out/part-00001.json",
    ];

    #[tokio::test]
    async fn files_in_directories_stay_in_them() {
        let stores = written().await;
        let place = place(&stores);
        let path = below(&place.staging, "errors/b");
        place.put(&path, "b".to_owned()).await.expect("a file");
        let mut files = won();
        files[0].name = "errors/b".to_owned();
        for _ in 0..2 {
            let committed = commit(&stores, job(), &output(), files.clone()).await;
            assert_eq!(committed.expect("committed").len(), 2);
        }
        let expected = [
            "deep/out/_SUCCESS",
            "deep/out/_manifest.json",
            "deep/out/errors/part-00000.json",
            "deep/out/part-00000.json",
        ];
        assert_eq!(tree(&stores).await, expected);
    }

    #[tokio::test]
    async fn a_commit_that_was_cut_off_anywhere_is_finished_by_the_next() {
        for steps in 0..=4 {
            let stores = written().await;
            let cut_off = place(&stores);
            let (moves, files) = names(&output(), won()).expect("names");
            for step in 0..steps {
                match step {
                    0 => cut_off.claim(&manifest(job(), &output(), &files)).await,
                    1 => cut_off.copy(&moves[..1]).await,
                    2 => cut_off.copy(&moves).await,
                    _ => cut_off.put(&cut_off.at(SUCCESS), String::new()).await,
                }
                .expect("a step");
            }
            for _ in 0..2 {
                let committed = commit(&stores, job(), &output(), won()).await;
                assert_eq!(committed.expect("committed"), files, "after {steps} steps");
                assert_eq!(tree(&stores).await, COMMITTED, "after {steps} steps");
            }
            discard(&stores, job(), &output())
                .await
                .expect("nothing to discard");
            assert_eq!(tree(&stores).await, COMMITTED, "after {steps} steps");
        }
    }

    #[tokio::test]
    async fn an_unfinished_commit_is_discarded_whole() {
        let stores = written().await;
        let (moves, files) = names(&output(), won()).expect("names");
        let cut_off = place(&stores);
        cut_off
            .claim(&manifest(job(), &output(), &files))
            .await
            .expect("claimed");
        cut_off.copy(&moves[..1]).await.expect("copied");
        discard(&stores, job(), &output()).await.expect("discarded");
        assert_eq!(tree(&stores).await, [""; 0]);
    }

    #[tokio::test]
    async fn one_of_two_jobs_gets_the_output() {
        let stores = written().await;
        let other = JobId::new(8);
        let (_, files) = names(&output(), won()).expect("names");
        place(&stores)
            .claim(&manifest(other, &output(), &files))
            .await
            .expect("claimed");
        let error = commit(&stores, job(), &output(), won())
            .await
            .expect_err("it is taken");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.message(),
            "output already exists url=memory:///deep/out"
        );
        discard(&stores, job(), &output()).await.expect("discarded");
        assert_eq!(tree(&stores).await, ["deep/out/_manifest.json"]);
    }

    #[tokio::test]
    async fn an_output_that_is_there_is_refused_early() {
        for taken in ["memory:///deep/out", "memory:///deep/out/x"] {
            let stores = Stores::new();
            let (store, path) = stores.get(taken).expect("a store");
            store.put(&path, "x".into()).await.expect("an object");
            let error = prepare(&stores, job(), &output()).await.expect_err(taken);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(tree(&stores).await.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_gone_stops_the_commit() {
        let stores = written().await;
        let place = place(&stores);
        place
            .store
            .delete(&place.staging.clone().join("a"))
            .await
            .expect("deleted");
        let error = commit(&stores, job(), &output(), won())
            .await
            .expect_err("a is gone");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("name=a"), "{}", error.report());
    }
}
