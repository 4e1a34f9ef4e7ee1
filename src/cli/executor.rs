//! `kiln executor`: be an executor of a cluster.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use kiln::{Error, ErrorKind};
use kiln_engine::memory::{self, DiskBudget, MemoryBudget};
use kiln_engine::storage::Stores;
use kiln_executor::{Components, ExecutorSettings};

use super::allocator;
use super::args::ExecutorArgs;
use super::exit::{Failure, Outcome};
use super::interrupt::Signals;

/// Runs the command: works until a signal or the driver says that it is enough.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &ExecutorArgs) -> Outcome {
    if args.until_stdin_ends {
        exit_with_stdin()?;
    }
    let (settings, components) = prepare(args).map_err(Failure::Job)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("kiln-io")
        .enable_all()
        .build()
        .map_err(|error| Failure::Job(cannot_start(error)))?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new().map_err(cannot_start)?;
        let asked_to_leave = async move {
            signals.next().await;
            tracing::info!("leaving when what runs is done; once more to leave at once");
            tokio::spawn(async move {
                signals.next().await;
                std::process::exit(130);
            });
        };
        kiln_executor::serve(settings, components, asked_to_leave).await
    });
    served.map_err(|error| match error.kind() {
        ErrorKind::Unavailable => Failure::Unreachable(error),
        _ => Failure::Job(error),
    })
}

fn prepare(args: &ExecutorArgs) -> Result<(ExecutorSettings, Components), Error> {
    let cores = || available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or_else(cores);
    let memory = args.memory.unwrap_or_else(memory::default_limit);
    let threads_u32 = u32::try_from(threads)
        .map_err(|_| Error::invalid(format!("too many threads threads={threads}")))?;
    let mut settings = ExecutorSettings::new(name(), threads_u32, memory);
    settings.driver = args.cluster.driver.urls().to_vec();
    settings.drain_wait = Duration::from_secs(args.drain_timeout);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|at| format!("kiln-lane-{at}"))
        .build()
        .map_err(cannot_start)?;
    let disk = DiskBudget::new(args.spill_limit.unwrap_or(u64::MAX), None);
    let budget = MemoryBudget::with_disk(memory, disk);
    if args.memory.is_some() {
        allocator::stay_near(&budget);
    }
    let components = Components::new(Arc::new(Stores::new()), Arc::new(pool), budget, None);
    Ok((settings, components))
}

/// Host name and process id: what people look for when an executor is in trouble.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() {
        "localhost"
    } else {
        host.trim()
    };
    format!("{host}:{}", std::process::id())
}

/// Ends this process at once when its stdin does, which is when whoever started it is gone.
fn exit_with_stdin() -> Outcome {
    std::thread::Builder::new()
        .name("kiln-parent".to_owned())
        .spawn(|| {
            // Whether it ends or breaks: nobody is there any more.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        })
        .map_err(|error| Failure::Job(cannot_start(error)))?;
    Ok(())
}

fn cannot_start(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::exhausted("cannot start threads").with_source(error)
}
