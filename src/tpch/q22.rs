//! Global sales opportunity: customers with money who have ordered nothing.

use kiln_engine::Result;
use kiln_engine::expr::{avg, col, count_all, substring, sum};

use super::Tables;
use crate::dataframe::DataFrame;

/// Customers without orders whose balance is above average, by the country code of their phone.
pub(super) fn q22(tables: &Tables) -> Result<DataFrame> {
    let customers = tables
        .customer()?
        .with_column("cntrycode", substring(col("c_phone"), 1, 2))?
        .filter(col("cntrycode").in_list(["13", "31", "23", "29", "30", "18", "17"]))?;
    let average = customers
        .filter(col("c_acctbal").gt(0))?
        .aggregate([avg(col("c_acctbal")).alias("average")])?;
    customers
        .cross_join(&average)?
        .filter(col("c_acctbal").gt(col("average")))?
        .anti_join(&tables.orders()?, [("c_custkey", "o_custkey")])?
        .group_by([col("cntrycode")])
        .aggregate([
            count_all().alias("numcust"),
            sum(col("c_acctbal")).alias("totacctbal"),
        ])?
        .sort([col("cntrycode").asc()])
}
