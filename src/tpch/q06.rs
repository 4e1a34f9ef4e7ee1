//! Forecasting revenue change: what small discounts on small quantities have cost.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, sum};

use super::Tables;
use crate::dataframe::DataFrame;

/// The revenue of a year that certain discounts gave away.
pub(super) fn q06(tables: &Tables) -> Result<DataFrame> {
    tables
        .lineitem()?
        .filter(col("l_shipdate").gt_eq(date("1994-01-01")))?
        .filter(col("l_shipdate").lt(date("1995-01-01")))?
        .filter(col("l_discount").between(0.05, 0.07))?
        .filter(col("l_quantity").lt(24))?
        .aggregate([sum(col("l_extendedprice") * col("l_discount")).alias("revenue")])
}
