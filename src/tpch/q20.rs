//! Potential part promotion: who has more of a part than can be sold in half a year.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, lit, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::{DataFrame, cols};

/// Canadian suppliers with an excess of forest parts.
pub(super) fn q20(tables: &Tables) -> Result<DataFrame> {
    let parts = tables.part()?.filter(col("p_name").like("forest%"))?;
    let sold = tables
        .lineitem()?
        .filter(col("l_shipdate").gt_eq(date("1994-01-01")))?
        .filter(col("l_shipdate").lt(date("1995-01-01")))?
        .semi_join(&parts, [("l_partkey", "p_partkey")])?
        .group_by(cols(["l_partkey", "l_suppkey"]))
        .aggregate([sum(col("l_quantity")).alias("sold")])?;
    let offer = [("ps_partkey", "l_partkey"), ("ps_suppkey", "l_suppkey")];
    let excess = tables
        .partsupp()?
        .join(&sold, Inner, offer)?
        .filter(col("ps_availqty").gt(lit(0.5) * col("sold")))?;
    let canada = tables.nation()?.filter(col("n_name").eq("CANADA"))?;
    tables
        .supplier()?
        .semi_join(&canada, [("s_nationkey", "n_nationkey")])?
        .semi_join(&excess, [("s_suppkey", "ps_suppkey")])?
        .select(cols(["s_name", "s_address"]))?
        .sort([col("s_name").asc()])
}
