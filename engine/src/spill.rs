//! Rows on local disk, because memory ran short.
//!
//! A file without a name holds several [`Run`]s, one after the other: the system frees it when the
//! last of them is dropped, however the process ends. A run is a sequence of blocks, each with its
//! length and checksum in front, so that a damaged one is noticed and not decoded.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::limits;
use crate::storage::file_error;

/// What errors call the file, which has no name.
const PLACE: &str = "(spill file)";

/// Bytes in front of a block: its length and its checksum.
const HEADER_BYTES: u64 = 16;

/// Rows that were written, in the order in which they were.
pub struct Run {
    file: Arc<File>,
    start: u64,
    end: u64,
}

/// Writes [`Run`]s to one file.
pub struct RunWriter {
    out: BufWriter<File>,
    bytes: u64,
    /// Where the runs end that are complete.
    ends: Vec<u64>,
}

impl RunWriter {
    /// A file without runs.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, `Unavailable` if there is no place for temporary files.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(|error| file_error("create", PLACE, error))?;
        Ok(RunWriter {
            out: BufWriter::with_capacity(limits::SPILL_BUFFER_BYTES, file),
            bytes: 0,
            ends: Vec::new(),
        })
    }

    /// Appends the rows of `batch` to the run as one block.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let options = IpcWriteOptions::default();
        let options = options.try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options)?;
        writer.write(batch)?;
        let block = writer.into_inner()?;
        let length = block.len() as u64;
        let mut put = |bytes: &[u8]| self.out.write_all(bytes);
        put(&length.to_le_bytes())
            .and_then(|()| put(&xxh3_64(&block).to_le_bytes()))
            .and_then(|()| put(&block))
            .map_err(|error| file_error("write", PLACE, error))?;
        self.bytes += HEADER_BYTES + length;
        Ok(())
    }

    /// Ends the run; what is written next is another one.
    pub fn end_run(&mut self) {
        self.ends.push(self.bytes);
    }

    /// The runs that were ended.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn finish(self) -> Result<Vec<Run>> {
        let file = self.out.into_inner().map_err(|error| error.into_error());
        let file = Arc::new(file.map_err(|error| file_error("write", PLACE, error))?);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs = starts.zip(&self.ends).map(|(start, end)| Run {
            file: Arc::clone(&file),
            start,
            end: *end,
        });
        Ok(runs.collect())
    }
}

impl Run {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// The rows, block by block.
    pub fn read(self) -> RunReader {
        RunReader(self)
    }
}

/// Reads a [`Run`]: an iterator of its blocks, which ends with the first error.
pub struct RunReader(Run);

impl RunReader {
    fn block(&mut self) -> Result<RecordBatch> {
        let length = self.number()?;
        let checksum = self.number()?;
        if length > self.0.bytes() {
            return Err(damaged("a block is longer than its run"));
        }
        let mut block = vec![0; usize::try_from(length).map_err(|_| damaged("a length"))?];
        self.fill(&mut block)?;
        if xxh3_64(&block) != checksum {
            return Err(damaged("a checksum differs"));
        }
        let mut blocks = StreamReader::try_new(block.as_slice(), None)?;
        let batch = blocks
            .next()
            .ok_or_else(|| damaged("a block without rows"))?;
        Ok(batch?)
    }

    fn number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let read = self.0.file.read_exact_at(bytes, self.0.start);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it is shorter than it was"),
            _ => file_error("read", PLACE, error),
        })?;
        self.0.start = self.0.end.min(self.0.start + bytes.len() as u64);
        Ok(())
    }
}

impl Iterator for RunReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.bytes() == 0 {
            return None;
        }
        let block = self.block();
        if block.is_err() {
            self.0.start = self.0.end;
        }
        Some(block)
    }
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("a spill file is damaged: {what}"))
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

    /// A run of two blocks behind another run.
    fn run() -> Run {
        let mut writer = RunWriter::new().expect("a file");
        writer.write(&batch(7)).expect("room on disk");
        writer.end_run();
        for from in [0, 5] {
            writer.write(&batch(from)).expect("room on disk");
        }
        writer.end_run();
        let mut runs = writer.finish().expect("room on disk");
        runs.pop().expect("the second of two runs")
    }

    fn read(run: Run) -> Result<Vec<RecordBatch>> {
        run.read().collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = RunWriter::new().expect("a file");
        for run in [vec![0, 1000, 9], vec![], vec![4]] {
            for from in run {
                writer.write(&batch(from)).expect("room on disk");
            }
            writer.end_run();
        }
        let runs = writer.finish().expect("room on disk");
        // Out of order, and one beside the other.
        let found = runs.into_iter().rev().map(|run| read(run).expect("blocks"));
        let found: Vec<Vec<RecordBatch>> = found.collect();
        assert_eq!(found[0], [batch(4)]);
        assert!(found[1].is_empty());
        assert_eq!(found[2], [batch(0), batch(1000), batch(9)]);
    }

    #[test]
    fn damage_is_noticed() {
        let Run { start, end, .. } = run();
        for at in (start..end).step_by(97) {
            let run = run();
            let mut byte = [0];
            run.file.read_exact_at(&mut byte, at).expect("a byte");
            let other = [byte[0] ^ 0x10];
            run.file.write_all_at(&other, at).expect("a byte");
            let error = read(run).expect_err("a damaged run");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "at={at}");
        }
        for left in (start..end).step_by(211) {
            let run = run();
            run.file.set_len(left).expect("a shorter file");
            let error = read(run).expect_err("a shorter run");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "left={left}");
        }
    }
}
