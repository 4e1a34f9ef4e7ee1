//! Commit in an object store, where there is no rename: the files that won wait as uploads under
//! the names that they are to have, and are completed.
//!
//! A job that makes an output claims it before any file of it is visible. `_manifest.json` comes
//! when all files are there, and `_SUCCESS` last. The manifest is created with put-if-absent, or
//! put in the place of the one that was read and of no other: so it decides between jobs, and the
//! claim only sees to it that one that must lose makes nothing visible.
//!
//! Every file has the job's id in its name, so whatever one job removes is its own. Two drivers
//! may run the commit of one job at once, since each step finds what the other has done: an
//! upload that is gone has been completed if the file is there, and a manifest that names the job
//! ends the commit. A conditional write whose answer is an error has not told who won, so what is
//! there is read and asked.
//!
//! These are plain functions over a store, without timers and tasks of their own, so that tests
//! can take them step by step.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use kiln_engine::id::JobId;
use kiln_engine::plan::{OutputFile, OutputMode, PendingUpload, is_part_name, part_prefix};
use kiln_engine::storage::{Stores, storage_error};
use kiln_engine::{Error, ErrorKind, Result, limits};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::manifest::{MANIFEST, Manifest, SUCCESS};
use super::{check_format, check_size, exists, missing, refused};

mod staged;

/// The object that says which job makes the output, while it does.
const CLAIM: &str = "_claim.json";

/// Names of staging directories begin so.
const STAGING: &str = "_staging-";

/// An object in the staging directory, put there to learn early whether that is allowed. As long
/// as there is something in its staging directory, a job has not ended.
const PROBE: &str = "_probe";

/// Times that a conditional write is tried again because somebody else's was faster.
const TRIES_MAX: usize = 16;

/// An output of a job in a store that has no rename.
pub(super) struct Place<'a> {
    url: &'a str,
    store: Arc<dyn ObjectStore>,
    uploads: Arc<dyn MultipartStore>,
    target: Path,
    staging: Path,
    job: JobId,
    mode: OutputMode,
}

/// What is called `_manifest.json`.
enum Found {
    Nothing,
    Manifest(Manifest, UpdateVersion),
    /// Something else, or a part of a manifest.
    Other(Vec<u8>, UpdateVersion),
}

/// The form of the claim.
#[derive(Serialize, Deserialize)]
struct Claim {
    job: String,
}

impl<'a> Place<'a> {
    pub(super) fn new(
        stores: &Stores,
        url: &'a str,
        staging: &str,
        job: JobId,
        mode: OutputMode,
    ) -> Result<Self> {
        let (store, target) = stores.get(url)?;
        let (_, staging) = stores.get(staging)?;
        let Some((uploads, _)) = stores.multipart(url)? else {
            return Err(Error::invalid(format!(
                "this store cannot take output: it has no uploads in parts url={url}"
            )));
        };
        Ok(Place {
            url,
            store,
            uploads,
            target,
            staging,
            job,
            mode,
        })
    }

    /// Refuses what a commit would refuse, and learns whether the staging directory can be
    /// written to.
    pub(super) async fn prepare(&self, format: &str) -> Result<()> {
        match self.mode {
            OutputMode::ErrorIfExists if self.is_taken().await? => return Err(exists(self.url)),
            OutputMode::ErrorIfExists => {}
            OutputMode::Overwrite | OutputMode::Append => self.look(format).await?,
        }
        self.put(&self.staged(PROBE), String::new()).await
    }

    /// Completes the uploads of `files`, which `manifest` names.
    pub(super) async fn commit(&self, files: &[OutputFile], manifest: &Manifest) -> Result<()> {
        if let Err(error) = self.put_in_place(files, manifest).await {
            // Another driver may have finished, and cleared up what this one was working with.
            match self.is_finished().await {
                Ok(true) => {}
                _ => return Err(error),
            }
        }
        self.put(&self.at(SUCCESS), String::new()).await?;
        // The output is there; what cannot be removed is only garbage.
        if let Err(error) = self.clear(manifest).await {
            tracing::warn!(error = error.report(), "staging directory left behind");
        }
        Ok(())
    }

    /// Removes what the job has staged, and what an unfinished commit has made visible. A finished
    /// one stays.
    pub(super) async fn discard(&self) -> Result<()> {
        match self.manifest().await? {
            Found::Manifest(manifest, _) if manifest.knows(self.job) => self.clear(&manifest).await,
            _ => self.remove_all().await,
        }
    }

    async fn put_in_place(&self, files: &[OutputFile], manifest: &Manifest) -> Result<()> {
        if self.is_finished().await? {
            return Ok(());
        }
        match self.mode {
            OutputMode::ErrorIfExists => self.claim().await?,
            OutputMode::Overwrite | OutputMode::Append => self.look(&manifest.format).await?,
        }
        self.complete(files).await?;
        self.describe(manifest).await
    }

    /// Whether the output is there and has the job's files, or has had them.
    async fn is_finished(&self) -> Result<bool> {
        let found = self.manifest().await?;
        Ok(matches!(found, Found::Manifest(manifest, _) if manifest.knows(self.job)))
    }

    async fn manifest(&self) -> Result<Found> {
        let Some((text, version)) = self.read(&self.at(MANIFEST)).await? else {
            return Ok(Found::Nothing);
        };
        Ok(match Manifest::from_json(&text) {
            Some(manifest) => Found::Manifest(manifest, version),
            None => Found::Other(text, version),
        })
    }

    /// Makes the output ours, or finds that it is already.
    async fn claim(&self) -> Result<()> {
        let ours = self.job.to_string();
        let mut failure = None;
        for _ in 0..TRIES_MAX {
            match self.claimant().await? {
                Some(job) if job == ours => return self.check_claim().await,
                // A job that has cleared up after itself has left this behind by accident.
                Some(job) if self.has_ended(&job).await? => {
                    self.gone(self.store.delete(&self.at(CLAIM)).await)?;
                }
                Some(_) => return Err(exists(self.url)),
                None => {
                    if self.is_taken().await? {
                        return Err(exists(self.url));
                    }
                    let claim = Claim { job: ours.clone() };
                    let text = serde_json::to_string(&claim).expect("plain data becomes JSON");
                    let (path, mode) = (self.at(CLAIM), PutMode::Create.into());
                    failure = self.store.put_opts(&path, text.into(), mode).await.err();
                    if failure.as_ref().is_some_and(|error| !has_lost(error)) {
                        break;
                    }
                }
            }
        }
        match self.claimant().await? {
            Some(job) if job == ours => self.check_claim().await,
            _ => Err(self.contended("cannot claim the output", failure)),
        }
    }

    /// A job gives up its claim when its manifest is there: who claims an output later has to look.
    async fn check_claim(&self) -> Result<()> {
        match self.manifest().await? {
            Found::Nothing => Ok(()),
            Found::Manifest(manifest, _) if manifest.knows(self.job) => Ok(()),
            // Half of a manifest may be ours: writing it finds out.
            Found::Other(..) => Ok(()),
            Found::Manifest(..) => Err(exists(self.url)),
        }
    }

    /// The job that has claimed the output.
    async fn claimant(&self) -> Result<Option<String>> {
        let found = self.read(&self.at(CLAIM)).await?;
        let claim = found.map(|(text, _)| serde_json::from_slice(&text));
        // Half of a claim is nobody's.
        let nobody = Claim { job: String::new() };
        Ok(claim.map(|claim| claim.unwrap_or(nobody).job))
    }

    /// Whether `job` has nothing in its staging directory any more.
    async fn has_ended(&self, job: &str) -> Result<bool> {
        let staging = self.at(&format!("{STAGING}{job}"));
        let first = self.store.list(Some(&staging)).try_next().await;
        let first = first.map_err(|error| self.failed("list", error))?;
        Ok(first.is_none())
    }

    /// Completes the uploads, each of which makes a file visible, and looks at what has come of it.
    async fn complete(&self, files: &[OutputFile]) -> Result<()> {
        // Collected first: a spawned future must not borrow through a closure of a stream.
        let all: Vec<_> = files.iter().map(|file| self.complete_one(file)).collect();
        stream::iter(all)
            .buffer_unordered(limits::PREFETCH_REQUESTS)
            .try_collect()
            .await
    }

    async fn complete_one(&self, file: &OutputFile) -> Result<()> {
        let Some(PendingUpload { id, parts }) = file.pending.clone() else {
            return Err(Error::internal(format!(
                "an output file is no upload name={} url={}",
                file.name, self.url
            )));
        };
        let (path, url) = (self.at(&file.name), format!("{}/{}", self.url, file.name));
        let part = |content_id| PartId { content_id };
        let parts = parts.into_iter().map(part).collect();
        let completed = self.uploads.complete_multipart(&path, &id, parts).await;
        // Whatever the answer was: what is there counts.
        match self.store.head(&path).await {
            Ok(found) => check_size(&file.name, file.bytes, found.size, self.url),
            Err(object_store::Error::NotFound { .. }) => match completed {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                    Err(missing(&file.name, self.url))
                }
                Err(error) => Err(storage_error("write", &url, error)),
            },
            Err(error) => Err(storage_error("read", &url, error)),
        }
    }

    /// Writes the manifest, unless another job's is in the way.
    async fn describe(&self, manifest: &Manifest) -> Result<()> {
        let mut failure = None;
        let mut is_written = false;
        let mut json = manifest.to_json();
        for _ in 0..TRIES_MAX {
            let mode = match self.manifest().await? {
                // The store has kept a part of what it was sent.
                Found::Other(text, version) if json.as_bytes().starts_with(&text) => {
                    PutMode::Update(version)
                }
                Found::Manifest(found, _) if found.knows(self.job) => return Ok(()),
                // Somebody has replaced what was written a moment ago.
                _ if is_written => return Ok(()),
                Found::Nothing => PutMode::Create,
                Found::Manifest(found, version) => {
                    json = self.merged(found, manifest).await?.to_json();
                    PutMode::Update(version)
                }
                Found::Other(..) => return Err(exists(self.url)),
            };
            if failure.as_ref().is_some_and(|error| !has_lost(error)) {
                break;
            }
            let (path, text) = (self.at(MANIFEST), json.clone());
            let put = self.store.put_opts(&path, text.into(), mode.into());
            failure = put.await.err();
            is_written = failure.is_none();
        }
        Err(self.contended("cannot write the manifest", failure))
    }

    /// The manifest of what is there and what the job adds or puts in its place.
    async fn merged(&self, found: Manifest, ours: &Manifest) -> Result<Manifest> {
        match self.mode {
            OutputMode::ErrorIfExists => Err(exists(self.url)),
            OutputMode::Append => {
                check_format(&found, &ours.format, self.url)?;
                Ok(found.with(ours))
            }
            OutputMode::Overwrite => {
                // Whoever clears up has to know which files are not part of the output any more.
                self.note_replaced(&found).await?;
                Ok(ours.instead_of(&found))
            }
        }
    }

    /// Whether something is there that is not on its way there.
    async fn is_taken(&self) -> Result<bool> {
        let ours = part_prefix(self.job);
        let passes = |name: &str| is_bookkeeping(name) || file_name(name).starts_with(&ours);
        Ok(self.first(|name| !passes(name)).await?.is_some())
    }

    /// Refuses to go on if what is there is none of Kiln's.
    async fn look(&self, format: &str) -> Result<()> {
        let manifest = match self.manifest().await? {
            Found::Nothing => None,
            Found::Manifest(manifest, _) => Some(manifest),
            Found::Other(..) => {
                let reason = format!("Kiln did not write its {MANIFEST}");
                return Err(refused(self.url, &reason));
            }
        };
        if self.mode == OutputMode::Append
            && let Some(manifest) = &manifest
        {
            check_format(manifest, format, self.url)?;
        }
        let named = |name: &str| manifest.as_ref().is_some_and(|found| found.names(name));
        let passes = |name: &str| {
            // Files of jobs that are at work or have died are Kiln's as well.
            let known = [MANIFEST, SUCCESS].contains(&name) || is_part_name(file_name(name));
            is_bookkeeping(name) || known || named(name)
        };
        match self.first(|name| !passes(name)).await? {
            None => Ok(()),
            Some(name) if name.is_empty() => Err(refused(self.url, "it is not a directory")),
            Some(name) => {
                let reason = format!("a file in it is not Kiln's name={name}");
                Err(refused(self.url, &reason))
            }
        }
    }

    /// The first object of the output whose name is `wanted`; the empty name is that of one in
    /// the place of the directory.
    async fn first(&self, wanted: impl Fn(&str) -> bool) -> Result<Option<String>> {
        match self.store.head(&self.target).await {
            Ok(_) => return Ok(Some(String::new()).filter(|name| wanted(name))),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed("read", error)),
        }
        let mut objects = self.store.list(Some(&self.target));
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| self.failed("list", error))?;
            let name = relative(&object.location, &self.target);
            if wanted(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn read(&self, path: &Path) -> Result<Option<(Vec<u8>, UpdateVersion)>> {
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let text = found.bytes().await;
        let text = text.map_err(|error| self.failed("read", error))?;
        Ok(Some((text.to_vec(), version)))
    }

    async fn put(&self, path: &Path, text: String) -> Result<()> {
        let put = self.store.put(path, text.into()).await;
        put.map(drop).map_err(|error| self.failed("write", error))
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

    fn staged(&self, name: &str) -> Path {
        below(&self.staging, name)
    }

    /// A conditional write has not come through, which is worth another try later.
    fn contended(&self, what: &str, failure: Option<object_store::Error>) -> Error {
        let error = match failure {
            Some(error) if !has_lost(&error) => self.failed("write", error),
            _ => Error::unavailable("others were faster each time"),
        };
        match error.kind() {
            ErrorKind::Unavailable => {
                Error::unavailable(format!("{what} url={}", self.url)).with_source(error)
            }
            _ => error,
        }
    }

    fn failed(&self, what: &str, error: object_store::Error) -> Error {
        storage_error(what, self.url, error)
    }
}

/// Whether a conditional write says that its condition did not hold. It may have been made all
/// the same, and have met itself when it was sent again.
fn has_lost(error: &object_store::Error) -> bool {
    use object_store::Error::{AlreadyExists, NotModified, Precondition};
    matches!(
        error,
        AlreadyExists { .. } | Precondition { .. } | NotModified { .. }
    )
}

/// Whether an object of an output is of no interest to readers and goes away by itself.
fn is_bookkeeping(name: &str) -> bool {
    name == CLAIM || name.starts_with(STAGING)
}

fn file_name(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, name)| name)
}

/// The object called `name`, which may be in a directory, below `place`.
fn below(place: &Path, name: &str) -> Path {
    name.split('/')
        .fold(place.clone(), |path, part| path.join(part))
}

/// The name of an object below `place`.
fn relative(path: &Path, place: &Path) -> String {
    let parts = path.prefix_match(place).into_iter().flatten();
    let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
    parts.join("/")
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod stepped;
#[cfg(test)]
mod tests;
