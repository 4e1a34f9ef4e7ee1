//! The hybrid of run-length and bit-packed encoding: codes, levels and truth values.
//!
//! Runs follow one another; each begins with a number whose lowest bit says whether one value is
//! repeated or groups of eight are packed. Where a run ends need not be where a batch ends, so what
//! is left of a run is kept.

use arrow::array::BooleanBufferBuilder;
use arrow::buffer::BooleanBuffer;

use crate::error::{Error, Result};
use crate::kernel::unpack::{WIDTH_MAX, unpack};

/// How far a sequence of runs has been read. The bytes are passed to each call: always the same.
#[derive(Debug, Clone)]
pub(super) struct Hybrid {
    /// Bits of a value.
    width: u32,
    /// Where the next run begins.
    at: usize,
    /// Where the last run ends.
    end: usize,
    run: Run,
}

#[derive(Debug, Clone)]
enum Run {
    /// `left` times the same value.
    Repeated { value: u32, left: usize },
    /// `left` values, the first of which is number `next` of those packed from byte `start` on.
    Packed {
        start: usize,
        next: usize,
        left: usize,
    },
}

/// Some values of one run.
enum Piece {
    Repeated {
        value: u32,
        count: usize,
    },
    Packed {
        start: usize,
        next: usize,
        count: usize,
    },
}

impl Piece {
    fn count(&self) -> usize {
        match self {
            Piece::Repeated { count, .. } | Piece::Packed { count, .. } => *count,
        }
    }
}

impl Hybrid {
    /// The runs of values of `width` bits in `start..end` of the bytes.
    pub(super) fn new(width: u32, start: usize, end: usize) -> Result<Hybrid> {
        if width > WIDTH_MAX {
            return Err(Error::invalid(format!(
                "codes have too many bits bits={width}"
            )));
        }
        let none = Run::Repeated { value: 0, left: 0 };
        // Without bits there is nothing to read.
        let zeros = Run::Repeated {
            value: 0,
            left: usize::MAX,
        };
        Ok(Hybrid {
            width,
            at: start,
            end,
            run: if width == 0 { zeros } else { none },
        })
    }

    /// Bits that are packed one after the other, without runs.
    pub(super) fn bits(start: usize, end: usize) -> Hybrid {
        Hybrid {
            width: 1,
            at: end,
            end,
            run: Run::Packed {
                start,
                next: 0,
                left: (end - start).saturating_mul(8),
            },
        }
    }

    /// Reads as many values as `out` has place for.
    pub(super) fn read(&mut self, bytes: &[u8], mut out: &mut [u32]) -> Result<()> {
        while !out.is_empty() {
            let piece = self.take(bytes, out.len())?;
            let (here, rest) = out.split_at_mut(piece.count());
            match piece {
                Piece::Repeated { value, .. } => here.fill(value),
                Piece::Packed { start, next, .. } => {
                    unpack(&bytes[start..self.end], next, self.width, here);
                }
            }
            out = rest;
        }
        Ok(())
    }

    /// The next `count` values, of one bit each; none if all are set.
    pub(super) fn read_bits(
        &mut self,
        bytes: &[u8],
        count: usize,
    ) -> Result<Option<BooleanBuffer>> {
        self.begin(bytes)?;
        match &mut self.run {
            Run::Repeated { value: 1, left } if *left >= count => {
                *left -= count;
                return Ok(None);
            }
            _ => {}
        }
        let mut out = BooleanBufferBuilder::new(count);
        while out.len() < count {
            match self.take(bytes, count - out.len())? {
                Piece::Repeated { value, count } => out.append_n(count, value == 1),
                Piece::Packed { start, next, count } => {
                    let first = start * 8 + next;
                    out.append_packed_range(first..first + count, bytes);
                }
            }
        }
        let bits = out.finish();
        Ok((bits.count_set_bits() < count).then_some(bits))
    }

    /// Passes over `count` values.
    pub(super) fn skip(&mut self, bytes: &[u8], mut count: usize) -> Result<()> {
        while count > 0 {
            count -= self.take(bytes, count)?.count();
        }
        Ok(())
    }

    /// Up to `most` values, at least one.
    fn take(&mut self, bytes: &[u8], most: usize) -> Result<Piece> {
        self.begin(bytes)?;
        Ok(match &mut self.run {
            Run::Repeated { value, left } => {
                let (value, count) = (*value, most.min(*left));
                *left -= count;
                Piece::Repeated { value, count }
            }
            Run::Packed { start, next, left } => {
                let (start, first, count) = (*start, *next, most.min(*left));
                *next += count;
                *left -= count;
                Piece::Packed {
                    start,
                    next: first,
                    count,
                }
            }
        })
    }

    /// Makes sure that the run has a value left.
    fn begin(&mut self, bytes: &[u8]) -> Result<()> {
        while let Run::Repeated { left: 0, .. } | Run::Packed { left: 0, .. } = self.run {
            self.run = self.next_run(bytes)?;
        }
        Ok(())
    }

    fn next_run(&mut self, bytes: &[u8]) -> Result<Run> {
        let bytes = &bytes[..self.end];
        let mut header = 0u64;
        let mut shift = 0;
        loop {
            let byte = *bytes.get(self.at).ok_or_else(|| bad("end early"))?;
            self.at += 1;
            header |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
            if shift > 28 {
                return Err(bad("have a run of more than 2^31 values"));
            }
        }
        let width = self.width as usize;
        let count = (header >> 1) as usize;
        if header & 1 == 0 {
            let length = width.div_ceil(8);
            let rest = &bytes[self.at..];
            let value = match rest.first_chunk() {
                Some(word) => u64::from(u32::from_le_bytes(*word)) & ((1 << (8 * length)) - 1),
                None if rest.len() < length => return Err(bad("end within a run")),
                None => rest[..length]
                    .iter()
                    .rev()
                    .fold(0, |value, &byte| value << 8 | u64::from(byte)),
            };
            self.at += length;
            if value >> width != 0 {
                return Err(bad("repeat a value that is too large"));
            }
            return Ok(Run::Repeated {
                value: value as u32,
                left: count,
            });
        }
        let start = self.at;
        // The last run of a page may be cut off behind its last value.
        let length = (count * width).min(self.end - start);
        self.at += length;
        Ok(Run::Packed {
            start,
            next: 0,
            left: (count * 8).min(length * 8 / width),
        })
    }
}

fn bad(what: &str) -> Error {
    Error::invalid(format!("a page's codes or levels {what}"))
}
