//! `kiln driver`: be the driver of a cluster.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use kiln::Error;
use kiln_driver::{Components, Driver, DriverHandle, DriverSettings, JournalStore, service};
use kiln_engine::scratch::{Scratch, ScratchKind};
use kiln_engine::storage::ShuffleStore;
use kiln_engine::storage::{Stores, local_url, parse_location};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::args::{DriverArgs, TimingArgs};
use super::exit::{Failure, Outcome};
use super::interrupt::Signals;

/// Runs the command: serves until Ctrl-C or SIGTERM.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &DriverArgs) -> Outcome {
    let settings = settings(args.timing, args.allow_programs, args.max_jobs)?;
    check_address(args.listen, args.insecure)?;
    block_on(async {
        let mut signals = Signals::new().map_err(cannot_start)?;
        let place = Place {
            listen: args.listen,
            advertise: args.advertise.clone(),
            storage: args.storage.as_deref(),
        };
        let serving = Serving::start(settings, place).await?;
        writeln!(io::stdout(), "{}", serving.banner())?;
        signals.next().await;
        serving.stop().await
    })
}

/// Runs all there is to do in a process that mostly waits.
///
/// # Errors
/// What `work` answered, or `Job` if there are no threads left.
pub(crate) fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("kiln-io")
        .enable_all()
        .build()
        .map_err(cannot_start)?;
    let outcome = runtime.block_on(work);
    // The plan of a job that is not wanted any more may still be in the making.
    runtime.shutdown_background();
    outcome
}

/// The settings that the arguments ask for.
///
/// # Errors
/// `Usage` if they cannot work together.
pub(crate) fn settings(
    timing: TimingArgs,
    allow_programs: bool,
    max_jobs: Option<usize>,
) -> Outcome<DriverSettings> {
    let default = DriverSettings::default();
    let mut settings = DriverSettings {
        allow_programs,
        jobs_max: max_jobs.unwrap_or(default.jobs_max),
        ..default
    };
    let times = [
        (&mut settings.heartbeat_ms, timing.heartbeat_ms),
        (&mut settings.lease_ms, timing.lease_ms),
        (&mut settings.grace_ms, timing.grace_ms),
        (&mut settings.leader_lease_ms, timing.leader_lease_ms),
    ];
    for (setting, asked) in times {
        *setting = asked.unwrap_or(*setting);
    }
    settings.validate().map_err(Failure::Usage)?;
    Ok(settings)
}

/// Refuses to be reachable from elsewhere by accident: who can connect can read every file that
/// the executors can.
///
/// # Errors
/// `Usage`.
pub(crate) fn check_address(listen: SocketAddr, insecure: bool) -> Outcome {
    if listen.ip().is_loopback() || insecure {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "whoever can reach this address could use the cluster: listen on loopback, or insist with \
         --insecure listen={listen}"
    )))
}

/// Where a driver is.
pub(crate) struct Place<'a> {
    /// The address to listen on.
    pub(crate) listen: SocketAddr,
    /// How others reach it, if not at that address.
    pub(crate) advertise: Option<String>,
    /// Where it keeps objects and its journal; none for a temporary directory and no journal.
    pub(crate) storage: Option<&'a str>,
}

/// A driver that serves.
pub(crate) struct Serving {
    /// Where it listens, as executors and clients dial it.
    pub(crate) url: String,
    storage: String,
    driver: DriverHandle,
    stop: oneshot::Sender<()>,
    served: JoinHandle<kiln::Result<()>>,
    /// Removed with this value, when nobody named a place to keep things.
    _scratch: Option<Scratch>,
}

impl Serving {
    /// Listens at its place and leads, now or when nobody else does.
    ///
    /// # Errors
    /// The address is taken, or the storage cannot be used.
    pub(crate) async fn start(mut settings: DriverSettings, place: Place<'_>) -> Outcome<Self> {
        let Place {
            listen,
            advertise,
            storage,
        } = place;
        let (storage, scratch) = open_storage(storage)?;
        let stores = Arc::new(Stores::new());
        let shuffle = ShuffleStore::open(&stores, &storage).map_err(Failure::Job)?;
        let journal = match &scratch {
            None => Some(JournalStore::open(&stores, &storage).map_err(Failure::Job)?),
            Some(_) => None,
        };
        let components = Components {
            stores,
            shuffle,
            storage_url: storage.clone(),
            journal,
        };
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let what = format!("cannot listen at address={listen}");
            Failure::Job(Error::unavailable(what).with_source(error))
        })?;
        let address = listener.local_addr().map_err(cannot_start)?;
        let url = advertise.unwrap_or_else(|| format!("http://{address}"));
        settings.url.clone_from(&url);
        let driver = Driver::start(settings, components).map_err(Failure::Job)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(service::serve(driver.clone(), listener, async move {
            // Told to, or whoever could tell is gone: the same.
            let _ = stopped.await;
        }));
        Ok(Serving {
            url,
            storage,
            driver,
            stop,
            served,
            _scratch: scratch,
        })
    }

    /// What the process says first, for people and for scripts.
    pub(crate) fn banner(&self) -> String {
        format!("listening on {} storage={}", self.url, self.storage)
    }

    /// Ends the driver and the connections to it.
    ///
    /// # Errors
    /// What serving ended with.
    pub(crate) async fn stop(self) -> Outcome {
        self.driver.shutdown().await;
        // It may have ended by itself, which the next line tells.
        let _ = self.stop.send(());
        match self.served.await {
            Ok(served) => served.map_err(Failure::Job),
            Err(panic) => {
                let error = Error::internal("the driver's service panicked").with_source(panic);
                Err(Failure::Job(error))
            }
        }
    }
}

fn open_storage(storage: Option<&str>) -> Outcome<(String, Option<Scratch>)> {
    if let Some(storage) = storage {
        return Ok((parse_location(storage).map_err(Failure::Usage)?, None));
    }
    let scratch = Scratch::create(&std::env::temp_dir(), ScratchKind::Driver);
    let scratch = scratch.map_err(|error| {
        let error = Error::exhausted("cannot make a temporary directory").with_source(error);
        Failure::Job(error)
    })?;
    Ok((local_url(scratch.path()), Some(scratch)))
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::Job(Error::exhausted("cannot start").with_source(error))
}
