//! Clearing up behind a job in a store without rename: uploads that nobody completes, files that
//! an unfinished commit has made visible, files that were replaced, and the staging directory.
//!
//! What there is to be cleared is read from the staging directory, which goes last, so clearing
//! that was cut off is taken up by the next.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use kiln_engine::Result;
use kiln_engine::plan::{is_directory_name, part_prefix, recorded_upload};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::{CLAIM, Found, Place, below, file_name, relative};
use crate::commit::manifest::Manifest;

/// Objects in the staging directory that hold the manifest of an output before it was replaced.
const REPLACED: &str = "_replaced-";

impl Place<'_> {
    /// Remembers what is in the output before the job replaces it.
    pub(super) async fn note_replaced(&self, found: &Manifest) -> Result<()> {
        let last = found.appended.last().unwrap_or(&found.job);
        let name = format!("{REPLACED}{last}.json");
        self.put(&self.staged(&name), found.to_json()).await
    }

    /// Clears up behind a job that is committed, as `manifest` says at least in part.
    pub(super) async fn clear(&self, manifest: &Manifest) -> Result<()> {
        let staged = self.staged_names().await?;
        self.remove_replaced(&staged).await?;
        let files = manifest.files.iter().map(|file| file.name.as_str());
        let files: BTreeSet<&str> = files.collect();
        for name in &staged {
            if let Some(file) = self.upload_of(name)
                && !files.contains(file)
            {
                self.abort(name, file).await?;
            }
        }
        self.give_up_claim().await?;
        self.remove_staging(staged).await
    }

    /// Removes all that the job has brought here.
    pub(super) async fn remove_all(&self) -> Result<()> {
        let staged = self.staged_names().await?;
        for name in &staged {
            if let Some(file) = self.upload_of(name) {
                // In this order: afterwards nobody can make it visible again.
                self.abort(name, file).await?;
                self.gone(self.store.delete(&self.at(file)).await)?;
            }
        }
        self.give_up_claim().await?;
        self.remove_staging(staged).await
    }

    /// How many objects the job has staged, and their bytes; none where nothing is staged. Uploads
    /// that wait are told of by objects, but their own bytes are not known.
    pub(in crate::commit) async fn left_behind(&self) -> Result<Option<(u64, u64)>> {
        let sizes = self.store.list(Some(&self.staging));
        let sizes: Vec<u64> = sizes
            .map_ok(|object| object.size)
            .try_collect()
            .await
            .map_err(|error| self.failed("list", error))?;
        let found = (sizes.len() as u64, sizes.iter().sum());
        Ok((!sizes.is_empty()).then_some(found))
    }

    /// The file whose upload the staged object called `name` tells of.
    fn upload_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let file = recorded_upload(name)?;
        let directory = file.rsplit_once('/').map(|(directory, _)| directory);
        // Only what is the job's own, whatever has been put there.
        let is_ours = file_name(file).starts_with(&part_prefix(self.job))
            && directory.is_none_or(is_directory_name);
        is_ours.then_some(file)
    }

    /// Ends the upload of `file`, of which the staged object called `record` tells. One that was
    /// completed or aborted before is no error.
    async fn abort(&self, record: &str, file: &str) -> Result<()> {
        let Some((id, _)) = self.read(&self.staged(record)).await? else {
            return Ok(());
        };
        let id = String::from_utf8_lossy(&id).into_owned();
        match self.uploads.abort_multipart(&self.at(file), &id).await {
            Err(error) if is_unknown(&error) => Ok(()),
            aborted => self.gone(aborted),
        }
    }

    /// Removes the files that were part of the output before the job replaced it, and are not now.
    async fn remove_replaced(&self, staged: &[String]) -> Result<()> {
        let mut replaced = BTreeSet::new();
        for name in staged.iter().filter(|name| name.starts_with(REPLACED)) {
            let found = self.read(&self.staged(name)).await?;
            let found = found.and_then(|(text, _)| Manifest::from_json(&text));
            let files = found.into_iter().flat_map(|manifest| manifest.files);
            replaced.extend(files.map(|file| file.name));
        }
        if replaced.is_empty() {
            return Ok(());
        }
        // A file that has left the manifest never comes back.
        let Found::Manifest(now, _) = self.manifest().await? else {
            return Ok(());
        };
        let kept: BTreeSet<&str> = now.files.iter().map(|file| file.name.as_str()).collect();
        replaced.retain(|name| !kept.contains(name.as_str()));
        let paths = replaced.iter().map(|name| self.at(name)).collect();
        self.remove(paths).await
    }

    async fn give_up_claim(&self) -> Result<()> {
        if self.claimant().await?.as_deref() != Some(self.job.to_string().as_str()) {
            return Ok(());
        }
        self.gone(self.store.delete(&self.at(CLAIM)).await)
    }

    /// The names of what is in the staging directory.
    async fn staged_names(&self) -> Result<Vec<String>> {
        let objects = self.store.list(Some(&self.staging));
        let names = objects.map_ok(|object| relative(&object.location, &self.staging));
        let names = names.try_collect().await;
        names.map_err(|error| self.failed("list", error))
    }

    async fn remove_staging(&self, names: Vec<String>) -> Result<()> {
        let paths = names.iter().map(|name| below(&self.staging, name));
        self.remove(paths.collect()).await
    }

    async fn remove(&self, paths: Vec<Path>) -> Result<()> {
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut removed = self.store.delete_stream(paths);
        while let Some(outcome) = removed.next().await {
            self.gone(outcome)?;
        }
        Ok(())
    }
}

/// Whether a store says that it has no such upload. The one in memory has no kind of error for
/// it.
fn is_unknown(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::Generic {
            store: "InMemory",
            ..
        }
    )
}
