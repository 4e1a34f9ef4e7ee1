//! Random tables as Parquet files, and their rows as the reference sees them.
//!
//! Values repeat, so that joins match and groups have several rows; the same numbers come in
//! several types; some columns are sorted, skewed, null or all of one value, and some tables are
//! empty.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal64Array, Decimal128Array,
    Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Field, Float64Type,
    Int32Type, Int64Type, Schema,
};
use fastrand::Rng;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat};
use kiln_engine::source::parquet::footer_statistics;
use kiln_engine::storage::{Stores, local_url};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::oracle::{Row, Value, decimal};

/// A table of some files.
pub(crate) struct Table {
    /// The scan of all of its columns, `t<number>c<column>`.
    pub(crate) scan: Arc<LogicalPlan>,
    pub(crate) rows: Vec<Row>,
}

const TEXTS: [&str; 8] = [
    "",
    "a",
    "b",
    "A",
    "it's",
    "ünïcode",
    "exactly 12 c",
    "more than twelve characters",
];

/// Two to four tables in files below `folder`.
pub(crate) async fn random_tables(random: &mut Rng, folder: &Path, stores: &Stores) -> Vec<Table> {
    let mut tables = Vec::new();
    for number in 0..random.usize(2..=4) {
        let folder = folder.join(format!("t{number}"));
        std::fs::create_dir(&folder).expect("a folder for the table");
        let batch = random_batch(random, number);
        let files = random.usize(1..=4);
        let mut start = 0;
        let mut last = None;
        for file in 0..files {
            let rest = batch.num_rows() - start;
            let count = match file + 1 == files {
                true => rest,
                false => random.usize(0..=rest),
            };
            let path = folder.join(format!("{file}.parquet"));
            write(random, &path, &batch.slice(start, count));
            start += count;
            last = Some(path);
        }
        let path = last.expect("at least one file");
        let bytes = std::fs::metadata(&path).expect("it was just written").len();
        // The types in which the engine reads the columns: narrow decimals stay narrow.
        let footer = footer_statistics(stores, &local_url(&path), bytes).await;
        let scan = Scan {
            locations: vec![format!("{}/", local_url(&folder).trim_end_matches('/'))],
            format: ScanFormat::Parquet,
            schema: Arc::clone(&footer.expect("a good file").schema),
            projection: None,
            predicate: None,
        };
        tables.push(Table {
            scan: Arc::new(LogicalPlan::Scan(scan)),
            rows: rows_of(&[batch]),
        });
    }
    tables
}

fn random_batch(random: &mut Rng, table: usize) -> RecordBatch {
    let count = match random.u8(0..10) {
        0 => 0,
        1 => 1,
        2..6 => random.usize(2..40),
        _ => random.usize(40..=300),
    };
    let kinds = random.u8(3..=6);
    let columns = (0..kinds).map(|column| {
        let array = random_column(random, count);
        let nullable = array.null_count() > 0 || random.bool();
        let name = format!("t{table}c{column}");
        (Field::new(name, array.data_type().clone(), nullable), array)
    });
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns of one length")
}

/// Numbers that repeat, or null, as values of some type.
fn random_column(random: &mut Rng, count: usize) -> ArrayRef {
    let distinct = *random.choice(&[1, 3, 8, 30, 200]).expect("some");
    let nulls = *random.choice(&[0.0, 0.0, 0.1, 0.5]).expect("some");
    let skewed = random.u8(0..4) == 0;
    let number = |random: &mut Rng| match random.f32() < nulls {
        true => None,
        false if skewed && random.u8(0..4) > 0 => Some(1),
        false => Some(random.i64(0..distinct)),
    };
    let mut numbers: Vec<Option<i64>> = (0..count).map(|_| number(random)).collect();
    if random.u8(0..3) == 0 {
        numbers.sort_unstable();
    }
    fn of<A: FromIterator<Option<T>> + Array + 'static, T>(
        numbers: &[Option<i64>],
        value: impl Fn(i64) -> T,
    ) -> ArrayRef {
        Arc::new(numbers.iter().map(|n| n.map(&value)).collect::<A>())
    }
    match random.u8(0..10) {
        0 | 1 => of::<Int32Array, _>(&numbers, |n| n as i32 - 4),
        2 => of::<Int64Array, _>(&numbers, |n| n - 4),
        3 if random.u8(0..4) == 0 => of::<Int64Array, _>(&numbers, large),
        3 => of::<Int64Array, _>(&numbers, |n| n * 3 - 10),
        4 => {
            let nans = random.u8(0..4) == 0;
            of::<Float64Array, _>(&numbers, move |n| match n {
                2 if nans => f64::NAN,
                n => (n - 4) as f64 / 4.0,
            })
        }
        5 => {
            let array: Decimal64Array = numbers.iter().map(|n| n.map(|n| (n - 4) * 25)).collect();
            Arc::new(array.with_precision_and_scale(9, 2).expect("they fit"))
        }
        6 => {
            let value = |n: i64| i128::from(n - 4) * 2500;
            let array: Decimal128Array = numbers.iter().map(|n| n.map(value)).collect();
            Arc::new(array.with_precision_and_scale(20, 4).expect("they fit"))
        }
        7 => {
            let texts = numbers.iter().map(|n| n.map(|n| TEXTS[n as usize % 8]));
            Arc::new(texts.collect::<StringViewArray>())
        }
        8 => of::<BooleanArray, _>(&numbers, |n| n % 2 == 0),
        _ => of::<Date32Array, _>(&numbers, |n| n as i32 + 9_000),
    }
}

/// Numbers whose sums overflow now and then.
fn large(number: i64) -> i64 {
    match number % 4 {
        0 => i64::MAX - number,
        1 => i64::MIN + number,
        2 => number << 40,
        _ => number,
    }
}

fn write(random: &mut Rng, path: &Path, batch: &RecordBatch) {
    let rows = |random: &mut Rng| *random.choice(&[7, 40, 1000]).expect("some");
    let statistics = [
        EnabledStatistics::Page,
        EnabledStatistics::Page,
        EnabledStatistics::Chunk,
        EnabledStatistics::None,
    ];
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows(random)))
        .set_data_page_row_count_limit(rows(random))
        .set_write_batch_size(rows(random))
        .set_dictionary_enabled(random.bool())
        .set_bloom_filter_enabled(random.bool())
        .set_statistics_enabled(*random.choice(&statistics).expect("some"))
        .build();
    write_batches(path, std::slice::from_ref(batch), Some(properties));
}

/// Writes batches, of which there is at least one, as a file.
pub(crate) fn write_batches(
    path: &Path,
    batches: &[RecordBatch],
    properties: Option<WriterProperties>,
) {
    let file = File::create(path).expect("a file");
    let writer = ArrowWriter::try_new(file, batches[0].schema(), properties);
    let mut writer = writer.expect("types that Parquet has");
    for batch in batches {
        writer.write(batch).expect("rows are written");
    }
    writer.close().expect("the file is written");
}

/// The rows of batches.
pub(crate) fn rows_of(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|c| value(c, row)).collect());
        }
    }
    rows
}

fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let exact = |units: i128, scale: i8| decimal(units, scale as u32);
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Date32 => Value::Int(column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8View => Value::Text(column.as_string_view().value(row).to_owned()),
        DataType::Decimal32(_, scale) => exact(
            column.as_primitive::<Decimal32Type>().value(row).into(),
            *scale,
        ),
        DataType::Decimal64(_, scale) => exact(
            column.as_primitive::<Decimal64Type>().value(row).into(),
            *scale,
        ),
        DataType::Decimal128(_, scale) => {
            exact(column.as_primitive::<Decimal128Type>().value(row), *scale)
        }
        other => panic!("the generator makes no columns of this type: {other}"),
    }
}
