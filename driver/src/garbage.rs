//! What nobody needs any more and is in storage all the same: left by drivers and executors that
//! died, or by attempts that nobody waited for.
//!
//! Whoever looks need not lead, and may look while a driver leads: what is in storage is listed
//! first, and the journal is read afterwards. A job is in the journal before anything is stored
//! for it, so whatever was listed and is of a job that the journal does not know, or knows to have
//! ended, will not be needed. What is staged for an output is looked for only where the journal
//! says that a job with that output has ended.
//!
//! All of this stands on the journal. Where there is none, nothing is known, and nothing is
//! garbage: the storage may be that of a driver that keeps no journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use futures::{StreamExt as _, stream};
use kiln_engine::id::JobId;
use kiln_engine::plan::{Binary, Output, Sha256};
use kiln_engine::storage::{HalfWritten, ShuffleObject, ShuffleStore, Stores, local_path};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::JobState;

use crate::commit;
use crate::journal::JournalStore;
use crate::programs::{self, is_old};
use crate::restored::Restored;
use crate::scheduler::Scheduler;
use crate::settings::DriverSettings;

/// Things of one kind that nobody needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Garbage {
    /// What they are, and whose.
    pub what: What,
    /// How many objects or files.
    pub objects: u64,
    /// Their bytes, as far as storage tells: uploads that wait to be completed have none.
    pub bytes: u64,
}

/// What may be left behind.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Shuffle objects of a job.
    Shuffle(JobId, Vec<ShuffleObject>),
    /// Shuffle objects of a job whose writers have not finished them.
    HalfWritten(JobId, Vec<HalfWritten>),
    /// Files and uploads beside the output of a job that has ended.
    Staged(JobId, Box<Output>),
    /// A program that no job has called for a day, and since when it has been there.
    Program(Sha256, SystemTime),
    /// Programs that were not brought to their end, a day ago or longer.
    HalfBrought(Vec<HalfWritten>),
}

/// Finds what nobody needs at the storage `url` of a cluster, and changes nothing.
///
/// # Errors
/// `Invalid` if no driver has kept a journal there; `Corrupt` if it makes no sense; what the
/// storage answers.
pub async fn find(stores: &Stores, url: &str) -> Result<Vec<Garbage>> {
    let missing = |path: &PathBuf| !path.is_dir();
    if local_path(url).as_ref().is_some_and(missing) {
        return Err(Error::invalid(format!(
            "there is no such directory url={url}"
        )));
    }
    let shuffle = ShuffleStore::open(stores, url)?;
    let objects = shuffle.sized_objects().await?;
    let half_written = shuffle.half_written().await?;
    let programs = shuffle.programs().all().await?;
    // Last: see above.
    let journal = JournalStore::open(stores, url)?.load().await?;
    if journal.end() == 0 {
        return Err(Error::invalid(format!(
            "no driver has kept a journal there, so nobody knows what is needed url={url}"
        )));
    }
    let restored = Restored::replay(DriverSettings::default(), &journal)?;
    let scheduler = &restored.scheduler;
    let mut garbage = shuffle_objects(objects, scheduler);
    garbage.extend(unfinished(half_written, scheduler));
    garbage.extend(staged(stores, scheduler).await);
    garbage.extend(uncalled(programs, scheduler));
    Ok(garbage)
}

/// Those shuffle objects that no job needs, by job.
fn shuffle_objects(objects: Vec<(ShuffleObject, u64)>, scheduler: &Scheduler) -> Vec<Garbage> {
    let mut jobs: BTreeMap<JobId, (Vec<ShuffleObject>, u64)> = BTreeMap::new();
    for (object, bytes) in objects {
        if !scheduler.needs(&object) {
            let (of_job, sum) = jobs.entry(object.job).or_default();
            of_job.push(object);
            *sum += bytes;
        }
    }
    let jobs = jobs.into_iter();
    jobs.map(|(job, (objects, bytes))| Garbage {
        objects: objects.len() as u64,
        bytes,
        what: What::Shuffle(job, objects),
    })
    .collect()
}

/// Those half-written files that nobody goes on with, by job, then those of programs.
fn unfinished(files: Vec<HalfWritten>, scheduler: &Scheduler) -> Vec<Garbage> {
    let mut owners: BTreeMap<Option<JobId>, Vec<HalfWritten>> = BTreeMap::new();
    for file in files {
        let is_over = match file.job {
            Some(job) => has_ended(job, scheduler),
            None => is_old(file.since, programs::KEPT),
        };
        if is_over {
            owners.entry(file.job).or_default().push(file);
        }
    }
    let owners = owners.into_iter();
    owners
        .map(|(job, files)| Garbage {
            objects: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
            what: match job {
                Some(job) => What::HalfWritten(job, files),
                None => What::HalfBrought(files),
            },
        })
        .collect()
}

/// Whether a job is over, or unknown where every job is known that is not.
fn has_ended(job: JobId, scheduler: &Scheduler) -> bool {
    scheduler.state(job).is_none_or(JobState::is_final)
}

/// What is staged for outputs of jobs that have ended. Not only of those of which the journal says
/// so: an attempt that was cut off may have gone on after everything was removed.
async fn staged(stores: &Stores, scheduler: &Scheduler) -> Vec<Garbage> {
    let jobs = scheduler.jobs().into_iter();
    let ended = jobs.filter(|&job| has_ended(job, scheduler));
    let outputs: Vec<(JobId, Output)> = ended
        .filter_map(|job| Some((job, scheduler.output(job)?.clone())))
        .collect();
    let looks = outputs.into_iter().map(|(job, output)| async move {
        let found = commit::left_behind(stores, job, &output).await;
        (job, output, found)
    });
    let looks = stream::iter(looks).buffered(limits::PREFETCH_REQUESTS);
    let found = looks.filter_map(|(job, output, found)| async move {
        let (objects, bytes) = found
            .inspect_err(|error| {
                // Outputs may be where not everybody can look; the rest can be told all the same.
                let reason = error.report();
                tracing::warn!(%job, reason, "it is not known what is left beside an output");
            })
            .ok()??;
        let what = What::Staged(job, Box::new(output));
        Some(Garbage {
            what,
            objects,
            bytes,
        })
    });
    found.collect().await
}

/// Programs that have been there for long and that no job calls.
fn uncalled(programs: Vec<(Sha256, u64, SystemTime)>, scheduler: &Scheduler) -> Vec<Garbage> {
    let called: BTreeSet<Sha256> = scheduler
        .programs()
        .filter_map(|program| match program.binary {
            Binary::Staged { sha256, .. } => Some(sha256),
            Binary::Kiln => None,
        })
        .collect();
    let mut programs = programs;
    programs.sort_unstable();
    let programs = programs.into_iter();
    programs
        .filter(|(sha256, _, since)| !called.contains(sha256) && is_old(*since, programs::KEPT))
        .map(|(sha256, bytes, since)| Garbage {
            what: What::Program(sha256, since),
            objects: 1,
            bytes,
        })
        .collect()
}

/// Removes what was found. What is gone already is no error.
///
/// # Errors
/// The first that the storage answers; the rest is removed all the same, as far as that goes.
pub async fn remove(stores: &Stores, url: &str, garbage: &[Garbage]) -> Result<()> {
    let shuffle = ShuffleStore::open(stores, url)?;
    let mut first = Ok(());
    for one in garbage {
        let removed = remove_one(stores, &shuffle, &one.what).await;
        first = first.and(removed);
    }
    first
}

async fn remove_one(stores: &Stores, shuffle: &ShuffleStore, what: &What) -> Result<()> {
    match what {
        What::Shuffle(job, objects) => {
            let names = objects.iter();
            let names = names.map(|object| (object.stage, object.task, object.attempt));
            shuffle.delete_job(*job, &names.collect::<Vec<_>>()).await
        }
        What::HalfWritten(_, files) | What::HalfBrought(files) => {
            files.iter().try_for_each(HalfWritten::remove)
        }
        What::Staged(job, output) => commit::discard(stores, *job, output).await,
        What::Program(sha256, since) => {
            let programs = shuffle.programs();
            // Somebody may have brought it again, for a job that is about to begin.
            match programs.find(*sha256).await? {
                Some((_, now)) if now == *since => programs.remove(*sha256).await,
                _ => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
