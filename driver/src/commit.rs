//! Output appears all at once or not at all, whatever dies when.
//!
//! On a file system attempts write files into the job's staging directory, and committing gives
//! those of the winning attempts their names in a directory that becomes the output with one
//! rename. In a store without rename attempts upload files to where they are to be, and
//! committing completes the uploads of those that won: before, nobody sees them. The winners are
//! decided, and journaled, before a commit begins: it only carries out a decision, so it may be
//! run again after a crash at any point, or by two drivers at once, and comes to the same end.
//!
//! A committed directory holds files called `part-…`, or directories that do, `_manifest.json`
//! with the rows, bytes and checksum of each, and `_SUCCESS`, which is the last to appear.
//! `docs/output.md` says what readers can rely on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_engine::id::JobId;
use kiln_engine::plan::{
    FileFormat, Output, OutputFile, OutputMode, OutputOptions, is_directory_name, part_prefix,
};
use kiln_engine::storage::{Stores, local_path, staging_url};
use kiln_engine::{Error, Result};

mod manifest;

mod disk;

mod claim;

mod local;

mod remote;

pub use manifest::{MANIFEST, Manifest, ManifestFile, SUCCESS};

/// A file on its way from the staging directory to the output.
struct Move {
    from: String,
    to: String,
    bytes: u64,
}

/// Sees to it that the output of `job` can be written: what is there suits the mode, and the
/// staging directory can be made.
///
/// # Errors
/// `Invalid` if the output exists (an empty directory does not count) and is to stay, or is to be
/// replaced or added to and is none of Kiln's, or may not be written; otherwise what storage
/// answered.
pub async fn prepare(stores: &Stores, job: JobId, output: &Output) -> Result<()> {
    let staging = staging_url(&output.url, job)?;
    match Local::new(job, output, &staging) {
        Some(local) => {
            let format = output.format.extension();
            local.run(move |place| place.prepare(format)).await
        }
        None => {
            let place = remote(stores, job, output, &staging)?;
            place.prepare(output.format.extension()).await
        }
    }
}

/// Puts `files`, those of the winning attempts, in place as the output of `job`, in their order;
/// answers with them under their final names. May be repeated with the same arguments, and may
/// run twice at once.
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
    let staging = staging_url(&output.url, job)?;
    let Some(local) = Local::new(job, output, &staging) else {
        check_names(job, &files)?;
        let manifest = Manifest::new(job, output, &files);
        let place = remote(stores, job, output, &staging)?;
        place.commit(&files, &manifest).await?;
        return Ok(files);
    };
    let (moves, committed) = names(job, output, files)?;
    let manifest = Manifest::new(job, output, &committed);
    local
        .run(move |place| place.commit(&moves, &manifest))
        .await?;
    Ok(committed)
}

/// Removes what `job` left in its staging directory, and what an unfinished commit put in place.
/// A finished commit stays. Nothing there is no error.
///
/// # Errors
/// What storage answered.
pub async fn discard(stores: &Stores, job: JobId, output: &Output) -> Result<()> {
    let staging = staging_url(&output.url, job)?;
    match Local::new(job, output, &staging) {
        Some(local) => local.run(|place| place.discard()).await,
        None => remote(stores, job, output, &staging)?.discard().await,
    }
}

/// What there is of `job` that [`discard`] would look at: how many files, and their bytes; none
/// where there is nothing.
///
/// # Errors
/// What storage answered.
pub async fn left_behind(
    stores: &Stores,
    job: JobId,
    output: &Output,
) -> Result<Option<(u64, u64)>> {
    let staging = staging_url(&output.url, job)?;
    match Local::new(job, output, &staging) {
        Some(local) => local.run(|place| place.left_behind()).await,
        None => remote(stores, job, output, &staging)?.left_behind().await,
    }
}

/// Does for a staging directory that is found in storage what [`discard`] does for a job: the
/// caller knows that the job has ended, or that nobody knows of it any more.
///
/// # Errors
/// `Invalid` if `staging` is no staging directory; what storage answered.
pub async fn sweep_staging(stores: &Stores, staging: &str) -> Result<()> {
    let (url, job) = output_of(staging).ok_or_else(|| {
        Error::invalid(format!("not the staging directory of a job url={staging}"))
    })?;
    // What there is to be removed does not depend on what was written, or how.
    let output = Output {
        url,
        format: FileFormat::Parquet,
        options: OutputOptions::default(),
    };
    discard(stores, job, &output).await
}

/// The output and the job that a staging directory belongs to.
fn output_of(staging: &str) -> Option<(String, JobId)> {
    let (parent, name) = staging.trim_end_matches('/').rsplit_once('/')?;
    let (url, job) = match name.strip_prefix('.') {
        Some(hidden) => {
            let (name, job) = hidden.rsplit_once(".kiln-")?;
            (format!("{parent}/{name}"), job.split('-').next()?)
        }
        None => (parent.to_owned(), name.strip_prefix("_staging-")?),
    };
    let job = job.parse().ok()?;
    Some((url, job))
}

fn remote<'a>(
    stores: &Stores,
    job: JobId,
    output: &'a Output,
    staging: &str,
) -> Result<remote::Place<'a>> {
    remote::Place::new(stores, &output.url, staging, job, output.options.mode)
}

/// An output on a file system of this machine.
struct Local {
    url: String,
    target: PathBuf,
    staging: PathBuf,
    job: JobId,
    mode: OutputMode,
}

impl Local {
    /// None if the output is elsewhere.
    fn new(job: JobId, output: &Output, staging: &str) -> Option<Self> {
        Some(Local {
            url: output.url.clone(),
            target: local_path(&output.url)?,
            staging: local_path(staging)?,
            job,
            mode: output.options.mode,
        })
    }

    /// Runs file system calls where they may wait.
    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&local::Place<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = tokio::task::spawn_blocking(move || {
            work(&local::Place {
                files: &disk::Disk,
                url: &self.url,
                target: &self.target,
                staging: &self.staging,
                job: self.job,
                mode: self.mode,
            })
        });
        done.await
            .map_err(|error| Error::internal("a file system call was cut off").with_source(error))?
    }
}

/// The way of each file, and the files under their final names.
fn names(
    job: JobId,
    output: &Output,
    files: Vec<OutputFile>,
) -> Result<(Vec<Move>, Vec<OutputFile>)> {
    let extension = output.extension();
    let prefix = match output.options.mode {
        OutputMode::ErrorIfExists => "part-".to_owned(),
        // Where other files are or have been, a name must not mean one of them: whoever has read
        // the old names must not find new files under them.
        OutputMode::Overwrite | OutputMode::Append => part_prefix(job),
    };
    let mut moves = Vec::with_capacity(files.len());
    let mut committed = Vec::with_capacity(files.len());
    let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
    // Names are in the order of files, however many there are.
    let digits = files.len().to_string().len().max(5);
    for file in files {
        let (directory, name) = taken_apart(&file.name);
        let hidden = name.is_empty() || name.starts_with(['.', '_']) || name.contains('/');
        if hidden || !directory.is_none_or(is_directory_name) {
            return Err(not_a_name(&file.name));
        }
        let count = counts.entry(directory.map(str::to_owned)).or_default();
        let mut to = format!("{prefix}{count:0digits$}.{extension}");
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

/// Refuses names that files of `job` cannot have where they are uploaded.
fn check_names(job: JobId, files: &[OutputFile]) -> Result<()> {
    let prefix = part_prefix(job);
    let is_good = |file: &&OutputFile| {
        let (directory, name) = taken_apart(&file.name);
        name.starts_with(&prefix) && !name.contains('/') && directory.is_none_or(is_directory_name)
    };
    match files.iter().find(|file| !is_good(file)) {
        Some(file) => Err(not_a_name(&file.name)),
        None => Ok(()),
    }
}

/// The directory and the name in it.
fn taken_apart(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((directory, name)) => (Some(directory), name),
        None => (None, name),
    }
}

/// Names come from executors, and must not lead out of the job's own.
fn not_a_name(name: &str) -> Error {
    Error::internal(format!("not a name of an output file name={name}"))
}

fn exists(url: &str) -> Error {
    Error::invalid(format!("output already exists url={url}"))
}

/// What is there is neither replaced nor added to.
fn refused(url: &str, reason: &str) -> Error {
    Error::invalid(format!("cannot write over the output: {reason} url={url}"))
}

/// Files of one output are of one format.
fn check_format(found: &Manifest, format: &str, url: &str) -> Result<()> {
    if found.format == format {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the output has files of another format url={url} expected={} found={format}",
        found.format
    )))
}

fn missing(name: &str, url: &str) -> Error {
    Error::corrupt(format!(
        "an output file is gone before its commit name={name} url={url}"
    ))
}

fn check_size(name: &str, expected: u64, found: u64, url: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "an output file has not the size that was reported name={name} url={url} \
         expected={expected} found={found}"
    )))
}
