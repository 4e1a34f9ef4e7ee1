//! One column of a row group, read window by window from front to back.

use std::ops::Range;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter;
use parquet::errors::ParquetError;

use super::chunk::Chunks;
use super::column::{ColumnChunkReader, Predicate};
use super::columns::Place;
use super::slow::Slow;
use crate::error::{Error, Result};

/// Reads the windows of a column that are asked for; what lies between them is passed over.
pub(super) enum Reader {
    /// Our own decoder, for what most columns are.
    Fast {
        pages: ColumnChunkReader,
        /// The next row that `pages` has, within the row group.
        at: usize,
        /// Rows from there on that were tested; they have to be read or passed over in one go.
        tested: usize,
    },
    /// The parquet crate's, for the rest.
    Slow(Slow),
}

impl Reader {
    /// A reader of the rows in `ranges`, ascending and apart, of a row group.
    pub(super) fn new(place: &Place, chunks: &Chunks, ranges: &[Range<usize>]) -> Result<Self> {
        if place.leaves.len() == 1 {
            let leaf = place.leaves.start;
            let bytes = chunks.bytes(leaf).map_err(bad)?.clone();
            let metadata = chunks.row_group().column(leaf);
            if let Some(pages) = ColumnChunkReader::try_new(bytes, metadata, &place.data_type)? {
                return Ok(Reader::Fast {
                    pages,
                    at: 0,
                    tested: 0,
                });
            }
        }
        Ok(Reader::Slow(Slow::new(place, chunks, ranges).map_err(bad)?))
    }

    /// The values of the rows of a window, of those that `mask` has where there is one. Windows
    /// ascend and lie within the ranges.
    ///
    /// # Errors
    /// `Invalid` if the pages are not what they should be.
    pub(super) fn read(
        &mut self,
        window: &Range<usize>,
        mask: Option<&BooleanBuffer>,
    ) -> Result<ArrayRef> {
        self.pass_to(window.start)?;
        match self {
            Reader::Fast { pages, at, tested } => {
                (*at, *tested) = (window.end, 0);
                match mask {
                    Some(mask) => pages.read_selected(mask),
                    None => pages.read(window.len()),
                }
            }
            Reader::Slow(slow) => {
                let values = slow.read(window).map_err(bad)?;
                match mask {
                    Some(mask) => Ok(filter(&values, &BooleanArray::new(mask.clone(), None))?),
                    None => Ok(values),
                }
            }
        }
    }

    /// Which rows of a window `predicate` wants, which is asked for values rather than for rows;
    /// none where that cannot be done. The window may be read afterwards.
    ///
    /// # Errors
    /// `Invalid` if the pages are not what they should be; the predicate's own.
    pub(super) fn test(
        &mut self,
        window: &Range<usize>,
        predicate: Predicate<'_>,
    ) -> Result<Option<BooleanBuffer>> {
        self.pass_to(window.start)?;
        let Reader::Fast { pages, tested, .. } = self else {
            return Ok(None);
        };
        *tested = window.len();
        pages.test(window.len(), predicate).map(Some)
    }

    /// Makes sure that the column ends where its row group of `rows` rows does.
    ///
    /// # Errors
    /// `Invalid` if it does not.
    pub(super) fn finish(&mut self, rows: usize) -> Result<()> {
        match self {
            // It has counted the rows of its pages when it was opened.
            Reader::Fast { .. } => Ok(()),
            Reader::Slow(slow) => slow.finish(rows).map_err(bad),
        }
    }

    /// Passes over the rows before `row`. The slow reader does so when it reads.
    fn pass_to(&mut self, row: usize) -> Result<()> {
        let Reader::Fast { pages, at, tested } = self else {
            return Ok(());
        };
        if row > *at {
            pages.skip(*tested)?;
            pages.skip(row - *at - *tested)?;
            (*at, *tested) = (row, 0);
        }
        Ok(())
    }
}

fn bad(error: ParquetError) -> Error {
    Error::invalid(error.to_string())
}
