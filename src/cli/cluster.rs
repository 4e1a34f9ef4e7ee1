//! `kiln cluster`: a driver and executors on this machine, for as long as this command runs.
//!
//! The driver is in this process, every executor is a process of its own. An executor's stdin is a
//! pipe whose other end is here: when this process is gone, however that came, the pipe ends and
//! the executor with it.

use std::io::{self, Write as _};
use std::process::Stdio;
use std::time::Duration;

use kiln::Error;
use kiln_engine::memory;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::args::ClusterArgs;
use super::driver::{self, Place, Serving};
use super::exit::{Failure, Outcome};
use super::interrupt::Signals;

/// How long executors may take to go before they are killed.
const FAREWELL_WAIT: Duration = Duration::from_secs(5);

/// Runs the command: until Ctrl-C or SIGTERM.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ClusterArgs) -> Outcome {
    let settings = driver::settings(args.timing, args.allow_programs, args.max_jobs)?;
    driver::check_address(args.listen, args.insecure)?;
    driver::block_on(async {
        let mut signals = Signals::new().map_err(cannot_start)?;
        let place = Place {
            listen: args.listen,
            advertise: None,
            storage: args.storage.as_deref(),
        };
        let serving = Serving::start(settings, place).await?;
        let mut out = io::stdout();
        writeln!(out, "{}", serving.banner())?;
        let mut executors = Vec::with_capacity(args.executors);
        for number in 1..=args.executors {
            let executor = Executor::start(number, &serving.url, args)?;
            writeln!(out, "executor {number} pid={}", executor.pid)?;
            executors.push(executor);
        }
        let watched = executors.iter_mut().map(Executor::watch);
        tokio::select! {
            () = signals.next() => {}
            // All are gone, and said to be; the driver goes on for others that may come.
            _ = futures::future::join_all(watched) => signals.next().await,
        }
        let stopped = executors.into_iter().map(Executor::stop);
        futures::future::join_all(stopped).await;
        serving.stop().await
    })
}

/// An executor process.
struct Executor {
    number: usize,
    pid: u32,
    /// Held apart from the child, which closes it as soon as somebody waits.
    stdin: Option<ChildStdin>,
    child: Child,
}

impl Executor {
    fn start(number: usize, driver: &str, args: &ClusterArgs) -> Outcome<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args
            .threads_per_executor
            .unwrap_or((cores / args.executors).max(1));
        let memory = memory::default_limit() / args.executors as u64;
        let program = std::env::current_exe().map_err(cannot_start)?;
        let mut child = Command::new(program)
            .args(["executor", "--until-stdin-ends", "--driver", driver])
            .args([
                "--threads",
                &threads.to_string(),
                "--memory",
                &memory.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for this process, which then ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_start)?;
        let pid = child.id().unwrap_or_default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // With stderr closed there is nobody left to tell.
                    let _ = writeln!(io::stderr(), "[executor {number}] {line}");
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Executor {
            number,
            pid,
            stdin,
            child,
        })
    }

    /// Waits for the executor to end though nobody asked it to, and says so.
    async fn watch(&mut self) {
        if let Ok(status) = self.child.wait().await {
            tracing::warn!(
                "executor {} pid={} has ended: {status}",
                self.number,
                self.pid
            );
        }
    }

    /// Ends the executor; what it was working on is given up.
    async fn stop(mut self) {
        drop(self.stdin.take());
        if timeout(FAREWELL_WAIT, self.child.wait()).await.is_err() {
            // It may end between the two; then there is nothing to kill.
            let _ = self.child.kill().await;
        }
    }
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::Job(Error::exhausted("cannot start a process").with_source(error))
}
