//! What rows are sorted by: sixteen bytes that nearly always decide, and the whole key where they
//! do not.
//!
//! The bytes of a key compare like the keys themselves, direction and place of nulls included.
//! They are arrow's row format, of which a *prefix* is kept at hand. Keys of fixed width that fit
//! into the prefix are nowhere else. The row format of texts is longer than they are, so a single
//! column of texts gets a prefix of our own, and where that does not decide the column does.

use std::cmp::Ordering;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows};

use crate::error::Result;
use crate::operator::order::{Order, prefix};
use crate::operator::sort::layout::Layout;

/// The first bytes of a key, as numbers that compare like them.
pub(super) type Prefix = [u64; 2];

/// Bytes of a prefix.
pub(super) const PREFIX_BYTES: usize = size_of::<Prefix>();

/// The keys of rows.
pub(super) struct Keys {
    order: Order,
    kind: Kind,
}

enum Kind {
    /// The prefix is all of the key.
    Prefix(RowConverter),
    /// The key is a column, the text of this number in a row's layout.
    Text(usize, SortOptions),
    /// The key is kept with the row, as its first text.
    Kept(RowConverter),
}

/// The keys of the rows of a batch.
pub(super) enum BatchKeys {
    Rows(Rows),
    Column(ArrayRef, SortOptions),
}

impl Keys {
    /// Whether keys in this order are kept beside the columns.
    pub(super) fn are_kept(order: &Order) -> bool {
        order
            .single_column()
            .is_none_or(|(_, data_type)| !is_text(data_type))
            && order.width().is_none_or(|width| width > PREFIX_BYTES)
    }

    /// Keys in `order` of rows laid out by `layout`, which keeps them if they
    /// [`are_kept`](Self::are_kept).
    ///
    /// # Errors
    /// What arrow answered to the types of keys.
    pub(super) fn new(order: Order, layout: &Layout) -> Result<Self> {
        let text = order.single_column().filter(|(_, found)| is_text(found));
        let text = text.and_then(|(index, _)| layout.text_of(index));
        let kind = match text {
            Some(number) => Kind::Text(number, order.leading_options()),
            None if Self::are_kept(&order) => Kind::Kept(order.converter()?),
            None => Kind::Prefix(order.converter()?),
        };
        Ok(Keys { order, kind })
    }

    /// The keys of the rows of `batch`.
    ///
    /// # Errors
    /// What evaluating them answered.
    pub(super) fn of(&self, batch: &RecordBatch) -> Result<BatchKeys> {
        let mut columns = self.order.columns(batch)?;
        Ok(match &self.kind {
            Kind::Text(_, options) => BatchKeys::Column(columns.swap_remove(0), *options),
            Kind::Prefix(converter) => {
                let rows = converter.convert_columns(&columns)?;
                debug_assert!(rows.lengths().all(|length| length <= PREFIX_BYTES));
                BatchKeys::Rows(rows)
            }
            Kind::Kept(converter) => BatchKeys::Rows(converter.convert_columns(&columns)?),
        })
    }

    /// All of a row's key that its prefix does not tell.
    #[inline]
    pub(super) fn rest<'a>(&self, layout: &Layout, prefix: Prefix, row: &'a [u8]) -> &'a [u8] {
        match self.kind {
            Kind::Prefix(_) => &[],
            Kind::Text(_, options) if is_whole(prefix, options) => &[],
            Kind::Text(number, _) => layout.text(row, number),
            Kind::Kept(_) => layout.text(row, 0),
        }
    }

    /// Compares what two keys with the same prefix have beside it.
    #[inline]
    pub(super) fn compare_rest(&self, one: &[u8], other: &[u8]) -> Ordering {
        match self.kind {
            Kind::Text(
                _,
                SortOptions {
                    descending: true, ..
                },
            ) => other.cmp(one),
            _ => one.cmp(other),
        }
    }

    /// Compares two rows by their keys.
    #[inline]
    pub(super) fn compare<'a>(
        &self,
        layout: &Layout,
        (prefix, row): (Prefix, impl FnOnce() -> &'a [u8]),
        (other_prefix, other_row): (Prefix, impl FnOnce() -> &'a [u8]),
    ) -> Ordering {
        match prefix.cmp(&other_prefix) {
            Ordering::Equal if !self.tells_all(prefix) => {
                let rest = self.rest(layout, prefix, row());
                let other_rest = self.rest(layout, prefix, other_row());
                self.compare_rest(rest, other_rest)
            }
            decided => decided,
        }
    }

    /// Whether rows with this prefix have the same key.
    #[inline]
    pub(super) fn tells_all(&self, prefix: Prefix) -> bool {
        match self.kind {
            Kind::Prefix(_) => true,
            Kind::Text(_, options) => is_whole(prefix, options),
            Kind::Kept(_) => false,
        }
    }
}

impl BatchKeys {
    /// Keys that are kept with rows, if these are.
    pub(super) fn rows(&self) -> Option<&Rows> {
        match self {
            BatchKeys::Rows(rows) => Some(rows),
            BatchKeys::Column(..) => None,
        }
    }

    /// Hands the prefix of each row to `take`.
    pub(super) fn prefixes(&self, mut take: impl FnMut(Prefix)) {
        match self {
            BatchKeys::Rows(rows) => rows.iter().for_each(|key| take(prefix(key.data()))),
            BatchKeys::Column(column, options) => {
                let mut text = |value: Option<&[u8]>| take(text_prefix(value, *options));
                match column.as_string_view_opt() {
                    Some(texts) => {
                        let values = texts.iter().map(|value| value.map(str::as_bytes));
                        values.for_each(&mut text);
                    }
                    None => column.as_binary_view().iter().for_each(&mut text),
                }
            }
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::BinaryView)
}

/// Bytes of a text that are in its prefix.
const TEXT_BYTES: usize = 14;

/// A prefix of a text: whether it is null, its first bytes filled up with zeros, and how many it
/// has, or that they are more. So two texts of which one is the other with zeros behind differ.
fn text_prefix(value: Option<&[u8]>, options: SortOptions) -> Prefix {
    let Some(value) = value else {
        return match options.nulls_first {
            true => [0; 2],
            false => [u64::MAX; 2],
        };
    };
    let mut bytes = [0; PREFIX_BYTES];
    let length = value.len().min(TEXT_BYTES);
    bytes[1..=length].copy_from_slice(&value[..length]);
    bytes[PREFIX_BYTES - 1] = value.len().min(TEXT_BYTES + 1) as u8;
    let mut number = u128::from_be_bytes(bytes);
    if options.descending {
        number = !number & VALUE_BITS;
    }
    number |= NOT_NULL;
    [(number >> 64) as u64, number as u64]
}

/// All but the first byte of a prefix, which tells nulls.
const VALUE_BITS: u128 = u128::MAX >> 8;

/// The first byte where there is a value: neither the least nor the greatest.
const NOT_NULL: u128 = 1 << 120;

/// Whether all of a text is in its prefix.
#[inline]
fn is_whole(prefix: Prefix, options: SortOptions) -> bool {
    let is_null = prefix[0] == 0 || prefix[0] == u64::MAX;
    let length = match options.descending {
        true => !prefix[1] as u8,
        false => prefix[1] as u8,
    };
    is_null || usize::from(length) <= TEXT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_texts_compare_like_texts() {
        let mut random = fastrand::Rng::with_seed(1);
        let text = |random: &mut fastrand::Rng| -> Option<Vec<u8>> {
            let length = random.usize(..20);
            let byte = |_| [0, 1, b'a', 0xff][random.usize(..4)];
            (length < 19).then(|| (0..length).map(byte).collect())
        };
        for _ in 0..100_000 {
            let (one, mut other) = (text(&mut random), text(&mut random));
            if let (Some(one), Some(other)) = (&one, &mut other)
                && random.bool()
            {
                let same = random.usize(..=one.len());
                other.splice(..same.min(other.len()), one[..same].iter().copied());
            }
            for (descending, nulls_first) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let options = SortOptions {
                    descending,
                    nulls_first,
                };
                let null = |text: &Option<Vec<u8>>| text.is_none() != nulls_first;
                let values = match descending {
                    true => other.cmp(&one),
                    false => one.cmp(&other),
                };
                let expected = null(&one).cmp(&null(&other)).then(values);
                let (a, b) = (
                    text_prefix(one.as_deref(), options),
                    text_prefix(other.as_deref(), options),
                );
                let whole = is_whole(a, options) && is_whole(b, options);
                match a.cmp(&b) {
                    Ordering::Equal if !whole => {}
                    found => assert_eq!(found, expected, "{one:?} {other:?} {options:?}"),
                }
            }
        }
    }
}
