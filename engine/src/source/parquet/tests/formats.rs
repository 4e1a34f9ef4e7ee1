//! Every encoding, codec and version of pages that writers use comes back as it was written.

use arrow::array::{
    BinaryViewArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
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
