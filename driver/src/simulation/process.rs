//! A simulated driver process: the real leader, election and journal around a simulated store, and
//! the future of every piece of work, polled when the store has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::task::noop_waker;
use kiln_engine::Result;
use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::storage::{Compression, Created, ShuffleObject, ShuffleStore, Stores};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::store::{SharedGate, SimStore};
use crate::journal::JournalStore;
use crate::journal::election::{Campaign, Sight, Watch};
use crate::leader::Leader;
use crate::scheduler::{Event, Millis, Scheduler};
use crate::settings::DriverSettings;

/// What came of a piece of work.
pub(super) enum Done {
    Look(Result<Sight>),
    Campaign(Millis, Result<Campaign>),
    Wrote(Result<Created>),
    Compacted(Result<u64>),
    Listed(Result<Vec<ShuffleObject>>),
    Tidied(JobId, Option<Box<Event>>),
}

type Work = Pin<Box<dyn Future<Output = Done>>>;

/// The clock of a process: it began somewhere, and runs at its own pace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What it shows at the simulation's time 0.
    pub(super) offset: Millis,
    /// How far it gets while the simulation's gets to 100.
    pub(super) pace: Millis,
}

impl Clock {
    /// What it shows at a time of the simulation.
    pub(super) fn at(self, now: Millis) -> Millis {
        self.offset + now * self.pace / 100
    }

    /// When it will show this.
    pub(super) fn when(self, shows: Millis) -> Millis {
        (shows.saturating_sub(self.offset) * 100).div_ceil(self.pace)
    }
}

/// A driver process.
pub(super) struct Process {
    pub(super) settings: DriverSettings,
    pub(super) journal: JournalStore,
    pub(super) stores: Arc<Stores>,
    pub(super) shuffle: ShuffleStore,
    /// It does nothing until then.
    pub(super) stalled_until: Millis,
    /// It has resigned, and ends when that is written.
    pub(super) leaves: bool,
    pub(super) clock: Clock,
    pub(super) role: Role,
    works: Vec<(bool, Work)>,
}

/// What a process is at the moment.
pub(super) enum Role {
    StandsBy(Watch),
    Leads(Box<Leading>),
}

/// A leadership.
pub(super) struct Leading {
    pub(super) scheduler: Scheduler,
    /// Who submits is known by the key of the job.
    pub(super) leader: Leader<u64>,
    pub(super) keys: BTreeMap<u64, JobId>,
    pub(super) hidden: BTreeSet<JobId>,
    /// The stream of each executor that has one.
    pub(super) streams: BTreeMap<ExecutorId, u64>,
}

impl Process {
    pub(super) fn new(
        number: u64,
        disk: &Arc<InMemory>,
        gate: &SharedGate,
        settings: DriverSettings,
        clock: Clock,
    ) -> Self {
        let store = Arc::new(SimStore::new(Arc::clone(disk), gate.clone(), number));
        let stores = Stores::new();
        stores.insert_multipart("memory://", Arc::clone(&store));
        let store: Arc<dyn ObjectStore> = store;
        let shuffle = ShuffleStore::new(Arc::clone(&store), "cluster".into(), Compression::None);
        let watch = Watch::started(&settings.url, settings.leader_lease_ms);
        Process {
            settings,
            journal: JournalStore::new(store, "cluster".into(), "memory:///cluster"),
            stores: Arc::new(stores),
            shuffle,
            stalled_until: 0,
            leaves: false,
            clock,
            role: Role::StandsBy(watch),
            works: Vec::new(),
        }
    }

    /// Begins something that is done again and again.
    pub(super) fn repeat(&mut self, work: impl Future<Output = Done> + 'static) {
        self.works.push((true, Box::pin(work)));
    }

    /// Begins something that has to come to its end.
    pub(super) fn work(&mut self, work: impl Future<Output = Done> + 'static) {
        self.works.push((false, Box::pin(work)));
    }

    /// Whether nothing is under way that has to come to its end.
    pub(super) fn is_idle(&self) -> bool {
        self.works.iter().all(|(repeats, _)| *repeats)
    }

    /// Goes on with all work as far as it comes; gives what is finished.
    pub(super) fn poll(&mut self) -> Vec<Done> {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut done = Vec::new();
        self.works
            .retain_mut(|(_, work)| match work.as_mut().poll(&mut context) {
                Poll::Ready(outcome) => {
                    done.push(outcome);
                    false
                }
                Poll::Pending => true,
            });
        done
    }

    /// Leads no longer, and watches who does.
    pub(super) fn stand_by(&mut self, watch: Watch) {
        self.works.clear();
        self.leaves = false;
        self.role = Role::StandsBy(watch);
    }

    pub(super) fn leading(&mut self) -> Option<&mut Leading> {
        match &mut self.role {
            Role::Leads(leading) => Some(leading),
            Role::StandsBy(_) => None,
        }
    }
}
