//! From blocks of records to batches of rows. Runs on a lane.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::buffer::Buffer;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::kernel::view::{make_view, string_array, view_of};
use crate::kernel::words::Tokenizer;
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::Emit;
use crate::plan::TextRecord;
use crate::source::text::Scan;
use crate::source::text::block::{Block, Text};
use crate::source::text::piece::no_memory;

const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// Validates `blocks`, cuts them into records and emits these in batches.
///
/// # Errors
/// `Invalid` for invalid UTF-8 in strict mode; what `emit` answered.
pub(super) fn emit_rows(scan: &Scan, blocks: Vec<Block>, emit: Emit<'_>) -> Result<()> {
    match scan.options.record {
        TextRecord::Word => emit_words(scan, blocks, emit),
        TextRecord::Line => emit_lines(scan, blocks, emit),
    }
}

fn emit_words(scan: &Scan, blocks: Vec<Block>, emit: Emit<'_>) -> Result<()> {
    let mut tokenizer = Tokenizer::default();
    let mut views = Vec::with_capacity(limits::BATCH_ROWS);
    let mut buffers: Vec<Buffer> = Vec::new();
    for block in blocks {
        let (text, _) = validate(scan, block)?;
        tokenizer.reset();
        buffers.push(text.buffer.clone());
        loop {
            // A batch is full when the tokenizer's next step might not fit.
            let room = limits::BATCH_ROWS - views.len();
            let place = (buffers.len() as u32 - 1, text.start as u32);
            if room >= 64 {
                if !tokenizer.next(text.padded(), place, room, &mut views) {
                    break;
                }
                continue;
            }
            let full = std::mem::replace(&mut views, Vec::with_capacity(limits::BATCH_ROWS));
            let used = std::mem::replace(&mut buffers, vec![text.buffer.clone()]);
            emit_word_batch(scan, full, used, emit)?;
        }
    }
    if views.is_empty() {
        Ok(())
    } else {
        emit_word_batch(scan, views, buffers, emit)
    }
}

fn emit_word_batch(
    scan: &Scan,
    views: Vec<u128>,
    buffers: Vec<Buffer>,
    emit: Emit<'_>,
) -> Result<()> {
    let rows = views.len();
    let words: ArrayRef = Arc::new(string_array(views, buffers, None));
    emit_batch(scan, rows, |_| Arc::clone(&words), emit)
}

fn emit_lines(scan: &Scan, blocks: Vec<Block>, emit: Emit<'_>) -> Result<()> {
    let mut lines = Lines::default();
    for block in blocks {
        let file = Arc::clone(&block.file);
        let (text, shifts) = validate(scan, block)?;
        let mut shifts = shifts.into_iter().peekable();
        let mut shift = 0;
        let mut place = lines.add_buffers(&file, &text);
        let bytes = text.bytes();
        let mut start = 0;
        while start < bytes.len() {
            let newline = memchr::memchr(b'\n', &bytes[start..]).map(|at| start + at);
            let next = newline.map_or(bytes.len(), |at| at + 1);
            let mut end = newline.unwrap_or(bytes.len());
            if newline.is_some() && end > start && bytes[end - 1] == b'\r' {
                end -= 1;
            }
            while let Some((_, by)) = shifts.next_if(|(from, _)| *from <= start) {
                shift = by;
            }
            let view = view_of(text.padded(), start, end, place.text, text.start as u32);
            lines.views.push(view);
            lines
                .offsets
                .push(text.offset as i64 + start as i64 + shift);
            lines.paths.push(place.path);
            start = next;
            if lines.views.len() == limits::BATCH_ROWS {
                std::mem::take(&mut lines).emit(scan, emit)?;
                place = lines.add_buffers(&file, &text);
            }
        }
    }
    lines.emit(scan, emit)
}

/// The rows of the batch in the making.
#[derive(Default)]
struct Lines {
    views: Vec<u128>,
    offsets: Vec<i64>,
    paths: Vec<u128>,
    texts: Vec<Buffer>,
    files: Vec<Buffer>,
}

/// What views of a block's lines refer to.
struct Place {
    text: u32,
    path: u128,
}

impl Lines {
    fn add_buffers(&mut self, file: &str, text: &Text) -> Place {
        self.texts.push(text.buffer.clone());
        self.files.push(Buffer::from(file.as_bytes()));
        let number = self.files.len() as u32 - 1;
        Place {
            text: number,
            path: make_view(file.as_bytes(), number, 0),
        }
    }

    fn emit(self, scan: &Scan, emit: Emit<'_>) -> Result<()> {
        let rows = self.views.len();
        if rows == 0 {
            return Ok(());
        }
        let (mut path, mut offset, mut line) = (
            Some((self.paths, self.files)),
            Some(self.offsets),
            Some((self.views, self.texts)),
        );
        let strings = |parts: Option<(Vec<u128>, Vec<Buffer>)>| -> ArrayRef {
            let (views, buffers) = parts.unwrap_or_default();
            Arc::new(string_array(views, buffers, None))
        };
        let mut columns: [Option<ArrayRef>; 3] = [None, None, None];
        emit_batch(
            scan,
            rows,
            |index| {
                let column = columns[index].get_or_insert_with(|| match index {
                    0 => strings(path.take()),
                    1 => Arc::new(Int64Array::from(offset.take().unwrap_or_default())),
                    _ => strings(line.take()),
                });
                Arc::clone(column)
            },
            emit,
        )
    }
}

fn emit_batch(
    scan: &Scan,
    rows: usize,
    column: impl FnMut(usize) -> ArrayRef,
    emit: Emit<'_>,
) -> Result<()> {
    TaskMetrics::count(&scan.ctx.metrics.rows_in, rows as u64);
    let columns = scan.projection.iter().copied().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::clone(&scan.schema);
    emit(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// By how much file offsets are ahead of positions in the text, each from a position on.
type Shifts = Vec<(usize, i64)>;

/// The block as valid text, with replacement characters where it was not.
fn validate(scan: &Scan, mut block: Block) -> Result<(Text, Shifts)> {
    if block.offset == 0 && block.bytes().starts_with(BYTE_ORDER_MARK) {
        block.start += BYTE_ORDER_MARK.len();
        block.len -= BYTE_ORDER_MARK.len();
        block.offset += BYTE_ORDER_MARK.len() as u64;
    }
    if simdutf8::basic::from_utf8(block.bytes()).is_ok() {
        let (start, len, offset) = (block.start, block.len, block.offset);
        return Ok((
            Text {
                buffer: block.buffer.freeze(),
                start,
                len,
                offset,
            },
            Vec::new(),
        ));
    }
    if scan.options.strict {
        let valid = block
            .bytes()
            .utf8_chunks()
            .next()
            .map_or(0, |chunk| chunk.valid().len());
        return Err(Error::invalid(format!(
            "text is not valid UTF-8 file={} offset={}",
            block.file,
            block.offset + valid as u64
        )));
    }
    replace_invalid(scan, &block)
}

fn replace_invalid(scan: &Scan, block: &Block) -> Result<(Text, Shifts)> {
    const REPLACEMENT: &str = "\u{fffd}";
    let refused = |error| no_memory(error, &block.file, block.offset);
    let mut text = scan.buffers.take();
    text.room(block.len + block.len / 8).map_err(refused)?;
    let mut shifts = Vec::new();
    let mut read = 0;
    for chunk in block.bytes().utf8_chunks() {
        text.append(chunk.valid().as_bytes()).map_err(refused)?;
        read += chunk.valid().len() + chunk.invalid().len();
        if !chunk.invalid().is_empty() {
            text.append(REPLACEMENT.as_bytes()).map_err(refused)?;
            let written = text.filled().len();
            shifts.push((written, read as i64 - written as i64));
        }
    }
    let len = text.filled().len();
    if len > i32::MAX as usize {
        return Err(Error::invalid(format!(
            "text is too long once invalid UTF-8 is replaced file={} offset={}",
            block.file, block.offset
        )));
    }
    scan.ctx
        .metrics
        .warn(&block.file, "invalid UTF-8 replaced", shifts.len() as u64);
    Ok((
        Text {
            buffer: text.freeze(),
            start: 0,
            len,
            offset: block.offset,
        },
        shifts,
    ))
}
