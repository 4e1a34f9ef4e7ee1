//! Numbers whose file says something else of them than they are.

use arrow::array::{
    Array, AsArray, Decimal32Array, Decimal64Array, Decimal128Array, Float32Array, Float64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float64Type};
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::EnabledStatistics;
use parquet::file::statistics::Statistics;

use super::*;
use crate::expr::{Expr, col, lit};

/// What reading the one column `x` of a file with two row groups of `column` says.
async fn read_column(column: &ArrayRef, encoding: Option<Encoding>) -> Result<Vec<RecordBatch>> {
    let batch = RecordBatch::try_from_iter([("x", Arc::clone(column))]).expect("a column");
    let mut properties = WriterProperties::builder().set_dictionary_enabled(encoding.is_none());
    if let Some(encoding) = encoding {
        properties = properties.set_encoding(encoding);
    }
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build()));
    let mut writer = writer.expect("a writer");
    writer.write(&batch.slice(0, 1)).expect("a batch");
    writer.flush().expect("a row group");
    writer.write(&batch.slice(1, 1)).expect("a batch");
    writer.close().expect("a footer");
    let ctx = testing::context();
    let schema = inferred(&bytes).await.expect("a good footer");
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    testing::read(open_whole, &spec(schema, &[0]), splits, &ctx).await
}

/// Arithmetic looks at nothing where the digits that a column declares leave it room.
#[tokio::test]
async fn a_decimal_of_more_digits_than_declared_is_refused() {
    let narrow = |value: i32| {
        let values = Decimal32Array::from(vec![0, value]);
        Arc::new(values.with_data_type(DataType::Decimal32(4, 2))) as ArrayRef
    };
    let wide = |value: i64| {
        let values = Decimal64Array::from(vec![0, value]);
        Arc::new(values.with_data_type(DataType::Decimal64(18, 2))) as ArrayRef
    };
    let widest = |value: i128| {
        let values = Decimal128Array::from(vec![0, value]);
        Arc::new(values.with_data_type(DataType::Decimal128(30, 2))) as ArrayRef
    };
    let listed = |column: ArrayRef| {
        let element = Arc::new(Field::new("item", column.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([1, 1]);
        Arc::new(ListArray::new(element, offsets, column, None)) as ArrayRef
    };
    let most = 10i64.pow(18);
    let good = [
        narrow(9999),
        narrow(-9999),
        wide(most - 1),
        wide(1 - most),
        widest(10i128.pow(30) - 1),
    ];
    let bad = [
        narrow(10_000),
        narrow(i32::MIN),
        wide(most),
        wide(-most),
        wide(i64::MAX),
        widest(10i128.pow(30)),
        widest(-(10i128.pow(30))),
    ];
    for encoding in [
        None,
        Some(Encoding::PLAIN),
        Some(Encoding::DELTA_BINARY_PACKED),
        Some(Encoding::BYTE_STREAM_SPLIT),
    ] {
        let fits = |column: &&ArrayRef| {
            encoding != Some(Encoding::DELTA_BINARY_PACKED)
                || column.data_type().primitive_width() != Some(16)
        };
        for column in good.iter().filter(fits) {
            let batches = read_column(column, encoding).await.expect("in range");
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 2, "{column:?} {encoding:?}");
            let listed = read_column(&listed(Arc::clone(column)), encoding).await;
            listed.expect("in range");
        }
        for column in bad.iter().filter(fits) {
            for column in [Arc::clone(column), listed(Arc::clone(column))] {
                let error = read_column(&column, encoding)
                    .await
                    .expect_err("not in range");
                assert_eq!(error.kind(), ErrorKind::Invalid);
                let report = error.report();
                for part in ["row group 1 column \"x\"", "file=memory:///in/x.parquet"] {
                    assert!(report.contains(part), "{column:?} {encoding:?} {report}");
                }
            }
        }
    }
}

/// The rows of a file of `values` for which `predicate` is true, where the file says that its
/// least and greatest values are `claimed`.
async fn passing(values: &[f64], claimed: (f64, f64), predicate: Expr) -> Vec<f64> {
    let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
    let narrow = values.iter().map(|value| *value as f32);
    let narrow: ArrayRef = Arc::new(Float32Array::from_iter_values(narrow));
    let batch = RecordBatch::try_from_iter([("x", column), ("narrow", narrow)]);
    let batch = batch.expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_bloom_filter_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build()));
    let mut writer = writer.expect("a writer");
    writer.write(&batch).expect("a batch");
    writer.close().expect("a footer");
    let bytes = claiming(bytes, claimed);
    let ctx = testing::context();
    let mut spec = spec(inferred(&bytes).await.expect("a good footer"), &[0]);
    spec.predicate = Some(predicate);
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    let batches = testing::read(open_whole, &spec, splits, &ctx).await;
    let batches = batches.expect("a good file");
    let values = batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Float64Type>().values());
    values.copied().collect()
}

/// The file with other statistics.
fn claiming(mut bytes: Vec<u8>, (least, greatest): (f64, f64)) -> Vec<u8> {
    let own: ParquetMetaData = ParquetMetaDataReader::new()
        .parse_and_finish(&Bytes::from(bytes.clone()))
        .expect("a good footer");
    let group = own.row_group(0).clone();
    let columns = group.columns().iter().map(|column| {
        let statistics = match column.column_path().string().as_str() {
            "x" => Statistics::double(Some(least), Some(greatest), None, Some(0), false),
            _ => {
                let (least, greatest) = (least as f32, greatest as f32);
                Statistics::float(Some(least), Some(greatest), None, Some(0), false)
            }
        };
        let column = column.clone().into_builder().set_statistics(statistics);
        column.build().expect("a column")
    });
    let columns = columns.collect();
    let group = group.into_builder().set_column_metadata(columns).build();
    let changed = own.clone().into_builder();
    let changed = changed.set_row_groups(vec![group.expect("a row group")]);
    let mut footer = Vec::new();
    let changed = changed.build();
    let writer = ParquetMetaDataWriter::new(&mut footer, &changed);
    writer.finish().expect("a footer");
    bytes.append(&mut footer);
    bytes
}

#[tokio::test]
async fn bounds_of_floats_say_nothing_of_the_sign_of_zero_or_of_nan() {
    let nan = f64::NAN;
    for (values, claimed, asked) in [
        (vec![-0.0, 1.0], (0.0, 1.0), -0.0),
        (vec![-0.0, 0.0], (0.0, 0.0), -0.0),
        (vec![-1.0, 0.0], (-1.0, -0.0), 0.0),
        (vec![-0.0, 0.0], (-0.0, -0.0), 0.0),
        (vec![1.0, 5.0], (nan, nan), 5.0),
        (vec![-5.0, nan], (nan, nan), -5.0),
        (vec![-5.0, nan], (nan, -5.0), -5.0),
        (vec![nan, 1.0], (1.0, 1.0), nan),
        (vec![nan, 1.0], (1.0, 1.0), 1.0),
    ] {
        for column in ["x", "narrow"] {
            let bits = |values: &[f64]| -> Vec<u64> {
                values.iter().map(|value| value.to_bits()).collect()
            };
            let literal = || lit(asked);
            let expected: Vec<f64> = values
                .iter()
                .copied()
                .filter(|value| value.to_bits() == asked.to_bits())
                .collect();
            assert_eq!(expected.len(), 1, "{values:?} {asked}");
            for predicate in [
                col(column).eq(literal()),
                literal().eq(col(column)),
                col(column).in_list(vec![literal(), lit(77.0)]),
            ] {
                let found = passing(&values, claimed, predicate.clone()).await;
                assert_eq!(
                    bits(&found),
                    bits(&expected),
                    "{values:?} {claimed:?} {predicate}"
                );
            }
            let others = passing(&values, claimed, col(column).not_eq(literal())).await;
            assert_eq!(
                others.len(),
                values.len() - 1,
                "{values:?} {claimed:?} {asked}"
            );
        }
    }
    // Bounds are of use all the same.
    let none = passing(&[1.0, 2.0], (1.0, 2.0), col("x").eq(lit(3.0))).await;
    assert!(none.is_empty());
}
