//! Discounted revenue: three kinds of parts, each in the quantities that go by air.

use kiln_engine::Result;
use kiln_engine::expr::{Expr, col, sum};
use kiln_engine::plan::JoinKind::Inner;

use super::{Tables, discounted};
use crate::dataframe::DataFrame;

/// Revenue from parts of three brands that were shipped by air and handed over in person.
pub(super) fn q19(tables: &Tables) -> Result<DataFrame> {
    let small = kind_of_part("Brand#12", ["SM CASE", "SM BOX", "SM PACK", "SM PKG"], 1, 5);
    let medium = kind_of_part(
        "Brand#23",
        ["MED BAG", "MED BOX", "MED PKG", "MED PACK"],
        10,
        10,
    );
    let large = kind_of_part(
        "Brand#34",
        ["LG CASE", "LG BOX", "LG PACK", "LG PKG"],
        20,
        15,
    );
    tables
        .lineitem()?
        .filter(col("l_shipmode").in_list(["AIR", "AIR REG"]))?
        .filter(col("l_shipinstruct").eq("DELIVER IN PERSON"))?
        .join(&tables.part()?, Inner, [("l_partkey", "p_partkey")])?
        .filter(small.or(medium).or(large))?
        .aggregate([sum(discounted()).alias("revenue")])
}

/// Parts of a brand and size, in certain containers, in a quantity of `least` to ten more.
fn kind_of_part(brand: &str, containers: [&str; 4], least: i64, size_max: i64) -> Expr {
    col("p_brand")
        .eq(brand)
        .and(col("p_container").in_list(containers))
        .and(col("l_quantity").between(least, least + 10))
        .and(col("p_size").between(1, size_max))
}
