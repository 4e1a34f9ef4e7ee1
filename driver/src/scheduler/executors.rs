//! The executors that a driver knows, and what it thinks they run.
//!
//! An executor is known from its first registration until it is lost or has left. Whoever is not
//! known gets no work and no answer; whatever an executor is thought to run is in its table, so
//! that losing it is one look-up.
//!
//! There may be thousands, and something happens to one of them all the time, so nothing here goes
//! through all of them: whoever looks for a free slot, a lease that ends or a number of executors
//! finds it in an [`Index`]. Executors change in [`Executors::change`] only, which keeps the index.

use std::collections::{BTreeMap, BTreeSet};

use kiln_engine::id::ExecutorId;
use kiln_engine::plan::ClusterShape;
use kiln_proto::message::{ExecutorStatus, Registration};

use super::event::Millis;
use super::executor::{Difference, Executor, Key};
use super::ratio::Ratio;
use crate::settings::DriverSettings;

/// All executors that are known.
#[derive(Debug)]
pub(super) struct Executors {
    settings: DriverSettings,
    members: BTreeMap<ExecutorId, Executor>,
    index: Index,
}

/// What is to be found without going through all executors.
#[derive(Debug, Default)]
struct Index {
    /// Those that take work and do it well.
    sound: Pool,
    /// Those that take work and keep failing, or are slow.
    avoided: Pool,
    leases: BTreeSet<(Millis, ExecutorId)>,
    /// When avoided ones are not any more.
    exclusions: BTreeSet<(Millis, ExecutorId)>,
    left: BTreeSet<ExecutorId>,
}

/// Executors that take work.
#[derive(Debug, Default)]
pub(super) struct Pool {
    members: usize,
    slots: u64,
    /// How many have that memory budget.
    memories: BTreeMap<u64, u32>,
    /// Those with a free slot, by load.
    free: BTreeSet<(Ratio, ExecutorId)>,
}

/// Where an executor stands in the index.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    lease_ends: Millis,
    avoided_until: Option<Millis>,
    left: bool,
    /// Its memory budget, its slots, and its load if one of them is free; if it takes work.
    accepts: Option<(u64, u32, Option<Ratio>)>,
}

impl Executors {
    pub(super) fn new(settings: DriverSettings) -> Self {
        Executors {
            settings,
            members: BTreeMap::new(),
            index: Index::default(),
        }
    }

    /// Changes an executor, if it is known.
    fn change<T>(&mut self, id: ExecutorId, change: impl FnOnce(&mut Executor) -> T) -> Option<T> {
        let executor = self.members.get_mut(&id)?;
        let before = Place::of(executor);
        let value = change(executor);
        let after = Place::of(executor);
        if before != after {
            self.index.remove(id, &before);
            self.index.insert(id, &after);
        }
        Some(value)
    }

    fn remove(&mut self, id: ExecutorId) -> Option<Executor> {
        let executor = self.members.remove(&id)?;
        self.index.remove(id, &Place::of(&executor));
        Some(executor)
    }

    /// Time has passed: executors that were left alone long enough are so no longer.
    pub(super) fn pass(&mut self, now: Millis) {
        while let Some(&(until, id)) = self.index.exclusions.first() {
            if until > now {
                return;
            }
            self.change(id, |executor| executor.pass(now));
        }
    }

    /// A stream was opened. An executor that is known keeps what it runs.
    pub(super) fn join(&mut self, now: Millis, registration: Registration) {
        let lease_ends = now + self.settings.lease_ms;
        let id = registration.executor;
        if self.members.contains_key(&id) {
            self.change(id, |executor| executor.join(registration, lease_ends));
        } else {
            let executor = Executor::new(registration, lease_ends);
            self.index.insert(id, &Place::of(&executor));
            self.members.insert(id, executor);
        }
    }

    /// The stream broke.
    pub(super) fn disconnect(&mut self, now: Millis, id: ExecutorId) {
        let grace = self.settings.reconnect_ms_effective();
        self.change(id, |executor| {
            executor.connected = false;
            executor.lease_ends = executor.lease_ends.min(now + grace);
        });
    }

    /// It wants no more work.
    pub(super) fn drain(&mut self, now: Millis, id: ExecutorId) {
        self.touch(now, id, |executor| executor.draining = true);
    }

    /// A heartbeat arrived.
    pub(super) fn hear(&mut self, now: Millis, id: ExecutorId, running: &[Key]) -> Difference {
        let (heartbeat, lease) = (self.settings.heartbeat_ms, self.settings.lease_ms);
        let heard = self.touch(now, id, |executor| {
            executor.hear(now, running, heartbeat, lease)
        });
        heard.unwrap_or_default()
    }

    /// An executor said something, so it lives.
    fn touch<T>(
        &mut self,
        now: Millis,
        id: ExecutorId,
        change: impl FnOnce(&mut Executor) -> T,
    ) -> Option<T> {
        let lease_ends = now + self.settings.lease_ms;
        let touched = self.change(id, |executor| {
            executor.connected.then(|| {
                executor.lease_ends = executor.lease_ends.max(lease_ends);
                change(executor)
            })
        });
        touched.flatten()
    }

    /// Takes note of a report and gives the number to acknowledge, if the executor can be told.
    pub(super) fn report(&mut self, now: Millis, id: ExecutorId, sequence: u64) -> Option<u64> {
        self.touch(now, id, |executor| executor.report(sequence))
    }

    /// Removes those whose lease has ended, or who have left and run nothing.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<(ExecutorId, Executor)> {
        let ended = self.index.leases.range(..=(now, ExecutorId(u64::MAX)));
        let mut ids: Vec<_> = ended.map(|&(_, id)| id).collect();
        ids.extend(&self.index.left);
        ids.sort_unstable();
        ids.dedup();
        let removed = ids.into_iter().map(|id| Some((id, self.remove(id)?)));
        removed.flatten().collect()
    }

    /// Removes one that has left and runs nothing.
    pub(super) fn remove_if_left(&mut self, id: ExecutorId) -> bool {
        self.index.left.contains(&id) && self.remove(id).is_some()
    }

    /// An attempt runs there from now on.
    pub(super) fn hold(&mut self, now: Millis, id: ExecutorId, key: Key) {
        self.change(id, |executor| executor.hold(now, key));
    }

    /// An attempt does not run there any more.
    pub(super) fn release(&mut self, id: ExecutorId, key: Key) {
        self.change(id, |executor| executor.release(key));
    }

    /// An attempt succeeded there.
    pub(super) fn succeeded(&mut self, id: ExecutorId) {
        self.change(id, Executor::succeeded);
    }

    /// An attempt that ran there was overtaken by a later one elsewhere.
    pub(super) fn overtaken(&mut self, now: Millis, id: ExecutorId) {
        self.change(id, |executor| executor.overtaken(now));
    }

    /// An attempt failed there, perhaps through the executor's fault.
    pub(super) fn failed(&mut self, now: Millis, id: ExecutorId) {
        self.change(id, |executor| executor.failed(now));
    }

    pub(super) fn get(&self, id: ExecutorId) -> Option<&Executor> {
        self.members.get(&id)
    }

    /// Those that take work. It goes through all executors.
    pub(super) fn accepting(&self) -> impl Iterator<Item = &Executor> {
        self.members.values().filter(|executor| executor.accepts())
    }

    /// Whether any takes work.
    pub(super) fn any_accepting(&self) -> bool {
        self.index.sound.members + self.index.avoided.members > 0
    }

    /// Those that get work now: executors that take it and do it well; if none does, the others.
    pub(super) fn usable(&self) -> &Pool {
        match self.index.sound.members {
            0 => &self.index.avoided,
            _ => &self.index.sound,
        }
    }

    /// Whether an executor is one of those.
    pub(super) fn is_usable(&self, id: ExecutorId) -> bool {
        let some_sound = self.index.sound.members > 0;
        self.get(id).is_some_and(|executor| {
            executor.accepts() && !(some_sound && executor.avoided_until().is_some())
        })
    }

    /// Attempts that those that get work now run at once, all together.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.usable().slots).unwrap_or(u32::MAX)
    }

    /// The largest memory budget of those that take work, in bytes.
    pub(super) fn memory_max(&self) -> u64 {
        let largest = |pool: &Pool| pool.memories.last_key_value().map(|(&memory, _)| memory);
        let largest = largest(&self.index.sound).max(largest(&self.index.avoided));
        largest.unwrap_or_default()
    }

    /// What those that take work can do together.
    pub(super) fn shape(&self) -> ClusterShape {
        let none = ClusterShape {
            executors: 0,
            threads: 0,
            memory: 0,
            may_grow: !self.settings.embedded,
        };
        self.accepting().fold(none, |sum, executor| {
            let Registration {
                threads, memory, ..
            } = executor.registration;
            ClusterShape {
                executors: sum.executors + 1,
                threads: sum.threads.saturating_add(threads),
                memory: match sum.executors {
                    0 => memory,
                    _ => sum.memory.min(memory),
                },
                ..sum
            }
        })
    }

    /// When something about executors changes by itself. A lease that ended before `now` counts:
    /// leases end with a tick and not before.
    pub(super) fn deadline(&self, now: Millis) -> Option<Millis> {
        let lease = self.index.leases.first().map(|&(at, _)| at);
        let mut exclusions = self.index.exclusions.iter().map(|&(until, _)| until);
        let excluded = exclusions.find(|&until| until > now);
        lease.into_iter().chain(excluded).min()
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

impl Pool {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members
    }

    /// How many have more than that much memory.
    pub(super) fn with_memory_over(&self, bytes: u64) -> usize {
        let Some(least) = bytes.checked_add(1) else {
            return 0;
        };
        let counts = self.memories.range(least..).map(|(_, &count)| count);
        counts.sum::<u32>() as usize
    }

    /// Those with a free slot, the least loaded first.
    pub(super) fn free(&self) -> impl Iterator<Item = ExecutorId> + '_ {
        self.free.iter().map(|&(_, id)| id)
    }
}

impl Place {
    fn of(executor: &Executor) -> Self {
        let memory = executor.registration.memory;
        Place {
            lease_ends: executor.lease_ends,
            avoided_until: executor.avoided_until(),
            left: executor.has_left(),
            accepts: executor
                .accepts()
                .then(|| (memory, executor.slots(), executor.free())),
        }
    }
}

impl Index {
    fn pool(&mut self, place: &Place) -> &mut Pool {
        match place.avoided_until {
            None => &mut self.sound,
            Some(_) => &mut self.avoided,
        }
    }

    fn insert(&mut self, id: ExecutorId, place: &Place) {
        self.leases.insert((place.lease_ends, id));
        if let Some(until) = place.avoided_until {
            self.exclusions.insert((until, id));
        }
        if place.left {
            self.left.insert(id);
        }
        if let Some((memory, slots, free)) = place.accepts {
            let pool = self.pool(place);
            pool.members += 1;
            pool.slots += u64::from(slots);
            *pool.memories.entry(memory).or_default() += 1;
            pool.free.extend(free.map(|load| (load, id)));
        }
    }

    fn remove(&mut self, id: ExecutorId, place: &Place) {
        self.leases.remove(&(place.lease_ends, id));
        if let Some(until) = place.avoided_until {
            self.exclusions.remove(&(until, id));
        }
        self.left.remove(&id);
        if let Some((memory, slots, free)) = place.accepts {
            let pool = self.pool(place);
            pool.members -= 1;
            pool.slots -= u64::from(slots);
            if let Some(count) = pool.memories.get_mut(&memory) {
                *count -= 1;
                if *count == 0 {
                    pool.memories.remove(&memory);
                }
            }
            if let Some(load) = free {
                pool.free.remove(&(load, id));
            }
        }
    }
}
