//! Kernels: the inner loops over columns that arrow does not have.
//!
//! Everything here works on whole columns and knows nothing of plans or tasks. `unsafe` stays in
//! [`view`], [`space`] and [`unpack`], behind functions that are safe to call.

pub mod hash;
pub(crate) mod number;

pub mod key_filter;
pub mod space;
pub mod unpack;
pub mod view;
pub mod words;
