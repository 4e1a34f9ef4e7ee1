//! The life of a driver process: it stands by until it leads, and again when somebody else does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_engine::Result;
use kiln_proto::message::WriterId;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::board::{SharedBoard, stands_by};
use crate::event_loop::{End, EventLoop, Input};
use crate::journal::JournalStore;
use crate::journal::election::{Campaign, Next, Watch, Won, campaign, look};
use crate::settings::DriverSettings;
use crate::work::Components;

/// How often a standby looks at the journal.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the store may take to show what is new in the journal: it is asked again soon.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// How long it may take to show the whole journal.
const LOAD_WAIT: Duration = Duration::from_secs(120);

/// How long whoever leads may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_millis(300);

/// A driver process.
pub(crate) struct Node {
    settings: DriverSettings,
    components: Components,
    board: SharedBoard,
}

/// What a standby has come to.
enum Standby {
    /// It leads, after a campaign that began then.
    Won(Box<Won>, Instant),
    /// It is to stop.
    Stopped(Option<oneshot::Sender<()>>),
}

impl Node {
    pub(crate) fn new(
        settings: DriverSettings,
        components: Components,
        board: SharedBoard,
    ) -> Self {
        if components.journal.is_some() {
            board.lock().stand_by(None);
        }
        Node {
            settings,
            components,
            board,
        }
    }

    /// Runs until the driver is told to stop or nobody holds a handle any more.
    pub(crate) async fn run(
        self,
        mut inbox: mpsc::Receiver<Input>,
        mut handles: oneshot::Receiver<()>,
    ) {
        // However it ends, nobody waits for it any longer.
        let _closing = Closing(self.board.clone());
        let (url, lease_ms) = (&self.settings.url, self.settings.leader_lease_ms);
        let mut watch = Watch::started(url, lease_ms);
        let answer = loop {
            let mut driver = match &self.components.journal {
                None => self.alone(),
                Some(journal) => {
                    let stood_by = self.stand_by(journal, watch, &mut inbox, &mut handles);
                    let stood_by = stood_by.await;
                    watch = Watch::new(lease_ms);
                    let (won, since) = match stood_by {
                        Standby::Won(won, since) => (won, since),
                        Standby::Stopped(answer) => break answer,
                    };
                    match self.lead(journal, *won, since) {
                        Ok(driver) => driver,
                        Err(error) => {
                            tracing::error!(reason = error.report(), "cannot lead");
                            sleep(Duration::from_millis(lease_ms)).await;
                            continue;
                        }
                    }
                }
            };
            match driver.run(&mut inbox, &mut handles).await {
                End::Stopped(answer) => break answer,
                End::Deposed => self.board.lock().stand_by(None),
                End::CutOff => {
                    self.board.lock().stand_by(None);
                    // Where nobody else has led meanwhile, it goes on as soon as it can.
                    watch = Watch::started(url, lease_ms);
                }
            }
        };
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }

    fn alone(&self) -> EventLoop {
        let (settings, components) = (self.settings.clone(), self.components.clone());
        EventLoop::new(settings, components, self.board.clone())
    }

    fn lead(&self, journal: &JournalStore, won: Won, since: Instant) -> Result<EventLoop> {
        let (settings, components) = (self.settings.clone(), self.components.clone());
        let board = self.board.clone();
        EventLoop::leading(settings, components, board, journal.clone(), won, since)
    }

    /// Waits until it is time to lead, and leads; meanwhile everybody is sent away.
    async fn stand_by(
        &self,
        journal: &JournalStore,
        watch: Watch,
        inbox: &mut mpsc::Receiver<Input>,
        handles: &mut oneshot::Receiver<()>,
    ) -> Standby {
        let mut vigil = Box::pin(self.watch(journal, watch));
        loop {
            tokio::select! {
                (won, since) = &mut vigil => return Standby::Won(won, since),
                input = inbox.recv() => match input {
                    None => return Standby::Stopped(None),
                    Some(Input::Stop { answer }) => return Standby::Stopped(Some(answer)),
                    Some(input) => self.refuse(input),
                },
                _ = &mut *handles => return Standby::Stopped(None),
            }
        }
    }

    /// Watches whoever leads, and takes over.
    async fn watch(&self, journal: &JournalStore, mut watch: Watch) -> (Box<Won>, Instant) {
        let started = Instant::now();
        // Where somebody was seen to listen.
        let mut heard: Option<String> = None;
        loop {
            let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let seen = watch.sight().cloned();
            let patience = if seen.is_some() { LOOK_WAIT } else { LOAD_WAIT };
            let mut next = match timeout(patience, look(journal, seen)).await {
                Ok(Ok(sight)) => watch.saw(now(), sight),
                Ok(Err(error)) => {
                    tracing::warn!(reason = error.report(), "the journal cannot be read");
                    Next::Wait
                }
                Err(_) => Next::Wait,
            };
            let leader = watch.leader();
            self.board.lock().stand_by(leader);
            if next == Next::Wait {
                let was_heard = heard.is_some() && heard.as_deref() == leader;
                match listens(leader).await {
                    Some(true) => heard = leader.map(str::to_owned),
                    Some(false) if was_heard => next = Next::Try,
                    Some(false) | None => {}
                }
            }
            if next == Next::Try {
                let since = Instant::now();
                match self.campaign(journal, watch.next()).await {
                    Ok(Campaign::Won(won)) => return (won, since),
                    Ok(Campaign::Lost) => watch.lost(),
                    Err(error) => tracing::warn!(reason = error.report(), "cannot lead yet"),
                }
            }
            if next != Next::LookOn {
                sleep(LOOK_EVERY).await;
            }
        }
    }

    async fn campaign(&self, journal: &JournalStore, next: u64) -> Result<Campaign> {
        let writer = WriterId(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_ms = since_epoch.unwrap_or_default().as_millis();
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        campaign(journal, writer, &self.settings.url, at_ms, next).await
    }

    /// Sends somebody to whoever leads.
    fn refuse(&self, input: Input) {
        let error = || {
            let board = self.board.lock();
            board.check_leads().err().unwrap_or_else(|| stands_by(None))
        };
        // Whoever asked may have gone.
        match input {
            Input::Submit { answer, .. } => drop(answer.send(Err(error()))),
            Input::Cancel { answer, .. } => drop(answer.send(Err(error()))),
            Input::Attach { answer, .. } => drop(answer.send(Err(error()))),
            Input::Heard { .. }
            | Input::Detached { .. }
            | Input::ResultRead { .. }
            | Input::Stop { .. } => {}
        }
    }
}

/// Whether somebody listens where the leader should be. If nobody does any more its process is
/// gone; a network that answers nothing says nothing.
async fn listens(url: Option<&str>) -> Option<bool> {
    let address = url?.strip_prefix("http://")?;
    match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Some(true),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Some(false),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Tells those who watch jobs, when it is dropped, that there is no more to come.
struct Closing(SharedBoard);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().close();
    }
}
