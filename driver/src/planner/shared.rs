//! Subplans that occur more than once, made once.
//!
//! What is pushed into one place of a subplan that occurs twice makes it two subplans. So those
//! that are worth sharing, because they join or group, are put aside before the rules run, with a
//! scan of a place that does not exist where they were. Each is optimised as a plan of its own,
//! with the columns that any of its places reads, and is put back as one and the same `Arc`, by
//! which the rest of the planner knows that it has to be run only once.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kiln_engine::expr::col;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, schema_of};
use kiln_engine::{Result, limits};

use super::rewrite::{column_names, rewrite_up, with_inputs};

/// What the location of a stand-in starts with; no store is called so.
const PLACE: &str = "shared://";

/// A plan without what it has more than once.
pub(super) struct Shared {
    /// The plan, with stand-ins.
    pub(super) main: LogicalPlan,
    /// What they stand for. A subplan has stand-ins of later ones only.
    pub(super) subplans: Vec<LogicalPlan>,
}

/// Puts aside what `plan` has more than once, the largest first.
///
/// # Errors
/// `Invalid` if the plan does not fit together.
pub(super) fn put_aside(plan: LogicalPlan) -> Result<Shared> {
    let mut bodies = vec![plan];
    while bodies.len() <= limits::PLAN_SHARED_MAX
        && let Some(subplan) = largest_repeated(&bodies)
    {
        let stand_in = stand_in(bodies.len() - 1, &subplan)?;
        for body in &mut bodies {
            *body = replace(body, &subplan, &stand_in);
        }
        bodies.push(subplan);
    }
    let subplans = bodies.split_off(1);
    let main = bodies.pop().expect("the plan itself is the first body");
    Ok(Shared { main, subplans })
}

/// A scan that stands for the subplan `index`.
fn stand_in(index: usize, subplan: &LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Scan(Scan {
        locations: vec![format!("{PLACE}{index}")],
        // A format that no rule makes anything of.
        format: ScanFormat::Csv(Default::default()),
        schema: schema_of(subplan)?,
        projection: None,
        predicate: None,
    }))
}

/// Which subplan a scan stands for, if it is a stand-in.
pub(super) fn index_of(scan: &Scan) -> Option<usize> {
    let [place] = scan.locations.as_slice() else {
        return None;
    };
    place.strip_prefix(PLACE)?.parse().ok()
}

/// The largest subplan that is in `bodies` more than once; the first of those.
fn largest_repeated(bodies: &[LogicalPlan]) -> Option<LogicalPlan> {
    let mut found = Candidates::default();
    for body in bodies {
        found.add(body);
    }
    let mut largest: Option<&Candidate> = None;
    for candidate in found.list.iter().filter(|candidate| candidate.times > 1) {
        if largest.is_none_or(|largest| candidate.nodes > largest.nodes) {
            largest = Some(candidate);
        }
    }
    largest.map(|candidate| candidate.plan.clone())
}

/// A subplan that joins or groups.
struct Candidate<'a> {
    plan: &'a LogicalPlan,
    nodes: usize,
    times: usize,
}

/// The different subplans that join or group.
#[derive(Default)]
struct Candidates<'a> {
    list: Vec<Candidate<'a>>,
    by_hash: HashMap<u64, Vec<usize>>,
}

/// What is known of a subplan when it has been gone through.
struct Seen {
    hash: u64,
    nodes: usize,
    is_worth_it: bool,
}

impl<'a> Candidates<'a> {
    fn add(&mut self, plan: &'a LogicalPlan) -> Seen {
        let mut hasher = DefaultHasher::new();
        hash_node(plan, &mut hasher);
        let mut seen = Seen {
            hash: 0,
            nodes: 1,
            // What has more rows to choose from may choose others each time.
            is_worth_it: matches!(
                plan,
                LogicalPlan::Join { .. }
                    | LogicalPlan::Apply { .. }
                    | LogicalPlan::Reduce { .. }
                    | LogicalPlan::Aggregate { .. }
                    | LogicalPlan::Limit { .. }
                    | LogicalPlan::Sort { limit: Some(_), .. }
            ),
        };
        for input in plan.inputs() {
            let input = self.add(input);
            input.hash.hash(&mut hasher);
            seen.nodes += input.nodes;
            seen.is_worth_it |= input.is_worth_it;
        }
        seen.hash = hasher.finish();
        if seen.is_worth_it {
            self.count(plan, &seen);
        }
        seen
    }

    fn count(&mut self, plan: &'a LogicalPlan, seen: &Seen) {
        let alike = self.by_hash.entry(seen.hash).or_default();
        match alike.iter().find(|&&index| self.list[index].plan == plan) {
            Some(&index) => self.list[index].times += 1,
            None => {
                alike.push(self.list.len());
                self.list.push(Candidate {
                    plan,
                    nodes: seen.nodes,
                    times: 1,
                });
            }
        }
    }
}

/// Hashes what a node says itself.
fn hash_node(plan: &LogicalPlan, hasher: &mut DefaultHasher) {
    std::mem::discriminant(plan).hash(hasher);
    let text = match plan {
        LogicalPlan::Scan(scan) => format!("{:?}{:?}", scan.locations, scan.projection),
        LogicalPlan::Project { exprs, .. } => format!("{exprs:?}"),
        LogicalPlan::Filter { predicate, .. } => format!("{predicate:?}"),
        LogicalPlan::Explode { column, .. } => column.clone(),
        LogicalPlan::Apply { function, .. } => format!("{function:?}"),
        LogicalPlan::Reduce {
            keys,
            order,
            function,
            local,
            ..
        } => format!("{keys:?}{order:?}{function:?}{local}"),
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => format!("{group_by:?}{aggregates:?}"),
        LogicalPlan::Sort { keys, limit, .. } => format!("{keys:?}{limit:?}"),
        LogicalPlan::Repartition {
            keys, partitions, ..
        } => format!("{keys:?}{partitions}"),
        LogicalPlan::SortPartitions { keys, .. } => format!("{keys:?}"),
        LogicalPlan::Limit { offset, limit, .. } => format!("{offset} {limit}"),
        LogicalPlan::Join {
            kind, on, filter, ..
        } => format!("{kind:?}{on:?}{filter:?}"),
        LogicalPlan::Union { .. } | LogicalPlan::Write { .. } => String::new(),
    };
    text.hash(hasher);
}

fn replace(plan: &LogicalPlan, subplan: &LogicalPlan, stand_in: &LogicalPlan) -> LogicalPlan {
    rewrite_up(plan, |node| {
        if node == *subplan {
            stand_in.clone()
        } else {
            node
        }
    })
}

/// Adds, for each subplan, the columns of it that its stand-ins in `plan` read.
pub(super) fn add_columns_read(plan: &LogicalPlan, read: &mut [BTreeSet<String>]) {
    if let LogicalPlan::Scan(scan) = plan
        && let Some(names) = index_of(scan).and_then(|index| read.get_mut(index))
    {
        names.extend(column_names(plan));
    }
    for input in plan.inputs() {
        add_columns_read(input, read);
    }
}

/// Puts subplans in the places of their stand-ins. What is one `Arc` stays one.
pub(super) struct PutBack<'a> {
    subplans: &'a [Arc<LogicalPlan>],
    done: HashMap<*const LogicalPlan, Arc<LogicalPlan>>,
}

impl<'a> PutBack<'a> {
    pub(super) fn new(subplans: &'a [Arc<LogicalPlan>]) -> Self {
        let done = HashMap::new();
        PutBack { subplans, done }
    }

    /// The plan with the subplans in place.
    pub(super) fn place(&mut self, plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
        if let Some(done) = self.done.get(&Arc::as_ptr(plan)) {
            return Arc::clone(done);
        }
        let done = self.replaced(plan);
        self.done.insert(Arc::as_ptr(plan), Arc::clone(&done));
        done
    }

    fn replaced(&mut self, plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
        if let LogicalPlan::Scan(scan) = plan.as_ref()
            && let Some(subplan) = index_of(scan).and_then(|index| self.subplans.get(index))
        {
            let names = column_names(plan);
            if column_names(subplan) == names {
                return Arc::clone(subplan);
            }
            return Arc::new(LogicalPlan::Project {
                input: Arc::clone(subplan),
                exprs: names.into_iter().map(col).collect(),
            });
        }
        let inputs = plan.inputs().into_iter();
        let inputs = inputs.map(|input| self.place(input)).collect();
        Arc::new(with_inputs(plan, inputs))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, count_all, lower, max};
    use kiln_engine::plan::{JoinKind, explain_logical};

    use super::*;
    use crate::planner::optimize;
    use crate::planner::rules::fixture::{Plan, table};

    fn counts() -> Plan {
        let aggregates = [count_all().alias("n"), max(col("b")).alias("most")];
        table().aggregate([col("a"), col("c")], aggregates)
    }

    fn optimised(plan: Plan) -> LogicalPlan {
        optimize(plan.0, &|_| None).expect("an optimised plan")
    }

    #[test]
    fn what_occurs_twice_is_one_subplan_with_the_columns_of_both() {
        let largest = counts().aggregate([], [max(col("n")).alias("largest")]);
        let plan = counts()
            .filter(col("a").gt(1))
            .project([col("a"), col("n")])
            .join(largest, JoinKind::Inner, [(col("n"), col("largest"))]);
        let plan = optimised(plan);
        expect![[r#"
            join inner on n = largest
              filter a > 1
                project a, n
                  aggregate by a, c: count(*) AS n
                    scan parquet [a, c] from memory:///in
              aggregate: max(n) AS largest
                project n
                  project a, n
                    aggregate by a, c: count(*) AS n
                      scan parquet [a, c] from memory:///in
        "#]]
        .assert_eq(&explain_logical(&plan));
        let mut found = Vec::new();
        let mut open = vec![Arc::new(plan)];
        while let Some(node) = open.pop() {
            if let LogicalPlan::Aggregate { group_by, .. } = node.as_ref()
                && group_by.len() == 2
            {
                found.push(Arc::clone(&node));
            }
            open.extend(node.inputs().into_iter().cloned());
        }
        assert_eq!(found.len(), 2);
        assert!(Arc::ptr_eq(&found[0], &found[1]));
    }

    #[test]
    fn subplans_of_subplans_are_shared_where_they_occur_elsewhere_too() {
        let keys = || counts().aggregate([col("a")], [max(col("n")).alias("n")]);
        let renamed = |plan: Plan, name: &str| {
            plan.project([col("a").alias(name), col("n").alias(format!("{name} n"))])
        };
        let on = |left: &str, right: &str| [(col(left), col(right))];
        let plan = renamed(keys(), "x")
            .join(renamed(keys(), "y"), JoinKind::Inner, on("x", "y"))
            .join(renamed(counts(), "z"), JoinKind::Inner, on("x", "z"));
        let shared = put_aside(plan.0.clone()).expect("a plan that fits together");
        let [keys, counts] = shared.subplans.as_slice() else {
            panic!("two subplans: {}", shared.subplans.len());
        };
        let standing = |plan: &LogicalPlan| explain_logical(plan).matches("shared://").count();
        assert_eq!(
            (standing(&shared.main), standing(keys), standing(counts)),
            (3, 1, 0)
        );
        let (keys, counts) = (Arc::new(keys.clone()), Arc::new(counts.clone()));
        let keys = PutBack::new(&[Arc::clone(&keys), Arc::clone(&counts)]).place(&keys);
        let main = PutBack::new(&[keys, counts]).place(&Arc::new(shared.main));
        assert_eq!(*main, plan.0);
    }

    #[test]
    fn scans_and_what_is_done_to_a_row_are_not_shared() {
        let one = || table().project([lower(col("s")).alias("s")]);
        let shared = put_aside(one().union(one()).0).expect("a plan that fits together");
        assert_eq!(shared.subplans, []);
    }
}
