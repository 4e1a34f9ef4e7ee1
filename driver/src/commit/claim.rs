//! Who may replace an output of a file system: one job at a time.
//!
//! The claim is a hidden directory beside the output that holds a file named by the job. It is
//! made in the staging directory and renamed into place, which works for one job only, since a
//! rename replaces no directory that has something in it. It is given up by removing the file of
//! that name, so nobody can give up somebody else's.
//!
//! It belongs to a job, not to a process: whichever driver runs the job's commit has it. And since
//! it comes out of the staging directory, a driver that was held up until the job was over, and
//! its staging directory gone, cannot take it any more.

use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};

use super::disk::{FileSystem, failed, is_absent, is_taken};

/// The claim of a job to an output.
pub(super) struct Claim<'a> {
    pub(super) files: &'a dyn FileSystem,
    pub(super) url: &'a str,
    pub(super) target: &'a Path,
    pub(super) staging: &'a Path,
    pub(super) job: JobId,
}

impl Claim<'_> {
    /// Makes the output the job's, or finds that it is already.
    ///
    /// # Errors
    /// `Unavailable` while it is another job's; what the file system answered.
    pub(super) fn take(&self) -> Result<()> {
        if self.is_ours()? {
            return Ok(());
        }
        let made = self.make();
        let made = made.map_err(failed("create output directory", self.url))?;
        match self.files.rename(&made, &self.directory()) {
            Ok(()) => Ok(()),
            Err(error) if !is_taken(&error) => Err(failed("write", self.url)(error)),
            // Another driver of this job may have been faster.
            Err(_) if self.is_ours()? => Ok(()),
            Err(_) => Err(Error::unavailable(format!(
                "another job is putting its output in place url={} claim={}",
                self.url,
                self.directory().display()
            ))),
        }
    }

    /// Lets other jobs have the output. Nothing to give up is no error.
    pub(super) fn give_up(&self) -> Result<()> {
        let directory = self.directory();
        let removed = [
            self.files.remove_file(&directory.join(self.name())),
            self.files.remove_directory(&directory),
        ];
        for outcome in removed {
            match outcome {
                // Another job may have taken it since.
                Err(error) if !is_absent(&error) && !is_taken(&error) => {
                    return Err(failed("remove staging directory", self.url)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_ours(&self) -> Result<bool> {
        match self.files.size(&self.directory().join(self.name())) {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(failed("read", self.url)(error)),
        }
    }

    /// A claim that is still in the staging directory.
    fn make(&self) -> io::Result<PathBuf> {
        let directory = self
            .staging
            .join(format!("_claim-{:016x}", fastrand::u64(..)));
        self.files.create_directory(&directory)?;
        self.files.write(&directory.join(self.name()), "")?;
        Ok(directory)
    }

    /// Where claims to the output are.
    pub(super) fn directory(&self) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".kiln-commit");
        self.target.with_file_name(hidden)
    }

    fn name(&self) -> String {
        self.job.to_string()
    }
}
