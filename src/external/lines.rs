//! From what a command prints to rows of keys and values.

use std::sync::Arc;

use arrow::array::StringViewBuilder;
use arrow::record_batch::RecordBatch;
use kiln_engine::udf::EmitRows;
use kiln_engine::{Result, limits};

use super::{lines, wrong};

/// Bytes of keys and values in one batch, unless it is a single line.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes that a builder of texts allocates at once.
const BLOCK_BYTES: u32 = 256 << 10;

/// Bytes of a line that an error shows.
const SHOWN_BYTES: usize = 60;

/// Cuts what a command prints into lines, and lines into key and value.
pub(super) struct Lines {
    command: Arc<str>,
    keys: StringViewBuilder,
    values: StringViewBuilder,
    rows: usize,
    bytes: usize,
    /// The beginning of a line whose end was not printed yet.
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(command: &Arc<str>) -> Self {
        let builder = || StringViewBuilder::new().with_fixed_block_size(BLOCK_BYTES);
        Lines {
            command: Arc::clone(command),
            keys: builder(),
            values: builder(),
            rows: 0,
            bytes: 0,
            begun: Vec::new(),
        }
    }

    /// Takes what was printed next.
    ///
    /// # Errors
    /// `Program` for a line that is not UTF-8 or too long; what `emit` answered.
    pub(super) fn take(&mut self, printed: &[u8], emit: EmitRows<'_>) -> Result<()> {
        let Some(last) = printed.iter().rposition(|byte| *byte == b'\n') else {
            return self.begin(printed);
        };
        let (mut whole, rest) = (&printed[..last], &printed[last + 1..]);
        if !self.begun.is_empty() {
            let end = whole.iter().position(|byte| *byte == b'\n');
            self.begin(&whole[..end.unwrap_or(last)])?;
            let line = std::mem::take(&mut self.begun);
            self.push_lines(&line, emit)?;
            match end {
                Some(end) => whole = &whole[end + 1..],
                None => return self.begin(rest),
            }
        }
        self.push_lines(whole, emit)?;
        self.begin(rest)
    }

    /// Nothing more comes: a last line does not need a line end.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub(super) fn finish(&mut self, emit: EmitRows<'_>) -> Result<()> {
        if !self.begun.is_empty() {
            let line = std::mem::take(&mut self.begun);
            self.push_lines(&line, emit)?;
        }
        self.flush(emit)
    }

    fn begin(&mut self, part: &[u8]) -> Result<()> {
        let max = limits::EXTERNAL_LINE_BYTES_MAX;
        if self.begun.len() + part.len() > max {
            let what = format_args!("printed too long a line limit={max}");
            return Err(wrong(&self.command, what));
        }
        self.begun.extend_from_slice(part);
        Ok(())
    }

    /// Adds lines, the last one without its end.
    fn push_lines(&mut self, bytes: &[u8], emit: EmitRows<'_>) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let from = error.valid_up_to();
            let line = bytes[..from].iter().rposition(|byte| *byte == b'\n');
            let line = &bytes[line.map_or(0, |end| end + 1)..];
            let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
            let shown = shown.lines().next().unwrap_or_default();
            let what = format_args!("printed a line that is not UTF-8 line={shown:?}");
            wrong(&self.command, what)
        })?;
        for line in text.split('\n') {
            let (key, value) = line.split_once('\t').unwrap_or((line, ""));
            self.keys.try_append_value(key)?;
            self.values.try_append_value(value)?;
            self.rows += 1;
            self.bytes += line.len();
            if self.rows >= limits::BATCH_ROWS || self.bytes >= BATCH_BYTES {
                self.flush(emit)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, emit: EmitRows<'_>) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        (self.rows, self.bytes) = (0, 0);
        let (keys, values) = (self.keys.finish(), self.values.finish());
        emit(RecordBatch::try_new(
            lines(),
            vec![Arc::new(keys), Arc::new(values)],
        )?)
    }
}
