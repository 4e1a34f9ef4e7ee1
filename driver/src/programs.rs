//! Programs of users: which are let in, and how they come into the storage.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use kiln_engine::plan::{Binary, Sha256};
use kiln_engine::storage::{ProgramStore, ShuffleStore, Staging};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::{OfferedProgram, PROTOCOL_VERSION, Submission, platform};

use crate::settings::DriverSettings;

/// How long a program stays in the storage that no job calls.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A program that has been there for so long is to be brought again: between the time that its
/// owner is told that it is there and the job that calls it, nobody may take it for one that is
/// not called. What is left until [`KEPT`] is more than submitting takes and clocks differ by.
const RELIED_UPON: Duration = Duration::from_secs(12 * 60 * 60);

/// Whether something that was put there at `since` has been there for `age`. What a clock says is
/// yet to come is not old.
pub(crate) fn is_old(since: SystemTime, age: Duration) -> bool {
    since.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

/// Lets programs in, or does not.
#[derive(Clone)]
pub(crate) struct Admission {
    /// Functions come with the plan, in the same process.
    embedded: bool,
    allowed: bool,
    store: ProgramStore,
}

impl Admission {
    pub(crate) fn new(settings: &DriverSettings, shuffle: &ShuffleStore) -> Self {
        Admission {
            embedded: settings.embedded,
            allowed: settings.allow_programs,
            store: shuffle.programs(),
        }
    }

    /// Whether executors will be able to call the functions of a plan.
    ///
    /// # Errors
    /// `Invalid`, with the reason why not; what the storage answers.
    pub(crate) async fn admit(&self, submission: &Submission) -> Result<()> {
        let called = submission.plan.functions();
        let Some(offered) = &submission.program else {
            return match called.first() {
                Some(name) if !self.embedded => Err(Error::invalid(format!(
                    "the plan calls functions of a program, and no program came with it: on a \
                     cluster functions have to be registered on an App function={name:?}"
                ))),
                _ => Ok(()),
            };
        };
        self.check_allowed()?;
        check_build(offered)?;
        if offered.program.call_ms == 0 {
            return Err(Error::invalid(
                "a program gives its functions no time at all call_ms=0",
            ));
        }
        check_functions(offered, &called)?;
        let Binary::Staged { sha256, bytes } = offered.program.binary else {
            return Ok(());
        };
        match self.store.find(sha256).await? {
            Some((found, _)) if found == bytes => Ok(()),
            Some((found, _)) => Err(Error::invalid(format!(
                "a program is in the storage with another size sha256={sha256} bytes={found} \
                 expected={bytes}"
            ))),
            None => Err(Error::invalid(format!(
                "a program is not in the storage sha256={sha256}"
            ))),
        }
    }

    /// Whether a program is in the storage already, and will stay until a job calls it.
    pub(crate) async fn has(&self, sha256: Sha256) -> Result<bool> {
        self.check_allowed()?;
        let found = self.store.find(sha256).await?;
        Ok(found.is_some_and(|(_, since)| !is_old(since, RELIED_UPON)))
    }

    /// Begins to put a program into the storage.
    pub(crate) async fn stage(&self, sha256: Sha256, bytes: u64) -> Result<Staging> {
        self.check_allowed()?;
        if bytes > limits::PROGRAM_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a program is too large bytes={bytes} bytes_max={}",
                limits::PROGRAM_BYTES_MAX
            )));
        }
        self.store.stage(sha256, bytes).await
    }

    fn check_allowed(&self) -> Result<()> {
        if self.allowed {
            return Ok(());
        }
        Err(Error::invalid(
            "this driver takes no programs: code of users runs on a cluster only if its driver was \
             started with --allow-programs",
        ))
    }
}

fn check_build(offered: &OfferedProgram) -> Result<()> {
    if offered.protocol != PROTOCOL_VERSION {
        return Err(Error::invalid(format!(
            "the program was built with another version of kiln than the cluster runs, build it \
             with the same program={} cluster={PROTOCOL_VERSION} (versions of the protocol)",
            offered.protocol
        )));
    }
    let ours = platform();
    if offered.platform != ours {
        return Err(Error::invalid(format!(
            "the program was built for another platform than the cluster runs on program={} \
             cluster={ours}",
            offered.platform
        )));
    }
    Ok(())
}

fn check_functions(offered: &OfferedProgram, called: &BTreeSet<String>) -> Result<()> {
    let has = |name: &&String| offered.functions.contains(name);
    let Some(missing) = called.iter().find(|name| !has(name)) else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the plan calls a function that its program has not registered, so no worker would know \
         it: register it on the App before the job begins function={missing:?} registered=[{}]",
        offered.functions.join(", ")
    )))
}
