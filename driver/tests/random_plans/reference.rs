//! What a logical plan means: every node computed from the rows of its inputs, one row at a time,
//! joins by nested loops.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kiln_engine::expr::Expr;
use kiln_engine::plan::{JoinKind, LogicalPlan, schema_of};

use crate::oracle::{self, Failed, Row, Value, evaluate};
use crate::tables::Table;

/// Rows, or the news that an expression has no value for some row.
pub(crate) type Rows = Result<Arc<Vec<Row>>, Failed>;

/// Pairs of rows that a join may have to look at; plans with more are not worth their time.
pub(crate) const PAIRS_MAX: usize = 40_000;

/// Names of columns and the rows themselves.
type Content = (Vec<String>, Arc<Vec<Row>>);

/// Computes plans over some tables, each node once.
pub(crate) struct Reference {
    tables: BTreeMap<Vec<String>, Content>,
    /// By address; the nodes are kept so that no other gets the same one.
    known: HashMap<usize, (Arc<LogicalPlan>, Rows)>,
}

impl Reference {
    pub(crate) fn new(tables: &[Table]) -> Self {
        let table = |table: &Table| match &*table.scan {
            LogicalPlan::Scan(scan) => {
                let names = scan.schema.fields().iter().map(|field| field.name());
                let table = (names.cloned().collect(), Arc::new(table.rows.clone()));
                (scan.locations.clone(), table)
            }
            other => panic!("a table is a scan: {other:?}"),
        };
        Reference {
            tables: tables.iter().map(table).collect(),
            known: HashMap::new(),
        }
    }

    /// The rows of `plan`.
    pub(crate) fn rows(&mut self, plan: &Arc<LogicalPlan>) -> Rows {
        let address = Arc::as_ptr(plan) as usize;
        if let Some((_, rows)) = self.known.get(&address) {
            return rows.clone();
        }
        let inputs: Result<Vec<_>, Failed> = plan.inputs().iter().map(|i| self.rows(i)).collect();
        let rows = inputs.and_then(|inputs| self.node(plan, &inputs));
        self.known.insert(address, (Arc::clone(plan), rows.clone()));
        rows
    }

    fn node(&self, plan: &LogicalPlan, inputs: &[Arc<Vec<Row>>]) -> Rows {
        let names: Vec<Vec<String>> = plan.inputs().iter().map(|input| names(input)).collect();
        let names: Vec<Vec<&str>> = names
            .iter()
            .map(|names| names.iter().map(String::as_str).collect())
            .collect();
        let (first, rows) = match (names.first(), inputs.first()) {
            (Some(names), Some(rows)) => (names.as_slice(), rows.as_slice()),
            _ => (&[][..], &[][..]),
        };
        let made = match plan {
            LogicalPlan::Scan(scan) => {
                let (columns, rows) = &self.tables[&scan.locations];
                let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                let wanted = scan.projection.as_ref().unwrap_or(&Vec::new()).clone();
                match wanted.is_empty() {
                    true => return Ok(Arc::clone(rows)),
                    false => {
                        let exprs: Vec<Expr> = wanted.into_iter().map(Expr::Column).collect();
                        oracle::project(&exprs, &columns, rows)?
                    }
                }
            }
            LogicalPlan::Project { exprs, .. } => oracle::project(exprs, first, rows)?,
            LogicalPlan::Filter { predicate, .. } => oracle::filter(predicate, first, rows)?,
            LogicalPlan::Aggregate {
                group_by,
                aggregates,
                ..
            } => oracle::aggregate(group_by, aggregates, first, rows)?,
            LogicalPlan::Sort { keys, limit, .. } => {
                let mut rows = oracle::sort(keys, first, rows)?;
                rows.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
                rows
            }
            LogicalPlan::Repartition { .. } | LogicalPlan::SortPartitions { .. } => rows.to_vec(),
            LogicalPlan::Limit { offset, limit, .. } => {
                let rest = rows.iter().skip(*offset as usize);
                rest.take(*limit as usize).cloned().collect()
            }
            LogicalPlan::Union { .. } => inputs.iter().flat_map(|rows| rows.to_vec()).collect(),
            LogicalPlan::Join {
                kind, on, filter, ..
            } => {
                if inputs[0].len() * inputs[1].len() > PAIRS_MAX {
                    return Err(Failed);
                }
                let sides = [(&*names[0], &**inputs[0]), (&*names[1], &**inputs[1])];
                join(*kind, on, filter.as_ref(), sides)?
            }
            other => panic!("the generator does not make {other:?}"),
        };
        Ok(Arc::new(made))
    }
}

/// The columns of a plan.
pub(crate) fn names(plan: &LogicalPlan) -> Vec<String> {
    let schema = schema_of(plan).expect("the generator makes good plans");
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.collect()
}

fn join(
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
    [(left_names, lefts), (right_names, rights)]: [(&[&str], &[Row]); 2],
) -> Result<Vec<Row>, Failed> {
    let keys = |of: fn(&(Expr, Expr)) -> &Expr, names: &[&str], row: &Row| {
        let keys = on.iter().map(|pair| evaluate(of(pair), names, row));
        keys.collect::<Result<Row, Failed>>()
    };
    let left_keys: Vec<Row> = lefts
        .iter()
        .map(|row| keys(|pair| &pair.0, left_names, row))
        .collect::<Result<_, _>>()?;
    let right_keys: Vec<Row> = rights
        .iter()
        .map(|row| keys(|pair| &pair.1, right_names, row))
        .collect::<Result<_, _>>()?;
    let both: Vec<&str> = left_names.iter().chain(right_names).copied().collect();
    let together = |left: &Row, right: &Row| -> Row { left.iter().chain(right).cloned().collect() };
    let mut pairs = Vec::new();
    let (mut left_seen, mut right_seen) = (vec![false; lefts.len()], vec![false; rights.len()]);
    for (l, left) in lefts.iter().enumerate() {
        for (r, right) in rights.iter().enumerate() {
            if !left_keys[l].iter().zip(&right_keys[r]).all(are_equal) {
                continue;
            }
            let pair = together(left, right);
            let passes = match filter {
                Some(filter) => matches!(evaluate(filter, &both, &pair)?, Value::Bool(true)),
                None => true,
            };
            if passes {
                (left_seen[l], right_seen[r]) = (true, true);
                pairs.push(pair);
            }
        }
    }
    let of = |rows: &[Row], seen: &[bool], wanted: bool| -> Vec<Row> {
        let chosen = rows.iter().zip(seen).filter(|(_, seen)| **seen == wanted);
        chosen.map(|(row, _)| row.clone()).collect()
    };
    let (no_left, no_right) = (
        vec![Value::Null; left_names.len()],
        vec![Value::Null; right_names.len()],
    );
    match kind {
        JoinKind::Semi => return Ok(of(lefts, &left_seen, true)),
        JoinKind::Anti => return Ok(of(lefts, &left_seen, false)),
        _ => {}
    }
    if matches!(kind, JoinKind::Left | JoinKind::Full) {
        let lone = of(lefts, &left_seen, false);
        pairs.extend(lone.iter().map(|left| together(left, &no_right)));
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        let lone = of(rights, &right_seen, false);
        pairs.extend(lone.iter().map(|right| together(&no_left, right)));
    }
    Ok(pairs)
}

fn are_equal((left, right): (&Value, &Value)) -> bool {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => false,
        (left, right) => oracle::compare(left, right).is_eq(),
    }
}
