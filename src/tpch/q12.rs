//! Shipping modes and order priority: whether cheap shipping delays urgent orders.

use kiln_engine::Result;
use kiln_engine::expr::{col, count_all, date};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::DataFrame;

/// Late line items of a year by shipping mode, of urgent orders and of others.
pub(super) fn q12(tables: &Tables) -> Result<DataFrame> {
    let urgent = || col("o_orderpriority").in_list(["1-URGENT", "2-HIGH"]);
    tables
        .lineitem()?
        .filter(col("l_shipmode").in_list(["MAIL", "SHIP"]))?
        .filter(col("l_commitdate").lt(col("l_receiptdate")))?
        .filter(col("l_shipdate").lt(col("l_commitdate")))?
        .filter(col("l_receiptdate").gt_eq(date("1994-01-01")))?
        .filter(col("l_receiptdate").lt(date("1995-01-01")))?
        .join(&tables.orders()?, Inner, [("l_orderkey", "o_orderkey")])?
        .group_by([col("l_shipmode")])
        .aggregate([
            count_all().filter(urgent()).alias("high_line_count"),
            count_all().filter(!urgent()).alias("low_line_count"),
        ])?
        .sort([col("l_shipmode").asc()])
}
