//! The optimiser's rules, one file each, in the order in which they are applied.

mod fold;
mod simplify;

mod facts;
mod filters_at_join;
mod filters_down;
mod limits_together;
mod orders_dropped;

mod aggregates_once;
mod keys_as_columns;
mod projections_together;
mod values_grouped;

mod join_order;

mod columns_needed;
mod words_at_scan;

mod groups_reduced;

#[cfg(test)]
pub(super) mod fixture;

pub(super) use aggregates_once::aggregates_once;
pub(super) use columns_needed::columns_needed;
pub(super) use filters_down::filters_down;
pub(super) use groups_reduced::groups_reduced;
pub(super) use join_order::join_order;
pub(super) use keys_as_columns::keys_as_columns;
pub(super) use limits_together::limits_together;
pub(super) use orders_dropped::orders_dropped;
pub(super) use projections_together::projections_together;
pub(super) use simplify::simplify;
pub(super) use values_grouped::values_grouped;
pub(super) use words_at_scan::words_at_scan;
