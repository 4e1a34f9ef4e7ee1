//! Blocks: whole records of one file in one buffer, and the buffers they are read into.
//!
//! Buffers are used again: a fresh megabyte costs more in page faults than reading it does in
//! copying. A buffer returns when the last array that points into it is dropped.
//!
//! How many buffers there are is bounded, and so is a buffer as long as records are of usual
//! length. One that grows beyond that, for a huge record, reserves what it grows by.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::buffer::Buffer;
use bytes::Bytes;

use crate::error::Result;
use crate::kernel::view::{PADDING_BYTES, Padded};
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};

/// What a buffer may hold without a reservation: a morsel, and the end of its last record.
const UNRESERVED_BYTES: u64 = 2 * limits::TEXT_MORSEL_BYTES;

/// Whole records of one file.
pub(super) struct Block {
    /// The file, as errors name it.
    pub(super) file: Arc<str>,
    /// Where the records start in the (decoded) file.
    pub(super) offset: u64,
    /// Where the records start in the buffer.
    pub(super) start: usize,
    /// Bytes of records.
    pub(super) len: usize,
    /// Everything that was read, and padding.
    pub(super) buffer: TextBuffer,
}

impl Block {
    /// The records.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.start + self.len]
    }
}

/// Validated text, ready to be cut into records.
pub(super) struct Text {
    /// What holds it.
    pub(super) buffer: Buffer,
    /// Where it starts in the buffer.
    pub(super) start: usize,
    /// Its length.
    pub(super) len: usize,
    /// Where it starts in the (decoded) file.
    pub(super) offset: u64,
}

impl Text {
    /// The text with the padding behind it.
    pub(super) fn padded(&self) -> Padded<'_> {
        Padded::new(&self.buffer[self.start..], self.len)
    }

    /// The text alone.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }
}

/// Buffers that wait to be used again.
pub(super) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
    buffers_max: usize,
    memory: Arc<MemoryBudget>,
}

impl BufferPool {
    /// A pool that keeps at most `buffers_max` free buffers.
    pub(super) fn new(buffers_max: usize, memory: &Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(BufferPool {
            free: Mutex::new(Vec::new()),
            buffers_max,
            memory: Arc::clone(memory),
        })
    }

    /// An empty buffer.
    pub(super) fn take(self: &Arc<Self>) -> TextBuffer {
        let bytes = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        TextBuffer {
            bytes: bytes.unwrap_or_default(),
            filled: 0,
            reservation: self.memory.reserve("a text record"),
            pool: Arc::clone(self),
        }
    }
}

/// A buffer of the pool. Its first `filled` bytes were read; what follows is left from earlier
/// use, and is long enough to be padding.
pub(super) struct TextBuffer {
    bytes: Vec<u8>,
    filled: usize,
    reservation: Reservation,
    pool: Arc<BufferPool>,
}

impl TextBuffer {
    /// What was read.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Room for `len` more bytes, and padding behind it.
    ///
    /// # Errors
    /// `Exhausted` if the buffer becomes larger than usual and the budget has not got that.
    pub(super) fn room(&mut self, len: usize) -> Result<&mut [u8]> {
        let wanted = self.filled + len + PADDING_BYTES;
        if self.bytes.len() < wanted {
            let beyond = (wanted as u64).saturating_sub(UNRESERVED_BYTES);
            self.reservation
                .grow(beyond.saturating_sub(self.reservation.bytes()))?;
            self.bytes.resize(wanted, 0);
        }
        Ok(&mut self.bytes[self.filled..self.filled + len])
    }

    /// Says that the first `len` bytes of the room have been read.
    pub(super) fn advance(&mut self, len: usize) {
        self.filled += len;
        debug_assert!(
            self.filled + PADDING_BYTES <= self.bytes.len(),
            "reads stay in the room"
        );
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// As for `room`.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.advance(bytes.len());
        Ok(())
    }

    /// As a buffer of an array; what is behind the padding may be cut off or not.
    pub(super) fn freeze(mut self) -> Buffer {
        if self.bytes.is_empty() {
            self.bytes.resize(PADDING_BYTES, 0);
        }
        Buffer::from(Bytes::from_owner(self))
    }
}

impl AsRef<[u8]> for TextBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for TextBuffer {
    fn drop(&mut self) {
        // One huge record must not pin memory for the rest of the task.
        if self.bytes.len() as u64 > UNRESERVED_BYTES {
            return;
        }
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.pool.buffers_max {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}
