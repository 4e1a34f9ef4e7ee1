//! Row groups, codecs, order and size of files are those that were asked for.

use std::io::Read;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Date32Array, Decimal32Array, Decimal64Array, Decimal128Array,
    Int64Array, ListArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Decimal64Type, Int64Type};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Type};
use parquet::file::metadata::ParquetMetaData;

use super::tests::{output, parquet_rows, write_rows};
use super::*;
use crate::memory::MemoryBudget;
use crate::plan::{ColumnOrder, FileCompression, FileFormat, OutputFile, OutputOptions};
use crate::testing;

/// Rows with a number, some of them null, a price and a word; no row is like another.
fn rows(seed: u64, count: usize) -> RecordBatch {
    let mut random = fastrand::Rng::with_seed(seed);
    let lists = (0..count).map(|row| Some(vec![Some(row as i64); row % 3]));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let numbers: Int64Array = (0..count)
        .map(|_| (random.u8(..) > 20).then(|| random.i64(..100)))
        .collect();
    let prices: Decimal64Array = (0..count).map(|_| Some(random.i64(..1_000_000))).collect();
    let prices = prices.with_precision_and_scale(15, 2).expect("it fits");
    let words: StringViewArray = (0..count)
        .map(|row| Some(format!("{:x} of {seed}, {row}", random.u64(..))))
        .collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("list", Arc::new(lists)),
        ("n", Arc::new(numbers)),
        ("price", Arc::new(prices)),
        ("word", Arc::new(words)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn batches(count: u64) -> Vec<RecordBatch> {
    (0..count).map(|seed| rows(seed, 1000)).collect()
}

fn with(format: FileFormat, options: OutputOptions) -> Output {
    Output {
        options,
        ..output("memory:///out", format)
    }
}

fn by(column: &str, descending: bool, nulls_first: bool) -> ColumnOrder {
    ColumnOrder {
        column: column.to_owned(),
        descending,
        nulls_first,
    }
}

fn footer(content: &Bytes) -> Arc<ParquetMetaData> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(content.clone()).expect("a footer");
    Arc::clone(builder.metadata())
}

async fn write(output: &Output, lanes: &[&[RecordBatch]]) -> Vec<(OutputFile, Bytes)> {
    let ctx = testing::context();
    let schema = lanes[0][0].schema();
    let files = write_rows(&ctx, output, schema, 0, lanes)
        .await
        .expect("room in memory");
    assert_eq!(ctx.memory.used(), 0, "all memory is given back");
    files
}

/// The words of all rows, sorted: what was written, whatever the order.
fn words(batches: &[RecordBatch]) -> Vec<String> {
    let mut words = Vec::new();
    for batch in batches {
        let column = batch.column_by_name("word").expect("it is there");
        let column = column.as_string_view();
        words.extend(column.iter().flatten().map(str::to_owned));
    }
    words.sort_unstable();
    words
}

/// Number and price of all rows, in their order.
fn keys(batches: &[RecordBatch]) -> Vec<(Option<i64>, i64)> {
    let mut keys = Vec::new();
    for batch in batches {
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        let prices = batch.column(2).as_primitive::<Decimal64Type>();
        keys.extend(numbers.iter().zip(prices.values().iter().copied()));
    }
    keys
}

#[tokio::test]
async fn row_groups_and_codecs_are_those_asked_for() {
    let cases = [
        (None, Compression::ZSTD(Default::default())),
        (Some(FileCompression::None), Compression::UNCOMPRESSED),
        (Some(FileCompression::Snappy), Compression::SNAPPY),
        (Some(FileCompression::Lz4), Compression::LZ4_RAW),
        (
            Some(FileCompression::Gzip),
            Compression::GZIP(Default::default()),
        ),
        (
            Some(FileCompression::Zstd(7)),
            Compression::ZSTD(Default::default()),
        ),
    ];
    let batches = batches(5);
    for (compression, expected) in cases {
        let options = OutputOptions {
            row_group_rows: Some(1500),
            compression,
            ..Default::default()
        };
        let files = write(&with(FileFormat::Parquet, options), &[&batches]).await;
        let footer = footer(&files[0].1);
        let groups: Vec<i64> = footer.row_groups().iter().map(|g| g.num_rows()).collect();
        assert_eq!(groups, [1500, 1500, 1500, 500], "{compression:?}");
        for column in footer.row_group(0).columns() {
            let found = column.compression();
            assert_eq!(
                std::mem::discriminant(&found),
                std::mem::discriminant(&expected),
                "{compression:?} {found}"
            );
        }
        assert_eq!(words(&parquet_rows(&files[0].1)), words(&batches));
    }
}

#[tokio::test]
async fn rows_of_a_file_are_in_the_order_that_its_footer_tells() {
    let options = OutputOptions {
        sort_by: vec![by("n", true, true), by("price", false, false)],
        row_group_rows: Some(2000),
        ..Default::default()
    };
    let output = with(FileFormat::Parquet, options);
    let (left, right) = (&batches(4)[..], &batches(6)[4..]);
    let files = write(&output, &[left, right]).await;
    assert_eq!(files.len(), 2);
    for ((file, content), written) in files.iter().zip([left, right]) {
        let batches = parquet_rows(content);
        let found = keys(&batches);
        let mut expected = found.clone();
        expected.sort_by_key(|(n, price)| (n.is_some(), std::cmp::Reverse(*n), *price));
        assert_eq!(found, expected);
        assert_eq!(words(&batches), words(written));
        assert_eq!(file.rows, found.len() as u64);
        let footer = footer(content);
        for group in footer.row_groups() {
            let order = group.sorting_columns().expect("the order is told");
            // The list has one leaf before those of the keys.
            let order = order
                .iter()
                .map(|c| (c.column_idx, c.descending, c.nulls_first));
            assert_eq!(
                order.collect::<Vec<_>>(),
                [(1, true, true), (2, false, false)]
            );
        }
    }
}

#[tokio::test]
async fn a_file_ends_when_it_is_as_large_as_was_asked_for() {
    let batches = batches(40);
    for format in [FileFormat::Parquet, FileFormat::Json] {
        for sort_by in [vec![], vec![by("price", false, false)]] {
            let options = OutputOptions {
                file_bytes: Some(100_000),
                sort_by,
                ..Default::default()
            };
            let output = with(format, options);
            let files = write(&output, &[&batches]).await;
            let sorted = !output.options.sort_by.is_empty();
            let sizes: Vec<u64> = files.iter().map(|(file, _)| file.bytes).collect();
            // The first sorted file comes before anybody knows how well rows compress.
            let full = &sizes[1..sizes.len() - 1];
            assert!(full.len() > 3, "{format:?} {sizes:?}");
            let about = 50_000..250_000;
            assert!(
                full.iter().all(|size| about.contains(size)),
                "{format:?} sorted={sorted} {sizes:?}"
            );
            let names: Vec<&str> = files.iter().map(|(file, _)| &file.name[..]).collect();
            assert!(names.is_sorted(), "{names:?}");
            assert!(
                names[1].starts_with("part-000000000007-00000-a2-l0-00001."),
                "{names:?}"
            );
            let rows: u64 = files.iter().map(|(file, _)| file.rows).sum();
            assert_eq!(rows, 40_000);
            if format == FileFormat::Parquet {
                let contents: Vec<_> = files.iter().map(|(_, bytes)| parquet_rows(bytes)).collect();
                assert_eq!(words(&contents.concat()), words(&batches));
                let in_order = |batches: &Vec<RecordBatch>| {
                    keys(batches).is_sorted_by_key(|(_, price)| *price)
                };
                assert_eq!(contents.iter().all(in_order), sorted);
            }
        }
    }
}

#[tokio::test]
async fn little_memory_makes_smaller_sorted_files() {
    let options = OutputOptions {
        sort_by: vec![by("word", false, false)],
        ..Default::default()
    };
    let mut ctx = testing::context();
    ctx.memory = MemoryBudget::new(3 << 20);
    let batches = batches(60);
    let output = with(FileFormat::Parquet, options);
    let files = write_rows(&ctx, &output, batches[0].schema(), 0, &[&batches])
        .await
        .expect("smaller files fit");
    assert!(files.len() > 1);
    let contents: Vec<_> = files.iter().map(|(_, bytes)| parquet_rows(bytes)).collect();
    assert_eq!(words(&contents.concat()), words(&batches));
}

#[tokio::test]
async fn text_is_compressed_when_asked() {
    let batches: Vec<RecordBatch> = batches(3)
        .iter()
        .map(|batch| batch.project(&[1, 2, 3]).expect("there are four"))
        .collect();
    let gunzip = |bytes: &Bytes| {
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
        decoder.read_to_string(&mut text).expect("it is gzip");
        text
    };
    let unzstd = |bytes: &Bytes| {
        let text = zstd::decode_all(&bytes[..]).expect("it is ZSTD");
        String::from_utf8(text).expect("it is text")
    };
    for (format, extension) in [(FileFormat::Csv, "csv"), (FileFormat::Json, "json")] {
        let compressed = |compression| {
            let options = OutputOptions {
                compression: Some(compression),
                ..Default::default()
            };
            with(format, options)
        };
        let plain = write(&compressed(FileCompression::None), &[&batches]).await;
        let plain = String::from_utf8(plain[0].1.to_vec()).expect("it is text");
        let gzip = write(&compressed(FileCompression::Gzip), &[&batches]).await;
        let zstd = write(&compressed(FileCompression::Zstd(3)), &[&batches]).await;
        assert!(gzip[0].0.name.ends_with(&format!(".{extension}.gz")));
        assert!(zstd[0].0.name.ends_with(&format!(".{extension}.zst")));
        assert!(gzip[0].1.len() < plain.len() / 2);
        assert_eq!(gunzip(&gzip[0].1), plain);
        assert_eq!(unzstd(&zstd[0].1), plain);
    }
}

/// One row of values and one of nulls, of every type that analytics meets.
fn typed() -> RecordBatch {
    let micros = vec![Some(1_709_208_000_123_456), None];
    let zoned = TimestampMicrosecondArray::from(micros.clone()).with_timezone("+02:00");
    let narrow = Decimal32Array::from(vec![Some(-12345), None]);
    let middle = Decimal64Array::from(vec![Some(123_456_789_012), None]);
    let short = Decimal64Array::from(vec![Some(7), None]);
    let wide = Decimal128Array::from(vec![Some(10_i128.pow(30)), None]);
    let columns: [(&str, ArrayRef); 8] = [
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        (
            "d9",
            Arc::new(narrow.with_precision_and_scale(9, 2).expect("it fits")),
        ),
        (
            "d15",
            Arc::new(middle.with_precision_and_scale(15, 4).expect("it fits")),
        ),
        (
            "d5",
            Arc::new(short.with_precision_and_scale(5, 2).expect("it fits")),
        ),
        (
            "d38",
            Arc::new(wide.with_precision_and_scale(38, 0).expect("it fits")),
        ),
        ("day", Arc::new(Date32Array::from(vec![Some(19_782), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(micros))),
        ("zoned", Arc::new(zoned)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

#[tokio::test]
async fn decimals_dates_and_times_are_written_as_such() {
    let batch = typed();
    let rows = std::slice::from_ref(&batch);
    let files = write(&output("memory:///out", FileFormat::Parquet), &[rows]).await;
    assert_eq!(parquet_rows(&files[0].1), rows);
    let footer = footer(&files[0].1);
    let columns = footer.file_metadata().schema_descr().columns().to_vec();
    let types: Vec<Type> = columns.iter().map(|c| c.physical_type()).collect();
    use Type::{BOOLEAN, FIXED_LEN_BYTE_ARRAY, INT32, INT64};
    assert_eq!(
        types,
        [
            BOOLEAN,
            INT32,
            INT64,
            INT32,
            FIXED_LEN_BYTE_ARRAY,
            INT32,
            INT64,
            INT64
        ]
    );
    let decimal = |index: usize| {
        let column = &columns[index];
        (column.type_precision(), column.type_scale())
    };
    assert_eq!(
        [1, 2, 3, 4].map(decimal),
        [(9, 2), (15, 4), (5, 2), (38, 0)]
    );

    let files = write(&output("memory:///out", FileFormat::Csv), &[rows]).await;
    expect_test::expect![[r#"
        ok,d9,d15,d5,d38,day,at,zoned
        true,-123.45,12345678.9012,0.07,1000000000000000000000000000000,2024-02-29,2024-02-29T12:00:00.123456,2024-02-29T14:00:00.123456+02:00
        ,,,,,,,
    "#]].assert_eq(&String::from_utf8_lossy(&files[0].1));
    let files = write(&output("memory:///out", FileFormat::Json), &[rows]).await;
    expect_test::expect![[r#"
        {"ok":true,"d9":-123.45,"d15":12345678.9012,"d5":0.07,"d38":1000000000000000000000000000000,"day":"2024-02-29","at":"2024-02-29T12:00:00.123456","zoned":"2024-02-29T14:00:00.123456+02:00"}
        {"ok":null,"d9":null,"d15":null,"d5":null,"d38":null,"day":null,"at":null,"zoned":null}
    "#]].assert_eq(&String::from_utf8_lossy(&files[0].1));
}

#[tokio::test]
async fn rows_go_to_the_directories_that_they_name() {
    let batch = |names: &[&str], from: i64| {
        let numbers = Int64Array::from_iter_values(from..from + names.len() as i64);
        let names = StringViewArray::from(names.to_vec());
        let columns: [(&str, ArrayRef); 2] = [("to", Arc::new(names)), ("n", Arc::new(numbers))];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    };
    let options = |sort_by| OutputOptions {
        directories: Some("to".to_owned()),
        sort_by,
        ..Default::default()
    };
    let lanes = [
        [batch(&["a", "b=1", "a"], 0), batch(&["a", "a"], 3)],
        [batch(&["b=1", "a", "b=1"], 5), batch(&["c.d"], 8)],
    ];
    let lanes: Vec<&[RecordBatch]> = lanes.iter().map(|lane| &lane[..]).collect();
    for sort_by in [vec![], vec![by("n", false, false)]] {
        let output = with(FileFormat::Csv, options(sort_by));
        let files = write(&output, &lanes).await;
        let shown = files.iter().map(|(file, content)| {
            let rows = String::from_utf8_lossy(content)
                .trim_end()
                .replace('\n', " ");
            format!("{}: {rows}\n", file.name)
        });
        expect_test::expect![[r#"
            a/part-000000000007-00000-a2-l0-00000.csv: n 0 2 3 4
            a/part-000000000007-00000-a2-l1-00000.csv: n 6
            b=1/part-000000000007-00000-a2-l0-00000.csv: n 1
            b=1/part-000000000007-00000-a2-l1-00000.csv: n 5 7
            c.d/part-000000000007-00000-a2-l1-00000.csv: n 8
        "#]]
        .assert_eq(&shown.collect::<String>());
    }
    let output = with(FileFormat::Csv, options(vec![]));
    for (name, said) in [
        ("", "not a name"),
        ("../a", "not a name"),
        ("_a", "not a name"),
    ] {
        let rows = [batch(&["a", name], 0)];
        let ctx = testing::context();
        let lanes: [&[RecordBatch]; 1] = [&rows];
        let refused = write_rows(&ctx, &output, rows[0].schema(), 0, &lanes).await;
        let error = refused.expect_err("no name of a directory");
        assert!(error.message().starts_with(said), "{}", error.message());
    }
}
