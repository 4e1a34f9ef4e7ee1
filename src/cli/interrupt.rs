//! Ctrl-C and SIGTERM, seen from a command that waits for something.
//!
//! The first one is a request that the command answers when it looks; the second one ends the
//! process there and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::Error;

use super::exit::Failure;

const EXIT_CODE: i32 = 130;

/// Whether somebody wants the command to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C and SIGTERM from now on.
    ///
    /// # Errors
    /// The system has no thread left for that.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed =
            |error| Failure::Job(Error::exhausted("cannot listen for signals").with_source(error));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let interrupt = Interrupt::default();
        let seen = interrupt.clone();
        let (ready, listening) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("kiln-signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut signals = match Signals::new() {
                        Ok(signals) => signals,
                        Err(error) => return drop(ready.send(Err(error))),
                    };
                    drop(ready.send(Ok(())));
                    loop {
                        signals.next().await;
                        if seen.0.swap(true, Ordering::Relaxed) {
                            std::process::exit(EXIT_CODE);
                        }
                    }
                });
            })
            .map_err(failed)?;
        match listening.recv() {
            Ok(Ok(())) => Ok(interrupt),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Failure::Job(Error::internal("the signal thread ended"))),
        }
    }

    /// Whether somebody asked.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The signals that ask a process to end, for those who wait on tokio.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts listening; signals from now on are not lost.
    ///
    /// # Errors
    /// The system refused.
    pub(crate) fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
