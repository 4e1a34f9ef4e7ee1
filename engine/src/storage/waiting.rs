//! Work that waits in line: for one of few threads, or for a place in a remote store.
//!
//! Whoever is given what it has waited for has to go on, or nobody behind it ever does. A future
//! goes on only when it is polled, and one of many in a stream is not while the stream's reader
//! does something else, such as waiting for what is behind it in the line. So it is never such a
//! future that stands there, but a task of its own.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::thread::available_parallelism;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::limits::{FILE_THREADS_MIN, FILE_THREADS_PER_CORE};

/// How many more may wait now.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(threads()));

/// How many threads wait for files at most.
fn threads() -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    (FILE_THREADS_PER_CORE * cores).max(FILE_THREADS_MIN)
}

/// Runs `work`, which reads or writes local files and waits for nothing else, on a thread that may
/// wait. They are few, and stay few when much is wanted at once: what one of them has freed it
/// takes first for what it reads next, while each new one begins with memory of its own.
///
/// # Errors
/// That `work` panicked.
pub(crate) async fn on_file_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // The permit is held until `work` has ended, whether or not anybody still waits for it.
    let begin = |permit: Option<SemaphorePermit<'static>>| {
        spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
    };
    if let Ok(permit) = THREADS.try_acquire() {
        return begin(Some(permit)).await;
    }
    // Nobody closes it.
    Task::spawn(async move { begin(THREADS.acquire().await.ok()).await }).await?
}

/// Reads `ranges` of the file that `open` opens, on a thread that may wait for it.
///
/// Into memory of the calling thread: those that wait for files are idle for long, and what others
/// free of their memory goes back only when they ask for more.
///
/// # Errors
/// What the system answered; `UnexpectedEof` where the file ends before a range does.
pub(crate) async fn read_ranges(
    open: impl FnOnce() -> io::Result<File> + Send + 'static,
    ranges: &[Range<u64>],
) -> io::Result<Vec<Bytes>> {
    let room = |range: &Range<u64>| {
        let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        Ok((range.clone(), Vec::with_capacity(bytes)))
    };
    let rooms = ranges.iter().map(room).collect::<io::Result<Vec<_>>>()?;
    let read = on_file_thread(move || {
        let mut file = open()?;
        let rooms = rooms.into_iter();
        rooms
            .map(|(range, room)| read_range(&mut file, range, room))
            .collect()
    });
    let read = read.await;
    read.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn read_range(file: &mut File, range: Range<u64>, mut room: Vec<u8>) -> io::Result<Bytes> {
    let bytes = range.end - range.start;
    file.seek(SeekFrom::Start(range.start))?;
    file.take(bytes).read_to_end(&mut room)?;
    if (room.len() as u64) < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Bytes::from(room))
}

/// A task that goes on by itself and ends with whoever waits for it.
pub(super) struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Task(tokio::spawn(work))
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use futures::future::{FutureExt as _, join_all};

    use super::*;

    #[tokio::test]
    async fn who_waits_without_being_polled_is_in_nobodys_way() {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let held = (0..threads()).map(|_| {
            let gate = Arc::clone(&gate);
            // What is waited for is that the other end is dropped.
            on_file_thread(move || gate.lock().map(|gate| gate.recv()).is_ok()).boxed()
        });
        let mut held: Vec<_> = held.collect();
        let mut waiting: Vec<_> = (0..2 * threads())
            .map(|_| on_file_thread(|| ()).boxed())
            .collect();
        for future in held.iter_mut() {
            assert!(future.now_or_never().is_none(), "the gate is shut");
        }
        // Once, and never again.
        for future in waiting.iter_mut() {
            let _ = future.now_or_never();
        }
        drop(open);
        on_file_thread(|| ()).await.expect("it does nothing");
        for done in join_all(held).await {
            assert!(done.expect("it waits only"));
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_and_takes_no_thread_along() {
        for _ in 0..2 * threads() {
            let done = on_file_thread(|| panic!("on purpose")).await;
            assert!(done.expect_err("it panicked").is_panic());
        }
    }
}
