//! Sources: bytes from storage become morsels.
//!
//! A source is a stream of morsels. Polling the stream waits for I/O (on tokio); running a morsel
//! decodes (on rayon). What is fetched ahead is bounded by [`crate::limits::PREFETCH_BYTES`].

mod input;

pub mod csv;
pub mod parquet;
pub mod text;

use futures::stream::BoxStream;

use crate::error::Result;
use crate::operator::Morsel;

/// Morsels in the order in which their bytes arrive.
pub type MorselStream = BoxStream<'static, Result<Morsel>>;
