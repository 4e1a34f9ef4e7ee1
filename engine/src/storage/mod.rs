//! Where bytes live: places as people type them, the stores behind them, and what is in them.
//!
//! A place has one form inside Kiln: an absolute URL ([`parse_location`] makes it). Bytes are
//! reached through [`Stores`], which knows one `ObjectStore` per scheme and authority. What a
//! store answers becomes one of our own errors in one place, [`storage_error`].

mod conditional;
mod fault;
mod footers;
mod half_written;
mod limited;
mod listing;
mod location;
mod overflow;
mod pattern;
mod programs;
mod remote;
mod shuffle_store;
mod stores;
mod waiting;

pub use conditional::{Created, create};
pub use fault::storage_error;
pub use footers::FooterCache;
pub use half_written::HalfWritten;
pub use listing::list_files;
pub use location::{local_path, local_url, parse_location, staging_url};
pub use overflow::OverflowStore;
pub use programs::{ProgramStore, Staging, sha256_of_file};
pub use remote::StoreSettings;
pub use shuffle_store::{Compression, ShuffleObject, ShuffleStore};
pub use stores::Stores;

pub(crate) use fault::file_error;
pub(crate) use waiting::{on_file_thread, read_ranges};
