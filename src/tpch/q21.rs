//! Suppliers who kept orders waiting: the only one of several who was late.
//!
//! Whether an order has other suppliers, and other late ones, shows in the smallest and the largest
//! supplier of its line items, so that each order needs one look at its lines instead of two joins
//! of lines with lines.

use kiln_engine::Result;
use kiln_engine::expr::{col, count_all, max, min};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::DataFrame;

/// Saudi suppliers by how often they were the only one who kept a finished order waiting.
pub(super) fn q21(tables: &Tables) -> Result<DataFrame> {
    let late = || col("l_receiptdate").gt(col("l_commitdate"));
    let saudi_arabia = tables.nation()?.filter(col("n_name").eq("SAUDI ARABIA"))?;
    let suppliers = tables
        .supplier()?
        .semi_join(&saudi_arabia, [("s_nationkey", "n_nationkey")])?;
    let finished = tables.orders()?.filter(col("o_orderstatus").eq("F"))?;
    let waiting = tables
        .lineitem()?
        .filter(late())?
        .join(&suppliers, Inner, [("l_suppkey", "s_suppkey")])?
        .semi_join(&finished, [("l_orderkey", "o_orderkey")])?;
    let supplier = || col("l_suppkey");
    let because_of_one = tables
        .lineitem()?
        .semi_join(&waiting, ["l_orderkey"])?
        .group_by([col("l_orderkey")])
        .aggregate([
            min(supplier()).alias("first"),
            max(supplier()).alias("last"),
            min(supplier()).filter(late()).alias("first_late"),
            max(supplier()).filter(late()).alias("last_late"),
        ])?
        .filter(col("first").not_eq(col("last")))?
        .filter(col("first_late").eq(col("last_late")))?;
    waiting
        .semi_join(&because_of_one, ["l_orderkey"])?
        .group_by([col("s_name")])
        .aggregate([count_all().alias("numwait")])?
        .sort([col("numwait").desc(), col("s_name").asc()])?
        .limit(100)
}
