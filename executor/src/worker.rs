//! The executor proper: one loop between a link to the driver and the task pool.
//!
//! It speaks the plain messages of [`kiln_proto::message`] over a [`Link`] and does not know what
//! carries them. Its state outlives a link: attempts go on while the connection is gone, and what
//! they report is told to the next one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use kiln_engine::context::{CancelToken, Shared, TaskContext};
use kiln_engine::id::{ExecutorId, TaskId};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::plan::TaskSpec;
use kiln_engine::storage::ShuffleStore;
use kiln_engine::storage::Stores;
use kiln_engine::task;
use kiln_engine::{Error, Result};
use kiln_proto::message::{FromExecutor, PROTOCOL_VERSION, Registration, ToExecutor, Welcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::outbox::Outbox;
pub use crate::pool::Runner;
use crate::pool::{Ended, TaskPool};
use crate::programs::Programs;
use crate::settings::{ExecutorSettings, FAREWELL_WAIT, WELCOME_WAIT};

/// The two directions of a connection to a driver. The driver is gone when either is closed.
#[derive(Debug)]
pub struct Link {
    /// What the executor says.
    pub to_driver: mpsc::Sender<FromExecutor>,
    /// What it hears.
    pub from_driver: mpsc::Receiver<ToExecutor>,
}

/// What an executor works with.
#[derive(Clone)]
pub struct Components {
    /// Where input and output files are.
    pub stores: Arc<Stores>,
    /// The threads that compute.
    pub pool: Arc<rayon::ThreadPool>,
    /// The bytes that tasks may reserve.
    pub memory: Arc<MemoryBudget>,
    /// Where shuffle objects are; none to use the place that the driver names in its welcome.
    pub shuffle: Option<ShuffleStore>,
    /// Runs one attempt.
    pub run: Runner,
}

impl Components {
    /// What a process that runs tasks of the engine works with.
    pub fn new(
        stores: Arc<Stores>,
        pool: Arc<rayon::ThreadPool>,
        memory: Arc<MemoryBudget>,
        shuffle: Option<ShuffleStore>,
    ) -> Self {
        let run: Runner = Arc::new(|spec, context| Box::pin(task::run(spec, context)));
        Components {
            stores,
            pool,
            memory,
            shuffle,
            run,
        }
    }
}

/// Why an executor stopped working over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was told to leave, and everything that it did is acknowledged.
    Drained,
    /// The driver is gone.
    Disconnected,
}

/// Works over one link until the driver is gone, or until `shutdown` or the driver's `Drain` and
/// the acknowledgement of everything that was running then. Attempts that are running when the
/// driver is gone are cancelled.
///
/// # Errors
/// `Invalid` if the driver refuses the registration; whatever opening its storage answers.
pub async fn run(
    settings: ExecutorSettings,
    components: Components,
    link: Link,
    shutdown: impl Future<Output = ()>,
) -> Result<Exit> {
    settings.check()?;
    let mut worker = Worker::new(&settings, components);
    let exit = worker.work(link, WELCOME_WAIT, pin!(shutdown)).await;
    worker.stop().await;
    exit
}

/// One life of an executor.
pub(crate) struct Worker {
    components: Components,
    /// What tasks that run at the same time make for one another.
    shared: Arc<Shared>,
    tasks: TaskPool,
    /// Runs the attempts that call functions of users' programs.
    programs: Arc<Programs>,
    outbox: Outbox,
    /// The newest driver life heard of; launches of older ones are ignored.
    epoch: u64,
    /// What the newest driver said in its welcome, and the store opened for it.
    welcome: Option<(Welcome, ShuffleStore)>,
    /// How long what runs may go on once it is to leave.
    drain_wait: Duration,
    patience: Patience,
}

/// How much longer an executor that leaves waits for what it runs.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// It does not leave, or nothing is left to be done about what runs.
    Endless,
    /// Then the rest is handed back.
    HandBackAt(Instant),
    /// Then what does not stop is dropped.
    DropAt(Instant),
}

impl Patience {
    async fn ends(self) {
        match self {
            Patience::Endless => std::future::pending().await,
            Patience::HandBackAt(at) | Patience::DropAt(at) => sleep_until(at).await,
        }
    }
}

impl Worker {
    pub(crate) fn new(settings: &ExecutorSettings, components: Components) -> Self {
        let registration = Registration {
            executor: ExecutorId(fastrand::u64(..)),
            name: settings.name.clone(),
            protocol: PROTOCOL_VERSION,
            threads: settings.threads,
            slots: settings.slots,
            memory: settings.memory,
        };
        Worker {
            tasks: TaskPool::new(settings.slots),
            programs: Programs::new(settings, Arc::clone(&components.memory)),
            shared: Arc::default(),
            outbox: Outbox::new(registration),
            components,
            epoch: 0,
            welcome: None,
            drain_wait: settings.drain_wait,
            patience: Patience::Endless,
        }
    }

    /// Gets ready for another link; answers whether the driver behind the last one has welcomed
    /// this executor.
    pub(crate) fn hang_up(&mut self) -> bool {
        let was_welcome = self.outbox.is_welcome();
        self.outbox.start_over();
        was_welcome
    }

    /// Whether this executor is on its way out.
    pub(crate) fn is_draining(&self) -> bool {
        self.outbox.is_draining()
    }

    /// Works over one link, whose driver has `welcome_wait` to answer the registration.
    pub(crate) async fn work(
        &mut self,
        link: Link,
        welcome_wait: Duration,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Exit> {
        let Link {
            to_driver,
            mut from_driver,
        } = link;
        let mut beat = Instant::now() + welcome_wait;
        while !self.is_drained() {
            tokio::select! {
                message = from_driver.recv() => match message {
                    None => return Ok(Exit::Disconnected),
                    Some(ToExecutor::Welcome(welcome)) => {
                        if !self.accept(welcome)? {
                            return Ok(Exit::Disconnected);
                        }
                        beat = Instant::now();
                    }
                    Some(message) => self.obey(message)?,
                },
                room = to_driver.reserve(), if self.outbox.has_next() => {
                    let Ok(room) = room else { return Ok(Exit::Disconnected) };
                    if let Some(message) = self.outbox.next(self.tasks.running()) {
                        room.send(message);
                    }
                }
                ended = self.tasks.next() => self.note(ended),
                () = sleep_until(beat) => {
                    if !self.outbox.is_welcome() {
                        tracing::warn!("the driver does not answer the registration");
                        return Ok(Exit::Disconnected);
                    }
                    self.outbox.beat(self.components.memory.used());
                    beat = Instant::now() + self.heartbeat();
                }
                () = shutdown.as_mut(), if !self.is_draining() => self.drain(),
                () = self.patience.ends() => self.lose_patience(),
            }
        }
        Ok(Exit::Drained)
    }

    /// Awaits `other` while there is no link: attempts go on and end. None if there is nothing
    /// left to wait for, because the executor leaves and owes nothing.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        other: impl Future<Output = T>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<T> {
        let mut other = pin!(other);
        while !self.is_drained() {
            tokio::select! {
                value = other.as_mut() => return Some(value),
                ended = self.tasks.next() => self.note(ended),
                () = shutdown.as_mut(), if !self.is_draining() => self.drain(),
                () = self.patience.ends() => self.lose_patience(),
            }
        }
        None
    }

    /// Cancels what still runs, and ends the processes of programs.
    pub(crate) async fn stop(self) {
        self.tasks.stop().await;
        self.programs.stop().await;
    }

    fn is_drained(&self) -> bool {
        self.is_draining() && self.tasks.is_empty() && self.outbox.is_settled()
    }

    fn drain(&mut self) {
        if self.is_draining() {
            return;
        }
        tracing::info!(
            running = self.tasks.len(),
            "finishing what runs, then leaving"
        );
        self.outbox.drain();
        self.patience = Patience::HandBackAt(Instant::now() + self.drain_wait);
    }

    /// What was to finish has not.
    fn lose_patience(&mut self) {
        let running = self.tasks.len();
        self.patience = match self.patience {
            Patience::HandBackAt(_) => {
                tracing::info!(running, "handing back what runs");
                self.tasks.hand_back();
                Patience::DropAt(Instant::now() + FAREWELL_WAIT)
            }
            Patience::DropAt(_) | Patience::Endless => {
                match running {
                    0 => tracing::warn!("no driver takes the last reports"),
                    _ => tracing::warn!(running, "attempts did not stop when cancelled"),
                }
                self.tasks.abort();
                Patience::Endless
            }
        };
    }

    fn note(&mut self, ended: Option<Ended>) {
        if let Some(Ended { attempt, outcome }) = ended {
            let (task, number) = attempt;
            tracing::debug!(%task, attempt = number, well = outcome.is_ok(), "ended");
            self.outbox.report(attempt, outcome);
        }
    }

    fn heartbeat(&self) -> Duration {
        let welcome = self
            .welcome
            .as_ref()
            .expect("heartbeats begin with the welcome");
        Duration::from_millis(welcome.0.heartbeat_ms.max(1))
    }

    /// Takes a driver's welcome; false if it comes from an older driver of this storage than one
    /// heard of. Drivers of different storages know nothing of one another.
    fn accept(&mut self, welcome: Welcome) -> Result<bool> {
        let known = self
            .welcome
            .as_ref()
            .filter(|(old, _)| old.storage == welcome.storage);
        if known.is_some() && welcome.epoch < self.epoch {
            tracing::warn!(
                epoch = welcome.epoch,
                newest = self.epoch,
                "an older driver answers"
            );
            return Ok(false);
        }
        self.epoch = welcome.epoch;
        let shuffle = match (&self.components.shuffle, known) {
            (Some(given), _) => given.clone(),
            (None, Some((_, open))) => open.clone(),
            (None, None) => ShuffleStore::open(&self.components.stores, &welcome.storage)?,
        };
        tracing::info!(epoch = welcome.epoch, storage = %welcome.storage, "the driver welcomes");
        self.welcome = Some((welcome, shuffle));
        self.outbox.welcome();
        Ok(true)
    }

    /// Does as it is told by the driver of this link, which is the newest that it has heard of.
    /// Before the welcome that is not known, and nothing is done.
    fn obey(&mut self, message: ToExecutor) -> Result<()> {
        if !self.outbox.is_welcome() && !matches!(message, ToExecutor::Refused { .. }) {
            tracing::warn!("ignored a message that came before the welcome");
            return Ok(());
        }
        match message {
            // Taken apart by the loop, whose clock it starts.
            ToExecutor::Welcome(_) => {}
            ToExecutor::Refused { message } => {
                let text = format!("the driver refuses this executor: {message}");
                return Err(Error::invalid(text));
            }
            ToExecutor::Launch { epoch, spec } => self.launch(epoch, spec),
            ToExecutor::Cancel { task, attempt } => self.tasks.cancel((task, attempt)),
            ToExecutor::Acknowledge { sequence } => self.outbox.acknowledge(sequence),
            ToExecutor::Drain => self.drain(),
            ToExecutor::JobEnded { job } => {
                let programs = Arc::clone(&self.programs);
                tokio::spawn(async move { programs.end_job(job).await });
            }
        }
        Ok(())
    }

    fn launch(&mut self, epoch: u64, spec: TaskSpec) {
        let (task, attempt): (TaskId, u32) = (spec.id, spec.attempt);
        if epoch < self.epoch {
            tracing::warn!(%task, attempt, epoch, newest = self.epoch, "ignored an old launch");
            return;
        }
        let Some((welcome, shuffle)) = &self.welcome else {
            return;
        };
        self.epoch = epoch;
        if self
            .outbox
            .unacknowledged()
            .any(|ended| ended == (task, attempt))
        {
            return;
        }
        tracing::debug!(%task, attempt, "launched");
        let Components {
            stores,
            pool,
            memory,
            ..
        } = &self.components;
        let context = TaskContext {
            pool: Arc::clone(pool),
            memory: memory.share(),
            stores: Arc::clone(stores),
            shuffle: shuffle.clone(),
            metrics: Arc::new(TaskMetrics::default()),
            cancel: CancelToken::default(),
            shared: Arc::clone(&self.shared),
            functions: Arc::default(),
        };
        let run = match spec.program {
            None => Arc::clone(&self.components.run),
            Some(_) => self.in_process_of_program(welcome.storage.clone()),
        };
        self.tasks.launch(spec, context, run);
    }

    /// Runs an attempt in a process of the program whose functions it calls.
    fn in_process_of_program(&self, storage: String) -> Runner {
        let programs = Arc::clone(&self.programs);
        Arc::new(move |spec, context| {
            let programs = Arc::clone(&programs);
            Box::pin(programs.run(spec, storage.clone(), context))
        })
    }
}
