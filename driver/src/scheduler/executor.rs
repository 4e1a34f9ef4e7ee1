//! One executor as the driver sees it: what it can do, what it is thought to run, and how it has
//! done lately.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_engine::id::TaskId;
use kiln_engine::limits;
use kiln_proto::message::Registration;

use super::event::Millis;
use super::ratio::Ratio;

/// An attempt, by task and number.
pub(super) type Key = (TaskId, u32);

/// One executor.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) registration: Registration,
    /// Its name, for people: its attempts have it too.
    pub(super) name: Arc<str>,
    /// It has a stream; without one it can be told nothing.
    pub(super) connected: bool,
    /// It has said over this stream what it runs. Before that it gets nothing: what it runs may
    /// be all that it has room for, and what it has finished may be what it would be given.
    pub(super) heard: bool,
    pub(super) draining: bool,
    /// When it is lost unless it says something before.
    pub(super) lease_ends: Millis,
    /// Until when it gets no work if others do, because it keeps failing.
    pub(super) excluded_until: Option<Millis>,
    /// Until when it gets no work if others do, because it is slow.
    pub(super) slow_until: Option<Millis>,
    running: BTreeMap<Key, Held>,
    failures_in_row: u32,
    /// Times that it was found slow since it was not.
    slownesses: u32,
    /// Times that it was excluded since it last succeeded.
    exclusions: u32,
    reports: Reports,
}

/// An attempt that an executor is thought to run.
#[derive(Debug)]
struct Held {
    since: Millis,
    /// It was told to run it over the stream that it has now: it will hear of it, though perhaps
    /// late.
    told: bool,
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
    /// Thought to run there, but have not for a whole heartbeat, or for a lease if they may still
    /// be on their way.
    pub(super) missing: Vec<Key>,
    /// Run there, though nobody here thinks so.
    pub(super) strange: Vec<Key>,
}

impl Executor {
    pub(super) fn new(registration: Registration, lease_ends: Millis) -> Self {
        Executor {
            name: registration.name.as_str().into(),
            registration,
            connected: true,
            heard: false,
            draining: false,
            lease_ends,
            excluded_until: None,
            slow_until: None,
            slownesses: 0,
            running: BTreeMap::new(),
            failures_in_row: 0,
            exclusions: 0,
            reports: Reports::default(),
        }
    }

    /// It has opened a new stream, and keeps what it runs.
    pub(super) fn join(&mut self, registration: Registration, lease_ends: Millis) {
        self.name = registration.name.as_str().into();
        self.registration = registration;
        self.connected = true;
        self.heard = false;
        self.lease_ends = lease_ends;
        self.reports = Reports::default();
        for held in self.running.values_mut() {
            held.told = false;
        }
    }

    /// A heartbeat arrived that names what it runs.
    pub(super) fn hear(
        &mut self,
        now: Millis,
        running: &[Key],
        heartbeat_ms: u64,
        lease_ms: u64,
    ) -> Difference {
        self.heard = true;
        let mut difference = Difference::default();
        let mut listed = running.to_vec();
        listed.sort_unstable();
        listed.dedup();
        for (key, held) in &mut self.running {
            let patience = match held.told {
                true => lease_ms,
                false => heartbeat_ms,
            };
            if listed.binary_search(key).is_ok() {
                held.missing_since = None;
            } else if now >= held.since + patience {
                let since = *held.missing_since.get_or_insert(now);
                if now >= since + heartbeat_ms {
                    difference.missing.push(*key);
                }
            }
        }
        listed.retain(|key| !self.running.contains_key(key));
        difference.strange = listed;
        difference
    }

    /// Takes note of a report and gives the number to acknowledge.
    pub(super) fn report(&mut self, sequence: u64) -> u64 {
        self.reports.arrive(sequence)
    }

    /// An attempt runs there from now on.
    pub(super) fn hold(&mut self, now: Millis, key: Key) {
        let held = Held {
            since: now,
            told: true,
            missing_since: None,
        };
        self.running.insert(key, held);
    }

    /// An attempt does not run there any more.
    pub(super) fn release(&mut self, key: Key) {
        self.running.remove(&key);
    }

    /// An attempt succeeded there.
    pub(super) fn succeeded(&mut self) {
        if self.slow_until.is_none() {
            self.slownesses = 0;
        }
        self.failures_in_row = 0;
        self.exclusions = 0;
        self.excluded_until = None;
    }

    /// An attempt failed there, perhaps through the executor's fault. After some in a row it is
    /// left alone for a while, and longer each time that it fails again when it is back.
    pub(super) fn failed(&mut self, now: Millis) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let enough = self.failures_in_row >= limits::EXECUTOR_FAILURES_MAX;
        if enough && self.excluded_until.is_none() {
            let longer = limits::EXECUTOR_EXCLUDED_MS << self.exclusions.min(16);
            self.excluded_until = Some(now + longer.min(limits::EXECUTOR_EXCLUDED_MS_MAX));
            self.exclusions += 1;
        }
    }

    /// An attempt of a task was overtaken by one that was launched later and elsewhere. It is left
    /// alone as one is that fails.
    pub(super) fn overtaken(&mut self, now: Millis) {
        if self.slow_until.is_none() {
            let longer = limits::EXECUTOR_EXCLUDED_MS << self.slownesses.min(16);
            self.slow_until = Some(now + longer.min(limits::EXECUTOR_EXCLUDED_MS_MAX));
            self.slownesses += 1;
        }
    }

    /// Until when it gets no work if others do.
    pub(super) fn avoided_until(&self) -> Option<Millis> {
        self.excluded_until.max(self.slow_until)
    }

    /// Time has passed: what has made it be avoided counts no more, if that was long enough ago.
    pub(super) fn pass(&mut self, now: Millis) {
        for until in [&mut self.excluded_until, &mut self.slow_until] {
            until.take_if(|at| *at <= now);
        }
    }

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

    /// It can be told to run something, and wants to.
    pub(super) fn accepts(&self) -> bool {
        self.connected && !self.draining
    }

    /// How much of it is taken; nothing if it can take no more now.
    pub(super) fn free(&self) -> Option<Ratio> {
        let (load, slots) = (self.load(), self.slots());
        (self.accepts() && self.heard && load < slots).then(|| Ratio::new(load, slots))
    }

    /// It wanted no more work, its stream is gone, and it runs nothing.
    pub(super) fn has_left(&self) -> bool {
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
