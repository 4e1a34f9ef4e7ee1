//! Rows on local disk, because memory ran short.
//!
//! A file without a name holds several [`Run`]s: the system frees it when the last of them is
//! dropped, however the process ends. A run is a sequence of blocks, in the order in which they
//! were written; those of several runs may lie mixed in the file. A block has its length and
//! checksum in front, so that a damaged one is noticed and not decoded.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow::ipc::{CompressionType, MetadataVersion, root_as_message};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::limits;
use crate::memory::{DiskBudget, DiskRoom};
use crate::storage::file_error;

/// What errors call the file, which has no name.
const PLACE: &str = "(spill file)";

/// Bytes in front of a block: its length and its checksum.
const HEADER_BYTES: usize = 16;

/// Rows that were written, in the order in which they were. Clones share the file, so what is read
/// once can be read again.
#[derive(Clone)]
pub struct Run {
    file: Arc<SpillFile>,
    blocks: Arc<[Block]>,
    rows: u64,
}

/// A block of a run.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u64,
    bytes: u32,
}

/// What runs share: the file, and the room on disk that is given back with it.
struct SpillFile {
    file: File,
    schema: SchemaRef,
    room: DiskRoom,
}

/// Writes [`Run`]s to one file.
pub struct RunWriter {
    out: BufWriter<File>,
    schema: SchemaRef,
    room: DiskRoom,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    runs: Vec<Written>,
}

/// What has been written of a run.
#[derive(Default)]
struct Written {
    blocks: Vec<Block>,
    rows: u64,
}

impl RunWriter {
    /// A file for `runs` runs of rows of `schema`, as yet without blocks.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, `Unavailable` if there is no place for temporary files.
    pub fn new(disk: &Arc<DiskBudget>, schema: &SchemaRef, runs: usize) -> Result<Self> {
        let file = tempfile::tempfile_in(disk.directory());
        let file = file.map_err(|error| file_error("create", PLACE, error))?;
        let options =
            IpcWriteOptions::try_new(limits::SHUFFLE_ALIGN_BYTES, false, MetadataVersion::V5)?;
        Ok(RunWriter {
            out: BufWriter::with_capacity(limits::SPILL_BUFFER_BYTES, file),
            schema: Arc::clone(schema),
            room: DiskRoom::new(disk),
            options: options.try_with_compression(Some(CompressionType::LZ4_FRAME))?,
            context: IpcWriteContext::default(),
            runs: (0..runs).map(|_| Written::default()).collect(),
        })
    }

    /// Appends the rows of `batch`, which has the writer's schema, to run number `run` as one
    /// block.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, or the budget for it used up.
    pub fn write(&mut self, run: usize, batch: &RecordBatch) -> Result<()> {
        let generator = IpcDataGenerator::default();
        let mut dictionaries = DictionaryTracker::new(false);
        let (before, rows) =
            generator.encode(batch, &mut dictionaries, &self.options, &mut self.context)?;
        if !before.is_empty() {
            return Err(Error::internal("rows with dictionaries cannot be spilled"));
        }
        let mut block = Vec::with_capacity(
            HEADER_BYTES + rows.ipc_message.len() + rows.arrow_data.len() + HEADER_BYTES,
        );
        block.resize(HEADER_BYTES, 0);
        write_message(&mut block, rows, &self.options)?;
        let bytes = u32::try_from(block.len())
            .map_err(|_| Error::exhausted("a block of a spill file is too large bytes>4GiB"))?;
        let body = block.len() - HEADER_BYTES;
        let checksum = xxh3_64(&block[HEADER_BYTES..]);
        block[..8].copy_from_slice(&(body as u64).to_le_bytes());
        block[8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let start = self.room.bytes();
        self.room.grow(u64::from(bytes))?;
        let put = self.out.write_all(&block);
        put.map_err(|error| file_error("write", PLACE, error))?;
        let written = &mut self.runs[run];
        written.blocks.push(Block { start, bytes });
        written.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The columns of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// The runs, in the order of their numbers; some may be empty.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn finish(self) -> Result<Vec<Run>> {
        let file = self.out.into_inner().map_err(|error| error.into_error());
        let file = Arc::new(SpillFile {
            file: file.map_err(|error| file_error("write", PLACE, error))?,
            schema: self.schema,
            room: self.room,
        });
        let run = |written: Written| Run {
            file: Arc::clone(&file),
            blocks: written.blocks.into(),
            rows: written.rows,
        };
        Ok(self.runs.into_iter().map(run).collect())
    }
}

impl Run {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.bytes)).sum()
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The rows of block number `number`.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was written; `Unavailable` if it cannot be read.
    pub fn block(&self, number: usize) -> Result<RecordBatch> {
        self.file.read(self.blocks[number])
    }

    /// The rows, block by block.
    pub fn read(self) -> RunReader {
        RunReader { run: self, next: 0 }
    }
}

impl SpillFile {
    fn read(&self, block: Block) -> Result<RecordBatch> {
        let mut bytes = vec![0; block.bytes as usize];
        let read = self.file.read_exact_at(&mut bytes, block.start);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("it is shorter than it was"),
            _ => file_error("read", PLACE, error),
        })?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        if number(0) != (bytes.len() - HEADER_BYTES) as u64 {
            return Err(self.damaged("a block has another length"));
        }
        if xxh3_64(&bytes[HEADER_BYTES..]) != number(8) {
            return Err(self.damaged("a checksum differs"));
        }
        self.decode(&Buffer::from_vec(bytes))
    }

    /// The rows of a block that is as it was written.
    fn decode(&self, block: &Buffer) -> Result<RecordBatch> {
        // The message has its length in front, behind a mark.
        let size = &block[HEADER_BYTES + 4..HEADER_BYTES + 8];
        let size = u32::from_le_bytes(size.try_into().expect("four")) as usize;
        let start = HEADER_BYTES + 8;
        let message = root_as_message(&block[start..start + size])
            .map_err(|_| self.damaged("a message is not well formed"))?;
        let rows = message
            .header_as_record_batch()
            .ok_or_else(|| self.damaged("a block without rows"))?;
        let body = block.slice(start + size);
        let schema = Arc::clone(&self.schema);
        let none = Default::default();
        let batch = read_record_batch(&body, rows, schema, &none, None, &message.version())?;
        Ok(batch)
    }

    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!(
            "a spill file is damaged: {what} directory={} bytes={}",
            self.room.directory().display(),
            self.room.bytes()
        ))
    }
}

/// Reads a [`Run`]: an iterator of its blocks, which ends with the first error.
pub struct RunReader {
    run: Run,
    next: usize,
}

impl Iterator for RunReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.run.blocks() {
            return None;
        }
        let block = self.run.block(self.next);
        self.next = match block {
            Ok(_) => self.next + 1,
            Err(_) => self.run.blocks(),
        };
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};

    use super::*;
    use crate::error::ErrorKind;

    fn batch(from: i64) -> RecordBatch {
        let numbers = Int64Array::from_iter_values(from..from + 1000);
        let texts = (from..from + 1000).map(|n| (n % 7 > 0).then(|| format!("a text for {n}")));
        RecordBatch::try_from_iter([
            ("n", Arc::new(numbers) as _),
            ("s", Arc::new(StringViewArray::from_iter(texts)) as _),
        ])
        .expect("columns of one length")
    }

    fn disk() -> Arc<DiskBudget> {
        DiskBudget::new(u64::MAX, None)
    }

    /// A run of two blocks, around one of another run.
    fn run() -> Run {
        let mut writer = RunWriter::new(&disk(), &batch(0).schema(), 2).expect("a file");
        for (run, from) in [(1, 0), (0, 7), (1, 5)] {
            writer.write(run, &batch(from)).expect("room on disk");
        }
        let mut runs = writer.finish().expect("room on disk");
        runs.pop().expect("the second of two runs")
    }

    fn read(run: Run) -> Result<Vec<RecordBatch>> {
        run.read().collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let disk = disk();
        let mut writer = RunWriter::new(&disk, &batch(0).schema(), 3).expect("a file");
        for (run, from) in [(0, 0), (2, 4), (0, 1000), (0, 9)] {
            writer.write(run, &batch(from)).expect("room on disk");
        }
        let bytes = writer.bytes();
        let runs = writer.finish().expect("room on disk");
        assert_eq!(runs.iter().map(Run::bytes).sum::<u64>(), bytes);
        assert_eq!(
            runs.iter().map(Run::rows).collect::<Vec<_>>(),
            [3000, 0, 1000]
        );
        // Out of order, one beside the other, and more than once.
        for _ in 0..2 {
            let found = runs
                .iter()
                .rev()
                .map(|run| read(run.clone()).expect("blocks"));
            let found: Vec<Vec<RecordBatch>> = found.collect();
            assert_eq!(found[0], [batch(4)]);
            assert!(found[1].is_empty());
            assert_eq!(found[2], [batch(0), batch(1000), batch(9)]);
        }
        assert_eq!(disk.used(), bytes);
        drop(runs);
        assert_eq!(disk.used(), 0, "the room is given back with the last run");
    }

    #[test]
    fn damage_is_noticed() {
        let whole = run();
        let last = whole.blocks.last().expect("two blocks");
        let (start, end) = (whole.blocks[0].start, last.start + u64::from(last.bytes));
        let other = whole.blocks[0].start + u64::from(whole.blocks[0].bytes)..last.start;
        for at in (start..end).step_by(97).filter(|at| !other.contains(at)) {
            let run = run();
            let file = &run.file.file;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 0x10], at).expect("a byte");
            let error = read(run).expect_err("a damaged run");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "at={at}");
        }
        for left in (start..end).step_by(211) {
            let run = run();
            run.file.file.set_len(left).expect("a shorter file");
            let error = read(run).expect_err("a shorter run");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "left={left}");
        }
    }

    #[test]
    fn what_is_too_much_for_the_disk_is_refused_and_takes_no_room() {
        let disk = DiskBudget::new(20_000, None);
        let mut writer = RunWriter::new(&disk, &batch(0).schema(), 1).expect("a file");
        let written = (0..100).try_for_each(|from| writer.write(0, &batch(from)));
        let error = written.expect_err("100 blocks of more than 2000 bytes");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.message().contains("limit=20000"), "{error}");
        drop(writer);
        assert_eq!(disk.used(), 0);
    }
}
