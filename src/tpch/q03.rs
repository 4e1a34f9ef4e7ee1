//! Shipping priority: the most valuable orders that were not shipped by a day.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::{DataFrame, cols};

/// The ten open orders of the building trade with the highest revenue to come.
pub(super) fn q03(tables: &Tables) -> Result<DataFrame> {
    let day = || date("1995-03-15");
    let customers = tables
        .customer()?
        .filter(col("c_mktsegment").eq("BUILDING"))?;
    let orders = tables
        .orders()?
        .filter(col("o_orderdate").lt(day()))?
        .semi_join(&customers, [("o_custkey", "c_custkey")])?;
    tables
        .lineitem()?
        .filter(col("l_shipdate").gt(day()))?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .group_by(cols(["l_orderkey", "o_orderdate", "o_shippriority"]))
        .aggregate([sum(discounted()).alias("revenue")])?
        .select(cols([
            "l_orderkey",
            "revenue",
            "o_orderdate",
            "o_shippriority",
        ]))?
        .sort([col("revenue").desc(), col("o_orderdate").asc()])?
        .limit(10)
}
