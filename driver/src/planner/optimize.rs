//! The optimiser: an ordered list of rules, applied until none changes the plan.
//!
//! A rule is a plain function from a plan to one with the same rows, the same column names and
//! the same types. Rules look for one pattern each and leave the rest to the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_engine::plan::{LogicalPlan, Scan, check_size};
use kiln_engine::{Result, limits};

use super::rewrite::{column_names, only_columns};
use super::rules;
use super::shared::{self, PutBack, Shared};
use super::statistics::{TableStatistics, as_table};

type Rule = fn(LogicalPlan) -> Result<LogicalPlan>;

/// In the order in which each makes most of what the one before left.
const RULES: &[Rule] = &[
    rules::simplify,
    rules::filters_down,
    rules::limits_together,
    rules::orders_dropped,
    rules::aggregates_once,
    rules::values_grouped,
    rules::keys_as_columns,
    rules::projections_together,
    rules::columns_needed,
    rules::words_at_scan,
];

/// A plan with the same result that is cheaper to run. Subplans that occur more than once are one
/// and the same `Arc` in it. A plan near the limits on its size, which would be past them
/// afterwards, stays as it was written.
///
/// # Errors
/// `Invalid` for a plan that does not fit together.
pub fn optimize(
    plan: LogicalPlan,
    statistics: &dyn Fn(&Scan) -> Option<TableStatistics>,
) -> Result<LogicalPlan> {
    let optimised = optimize_all(plan.clone(), statistics)?;
    if check_size(&optimised).is_err() {
        return rules::keys_as_columns(plan);
    }
    Ok(optimised)
}

/// Optimises a plan and the subplans that it has more than once.
fn optimize_all(
    plan: LogicalPlan,
    statistics: &dyn Fn(&Scan) -> Option<TableStatistics>,
) -> Result<LogicalPlan> {
    let Shared { main, mut subplans } = shared::put_aside(plan)?;
    if subplans.is_empty() {
        let plan = optimize_one(main, statistics)?;
        let plan = rules::groups_reduced(&plan, statistics);
        return Ok(Arc::unwrap_or_clone(plan));
    }
    // What stands for a subplan is as large as the subplan; a subplan reads later ones only.
    let mut sizes = vec![None; subplans.len()];
    for index in (0..subplans.len()).rev() {
        let known = |scan: &Scan| match shared::index_of(scan) {
            Some(index) => sizes.get(index).cloned().flatten(),
            None => statistics(scan),
        };
        subplans[index] = optimize_one(subplans[index].clone(), &known)?;
        sizes[index] = as_table(&subplans[index], &known);
    }
    let known = |scan: &Scan| match shared::index_of(scan) {
        Some(index) => sizes.get(index).cloned().flatten(),
        None => statistics(scan),
    };
    let main = optimize_one(main, &known)?;
    let mut read = vec![BTreeSet::new(); subplans.len()];
    shared::add_columns_read(&main, &mut read);
    for (index, subplan) in subplans.iter_mut().enumerate() {
        let mut names = column_names(subplan);
        names.retain(|name| read[index].contains(name));
        *subplan = optimize_one(only_columns(subplan.clone(), &names), &known)?;
        shared::add_columns_read(subplan, &mut read);
    }
    let main = rules::groups_reduced(&main, &known);
    let reduced = |subplan| rules::groups_reduced(subplan, &known);
    let mut subplans: Vec<Arc<LogicalPlan>> = subplans.iter().map(reduced).collect();
    for index in (0..subplans.len()).rev() {
        subplans[index] = PutBack::new(&subplans).place(&subplans[index]);
    }
    Ok(Arc::unwrap_or_clone(PutBack::new(&subplans).place(&main)))
}

/// Optimises a plan in which nothing worth it occurs twice.
fn optimize_one(
    plan: LogicalPlan,
    statistics: &dyn Fn(&Scan) -> Option<TableStatistics>,
) -> Result<LogicalPlan> {
    let plan = apply_rules(plan)?;
    apply_rules(rules::join_order(&plan, statistics))
}

/// Applies the rules until none changes the plan.
fn apply_rules(mut plan: LogicalPlan) -> Result<LogicalPlan> {
    for _ in 0..limits::OPTIMISER_ROUNDS_MAX {
        let before = plan.clone();
        for rule in RULES {
            plan = rule(plan)?;
        }
        if plan == before {
            break;
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use fastrand::Rng;
    use kiln_engine::expr::{Expr, col, count_all, length, lit, lower, sum, words};
    use kiln_engine::plan::{JoinKind, explain_logical, schema_of};

    use super::rules::fixture::{Plan, lines, table};
    use super::*;

    /// Names and types of the columns that a plan makes.
    fn columns(plan: &LogicalPlan) -> Vec<(String, DataType)> {
        let schema = schema_of(plan).expect("a plan that fits together");
        let columns = schema.fields().iter();
        columns
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect()
    }

    /// A number made of a column, whatever its type.
    fn number(random: &mut Rng, columns: &[(String, DataType)]) -> Expr {
        let (name, data_type) = &columns[random.usize(..columns.len())];
        let value = match data_type {
            DataType::Int64 => col(name),
            DataType::Utf8View => length(col(name)),
            _ => return lit(random.i64(0..3)),
        };
        if random.bool() {
            value + random.i64(0..3)
        } else {
            value
        }
    }

    /// A join with a table or with the plan itself, under other names.
    fn join(random: &mut Rng, plan: Plan, columns: &[(String, DataType)]) -> Plan {
        use JoinKind::{Anti, Full, Inner, Left, Right, Semi};
        let other = match random.u8(..3) {
            0 => plan.clone(),
            1 => lines(),
            _ => table(),
        };
        let others = self::columns(&other.0);
        let mark = random.u32(..);
        let renamed: Vec<(String, DataType)> = others
            .iter()
            .map(|(name, data_type)| (format!("{name} {mark}"), data_type.clone()))
            .collect();
        let pairs = others.iter().zip(&renamed);
        let exprs: Vec<Expr> = pairs
            .map(|((from, _), (to, _))| col(from).alias(to))
            .collect();
        let kind = [Inner, Inner, Left, Right, Full, Semi, Anti][random.usize(..7)];
        let keys = (0..random.usize(..3))
            .map(|_| (number(random, columns), number(random, &renamed)))
            .collect::<Vec<_>>();
        let filter = number(random, columns).lt(number(random, &renamed));
        let own = number(random, &renamed)
            .gt(1)
            .or(number(random, columns).is_null());
        let filter = match random.u8(..4) {
            0 => None,
            1 => Some(filter),
            2 => Some(filter.and(own)),
            _ => Some(
                number(random, columns)
                    .eq(number(random, &renamed))
                    .and(own),
            ),
        };
        plan.join_where(other.project(exprs), kind, keys, filter)
    }

    fn grow(random: &mut Rng, plan: Plan) -> Plan {
        let columns = columns(&plan.0);
        let name = columns[random.usize(..columns.len())].0.clone();
        let text = columns
            .iter()
            .find(|(_, data_type)| *data_type == DataType::Utf8View);
        let (rows, fresh) = (random.u64(0..9), format!("x {}", random.u64(..)));
        match random.u8(..12) {
            0 => {
                let kept = columns.iter().filter(|_| random.bool());
                let kept: Vec<Expr> = kept.map(|(name, _)| col(name)).collect();
                let made = number(random, &columns).alias(fresh);
                plan.project([kept, vec![made]].concat())
            }
            1 => plan.filter(number(random, &columns).gt(1).and(col(name).is_not_null())),
            2 => plan.filter(lit(1).lt(random.i64(0..3)).or(col(name).is_null())),
            3 => plan.limit(random.u64(0..3), rows),
            4 => plan.sort([number(random, &columns).desc(), col(name).asc()]),
            5 => plan.sort([col(name).asc()]).limit(random.u64(0..2), rows),
            6 => {
                let total = sum(number(random, &columns)).alias(fresh);
                plan.aggregate([], [count_all().alias("n"), total])
            }
            7 => {
                let rows_counted = count_all().alias(format!("{fresh} rows"));
                let total = sum(number(random, &columns)).alias(fresh);
                let keys = match text {
                    Some((text, _)) => vec![lower(col(text)).alias(text)],
                    None => vec![col(name)],
                };
                plan.aggregate(keys, [total, rows_counted])
            }
            8 => join(random, plan, &columns),
            9 => {
                let other = plan
                    .clone()
                    .filter(number(random, &columns).lt(random.i64(0..3)));
                plan.union(other)
            }
            10 => plan.filter(number(random, &columns).eq(number(random, &columns))),
            _ => match text {
                Some((text, _)) => {
                    let lists = words(lower(col(text))).alias(text);
                    plan.project([lists]).explode(text)
                }
                None => plan,
            },
        }
    }

    #[test]
    fn any_plan_keeps_its_columns_through_every_rule() {
        let first = fastrand::u64(..);
        for seed in (0..500).map(|step| first.wrapping_add(step)) {
            let mut random = Rng::with_seed(seed);
            let mut plan = if random.bool() { lines() } else { table() };
            for _ in 0..random.usize(..8) {
                plan = grow(&mut random, plan);
            }
            let (plan, wanted) = (plan.0.clone(), columns(&plan.0));
            let shown = |now: &str| format!("seed={seed}\n{}→\n{now}", explain_logical(&plan));
            let mut step = plan.clone();
            for rule in RULES {
                step = rule(step).expect("a rewritten plan");
                assert_eq!(columns(&step), wanted, "{}", shown(&explain_logical(&step)));
            }
            let optimised = optimize(plan.clone(), &|_| None).expect("an optimised plan");
            // What is shared is cut out anew, and at other places.
            let is_shared = |plan: &LogicalPlan| {
                let shared = shared::put_aside(plan.clone()).expect("a plan");
                !shared.subplans.is_empty()
            };
            if !is_shared(&plan) && !is_shared(&optimised) {
                let again = optimize(optimised.clone(), &|_| None).expect("an optimised plan");
                let again = explain_logical(&again);
                assert_eq!(explain_logical(&optimised), again, "{}", shown(&again));
            }
            assert_eq!(columns(&optimised), wanted, "seed={seed}");
        }
    }

    #[test]
    fn a_plan_within_the_limits_stays_within_them() {
        let chain = |joins: usize| {
            let grown = (0..joins).fold(table(), |plan, index| {
                let names = ["a", "b"].map(|name| col(name).alias(format!("{name}{index}")));
                let key = col(format!("a{index}"));
                plan.join(table().project(names), JoinKind::Left, [(col("a"), key)])
            });
            grown.aggregate([col("b")], [count_all()]).0
        };
        let optimised = |plan| optimize(plan, &|_| None).expect("an optimised plan");
        let plan = chain(100);
        assert_ne!(optimised(plan.clone()), plan);
        let plan = chain(300);
        let optimised = optimised(plan.clone());
        check_size(&optimised).expect("a plan within the limits");
        assert_eq!(optimised, plan);
    }
}
