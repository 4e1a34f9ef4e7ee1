//! Small-quantity-order revenue: what is lost if small orders are refused.

use kiln_engine::Result;
use kiln_engine::expr::{avg, col, lit, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::DataFrame;

/// Yearly revenue from orders of less than a fifth of the usual quantity of a part.
pub(super) fn q17(tables: &Tables) -> Result<DataFrame> {
    let parts = tables
        .part()?
        .filter(col("p_brand").eq("Brand#23"))?
        .filter(col("p_container").eq("MED BOX"))?;
    let lines = tables
        .lineitem()?
        .semi_join(&parts, [("l_partkey", "p_partkey")])?;
    let usual = lines
        .group_by([col("l_partkey")])
        .aggregate([avg(col("l_quantity")).alias("usual_quantity")])?;
    lines
        .join(&usual, Inner, ["l_partkey"])?
        .filter(col("l_quantity").lt(lit(0.2) * col("usual_quantity")))?
        .aggregate([sum(col("l_extendedprice")).alias("total")])?
        .select([(col("total") / 7.0).alias("avg_yearly")])
}
