//! The manifest: what a committed output holds, for whoever wants to know exactly.
//!
//! It names every file with its rows, bytes and checksum, every job that wrote some, and the last
//! ones whose files were replaced. A job that is named has been committed, which is how a commit
//! that is run again finds that there is nothing left to do.

use kiln_engine::id::JobId;
use kiln_engine::plan::{Output, OutputFile};
use serde::{Deserialize, Serialize};

/// Its name in the output.
pub const MANIFEST: &str = "_manifest.json";

/// The name of an empty file that appears after everything else.
pub const SUCCESS: &str = "_SUCCESS";

/// Raised when the meaning of a field changes.
const VERSION: u32 = 1;

/// Jobs that are remembered though nothing is left of them: a driver that was held up asks after
/// one that was committed a moment ago, not after one of long ago.
const REPLACED_MAX: usize = 64;

/// What a committed output holds; the form of `_manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form, 1.
    pub version: u32,
    /// The job that made the output.
    pub job: String,
    /// The jobs that have added files since, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub appended: Vec<String>,
    /// The last jobs whose files were replaced, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// What the files hold: `parquet`, `csv`, `json` or `txt`.
    pub format: String,
    /// The rows of all files.
    pub rows: u64,
    /// The bytes of all files.
    pub bytes: u64,
    /// The files.
    pub files: Vec<ManifestFile>,
}

/// One file of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its name, with its directory if it is in one.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// XXH3-64 of its bytes in sixteen hexadecimal digits: numbers of 64 bits do not survive
    /// every JSON reader.
    pub xxh3: String,
}

impl Manifest {
    /// The manifest of an output that holds what `job` wrote and nothing else.
    pub(super) fn new(job: JobId, output: &Output, files: &[OutputFile]) -> Self {
        let file = |file: &OutputFile| ManifestFile {
            name: file.name.clone(),
            rows: file.rows,
            bytes: file.bytes,
            xxh3: format!("{:016x}", file.checksum),
        };
        Manifest {
            version: VERSION,
            job: job.to_string(),
            appended: Vec::new(),
            replaced: Vec::new(),
            format: output.format.extension().to_owned(),
            rows: files.iter().map(|file| file.rows).sum(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files: files.iter().map(file).collect(),
        }
    }

    /// The same output with what `more` names added to it.
    pub(super) fn with(&self, more: &Manifest) -> Self {
        let mut sum = self.clone();
        sum.appended.push(more.job.clone());
        sum.rows += more.rows;
        sum.bytes += more.bytes;
        sum.files.extend_from_slice(&more.files);
        sum
    }

    /// The same output in the place of `old`.
    pub(super) fn instead_of(&self, old: &Manifest) -> Self {
        let mut new = self.clone();
        new.replaced.clone_from(&old.replaced);
        new.replaced.push(old.job.clone());
        new.replaced.extend_from_slice(&old.appended);
        let too_many = new.replaced.len().saturating_sub(REPLACED_MAX);
        new.replaced.drain(..too_many);
        new
    }

    /// Whether files of `job` are in the output.
    pub fn has(&self, job: JobId) -> bool {
        let job = job.to_string();
        self.job == job || self.appended.contains(&job)
    }

    /// Whether `job` has been committed, though its files may have been replaced since.
    pub(super) fn knows(&self, job: JobId) -> bool {
        self.has(job) || self.replaced.contains(&job.to_string())
    }

    /// Whether there is a file called `name`.
    pub(super) fn names(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data becomes JSON");
        text.push('\n');
        text
    }

    /// The manifest in `text`; none if it is something else.
    pub(super) fn from_json(text: &[u8]) -> Option<Manifest> {
        let found: Manifest = serde_json::from_slice(text).ok()?;
        (found.version == VERSION).then_some(found)
    }
}
