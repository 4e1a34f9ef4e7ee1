//! National market share: how much of a market the suppliers of one nation have.

use kiln_engine::Result;
use kiln_engine::expr::{case_when, col, date, sum, year};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::DataFrame;

/// The share of Brazil in what America pays for one type of part, by year.
pub(super) fn q08(tables: &Tables) -> Result<DataFrame> {
    let parts = tables
        .part()?
        .filter(col("p_type").eq("ECONOMY ANODIZED STEEL"))?;
    let america = tables.region()?.filter(col("r_name").eq("AMERICA"))?;
    let markets = tables
        .nation()?
        .semi_join(&america, [("n_regionkey", "r_regionkey")])?;
    let customers = tables
        .customer()?
        .semi_join(&markets, [("c_nationkey", "n_nationkey")])?;
    let first_day = date("1995-01-01");
    let orders = tables
        .orders()?
        .filter(col("o_orderdate").between(first_day, date("1996-12-31")))?
        .semi_join(&customers, [("o_custkey", "c_custkey")])?;
    let suppliers =
        tables
            .supplier()?
            .join(&tables.nation()?, Inner, [("s_nationkey", "n_nationkey")])?;
    let of_brazil = case_when(col("n_name").eq("BRAZIL"), discounted()).otherwise(0);
    tables
        .lineitem()?
        .join(&parts, Inner, [("l_partkey", "p_partkey")])?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .join(&suppliers, Inner, [("l_suppkey", "s_suppkey")])?
        .group_by([year(col("o_orderdate")).alias("o_year")])
        .aggregate([
            sum(of_brazil).alias("of_brazil"),
            sum(discounted()).alias("of_all"),
        ])?
        .select([
            col("o_year"),
            (col("of_brazil") / col("of_all")).alias("mkt_share"),
        ])?
        .sort([col("o_year").asc()])
}
