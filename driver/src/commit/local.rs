//! Commit on a file system: a directory is made ready inside the staging directory, and one
//! rename makes it the output.
//!
//! Where an output is replaced or added to, the directory to be holds all of what is to be there
//! afterwards, links to the files that stay included, and swaps places with the one that is
//! there. So whoever looks at the directory sees all of a commit or nothing of it.
//!
//! Two drivers may run the commit of one job at once. Each makes a directory of its own, of
//! links, so neither meets what the other is doing; whatever is published comes from the staging
//! directory, and the first act of clearing up is to rename that. A driver that was held up
//! finds its paths gone and can do no harm. Other jobs are kept out by a claim ([`Claim`])
//! wherever there is an output to be replaced.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::id::JobId;
use kiln_engine::plan::OutputMode;
use kiln_engine::{Error, Result};

use super::claim::Claim;
use super::disk::{FileSystem, failed, is_absent, is_taken};
use super::manifest::{MANIFEST, Manifest, SUCCESS};
use super::{Move, check_format, check_size, exists, missing, refused};

/// Directories in the staging directory that are to become the output begin so.
const READY: &str = "_ready-";

/// An output of a job on a file system.
pub(super) struct Place<'a> {
    pub(super) files: &'a dyn FileSystem,
    pub(super) url: &'a str,
    pub(super) target: &'a Path,
    pub(super) staging: &'a Path,
    pub(super) job: JobId,
    pub(super) mode: OutputMode,
}

/// What is where the output goes.
enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// An output of Kiln's.
    Output(Manifest),
}

impl Place<'_> {
    /// Refuses what a commit would refuse, and makes the staging directory.
    pub(super) fn prepare(&self, format: &str) -> Result<()> {
        if let Found::Output(manifest) = self.find()? {
            self.check(&manifest, format)?;
        }
        std::fs::create_dir_all(self.staging).map_err(self.failed("create output directory"))
    }

    /// Puts the files of `moves`, which `manifest` names, in place.
    pub(super) fn commit(&self, moves: &[Move], manifest: &Manifest) -> Result<()> {
        if let Err(error) = self.put_in_place(moves, manifest) {
            // Another driver may have finished, and taken away what this one was working with.
            match self.is_finished() {
                Ok(true) => {}
                _ => return Err(error),
            }
        }
        // Only what is sure to last is committed.
        self.files
            .sync(self.parent())
            .map_err(self.failed("write"))?;
        // The output is there; what cannot be removed is only garbage.
        if let Err(error) = self.clear() {
            tracing::warn!(error = error.report(), "staging directory left behind");
        }
        Ok(())
    }

    /// Removes what the job has staged. A finished commit stays, and so does what was there
    /// before the job.
    pub(super) fn discard(&self) -> Result<()> {
        self.restore()?;
        self.clear()
    }

    /// The files that the job has staged or moved aside, and their bytes; none where there is not
    /// even a directory.
    pub(super) fn left_behind(&self) -> Result<Option<(u64, u64)>> {
        let mut found = None;
        let mut left = vec![
            self.staging.to_owned(),
            self.gone(),
            self.aside(),
            self.claim().directory(),
        ];
        let claim = left.last().cloned();
        while let Some(directory) = left.pop() {
            let entries = match self.files.entries(&directory) {
                Err(error) if is_absent(&error) => continue,
                entries => entries.map_err(self.failed("read"))?,
            };
            let is_claim = claim.as_ref() == Some(&directory);
            let is_ours = |path: &Path| !is_claim || path.ends_with(self.job.to_string());
            if !is_claim {
                found.get_or_insert((0, 0));
            }
            for (path, is_directory) in entries {
                if is_directory {
                    left.push(path);
                } else if is_ours(&path) {
                    let (files, bytes) = found.get_or_insert((0, 0));
                    *files += 1;
                    // It may have gone meanwhile.
                    *bytes += self.files.size(&path).unwrap_or_default();
                }
            }
        }
        Ok(found)
    }

    fn put_in_place(&self, moves: &[Move], manifest: &Manifest) -> Result<()> {
        if self.mode != OutputMode::ErrorIfExists {
            self.claim().take()?;
            self.restore()?;
        }
        if self.is_finished()? {
            return Ok(());
        }
        let found = self.find()?;
        if matches!(&found, Found::Output(base) if base.knows(self.job)) {
            // Another driver has been faster.
            return Ok(());
        }
        let ready = self
            .staging
            .join(format!("{READY}{:016x}", fastrand::u64(..)));
        self.create(&ready)?;
        match &found {
            Found::Output(base) if self.mode == OutputMode::Append => {
                self.check(base, &manifest.format)?;
                self.keep(base, &ready)?;
                self.add(moves, &base.with(manifest), &ready)?;
            }
            Found::Output(base) => self.add(moves, &manifest.instead_of(base), &ready)?,
            Found::Nothing => self.add(moves, manifest, &ready)?,
        }
        match found {
            Found::Nothing => self.publish(&ready),
            Found::Output(_) => self.replace(&ready),
        }
    }

    /// Whether the output is there and has the job's files, or has had them.
    fn is_finished(&self) -> Result<bool> {
        let found = self.manifest()?;
        Ok(found.is_some_and(|manifest| manifest.knows(self.job)))
    }

    fn manifest(&self) -> Result<Option<Manifest>> {
        match self.files.read(&self.target.join(MANIFEST)) {
            Ok(text) => Ok(Manifest::from_json(&text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("read")(error)),
        }
    }

    /// What is where the output goes, if the mode allows the job to go on with it.
    fn find(&self) -> Result<Found> {
        // Another job may have replaced the output while it was looked at.
        self.look().or_else(|_| self.look())
    }

    fn look(&self) -> Result<Found> {
        let failed = || self.failed("create output directory");
        match self.files.is_directory(self.target).map_err(failed())? {
            None => return self.check_aside().map(|()| Found::Nothing),
            Some(true) => {}
            Some(false) if self.mode == OutputMode::ErrorIfExists => return Err(exists(self.url)),
            Some(false) => return Err(refused(self.url, "it is not a directory")),
        }
        let entries = self.files.entries(self.target);
        let entries = entries.map_err(self.failed("read"))?;
        if entries.is_empty() {
            return Ok(Found::Nothing);
        }
        if self.mode == OutputMode::ErrorIfExists {
            return Err(exists(self.url));
        }
        let Some(manifest) = self.manifest()? else {
            let reason = format!("Kiln did not write it: there is no {MANIFEST}");
            return Err(refused(self.url, &reason));
        };
        match self.stranger(&manifest, entries)? {
            None => Ok(Found::Output(manifest)),
            Some(name) => Err(refused(
                self.url,
                &format!("a file in it is not Kiln's name={name}"),
            )),
        }
    }

    /// Where there is no output there may be one that is being replaced.
    fn check_aside(&self) -> Result<()> {
        let found = self.files.is_directory(&self.aside());
        match found.map_err(self.failed("read"))? {
            None => Ok(()),
            Some(_) => Err(self.being_replaced()),
        }
    }

    /// A file of the output that Kiln has not put there.
    fn stranger(
        &self,
        manifest: &Manifest,
        entries: Vec<(PathBuf, bool)>,
    ) -> Result<Option<String>> {
        let known = [MANIFEST, SUCCESS].into_iter();
        let known: BTreeSet<&Path> = known
            .chain(manifest.files.iter().map(|file| file.name.as_str()))
            .map(Path::new)
            .collect();
        let mut left = entries;
        while let Some((path, is_directory)) = left.pop() {
            let name = path.strip_prefix(self.target).unwrap_or(&path);
            if is_directory {
                let below = self.files.entries(&path).map_err(self.failed("read"))?;
                left.extend(below);
            } else if !known.contains(name) {
                return Ok(Some(name.display().to_string()));
            }
        }
        Ok(None)
    }

    fn check(&self, found: &Manifest, format: &str) -> Result<()> {
        match self.mode {
            OutputMode::Append => check_format(found, format, self.url),
            _ => Ok(()),
        }
    }

    /// Gives the files that stay their names in the directory to be.
    fn keep(&self, base: &Manifest, ready: &Path) -> Result<()> {
        for file in &base.files {
            let to = ready.join(&file.name);
            self.create_above(&to, ready)?;
            let linked = self.files.link(&self.target.join(&file.name), &to);
            match linked {
                Err(error) if is_absent(&error) => {
                    // Another driver may have moved the output aside.
                    self.check_aside()?;
                    let reason = format!("a file of it is missing name={}", file.name);
                    return Err(refused(self.url, &reason));
                }
                linked => linked.map_err(self.failed("write"))?,
            }
        }
        Ok(())
    }

    /// Gives the files that won their names in the directory to be, and adds manifest and
    /// `_SUCCESS`, all of it durably.
    fn add(&self, moves: &[Move], manifest: &Manifest, ready: &Path) -> Result<()> {
        for file in moves {
            let (from, to) = (self.staging.join(&file.from), ready.join(&file.to));
            self.create_above(&to, ready)?;
            self.files
                .link(&from, &to)
                .map_err(|error| match is_absent(&error) {
                    true => missing(&file.from, self.url),
                    false => self.failed("write")(error),
                })?;
            let bytes = self.files.size(&to).map_err(self.failed("read"))?;
            check_size(&file.from, file.bytes, bytes, self.url)?;
            self.files.sync(&to).map_err(self.failed("write"))?;
        }
        let described = || -> io::Result<()> {
            self.files
                .write(&ready.join(MANIFEST), &manifest.to_json())?;
            self.files.write(&ready.join(SUCCESS), "")?;
            let directories = manifest.files.iter().map(|file| ready.join(&file.name));
            let directories: BTreeSet<PathBuf> = directories
                .filter_map(|file| file.parent().map(Path::to_owned))
                .chain([ready.to_owned()])
                .collect();
            directories
                .iter()
                .try_for_each(|directory| self.files.sync(directory))
        };
        described().map_err(self.failed("write"))
    }

    /// Makes the directory that `file` is to be in, if that is not `ready` itself.
    fn create_above(&self, file: &Path, ready: &Path) -> Result<()> {
        let Some(directory) = file.parent().filter(|parent| *parent != ready) else {
            return Ok(());
        };
        match self.files.create_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(self.failed("create output directory")),
        }
    }

    fn create(&self, directory: &Path) -> Result<()> {
        let made = self.files.create_directory(directory);
        made.map_err(self.failed("create output directory"))
    }

    /// Makes the directory the output where there is none.
    fn publish(&self, ready: &Path) -> Result<()> {
        let published = self.files.rename(ready, self.target);
        published.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::NotADirectory => match self.mode {
                OutputMode::ErrorIfExists => exists(self.url),
                // There is an output now: the next try finds it.
                _ => Error::unavailable(format!("an output has appeared url={}", self.url)),
            },
            _ => self.failed("write")(error),
        })
    }

    /// Makes the directory the output in the place of the one that is there.
    fn replace(&self, ready: &Path) -> Result<()> {
        match self.files.exchange(ready, self.target) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            exchanged => return exchanged.map_err(self.failed("write")),
        }
        if self.is_finished()? {
            return Ok(());
        }
        match self.files.rename(self.target, &self.aside()) {
            // Another driver is between its two renames, or has not cleared up yet.
            Err(error) if is_absent(&error) || is_taken(&error) => {
                return Err(self.being_replaced());
            }
            moved => moved.map_err(self.failed("write"))?,
        }
        self.publish(ready).or_else(|error| {
            self.restore()?;
            Err(error)
        })
    }

    fn being_replaced(&self) -> Error {
        Error::unavailable(format!("the output is being replaced url={}", self.url))
    }

    /// Puts an output back that was moved aside by a driver that died before it could publish
    /// another.
    fn restore(&self) -> Result<()> {
        let aside = self.aside();
        let failed = || self.failed("write");
        if self.files.is_directory(self.target).map_err(failed())? == Some(true)
            || self.files.is_directory(&aside).map_err(failed())?.is_none()
        {
            return Ok(());
        }
        match self.files.rename(&aside, self.target) {
            // Another driver was faster, with this or with publishing.
            Err(error) if is_absent(&error) || is_taken(&error) => Ok(()),
            restored => restored.map_err(failed()),
        }
    }

    /// Removes the staging directory and gives up the claim. Nothing there is no error.
    fn clear(&self) -> Result<()> {
        let failed = || self.failed("remove staging directory");
        let gone = self.gone();
        // From here on nothing can be published any more.
        let mut renamed = self.files.rename(self.staging, &gone);
        if renamed.as_ref().is_err_and(is_taken) {
            self.remove(&gone)?;
            renamed = self.files.rename(self.staging, &gone);
        }
        match renamed {
            Err(error) if !is_absent(&error) => return Err(failed()(error)),
            _ => {}
        }
        self.remove(&gone)?;
        let is_there = self.files.is_directory(self.target).map_err(failed())?;
        if is_there == Some(true) {
            self.remove(&self.aside())?;
        }
        self.claim().give_up()
    }

    /// Where an output waits that was moved out of the way, on a file system that cannot swap
    /// directories.
    fn aside(&self) -> PathBuf {
        beside(self.staging, "-old")
    }

    /// Where the staging directory goes before it is removed.
    fn gone(&self) -> PathBuf {
        beside(self.staging, "-gone")
    }

    fn remove(&self, directory: &Path) -> Result<()> {
        match self.files.remove_tree(directory) {
            Err(error) if !is_absent(&error) => Err(self.failed("remove staging directory")(error)),
            _ => Ok(()),
        }
    }

    fn claim(&self) -> Claim<'_> {
        Claim {
            files: self.files,
            url: self.url,
            target: self.target,
            staging: self.staging,
            job: self.job,
        }
    }

    fn parent(&self) -> &Path {
        self.target.parent().unwrap_or(self.target)
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        failed(what, self.url)
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
