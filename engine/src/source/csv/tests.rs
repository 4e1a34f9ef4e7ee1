//! CSV through the source: types, quotes, blocks, and what is said of bad files.

use std::io::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::error::ErrorKind;
use crate::plan::CsvOptions;
use crate::testing;

const OPTIONS: CsvOptions = CsvOptions {
    header: true,
    delimiter: b',',
    null_value: None,
};

async fn inferred(text: &[u8], options: CsvOptions) -> Result<SchemaRef> {
    let (store, path) = (Arc::new(InMemory::new()), Path::from("x.csv"));
    store
        .put(&path, text.to_vec().into())
        .await
        .expect("memory takes it");
    infer_schema(store, &path, "memory:///x.csv", text.len() as u64, options).await
}

/// The rows of `text`, whose columns are those inferred from `like`.
async fn read(like: &str, text: &[u8], projection: &[usize]) -> Result<Vec<RecordBatch>> {
    let file_schema = inferred(like.as_bytes(), OPTIONS).await?;
    read_as(file_schema, text, projection).await
}

/// The rows of `text`, whose columns are those of `file_schema`.
async fn read_as(
    file_schema: SchemaRef,
    text: &[u8],
    projection: &[usize],
) -> Result<Vec<RecordBatch>> {
    read_with(OPTIONS, file_schema, text, projection).await
}

/// The same, by options of the caller's own.
async fn read_with(
    options: CsvOptions,
    file_schema: SchemaRef,
    text: &[u8],
    projection: &[usize],
) -> Result<Vec<RecordBatch>> {
    let ctx = testing::context();
    let projection = match projection {
        [] => (0..file_schema.fields().len()).collect(),
        some => some.to_vec(),
    };
    let spec = ScanSpec {
        format: ScanFormat::Csv(options),
        file_schema,
        projection,
        predicate: None,
        key_filters: vec![],
        files: vec![],
        tasks: vec![],
    };
    let url = testing::put(&ctx, "x.csv", text).await;
    let splits = vec![testing::split(&url, text, 0, text.len() as u64)];
    testing::read(open, &spec, splits, &ctx).await
}

#[tokio::test]
async fn types_are_guessed() {
    let text = "n,x,ok,day,at,mixed,none,\"a name\"\n\
                1,1.5,true,2024-02-29,2024-02-29T12:00:00,1,,a\n\
                -2,3,false,,2024-02-29T12:00:00.123456,b,,\"b,\nc\"\n";
    let schema = inferred(text.as_bytes(), OPTIONS)
        .await
        .expect("a good file");
    let shown: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!("{}: {}", field.name(), field.data_type()))
        .collect();
    let expected = "n: Int64, x: Float64, ok: Boolean, day: Date32, at: Timestamp(µs), \
                    mixed: Utf8View, none: Utf8View, a name: Utf8View";
    assert_eq!(shown.join(", "), expected);

    let options = CsvOptions {
        header: false,
        delimiter: b';',
        null_value: None,
    };
    let schema = inferred(b"1;a\n2;b\n", options).await.expect("a good file");
    assert_eq!(schema.field(1).name(), "column_2");
}

#[tokio::test]
async fn quotes_line_ends_nulls_and_a_missing_last_newline() {
    let text = "\u{FEFF}n,word\r\n1,\"a,\"\"b\"\"\nc\"\r\n\r\n,x\"y\n3,";
    let batches = read("n,word\n1,a\n", text.as_bytes(), &[1, 0])
        .await
        .expect("a good file");
    let shown = testing::show(&batches);
    expect_test::expect![[r#"
        word | n
        a,"b"
        c | 1
        x"y | NULL
        NULL | 3"#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn another_text_may_stand_for_null() {
    let text = b"n,word,a.b\n1,a.b,x\na.b,,axb\n2,\"a.b\",\n";
    let options = CsvOptions {
        null_value: Some("a.b".to_owned()),
        ..OPTIONS
    };
    let schema = inferred(text, options.clone()).await.expect("a good file");
    assert_eq!(schema.field(0).data_type(), &DataType::Int64);
    let batches = read_with(options.clone(), schema, text, &[]).await;
    // An empty string is a string.
    expect_test::expect![[r#"
        n | word | a.b
        1 | NULL | x
        NULL |  | axb
        2 | NULL | "#]]
    .assert_eq(&testing::show(&batches.expect("a good file")));
    let numbers = inferred(b"n\n1\n", options.clone()).await;
    let error = read_with(options, numbers.expect("a good file"), b"n\n\"\"\n", &[]).await;
    let error = error.expect_err("no number").report();
    assert!(
        error.contains("line=2 column=\"n\" expected=Int64 found=\"\""),
        "{error}"
    );
}

/// `text` as gzip, zstd and bzip2.
fn compressed(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).expect("memory takes it");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text).expect("memory takes it");
    [
        ("gzip", gzip.finish().expect("memory takes it")),
        ("zstd", zstd::encode_all(text, 1).expect("memory takes it")),
        ("bzip2", bzip2.finish().expect("memory takes it")),
    ]
}

#[tokio::test]
async fn compressed_files_are_like_others() {
    // More than one chunk, and more than is looked at for the schema.
    let mut text = "n,word\n".to_owned();
    let mut rows = 0_u64;
    while text.len() < 3 * CHUNK_BYTES as usize {
        text += &format!("{rows},\"line\n{}\"\n", rows * 7919 % 1000);
        rows += 1;
    }
    let plain = read("n,word\n1,a\n", text.as_bytes(), &[]).await;
    let plain = testing::show(&plain.expect("a good file"));
    for (codec, bytes) in compressed(text.as_bytes()) {
        let schema = inferred(&bytes, OPTIONS).await.expect(codec);
        assert_eq!(schema.field(0).data_type(), &DataType::Int64, "{codec}");
        let batches = read_as(Arc::clone(&schema), &bytes, &[])
            .await
            .expect(codec);
        assert!(testing::show(&batches) == plain, "{codec}");

        let cut = &bytes[..bytes.len() / 2];
        let error = read_as(schema, cut, &[]).await.expect_err(codec);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let expected = format!("cannot read compressed CSV: {codec} stream ends early file=");
        assert!(error.message().starts_with(&expected), "{}", error.report());
    }
}

/// More than one block, with quoted line ends everywhere.
#[tokio::test]
async fn blocks_end_where_records_do() {
    let mut text = "n,word\n".to_owned();
    let mut rows = 0;
    while text.len() < 3 * CHUNK_BYTES as usize {
        let filler = "line\n".repeat(rows % 7);
        text += &format!("{rows},\"{filler}\"\n");
        rows += 1;
    }
    let batches = read("n,word\n1,a\n", text.as_bytes(), &[0])
        .await
        .expect("a good file");
    let mut numbers = Vec::new();
    for batch in &batches {
        let column =
            arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0));
        numbers.extend(column.values().iter().copied());
    }
    assert!(batches.len() > 3);
    assert!(numbers.into_iter().eq(0..rows as i64));

    let bad = text + "1,2,3\n";
    let line = bad.lines().count();
    let error = read("n,word\n1,a\n", bad.as_bytes(), &[])
        .await
        .expect_err("a ragged row");
    let place = format!("file=memory:///in/x.csv line={line} expected=2 found=3");
    assert!(error.report().ends_with(&place), "{}", error.report());
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let ragged = "a CSV record has another number of fields than the first file=memory:///in/x.csv";
    let cases: [(&[u8], String); 5] = [
        (
            b"n,word\n1,a\n\n2\n",
            format!("{ragged} line=4 expected=2 found=1"),
        ),
        (
            b"n,word\n1,a,b\n",
            format!("{ragged} line=2 expected=2 found=3"),
        ),
        (
            b"n,word\n1,\"a\nb\"\nx1,c\n",
            "a value does not fit its column file=memory:///in/x.csv line=4 column=\"n\" \
             expected=Int64 found=\"x1\""
                .into(),
        ),
        (
            b"n,word\n1,\xFF\n",
            "the text is not valid UTF-8 file=memory:///in/x.csv line=2".into(),
        ),
        (
            b"n,wrod\n1,a\n",
            "the files of one input have different columns file=memory:///in/x.csv \
             expected=n,word found=n,wrod"
                .into(),
        ),
    ];
    for (text, expected) in cases {
        let error = read("n,word\n1,a\n", text, &[]).await.expect_err(&expected);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.report(), expected);
    }
}

#[tokio::test]
async fn files_without_a_schema_are_named() {
    let cases: [(&[u8], &str); 4] = [
        (
            b"",
            "there are no records in the CSV file file=memory:///x.csv",
        ),
        (
            b"\n\n",
            "there are no records in the CSV file file=memory:///x.csv",
        ),
        (
            b"\x1f\x8b\x08",
            "cannot read compressed CSV: gzip stream ends early file=memory:///x.csv: unexpected \
             end of file",
        ),
        (
            b"a,b\n1,2\n1,2,3\n",
            "a CSV record has another number of fields than the first file=memory:///x.csv \
             line=3 expected=2 found=3",
        ),
    ];
    for (text, expected) in cases {
        let error = inferred(text, OPTIONS).await.expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.report(), expected);
    }
}

#[tokio::test]
async fn a_record_without_end_is_refused() {
    let mut text = b"n,word\n1,\"".to_vec();
    text.resize(limits::CSV_RECORD_BYTES_MAX + 100, b'x');
    let error = read("n,word\n1,a\n", &text, &[])
        .await
        .expect_err("an open quote");
    assert!(
        error.message().contains("a quote is never closed"),
        "{error}"
    );
    assert!(error.message().contains("line=2"), "{error}");
}

/// A column of every type that a schema may ask for.
fn given() -> SchemaRef {
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let fields = [
        ("small", DataType::Int16),
        ("count", DataType::UInt32),
        ("ratio", DataType::Float32),
        ("ok", DataType::Boolean),
        ("d9", DataType::Decimal32(9, 2)),
        ("d15", DataType::Decimal64(15, 2)),
        ("d38", DataType::Decimal128(38, 3)),
        ("day", DataType::Date32),
        ("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("zoned", zoned),
        ("word", DataType::Utf8View),
    ];
    let field = |(name, data_type)| Field::new(name, data_type, true);
    Arc::new(Schema::new(fields.map(field).to_vec()))
}

const GIVEN: &str = "small,count,ratio,ok,d9,d15,d38,day,at,zoned,word\n";

#[tokio::test]
async fn a_given_schema_is_obeyed() {
    let text = "-7,4000000000,1.5,true,-1234567.89,0.05,12345678901234567890.125,1992-02-29,\
                1992-02-29 12:00:00.5,1992-02-29T12:00:00+02:00,\"\"\n\
                ,,,,,,,,,,\n\
                1,2,3,false,4,5,6,1970-01-01,1970-01-01T00:00:00,1970-01-01T00:00:00Z,x\n";
    let batches = read_as(given(), format!("{GIVEN}{text}").as_bytes(), &[])
        .await
        .expect("a good file");
    assert_eq!(batches[0].schema(), given());
    expect_test::expect![[r#"
        small | count | ratio | ok | d9 | d15 | d38 | day | at | zoned | word
        -7 | 4000000000 | 1.5 | true | -1234567.89 | 0.05 | 12345678901234567890.125 | 1992-02-29 | 1992-02-29T12:00:00.500 | 1992-02-29T10:00:00Z | NULL
        NULL | NULL | NULL | NULL | NULL | NULL | NULL | NULL | NULL | NULL | NULL
        1 | 2 | 3.0 | false | 4.00 | 5.00 | 6.000 | 1970-01-01 | 1970-01-01T00:00:00 | 1970-01-01T00:00:00Z | x"#]].assert_eq(&testing::show(&batches));
}

#[tokio::test]
async fn what_does_not_fit_a_given_schema_is_named() {
    let good = [
        "1",
        "2",
        "3",
        "true",
        "4",
        "5",
        "6",
        "1970-01-01",
        "",
        "",
        "x",
    ];
    let cases = [
        (0, "32768", "Int16"),
        (1, "-1", "UInt32"),
        (2, "1,5", "Float32"),
        (3, "maybe", "Boolean"),
        (4, "12345678.00", "Decimal32(9, 2)"),
        (5, "1.2.3", "Decimal64(15, 2)"),
        (6, "x", "Decimal128(38, 3)"),
        (7, "1992-02-30", "Date32"),
        (8, "noon", "Timestamp(µs)"),
        (9, "1992", "Timestamp(µs, \"+00:00\")"),
    ];
    for (column, value, data_type) in cases {
        let mut fields = good.map(str::to_owned);
        fields[column] = format!("\"{value}\"");
        let text = format!("{GIVEN}{}\n{}\n", good.join(","), fields.join(","));
        let error = read_as(given(), text.as_bytes(), &[])
            .await
            .expect_err(value);
        let schema = given();
        let name = schema.field(column).name();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.report(),
            format!(
                "a value does not fit its column file=memory:///in/x.csv line=3 \
                 column={name:?} expected={data_type} found={value:?}"
            )
        );
    }
}
