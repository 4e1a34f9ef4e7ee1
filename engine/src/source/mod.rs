//! Sources: bytes from storage become morsels.
//!
//! A source is a stream of morsels. Polling the stream waits for I/O (on tokio); running a morsel
//! decodes (on rayon). What is fetched ahead is bounded by [`crate::limits::PREFETCH_BYTES`].

mod codec;
mod input;

pub mod csv;
pub mod parquet;
pub mod text;

use std::sync::Arc;

use futures::stream::BoxStream;

use crate::error::Result;
use crate::kernel::key_filter::KeyFilter;
use crate::operator::Morsel;

/// Morsels in the order in which their bytes arrive.
pub type MorselStream = BoxStream<'static, Result<Morsel>>;

/// Morsels as they come, each with its place in the order of the input: files one after the other,
/// and the rows of each as they are in it.
pub type PlacedMorsels = BoxStream<'static, Result<(u64, Morsel)>>;

/// Bits of a place that are for morsels of one piece of the input.
const PLACE_BITS: u32 = 32;

/// The place of morsel `number` of piece `piece` of the input.
pub(crate) fn place(piece: u64, number: u64) -> u64 {
    piece << PLACE_BITS | number
}

/// The piece of the input at a place.
pub(crate) fn piece_of(place: u64) -> usize {
    (place >> PLACE_BITS) as usize
}

/// A column of the files whose rows are of use only if a later join knows their value.
#[derive(Debug, Clone)]
pub struct ColumnFilter {
    /// Index into the scan's `file_schema`.
    pub column: usize,
    /// The keys of the join's build rows.
    pub keys: Arc<KeyFilter>,
}
