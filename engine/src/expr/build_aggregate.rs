//! Building the aggregates beyond counts, sums, least, greatest and mean.

use super::{AggregateExpr, AggregateFunction, Expr};

/// Number of different values of a group that are not null.
pub fn count_distinct(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::CountDistinct, Some(value))
}

/// Variance of the values of a group as a sample; null for fewer than two.
pub fn variance(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Variance, Some(value))
}

/// Variance of the values of a group as a whole population; null if all are null.
pub fn variance_population(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::VariancePopulation, Some(value))
}

/// Square root of [`variance`].
pub fn stddev(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::StdDev, Some(value))
}

/// Square root of [`variance_population`].
pub fn stddev_population(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::StdDevPopulation, Some(value))
}

/// The value of some row of a group, one that is not null if there is any: for columns that have
/// one value in a group.
pub fn first(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::First, Some(value))
}

/// The value of some row of a group, as for [`first`].
pub fn last(value: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Last, Some(value))
}

/// Whether a boolean is true in any row of a group; null if it is null in all.
pub fn any(condition: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::Any, Some(condition))
}

/// Whether a boolean is true in all rows of a group that have one; null if none has.
pub fn all(condition: Expr) -> AggregateExpr {
    AggregateExpr::new(AggregateFunction::All, Some(condition))
}

impl AggregateExpr {
    /// The same aggregate over only those rows of each group for which `predicate` is true. Groups
    /// stay, even those without such a row: their counts are zero, everything else is null.
    #[must_use]
    pub fn filter(mut self, predicate: Expr) -> Self {
        let is_named = self.name != super::text::aggregate_call(&self);
        self.filter = Some(predicate);
        if !is_named {
            self.name = super::text::aggregate_call(&self);
        }
        self
    }
}

impl AggregateFunction {
    /// Whether it can be computed in two steps, from states of parts of a group. Otherwise all
    /// rows of a group have to meet in one place.
    pub fn is_mergeable(&self) -> bool {
        *self != AggregateFunction::CountDistinct
    }
}

#[cfg(test)]
mod tests {

    use crate::expr::{col, count_all, sum};

    #[test]
    fn a_filter_is_part_of_a_name_that_nobody_chose() {
        let call = sum(col("price")).filter(col("day").gt(3));
        assert_eq!(call.name, "sum(price) FILTER (WHERE day > 3)");
        let call = count_all().alias("n").filter(col("ok"));
        assert_eq!(call.name, "n");
        assert_eq!(call.to_string(), "count(*) FILTER (WHERE ok) AS n");
    }
}
