//! The board on which a worker process announces the calls of users' functions, for the executor
//! that watches over it.
//!
//! It is a file, so that what was announced is still there when the process has died in whatever
//! way. Every thread has a place of its own in it and writes it with one system call: a number
//! that goes up with each sign of life, and the name of the function that it is in. The reader
//! compares numbers with its own clock; a place that it reads while it is written shows a number
//! or a name that is a moment old, which harms nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_engine::udf::CallBoard;

/// Bytes of one thread's place: number, length of the name, name.
const PLACE_BYTES: usize = 256;

/// Bytes of the number.
const NUMBER_BYTES: usize = size_of::<u64>();

/// Where the name begins, behind its length.
const NAME_AT: usize = NUMBER_BYTES + size_of::<u16>();

/// Places that are read; threads beyond them are not watched.
const PLACES_MAX: usize = 4096;

/// The writing side.
pub(crate) struct Board {
    file: File,
    /// How often a call that goes on says so.
    tick: Duration,
}

impl Board {
    /// The board in a file that the other side has made.
    ///
    /// # Errors
    /// What the file system answers.
    pub(crate) fn open(path: &Path, tick: Duration) -> std::io::Result<Self> {
        let file = File::options().write(true).open(path)?;
        Ok(Board { file, tick })
    }

    /// Writes what a thread does now, or only that it goes on. There is nobody to tell if that
    /// fails: then the executor knows less of how the process ended, and nothing else is lost.
    fn show(&self, place: &mut Place, with_name: bool) {
        place.number += 1;
        place.shown = Some(Instant::now());
        let mut bytes = [0; PLACE_BYTES];
        bytes[..NUMBER_BYTES].copy_from_slice(&place.number.to_le_bytes());
        let mut end = NUMBER_BYTES;
        if with_name {
            let name = place.calls.last().map_or("", String::as_str);
            let cut = (0..=PLACE_BYTES - NAME_AT).rev();
            let name = cut.filter_map(|end| name.get(..end.min(name.len()))).next();
            let name = name.unwrap_or_default();
            end = NAME_AT + name.len();
            // A call without a name is none, so it has to have one: registering sees to that.
            let length = u16::try_from(name.len()).unwrap_or(0);
            bytes[NUMBER_BYTES..NAME_AT].copy_from_slice(&length.to_le_bytes());
            bytes[NAME_AT..end].copy_from_slice(name.as_bytes());
        }
        let _ = self
            .file
            .write_all_at(&bytes[..end], place.at * PLACE_BYTES as u64);
    }
}

/// One thread's place. There is one board in a process, so there is one place in a thread.
struct Place {
    at: u64,
    number: u64,
    /// The calls that the thread is in, the innermost last.
    calls: Vec<String>,
    shown: Option<Instant>,
}

static PLACES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(Place {
        at: PLACES.fetch_add(1, Ordering::Relaxed),
        number: 0,
        calls: Vec::new(),
        shown: None,
    });
}

impl CallBoard for Board {
    fn enter(&self, function: &str) {
        PLACE.with_borrow_mut(|place| {
            place.calls.push(function.to_owned());
            self.show(place, true);
        });
    }

    fn tick(&self) {
        PLACE.with_borrow_mut(|place| {
            if place.shown.is_none_or(|at| at.elapsed() >= self.tick) {
                self.show(place, false);
            }
        });
    }

    fn leave(&self) {
        PLACE.with_borrow_mut(|place| {
            place.calls.pop();
            self.show(place, true);
        });
    }
}

/// The reading side.
pub(crate) struct Watch {
    file: File,
    seen: HashMap<usize, (u64, Instant)>,
}

impl Watch {
    /// An empty board in a new file.
    ///
    /// # Errors
    /// What the file system answers.
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        Ok(Watch {
            file,
            seen: HashMap::new(),
        })
    }

    /// Begins anew: calls of an earlier attempt do not count.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// The functions that are being called, in order and each once.
    pub(crate) fn called(&self) -> Vec<String> {
        let mut names: Vec<_> = self.calls().into_iter().map(|(_, _, name)| name).collect();
        names.sort();
        names.dedup();
        names
    }

    /// A function whose call has given no sign of life for `patience`, as far as this has watched.
    pub(crate) fn overdue(&mut self, now: Instant, patience: Duration) -> Option<String> {
        let calls = self.calls();
        let before = std::mem::take(&mut self.seen);
        let mut overdue = None;
        for (place, number, name) in calls {
            let since = match before.get(&place) {
                Some(&(old, since)) if old == number => since,
                _ => now,
            };
            self.seen.insert(place, (number, since));
            if now.duration_since(since) >= patience {
                overdue = Some(name);
            }
        }
        overdue
    }

    /// The calls that last: place, number and function.
    fn calls(&self) -> Vec<(usize, u64, String)> {
        // A board that cannot be read shows nothing.
        let length = self.file.metadata().map_or(0, |file| file.len());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(PLACES_MAX * PLACE_BYTES)];
        let mut read = 0;
        while let Ok(more @ 1..) = self.file.read_at(&mut bytes[read..], read as u64) {
            read += more;
        }
        let places = bytes[..read].chunks(PLACE_BYTES).enumerate();
        places
            .filter_map(|(at, place)| {
                let (number, name) = parse(place)?;
                Some((at, number, name))
            })
            .collect()
    }
}

/// The number and the name in a place; none if nothing is called there.
fn parse(place: &[u8]) -> Option<(u64, String)> {
    let (number, rest) = place.split_first_chunk::<NUMBER_BYTES>()?;
    let (length, rest) = rest.split_first_chunk()?;
    let name = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    let name = String::from_utf8_lossy(name).into_owned();
    (!name.is_empty()).then_some((u64::from_le_bytes(*number), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(tick: Duration) -> (tempfile::TempDir, Board, Watch) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("board");
        let watch = Watch::create(&path).expect("a new file");
        let board = Board::open(&path, tick).expect("it is there");
        (directory, board, watch)
    }

    #[test]
    fn calls_are_seen_while_they_last() {
        let (_directory, board, watch) = board(Duration::ZERO);
        assert_eq!(watch.called(), [""; 0]);
        board.enter("outer");
        assert_eq!(watch.called(), ["outer"]);
        board.enter("inner");
        std::thread::scope(|scope| {
            scope.spawn(|| board.enter("elsewhere"));
        });
        assert_eq!(watch.called(), ["elsewhere", "inner"]);
        board.leave();
        assert_eq!(watch.called(), ["elsewhere", "outer"]);
        board.leave();
        assert_eq!(watch.called(), ["elsewhere"]);
        board.enter(&"é".repeat(PLACE_BYTES));
        let cut = (PLACE_BYTES - NAME_AT) / 2;
        assert_eq!(watch.called(), ["elsewhere".to_owned(), "é".repeat(cut)]);
    }

    #[test]
    fn a_call_without_a_sign_of_life_is_overdue() {
        let (_directory, board, mut watch) = board(Duration::ZERO);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut at = |seconds| watch.overdue(start + second * seconds, second * 3);
        board.enter("slow");
        assert_eq!(at(0), None);
        assert_eq!(at(2), None);
        board.tick();
        assert_eq!(at(3), None);
        assert_eq!(at(5), None);
        assert_eq!(at(6), Some("slow".to_owned()));
        board.leave();
        assert_eq!(at(9), None);
        board.enter("slow");
        assert_eq!(at(10), None);
        assert_eq!(at(13), Some("slow".to_owned()));
    }
}
