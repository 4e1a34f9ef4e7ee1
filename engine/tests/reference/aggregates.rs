//! Grouping against the reference: in one step, and in two over several tasks and lanes.
//!
//! Inputs are random, skewed to one key, all of one key, or empty; the partial step also runs
//! with so little memory that it empties itself, or passes rows on without grouping them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use fastrand::Rng;
use kiln_engine::context::{CancelToken, TaskContext};
use kiln_engine::expr::{
    AggregateExpr, Expr, all, any, avg, col, count, count_all, count_distinct, first, last, length,
    lit, max, min, stddev, stddev_population, sum, variance, variance_population,
};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::operator::aggregate::{aggregate, output_schema};
use kiln_engine::plan::AggregateMode;
use kiln_engine::storage::{OverflowStore, ShuffleStore, Stores};

use crate::data::{self, NAMES};
use crate::oracle::{self, Row, Value};
use crate::{check, text};

pub(crate) fn context(memory: u64) -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    TaskContext {
        pool: Arc::new(pool.expect("one thread")),
        memory: MemoryBudget::new(memory),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::in_memory(OverflowStore::new(1 << 20, None, None)),
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

/// What is grouped by what.
struct Query {
    group_by: Vec<Expr>,
    aggregates: Vec<AggregateExpr>,
}

impl Query {
    /// Random keys, none at times, and some aggregates that no order of rows can make overflow.
    fn random(random: &mut Rng) -> Query {
        let mut keys: Vec<Expr> = NAMES.into_iter().map(col).collect();
        keys.push(length(col("text")).alias("length"));
        random.shuffle(&mut keys);
        keys.truncate(random.usize(..4));
        let mut aggregates = vec![
            count_all(),
            count(col("a")),
            count(col("text")),
            sum(col("n")),
            sum(col("x")),
            avg(col("b")),
            avg(col("x")),
            avg(col("n")),
            min(col("a")),
            max(col("b")),
            min(col("n")),
            min(col("x")),
            max(col("x")),
            min(col("text")),
            max(col("text")),
            min(col("ok")),
            max(col("ok")),
            any(col("ok")),
            all(col("ok")),
        ];
        random.shuffle(&mut aggregates);
        aggregates.truncate(random.usize(..7));
        let filters = [data::booleans(random, 1), data::booleans(random, 1)];
        for aggregate in &mut aggregates {
            if let Some(filter) = filters.get(random.usize(..4)) {
                *aggregate = aggregate.clone().filter(filter.clone());
            }
        }
        if keys.is_empty() && aggregates.is_empty() {
            aggregates.push(count_all());
        }
        Query {
            group_by: keys,
            aggregates,
        }
    }

    /// Runs one task over `batches`, dealt out to some lanes.
    fn run(
        &self,
        mode: AggregateMode,
        input: &SchemaRef,
        batches: &[RecordBatch],
        lanes: usize,
        memory: u64,
    ) -> kiln_engine::Result<Vec<RecordBatch>> {
        let ctx = context(memory);
        let mut found = Vec::new();
        let mut emit = |batch: RecordBatch| {
            found.push(batch);
            Ok(())
        };
        let (keys, calls) = (&self.group_by, &self.aggregates);
        let breaker = aggregate(mode, input, keys, calls, &ctx)?;
        for lane in 0..lanes {
            let mut operator = breaker.lane()?;
            for batch in batches.iter().skip(lane).step_by(lanes) {
                operator.push(batch.clone(), &mut emit)?;
            }
            operator.finish(&mut emit)?;
        }
        for morsel in breaker.merge()? {
            morsel(&mut emit)?;
        }
        drop(breaker);
        assert_eq!(ctx.memory.used(), 0, "all memory is given back");
        Ok(found)
    }

    /// Runs partial tasks over shares of `batches` and a final one over what they emit.
    fn run_in_two_steps(
        &self,
        random: &mut Rng,
        batches: &[RecordBatch],
        memory: u64,
    ) -> kiln_engine::Result<Vec<RecordBatch>> {
        let tasks = random.usize(1..4);
        let mut middle = Vec::new();
        for task in 0..tasks {
            let share: Vec<_> = batches.iter().skip(task).step_by(tasks).cloned().collect();
            let lanes = random.usize(1..4);
            let schema = data::schema();
            middle.extend(self.run(AggregateMode::Partial, &schema, &share, lanes, memory)?);
        }
        random.shuffle(&mut middle);
        let (keys, calls) = (&self.group_by, &self.aggregates);
        let schema = output_schema(AggregateMode::Partial, &data::schema(), keys, calls)?;
        // The keys have been computed: what they are called is a column now.
        let names = schema.fields().iter().take(keys.len());
        let last = Query {
            group_by: names.map(|field| col(field.name())).collect(),
            aggregates: calls.clone(),
        };
        let lanes = random.usize(1..4);
        last.run(AggregateMode::Final, &schema, &middle, lanes, memory)
    }
}

/// Some batches of rows, and the rows; empty ones among them.
fn input(random: &mut Rng, seed: u64) -> (Vec<Row>, Vec<RecordBatch>) {
    let most = if seed.is_multiple_of(10) { 3000 } else { 40 };
    let skewed = [0, 0, 9, 10][random.usize(..4)];
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..random.usize(..6) {
        let count = random.usize(..most);
        let mut some = data::rows(random, count);
        for row in &mut some {
            if random.u8(..10) < skewed {
                row[0] = Value::Int(7);
                row[2] = Value::Null;
                row[3] = Value::Float(if random.bool() { 0.0 } else { -0.0 });
                row[4] = Value::Text("the longest word of a skewed input".into());
            }
        }
        batches.push(data::batch(&some));
        rows.extend(some);
    }
    (rows, batches)
}

/// The rows of `found`, sorted: groups come in any order.
fn sorted(found: Vec<RecordBatch>) -> Vec<Row> {
    let mut rows: Vec<Row> = found.iter().flat_map(data::unbatch).collect();
    rows.sort_by_cached_key(|row| text(std::slice::from_ref(row)));
    rows
}

#[test]
fn groups() {
    for seed in 0..400 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, seed);
        let query = Query::random(&mut random);
        let expected = || {
            let groups = oracle::aggregate(&query.group_by, &query.aggregates, &NAMES, &rows);
            let mut groups = groups.expect("nothing overflows");
            groups.sort_by_cached_key(|row| text(std::slice::from_ref(row)));
            Ok(groups)
        };
        let lanes = random.usize(1..4);
        let schema = data::schema();
        for memory in [1 << 30, 200_000, 1000] {
            let found = query.run(AggregateMode::Single, &schema, &batches, lanes, memory);
            let what = format!("in one step memory={memory}");
            check(seed, &what, found.map(sorted), expected());
        }
        for memory in [1 << 30, 200_000, 1000] {
            let found = query.run_in_two_steps(&mut random, &batches, memory);
            let what = format!("in two steps memory={memory}");
            check(seed, &what, found.map(sorted), expected());
        }
    }
}

#[test]
fn sums_that_overflow() {
    let mut failed = 0;
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, seed);
        let query = Query {
            group_by: vec![col("n")],
            aggregates: vec![sum(col("a")).alias("sum"), sum(lit(1)).alias("ones")],
        };
        let expected = oracle::aggregate(&query.group_by, &query.aggregates, &NAMES, &rows);
        failed += u32::from(expected.is_err());
        let expected = expected.map(|mut groups| {
            groups.sort_by_cached_key(|row| text(std::slice::from_ref(row)));
            groups
        });
        let lanes = random.usize(1..4);
        let schema = data::schema();
        let found = query.run(AggregateMode::Single, &schema, &batches, lanes, 1 << 30);
        check(seed, "a sum", found.map(sorted), expected.clone());
        // A part of a sum may overflow where the whole does not.
        let found = query.run_in_two_steps(&mut random, &batches, 1 << 30);
        check(seed, "a sum in two steps", found.map(sorted), expected);
    }
    assert!((10..190).contains(&failed), "some overflow, some do not");
}

#[test]
fn different_values() {
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, seed);
        let group_by = match random.u8(..3) {
            0 => vec![],
            1 => vec![col("n")],
            _ => vec![col("text"), col("ok")],
        };
        let mut aggregates: Vec<_> = NAMES.into_iter().map(|n| count_distinct(col(n))).collect();
        aggregates.push(count_distinct(col("b")).filter(col("ok")));
        aggregates.push(sum(col("n")));
        let query = Query {
            group_by,
            aggregates,
        };
        let expected = oracle::aggregate(&query.group_by, &query.aggregates, &NAMES, &rows);
        let mut expected = expected.expect("nothing overflows");
        expected.sort_by_cached_key(|row| text(std::slice::from_ref(row)));
        let lanes = random.usize(1..4);
        let schema = data::schema();
        let found = query.run(AggregateMode::Single, &schema, &batches, lanes, 1 << 30);
        check(seed, "different values", found.map(sorted), Ok(expected));
    }
}

/// Whether two values are the same but for rounding.
fn is_close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            a == b || (a - b).abs() <= 1e-9 * b.abs().max(1.0) || a.is_nan() && b.is_nan()
        }
        (a, b) => format!("{a:?}") == format!("{b:?}"),
    }
}

#[test]
fn spread() {
    let calls = [variance, variance_population, stddev, stddev_population];
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, seed);
        let mut aggregates = vec![count_all()];
        for call in calls {
            let argument = ["n", "x"][random.usize(..2)];
            aggregates.push(call(col(argument)));
            aggregates.push(call(col("n") * 1000).alias("thousands").filter(col("ok")));
        }
        let query = Query {
            group_by: vec![col("ok"), col("n")],
            aggregates,
        };
        let expected = oracle::aggregate(&query.group_by, &query.aggregates, &NAMES, &rows);
        let mut expected = expected.expect("nothing overflows");
        expected.sort_by_cached_key(|row| text(&[row[..3].to_vec()]));
        let memory = [1 << 30, 1000][random.usize(..2)];
        let schema = data::schema();
        let single = query.run(AggregateMode::Single, &schema, &batches, 2, 1 << 30);
        let twice = query.run_in_two_steps(&mut random, &batches, memory);
        for found in [single, twice] {
            let found = found.expect("memory for all");
            let mut found: Vec<Row> = found.iter().flat_map(data::unbatch).collect();
            found.sort_by_cached_key(|row| text(&[row[..3].to_vec()]));
            assert_eq!(found.len(), expected.len(), "seed={seed}");
            for (found, expected) in found.iter().zip(&expected) {
                let close = found.iter().zip(expected).all(|(a, b)| is_close(a, b));
                assert!(close, "seed={seed}: {found:?} against {expected:?}");
            }
        }
    }
}

#[test]
fn the_first_value_is_that_of_some_row() {
    for seed in 0..100 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, seed);
        let columns = ["a", "x", "text", "ok"];
        let aggregates = columns.into_iter().map(|name| match random.bool() {
            true => first(col(name)),
            false => last(col(name)),
        });
        let query = Query {
            aggregates: aggregates.collect(),
            group_by: vec![col("n")],
        };
        let lanes = random.usize(1..4);
        let schema = data::schema();
        let single = query.run(AggregateMode::Single, &schema, &batches, lanes, 1 << 30);
        let twice = query.run_in_two_steps(&mut random, &batches, 1000);
        for found in [single, twice] {
            for group in found
                .expect("memory for all")
                .iter()
                .flat_map(data::unbatch)
            {
                let key = text(&[vec![group[0].clone()]]);
                let members = rows
                    .iter()
                    .filter(|row| text(&[vec![row[2].clone()]]) == key);
                let members: Vec<&Row> = members.collect();
                for (value, column) in group[1..].iter().zip([0, 3, 4, 5]) {
                    let is_same = |row: &&Row| is_close(value, &row[column]);
                    assert!(members.iter().any(is_same), "seed={seed} {group:?}");
                }
            }
        }
    }
}

#[test]
fn different_values_are_not_counted_in_two_steps() {
    let calls = [count_distinct(col("a"))];
    assert!(!calls[0].function.is_mergeable());
    let result = output_schema(AggregateMode::Partial, &data::schema(), &[], &calls);
    result.expect_err("there is no state of parts of a group");
}
