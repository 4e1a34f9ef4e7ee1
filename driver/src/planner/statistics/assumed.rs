//! What is assumed where nothing is known: shares of rows, sizes of values.
//!
//! Each is a guess that the order of joins and the choice of what is looked up in depend on, and
//! never the result.

/// What one bound keeps, where nothing is known of the values.
pub(super) const BOUND_SHARE: f64 = 1.0 / 3.0;

/// What a bound on the result of an aggregate keeps: such filters look for what stands out.
pub(super) const RESULT_SHARE: f64 = 0.05;

/// What a search in a text keeps.
pub(super) const SEARCH_SHARE: f64 = 0.1;

/// What a search for the start of a text keeps.
pub(super) const PREFIX_SHARE: f64 = 0.05;

/// Different values of a column of which nothing is known, if there are as many rows.
pub(super) const DISTINCT: f64 = 20.0;

/// What any other predicate keeps.
pub(super) const SHARE: f64 = 1.0 / 3.0;

/// The smallest share: estimates are not to be taken for knowledge that nothing is there.
pub(super) const SHARE_MIN: f64 = 1e-9;

/// The share of matches that what else a semi join asks is thought to leave.
pub(super) const FILTERED_SHARE: f64 = 0.75;

/// The least share of rows that an anti join is thought to keep.
pub(super) const ANTI_SHARE_MIN: f64 = 0.05;

/// Children that a parent has at most, where that decides whether two columns are the keys of
/// parents and children at all.
pub(super) const CHILDREN_MAX: f64 = 16.0;

/// Elements of a list, where nothing is known of it.
pub(super) const LIST_ELEMENTS: f64 = 8.0;

/// Bytes of a value whose type has no fixed size: a view, and for some a text beside it.
pub(super) const TEXT_BYTES: f64 = 24.0;

/// Bytes of a value that is computed.
pub(super) const COMPUTED_BYTES: f64 = 8.0;
