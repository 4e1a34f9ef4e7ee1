//! Parts and supplier relationship: how many suppliers can make what is wanted.

use kiln_engine::Result;
use kiln_engine::expr::{col, count_distinct};
use kiln_engine::plan::JoinKind::Inner;

use super::Tables;
use crate::dataframe::{DataFrame, cols};

/// Suppliers without complaints by brand, type and size of the parts that they offer.
pub(super) fn q16(tables: &Tables) -> Result<DataFrame> {
    let parts = tables
        .part()?
        .filter(col("p_brand").not_eq("Brand#45"))?
        .filter(col("p_type").not_like("MEDIUM POLISHED%"))?
        .filter(col("p_size").in_list([49, 14, 23, 45, 19, 3, 36, 9]))?;
    let complained_of = tables
        .supplier()?
        .filter(col("s_comment").like("%Customer%Complaints%"))?;
    tables
        .partsupp()?
        .join(&parts, Inner, [("ps_partkey", "p_partkey")])?
        .anti_join(&complained_of, [("ps_suppkey", "s_suppkey")])?
        .group_by(cols(["p_brand", "p_type", "p_size"]))
        .aggregate([count_distinct(col("ps_suppkey")).alias("supplier_cnt")])?
        .sort([
            col("supplier_cnt").desc(),
            col("p_brand").asc(),
            col("p_type").asc(),
            col("p_size").asc(),
        ])
}
