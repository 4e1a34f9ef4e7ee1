//! Which bytes to read for a piece of a file, decided without reading any.
//!
//! A record belongs to the piece in which it starts. So a piece `[start, end)` is read from
//! `start - 1`: its records begin behind the first record end at or after that byte, and stop
//! behind the first record end at or after `end - 1`. Neighbouring pieces compute the same
//! boundary from the same bytes, so no record is lost or read twice.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits;
use crate::plan::{Split, TextRecord};
use crate::source::text::block::{Block, TextBuffer};

/// A piece while its bytes arrive.
pub(super) struct Piece {
    file: Arc<str>,
    split: Split,
    record: TextRecord,
    buffer: TextBuffer,
    /// File offset of the buffer's first byte.
    base: u64,
    lookahead: u64,
    /// Buffer position behind the partial first record, once found.
    head: Option<usize>,
    /// Buffer position behind the last record, once found.
    tail: Option<usize>,
    /// Buffer position up to which the search for the tail has come.
    searched: usize,
}

impl Piece {
    pub(super) fn new(
        file: Arc<str>,
        split: Split,
        record: TextRecord,
        buffer: TextBuffer,
    ) -> Self {
        let base = split.start.saturating_sub(1);
        let head = (split.start == 0).then_some(0);
        let searched = (split.end.saturating_sub(1) - base.min(split.end)) as usize;
        let lookahead = limits::TEXT_LOOKAHEAD_BYTES;
        let tail = None;
        Piece {
            file,
            split,
            record,
            buffer,
            base,
            lookahead,
            head,
            tail,
            searched,
        }
    }

    /// The next bytes to read; none when the piece is complete.
    ///
    /// # Errors
    /// `Invalid` if a record is longer than the limit.
    pub(super) fn wanted(&mut self) -> Result<Option<Range<u64>>> {
        let Split {
            start,
            end,
            file_bytes,
            ..
        } = self.split;
        if start >= end {
            return Ok(None);
        }
        let read = self.base + self.buffer.filled().len() as u64;
        if read == self.base {
            return Ok(Some(
                read..end.saturating_add(self.lookahead).min(file_bytes),
            ));
        }
        self.search();
        let starts_nothing = self.head.is_none_or(|head| head as u64 + self.base >= end);
        if self.tail.is_some() || read >= file_bytes || starts_nothing {
            return Ok(None);
        }
        let record_start = self.base + self.last_record() as u64;
        if read - record_start > limits::TEXT_RECORD_BYTES_MAX {
            return Err(too_long(&self.file, record_start, self.record));
        }
        self.lookahead *= 2;
        // One byte beyond the longest record is enough to refuse it.
        let most = record_start + limits::TEXT_RECORD_BYTES_MAX + 1;
        let until = read.saturating_add(self.lookahead).min(most);
        Ok(Some(read..until.min(file_bytes)))
    }

    /// Where to put the `len` bytes that were wanted; [`advance`](Self::advance) follows.
    ///
    /// # Errors
    /// `Exhausted`, naming file and place, if a record needs more memory than there is.
    pub(super) fn room(&mut self, len: usize) -> Result<&mut [u8]> {
        let (file, base) = (&self.file, self.base);
        let room = self.buffer.room(len);
        room.map_err(|error| no_memory(error, file, base))
    }

    /// Says that the room was filled.
    pub(super) fn advance(&mut self, len: usize) {
        self.buffer.advance(len);
    }

    /// What the file starts with, for a piece that is a whole file.
    pub(super) fn first_bytes(&self) -> &[u8] {
        self.buffer.filled()
    }

    /// The records of the piece.
    pub(super) fn finish(self) -> Block {
        let filled = self.buffer.filled().len();
        let end = self.tail.unwrap_or(filled);
        let start = self.head.unwrap_or(end).min(end);
        let (offset, len) = (self.base + start as u64, end - start);
        Block {
            file: self.file,
            offset,
            start,
            len,
            buffer: self.buffer,
        }
    }

    /// Looks for both boundaries in what has arrived.
    fn search(&mut self) {
        let bytes = self.buffer.filled();
        let last_start = (self.split.end - self.base) as usize;
        if self.head.is_none() {
            let within = &bytes[..last_start.min(bytes.len())];
            self.head = first_end(within, self.record).map(|position| position + 1);
        }
        if self.tail.is_none() && self.searched < bytes.len() {
            let found = first_end(&bytes[self.searched..], self.record);
            self.tail = found.map(|position| self.searched + position + 1);
            self.searched = bytes.len();
        }
    }

    /// Buffer position where the unfinished record starts.
    fn last_record(&self) -> usize {
        let before = (self.split.end - self.base) as usize;
        let bytes = self.buffer.filled();
        last_end(&bytes[..before.min(bytes.len())], self.record).map_or(0, |position| position + 1)
    }
}

/// Position of the first byte that ends a record.
pub(super) fn first_end(bytes: &[u8], record: TextRecord) -> Option<usize> {
    match record {
        TextRecord::Line => memchr::memchr(b'\n', bytes),
        TextRecord::Word => bytes.iter().position(is_space),
    }
}

/// Position of the last byte that ends a record.
pub(super) fn last_end(bytes: &[u8], record: TextRecord) -> Option<usize> {
    match record {
        TextRecord::Line => memchr::memrchr(b'\n', bytes),
        TextRecord::Word => bytes.iter().rposition(is_space),
    }
}

/// Any white space ends a word; cutting looks at ASCII only, where no byte is part of a longer
/// character.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0d)
}

/// The error for a record that memory is refused for.
pub(super) fn no_memory(error: Error, file: &str, offset: u64) -> Error {
    error.context(format!("cannot read text file={file} offset={offset}"))
}

/// The error for a record over the limit.
pub(super) fn too_long(file: &str, offset: u64, record: TextRecord) -> Error {
    let what = match record {
        TextRecord::Line => "line",
        TextRecord::Word => "word",
    };
    Error::invalid(format!(
        "a {what} is longer than text input may have limit={} file={file} offset={offset}",
        limits::TEXT_RECORD_BYTES_MAX
    ))
}
