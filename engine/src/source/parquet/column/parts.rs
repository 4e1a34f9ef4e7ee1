//! Rows that were taken from pages and are not an array yet.

use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};

use super::plain::Item;
use super::select::{select, select_bits};
use crate::error::Result;

/// Rows of one page.
pub(super) struct Part<T: Item> {
    pub(super) rows: usize,
    /// Which of them are not null; none if all are.
    pub(super) valid: Option<BooleanBuffer>,
    /// A value for each row that is not null.
    pub(super) values: Values<T>,
    /// What strings point into, unless they are of the dictionary.
    pub(super) buffer: Option<Buffer>,
}

pub(super) enum Values<T: Item> {
    Codes(Vec<u32>),
    Plain(ScalarBuffer<T>),
}

impl<T: Item> Part<T> {
    /// Drops the rows that are not set in `mask`.
    pub(super) fn keep(&mut self, mask: &BooleanBuffer) -> Result<()> {
        let (mask, valid) = narrow(Some(mask), self.valid.take())?;
        if let Some(mask) = mask {
            self.values = self.values.select(&mask);
        }
        self.rows = valid.as_ref().map_or(self.values.len(), BooleanBuffer::len);
        self.valid = valid;
        Ok(())
    }
}

impl<T: Item> Values<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Values::Codes(codes) => codes.len(),
            Values::Plain(values) => values.len(),
        }
    }

    pub(super) fn select(&self, mask: &BooleanBuffer) -> Values<T> {
        match self {
            Values::Codes(codes) => {
                let mut out = Vec::new();
                select(codes, mask, |code| code, &mut out);
                Values::Codes(out)
            }
            Values::Plain(values) => {
                let mut out = Vec::new();
                select(values, mask, |value| value, &mut out);
                Values::Plain(out.into())
            }
        }
    }
}

/// From a mask over rows and which of these are valid: the mask over the valid ones, and which of
/// the selected ones are valid.
pub(super) fn narrow(
    mask: Option<&BooleanBuffer>,
    valid: Option<BooleanBuffer>,
) -> Result<(Option<BooleanBuffer>, Option<BooleanBuffer>)> {
    Ok(match (mask, valid) {
        (None, valid) => (None, valid),
        (Some(mask), None) => (Some(mask.clone()), None),
        (Some(mask), Some(valid)) => (
            Some(select_bits(mask, &valid)?),
            Some(select_bits(&valid, mask)?),
        ),
    })
}
