//! A worker process: started, spoken with, killed, and always reaped.
//!
//! It leads a process group, and whenever it is to end the whole group is killed, before the
//! process is reaped: until then its number is its own and no other process can be hit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kiln_engine::{Error, ErrorKind, Result};
use kiln_proto::convert::worker::{decode_from_worker, encode_to_worker};
use kiln_proto::message::{FromWorker, PROTOCOL_VERSION, ToWorker, WorkerHello, WorkerStart};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::board::Watch;
use crate::frame;
use crate::programs::cache::Cached;
use crate::programs::output::Output;
use crate::settings::{BUSY_FILE_WAIT, DEATH_WAIT};
use crate::worker_process;

/// Messages of a worker that wait to be looked at; then the worker waits.
const MESSAGES_MAX: usize = 16;

/// Tells the mimalloc allocator, in programs that use it, to ask for memory when it needs it. By
/// default it asks for a gigabyte at once, which counts against the limit of the process.
const NO_EAGER_COMMIT: (&str, &str) = ("MIMALLOC_ARENA_EAGER_COMMIT", "0");

/// How often something is looked at that is about to happen.
const SOON: Duration = Duration::from_millis(5);

/// What a worker process is made from.
pub(super) struct Recipe {
    /// What is run.
    pub(super) binary: Executable,
    /// The whole environment.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// The directory in which it gets one of its own.
    pub(super) directory: PathBuf,
    /// Threads that compute.
    pub(super) threads: u32,
    /// Bytes of memory that it may have.
    pub(super) memory: u64,
    /// How often a call that goes on says so.
    pub(super) tick: Duration,
    /// How long it may take to say that it is a worker.
    pub(super) hello_wait: Duration,
}

/// What a process runs.
#[derive(Clone)]
pub(super) enum Executable {
    /// A program that was fetched; it stays while a process runs it.
    Fetched(Arc<Cached>),
    /// A file of this machine.
    File(PathBuf),
}

impl Executable {
    fn path(&self) -> &Path {
        match self {
            Executable::Fetched(program) => program.path(),
            Executable::File(path) => path,
        }
    }
}

/// A worker process.
pub(super) struct Process {
    child: Child,
    group: Pid,
    to_worker: OwnedWriteHalf,
    from_worker: mpsc::Receiver<Result<FromWorker>>,
    watch: Watch,
    output: Output,
    memory: u64,
    is_over: bool,
    _binary: Executable,
    _directory: TempDir,
}

impl Process {
    /// Starts one and sees that it is a worker. If this is dropped on the way it is killed.
    ///
    /// # Errors
    /// `Program` if it cannot be started or is no worker, `Exhausted` if there is no room for it.
    pub(super) async fn start(recipe: Recipe) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("worker-")
            .tempdir_in(&recipe.directory);
        let directory = directory.map_err(no_room)?;
        let work = directory.path().join("work");
        std::fs::create_dir(&work).map_err(no_room)?;
        let board = directory.path().join("board");
        let watch = Watch::create(&board).map_err(no_room)?;
        let (ours, theirs) = StdUnixStream::pair().map_err(no_room)?;
        ours.set_nonblocking(true).map_err(no_room)?;
        let (from_worker, to_worker) = UnixStream::from_std(ours).map_err(no_room)?.into_split();
        let mut child = spawn(&recipe, &work, theirs.into()).await?;
        let pid = child.id().unwrap_or_default();
        let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let mut output = Output::new();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            output.follow(pid, stdout);
            output.follow(pid, stderr);
        }
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        tokio::spawn(receive(from_worker, sender));
        let mut process = Process {
            child,
            group: group.ok_or_else(|| Error::internal("a process without a number"))?,
            to_worker,
            from_worker: receiver,
            watch,
            output,
            memory: recipe.memory,
            is_over: false,
            _binary: recipe.binary,
            _directory: directory,
        };
        let board = board.into_os_string().into_string();
        let start = WorkerStart {
            threads: recipe.threads,
            memory: recipe.memory,
            board: board.map_err(|_| Error::invalid("the program directory is not UTF-8"))?,
            tick_ms: u64::try_from(recipe.tick.as_millis()).unwrap_or(u64::MAX),
        };
        process.greet(start, recipe.hello_wait).await?;
        tracing::debug!(pid, "started a worker process");
        Ok(process)
    }

    /// Waits for the first message and answers it.
    async fn greet(&mut self, start: WorkerStart, patience: Duration) -> Result<()> {
        let hello = match timeout(patience, self.next()).await {
            Ok(Some(Ok(FromWorker::Hello(hello)))) => hello,
            Ok(Some(_)) => return Err(self.no_worker("it sent what no worker sends").await),
            Ok(None) if self.is_dead_soon().await => {
                let status = self.end().await;
                let what = status.map_or_else(String::new, |status| status.to_string());
                return Err(self.no_worker(&format!("it ended: {what}")).await);
            }
            Ok(None) => return Err(self.no_worker("it closed its stdin").await),
            Err(_) => {
                let what = format!("it said nothing for {} ms", patience.as_millis());
                return Err(self.no_worker(&what).await);
            }
        };
        check_build(&hello)?;
        match self.say(&ToWorker::Start(start)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.no_worker("it ended when it was to start").await),
        }
    }

    async fn no_worker(&mut self, what: &str) -> Error {
        self.end().await;
        let mut text =
            format!("the program did not become a worker, as one that runs an App does: {what}");
        let last_words = self.output.last_words().await;
        if !last_words.is_empty() {
            text.push_str(&format!(" output={last_words:?}"));
        }
        Error::new(ErrorKind::Program, text)
    }

    /// The next message; none if the connection has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<FromWorker>> {
        self.from_worker.recv().await
    }

    /// Sends a message. If this is dropped before it is sent, the process is of no more use.
    ///
    /// # Errors
    /// `Invalid` for what cannot be sent, `Unavailable` if the connection has ended.
    pub(super) async fn say(&mut self, message: &ToWorker) -> Result<()> {
        let broken = |error| Error::unavailable("a worker process is gone").with_source(error);
        let frame = frame::framed(&encode_to_worker(message)?);
        let frame = frame.map_err(|error| Error::invalid("a task").with_source(error))?;
        self.to_worker.write_all(&frame).await.map_err(broken)
    }

    /// Where the process announces its calls.
    pub(super) fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// What it writes.
    pub(super) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Bytes of memory that it may have.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether it waits for something to do. What it says while it has nothing to do is nonsense.
    pub(super) fn is_ready(&mut self) -> bool {
        let says_nothing = matches!(
            self.from_worker.try_recv(),
            Err(mpsc::error::TryRecvError::Empty)
        );
        says_nothing && !self.is_dead()
    }

    /// Whether it is dead, though it may not be reaped yet.
    pub(super) fn is_dead(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error is that there is no such child: it was reaped.
        self.is_over
            || rustix::process::waitid(WaitId::Pid(self.group), options)
                .map_or(true, |status| status.is_some())
    }

    /// Whether it dies by itself within a little while, as it should after its connection ended.
    pub(super) async fn is_dead_soon(&self) -> bool {
        let end = Instant::now() + DEATH_WAIT;
        while !self.is_dead() {
            if Instant::now() > end {
                return false;
            }
            sleep(SOON).await;
        }
        true
    }

    /// Kills what is left of it and of what it has started, and reaps it; how it ended, unless
    /// that is not known.
    pub(super) async fn end(&mut self) -> Option<ExitStatus> {
        self.kill();
        self.is_over = true;
        self.child.wait().await.ok()
    }

    fn kill(&self) {
        if !self.is_over {
            // An error is that nobody is left.
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    /// The runtime reaps what is dropped before it has ended.
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the process, in a moment if its file is still open for writing.
async fn spawn(recipe: &Recipe, work: &Path, stdin: OwnedFd) -> Result<Child> {
    let path = recipe.binary.path();
    let end = Instant::now() + BUSY_FILE_WAIT;
    loop {
        let stdin = stdin.try_clone().map_err(no_room)?;
        let spawned = Command::new(path)
            .arg0("kiln-worker")
            .env_clear()
            .envs(&recipe.environment)
            .env(worker_process::VARIABLE, "1")
            .env("TMPDIR", work)
            .env(NO_EAGER_COMMIT.0, NO_EAGER_COMMIT.1)
            .current_dir(work)
            .process_group(0)
            .kill_on_drop(true)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return Ok(child),
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < end =>
            {
                sleep(SOON).await;
            }
            Err(error) => {
                let text = format!("cannot start the program path={}", path.display());
                return Err(Error::new(ErrorKind::Program, text).with_source(error));
            }
        }
    }
}

/// Decodes what a worker says until its connection ends or it says what makes no sense.
async fn receive(mut from: OwnedReadHalf, to: mpsc::Sender<Result<FromWorker>>) {
    loop {
        let message = match frame::next(&mut from).await {
            Ok(message) => decode_from_worker(&message),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(Error::invalid(error.to_string()))
            }
            Err(_) => return,
        };
        let is_nonsense = message.is_err();
        if to.send(message).await.is_err() || is_nonsense {
            return;
        }
    }
}

fn check_build(hello: &WorkerHello) -> Result<()> {
    if hello.protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the program was built with another version of kiln than this executor, build it with the \
         same program={} executor={PROTOCOL_VERSION} (versions of the protocol)",
        hello.protocol
    )))
}

fn no_room(error: std::io::Error) -> Error {
    Error::exhausted("there is no room for a worker process").with_source(error)
}
