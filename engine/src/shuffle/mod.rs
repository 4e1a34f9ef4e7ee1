//! Shuffle.
