//! Every encoding, codec and version of pages that writers use comes back as it was written.

use arrow::array::{
    Array, BinaryViewArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int32Array, StringViewArray, TimestampMillisecondArray, UInt16Array,
};
use arrow::compute::concat_batches;
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterVersion;

use super::*;

/// Rows of each physical type, some null.
fn table(random: &mut fastrand::Rng, rows: usize) -> RecordBatch {
    let mut last = 0_i64;
    let numbers: Vec<Option<i64>> = (0..rows)
        .map(|_| {
            last += random.i64(-3..9);
            (random.u8(..) > 40).then_some(last)
        })
        .collect();
    let number = |row: usize| numbers[row];
    let text = |row: usize| number(row).map(|n| format!("{}{n}", "word ".repeat(n as usize % 5)));
    let bytes = |row: usize| number(row).map(|n| n.to_be_bytes());
    let all = || 0..rows;
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (
            "bool",
            Arc::new(
                all()
                    .map(|r| number(r).map(|n| n % 3 == 0))
                    .collect::<BooleanArray>(),
            ),
            true,
        ),
        (
            "i32",
            Arc::new(
                all()
                    .map(|r| number(r).map(|n| n as i32))
                    .collect::<Int32Array>(),
            ),
            true,
        ),
        ("i64", Arc::new(Int64Array::from(numbers.clone())), true),
        (
            "u16",
            Arc::new(
                all()
                    .map(|r| number(r).map(|n| n as u16))
                    .collect::<UInt16Array>(),
            ),
            true,
        ),
        (
            "f32",
            Arc::new(
                all()
                    .map(|r| number(r).map(|n| n as f32 / 3.0))
                    .collect::<Float32Array>(),
            ),
            true,
        ),
        (
            "f64",
            Arc::new(
                all()
                    .map(|r| number(r).map(|n| n as f64 / 3.0))
                    .collect::<Float64Array>(),
            ),
            true,
        ),
        (
            "text",
            Arc::new(all().map(text).collect::<StringViewArray>()),
            true,
        ),
        (
            "bytes",
            Arc::new(all().map(bytes).collect::<BinaryViewArray>()),
            true,
        ),
        (
            "fixed",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(all().map(bytes), 8)
                    .expect("eight bytes"),
            ),
            true,
        ),
        (
            "wide",
            Arc::new(
                all()
                    .map(|r| number(r).map(i128::from))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(30, 2)
                    .expect("in range"),
            ),
            true,
        ),
        (
            "time",
            Arc::new(
                all()
                    .map(number)
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ),
            true,
        ),
        (
            "required",
            Arc::new(Int64Array::from_iter_values(all().map(|r| r as i64))),
            false,
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// The encodings that a column may have besides a dictionary.
fn encodings(column: &str) -> &'static [Encoding] {
    use Encoding::{
        BYTE_STREAM_SPLIT, DELTA_BINARY_PACKED, DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY, PLAIN,
        RLE,
    };
    match column {
        "bool" => &[PLAIN, RLE],
        "i32" | "i64" | "u16" | "time" | "required" => {
            &[PLAIN, DELTA_BINARY_PACKED, BYTE_STREAM_SPLIT]
        }
        "f32" | "f64" => &[PLAIN, BYTE_STREAM_SPLIT],
        "fixed" | "wide" => &[PLAIN, DELTA_BYTE_ARRAY, BYTE_STREAM_SPLIT],
        _ => &[PLAIN, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY],
    }
}

const CODECS: [fn() -> Compression; 7] = [
    || Compression::UNCOMPRESSED,
    || Compression::SNAPPY,
    || Compression::GZIP(GzipLevel::default()),
    || Compression::ZSTD(ZstdLevel::default()),
    || Compression::LZ4,
    || Compression::LZ4_RAW,
    || Compression::BROTLI(BrotliLevel::default()),
];

/// A file of `table`; `choice` is one of the ways in which it may be written.
pub(super) fn written(table: &RecordBatch, choice: usize) -> Vec<u8> {
    let (dictionary, version) = (choice % 4 == 3, choice.is_multiple_of(2));
    let mut properties = WriterProperties::builder()
        .set_dictionary_enabled(dictionary)
        .set_compression(CODECS[choice / 4 % CODECS.len()]())
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(50)
        .set_writer_version(match version {
            true => WriterVersion::PARQUET_2_0,
            false => WriterVersion::PARQUET_1_0,
        });
    if !dictionary {
        for field in table.schema().fields() {
            let encodings = encodings(field.name());
            let encoding = encodings[choice % 4 % encodings.len()];
            properties = properties.set_column_encoding(field.name().as_str().into(), encoding);
        }
    }
    let mut bytes = Vec::new();
    let properties = Some(properties.build());
    let mut writer =
        ArrowWriter::try_new(&mut bytes, table.schema(), properties).expect("a writer");
    writer.write(table).expect("a batch");
    writer.close().expect("a footer");
    bytes
}

/// How many ways there are to write a file.
pub(super) const CHOICES: usize = 4 * CODECS.len();

/// A small table of every type.
pub(super) fn small(random: &mut fastrand::Rng) -> RecordBatch {
    table(random, 40)
}

#[tokio::test]
async fn every_encoding_and_codec_comes_back() {
    for choice in 0..CHOICES {
        let mut random = fastrand::Rng::with_seed(choice as u64);
        let rows = random.usize(1..900);
        let table = table(&mut random, rows);
        let bytes = written(&table, choice);
        let ctx = testing::context();
        let schema = inferred(&bytes).await.expect("a good file");
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let spec = spec(Arc::clone(&schema), &all);
        let url = testing::put(&ctx, "x.parquet", &bytes).await;
        let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
        let batches = testing::read(open_whole, &spec, splits, &ctx).await;
        let batches = batches.unwrap_or_else(|error| panic!("{choice} {}", error.report()));
        let found = concat_batches(&schema, &batches).expect("one schema");
        assert_eq!(found.columns(), table.columns(), "choice={choice}");
    }
}

/// Times as old writers store them: nanoseconds of the day, then the Julian day.
#[tokio::test]
async fn times_of_twelve_bytes_are_timestamps() {
    use arrow::array::TimestampNanosecondArray;
    use parquet::data_type::{Int96, Int96Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = parse_message_type("message schema { required int96 at; }").expect("a schema");
    let mut bytes = Vec::new();
    let mut file =
        SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::default()).expect("a writer");
    let mut group = file.next_row_group().expect("a row group");
    let mut column = group
        .next_column()
        .expect("a column")
        .expect("there is one");
    let mut time = Int96::new();
    // A second and a nanosecond after midnight of 1970-01-02.
    time.set_data(1_000_000_001, 0, 2_440_589);
    let written = column.typed::<Int96Type>().write_batch(&[time], None, None);
    assert_eq!(written.expect("one value"), 1);
    column.close().expect("a column");
    group.close().expect("a row group");
    file.close().expect("a footer");

    let ctx = testing::context();
    let schema = inferred(&bytes).await.expect("a good file");
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    let found = testing::read(open_whole, &spec(schema, &[0]), splits, &ctx).await;
    let expected = TimestampNanosecondArray::from(vec![86_401_000_000_001]);
    assert_eq!(
        found.expect("a good file")[0].column(0).as_ref(),
        &expected as &dyn Array
    );
}
