//! What a worker process writes to its stdout and stderr: logged, within bounds, and the end of it
//! kept for when the process dies.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::settings::{LAST_WORDS_BYTES, LAST_WORDS_WAIT, LINE_BYTES_MAX, LINES_LOGGED_MAX};

/// The output of one process.
pub(super) struct Output {
    shown: Arc<Mutex<Shown>>,
    readers: JoinSet<()>,
}

#[derive(Default)]
struct Shown {
    last: VecDeque<u8>,
    lines: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        Output {
            shown: Arc::default(),
            readers: JoinSet::new(),
        }
    }

    /// Reads one of the two streams of the process `pid` until it ends.
    pub(super) fn follow(&mut self, pid: u32, mut stream: impl AsyncRead + Unpin + Send + 'static) {
        let shown = Arc::clone(&self.shown);
        self.readers.spawn(async move {
            let (mut line, mut bytes) = (Vec::new(), vec![0; 8 << 10]);
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                let mut shown = lock(&shown);
                shown.keep(&bytes[..count]);
                for &byte in &bytes[..count] {
                    match byte {
                        b'\n' => shown.log(pid, &mut line),
                        _ if line.len() < LINE_BYTES_MAX => line.push(byte),
                        _ => {}
                    }
                }
            }
            if !line.is_empty() {
                lock(&shown).log(pid, &mut line);
            }
        });
    }

    /// Forgets what was written before the next attempt.
    pub(super) fn start_over(&self) {
        *lock(&self.shown) = Shown::default();
    }

    /// The last that the process wrote before it died, on one line.
    pub(super) async fn last_words(&mut self) -> String {
        let all = async { while self.readers.join_next().await.is_some() {} };
        // What is there is enough if somebody else has the streams too.
        let _ = timeout(LAST_WORDS_WAIT, all).await;
        let shown = lock(&self.shown);
        let bytes: Vec<u8> = shown.last.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim_end).collect();
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join(" | ")
    }
}

impl Shown {
    fn keep(&mut self, bytes: &[u8]) {
        self.last.extend(bytes);
        let surplus = self.last.len().saturating_sub(LAST_WORDS_BYTES);
        self.last.drain(..surplus);
    }

    fn log(&mut self, pid: u32, line: &mut Vec<u8>) {
        self.lines += 1;
        if self.lines <= LINES_LOGGED_MAX {
            tracing::info!(pid, "a program says: {}", String::from_utf8_lossy(line));
        } else if self.lines == LINES_LOGGED_MAX + 1 {
            tracing::info!(pid, "a program says more, which is not logged");
        }
        line.clear();
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept_on_one_line() {
        let mut output = Output::new();
        let long = "x".repeat(2 * LAST_WORDS_BYTES);
        let text = format!("{long}\nlast but one\n\r\n  last \n");
        output.follow(1, std::io::Cursor::new(text.into_bytes()));
        let words = output.last_words().await;
        assert!(words.len() <= LAST_WORDS_BYTES);
        assert!(words.ends_with("xxx | last but one |   last"), "{words}");
        output.start_over();
        assert_eq!(output.last_words().await, "");
    }
}
