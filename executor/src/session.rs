//! The session of an executor process with its driver; the one file here that owns a socket.
//!
//! The executor dials, the driver never does. When a connection breaks, all drivers are tried in
//! turn until one welcomes this executor, round after round with pauses that grow and are drawn at
//! random, so that a restarted driver is not overrun; the worker goes on meanwhile and repeats over
//! the new connection what was not acknowledged. There is never more than one connection, so what
//! an older driver still has to say is not heard once a newer one has welcomed this executor.
//! Without any driver for long enough, what the attempts do is of no use to anybody, and the
//! executor leaves.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::StreamExt;
use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::convert::control::{decode_to_executor, encode_from_executor};
use kiln_proto::convert::status::error_from;
use kiln_proto::message::{FromExecutor, ToExecutor, is_absence};
use kiln_proto::wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::settings::{
    ANSWER_WAIT_MAX, ANSWER_WAIT_MIN, BACKOFF_MAX, BACKOFF_MIN, ExecutorSettings, FAREWELL_WAIT,
    LINK_MESSAGES_MAX, REASON_WAIT,
};
use crate::worker::{Components, Exit, Link, Worker};

/// Works for the driver at one of the settings' URLs until `shutdown` or the driver's `Drain`;
/// then finishes what runs and returns.
///
/// # Errors
/// `Unavailable` if there is no driver for longer than the settings allow; `Invalid` if the driver
/// refuses this executor; whatever opening its storage answers.
pub async fn serve(
    settings: ExecutorSettings,
    components: Components,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    settings.check()?;
    let mut worker = Worker::new(&settings, components);
    let served = serve_on(&mut worker, &settings, pin!(shutdown)).await;
    worker.stop().await;
    served
}

async fn serve_on(
    worker: &mut Worker,
    settings: &ExecutorSettings,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let mut search = Search::new(settings)?;
    loop {
        let url = search.url();
        let lost = match attach(url, search.answer_wait, worker, shutdown.as_mut()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            Err(error) => return Err(error),
        };
        let was_welcome = worker.hang_up();
        if was_welcome || search.is_first {
            tracing::warn!(url, reason = lost.report(), "not attached, trying again");
        } else {
            tracing::debug!(url, reason = lost.report(), "not attached, trying again");
        }
        let is_draining = worker.is_draining();
        if was_welcome {
            search.begin();
        } else if is_absence(&lost) && !is_draining {
            // Somebody is there, so the one who leads will be found.
            search.since = Instant::now();
        }
        let pause = search.go_on();
        if search.since.elapsed() + pause > search.patience(is_draining) {
            return Err(search.failed(lost));
        }
        if worker
            .meanwhile(sleep(pause), shutdown.as_mut())
            .await
            .is_none()
        {
            return Ok(());
        }
    }
}

/// The search for a driver that welcomes this executor.
struct Search<'a> {
    settings: &'a ExecutorSettings,
    /// Position of the driver to try.
    at: usize,
    /// How many of this round have been tried.
    tried: usize,
    /// How long a driver of this round may take to answer.
    answer_wait: Duration,
    pause: Duration,
    /// Since when nobody was there.
    since: Instant,
    /// There was no driver yet.
    is_new: bool,
    /// None has been tried since the last one was there.
    is_first: bool,
}

impl<'a> Search<'a> {
    fn new(settings: &'a ExecutorSettings) -> Result<Self> {
        if settings.driver.is_empty() {
            return Err(Error::invalid("an executor needs the URL of its driver"));
        }
        Ok(Search {
            settings,
            at: 0,
            tried: 0,
            answer_wait: ANSWER_WAIT_MIN,
            pause: BACKOFF_MIN,
            since: Instant::now(),
            is_new: true,
            is_first: true,
        })
    }

    fn url(&self) -> &'a str {
        &self.settings.driver[self.at]
    }

    /// The driver that was tried last had welcomed this executor and is lost.
    fn begin(&mut self) {
        self.since = Instant::now();
        (self.tried, self.answer_wait) = (0, ANSWER_WAIT_MIN);
        self.pause = BACKOFF_MIN;
        self.is_new = false;
        self.is_first = true;
    }

    /// Goes on to the next driver; how long to wait before it is tried: not at all within a round,
    /// and after a loss only so much that not all executors come at once.
    fn go_on(&mut self) -> Duration {
        let drivers = self.settings.driver.len();
        self.at = (self.at + 1) % drivers;
        let jitter = 0.5 + 0.5 * fastrand::f64();
        if self.tried == 0 && !self.is_new && std::mem::take(&mut self.is_first) {
            return BACKOFF_MIN.mul_f64(jitter);
        }
        self.is_first = false;
        self.tried += 1;
        if !self.tried.is_multiple_of(drivers) {
            return Duration::ZERO;
        }
        let pause = self.pause.mul_f64(jitter);
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        self.answer_wait = self.answer_wait.mul_f64(1.5).min(ANSWER_WAIT_MAX);
        pause
    }

    fn patience(&self, is_draining: bool) -> Duration {
        let first = self.settings.first_connection_wait;
        match (self.is_new, is_draining) {
            (true, _) => first,
            (false, true) => first.min(self.settings.driver_absence_max),
            (false, false) => self.settings.driver_absence_max,
        }
    }

    fn failed(&self, lost: Error) -> Error {
        let urls = &self.settings.driver;
        if urls.len() == 1 {
            return lost;
        }
        let text = format!("cannot reach any driver url={}", urls.join(","));
        Error::unavailable(text).with_source(lost)
    }
}

/// Works over one connection until everything is done that was to be done.
///
/// # Errors
/// `Unavailable` if the connection was not made or has ended before.
async fn attach(
    url: &str,
    answer_wait: Duration,
    worker: &mut Worker,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let dialled = worker
        .meanwhile(wire::connect(url, answer_wait), shutdown.as_mut())
        .await;
    let Some(channel) = dialled else {
        return Ok(());
    };
    let (to_driver, outgoing) = mpsc::channel(LINK_MESSAGES_MAX);
    let (incoming, from_driver) = mpsc::channel(LINK_MESSAGES_MAX);
    let mut pump = tokio::spawn(pump(channel?, outgoing, incoming));
    let exit = worker
        .work(
            Link {
                to_driver,
                from_driver,
            },
            answer_wait,
            shutdown,
        )
        .await;
    // The link is dropped. If the stream has ended too, the pump knows why; if not, it delivers
    // the last words of one who leaves and sees the driver end the stream.
    let wait = match exit {
        Ok(Exit::Drained) => FAREWELL_WAIT,
        Ok(Exit::Disconnected) | Err(_) => REASON_WAIT,
    };
    let ended = timeout(wait, &mut pump).await;
    pump.abort();
    let reason = match ended {
        Ok(Ok(Ok(()))) | Err(_) => Error::unavailable("the stream ended"),
        Ok(Ok(Err(error))) => error,
        Ok(Err(panic)) => Error::internal("the stream's pump panicked").with_source(panic),
    };
    match exit? {
        Exit::Drained => Ok(()),
        // The driver's own word against this executor; anything else may be better next time.
        Exit::Disconnected if reason.kind() == ErrorKind::Invalid => Err(reason),
        Exit::Disconnected if is_absence(&reason) => Err(reason),
        Exit::Disconnected => Err(wire::unreachable_driver(url).with_source(reason)),
    }
}

/// Carries messages between the socket and the worker until either side ends.
async fn pump(
    channel: Channel,
    outgoing: mpsc::Receiver<FromExecutor>,
    incoming: mpsc::Sender<ToExecutor>,
) -> Result<()> {
    let outgoing = ReceiverStream::new(outgoing).map(encode_from_executor);
    let attached = wire::control_client(channel).attach(outgoing).await;
    let mut stream = attached.map_err(|status| error_from(&status))?.into_inner();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| error_from(&status))?
    {
        // A task that cannot be decoded ends the stream: the driver counts its executor as lost,
        // and stops a task that does so twice.
        let message = decode_to_executor(message).map_err(|error| {
            tracing::error!(
                reason = error.report(),
                "the driver's message makes no sense"
            );
            Error::internal("the driver's message makes no sense").with_source(error)
        })?;
        if incoming.send(message).await.is_err() {
            // Drained: stay until the driver ends the stream, so that last words arrive.
            while let Ok(Some(_)) = stream.message().await {}
            return Ok(());
        }
    }
    Ok(())
}
