//! Threads that wait for local files.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::limits::{FILE_THREADS_MIN, FILE_THREADS_PER_CORE};

/// How many more may wait now.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new((FILE_THREADS_PER_CORE * cores).max(FILE_THREADS_MIN))
});

/// Runs `work`, which reads or writes local files and waits for nothing else, on a thread that may
/// wait. They are few, and stay few when much is wanted at once: what one of them has freed it
/// takes first for what it reads next, while each new one begins with memory of its own.
///
/// # Errors
/// That `work` panicked.
pub(crate) async fn on_file_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // Held until `work` has ended, whether or not anybody still waits for it. Nobody closes it.
    let permit = THREADS.acquire().await.ok();
    tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    })
    .await
}
