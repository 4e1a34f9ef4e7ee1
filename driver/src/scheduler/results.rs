//! Which results are kept for clients, and for how long.
//!
//! A result stays when it has been fetched, so that somebody else can ask for it, or the same
//! client again whose connection broke. What is kept is bounded: results that were read make room
//! for one another, the one that was read longest ago first, and none stays for ever. A result
//! that nobody has read yet never goes because others were.

use std::collections::VecDeque;

use kiln_engine::id::JobId;
use kiln_engine::limits;

use super::event::Millis;

/// Results that can be fetched, the one that was made or read longest ago first.
#[derive(Debug, Default)]
pub(super) struct Results {
    kept: VecDeque<Kept>,
    /// How many of them have been read, and their bytes.
    read: (usize, u128),
}

#[derive(Debug)]
struct Kept {
    job: JobId,
    /// When it was made, or last read.
    since: Millis,
    bytes: u64,
    was_read: bool,
}

impl Results {
    /// A job has a result of that size.
    pub(super) fn add(&mut self, now: Millis, job: JobId, bytes: u64) {
        self.kept.push_back(Kept {
            job,
            since: now,
            bytes,
            was_read: false,
        });
    }

    /// A result has been read to its end.
    pub(super) fn read(&mut self, now: Millis, job: JobId) {
        if let Some(kept) = self.remove(job) {
            self.read.0 += 1;
            self.read.1 += u128::from(kept.bytes);
            self.kept.push_back(Kept {
                since: now,
                was_read: true,
                ..kept
            });
        }
    }

    /// A result is kept no longer.
    pub(super) fn forget(&mut self, job: JobId) {
        self.remove(job);
    }

    fn remove(&mut self, job: JobId) -> Option<Kept> {
        let place = self.kept.iter().position(|kept| kept.job == job)?;
        let kept = self.kept.remove(place)?;
        if kept.was_read {
            self.read.0 -= 1;
            self.read.1 -= u128::from(kept.bytes);
        }
        Some(kept)
    }

    /// Takes out a result that has to go. The one that was read last stays, however large it is:
    /// whoever read it may ask again.
    pub(super) fn surplus(&mut self, now: Millis) -> Option<JobId> {
        let aged = |kept: &Kept| kept.since + limits::RESULT_KEPT_MS <= now;
        let mut going = self.kept.front().filter(|kept| aged(kept));
        let (read, bytes) = self.read;
        if read > 1 && bytes > u128::from(limits::RESULTS_READ_BYTES_MAX) {
            going = going.or_else(|| self.kept.iter().find(|kept| kept.was_read));
        }
        let job = going?.job;
        self.forget(job);
        Some(job)
    }

    /// When the next one has to go because of its age.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let oldest = self.kept.front()?;
        Some(oldest.since + limits::RESULT_KEPT_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = limits::RESULTS_READ_BYTES_MAX;

    /// The jobs whose results go, in order.
    fn surplus(results: &mut Results, now: Millis) -> Vec<u64> {
        let gone = std::iter::from_fn(|| results.surplus(now));
        gone.map(JobId::value).collect()
    }

    #[test]
    fn results_that_were_read_make_room_for_one_another() {
        let mut results = Results::default();
        for job in 1..=4 {
            results.add(job, JobId::new(job), MOST / 2 + 1);
        }
        assert_eq!(surplus(&mut results, 5), [0; 0], "nobody has read them");
        results.read(6, JobId::new(3));
        assert_eq!(surplus(&mut results, 6), [0; 0]);
        results.read(7, JobId::new(1));
        assert_eq!(surplus(&mut results, 7), [3]);
        results.read(8, JobId::new(3));
        assert_eq!(surplus(&mut results, 8), [0; 0], "it is gone");
        results.add(9, JobId::new(9), 10 * MOST);
        results.read(9, JobId::new(9));
        assert_eq!(surplus(&mut results, 9), [1], "the last one stays");
    }

    #[test]
    fn results_go_when_they_are_old() {
        let mut results = Results::default();
        assert_eq!(results.deadline(), None);
        results.add(10, JobId::new(1), 1);
        results.add(20, JobId::new(2), 1);
        results.read(30, JobId::new(1));
        let due = results.deadline().expect("there are results");
        assert_eq!(due, 20 + limits::RESULT_KEPT_MS);
        assert_eq!(surplus(&mut results, due - 1), [0; 0]);
        assert_eq!(surplus(&mut results, due), [2]);
        assert_eq!(surplus(&mut results, due + 10), [1]);
    }
}
