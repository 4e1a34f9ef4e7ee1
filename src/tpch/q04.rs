//! Order priority checking: how well the priorities of orders work.

use kiln_engine::Result;
use kiln_engine::expr::{col, count_all, date};

use super::Tables;
use crate::dataframe::DataFrame;

/// Orders of a quarter with a line item that came later than promised, by priority.
pub(super) fn q04(tables: &Tables) -> Result<DataFrame> {
    let late = tables
        .lineitem()?
        .filter(col("l_commitdate").lt(col("l_receiptdate")))?;
    tables
        .orders()?
        .filter(col("o_orderdate").gt_eq(date("1993-07-01")))?
        .filter(col("o_orderdate").lt(date("1993-10-01")))?
        .semi_join(&late, [("o_orderkey", "l_orderkey")])?
        .group_by([col("o_orderpriority")])
        .aggregate([count_all().alias("order_count")])?
        .sort([col("o_orderpriority").asc()])
}
