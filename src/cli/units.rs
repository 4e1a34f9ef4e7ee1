//! Bytes, numbers and times as people read and write them: the library knows how.

pub(crate) use kiln::units::{bytes, grouped, millis, parse_bytes, plural};
