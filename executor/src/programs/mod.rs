//! Tasks that call functions of a user's program: they run in processes of that program.
//!
//! Such a process is a child of the executor, a *worker*. It is started when the first task of a
//! job wants it, runs one attempt at a time, so that it is known which one it died of, is used
//! again for later tasks of the job, and ends with it. Whatever it does (panic, abort, exit, never
//! return, ask for all the memory that there is) costs its one attempt.
//!
//! # Memory
//!
//! While an attempt runs in a worker, what the engine may reserve there is reserved in the
//! executor's own budget: the share of one slot, or less if that is not to be had, but no less than
//! a quarter of it. Until then the attempt waits for those that hold it, which never wait for it.
//! An idle worker reserves nothing. What the user's functions allocate is not in the budget, as
//! nobody can know it before: it is bounded for each process (`Program.memory`).
//!
//! # Environment
//!
//! A worker has the variables that its program asks for, and of the executor's those by which
//! programs and the user's files are found (`PATH`, `HOME`, `LANG`) and those that object stores
//! read: `AWS_*`, `AZURE_*`, `GOOGLE_*`, proxies and certificates. Its working directory, which is
//! also its `TMPDIR`, is empty, its own, and removed when it ends.

mod attempt;
mod blame;
mod cache;
mod output;
mod process;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kiln_engine::context::{CancelToken, TaskContext};
use kiln_engine::id::JobId;
use kiln_engine::memory::{MemoryBudget, Reservation};
use kiln_engine::plan::{Binary, Program, TaskSpec, TaskSuccess};
use kiln_engine::scratch::{Scratch, ScratchKind};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::WorkerRun;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};

use crate::programs::cache::Cache;
use crate::programs::process::{Executable, Process, Recipe};
use crate::settings::{ExecutorSettings, MEMORY_POLL, ProgramSettings};

/// Variables of the executor that workers have too.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "LANG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TZ",
];

/// So begin the names of further ones: settings and credentials of object stores.
const INHERITED_PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The programs of an executor and their processes.
pub(crate) struct Programs {
    settings: ProgramSettings,
    threads: u32,
    slots: usize,
    /// Bytes that the engine may reserve in one worker.
    share: u64,
    memory: Arc<MemoryBudget>,
    /// Made when the first program is run.
    directory: AsyncMutex<Option<Scratch>>,
    cache: Cache,
    idle: Mutex<Idle>,
}

/// Workers that have nothing to do.
#[derive(Default)]
struct Idle {
    /// By job; a job is here from its first worker until it ends.
    jobs: HashMap<JobId, Vec<(Process, Instant)>>,
    /// Somebody sees to it that they do not stay for ever.
    is_swept: bool,
}

impl Idle {
    /// One of a job, which is known from now on.
    fn take(&mut self, job: JobId) -> Option<Process> {
        let (worker, _) = self.jobs.entry(job).or_default().pop()?;
        Some(worker)
    }

    /// Those that are more than `most` with one that is to be added, idle for longest.
    fn surplus(&mut self, most: usize) -> Vec<(Process, Instant)> {
        let since = self.jobs.values().flatten().map(|(_, since)| *since);
        let mut since: Vec<Instant> = since.collect();
        since.sort();
        let surplus = (since.len() + 1).saturating_sub(most);
        let Some(&last) = surplus.checked_sub(1).and_then(|last| since.get(last)) else {
            return Vec::new();
        };
        self.drain(|since| since <= last)
    }

    /// Those that have been idle since an instant for which `is_over`.
    fn drain(&mut self, is_over: impl Fn(Instant) -> bool) -> Vec<(Process, Instant)> {
        let all = self.jobs.values_mut();
        all.flat_map(|workers| workers.extract_if(.., |(_, since)| is_over(*since)))
            .collect()
    }
}

impl Programs {
    pub(crate) fn new(settings: &ExecutorSettings, memory: Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Programs {
            threads: settings.threads,
            slots: settings.slots as usize,
            share: memory.limit() / u64::from(settings.slots.max(1)),
            memory,
            directory: AsyncMutex::default(),
            cache: Cache::new(settings.programs.kept_bytes),
            idle: Mutex::default(),
            settings: settings.programs.clone(),
        })
    }

    /// Runs an attempt whose shuffle objects are at the URL `storage`.
    ///
    /// # Errors
    /// `Program` for what the program did; what fetching and starting it answers; what the attempt
    /// itself answers.
    pub(crate) async fn run(
        self: Arc<Self>,
        spec: TaskSpec,
        storage: String,
        context: TaskContext,
    ) -> Result<TaskSuccess> {
        let program = spec.program.clone();
        let program = program.ok_or_else(|| Error::internal("a task without a program"))?;
        let job = spec.id.job;
        let reserved = self.reserve(&context.cancel).await?;
        let worker = Box::pin(self.worker(job, &program, &context));
        let mut worker = context.cancel.guard(worker).await?;
        let run = WorkerRun {
            storage,
            memory: reserved.bytes(),
            spec,
        };
        let outcome = attempt::run(&mut worker, run, &context).await;
        drop(reserved);
        if outcome.is_reusable {
            self.put_back(job, worker);
        } else {
            worker.end().await;
        }
        outcome.result
    }

    /// Ends the workers of a job that is over. One that still runs an attempt ends after it.
    pub(crate) async fn end_job(&self, job: JobId) {
        let ended = self.idle().jobs.remove(&job).unwrap_or_default();
        end(ended).await;
    }

    /// Ends all workers that have nothing to do, and removes what was fetched for them.
    pub(crate) async fn stop(&self) {
        let jobs = std::mem::take(&mut self.idle().jobs);
        end(jobs.into_values().flatten().collect()).await;
        *self.directory.lock().await = None;
    }

    /// What the engine may reserve in a worker while an attempt runs there.
    async fn reserve(&self, cancel: &CancelToken) -> Result<Reservation> {
        let mut reserved = self.memory.reserve("worker process");
        loop {
            for part in [1, 2, 4] {
                if reserved.try_grow(self.share / part) {
                    return Ok(reserved);
                }
            }
            cancel.check()?;
            sleep(MEMORY_POLL).await;
        }
    }

    /// A worker of the job that has nothing to do: an old one, or a new one.
    async fn worker(
        &self,
        job: JobId,
        program: &Program,
        context: &TaskContext,
    ) -> Result<Process> {
        while let Some(mut worker) = self.take_back(job) {
            if worker.is_ready() {
                return Ok(worker);
            }
            worker.end().await;
        }
        let surplus = self.idle().surplus(self.slots);
        end(surplus).await;
        let directory = self.directory().await?;
        let binary = match program.binary {
            Binary::Kiln => Executable::File(self.settings.kiln.clone()),
            Binary::Staged { sha256, bytes } => {
                let store = context.shuffle.programs();
                let fetched = self.cache.get((sha256, bytes), &store, &directory).await;
                Executable::Fetched(fetched?)
            }
        };
        Process::start(self.recipe(program, binary, directory)).await
    }

    async fn directory(&self) -> Result<PathBuf> {
        let mut directory = self.directory.lock().await;
        if directory.is_none() {
            let parent = &self.settings.directory;
            let made = Scratch::create(parent, ScratchKind::Programs).map_err(|error| {
                let text = format!(
                    "cannot make a directory for programs in={}",
                    parent.display()
                );
                Error::exhausted(text).with_source(error)
            });
            *directory = Some(made?);
        }
        let path = directory
            .as_ref()
            .map(|directory| directory.path().to_owned());
        path.ok_or_else(|| Error::internal("no directory for programs"))
    }

    fn recipe(&self, program: &Program, binary: Executable, directory: PathBuf) -> Recipe {
        // The engine's reservations are estimates, so there is some room above them.
        let engine = self.share.saturating_add(self.share / 4);
        let memory = engine
            .saturating_add(program.memory)
            .saturating_add(limits::WORKER_MEMORY_BYTES);
        Recipe {
            binary,
            environment: environment(program),
            directory,
            threads: self.threads,
            memory,
            tick: attempt::tick(program.call_ms),
            hello_wait: self.settings.hello_wait,
        }
    }

    /// Keeps a worker for the next attempt of its job, if the job is not over.
    fn put_back(self: &Arc<Self>, job: JobId, worker: Process) {
        let mut idle = self.idle();
        let Some(workers) = idle.jobs.get_mut(&job) else {
            return;
        };
        workers.push((worker, Instant::now()));
        if !std::mem::replace(&mut idle.is_swept, true) {
            let pause = self.settings.idle_max / 4;
            tokio::spawn(sweep(Arc::downgrade(self), pause));
        }
    }

    fn take_back(&self, job: JobId) -> Option<Process> {
        self.idle().take(job)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends workers that have had nothing to do for long, as long as there are programs.
async fn sweep(programs: Weak<Programs>, pause: Duration) {
    loop {
        sleep(pause).await;
        let Some(programs) = programs.upgrade() else {
            return;
        };
        let idle_max = programs.settings.idle_max;
        let ended = programs.idle().drain(|since| since.elapsed() >= idle_max);
        end(ended).await;
    }
}

async fn end(workers: Vec<(Process, Instant)>) {
    for (mut worker, _) in workers {
        worker.end().await;
    }
}

/// The whole environment of a worker, but for what it is told by its executor.
fn environment(program: &Program) -> BTreeMap<OsString, OsString> {
    let inherited = std::env::vars_os().filter(|(name, _)| {
        let Some(name) = name.to_str() else {
            return false;
        };
        INHERITED.contains(&name)
            || INHERITED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
    });
    let given = program.environment.iter();
    let given = given.map(|(name, value)| (name.into(), value.into()));
    inherited.chain(given).collect()
}
