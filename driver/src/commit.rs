//! Output appears all at once or not at all, whatever dies when.
//!
//! Attempts write files under names of their own into the job's staging directory. Committing
//! gives the files of the winning attempts their final names, adds a manifest and `_SUCCESS`, and
//! removes the rest. The winners are decided, and journaled, before a commit begins: it only
//! carries out a decision, so it may be run again after a crash at any point and comes to the
//! same end.
//!
//! A committed directory holds `part-00000.<format>` and so on, or directories that do,
//! `_manifest.json` with the rows, bytes and checksum of each, and `_SUCCESS`, which is the last
//! to appear.

use std::collections::BTreeMap;

use kiln_engine::id::JobId;
use kiln_engine::plan::{Output, OutputFile, is_directory_name};
use kiln_engine::storage::{Stores, local_path, staging_url};
use kiln_engine::{Error, Result};
use serde::{Deserialize, Serialize};

mod local;
mod remote;

/// What a committed output holds; the form of `_manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// Raised when the meaning of a field changes.
    version: u32,
    job: String,
    format: String,
    rows: u64,
    bytes: u64,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestFile {
    name: String,
    rows: u64,
    bytes: u64,
    /// Sixteen hexadecimal digits: numbers of 64 bits do not survive every JSON reader.
    xxh3: String,
}

const MANIFEST: &str = "_manifest.json";
const SUCCESS: &str = "_SUCCESS";
const MANIFEST_VERSION: u32 = 1;

/// A file on its way from the staging directory to the output.
struct Move {
    from: String,
    to: String,
    bytes: u64,
}

/// Sees to it that the output of `job` can be written: it is not there yet, and the staging
/// directory can be made.
///
/// # Errors
/// `Invalid` if the output exists (an empty directory does not count) or may not be written;
/// otherwise what storage answered.
pub async fn prepare(stores: &Stores, job: JobId, output: &Output) -> Result<()> {
    let staging = staging_url(&output.url, job)?;
    match (local_path(&output.url), local_path(&staging)) {
        (Some(target), Some(staging)) => {
            let url = output.url.clone();
            blocking(move || local::prepare(&url, &target, &staging)).await
        }
        _ => {
            remote::Place::new(stores, &output.url, &staging)?
                .prepare()
                .await
        }
    }
}

/// Puts `files`, those of the winning attempts, in place as the output of `job`, in their order;
/// answers with them under their final names. May be repeated with the same arguments.
///
/// # Errors
/// `Invalid` if somebody else's output has appeared meanwhile; `Corrupt` if a file is missing or
/// has another size than reported; otherwise what storage answered.
pub async fn commit(
    stores: &Stores,
    job: JobId,
    output: &Output,
    files: Vec<OutputFile>,
) -> Result<Vec<OutputFile>> {
    let (moves, committed) = names(output, files)?;
    let manifest = manifest(job, output, &committed);
    let staging = staging_url(&output.url, job)?;
    match (local_path(&output.url), local_path(&staging)) {
        (Some(target), Some(staging)) => {
            let url = output.url.clone();
            blocking(move || local::Commit::new(&url, &target, &staging).run(&moves, &manifest))
                .await?;
        }
        _ => {
            let place = remote::Place::new(stores, &output.url, &staging)?;
            place.commit(&moves, &manifest).await?;
        }
    }
    Ok(committed)
}

/// Removes what `job` left in its staging directory, and what an unfinished commit put in place.
/// A finished commit stays. Nothing there is no error.
///
/// # Errors
/// What storage answered.
pub async fn discard(stores: &Stores, job: JobId, output: &Output) -> Result<()> {
    let staging = staging_url(&output.url, job)?;
    match local_path(&staging) {
        Some(path) => blocking(move || local::remove(&staging, &path)).await,
        None => {
            remote::Place::new(stores, &output.url, &staging)?
                .discard(job)
                .await
        }
    }
}

/// The way of each file, and the files under their final names.
fn names(output: &Output, files: Vec<OutputFile>) -> Result<(Vec<Move>, Vec<OutputFile>)> {
    let extension = output.extension();
    let mut moves = Vec::with_capacity(files.len());
    let mut committed = Vec::with_capacity(files.len());
    let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for file in files {
        let (directory, name) = match file.name.split_once('/') {
            Some((directory, name)) => (Some(directory.to_owned()), name),
            None => (None, file.name.as_str()),
        };
        // The name comes from an executor, and must not lead out of the staging directory.
        let leads_out = directory
            .as_deref()
            .is_some_and(|name| !is_directory_name(name));
        if leads_out || name.is_empty() || name.starts_with(['.', '_']) || name.contains('/') {
            return Err(Error::internal(format!(
                "not a name of an output file name={}",
                file.name
            )));
        }
        let count = counts.entry(directory.clone()).or_default();
        let mut to = format!("part-{count:05}.{extension}");
        *count += 1;
        if let Some(directory) = directory {
            to = format!("{directory}/{to}");
        }
        moves.push(Move {
            from: file.name.clone(),
            to: to.clone(),
            bytes: file.bytes,
        });
        committed.push(OutputFile { name: to, ..file });
    }
    Ok((moves, committed))
}

fn manifest(job: JobId, output: &Output, files: &[OutputFile]) -> Manifest {
    let file = |file: &OutputFile| ManifestFile {
        name: file.name.clone(),
        rows: file.rows,
        bytes: file.bytes,
        xxh3: format!("{:016x}", file.checksum),
    };
    Manifest {
        version: MANIFEST_VERSION,
        job: job.to_string(),
        format: output.format.extension().to_owned(),
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: files.iter().map(file).collect(),
    }
}

impl Manifest {
    fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data becomes JSON");
        text.push('\n');
        text
    }

    /// The manifest in `text`; none if it is something else.
    fn from_json(text: &[u8]) -> Option<Manifest> {
        serde_json::from_slice(text).ok()
    }
}

fn exists(url: &str) -> Error {
    Error::invalid(format!("output already exists url={url}"))
}

fn missing(name: &str, url: &str) -> Error {
    Error::corrupt(format!(
        "an output file is gone before its commit name={name} url={url}"
    ))
}

fn check_size(file: &Move, found: u64, url: &str) -> Result<()> {
    if found == file.bytes {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "an output file has not the size that was reported name={} url={url} expected={} \
         found={found}",
        file.from, file.bytes
    )))
}

/// Runs file system calls where they may wait.
async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("a file system call was cut off").with_source(error))?
}
