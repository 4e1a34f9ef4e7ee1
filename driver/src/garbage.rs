//! What drivers that died have left in storage, and nobody needs any more.
//!
//! Whoever looks need not lead, and may look while a driver leads: what is in storage is listed
//! first, and the journal is read afterwards. A job is in the journal before anything is stored
//! for it, so whatever was listed and is of a job that the journal does not know, or knows to have
//! ended, will not be needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use kiln_engine::Result;
use kiln_engine::id::JobId;
use kiln_engine::plan::{Binary, Output, Sha256};
use kiln_engine::storage::{ShuffleObject, ShuffleStore, Stores};

use crate::commit;
use crate::journal::JournalStore;
use crate::restored::Restored;
use crate::settings::DriverSettings;

/// How long a program stays that no job calls: whoever submits one brings its program first, and
/// programs that are there need not be brought again.
const PROGRAM_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What nobody needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Shuffle objects, by job.
    pub objects: BTreeMap<JobId, Vec<ShuffleObject>>,
    /// Outputs of jobs that have ended, beside which staged files or pending uploads may be.
    pub outputs: Vec<(JobId, Output)>,
    /// Programs that no job has called for a day, with their sizes in bytes.
    pub programs: Vec<(Sha256, u64)>,
}

impl Garbage {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.outputs.is_empty() && self.programs.is_empty()
    }
}

/// Finds what nobody needs at the storage `url` of a cluster.
///
/// # Errors
/// `Corrupt` if the journal makes no sense; what the storage answers.
pub async fn find(stores: &Stores, url: &str) -> Result<Garbage> {
    let shuffle = ShuffleStore::open(stores, url)?;
    let objects = shuffle.objects().await?;
    let programs = shuffle.programs().all().await?;
    let journal = JournalStore::open(stores, url)?.load().await?;
    let restored = Restored::replay(DriverSettings::default(), &journal)?;
    let scheduler = &restored.scheduler;
    let mut garbage = Garbage {
        outputs: restored.untidy,
        ..Garbage::default()
    };
    for object in objects
        .into_iter()
        .filter(|object| !scheduler.needs(object))
    {
        garbage.objects.entry(object.job).or_default().push(object);
    }
    let called: BTreeSet<Sha256> = scheduler
        .programs()
        .filter_map(|program| match program.binary {
            Binary::Staged { sha256, .. } => Some(sha256),
            Binary::Kiln => None,
        })
        .collect();
    let is_old = |since: SystemTime| since.elapsed().is_ok_and(|age| age >= PROGRAM_KEPT);
    let unused = programs
        .into_iter()
        .filter(|(sha256, _, since)| !called.contains(sha256) && is_old(*since));
    garbage.programs = unused.map(|(sha256, bytes, _)| (sha256, bytes)).collect();
    Ok(garbage)
}

/// Removes what was found.
///
/// # Errors
/// What the storage answers; then some of it may be removed.
pub async fn remove(stores: &Stores, url: &str, garbage: &Garbage) -> Result<()> {
    let shuffle = ShuffleStore::open(stores, url)?;
    for (job, objects) in &garbage.objects {
        let names: Vec<_> = objects
            .iter()
            .map(|object| (object.stage, object.task, object.attempt))
            .collect();
        shuffle.delete_job(*job, &names).await?;
    }
    for (job, output) in &garbage.outputs {
        commit::discard(stores, *job, output).await?;
    }
    for (sha256, _) in &garbage.programs {
        shuffle.programs().remove(*sha256).await?;
    }
    Ok(())
}
