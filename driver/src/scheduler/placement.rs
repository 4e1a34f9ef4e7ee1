//! Which executor gets a task.
//!
//! The least loaded one with a free slot (of equals, the one with the lowest id), except where the
//! task has failed before and except executors that keep failing or are slow; a task that ran out
//! of memory goes to an executor that has more, or else as much. These are preferences: where every
//! executor is to be avoided, none is. A task rather waits for a busy executor where it has not
//! failed than goes back to one where it has.

use kiln_engine::id::ExecutorId;

use super::executors::Executors;
use super::task::Task;

/// Whether any executor could take a task now.
pub(super) fn any_free(executors: &Executors) -> bool {
    executors.usable().free().next().is_some()
}

/// Where to run a task that does not run.
pub(super) fn choose(executors: &Executors, task: &Task) -> Option<ExecutorId> {
    let pool = executors.usable();
    if task.failed_on.is_empty() {
        return pool.free().next();
    }
    let memory = |id: ExecutorId| executors.get(id).map(|one| one.registration.memory);
    let short = Some(task.memory_short);
    let has_more = |id: ExecutorId| memory(id) > short;
    let failed = || {
        let failed = task.failed_on.iter().copied();
        failed.filter(|&id| executors.is_usable(id))
    };
    let fresh = |id: &ExecutorId| !task.failed_on.contains(id);
    if pool.with_memory_over(task.memory_short) > failed().filter(|&id| has_more(id)).count() {
        pool.free().find(|id| fresh(id) && has_more(*id))
    } else if task.memory_short > 0 && pool.with_memory_over(task.memory_short - 1) > 0 {
        // Nobody has more, so whoever has as much.
        let mut enough = pool.free().filter(|&id| memory(id) >= short);
        let first = enough.next();
        first.filter(fresh).or_else(|| enough.find(fresh)).or(first)
    } else if pool.len() > failed().count() {
        pool.free().find(fresh)
    } else {
        pool.free().next()
    }
}

/// Where to run a second attempt of a slow task: nowhere it runs or has failed.
pub(super) fn choose_other(executors: &Executors, task: &Task) -> Option<ExecutorId> {
    let runs_on = |id: ExecutorId| {
        let mut running = task.attempts.iter().filter(|attempt| attempt.runs());
        running.any(|attempt| attempt.executor == id)
    };
    let mut free = executors.usable().free();
    free.find(|id| !task.failed_on.contains(id) && !runs_on(*id))
}
