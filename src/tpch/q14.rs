//! Promotion effect: what promoted parts bring in.

use kiln_engine::Result;
use kiln_engine::expr::{case_when, col, date, lit, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::DataFrame;

/// The share of promoted parts in the revenue of a month, in percent.
pub(super) fn q14(tables: &Tables) -> Result<DataFrame> {
    let promoted = case_when(col("p_type").like("PROMO%"), discounted()).otherwise(0);
    tables
        .lineitem()?
        .filter(col("l_shipdate").gt_eq(date("1995-09-01")))?
        .filter(col("l_shipdate").lt(date("1995-10-01")))?
        .join(&tables.part()?, Inner, [("l_partkey", "p_partkey")])?
        .aggregate([
            sum(promoted).alias("promoted"),
            sum(discounted()).alias("all"),
        ])?
        .select([(lit(100) * col("promoted") / col("all")).alias("promo_revenue")])
}
