//! What is logged, and how: to stderr, as `RUST_LOG` says; warnings where it says nothing.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging.
pub(crate) fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Keeps panics off stderr that somebody else tells of: a panic on a worker thread, of a decoder
/// that got a damaged file say, is caught and becomes the error of its task, which is one line.
/// Here it is logged, for those who look for its place. On the main thread nobody catches it.
pub(crate) fn contain_panics() {
    panic::set_hook(Box::new(|panic| {
        if thread::current().name() == Some("main") {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: this is a bug in kiln: {panic}");
        } else {
            log_panic(panic);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::debug!(
        thread = thread::current().name(),
        backtrace = backtrace.map(tracing::field::display),
        "{panic}"
    );
}
