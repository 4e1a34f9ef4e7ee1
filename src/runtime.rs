//! Waiting from ordinary threads for what happens on tokio.
//!
//! The library is synchronous, whoever calls it: [`Runtime::wait`] hands the future to threads of
//! its own and waits on a plain channel. It never blocks on the future itself, so it works within
//! another runtime too, where that would panic.

use std::sync::mpsc;

use kiln_engine::{Error, Result};

/// Threads that wait for I/O and keep the books. Computing has threads of its own.
const THREADS: usize = 2;

/// A tokio runtime that may be dropped anywhere.
#[derive(Debug)]
pub(crate) struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Exhausted` if the system has no threads left.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("kiln-io")
            .enable_all()
            .build()
            .map_err(|error| Error::exhausted("cannot start threads").with_source(error))?;
        Ok(Runtime(Some(runtime)))
    }

    /// Runs `future` to its end and returns what it made.
    ///
    /// # Errors
    /// What the future answered, or `Internal` if it panicked.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.spawn(async move {
            // Nobody listens any more only if the waiting thread is gone.
            let _ = sender.send(future.await);
        });
        receiver
            .recv()
            .map_err(|_| Error::internal("a background task panicked"))?
    }

    /// Runs `future` in the background.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.0.as_ref().expect("taken only by drop");
        runtime.spawn(future);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // An ordinary drop waits for blocking tasks and panics within another runtime.
            runtime.shutdown_background();
        }
    }
}
