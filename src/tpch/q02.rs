//! Minimum cost supplier: who in Europe sells a part for the least.

use kiln_engine::Result;
use kiln_engine::expr::{col, min};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::{DataFrame, cols};

/// The cheapest offers of brass parts of size 15, those of the richest suppliers first.
pub(super) fn q02(tables: &Tables) -> Result<DataFrame> {
    let parts = tables
        .part()?
        .filter(col("p_size").eq(15).and(col("p_type").like("%BRASS")))?;
    let europe = tables.region()?.filter(col("r_name").eq("EUROPE"))?;
    let nations = tables
        .nation()?
        .join(&europe, Inner, [("n_regionkey", "r_regionkey")])?;
    let suppliers = tables
        .supplier()?
        .join(&nations, Inner, [("s_nationkey", "n_nationkey")])?;
    let offers = tables
        .partsupp()?
        .join(&parts, Inner, [("ps_partkey", "p_partkey")])?
        .join(&suppliers, Inner, [("ps_suppkey", "s_suppkey")])?;
    let lowest = offers
        .group_by([col("p_partkey").alias("lowest_partkey")])
        .aggregate([min(col("ps_supplycost")).alias("lowest_cost")])?;
    let is_lowest = [
        ("p_partkey", "lowest_partkey"),
        ("ps_supplycost", "lowest_cost"),
    ];
    offers
        .semi_join(&lowest, is_lowest)?
        .select(cols([
            "s_acctbal",
            "s_name",
            "n_name",
            "p_partkey",
            "p_mfgr",
            "s_address",
            "s_phone",
            "s_comment",
        ]))?
        .sort([
            col("s_acctbal").desc(),
            col("n_name").asc(),
            col("s_name").asc(),
            col("p_partkey").asc(),
        ])?
        .limit(100)
}
