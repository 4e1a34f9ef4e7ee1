//! Top supplier: who brought in the most in a quarter.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, max, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::{DataFrame, cols};

/// The suppliers with the highest revenue.
pub(super) fn q15(tables: &Tables) -> Result<DataFrame> {
    let revenue = tables
        .lineitem()?
        .filter(col("l_shipdate").gt_eq(date("1996-01-01")))?
        .filter(col("l_shipdate").lt(date("1996-04-01")))?
        .group_by([col("l_suppkey").alias("supplier_no")])
        .aggregate([sum(discounted()).alias("total_revenue")])?;
    let highest = revenue.aggregate([max(col("total_revenue")).alias("highest")])?;
    let best = revenue.semi_join(&highest, [("total_revenue", "highest")])?;
    tables
        .supplier()?
        .join(&best, Inner, [("s_suppkey", "supplier_no")])?
        .select(cols([
            "s_suppkey",
            "s_name",
            "s_address",
            "s_phone",
            "total_revenue",
        ]))?
        .sort([col("s_suppkey").asc()])
}
