//! The session of an executor process with its driver; the one file here that owns a socket.
//!
//! The executor dials, the driver never does. A connection that breaks is made again, after a
//! pause that grows and is drawn at random, so that a restarted driver is not overrun; the worker
//! goes on meanwhile and repeats over the new connection what was not acknowledged. Without any
//! driver for long enough, what the attempts do is of no use to anybody, and the executor leaves.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::StreamExt;
use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::convert::control::{decode_to_executor, encode_from_executor};
use kiln_proto::convert::status::error_from;
use kiln_proto::message::{FromExecutor, ToExecutor};
use kiln_proto::wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::settings::{
    BACKOFF_MAX, BACKOFF_MIN, DIAL_WAIT, ExecutorSettings, FAREWELL_WAIT, LINK_MESSAGES_MAX,
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
    let mut absent_since = Instant::now();
    let mut patience = settings.first_connection_wait;
    let mut pause = BACKOFF_MIN;
    let mut urls = settings.driver.iter().cycle();
    loop {
        let none = || Error::invalid("an executor needs the URL of its driver");
        let url = urls.next().ok_or_else(none)?;
        let lost = match attach(url, worker, shutdown.as_mut()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            Err(error) => return Err(error),
        };
        if worker.hang_up() {
            (absent_since, pause) = (Instant::now(), BACKOFF_MIN);
            patience = settings.driver_absence_max;
        }
        if worker.is_draining() {
            patience = patience.min(settings.first_connection_wait);
        }
        if absent_since.elapsed() + pause > patience {
            return Err(lost);
        }
        tracing::warn!(url, reason = lost.report(), "not attached, trying again");
        let jitter = 0.5 + 0.5 * fastrand::f64();
        let rest = sleep(pause.mul_f64(jitter));
        if worker.meanwhile(rest, shutdown.as_mut()).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Works over one connection until everything is done that was to be done.
///
/// # Errors
/// `Unavailable` if the connection was not made or has ended before.
async fn attach(
    url: &str,
    worker: &mut Worker,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let dialled = worker
        .meanwhile(wire::connect(url, DIAL_WAIT), shutdown.as_mut())
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
            shutdown,
        )
        .await;
    // The link is dropped. If the stream has ended too, the pump knows why; if not, it delivers
    // what is under way and sees the driver end the stream.
    let wait = if exit.is_ok() {
        FAREWELL_WAIT
    } else {
        Duration::ZERO
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
