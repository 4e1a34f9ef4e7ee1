//! Shuffle: rows go from the tasks of one stage to the tasks of the next through object storage.
//!
//! A task attempt writes one immutable object: self-contained blocks of rows, laid out partition
//! by partition, then a footer. Its report carries the index (bytes, rows and checksum of each
//! partition), so a reader knows name and byte range of everything it needs: nothing is listed,
//! renamed or looked up, and a reader takes any run of partitions of one object with one request.
//! `docs/shuffle-format.md` says it byte by byte.
//!
//! Invariants: an object is complete or not there; a partition holds whole blocks; no byte is
//! decoded before its partition's checksum has been compared, or its block's where a partition is
//! too large to be held. Where a reader finds anything else
//! it names the object, and its producer runs again.

mod block;
mod chunks;
mod decode;
mod fetch;
mod gather;
mod index;
mod layout;
mod upload;

mod object;

mod reader;
mod sorted;
mod writer;

pub use decode::decode_blocks;
pub use index::read_index;
pub use reader::{fetch_blocks, open, open_range};
pub use sorted::SortedSink;
pub use writer::ShuffleSink;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod sorted_tests;
#[cfg(test)]
mod tests;
