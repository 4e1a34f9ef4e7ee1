//! Important stock identification: the parts in which much of a nation's stock is bound.
//!
//! The benchmark asks for parts with more than 0.0001 / scale of all value. A scale has 10,000
//! suppliers, so that this is one part in as many as there are suppliers.

use kiln_engine::Result;
use kiln_engine::expr::{col, count_all, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::{DataFrame, cols};

/// Parts with an important share of the value of German stock.
pub(super) fn q11(tables: &Tables) -> Result<DataFrame> {
    let germany = tables.nation()?.filter(col("n_name").eq("GERMANY"))?;
    let suppliers = tables
        .supplier()?
        .semi_join(&germany, [("s_nationkey", "n_nationkey")])?;
    let values = tables
        .partsupp()?
        .join(&suppliers, Inner, [("ps_suppkey", "s_suppkey")])?
        .group_by([col("ps_partkey")])
        .aggregate([sum(col("ps_supplycost") * col("ps_availqty")).alias("value")])?;
    let total = values.aggregate([sum(col("value")).alias("total")])?;
    let shares = tables
        .supplier()?
        .aggregate([count_all().alias("shares")])?;
    values
        .cross_join(&total)?
        .cross_join(&shares)?
        .filter((col("value") * col("shares")).gt(col("total")))?
        .select(cols(["ps_partkey", "value"]))?
        .sort([col("value").desc()])
}
