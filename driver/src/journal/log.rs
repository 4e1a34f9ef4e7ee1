//! What a leader has still to write, and from where on it may act upon it.
//!
//! A state machine without I/O: records go in, entries come out one at a time, and whoever stores
//! them says how that went. While one entry is on its way the records behind it gather in the
//! next, so a slow store means larger entries, not a longer queue of requests.

use std::collections::VecDeque;

use bytes::Bytes;
use kiln_engine::Result;
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{Record, WriterId};

/// Bytes of records after which another entry is begun.
const ENTRY_BYTES: usize = 4 << 20;

/// The end of a journal that this driver leads.
#[derive(Debug)]
pub(crate) struct Log {
    term: u64,
    writer: WriterId,
    /// The number of the entry that is written next, or being written.
    next: u64,
    /// Entries that wait, from that number on; the last one takes more records.
    waiting: VecDeque<Waiting>,
    in_flight: bool,
    /// Bytes written in this leadership.
    bytes: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Bytes>,
    bytes: usize,
    /// The whole entry, once it is on its way: what is asked again has to be the same.
    encoded: Option<Bytes>,
}

impl Log {
    /// The log behind the entry `end`, with which the leadership `term` began.
    pub(crate) fn new(term: u64, writer: WriterId, end: u64) -> Self {
        Log {
            term,
            writer,
            next: end + 1,
            waiting: VecDeque::new(),
            in_flight: false,
            bytes: 0,
        }
    }

    /// The leadership.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Invalid` if it cannot be encoded; then nothing has changed.
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        let record = encode_record(record)?;
        let takes_more = |last: &Waiting| last.encoded.is_none() && last.bytes < ENTRY_BYTES;
        if !self.waiting.back().is_some_and(takes_more) {
            self.waiting.push_back(Waiting::default());
        }
        if let Some(last) = self.waiting.back_mut() {
            last.bytes += record.len();
            last.records.push(record);
        }
        Ok(())
    }

    /// The number of the entry that has the newest record in it.
    pub(crate) fn newest(&self) -> u64 {
        self.next + self.waiting.len() as u64 - 1
    }

    /// The number of the last entry that is written: everything up to it has happened.
    pub(crate) fn durable(&self) -> u64 {
        self.next - 1
    }

    /// An entry to be written, if there is one and none is on its way. Until it is
    /// [`written`](Self::written) the same entry comes out again after each
    /// [`failed`](Self::failed).
    pub(crate) fn take(&mut self) -> Option<(u64, Bytes)> {
        if self.in_flight {
            return None;
        }
        let (term, writer, sequence) = (self.term, self.writer, self.next);
        let first = self.waiting.front_mut()?;
        let encoded = first.encoded.get_or_insert_with(|| {
            let records = std::mem::take(&mut first.records);
            encode_entry(term, writer, sequence, records).into()
        });
        self.in_flight = true;
        Some((sequence, encoded.clone()))
    }

    /// The entry on its way is written.
    pub(crate) fn written(&mut self) {
        if std::mem::take(&mut self.in_flight)
            && let Some(first) = self.waiting.pop_front()
        {
            self.bytes += first.bytes as u64;
            self.next += 1;
        }
    }

    /// It is not known whether the entry on its way is written: ask again.
    pub(crate) fn failed(&mut self) {
        self.in_flight = false;
    }

    /// Whether everything is written.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of records that were written since this was last called.
    pub(crate) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use kiln_engine::id::JobId;
    use kiln_proto::convert::journal::decode_entry;

    use super::*;

    fn log() -> Log {
        Log::new(3, WriterId(9), 7)
    }

    fn record(job: u64) -> Record {
        Record::Committing {
            job: JobId::new(job),
        }
    }

    fn taken(log: &mut Log) -> Option<(u64, Vec<Record>)> {
        let (sequence, bytes) = log.take()?;
        let entry = decode_entry(&bytes).expect("just encoded");
        assert_eq!((entry.term, entry.writer), (3, WriterId(9)));
        assert_eq!(entry.sequence, sequence);
        Some((sequence, entry.records))
    }

    #[test]
    fn records_gather_while_an_entry_is_on_its_way() {
        let mut log = log();
        assert_eq!((log.newest(), log.durable()), (7, 7));
        assert_eq!(taken(&mut log), None);
        log.append(&record(1)).expect("encoded");
        assert_eq!((log.newest(), log.durable()), (8, 7));
        assert_eq!(taken(&mut log), Some((8, vec![record(1)])));
        for job in 2..4 {
            log.append(&record(job)).expect("encoded");
            assert_eq!((log.newest(), log.durable()), (9, 7));
            assert_eq!(taken(&mut log), None, "one at a time");
        }
        log.written();
        assert_eq!((log.newest(), log.durable()), (9, 8));
        assert_eq!(taken(&mut log), Some((9, vec![record(2), record(3)])));
        log.written();
        assert!(log.is_settled());
        assert_eq!((log.newest(), log.durable()), (9, 9));
    }

    #[test]
    fn an_entry_that_may_be_written_is_asked_for_again_as_it_was() {
        let mut log = log();
        log.append(&record(1)).expect("encoded");
        let first = log.take().expect("an entry");
        log.append(&record(2)).expect("encoded");
        log.failed();
        log.append(&record(3)).expect("encoded");
        assert_eq!(log.take(), Some(first));
        log.written();
        assert_eq!(taken(&mut log), Some((9, vec![record(2), record(3)])));
    }
}
