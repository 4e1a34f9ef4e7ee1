//! Predicates and key filters: whatever is pruned and however it is decoded, the rows that come
//! out are those for which the predicate is true.

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Decimal64Array, Decimal128Array, Float64Array,
    Int32Array, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use parquet::file::properties::EnabledStatistics;

use super::*;
use crate::expr::eval::evaluate;
use crate::expr::{Expr, Literal, col, lit, starts_with};
use crate::kernel::key_filter::KeyFilter;

/// Rows of every type that has statistics. The first columns rise with the row, so that row groups
/// and pages have narrow bounds; others are anything; nulls come in stretches.
fn table(random: &mut fastrand::Rng, rows: usize) -> RecordBatch {
    let base = random.i64(-50..50);
    let near: Vec<Option<i64>> = (0..rows)
        .map(|row| {
            let hole = row / 40 % 5 == 3;
            (!hole && random.u8(..) > 20).then(|| base + row as i64 / 10 + random.i64(-2..3))
        })
        .collect();
    let any: Vec<Option<i64>> = (0..rows)
        .map(|_| (random.u8(..) > 30).then(|| random.i64(-20..20)))
        .collect();
    let words = [
        "",
        "a",
        "ab",
        "abc",
        "b",
        "ba",
        "a longer word than that",
        "é",
    ];
    let text = |value: &i64| words[value.rem_euclid(words.len() as i64) as usize];
    let float = |value: &i64| match value {
        7 => f64::NAN,
        -7 => -f64::NAN,
        3 => -0.0,
        other => *other as f64 / 2.0,
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i64", Arc::new(Int64Array::from(near.clone()))),
        (
            "i32",
            Arc::new(
                near.iter()
                    .map(|v| v.map(|v| v as i32))
                    .collect::<Int32Array>(),
            ),
        ),
        (
            "day",
            Arc::new(
                near.iter()
                    .map(|v| v.map(|v| v as i32))
                    .collect::<Date32Array>(),
            ),
        ),
        (
            "time",
            Arc::new(
                near.iter()
                    .map(|v| v.map(|v| v * 1000))
                    .collect::<TimestampMicrosecondArray>(),
            ),
        ),
        (
            "money",
            Arc::new(
                near.iter()
                    .collect::<Decimal64Array>()
                    .with_precision_and_scale(15, 2)
                    .expect("in range"),
            ),
        ),
        (
            "wide",
            Arc::new(
                near.iter()
                    .map(|v| v.map(i128::from))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(30, 1)
                    .expect("in range"),
            ),
        ),
        (
            "text",
            Arc::new(
                near.iter()
                    .map(|v| v.as_ref().map(text))
                    .collect::<StringViewArray>(),
            ),
        ),
        ("any", Arc::new(Int64Array::from(any.clone()))),
        (
            "float",
            Arc::new(
                any.iter()
                    .map(|v| v.as_ref().map(float))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "flag",
            Arc::new(
                near.iter()
                    .map(|v| v.map(|v| v > 5))
                    .collect::<BooleanArray>(),
            ),
        ),
        (
            "required",
            Arc::new(Int64Array::from_iter_values(
                (0..rows).map(|row| row as i64),
            )),
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// A file of `table` with small row groups and pages, written in one of several ways.
fn written(random: &mut fastrand::Rng, table: &RecordBatch) -> Vec<u8> {
    let statistics = [
        EnabledStatistics::Page,
        EnabledStatistics::Chunk,
        EnabledStatistics::None,
    ];
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(random.usize(40..400)))
        .set_data_page_row_count_limit(random.usize(5..60))
        .set_write_batch_size(4)
        .set_dictionary_enabled(random.bool())
        .set_statistics_truncate_length(random.bool().then_some(2))
        .set_statistics_enabled(statistics[random.usize(..3)])
        .set_bloom_filter_enabled(random.bool())
        .build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, table.schema(), Some(properties)).expect("a writer");
    writer.write(table).expect("a batch");
    writer.close().expect("a footer");
    bytes
}

/// A constant for a column, now and then null.
fn constant(random: &mut fastrand::Rng, column: &str) -> Expr {
    let number = random.i64(-30..60);
    if random.u8(..40) == 0 {
        return Expr::Literal(Literal::Null);
    }
    match column {
        "day" => Expr::Literal(Literal::Date(number as i32)),
        "time" => Expr::Literal(Literal::Timestamp {
            micros: number * 1000,
            zone: None,
        }),
        "money" | "wide" => Expr::Literal(Literal::Decimal {
            unscaled: number.into(),
            precision: 5,
            scale: 2,
        }),
        "text" => lit(["", "a", "ab", "abd", "b", "c", "é", "a longer"][random.usize(..8)]),
        "float" if random.u8(..10) == 0 => lit(f64::NAN),
        "float" => lit(number as f64 / 4.0),
        "flag" => lit(random.bool()),
        _ => lit(number),
    }
}

fn predicate(random: &mut fastrand::Rng, depth: usize) -> Expr {
    let columns = [
        "i64", "i32", "day", "time", "money", "wide", "text", "any", "float", "flag", "required",
    ];
    let name = columns[random.usize(..columns.len())];
    let value = |random: &mut fastrand::Rng| constant(random, name);
    match random.usize(if depth == 0 { 4 } else { 0 }..19) {
        0 => predicate(random, depth - 1).and(predicate(random, depth - 1)),
        1 => predicate(random, depth - 1).and(predicate(random, depth - 1)),
        2 => predicate(random, depth - 1).or(predicate(random, depth - 1)),
        3 => !predicate(random, depth - 1),
        4 => col(name).is_null(),
        5 => col(name).is_not_null(),
        6 => col(name).eq(value(random)),
        7 => col(name).not_eq(value(random)),
        8 => col(name).lt(value(random)),
        9 => value(random).lt(col(name)),
        10 => col(name).lt_eq(value(random)),
        11 => col(name).gt_eq(value(random)),
        12 => value(random).gt_eq(col(name)),
        13 => {
            let (from, to) = (value(random), value(random));
            col(name).gt_eq(from).and(col(name).lt_eq(to))
        }
        14 => starts_with(col("text"), ["", "a", "ab", "x"][random.usize(..4)]),
        15 => col("text").like(["a%", "ab", "_b%", "a\\%", "%c", "a%c", "b_"][random.usize(..7)]),
        16 => {
            let list: Vec<Expr> = (0..random.usize(1..4)).map(|_| value(random)).collect();
            col(name).in_list(list)
        }
        // Only ever asked of rows for which it has a value.
        17 => {
            let guard = col("any").not_eq(lit(0)).and(col("any").is_not_null());
            guard.and((lit(100) / col("any")).gt(lit(random.i64(-9..9))))
        }
        _ => col("any").lt(col("i64")),
    }
}

/// The rows of `table` for which `predicate` is true.
fn expected(table: &RecordBatch, predicate: &Expr) -> RecordBatch {
    let mask = evaluate(predicate, table).expect("it fits the table");
    // Null drops a row as false does.
    filter_record_batch(table, mask.as_boolean()).expect("a mask of its length")
}

/// Rows in the order of their numbers: a scan gives row groups in any order.
fn in_order(batch: &RecordBatch) -> Vec<String> {
    let shown = testing::show(std::slice::from_ref(batch));
    let mut lines: Vec<String> = shown.lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn the_rows_that_come_out_are_those_that_the_predicate_is_true_of() {
    let mut pruned = 0;
    let mut dropped = 0;
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = random.usize(1..1500);
        let table = table(&mut random, rows);
        let bytes = written(&mut random, &table);
        let predicate = predicate(&mut random, 2);
        let ctx = testing::context();
        let file_schema = inferred(&bytes).await.expect("a good file");
        let mut spec = spec(Arc::clone(&file_schema), &[10, 6, 0, 8]);
        spec.predicate = Some(predicate.clone());
        let url = testing::put(&ctx, "x.parquet", &bytes).await;
        let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
        let batches = testing::read(open_whole, &spec, splits, &ctx).await;
        let batches = batches.unwrap_or_else(|error| panic!("seed={seed} {}", error.report()));
        let found = concat_batches(&spec.schema(), &batches).expect("one schema");
        let expected = expected(&table, &predicate).project(&[10, 6, 0, 8]);
        let expected = expected.expect("columns that it has");
        assert_eq!(
            in_order(&found),
            in_order(&expected),
            "seed={seed} {predicate}"
        );
        let counts = ctx.metrics.counts();
        assert_eq!(counts.rows_in, found.num_rows() as u64, "seed={seed}");
        assert_eq!(counts.rows_in, counts.rows_scanned - counts.rows_pruned);
        pruned += counts.row_groups_pruned;
        dropped += counts.rows_pruned;
    }
    assert!(
        pruned > 100 && dropped > 1000,
        "pruned={pruned} dropped={dropped}"
    );
}

#[tokio::test]
async fn key_filters_drop_what_no_join_would_keep_and_nothing_else() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = random.usize(1..1500);
        let table = table(&mut random, rows);
        let bytes = written(&mut random, &table);
        let mut keys: Vec<i64> = (0..random.usize(..6))
            .map(|_| random.i64(-30..60))
            .collect();
        keys.sort_unstable();
        let array: ArrayRef = Arc::new(Int64Array::from(keys.clone()));
        let bounds = keys.first().zip(keys.last()).filter(|_| random.bool());
        let bounds = bounds.map(|(least, greatest)| {
            let one = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
            (one(*least), one(*greatest))
        });
        let filter = ColumnFilter {
            column: 0,
            keys: Arc::new(KeyFilter::new(&array, bounds).expect("integers can be hashed")),
        };
        let ctx = testing::context();
        let file_schema = inferred(&bytes).await.expect("a good file");
        let spec = spec(file_schema, &[10, 0]);
        let url = testing::put(&ctx, "x.parquet", &bytes).await;
        let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
        let mut morsels = open(&spec, splits, vec![filter], &ctx).expect("it fits");
        let mut found = 0;
        while let Some(morsel) = morsels.next().await {
            let run = morsel.expect("a good file").1(&mut |batch| {
                let values = batch.column(1).as_primitive::<Int64Type>();
                found += values
                    .iter()
                    .flatten()
                    .filter(|value| keys.contains(value))
                    .count();
                assert_eq!(values.null_count(), 0, "null has no match");
                Ok(())
            });
            run.expect("a good file");
        }
        let values = table.column(0).as_primitive::<Int64Type>();
        let expected = values.iter().flatten().filter(|value| keys.contains(value));
        assert_eq!(found, expected.count(), "seed={seed}");
        if keys.is_empty() {
            assert_eq!(
                ctx.metrics.counts().bytes_in,
                0,
                "nothing is read for nothing"
            );
        }
    }
}

#[test]
fn the_types_of_the_table_are_as_wide_as_what_is_stored() {
    let mut random = fastrand::Rng::with_seed(1);
    let table = table(&mut random, 10);
    let bytes = written(&mut random, &table);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let schema = runtime.expect("a runtime").block_on(inferred(&bytes));
    let schema = schema.expect("a good file");
    let of = |name: &str| {
        schema
            .field_with_name(name)
            .expect(name)
            .data_type()
            .clone()
    };
    assert_eq!(of("money"), DataType::Decimal64(15, 2));
    assert_eq!(of("wide"), DataType::Decimal128(30, 1));
    assert_eq!(of("text"), DataType::Utf8View);
}
