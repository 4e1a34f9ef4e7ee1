//! What a leading driver writes down, and what waits until that is written.
//!
//! Whatever others can see, and follows from something that happened, waits until that is in the
//! journal: the answer that a job was taken, the news that it has ended, the acknowledgement of a
//! report, a task that reads what others wrote, and everything that changes or removes what is
//! stored. So a driver that dies at any moment has promised nothing that the next one does not
//! know, and one that does not lead any more, without knowing it yet, does no harm.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kiln_engine::Result;
use kiln_engine::id::{JobId, TaskId};
use kiln_engine::plan::{TaskInput, TaskSpec};
use kiln_engine::storage::{Created, ShuffleObject};
use kiln_proto::message::Record;

use crate::journal::election::Won;
use crate::journal::log::Log;
use crate::scheduler::{Action, Millis};
use crate::settings::DriverSettings;

/// How often, at least, an entry is written though nothing happens, in milliseconds.
const RENEW_MS_MAX: Millis = 1_000;

/// Pause in milliseconds before an entry is written again of which nothing is known; doubled each
/// time.
const RETRY_MS_MIN: Millis = 50;

/// The longest such pause.
const RETRY_MS_MAX: Millis = 2_000;

/// Bytes of entries after which a snapshot is worth its while, whatever is in them.
const SNAPSHOT_BYTES_MIN: u64 = 8 << 20;

/// Something that waits.
pub(crate) enum Held<A> {
    /// Something to be done.
    Action(Action),
    /// Somebody to be told that a job was taken.
    Accepted(JobId, A),
    /// Everybody to be told that a job has ended.
    Ended(JobId),
    /// Objects of which some may be of jobs that nobody needs any more.
    Sweep(Vec<ShuffleObject>),
}

/// The journal of a driver that leads.
pub(crate) struct Ledger<A> {
    log: Log,
    /// What waits, by the entry that it waits for.
    held: BTreeMap<u64, Vec<Held<A>>>,
    /// Launches that wait, and for which entry: what is said of them has to wait behind them.
    launches: BTreeMap<(TaskId, u32), u64>,
    /// The entry that tells the stages and tasks of a job, and the last one that tells anything of
    /// it, as long as they are not written.
    structure: BTreeMap<JobId, u64>,
    latest: BTreeMap<JobId, u64>,
    /// Times in a row that it was not known whether an entry was written.
    failures: u32,
    retry_at: Option<Millis>,
    renew_at: Millis,
    /// How long after an entry the next one is written though nothing happens: one that takes a
    /// while comes in time, too.
    renew_ms: Millis,
    /// When the entry that is on its way began to be written for the first time.
    writing_since: Option<Millis>,
    /// Until then nobody else can have begun to lead, if no clock runs twice as fast as another.
    trusted_until: Millis,
    /// How long that is after the beginning of an entry.
    trust_ms: Millis,
    /// How long after that beginning others wait before they try to lead.
    lease_ms: Millis,
    snapshot: Snapshot,
}

/// When the next snapshot is due.
struct Snapshot {
    bytes: u64,
    entries: u64,
    /// Bytes of the last one.
    last: u64,
    under_way: bool,
    /// Entries after which one is due.
    every: u64,
}

impl<A> Ledger<A> {
    /// The ledger of a leadership for which a driver began to campaign at `since`.
    pub(crate) fn new(won: &Won, settings: &DriverSettings, since: Millis) -> Self {
        let trust_ms = settings.leader_lease_ms / 2;
        let renew_ms = RENEW_MS_MAX.min(trust_ms / 2);
        Ledger {
            log: Log::new(won.term, won.writer, won.began),
            held: BTreeMap::new(),
            launches: BTreeMap::new(),
            structure: BTreeMap::new(),
            latest: BTreeMap::new(),
            failures: 0,
            retry_at: None,
            renew_at: since + renew_ms,
            renew_ms,
            writing_since: None,
            trusted_until: since + trust_ms,
            trust_ms,
            lease_ms: settings.leader_lease_ms,
            snapshot: Snapshot {
                bytes: won.journal.bytes,
                entries: won.journal.entries.len() as u64,
                last: 0,
                under_way: false,
                every: settings.snapshot_entries,
            },
        }
    }

    /// Until then nobody else can have begun to lead, so what is known here is up to date.
    pub(crate) fn trusted_until(&self) -> Millis {
        self.trusted_until
    }

    /// The driver leads no longer, by its own will: as soon as that is written others may.
    pub(crate) fn resign(&mut self) {
        (self.trusted_until, self.trust_ms) = (0, 0);
        self.append_empty(&Record::Resigned);
    }

    /// The leadership.
    pub(crate) fn term(&self) -> u64 {
        self.log.term()
    }

    /// Has something written down.
    ///
    /// # Errors
    /// `Invalid` if it cannot be encoded; then nothing has changed.
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        self.log.append(record)?;
        if let Some(job) = record.job() {
            let newest = self.log.newest();
            self.latest.insert(job, newest);
            if !matches!(record, Record::Won(_)) {
                self.structure.insert(job, newest);
            }
        }
        Ok(())
    }

    /// Has a record written down that has nothing in it.
    fn append_empty(&mut self, record: &Record) {
        if let Err(error) = self.append(record) {
            tracing::error!(reason = error.report(), "an empty record cannot be encoded");
        }
    }

    /// Something to be done: it comes back if it may be done now, and waits if not.
    pub(crate) fn admit(&mut self, action: Action) -> Option<Action> {
        let until = self.waits_for(&action);
        if until <= self.log.durable() {
            return Some(action);
        }
        if let Action::Launch { spec, .. } = &action {
            self.launches.insert((spec.id, spec.attempt), until);
        }
        self.hold_until(until, Held::Action(action));
        None
    }

    /// The entry that has to be written before `action`.
    fn waits_for(&self, action: &Action) -> u64 {
        match action {
            Action::Launch { spec, .. } => self.told_by(spec),
            Action::Cancel { task, attempt, .. } => {
                let launch = self.launches.get(&(*task, *attempt));
                launch.copied().unwrap_or_default()
            }
            Action::Forget { .. } | Action::Record(_) => 0,
            Action::Plan { .. }
            | Action::Acknowledge { .. }
            | Action::EndJob { .. }
            | Action::Commit { .. }
            | Action::Discard { .. }
            | Action::Cleanup { .. }
            | Action::Drop { .. } => self.log.newest(),
        }
    }

    /// The entry that tells what a task is and what it reads. Tasks that read input files do not
    /// wait for what others have done meanwhile.
    fn told_by(&self, spec: &TaskSpec) -> u64 {
        let reads_files = matches!(spec.input, TaskInput::Splits(_)) && spec.sides.is_empty();
        let told = match reads_files {
            true => self.structure.get(&spec.id.job),
            false => self.latest.get(&spec.id.job),
        };
        told.copied().unwrap_or_default()
    }

    /// Has something wait until all that happened so far is written.
    pub(crate) fn hold(&mut self, held: Held<A>) {
        self.hold_until(self.log.newest(), held);
    }

    fn hold_until(&mut self, entry: u64, held: Held<A>) {
        self.held.entry(entry).or_default().push(held);
    }

    /// What need not wait any longer, in the order in which it came.
    pub(crate) fn release(&mut self) -> VecDeque<Held<A>> {
        let durable = self.log.durable();
        let behind = self.held.split_off(&(durable + 1));
        let released = std::mem::replace(&mut self.held, behind);
        self.launches.retain(|_, entry| *entry > durable);
        self.structure.retain(|_, entry| *entry > durable);
        self.latest.retain(|_, entry| *entry > durable);
        released.into_values().flatten().collect()
    }

    /// An entry to be written now.
    pub(crate) fn next_write(&mut self, now: Millis) -> Option<(u64, Bytes)> {
        if self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        if self.log.is_settled() && now >= self.renew_at {
            self.append_empty(&Record::Alive);
        }
        let write = self.log.take()?;
        self.writing_since.get_or_insert(now);
        self.renew_at = now + self.renew_ms;
        Some(write)
    }

    /// How writing an entry went; false if this driver leads no longer.
    pub(crate) fn wrote(&mut self, outcome: Result<Created>, now: Millis) -> bool {
        match outcome {
            Ok(Created::Ours) => {
                self.log.written();
                self.snapshot.bytes += self.log.take_bytes();
                self.snapshot.entries += 1;
                (self.failures, self.retry_at) = (0, None);
                let since = self.writing_since.take().unwrap_or_default();
                self.trusted_until = self.trusted_until.max(since + self.trust_ms);
                true
            }
            Ok(Created::Theirs(_)) => false,
            Err(error) => {
                self.log.failed();
                let pause = RETRY_MS_MIN << self.failures.min(10);
                self.failures += 1;
                self.retry_at = Some(now + pause.min(RETRY_MS_MAX));
                tracing::warn!(reason = error.report(), "the journal cannot be written");
                true
            }
        }
    }

    /// Whether everything is written.
    pub(crate) fn is_settled(&self) -> bool {
        self.log.is_settled()
    }

    /// When something is to be written though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let renew = self.log.is_settled().then_some(self.renew_at);
        let cut_off = self.writing_since.map(|since| since + self.lease_ms);
        renew.into_iter().chain(self.retry_at).chain(cut_off).min()
    }

    /// Whether nothing could be written for a lease: others lead by now, if they can write.
    pub(crate) fn is_cut_off(&self, now: Millis) -> bool {
        let since = self.writing_since;
        since.is_some_and(|since| now >= since + self.lease_ms)
    }

    /// Whether to write a snapshot now.
    pub(crate) fn wants_snapshot(&mut self) -> bool {
        let Snapshot {
            bytes,
            entries,
            last,
            under_way,
            every,
        } = &mut self.snapshot;
        let enough = *bytes >= SNAPSHOT_BYTES_MIN.max(2 * *last) || *entries >= *every;
        let wants = enough && !*under_way;
        if wants {
            (*bytes, *entries, *under_way) = (0, 0, true);
        }
        wants
    }

    /// How writing a snapshot went.
    pub(crate) fn compacted(&mut self, outcome: Result<u64>) {
        self.snapshot.under_way = false;
        match outcome {
            Ok(bytes) => self.snapshot.last = bytes,
            Err(error) => {
                tracing::warn!(reason = error.report(), "the journal was not compacted");
            }
        }
    }
}
