//! A page that was decompressed, and how far it has been read.

use super::hybrid::Hybrid;
use super::pages::{Body, Encoding, prefixed};
use super::plain::{Plain, Source};
use crate::error::Result;

/// A page that was decompressed.
pub(super) struct OpenPage {
    pub(super) body: Body,
    pub(super) cursor: Cursor,
    /// Rows that were read or passed over.
    pub(super) row: usize,
}

pub(super) enum Cursor {
    Codes(Hybrid),
    Bits(Hybrid),
    Plain(Plain),
}

impl OpenPage {
    pub(super) fn new(body: Body, encoding: Encoding, source: Source) -> Result<OpenPage> {
        let bytes = body.bytes.as_slice();
        let values = body.values.clone();
        let cursor = match (encoding, source) {
            (Encoding::Dictionary, _) => {
                let width = bytes[values.clone()].first().copied().unwrap_or(0);
                let start = values.end.min(values.start + 1);
                Cursor::Codes(Hybrid::new(u32::from(width), start, values.end)?)
            }
            (Encoding::Plain, Source::Bits) => Cursor::Bits(Hybrid::bits(values.start, values.end)),
            (Encoding::Plain, _) => Cursor::Plain(Plain::new(source, bytes, values)),
            (Encoding::Runs, _) => {
                let runs = prefixed(bytes, &values)?;
                Cursor::Bits(Hybrid::new(1, runs.start, runs.end)?)
            }
        };
        Ok(OpenPage {
            body,
            cursor,
            row: 0,
        })
    }

    /// Passes over the rows before `row`.
    pub(super) fn skip_to(&mut self, row: usize) -> Result<()> {
        let rows = row - self.row;
        if rows == 0 {
            return Ok(());
        }
        self.row = row;
        let mut dense = rows;
        if let Some((levels, bytes)) = &mut self.body.levels
            && let Some(valid) = levels.read_bits(bytes, rows)?
        {
            dense = valid.count_set_bits();
        }
        let bytes = self.body.bytes.as_slice();
        match &mut self.cursor {
            Cursor::Codes(runs) | Cursor::Bits(runs) => runs.skip(bytes, dense),
            Cursor::Plain(plain) => plain.skip(bytes, dense),
        }
    }
}
