//! Many files as one table: columns that differ, what footers say, what is cut and what is kept.

use arrow::array::{
    Array, AsArray, Decimal64Array, Decimal128Array, Float64Array, Int32Array, StringViewArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;
use crate::expr::{col, lit};
use crate::storage::Stores;

fn write(table: &RecordBatch, group_rows: usize, page_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows)
        .set_bloom_filter_enabled(true)
        .build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, table.schema(), Some(properties)).expect("a writer");
    writer.write(table).expect("a batch");
    writer.close().expect("a footer");
    bytes
}

fn one(name: &str, values: impl Array + 'static) -> RecordBatch {
    RecordBatch::try_from_iter([(name, Arc::new(values) as ArrayRef)]).expect("one column")
}

/// Column "x" of a file of `table`, read as a column of `data_type`.
async fn read_as(table: &RecordBatch, data_type: DataType) -> Result<ArrayRef> {
    let bytes = write(table, 100, 100);
    let ctx = testing::context();
    let schema = Arc::new(Schema::new(vec![Field::new("x", data_type, true)]));
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    let spec = spec(Arc::clone(&schema), &[0]);
    let batches = testing::read(open_whole, &spec, splits, &ctx).await?;
    let whole = concat_batches(&schema, &batches)?;
    Ok(Arc::clone(whole.column(0)))
}

#[tokio::test]
async fn a_column_of_another_type_is_converted_if_its_values_fit() {
    let int = one("x", Int32Array::from(vec![Some(1), None]));
    let found = read_as(&int, DataType::Int64).await.expect("it widens");
    assert_eq!(
        found.as_ref(),
        &Int64Array::from(vec![Some(1), None]) as &dyn Array
    );
    let long = one("x", Int64Array::from(vec![1, 2]));
    let found = read_as(&long, DataType::Int32)
        .await
        .expect("the values fit");
    assert_eq!(found.as_ref(), &Int32Array::from(vec![1, 2]) as &dyn Array);
    let money = Decimal64Array::from(vec![150]).with_precision_and_scale(15, 2);
    let money = one("x", money.expect("in range"));
    let wide = DataType::Decimal128(20, 3);
    let found = read_as(&money, wide).await.expect("it widens");
    let expected = Decimal128Array::from(vec![1500]).with_precision_and_scale(20, 3);
    assert_eq!(found.as_ref(), &expected.expect("in range") as &dyn Array);
    let other = one("y", Int32Array::from(vec![1, 2]));
    let found = read_as(&other, DataType::Utf8View).await.expect("nulls");
    assert_eq!((found.len(), found.null_count()), (2, 2), "no such column");
}

#[tokio::test]
async fn a_column_that_does_not_fit_is_named_with_both_types() {
    let large = one("x", Int64Array::from(vec![1 << 40]));
    let text = one("x", StringViewArray::from(vec!["a"]));
    let float = one("x", Float64Array::from(vec![1.5]));
    for (table, to, found) in [
        (large, DataType::Int32, "expected=Int32 found=Int64"),
        (text, DataType::Int64, "expected=Int64 found=Utf8View"),
        (float, DataType::Int64, "expected=Int64 found=Float64"),
    ] {
        let error = read_as(&table, to).await.expect_err(found);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for part in [found, "column=\"x\"", "x.parquet"] {
            assert!(
                error.report().contains(part),
                "{} lacks {part}",
                error.report()
            );
        }
    }
}

#[tokio::test]
async fn the_footer_says_what_the_planner_asks() {
    let words = StringViewArray::from(vec![Some("b"), None, Some("a"), Some("c")]);
    let table = RecordBatch::try_from_iter([
        (
            "n",
            Arc::new(Int64Array::from(vec![4, 2, 9, 3])) as ArrayRef,
        ),
        ("word", Arc::new(words)),
    ]);
    let bytes = write(&table.expect("two columns"), 2, 2);
    let (url, directory) = testing::file("x.parquet", &bytes);
    let stores = Stores::new();
    let ask = || footer_statistics(&stores, &url, bytes.len() as u64);
    let found = ask().await.expect("a good file");
    assert_eq!((found.rows, found.row_groups), (4, 2));
    let column = |index: usize| {
        let column = &found.columns[index];
        let bound = |bound: &Option<ArrayRef>| {
            let bound = bound.as_ref().expect("it is known");
            let batch = one("x", arrow::array::make_array(bound.to_data()));
            testing::show(&[batch]).replace("x\n", "")
        };
        (
            bound(&column.least),
            bound(&column.greatest),
            column.nulls,
            column.bytes > 0,
        )
    };
    assert_eq!(column(0), ("2".into(), "9".into(), Some(0), true));
    assert_eq!(column(1), ("a".into(), "c".into(), Some(1), true));

    let again = ask().await.expect("a good file");
    assert!(Arc::ptr_eq(&found, &again), "a footer is decoded once");
    let other = write(&one("n", Int64Array::from(vec![1; 9])), 2, 2);
    // Another file in its place, of the same size as far as anybody was told.
    let path = directory.path().join("new");
    std::fs::write(&path, &other).expect("a file");
    std::fs::rename(&path, directory.path().join("x.parquet")).expect("in its place");
    let other = footer_statistics(&stores, &url, other.len() as u64).await;
    assert_eq!(other.expect("a good file").rows, 9);
}

/// A large row group, ordered by its column.
fn ordered() -> Vec<u8> {
    let numbers = Int64Array::from_iter_values(0..300_000);
    write(&one("n", numbers), 1 << 20, 1000)
}

#[tokio::test]
async fn one_row_group_is_work_for_every_lane() {
    let bytes = ordered();
    let ctx = testing::context();
    let schema = inferred(&bytes).await.expect("a good file");
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    let mut morsels = open(&spec(schema, &[0]), splits, vec![], &ctx).expect("it fits");
    let (mut count, mut seen) = (0, Vec::new());
    while let Some(morsel) = morsels.next().await {
        count += 1;
        let run = morsel.expect("a good file").1(&mut |batch| {
            seen.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
            Ok(())
        });
        run.expect("a good file");
    }
    assert_eq!(count, 300_000_usize.div_ceil(64 << 10));
    assert!(seen.iter().copied().eq(0..300_000), "each row once");
    assert_eq!(ctx.memory.used(), 0);
}

#[tokio::test]
async fn pages_and_bloom_filters_spare_rows() {
    let bytes = ordered();
    let schema = inferred(&bytes).await.expect("a good file");
    let cases = [
        (
            col("n").gt_eq(lit(100_500)).and(col("n").lt(lit(101_500))),
            1000,
            2000,
        ),
        (col("n").eq(lit(7)), 1, 1000),
        (col("n").eq(lit(7)).or(col("n").eq(lit(299_999))), 2, 2000),
    ];
    for (predicate, rows, scanned) in cases {
        let ctx = testing::context();
        let mut spec = spec(Arc::clone(&schema), &[0]);
        spec.predicate = Some(predicate.clone());
        let url = testing::put(&ctx, "x.parquet", &bytes).await;
        let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
        testing::read(open_whole, &spec, splits, &ctx)
            .await
            .expect("a good file");
        let counts = ctx.metrics.counts();
        assert_eq!(
            (counts.rows_in, counts.rows_scanned),
            (rows, scanned),
            "{predicate}"
        );
        assert!(counts.pages_pruned > 290, "{predicate}");
    }
    // Even numbers only: the bounds of the file do not tell, the bloom filter does.
    let even = Int64Array::from_iter_values((0..5000).map(|number| number * 2));
    let bytes = write(&one("n", even), 1 << 20, 1 << 20);
    let ctx = testing::context();
    let mut spec = spec(schema, &[0]);
    spec.predicate = Some(col("n").eq(lit(77)));
    let url = testing::put(&ctx, "x.parquet", &bytes).await;
    let splits = vec![testing::split(&url, &bytes, 0, bytes.len() as u64)];
    let found = testing::read(open_whole, &spec, splits, &ctx).await;
    assert!(found.expect("a good file").is_empty());
    assert_eq!(ctx.metrics.counts().row_groups_pruned, 1);
}
