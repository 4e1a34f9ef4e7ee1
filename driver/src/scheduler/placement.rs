//! Which executor gets a task.
//!
//! The least loaded one with a free slot, except where the task has failed before and except
//! executors that keep failing. Both are preferences: where every executor is to be avoided, none
//! is. A task rather waits for a busy executor where it has not failed than goes back to one
//! where it has.

use std::collections::BTreeSet;

use kiln_engine::id::ExecutorId;

use super::event::Millis;
use super::executors::{Executor, Executors};

/// Whether any executor could take a task now.
pub(super) fn any_free(executors: &Executors) -> bool {
    executors
        .accepting()
        .any(|(_, executor)| executor.has_free_slot())
}

/// Where to run a task that has failed on `failed_on`.
pub(super) fn choose(
    executors: &Executors,
    now: Millis,
    failed_on: &BTreeSet<ExecutorId>,
) -> Option<ExecutorId> {
    let usable = usable(executors, now);
    let fresh = |id: &ExecutorId| !failed_on.contains(id);
    let any_fresh = usable.iter().any(|(id, _)| fresh(id));
    least_loaded(usable.into_iter().filter(|(id, _)| fresh(id) || !any_fresh))
}

/// Where to run a second attempt of a slow task: nowhere it runs or has failed.
pub(super) fn choose_other(
    executors: &Executors,
    now: Millis,
    not_on: &BTreeSet<ExecutorId>,
) -> Option<ExecutorId> {
    let usable = usable(executors, now);
    least_loaded(usable.into_iter().filter(|(id, _)| !not_on.contains(id)))
}

/// Those that take work and do not keep failing; if all of them keep failing, those.
fn usable(executors: &Executors, now: Millis) -> Vec<(ExecutorId, &Executor)> {
    let (excluded, sound): (Vec<_>, Vec<_>) = executors
        .accepting()
        .partition(|(_, executor)| executor.is_excluded(now));
    if sound.is_empty() { excluded } else { sound }
}

fn least_loaded<'a>(
    executors: impl Iterator<Item = (ExecutorId, &'a Executor)>,
) -> Option<ExecutorId> {
    executors
        .filter(|(_, executor)| executor.has_free_slot())
        .min_by(|(_, a), (_, b)| {
            // load(a) / slots(a) against load(b) / slots(b), without division.
            let left = u64::from(a.load()) * u64::from(b.slots());
            let right = u64::from(b.load()) * u64::from(a.slots());
            left.cmp(&right)
        })
        .map(|(id, _)| id)
}
