//! Aggregations against a plain map, over random rows, lanes, modes and budgets.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal64Array,
    Float64Array, Int16Array, Int64Array, StringArray, StringViewArray, UInt32Array, UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use expect_test::{Expect, expect};

use super::*;
use crate::error::ErrorKind;
use crate::expr::{col, lit, max, sum};
use crate::memory::DiskBudget;
use crate::storage::ShuffleStore;
use crate::storage::{OverflowStore, Stores};

fn context(memory: u64) -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread");
    TaskContext {
        pool: Arc::new(pool),
        memory: MemoryBudget::new(memory),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::in_memory(OverflowStore::new(1 << 20, None, None)),
        metrics: Arc::default(),
        cancel: CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

fn aggregates(calls: &str) -> Vec<AggregateExpr> {
    let call = |call: &str| {
        let (function, argument) = call.split_once(' ').unwrap_or((call, ""));
        use crate::expr::AggregateFunction as F;
        let function = match function {
            "count" => F::Count,
            "sum" => F::Sum,
            "min" => F::Min,
            "max" => F::Max,
            "avg" => F::Avg,
            "distinct" => F::CountDistinct,
            "variance" => F::Variance,
            "variance_population" => F::VariancePopulation,
            "stddev" => F::StdDev,
            "stddev_population" => F::StdDevPopulation,
            "first" => F::First,
            "last" => F::Last,
            "any" => F::Any,
            "all" => F::All,
            other => panic!("no function {other}"),
        };
        let name = call.to_owned();
        let (argument, filter) = argument.split_once(" where ").unwrap_or((argument, ""));
        let filter = (!filter.is_empty()).then(|| Expr::Column(filter.to_owned()));
        let argument = (!argument.is_empty()).then(|| Expr::Column(argument.to_owned()));
        AggregateExpr {
            function,
            arguments: argument.into_iter().collect(),
            filter,
            name,
        }
    };
    calls
        .split(", ")
        .filter(|call| !call.is_empty())
        .map(call)
        .collect()
}

fn keys(names: &str) -> Vec<Expr> {
    names
        .split_whitespace()
        .map(|name| Expr::Column(name.to_owned()))
        .collect()
}

/// Runs one aggregation over `lanes`, and returns its batches.
fn run(
    mode: AggregateMode,
    (group_by, calls): (&str, &str),
    schema: &SchemaRef,
    lanes: &[Vec<RecordBatch>],
    ctx: &TaskContext,
) -> Result<Vec<RecordBatch>> {
    let (group_by, calls) = (keys(group_by), aggregates(calls));
    let breaker = aggregate(mode, schema, &group_by, &calls, ctx)?;
    let expected = output_schema(mode, schema, &group_by, &calls)?;
    let mut batches = Vec::new();
    let mut emit = |batch: RecordBatch| {
        assert_eq!(batch.schema(), expected);
        assert!(batch.num_rows() <= crate::limits::BATCH_ROWS);
        batches.push(batch);
        Ok(())
    };
    for lane in lanes {
        let mut operator = breaker.lane()?;
        for batch in lane {
            operator.push(batch.clone(), &mut emit)?;
        }
        operator.finish(&mut emit)?;
    }
    for morsel in breaker.merge()? {
        morsel(&mut emit)?;
    }
    drop(breaker);
    assert_eq!(ctx.memory.used(), 0, "all memory is given back");
    Ok(batches)
}

/// The same in two steps, with the partial rows spread over two lanes.
fn run_twice(
    what: (&str, &str),
    schema: &SchemaRef,
    lanes: &[Vec<RecordBatch>],
    ctx: &TaskContext,
) -> Result<Vec<RecordBatch>> {
    let partial = run(AggregateMode::Partial, what, schema, lanes, ctx)?;
    let middle = output_schema(
        AggregateMode::Partial,
        schema,
        &keys(what.0),
        &aggregates(what.1),
    )?;
    let half = partial.len() / 2;
    let lanes = [partial[..half].to_vec(), partial[half..].to_vec()];
    run(AggregateMode::Final, what, &middle, &lanes, ctx)
}

/// Rows as text, sorted.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows: Vec<String> = batches
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows()).map(|row| {
                let cell = |column: &ArrayRef| match column.is_null(row) {
                    true => "null".to_owned(),
                    false => array_value_to_string(column, row).expect("the type has a text"),
                };
                batch
                    .columns()
                    .iter()
                    .map(cell)
                    .collect::<Vec<_>>()
                    .join("|")
            })
        })
        .collect();
    rows.sort();
    rows
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns fit")
}

fn sample() -> RecordBatch {
    batch(vec![
        (
            "s",
            Arc::new(StringViewArray::from(vec![
                Some("a"),
                Some("a key of more than twelve bytes"),
                None,
                Some("a"),
                Some("a key of more than twelve bytes"),
                Some("a key of more than twelve byteS"),
                None,
            ])),
        ),
        (
            "i",
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(2),
                None,
                Some(4),
                None,
                None,
                Some(7),
            ])),
        ),
        (
            "f",
            Arc::new(Float64Array::from(vec![
                Some(0.5),
                None,
                Some(f64::NAN),
                Some(-0.0),
                Some(2.0),
                None,
                Some(1.0),
            ])),
        ),
        (
            "d",
            Arc::new(
                Decimal64Array::from(vec![150, 250, -300, 1, 2, 3, 4])
                    .with_precision_and_scale(10, 2)
                    .expect("two digits"),
            ),
        ),
        (
            "t",
            Arc::new(StringArray::from(vec!["x", "y", "z", "zz", "", "b", "c"])),
        ),
        (
            "b",
            Arc::new(BooleanArray::from(vec![
                true, false, true, false, false, true, true,
            ])),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![0, 1, 0, 0, 1, 1, 0])),
        ),
    ])
}

fn check(group_by: &str, calls: &str, expected: Expect) {
    let (batch, ctx) = (sample(), context(1 << 30));
    let schema = batch.schema();
    let lanes = [
        vec![batch.slice(0, 3)],
        vec![],
        vec![batch.slice(3, 2), batch.slice(5, 2)],
    ];
    let what = (group_by, calls);
    let single = run(AggregateMode::Single, what, &schema, &lanes, &ctx).expect("it runs");
    expected.assert_eq(&rows(&single).join("\n"));
    let twice = run_twice(what, &schema, &lanes, &ctx).expect("it runs in two steps");
    assert_eq!(rows(&twice), rows(&single));
    assert_eq!(
        output_schema(
            AggregateMode::Single,
            &schema,
            &keys(group_by),
            &aggregates(calls)
        )
        .expect("it has a schema")
        .fields(),
        single[0].schema().fields(),
    );
}

#[test]
fn strings_and_null_are_keys() {
    check(
        "s",
        "count, count i, sum i, min i, max i, avg i",
        expect![[r#"
        a key of more than twelve byteS|1|0|null|null|null|null
        a key of more than twelve bytes|2|1|2|2|2|2.0
        a|2|2|5|1|4|2.5
        null|2|1|7|7|7|7.0"#]],
    );
}

#[test]
fn every_kind_of_value_is_aggregated() {
    check(
        "s",
        "sum f, min f, max f, avg f, sum d, max d, avg d, min t, max t, min b",
        expect![[r#"
        a key of more than twelve byteS|null|null|null|null|0.03|0.03|0.03|b|b|true
        a key of more than twelve bytes|2.0|2.0|2.0|2.0|2.52|2.50|1.26||y|false
        a|0.5|-0.0|0.5|0.25|1.51|1.50|0.755|x|zz|false
        null|NaN|1.0|NaN|NaN|-2.96|0.04|-1.48|c|z|true"#]],
    );
}

#[test]
fn fixed_width_keys_are_packed() {
    check(
        "day b",
        "count, min day, max s",
        expect![[r#"
        1970-01-01|false|1|1970-01-01|a
        1970-01-01|true|3|1970-01-01|a
        1970-01-02|false|2|1970-01-02|a key of more than twelve bytes
        1970-01-02|true|1|1970-01-02|a key of more than twelve byteS"#]],
    );
}

#[test]
fn other_keys_go_by_rows() {
    check(
        "s i f",
        "count",
        expect![[r#"
        a key of more than twelve byteS|null|null|1
        a key of more than twelve bytes|2|null|1
        a key of more than twelve bytes|null|2.0|1
        a|1|0.5|1
        a|4|0.0|1
        null|7|1.0|1
        null|null|NaN|1"#]],
    );
    check(
        "t",
        "count, count",
        expect![[r#"
        b|1|1
        c|1|1
        x|1|1
        y|1|1
        zz|1|1
        z|1|1
        |1|1"#]],
    );
}

#[test]
fn without_keys_there_is_one_row() {
    check(
        "",
        "count, sum i, avg d, max s",
        expect!["7|14|0.15714285714285717|a key of more than twelve bytes"],
    );
}

#[test]
fn filters_leave_groups_and_take_their_rows() {
    check(
        "s",
        "count  where b, sum i where b, sum i, min t where b, variance d where b, max f where b",
        expect![[r#"
            a key of more than twelve byteS|1|null|null|b|null|null
            a key of more than twelve bytes|0|null|2|null|null|null
            a|1|1|5|x|null|0.5
            null|2|7|7|c|4.6208|NaN"#]],
    );
}

#[test]
fn what_a_filter_drops_needs_no_value() {
    let (batch, ctx) = (sample(), context(1 << 30));
    let quotient = || lit(12) / (col("i") - 1);
    let counted = [
        sum(quotient()).filter(col("i").not_eq(1)).alias("some"),
        max(quotient()).filter(col("i").gt(5)).alias("other"),
    ];
    let run = |calls: &[AggregateExpr]| {
        let breaker = aggregate(AggregateMode::Single, &batch.schema(), &[], calls, &ctx)?;
        let mut batches = Vec::new();
        let mut emit = |batch: RecordBatch| {
            batches.push(batch);
            Ok(())
        };
        let mut operator = breaker.lane()?;
        operator.push(batch.clone(), &mut emit)?;
        operator.finish(&mut emit)?;
        for morsel in breaker.merge()? {
            morsel(&mut emit)?;
        }
        Ok::<_, crate::Error>(rows(&batches))
    };
    expect!["18|2"].assert_eq(&run(&counted).expect("it runs").join("\n"));
    let error = run(&[sum(quotient())]).expect_err("one of them is zero");
    assert!(error.message().contains("division by zero"));
}

#[test]
fn spread_and_booleans_and_some_value() {
    check(
        "day",
        "variance i, variance_population i, stddev_population d, any b, all b, first day, last day",
        expect![[r#"
            1970-01-01|9.0|6.0|1.6375343507847402|true|false|1970-01-01|1970-01-01
            1970-01-02|null|0.0|1.1667333314286803|true|false|1970-01-02|1970-01-02"#]],
    );
}

#[test]
fn different_values_are_counted() {
    let (batch, ctx) = (sample(), context(1 << 30));
    let schema = batch.schema();
    let lanes = [vec![batch.clone(), batch.slice(2, 4)], vec![batch]];
    let calls = "distinct s, distinct i, distinct f, distinct d, distinct t, distinct b, count";
    let found = run(AggregateMode::Single, ("day", calls), &schema, &lanes, &ctx);
    expect![[r#"
        1970-01-01|1|3|4|4|4|2|10
        1970-01-02|2|1|1|3|3|2|8"#]]
    .assert_eq(&rows(&found.expect("it runs")).join("\n"));
}

#[test]
fn a_state_that_two_aggregates_need_is_there_once() {
    let columns = |calls: &str| {
        let schema = sample().schema();
        let found = output_schema(AggregateMode::Partial, &schema, &[], &aggregates(calls));
        let found = found.expect("it has a schema");
        let column = |field: &Arc<Field>| format!("{}: {}", field.name(), field.data_type());
        found
            .fields()
            .iter()
            .map(column)
            .collect::<Vec<_>>()
            .join("\n")
    };
    expect![[r#"
        avg i:sum_i64: Decimal128(38, 0)
        avg i:count: Int64
        sum i where b:sum_i64: Decimal128(38, 0)
        count:count: Int64
        stddev d:count: Int64
        stddev d:mean: Float64
        stddev d:m2: Float64
        min t:min: Utf8View
        any b:max: Boolean"#]]
    .assert_eq(&columns(
        "avg i, sum i, sum i where b, count i, count, stddev d, variance d, min t, any b, max b",
    ));
}

#[test]
fn a_part_of_a_sum_may_overflow_where_the_whole_does_not() {
    let values = |values: Vec<i64>| batch(vec![("v", Arc::new(Int64Array::from(values)))]);
    let (large, small) = (values(vec![i64::MAX, 2]), values(vec![-7]));
    let (schema, ctx) = (large.schema(), context(1 << 30));
    let lanes = [vec![large], vec![small]];
    let twice = run_twice(("", "sum v"), &schema, &lanes, &ctx);
    assert_eq!(
        rows(&twice.expect("the whole fits")),
        ["9223372036854775802"]
    );
    let error = run_twice(("", "sum v"), &schema, &lanes[..1], &ctx);
    let error = error.expect_err("the whole does not fit");
    expect!["a sum does not fit its type type=Int64 aggregate=sum v"].assert_eq(error.message());
}

#[test]
fn no_input_gives_no_rows_or_the_one_without_keys() {
    let (schema, ctx) = (sample().schema(), context(1 << 30));
    let run = |keys| {
        let what = (keys, "count, count i, sum i, avg i, min s");
        let single = run(
            AggregateMode::Single,
            what,
            &schema,
            &[vec![], vec![]],
            &ctx,
        );
        let twice = run_twice(what, &schema, &[vec![]], &ctx);
        let single = rows(&single.expect("it runs"));
        assert_eq!(single, rows(&twice.expect("it runs in two steps")));
        single
    };
    assert_eq!(run("s"), Vec::<String>::new());
    assert_eq!(run(""), ["0|0|null|null|null"]);
}

/// What a plain map says about `count, sum v` by the keys' text.
fn naive(lanes: &[Vec<RecordBatch>], keys: usize) -> Vec<String> {
    let mut groups: BTreeMap<String, (i64, Option<i64>)> = BTreeMap::new();
    for line in rows(&lanes.concat()) {
        let cells: Vec<&str> = line.split('|').collect();
        let group = groups.entry(cells[..keys].join("|")).or_default();
        group.0 += 1;
        if let Ok(value) = cells[keys].parse::<i64>() {
            group.1 = Some(group.1.unwrap_or(0) + value);
        }
    }
    let sum = |sum: Option<i64>| sum.map_or("null".to_owned(), |sum| sum.to_string());
    let mut rows: Vec<String> = groups
        .into_iter()
        .map(|(key, (count, total))| format!("{key}|{count}|{}", sum(total)))
        .collect();
    rows.sort();
    rows
}

fn random_string(rng: &mut fastrand::Rng, distinct: u32) -> Option<String> {
    let number = rng.u32(..distinct);
    let len = [0, 3, 12, 13, 40, 300][number as usize % 6];
    (number != 1).then(|| format!("{number:x}{}", "=".repeat(len)))
}

fn random_batch(rng: &mut fastrand::Rng, rows: usize, distinct: u32) -> RecordBatch {
    let strings = (0..rows).map(|_| random_string(rng, distinct));
    let strings = StringViewArray::from_iter(strings.collect::<Vec<_>>());
    let bytes: Vec<Option<String>> = (0..rows).map(|_| random_string(rng, 7)).collect();
    let bytes = bytes
        .iter()
        .map(|value| value.as_ref().map(String::as_bytes));
    let small: Vec<Option<i16>> = (0..rows)
        .map(|_| rng.bool().then(|| rng.i16(-1..2)))
        .collect();
    let unsigned = small
        .iter()
        .map(|value| value.map(|value| u32::from(value as u16)));
    let values: Vec<Option<i64>> = (0..rows)
        .map(|_| rng.bool().then(|| rng.i64(-1000..1000)))
        .collect();
    batch(vec![
        ("s", Arc::new(strings)),
        ("b", Arc::new(BinaryViewArray::from_iter(bytes))),
        ("i", Arc::new(Int16Array::from(small.clone()))),
        ("u", Arc::new(UInt32Array::from_iter(unsigned))),
        ("v", Arc::new(Int64Array::from(values))),
    ])
}

/// The first rows, each `times` times, one after the other.
fn clustered(batch: &RecordBatch, times: usize) -> RecordBatch {
    let rows = (0..batch.num_rows()).map(|row| (row / times) as u64);
    let rows = UInt64Array::from_iter_values(rows);
    take_record_batch(batch, &rows).expect("rows that are there")
}

#[test]
fn random_rows_are_grouped_as_by_a_plain_map() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let distinct = [3, 100, 5000][rng.usize(..3)];
        for names in ["s", "b", "i", "i u", "s i", "u b s"] {
            let columns: Vec<usize> = names
                .split(' ')
                .chain(["v"])
                .map(|name| "sbiuv".find(name).unwrap_or(0))
                .collect();
            let lanes: Vec<Vec<RecordBatch>> = (0..rng.usize(1..4))
                .map(|_| {
                    (0..rng.usize(1..4))
                        .map(|_| {
                            let rows = rng.usize(0..5000);
                            let all = random_batch(&mut rng, rows, distinct);
                            let all = clustered(&all, 1 + seed as usize % 4);
                            all.project(&columns).expect("the columns are there")
                        })
                        .collect()
                })
                .collect();
            check_random(&lanes, names, &format!("seed={seed} keys={names}"));
        }
    }
}

fn check_random(lanes: &[Vec<RecordBatch>], names: &str, label: &str) {
    let what = (names, "count, sum v");
    let schema = lanes[0][0].schema();
    let expected = naive(lanes, names.split(' ').count());
    let single = run(
        AggregateMode::Single,
        what,
        &schema,
        lanes,
        &context(1 << 30),
    );
    assert_eq!(rows(&single.expect("it runs")), expected, "{label}");
    // Budgets so small that the partial step has to empty itself, or not to group at all.
    for memory in [1 << 30, 2 << 20, 1000] {
        let partial = run(
            AggregateMode::Partial,
            what,
            &schema,
            lanes,
            &context(memory),
        );
        let partial = partial.expect("a partial step makes do with what there is");
        let (keys, calls) = (keys(names), aggregates(what.1));
        let middle = output_schema(AggregateMode::Partial, &schema, &keys, &calls);
        let middle = middle.expect("it has a schema");
        let last = run(
            AggregateMode::Final,
            what,
            &middle,
            &[partial],
            &context(1 << 30),
        );
        assert_eq!(
            rows(&last.expect("it runs")),
            expected,
            "{label} memory={memory}"
        );
    }
}

#[test]
fn many_keys_of_several_lanes_are_merged() {
    let lane = |from: i64, to: i64| {
        let words = (from..to).map(|n| format!("{n}, the number of a rather long word"));
        let words: ArrayRef = Arc::new(StringViewArray::from_iter_values(words));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
        let all = batch(vec![("s", words), ("v", values)]);
        (0..all.num_rows())
            .step_by(8000)
            .map(|row| all.slice(row, 8000.min(all.num_rows() - row)))
            .collect::<Vec<_>>()
    };
    let lanes = [lane(0, 200_000), lane(100_000, 300_000)];
    let schema = lanes[0][0].schema();
    let what = ("s", "count, sum v");
    let single = run(
        AggregateMode::Single,
        what,
        &schema,
        &lanes,
        &context(1 << 30),
    );
    let single = single.expect("it runs");
    let count = |wanted: i64| {
        let counts = single
            .iter()
            .flat_map(|batch| batch["count"].as_primitive::<Int64Type>().values());
        counts.filter(|count| **count == wanted).count()
    };
    assert_eq!((count(1), count(2)), (200_000, 100_000));
    let sum = |batch: &RecordBatch| -> i64 {
        batch["sum v"]
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .sum()
    };
    assert_eq!(
        single.iter().map(sum).sum::<i64>(),
        (0..200_000i64).chain(100_000..300_000).sum::<i64>()
    );
}

#[test]
fn a_partial_step_gives_up_where_keys_do_not_repeat() {
    let numbers = |from: i64| {
        batch(vec![(
            "n",
            Arc::new(Int64Array::from_iter_values(from..from + 8000)),
        )])
    };
    let lane: Vec<RecordBatch> = (0..20).map(|index| numbers(index * 8000)).collect();
    let schema = lane[0].schema();
    let what = ("n", "count, count n, sum n, min n, avg n");
    let partial = run(
        AggregateMode::Partial,
        what,
        &schema,
        &[lane],
        &context(1 << 30),
    );
    let partial = partial.expect("it runs");
    assert_eq!(
        partial.iter().map(RecordBatch::num_rows).sum::<usize>(),
        160_000
    );
    let last = rows(&partial[partial.len() - 1..]);
    assert_eq!(last[0], "152000|1|1|152000|152000");
}

#[test]
fn a_partial_step_that_has_given_up_still_groups_a_key_that_many_rows_have() {
    // The rows of the key come when it has long given up.
    let numbers = |index: i64| {
        let number = move |row: i64| match index >= 20 && row % 2 == 0 {
            true => -1,
            false => index * 8000 + row,
        };
        batch(vec![(
            "n",
            Arc::new(Int64Array::from_iter_values((0..8000).map(number))),
        )])
    };
    let lane: Vec<RecordBatch> = (0..100).map(numbers).collect();
    let schema = lane[0].schema();
    let what = ("n", "count, sum n");
    let group = |mode, what, schema: &SchemaRef, lanes: &[Vec<RecordBatch>], memory| {
        run(mode, what, schema, lanes, &context(memory)).expect("it runs")
    };
    for (memory, rows_max) in [(1 << 30, 530_000), (1 << 12, 800_000)] {
        let partial = group(
            AggregateMode::Partial,
            what,
            &schema,
            std::slice::from_ref(&lane),
            memory,
        );
        let emitted: usize = partial.iter().map(RecordBatch::num_rows).sum();
        assert!(emitted <= rows_max, "memory={memory} rows={emitted}");
        let schema = partial[0].schema();
        let all = group(AggregateMode::Final, what, &schema, &[partial], 1 << 30);
        let all = rows(&all);
        assert_eq!(all.len(), 480_000 + 1, "memory={memory}");
        assert!(
            all.contains(&"-1|320000|-320000".to_owned()),
            "memory={memory}"
        );
    }
}

#[test]
fn groups_that_do_not_fit_into_memory_go_to_disk() {
    let mut rng = fastrand::Rng::with_seed(6);
    let lane = |rng: &mut fastrand::Rng| -> Vec<RecordBatch> {
        (0..6).map(|_| random_batch(rng, 4000, 20_000)).collect()
    };
    let lanes = [lane(&mut rng), lane(&mut rng)];
    let schema = lanes[0][0].schema();
    let calls = "count, count v, sum v, avg v, min v, max s, max u, distinct v, distinct b";
    for keys in ["s", "v", "i s", "b u", ""] {
        let run = |memory| {
            let ctx = context(memory);
            let found = run(AggregateMode::Single, (keys, calls), &schema, &lanes, &ctx);
            let found = rows(&found.expect("there is room on disk"));
            assert_eq!(ctx.memory.disk().used(), 0, "nothing stays on disk");
            (found, ctx.metrics.counts().spilled_bytes)
        };
        let (expected, spilled) = run(1 << 30);
        assert_eq!(spilled, 0, "there is enough memory");
        for memory in [1000, 1 << 20, 4 << 20] {
            let (found, spilled) = run(memory);
            let other = found
                .iter()
                .zip(&expected)
                .find(|(found, expected)| found != expected);
            assert_eq!(other, None, "keys={keys} memory={memory}");
            assert_eq!(found.len(), expected.len(), "keys={keys} memory={memory}");
            let is_small = memory > 1000 && !keys.contains('s');
            assert!(spilled > 0 || is_small, "keys={keys} memory={memory}");
        }
    }
}

#[test]
fn a_disk_that_is_too_small_for_groups_says_so() {
    let mut rng = fastrand::Rng::with_seed(7);
    let lanes = [vec![random_batch(&mut rng, 8000, 60_000); 3]];
    let schema = lanes[0][0].schema();
    let memory = MemoryBudget::with_disk(1000, DiskBudget::new(50_000, None));
    let ctx = TaskContext {
        memory,
        ..context(0)
    };
    let error = run(AggregateMode::Single, ("s", "count"), &schema, &lanes, &ctx)
        .expect_err("fifty thousand bytes are not enough");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().contains("limit=50000"), "{error}");
    assert_eq!(ctx.memory.disk().used(), 0);
}

#[test]
fn a_sum_that_overflows_names_its_aggregate() {
    let batch = batch(vec![("v", Arc::new(Int64Array::from(vec![i64::MAX, 1])))]);
    let (schema, ctx) = (batch.schema(), context(1 << 30));
    let lanes = [vec![batch]];
    let error = run(AggregateMode::Single, ("", "sum v"), &schema, &lanes, &ctx)
        .expect_err("the sum has 65 bits");
    expect!["a sum does not fit its type type=Int64 aggregate=sum v"].assert_eq(error.message());
    // What only overflows on the way is fine.
    let back = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![-5]))]);
    let lanes = [lanes[0].clone(), vec![back.expect("columns fit")]];
    let single = run(AggregateMode::Single, ("", "sum v"), &schema, &lanes, &ctx);
    assert_eq!(rows(&single.expect("it runs")), ["9223372036854775803"]);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let schema = sample().schema();
    let refused = |calls| {
        let result = output_schema(AggregateMode::Single, &schema, &[], &aggregates(calls));
        result
            .expect_err("the argument does not fit")
            .message()
            .to_owned()
    };
    expect!["sum(s) AS `sum s`: sum does not take this type found=Utf8View"]
        .assert_eq(&refused("sum s"));
    expect!["sum: wrong number of arguments expected=1 found=0"].assert_eq(&refused("sum"));
    expect![[r#"unknown column "nothing" columns=s, i, f, d, t, b, day"#]]
        .assert_eq(&refused("max nothing"));
}
