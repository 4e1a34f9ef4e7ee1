//! Which driver leads: finding it, and finding the next one when it is lost.
//!
//! Every question goes to the driver that answered last. When that one is gone, stands still or
//! says that it does not lead, all of the list are asked in turn, again and again after a pause
//! that grows and is drawn at random, until one leads or patience is at an end. Its invariant: an
//! error that a driver gives for an answer is never taken for its absence, nor the other way round.

use std::time::Duration;

use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::address::Drivers;
use kiln_proto::convert::status::error_from;
use kiln_proto::message::{PROTOCOL_VERSION, STOPPED, is_absence};
use kiln_proto::wire;
use kiln_proto::wire::jobs_client::JobsClient;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long a driver may take to accept a connection and to answer a first question before the
/// next one is asked; half as much again in every further round.
const ANSWER_WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest of these.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Pause after the second round; doubled after every further one. There is none after the first.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Which drivers there are, and how long to wait for them.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// All drivers of the cluster.
    pub drivers: Drivers,
    /// How long the first connection waits for drivers that say nothing. Where all connections are
    /// refused it does not wait.
    pub answer_wait: Duration,
    /// How long it waits for one to lead, if there is one that does not.
    pub leader_wait: Duration,
    /// How long a client that was connected waits for a driver that it has lost.
    pub patience: Duration,
}

impl ClientSettings {
    /// The defaults, for these drivers.
    pub fn new(drivers: Drivers) -> Self {
        ClientSettings {
            drivers,
            answer_wait: Duration::from_secs(5),
            leader_wait: Duration::from_secs(15),
            patience: Duration::from_secs(60),
        }
    }
}

/// A way to the driver that leads, as far as is known.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    pub(super) jobs: JobsClient<Channel>,
    url: String,
    /// Counts the ways that were found.
    number: u64,
}

/// The drivers of a cluster, and the way to the one that leads.
#[derive(Debug)]
pub(super) struct Leaders {
    settings: ClientSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leader: Option<Leader>,
    /// Position in the list of whom to ask first.
    next: usize,
    found: u64,
    /// It was said that the driver is lost, and not yet that it is back.
    is_missed: bool,
}

/// Why a round through the list has found nobody who leads.
struct Nobody {
    reason: Error,
    /// Somebody answered, who does not lead.
    standby: bool,
    /// Somebody said nothing, and may only be slow.
    silent: bool,
}

/// The time that one who waits has spent without a driver.
#[derive(Debug)]
pub(super) struct Absence {
    patience: Duration,
    since: Option<Instant>,
    answer_wait: Duration,
    pause: Duration,
}

impl Absence {
    /// Nobody is missed yet.
    pub(super) fn new(patience: Duration) -> Self {
        Absence {
            patience,
            since: None,
            answer_wait: ANSWER_WAIT_MIN,
            pause: Duration::ZERO,
        }
    }

    /// Something arrived, so the next absence is another one.
    pub(super) fn end(&mut self) {
        *self = Absence::new(self.patience);
    }

    /// Waits a little before the next round.
    ///
    /// # Errors
    /// `reason`, as the cause of an error that tells how long nobody was there, when patience is
    /// at an end.
    async fn rest(&mut self, reason: Error, drivers: &Drivers) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() + self.pause >= self.patience {
            let patience = self.patience;
            let text = format!("the driver did not come back in {patience:?} url={drivers}");
            return Err(Error::unavailable(text).with_source(reason));
        }
        self.pause().await;
        Ok(())
    }

    async fn pause(&mut self) {
        sleep(self.pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.answer_wait = self.answer_wait.mul_f64(1.5).min(ANSWER_WAIT_MAX);
    }
}

impl Leaders {
    /// Finds the driver that leads.
    ///
    /// # Errors
    /// `Unavailable` if nobody answers or nobody leads, `Invalid` if one speaks another version.
    pub(super) async fn find(settings: ClientSettings) -> Result<Self> {
        let leaders = Leaders {
            settings,
            state: Mutex::default(),
        };
        let settings = &leaders.settings;
        let started = Instant::now();
        let mut absence = Absence::new(Duration::MAX);
        let mut patience = Duration::ZERO;
        loop {
            let mut state = leaders.state.lock().await;
            let left = patience
                .max(settings.answer_wait)
                .saturating_sub(started.elapsed());
            let wait = absence
                .answer_wait
                .min(left.max(ANSWER_WAIT_MIN))
                .min(settings.answer_wait);
            let nobody = match leaders.round(&mut state, wait).await? {
                Ok(_) => break,
                Err(nobody) => nobody,
            };
            drop(state);
            if nobody.silent {
                patience = patience.max(settings.answer_wait);
            }
            if nobody.standby && patience < settings.leader_wait {
                tracing::warn!(drivers = %settings.drivers, "no driver leads yet, waiting");
                patience = settings.leader_wait;
            }
            if started.elapsed() + absence.pause >= patience {
                return Err(leaders.unreachable(nobody));
            }
            absence.pause().await;
        }
        Ok(leaders)
    }

    /// Nobody is missed yet by whoever has a question.
    pub(super) fn absence(&self) -> Absence {
        Absence::new(self.settings.patience)
    }

    /// Asks the driver that leads, again for as long as patience lasts when there is none.
    ///
    /// # Errors
    /// The driver's answer, if that is an error; `Unavailable` when patience is at an end.
    pub(super) async fn ask<T, A>(
        &self,
        absence: &mut Absence,
        question: impl Fn(JobsClient<Channel>) -> A,
    ) -> Result<(T, Leader)>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let leader = self.leader(absence).await?;
            match question(leader.jobs.clone()).await {
                Ok(answer) => return Ok((answer.into_inner(), leader)),
                Err(status) => self.lost(&leader, &status, absence).await?,
            }
        }
    }

    /// Takes note of how a question to `leader` ended, and waits a little before the next one.
    ///
    /// # Errors
    /// `status` as an error if it is the driver's answer; `Unavailable` when patience is at an end.
    pub(super) async fn lost(
        &self,
        leader: &Leader,
        status: &Status,
        absence: &mut Absence,
    ) -> Result<()> {
        let reason = absent(status, &leader.url)?;
        self.forget(leader, &reason).await;
        absence.rest(reason, &self.settings.drivers).await
    }

    /// As [`Self::lost`], for a stream that has ended though there was more to come.
    pub(super) async fn left(&self, leader: &Leader, absence: &mut Absence) -> Result<()> {
        let reason = Error::unavailable(STOPPED);
        self.forget(leader, &reason).await;
        absence.rest(reason, &self.settings.drivers).await
    }

    async fn forget(&self, leader: &Leader, reason: &Error) {
        let mut state = self.state.lock().await;
        let is_current = |current: &Leader| current.number == leader.number;
        if !state.leader.as_ref().is_some_and(is_current) {
            return;
        }
        state.leader = None;
        // It may stand still; another one that answers costs less time.
        state.next = (state.next + 1) % self.settings.drivers.urls().len();
        if !std::mem::replace(&mut state.is_missed, true) {
            let url = &leader.url;
            tracing::warn!(url, reason = reason.report(), "driver lost, trying again");
        }
    }

    /// The driver that leads, found again if it was lost.
    async fn leader(&self, absence: &mut Absence) -> Result<Leader> {
        loop {
            // One at a time looks for it.
            let mut state = self.state.lock().await;
            if let Some(leader) = &state.leader {
                return Ok(leader.clone());
            }
            let reason = match self.round(&mut state, absence.answer_wait).await? {
                Ok(leader) => return Ok(leader),
                Err(nobody) => nobody.reason,
            };
            drop(state);
            absence.rest(reason, &self.settings.drivers).await?;
        }
    }

    /// Asks every driver once whether it leads.
    ///
    /// # Errors
    /// The answer of one that no other can be expected to give better.
    async fn round(&self, state: &mut State, wait: Duration) -> Result<Result<Leader, Nobody>> {
        let urls = self.settings.drivers.urls();
        let mut nobody = Nobody {
            reason: Error::unavailable("there is no driver"),
            standby: false,
            silent: false,
        };
        for at in (state.next..urls.len()).chain(0..state.next) {
            let url = &urls[at];
            match timeout(wait, leads(url, wait)).await {
                Ok(Ok(Ok(jobs))) => return Ok(Ok(state.found(at, url, jobs))),
                Ok(Ok(Err(absent))) => {
                    nobody.standby |= is_absence(&absent);
                    nobody.reason = absent;
                }
                Ok(Err(answer)) => return Err(answer),
                Err(_elapsed) => {
                    nobody.silent = true;
                    let silence = Error::unavailable(format!("no answer in {wait:?}"));
                    nobody.reason = wire::unreachable_driver(url).with_source(silence);
                }
            }
        }
        Ok(Err(nobody))
    }

    fn unreachable(&self, nobody: Nobody) -> Error {
        let drivers = &self.settings.drivers;
        let text = match drivers.urls() {
            _ if nobody.standby => format!("no driver leads url={drivers}"),
            [_] => return nobody.reason,
            _ => format!("cannot reach any driver url={drivers}"),
        };
        Error::unavailable(text).with_source(nobody.reason)
    }
}

impl State {
    fn found(&mut self, at: usize, url: &str, jobs: JobsClient<Channel>) -> Leader {
        match std::mem::take(&mut self.is_missed) {
            true => tracing::warn!(url, "driver is back"),
            false => tracing::info!(url, "the driver leads"),
        }
        self.next = at;
        self.found += 1;
        let leader = Leader {
            jobs,
            url: url.to_owned(),
            number: self.found,
        };
        self.leader = Some(leader.clone());
        leader
    }
}

/// A way to the driver at `url` if it leads; why not, if it does not or is not there.
///
/// # Errors
/// Its answer, if that is another error.
async fn leads(url: &str, wait: Duration) -> Result<Result<JobsClient<Channel>, Error>> {
    let channel = match wire::connect(url, wait).await {
        Ok(channel) => channel,
        Err(error) if error.kind() == ErrorKind::Unavailable => return Ok(Err(error)),
        Err(error) => return Err(error),
    };
    let mut jobs = wire::jobs_client(channel);
    let question = wire::ListRequest {
        protocol: PROTOCOL_VERSION,
    };
    match jobs.executors(question).await {
        Ok(_) => Ok(Ok(jobs)),
        Err(status) => absent(&status, url).map(Err),
    }
}

/// Why the driver at `url` is not there to be asked.
///
/// # Errors
/// `status` as an error, if it is the driver's answer.
fn absent(status: &Status, url: &str) -> Result<Error> {
    let error = error_from(status);
    let from_driver = !status.details().is_empty();
    if from_driver && is_absence(&error) {
        return Ok(error);
    }
    if from_driver || error.kind() != ErrorKind::Unavailable {
        return Err(error);
    }
    Ok(wire::unreachable_driver(url).with_source(error))
}
