//! Volume shipping: trade between two nations.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, sum, year};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::{DataFrame, cols};

/// Revenue from what French suppliers shipped to German customers and the other way, by year.
pub(super) fn q07(tables: &Tables) -> Result<DataFrame> {
    let nations = tables
        .nation()?
        .filter(col("n_name").in_list(["FRANCE", "GERMANY"]))?;
    let from = nations.rename([("n_name", "supp_nation")])?;
    let to = nations.rename([("n_name", "cust_nation")])?;
    let suppliers = tables
        .supplier()?
        .join(&from, Inner, [("s_nationkey", "n_nationkey")])?
        .select(cols(["s_suppkey", "supp_nation"]))?;
    let customers = tables
        .customer()?
        .join(&to, Inner, [("c_nationkey", "n_nationkey")])?
        .select(cols(["c_custkey", "cust_nation"]))?;
    let orders = tables
        .orders()?
        .join(&customers, Inner, [("o_custkey", "c_custkey")])?;
    let first_day = date("1995-01-01");
    tables
        .lineitem()?
        .filter(col("l_shipdate").between(first_day, date("1996-12-31")))?
        .join(&suppliers, Inner, [("l_suppkey", "s_suppkey")])?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .filter(col("supp_nation").not_eq(col("cust_nation")))?
        .with_column("l_year", year(col("l_shipdate")))?
        .group_by(cols(["supp_nation", "cust_nation", "l_year"]))
        .aggregate([sum(discounted()).alias("revenue")])?
        .sort(cols(["supp_nation", "cust_nation", "l_year"]))
}
