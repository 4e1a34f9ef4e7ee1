//! Returned item reporting: the customers who sent back the most.

use kiln_engine::Result;
use kiln_engine::expr::{col, date, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::{DataFrame, cols};

/// The twenty customers whose returned items of a quarter were worth the most.
pub(super) fn q10(tables: &Tables) -> Result<DataFrame> {
    let customers =
        tables
            .customer()?
            .join(&tables.nation()?, Inner, [("c_nationkey", "n_nationkey")])?;
    let orders = tables
        .orders()?
        .filter(col("o_orderdate").gt_eq(date("1993-10-01")))?
        .filter(col("o_orderdate").lt(date("1994-01-01")))?;
    tables
        .lineitem()?
        .filter(col("l_returnflag").eq("R"))?
        .join(&orders, Inner, [("l_orderkey", "o_orderkey")])?
        .join(&customers, Inner, [("o_custkey", "c_custkey")])?
        .group_by(cols([
            "c_custkey",
            "c_name",
            "c_acctbal",
            "c_phone",
            "n_name",
            "c_address",
            "c_comment",
        ]))
        .aggregate([sum(discounted()).alias("revenue")])?
        .select(cols([
            "c_custkey",
            "c_name",
            "revenue",
            "c_acctbal",
            "n_name",
            "c_address",
            "c_phone",
            "c_comment",
        ]))?
        .sort([col("revenue").desc()])?
        .limit(20)
}
