//! What a leading driver does about what happens, and when: everything but the doing.
//!
//! The scheduler says what is to be done. Here it is decided what of it has to wait until it is
//! written down ([`crate::ledger`]), what is told to whom, and what is looked for in storage after
//! a change of leaders. A state machine without I/O, as the scheduler is: the event loop carries
//! its effects out, and the simulation does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kiln_engine::Result;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::storage::{Created, ShuffleObject};
use kiln_proto::message::{JobState, Record};

use crate::journal::election::Won;
use crate::ledger::{Held, Ledger};
use crate::scheduler::{Action, Event, Millis, Scheduler};
use crate::settings::DriverSettings;
use crate::work;

/// Something that is to be done now.
#[derive(Debug)]
pub(crate) enum Effect<A> {
    /// What the scheduler wants.
    Do(Action),
    /// The scheduler is to be told.
    Step(Event),
    /// Who submitted a job is to be told that it was taken.
    Accepted(JobId, A),
    /// Nobody is to be told that a job has ended.
    Hide(JobId),
    /// Everybody may be told that it has.
    Show(JobId),
}

/// Something that is due in storage.
#[derive(Debug)]
pub(crate) enum Due {
    /// An entry of the journal is to be written, by its number.
    Entry(u64, Bytes),
    /// A snapshot of what is written is to be made.
    Snapshot,
    /// The shuffle objects that there are have to be listed.
    List,
}

/// How long after a list that did not come the storage is asked again, in milliseconds.
const LIST_RETRY_MS: Millis = 5_000;

/// A driver that leads.
pub(crate) struct Leader<A> {
    ledger: Ledger<A>,
    /// Jobs for which something is being tidied up, and how much.
    tidying: BTreeMap<JobId, u32>,
    /// Jobs of which something is left behind that could not be removed.
    untidy: BTreeSet<JobId>,
    /// Jobs of earlier leaderships that have not ended: not all of their attempts are known.
    recovered: BTreeSet<JobId>,
    /// When to look for shuffle objects that no job needs any more.
    list_at: Option<Millis>,
}

impl<A> Leader<A> {
    /// A leadership for which the driver began to campaign at `since`, and won, with `recovered`
    /// jobs to go on with.
    pub(crate) fn new(
        won: &Won,
        settings: &DriverSettings,
        since: Millis,
        recovered: BTreeSet<JobId>,
    ) -> Self {
        Leader {
            ledger: Ledger::new(won, settings, since),
            tidying: BTreeMap::new(),
            untidy: BTreeSet::new(),
            recovered,
            list_at: (won.term > 1).then_some(since),
        }
    }

    /// The number of the leadership.
    pub(crate) fn term(&self) -> u64 {
        self.ledger.term()
    }

    /// Until then what is known here is sure to be up to date.
    pub(crate) fn trusted_until(&self) -> Millis {
        self.ledger.trusted_until()
    }

    /// What the scheduler wants done: perhaps later, and not always by others.
    pub(crate) fn admit(&mut self, action: Action) -> Vec<Effect<A>> {
        match action {
            Action::Record(record) => self.record(&record),
            action => {
                // Also what has to wait: before that is done the job is not tidied up.
                if let Action::Commit { job, .. }
                | Action::Discard { job, .. }
                | Action::Cleanup { job, .. } = &action
                {
                    self.tidies(*job);
                }
                let now = self.ledger.admit(action);
                now.into_iter().map(Effect::Do).collect()
            }
        }
    }

    fn record(&mut self, record: &Record) -> Vec<Effect<A>> {
        if let Err(error) = self.ledger.append(record) {
            // Only the plan of a user can be such that it cannot be written down.
            let failed = record.job().map(|job| work::plan_failed(job, &error));
            return failed.into_iter().map(Effect::Step).collect();
        }
        let Record::Ended(ended) = record else {
            return Vec::new();
        };
        self.ledger.hold(Held::Ended(ended.job));
        vec![Effect::Hide(ended.job)]
    }

    /// A job is accepted.
    ///
    /// # Errors
    /// `Invalid` if its plan cannot be written down.
    pub(crate) fn submitted(&mut self, record: &Record) -> Result<()> {
        self.ledger.append(record)
    }

    /// Somebody is to be told that a job was taken, as soon as the next driver would know it.
    pub(crate) fn accepted(&mut self, job: JobId, answer: A) -> Option<Effect<A>> {
        if self.ledger.is_settled() {
            return Some(Effect::Accepted(job, answer));
        }
        self.ledger.hold(Held::Accepted(job, answer));
        None
    }

    /// How writing an entry went: what has waited for it, or nothing at all if somebody else leads.
    pub(crate) fn wrote(
        &mut self,
        outcome: Result<Created>,
        now: Millis,
        scheduler: &Scheduler,
    ) -> Option<Vec<Effect<A>>> {
        if !self.ledger.wrote(outcome, now) {
            return None;
        }
        let mut effects = Vec::new();
        for held in self.ledger.release() {
            match held {
                Held::Action(action) => effects.push(Effect::Do(action)),
                Held::Accepted(job, answer) => effects.push(Effect::Accepted(job, answer)),
                Held::Ended(job) => {
                    effects.push(Effect::Show(job));
                    if self.recovered.remove(&job) {
                        self.list_at = Some(now);
                    }
                }
                Held::Sweep(objects) => {
                    // By what is known now, so behind all of that.
                    for (job, objects) in needless(&objects, scheduler) {
                        effects.extend(self.admit(Action::Cleanup { job, objects }));
                    }
                }
            }
        }
        Some(effects)
    }

    /// What is due now.
    pub(crate) fn dues(&mut self, now: Millis) -> Vec<Due> {
        let entry = self.ledger.next_write(now);
        let entry = entry.map(|(sequence, entry)| Due::Entry(sequence, entry));
        let snapshot = self.ledger.wants_snapshot().then_some(Due::Snapshot);
        let list = self.list_at.take_if(|at| *at <= now).map(|_| Due::List);
        [entry, snapshot, list].into_iter().flatten().collect()
    }

    /// When something is due though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.ledger.deadline().into_iter().chain(self.list_at).min()
    }

    /// Whether nothing could be written for so long that others lead by now, if they can write.
    pub(crate) fn is_cut_off(&self, now: Millis) -> bool {
        self.ledger.is_cut_off(now)
    }

    /// Whether everything that has happened is written.
    pub(crate) fn is_settled(&self) -> bool {
        self.ledger.is_settled()
    }

    /// Whether it will be looked for shuffle objects.
    #[cfg(test)]
    pub(crate) fn is_to_list(&self) -> bool {
        self.list_at.is_some()
    }

    /// How writing a snapshot went: the bytes that it has.
    pub(crate) fn compacted(&mut self, outcome: Result<u64>) {
        self.ledger.compacted(outcome);
    }

    /// The shuffle objects that there are. Those that no job needs go, but not before it is known
    /// that this driver still leads: if it does, it knows all jobs that had objects by then.
    pub(crate) fn listed(&mut self, objects: Result<Vec<ShuffleObject>>, now: Millis) {
        match objects {
            Ok(objects) => {
                if self.record(&Record::Alive).is_empty() {
                    self.ledger.hold(Held::Sweep(objects));
                }
            }
            Err(error) => {
                tracing::warn!(
                    reason = error.report(),
                    "shuffle objects cannot be listed yet"
                );
                self.list_at = Some(now + LIST_RETRY_MS);
            }
        }
    }

    /// Something is to be tidied up for a job, other than by an action that was admitted.
    pub(crate) fn tidies(&mut self, job: JobId) {
        *self.tidying.entry(job).or_default() += 1;
    }

    /// Something is tidied up, or could not be. When that was all, the next driver need not look.
    pub(crate) fn tidied(&mut self, job: JobId, is_whole: bool, scheduler: &Scheduler) {
        if !is_whole {
            self.untidy.insert(job);
        }
        let Some(left) = self.tidying.get_mut(&job) else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        self.tidying.remove(&job);
        let has_ended = scheduler.state(job).is_some_and(JobState::is_final);
        if has_ended && !self.untidy.contains(&job) {
            self.record(&Record::Cleaned { job });
        }
    }

    /// The driver leads no longer, by its own will, as soon as that is written.
    pub(crate) fn resign(&mut self) {
        self.ledger.resign();
    }
}

/// Those of `objects` that no job needs any more, by stage, task and attempt.
fn needless(
    objects: &[ShuffleObject],
    scheduler: &Scheduler,
) -> BTreeMap<JobId, Vec<(StageId, u32, u32)>> {
    let mut gone: BTreeMap<JobId, Vec<_>> = BTreeMap::new();
    for object in objects.iter().filter(|object| !scheduler.needs(object)) {
        let name = (object.stage, object.task, object.attempt);
        gone.entry(object.job).or_default().push(name);
    }
    gone
}

#[cfg(test)]
mod tests {
    use kiln_proto::message::WriterId;

    use super::*;
    use crate::journal::store::Loaded;

    /// One that has begun with entry 5 at 0 ms.
    fn leader(settings: &DriverSettings) -> Leader<()> {
        let won = Won {
            term: 2,
            writer: WriterId(1),
            journal: Loaded::default(),
            began: 5,
        };
        Leader::new(&won, settings, 0, BTreeSet::new())
    }

    #[test]
    fn who_has_resigned_knows_nothing_for_sure() {
        let settings = DriverSettings::default();
        let mut leader = leader(&settings);
        assert_eq!(leader.trusted_until(), settings.leader_lease_ms / 2);
        leader.resign();
        assert_eq!(leader.trusted_until(), 0);
        // Others may lead as soon as that is written, also before it is known to be.
        assert!(matches!(leader.dues(0)[..], [Due::Entry(6, _), Due::List]));
        let scheduler = Scheduler::journaled(settings);
        assert!(leader.wrote(Ok(Created::Ours), 900, &scheduler).is_some());
        assert_eq!(leader.trusted_until(), 0);
    }

    #[test]
    fn who_cannot_write_for_a_lease_is_cut_off() {
        let settings = DriverSettings::default();
        let (mut leader, lease) = (leader(&settings), settings.leader_lease_ms);
        let scheduler = Scheduler::journaled(settings);
        assert!(matches!(leader.dues(1_000)[..], [Due::Entry(6, _), _]));
        let lost = || Err(kiln_engine::Error::unavailable("gone"));
        assert!(leader.wrote(lost(), 2_000, &scheduler).is_some());
        assert!(!leader.is_cut_off(1_000 + lease - 1));
        assert!(leader.is_cut_off(1_000 + lease));
        // It counts from when the entry was first to be written.
        assert!(matches!(leader.dues(3_000)[..], [Due::Entry(6, _)]));
        assert!(leader.is_cut_off(1_000 + lease));
        assert!(leader.wrote(Ok(Created::Ours), 3_500, &scheduler).is_some());
        assert!(!leader.is_cut_off(1_000 + lease));
    }

    #[test]
    fn what_is_needless_is_removed_when_it_is_written_why() {
        let settings = DriverSettings::default();
        let scheduler = Scheduler::journaled(settings.clone());
        let mut leader = leader(&settings);
        let object = ShuffleObject {
            job: JobId::new(1),
            stage: StageId(0),
            task: 5,
            attempt: 1,
        };
        assert!(matches!(leader.dues(0)[..], [Due::List]));
        leader.listed(Ok(vec![object]), 0);
        assert!(matches!(leader.dues(0)[..], [Due::Entry(6, _)]));
        // It may be for this that the object is needless.
        assert!(leader.admit(Action::Record(Record::Alive)).is_empty());
        let effects = leader.wrote(Ok(Created::Ours), 0, &scheduler);
        assert!(matches!(effects.as_deref(), Some([])), "{effects:?}");
        assert!(matches!(leader.dues(0)[..], [Due::Entry(7, _)]));
        let effects = leader.wrote(Ok(Created::Ours), 0, &scheduler);
        let [Effect::Do(Action::Cleanup { job, objects })] = &effects.expect("it leads")[..] else {
            panic!("it is not removed");
        };
        let expected = (object.stage, object.task, object.attempt);
        assert_eq!((*job, &objects[..]), (object.job, &[expected][..]));
    }
}
