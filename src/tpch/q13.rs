//! Customer distribution: how many customers have how many orders.

use kiln_engine::Result;
use kiln_engine::expr::{coalesce, col, count_all, lit};
use kiln_engine::plan::JoinKind::Left;

use super::Tables;
use crate::dataframe::DataFrame;

/// Customers by their number of orders without special requests, those without any included.
pub(super) fn q13(tables: &Tables) -> Result<DataFrame> {
    let orders = tables
        .orders()?
        .filter(col("o_comment").not_like("%special%requests%"))?
        .group_by([col("o_custkey")])
        .aggregate([count_all().alias("orders")])?;
    tables
        .customer()?
        .join(&orders, Left, [("c_custkey", "o_custkey")])?
        .group_by([coalesce([col("orders"), lit(0)]).alias("c_count")])
        .aggregate([count_all().alias("custdist")])?
        .sort([col("custdist").desc(), col("c_count").desc()])
}
