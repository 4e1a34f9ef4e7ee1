//! Local supplier volume: revenue from suppliers in the customer's own nation.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::DataFrame;

/// Revenue of a year within each nation of Asia.
pub(super) fn q05(tables: &Tables) -> Result<DataFrame> {
    let asia = tables.region()?.filter(col("r_name").eq("ASIA"))?;
    let nations = tables
        .nation()?
        .join(&asia, Inner, [("n_regionkey", "r_regionkey")])?;
    let suppliers = tables
        .supplier()?
        .join(&nations, Inner, [("s_nationkey", "n_nationkey")])?;
    let orders = tables
        .orders()?
        .filter(col("o_orderdate").gt_eq(date("1994-01-01")))?
        .filter(col("o_orderdate").lt(date("1995-01-01")))?
        .join(&tables.customer()?, Inner, [("o_custkey", "c_custkey")])?;
    let of_one_nation = [("l_suppkey", "s_suppkey"), ("c_nationkey", "s_nationkey")];
    tables
        .lineitem()?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .join(&suppliers, Inner, of_one_nation)?
        .group_by([col("n_name")])
        .aggregate([sum(discounted()).alias("revenue")])?
        .sort([col("revenue").desc()])
}
