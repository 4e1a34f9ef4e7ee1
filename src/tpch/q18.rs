//! Large volume customer: who placed the largest orders.

use kiln_engine::Result;
use kiln_engine::expr::{col, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::{DataFrame, cols};

/// The hundred most expensive of the orders of more than 300 pieces.
pub(super) fn q18(tables: &Tables) -> Result<DataFrame> {
    let large = tables
        .lineitem()?
        .group_by([col("l_orderkey")])
        .aggregate([sum(col("l_quantity")).alias("quantity")])?
        .filter(col("quantity").gt(300))?;
    let orders = tables
        .orders()?
        .semi_join(&large, [("o_orderkey", "l_orderkey")])?
        .join(&tables.customer()?, Inner, [("o_custkey", "c_custkey")])?;
    let keys = [
        "c_name",
        "c_custkey",
        "o_orderkey",
        "o_orderdate",
        "o_totalprice",
    ];
    tables
        .lineitem()?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .group_by(cols(keys))
        .aggregate([sum(col("l_quantity"))])?
        .sort([col("o_totalprice").desc(), col("o_orderdate").asc()])?
        .limit(100)
}
