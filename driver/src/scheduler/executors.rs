//! The executors that a driver knows, and what it thinks they run.
//!
//! An executor is known from its first registration until it is lost or has left. Whoever is not
//! known gets no work and no answer; whatever an executor is thought to run is in its table, so
//! that losing it is one look-up.

use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::id::{ExecutorId, TaskId};
use kiln_engine::limits;
use kiln_proto::message::{ExecutorStatus, Registration};

use super::event::Millis;
use crate::settings::DriverSettings;

/// An attempt, by task and number.
pub(super) type Key = (TaskId, u32);

/// All executors that are known.
#[derive(Debug)]
pub(super) struct Executors {
    settings: DriverSettings,
    members: BTreeMap<ExecutorId, Executor>,
}

/// One executor.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) registration: Registration,
    /// It has a stream; without one it can be told nothing.
    pub(super) connected: bool,
    pub(super) draining: bool,
    /// When it is lost unless it says something before.
    lease_ends: Millis,
    running: BTreeMap<Key, Held>,
    failures_in_row: u32,
    excluded_until: Millis,
    reports: Reports,
}

/// An attempt that an executor is thought to run.
#[derive(Debug)]
struct Held {
    since: Millis,
    /// When a heartbeat first did not name it.
    missing_since: Option<Millis>,
}

/// Which reports have arrived over one stream of an executor.
#[derive(Debug, Default)]
struct Reports {
    /// All up to this one; unknown before the first since the executor joined.
    through: Option<u64>,
    /// And these beyond it.
    beyond: BTreeSet<u64>,
}

/// How what an executor says that it runs differs from what it is thought to run.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Thought to run there, but have not for a whole heartbeat.
    pub(super) missing: Vec<Key>,
    /// Run there, though nobody here thinks so.
    pub(super) strange: Vec<Key>,
}

impl Executors {
    pub(super) fn new(settings: DriverSettings) -> Self {
        Executors {
            settings,
            members: BTreeMap::new(),
        }
    }

    /// A stream was opened. An executor that is known keeps what it runs.
    pub(super) fn join(&mut self, now: Millis, registration: Registration) {
        let lease_ends = now + self.settings.lease_ms;
        let id = registration.executor;
        let executor = self.members.entry(id).or_insert_with(|| Executor {
            registration: registration.clone(),
            connected: true,
            draining: false,
            lease_ends,
            running: BTreeMap::new(),
            failures_in_row: 0,
            excluded_until: 0,
            reports: Reports::default(),
        });
        executor.registration = registration;
        executor.connected = true;
        executor.lease_ends = lease_ends;
        executor.reports = Reports::default();
    }

    /// The stream broke.
    pub(super) fn disconnect(&mut self, now: Millis, id: ExecutorId) {
        let grace = self.settings.reconnect_ms_effective();
        if let Some(executor) = self.members.get_mut(&id) {
            executor.connected = false;
            executor.lease_ends = executor.lease_ends.min(now + grace);
        }
    }

    /// A heartbeat arrived.
    pub(super) fn hear(&mut self, now: Millis, id: ExecutorId, running: &[Key]) -> Difference {
        let mut difference = Difference::default();
        let heartbeat = self.settings.heartbeat_ms;
        let Some(executor) = self.touch(now, id) else {
            return difference;
        };
        let listed: BTreeSet<Key> = running.iter().copied().collect();
        for (key, held) in &mut executor.running {
            if listed.contains(key) {
                held.missing_since = None;
            } else if now >= held.since + heartbeat {
                let since = *held.missing_since.get_or_insert(now);
                if now >= since + heartbeat {
                    difference.missing.push(*key);
                }
            }
        }
        let known = &executor.running;
        difference.strange = listed
            .into_iter()
            .filter(|key| !known.contains_key(key))
            .collect();
        difference
    }

    /// An executor said something, so it lives.
    pub(super) fn touch(&mut self, now: Millis, id: ExecutorId) -> Option<&mut Executor> {
        let executor = self
            .members
            .get_mut(&id)
            .filter(|executor| executor.connected)?;
        executor.lease_ends = executor.lease_ends.max(now + self.settings.lease_ms);
        Some(executor)
    }

    /// Takes note of a report and gives the number to acknowledge, if the executor can be told.
    pub(super) fn report(&mut self, now: Millis, id: ExecutorId, sequence: u64) -> Option<u64> {
        Some(self.touch(now, id)?.reports.arrive(sequence))
    }

    /// Removes those whose lease has ended, or who have left and run nothing.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<(ExecutorId, Executor)> {
        let gone = |executor: &Executor| executor.lease_ends <= now || executor.has_left();
        let ids = self
            .members
            .iter()
            .filter(|(_, one)| gone(one))
            .map(|(id, _)| *id);
        let ids: Vec<_> = ids.collect();
        ids.into_iter()
            .filter_map(|id| self.members.remove_entry(&id))
            .collect()
    }

    /// Removes one that has left and runs nothing.
    pub(super) fn remove_if_left(&mut self, id: ExecutorId) -> bool {
        let left = self.members.get(&id).is_some_and(Executor::has_left);
        left && self.members.remove(&id).is_some()
    }

    /// An attempt runs there from now on.
    pub(super) fn hold(&mut self, now: Millis, id: ExecutorId, key: Key) {
        if let Some(executor) = self.members.get_mut(&id) {
            executor.running.insert(
                key,
                Held {
                    since: now,
                    missing_since: None,
                },
            );
        }
    }

    /// An attempt does not run there any more.
    pub(super) fn release(&mut self, id: ExecutorId, key: Key) {
        if let Some(executor) = self.members.get_mut(&id) {
            executor.running.remove(&key);
        }
    }

    /// An attempt succeeded there.
    pub(super) fn succeeded(&mut self, id: ExecutorId) {
        if let Some(executor) = self.members.get_mut(&id) {
            executor.failures_in_row = 0;
            executor.excluded_until = 0;
        }
    }

    /// An attempt failed there, perhaps through the executor's fault.
    pub(super) fn failed(&mut self, now: Millis, id: ExecutorId) {
        if let Some(executor) = self.members.get_mut(&id) {
            executor.failures_in_row += 1;
            if executor.failures_in_row >= limits::EXECUTOR_FAILURES_MAX {
                executor.excluded_until = now + limits::EXECUTOR_EXCLUDED_MS;
            }
        }
    }

    pub(super) fn get(&self, id: ExecutorId) -> Option<&Executor> {
        self.members.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ExecutorId, &Executor)> {
        self.members.iter().map(|(id, executor)| (*id, executor))
    }

    /// Those that take work.
    pub(super) fn accepting(&self) -> impl Iterator<Item = (ExecutorId, &Executor)> {
        self.iter().filter(|(_, executor)| executor.accepts())
    }

    /// Attempts that all of them together run at once.
    pub(super) fn slots(&self) -> u32 {
        self.accepting()
            .map(|(_, executor)| executor.slots())
            .fold(0, u32::saturating_add)
    }

    /// When something about executors changes by itself. A lease that ended before `now` counts:
    /// leases end with a tick and not before.
    pub(super) fn deadline(&self, now: Millis) -> Option<Millis> {
        let leases = self.members.values().map(|executor| executor.lease_ends);
        let excluded = self
            .members
            .values()
            .map(|executor| executor.excluded_until);
        leases.chain(excluded.filter(|&until| until > now)).min()
    }

    /// All of them, for people.
    pub(super) fn status(&self) -> Vec<ExecutorStatus> {
        let status = |executor: &Executor| ExecutorStatus {
            registration: executor.registration.clone(),
            running: executor.load(),
            draining: executor.draining,
        };
        self.members.values().map(status).collect()
    }
}

impl Executor {
    /// Attempts that it is thought to run.
    pub(super) fn load(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Those attempts.
    pub(super) fn running(&self) -> impl Iterator<Item = Key> + '_ {
        self.running.keys().copied()
    }

    /// Attempts that it runs at once.
    pub(super) fn slots(&self) -> u32 {
        self.registration.slots.max(1)
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.load() < self.slots()
    }

    /// It can be told to run something, and wants to.
    pub(super) fn accepts(&self) -> bool {
        self.connected && !self.draining
    }

    pub(super) fn is_excluded(&self, now: Millis) -> bool {
        self.excluded_until > now
    }

    fn has_left(&self) -> bool {
        self.draining && !self.connected && self.running.is_empty()
    }
}

impl Reports {
    /// What does not fit is not noted, and so is repeated by the executor.
    const BEYOND_MAX: usize = 1024;

    /// Notes that a report has arrived; gives the last one before which none is missing.
    fn arrive(&mut self, sequence: u64) -> u64 {
        // A stream begins with the oldest report that was not acknowledged, so whatever comes
        // first after an executor joined has nothing before it that would still be missing.
        let mut through = self.through.unwrap_or(sequence.saturating_sub(1));
        if sequence > through && self.beyond.len() < Self::BEYOND_MAX {
            self.beyond.insert(sequence);
        }
        while let Some(next) = through
            .checked_add(1)
            .filter(|next| self.beyond.remove(next))
        {
            through = next;
        }
        self.through = Some(through);
        through
    }
}

#[cfg(test)]
mod tests {
    use super::Reports;

    #[test]
    fn only_reports_without_a_gap_are_acknowledged() {
        let mut reports = Reports::default();
        let answers = [3, 4, 7, 6, 4, 5, 1, 9].map(|sequence| reports.arrive(sequence));
        assert_eq!(answers, [3, 4, 4, 4, 4, 7, 7, 7]);
    }
}
