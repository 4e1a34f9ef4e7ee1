//! Where a command finds its driver: in this process, or at an address.

use kiln::Session;
use kiln_proto::address::Drivers;

use super::allocator;
use super::args::GlobalResources;
use super::exit::{Failure, Outcome};

/// The cluster at `driver`, or this process if there is none.
///
/// # Errors
/// `Unreachable`, or `Usage` if an embedded run's settings are given for a cluster.
pub(crate) fn session(driver: Option<&Drivers>, resources: GlobalResources) -> Outcome<Session> {
    let Some(driver) = driver else {
        let mut builder = Session::builder();
        if let Some(threads) = resources.threads {
            builder = builder.threads(threads);
        }
        if let Some(memory) = resources.memory {
            builder = builder.memory(memory);
        }
        if let Some(bytes) = resources.spill_limit {
            builder = builder.spill_limit(bytes);
        }
        let session = builder.build().map_err(Failure::Job)?;
        if resources.memory.is_some()
            && let Some(budget) = session.memory_budget()
        {
            allocator::stay_near(budget);
        }
        return Ok(session);
    };
    let given = [
        resources.threads.is_some(),
        resources.memory.is_some(),
        resources.spill_limit.is_some(),
    ];
    if given.contains(&true) {
        return Err(Failure::usage(format!(
            "--threads, --memory and --spill-limit are for runs in this process; executors have \
             their own driver={driver}"
        )));
    }
    cluster(driver)
}

/// The session, for jobs of that weight if one is given.
pub(crate) fn weighted(session: Session, weight: Option<u32>) -> Session {
    match weight {
        Some(weight) => session.weight(weight),
        None => session,
    }
}

/// The cluster at `driver`.
///
/// # Errors
/// `Unreachable`, or `Usage` if that is not an address.
pub(crate) fn cluster(driver: &Drivers) -> Outcome<Session> {
    Session::connect(&driver.to_string()).map_err(|error| match error.kind() {
        kiln::ErrorKind::Invalid => Failure::Usage(error),
        _ => Failure::Unreachable(error),
    })
}
