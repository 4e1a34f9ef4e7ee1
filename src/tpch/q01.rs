//! Pricing summary: what was billed, shipped and returned up to a day.

use kiln_engine::Result;
use kiln_engine::expr::{avg, col, count_all, date, lit, sum};

use super::{Tables, discounted};
use crate::dataframe::{DataFrame, cols};

/// Totals and averages of line items by return flag and line status.
pub(super) fn q01(tables: &Tables) -> Result<DataFrame> {
    let charge = discounted() * (lit(1) + col("l_tax"));
    tables
        .lineitem()?
        .filter(col("l_shipdate").lt_eq(date("1998-09-02")))?
        .group_by(cols(["l_returnflag", "l_linestatus"]))
        .aggregate([
            sum(col("l_quantity")).alias("sum_qty"),
            sum(col("l_extendedprice")).alias("sum_base_price"),
            sum(discounted()).alias("sum_disc_price"),
            sum(charge).alias("sum_charge"),
            avg(col("l_quantity")).alias("avg_qty"),
            avg(col("l_extendedprice")).alias("avg_price"),
            avg(col("l_discount")).alias("avg_disc"),
            count_all().alias("count_order"),
        ])?
        .sort([col("l_returnflag").asc(), col("l_linestatus").asc()])
}
