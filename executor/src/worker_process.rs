//! What a process of a user's program does when an executor has started it: it runs tasks.
//!
//! The executor is at the other end of a socket that the process finds as its stdin. It sends one
//! attempt at a time and is told how it ended; the attempt itself is run by the same engine, with
//! threads, stores and memory of this process. Nothing of this protects the process from the
//! functions that it calls: that is the business of the executor, which sees it die or kills it.
//!
//! A thread of its own waits for what the executor says. When the socket ends the executor is gone,
//! and the process ends itself with everything that it has started, whatever its other threads do.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_engine::context::{CancelToken, Shared, TaskContext, panic_message};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::plan::{TaskFailure, TaskSuccess};
use kiln_engine::storage::{ShuffleStore, Stores};
use kiln_engine::udf::{Functions, UdfHost};
use kiln_engine::{Error, Result, task};
use kiln_proto::convert::worker::{decode_to_worker, encode_from_worker};
use kiln_proto::message::{
    FromWorker, PROTOCOL_VERSION, ToWorker, WorkerHello, WorkerRun, WorkerStart, platform,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::board::Board;
use crate::frame;
use crate::settings::PROGRESS_EVERY;

/// The environment variable that tells a program that it was started to run tasks.
pub const VARIABLE: &str = "KILN_WORKER";

/// Threads that wait for local files, at most.
const BLOCKING_THREADS_MAX: usize = 64;

/// Whether this process was started by an executor: then it should call [`main`] as soon as its
/// functions are registered, and do nothing else.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Runs tasks that call `functions` until the executor has no more.
pub fn main(functions: Functions) -> ExitCode {
    match serve(functions) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be said about a stderr that does not take what is said.
            let _ = writeln!(std::io::stderr(), "error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn serve(functions: Functions) -> Result<()> {
    let mut socket = take_stdin()?;
    let hello = FromWorker::Hello(WorkerHello {
        protocol: PROTOCOL_VERSION,
        platform: platform(),
        functions: functions.names().map(str::to_owned).collect(),
    });
    frame::write(&mut socket, &encode_from_worker(&hello)).map_err(broken)?;
    let start = match decode_to_worker(&frame::read(&mut socket).map_err(broken)?)? {
        ToWorker::Start(start) => start,
        _ => return Err(Error::internal("the executor does not start with a start")),
    };
    limit(start.memory)?;
    let to_executor = socket.try_clone().map_err(broken)?;
    let worker = Worker::new(functions, &start, to_executor)?;
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("kiln-worker".to_owned())
        .spawn(move || listen(socket, &sender))
        .map_err(cannot_start)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("kiln-io")
        .enable_all()
        .build()
        .map_err(cannot_start)?;
    runtime.block_on(worker.work(orders))
}

/// The socket that is this process's stdin. User code finds nothing there from now on.
fn take_stdin() -> Result<UnixStream> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = UnixStream::from(socket.map_err(broken)?);
    socket.local_addr().map_err(|error| {
        let text = format!("{VARIABLE} is set, but the stdin of this process is no socket of one");
        Error::invalid(text).with_source(error)
    })?;
    let nothing = File::open("/dev/null").map_err(broken)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(broken)?;
    Ok(socket)
}

/// Bounds what this process can allocate, and leaves no image of it behind when it crashes.
fn limit(memory: u64) -> Result<()> {
    for (resource, bytes) in [(Resource::Data, memory), (Resource::Core, 0)] {
        let allowed = getrlimit(resource).maximum;
        let bytes = Some(allowed.map_or(bytes, |allowed| allowed.min(bytes)));
        let limit = Rlimit {
            current: bytes,
            maximum: bytes,
        };
        let set = setrlimit(resource, limit);
        set.map_err(|error| Error::internal("cannot limit memory").with_source(error))?;
    }
    // Where the machine runs out of memory all the same, this should go before the executor.
    // Nothing is lost where there is no such file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    Ok(())
}

/// Passes on what the executor says until it is gone, and this process with it.
fn listen(mut socket: UnixStream, orders: &mpsc::UnboundedSender<ToWorker>) {
    while let Ok(message) = frame::read(&mut socket) {
        let order = decode_to_worker(&message);
        if !order.is_ok_and(|order| orders.send(order).is_ok()) {
            break;
        }
    }
    // Nobody wants anything of this process any more, least of all that it cleans up. It leads its
    // group if an executor has started it; if not, the group is somebody else's.
    let own = rustix::process::getpid();
    if rustix::process::getpgrp() == own {
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    }
    let _ = rustix::process::kill_process(own, Signal::KILL);
}

/// What all attempts of this process share.
struct Worker {
    pool: Arc<rayon::ThreadPool>,
    stores: Arc<Stores>,
    functions: Arc<UdfHost>,
    to_executor: Mutex<UnixStream>,
}

impl Worker {
    fn new(functions: Functions, start: &WorkerStart, to_executor: UnixStream) -> Result<Self> {
        let tick = Duration::from_millis(start.tick_ms);
        let board = Board::open(Path::new(&start.board), tick).map_err(broken)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(start.threads as usize)
            .thread_name(|lane| format!("kiln-lane-{lane}"))
            .build()
            .map_err(cannot_start)?;
        let functions = UdfHost {
            functions,
            board: Some(Arc::new(board)),
        };
        Ok(Worker {
            pool: Arc::new(pool),
            stores: Arc::new(Stores::new()),
            functions: Arc::new(functions),
            to_executor: Mutex::new(to_executor),
        })
    }

    async fn work(&self, mut orders: mpsc::UnboundedReceiver<ToWorker>) -> Result<()> {
        while let Some(order) = orders.recv().await {
            // An order to stop may come when there is nothing left to stop.
            if let ToWorker::Run(run) = order {
                let outcome = self.attempt(run, &mut orders).await;
                let outcome = outcome.map_err(|error| TaskFailure::from(&error));
                self.say(&FromWorker::Ended(outcome))?;
            }
        }
        Ok(())
    }

    async fn attempt(
        &self,
        run: WorkerRun,
        orders: &mut mpsc::UnboundedReceiver<ToWorker>,
    ) -> Result<TaskSuccess> {
        let context = TaskContext {
            pool: Arc::clone(&self.pool),
            memory: MemoryBudget::new(run.memory),
            shuffle: ShuffleStore::open(&self.stores, &run.storage)?,
            stores: Arc::clone(&self.stores),
            metrics: Arc::new(TaskMetrics::default()),
            cancel: CancelToken::default(),
            shared: Arc::new(Shared::default()),
            functions: Arc::clone(&self.functions),
        };
        let (metrics, cancel) = (Arc::clone(&context.metrics), context.cancel.clone());
        let mut attempt = tokio::spawn(Box::pin(task::run(run.spec, context)));
        let mut beat = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut attempt => return ended.unwrap_or_else(|error| {
                    Err(match error.try_into_panic() {
                        Ok(panic) => panicked(panic_message(&*panic)),
                        Err(_) => Error::internal("the attempt was dropped"),
                    })
                }),
                order = orders.recv() => match order {
                    Some(ToWorker::Cancel) | None => cancel.cancel(),
                    Some(_) => return Err(Error::internal("two attempts in one process")),
                },
                _ = beat.tick() => self.say(&FromWorker::Progress(metrics.counts()))?,
            }
        }
    }

    fn say(&self, message: &FromWorker) -> Result<()> {
        let mut socket = self
            .to_executor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *socket, &encode_from_worker(message)).map_err(broken)
    }
}

fn panicked(message: &str) -> Error {
    Error::internal(format!("the task panicked: {message}"))
}

fn broken(error: impl Into<std::io::Error>) -> Error {
    let text = "the connection of a worker process with its executor is broken";
    Error::internal(text).with_source(error.into())
}

fn cannot_start(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::exhausted("cannot start threads").with_source(error)
}
