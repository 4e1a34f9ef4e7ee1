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
use crate::journal::election::{Campaign, Watch, Won, campaign};
use crate::settings::DriverSettings;
use crate::work::Components;

/// How often a standby looks at the lease.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the store may take to say who leads: it is asked again soon.
const LEASE_WAIT: Duration = Duration::from_secs(2);

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
        let answer = loop {
            let mut driver = match &self.components.journal {
                None => self.alone(),
                Some(journal) => {
                    let stood_by = self.stand_by(journal, &mut inbox, &mut handles).await;
                    let (won, since) = match stood_by {
                        Standby::Won(won, since) => (won, since),
                        Standby::Stopped(answer) => break answer,
                    };
                    match self.lead(journal, *won, since) {
                        Ok(driver) => driver,
                        Err(error) => {
                            tracing::error!(reason = error.report(), "cannot lead");
                            sleep(Duration::from_millis(self.settings.leader_lease_ms)).await;
                            continue;
                        }
                    }
                }
            };
            match driver.run(&mut inbox, &mut handles).await {
                End::Stopped(answer) => break answer,
                End::Deposed => self.board.lock().stand_by(None),
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
        inbox: &mut mpsc::Receiver<Input>,
        handles: &mut oneshot::Receiver<()>,
    ) -> Standby {
        let mut vigil = Box::pin(self.watch(journal));
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
    async fn watch(&self, journal: &JournalStore) -> (Box<Won>, Instant) {
        let started = Instant::now();
        let mut watch = Watch::new(&self.settings.url, self.settings.leader_lease_ms);
        loop {
            let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let tries = match timeout(LEASE_WAIT, journal.lease()).await {
                Ok(Ok(lease)) => watch.look(now(), lease),
                Err(_) => false,
                Ok(Err(error)) => {
                    tracing::warn!(reason = error.report(), "the lease cannot be read");
                    false
                }
            };
            let leader = watch.leader().map(str::to_owned);
            self.board.lock().stand_by(leader.as_deref());
            if tries || watch.is_newest() && is_refused(leader.as_deref()).await {
                let since = Instant::now();
                match self.campaign(journal, watch.newest()).await {
                    Ok(Campaign::Won(won)) => return (won, since),
                    Ok(Campaign::Lost(newest)) => watch.wait(now(), newest),
                    Err(error) => tracing::warn!(reason = error.report(), "cannot lead yet"),
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn campaign(&self, journal: &JournalStore, newest: u64) -> Result<Campaign> {
        let writer = WriterId(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_ms = since_epoch.unwrap_or_default().as_millis();
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        campaign(journal, writer, &self.settings.url, at_ms, newest).await
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

/// Whether nobody listens where the leader should be: then its process is gone. Anything else, a
/// network that answers nothing for instance, says nothing.
async fn is_refused(url: Option<&str>) -> bool {
    let address = url.and_then(|url| url.strip_prefix("http://"));
    let Some(address) = address else {
        return false;
    };
    match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Tells those who watch jobs, when it is dropped, that there is no more to come.
struct Closing(SharedBoard);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().close();
    }
}
