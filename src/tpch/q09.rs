//! Product type profit measure: what is earned with one line of parts.

use kiln_engine::Result;
use kiln_engine::expr::{col, sum, year};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::DataFrame;

/// Profit from parts with green in their name, by the supplier's nation and year.
pub(super) fn q09(tables: &Tables) -> Result<DataFrame> {
    let parts = tables.part()?.filter(col("p_name").like("%green%"))?;
    let suppliers =
        tables
            .supplier()?
            .join(&tables.nation()?, Inner, [("s_nationkey", "n_nationkey")])?;
    let offer = [("l_partkey", "ps_partkey"), ("l_suppkey", "ps_suppkey")];
    let profit = discounted() - col("ps_supplycost") * col("l_quantity");
    tables
        .lineitem()?
        .join(&parts, Inner, [("l_partkey", "p_partkey")])?
        .join(&tables.partsupp()?, Inner, offer)?
        .join(&suppliers, Inner, [("l_suppkey", "s_suppkey")])?
        .join(&tables.orders()?, Inner, [("l_orderkey", "o_orderkey")])?
        .group_by([
            col("n_name").alias("nation"),
            year(col("o_orderdate")).alias("o_year"),
        ])
        .aggregate([sum(profit).alias("sum_profit")])?
        .sort([col("nation").asc(), col("o_year").desc()])
}
