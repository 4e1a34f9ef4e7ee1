//! Parquet through the source: columns, splits, and files that are not what they should be.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray};
use arrow::datatypes::{Int32Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

mod bad;
mod formats;
mod fuzz;
mod numbers;
mod rows;
mod table;

use super::*;
use crate::error::ErrorKind;
use crate::plan::ScanFormat;
use crate::testing;

fn batch() -> RecordBatch {
    let words = StringArray::from(vec![
        Some("a"),
        None,
        Some("a longer word than that"),
        Some("é"),
    ]);
    let lists = vec![
        Some(vec![Some(1)]),
        None,
        Some(vec![]),
        Some(vec![None, Some(2)]),
    ];
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4])), false),
        ("word", Arc::new(words), true),
        ("list", Arc::new(lists), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// A file of three row groups: two rows, two rows, four rows.
fn file() -> Vec<u8> {
    let properties = WriterProperties::builder().build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch().schema(), Some(properties)).expect("a writer");
    for part in [batch().slice(0, 2), batch().slice(2, 2), batch()] {
        writer.write(&part).expect("a batch");
        writer.flush().expect("a row group");
    }
    writer.close().expect("a footer");
    bytes
}

fn open_whole(spec: &ScanSpec, splits: Vec<Split>, ctx: &TaskContext) -> Result<PlacedMorsels> {
    open(spec, splits, Vec::new(), ctx)
}

async fn inferred(bytes: &[u8]) -> Result<SchemaRef> {
    let (store, path) = (Arc::new(InMemory::new()), Path::from("x.parquet"));
    store
        .put(&path, PutPayload::from(bytes.to_vec()))
        .await
        .expect("a put");
    infer_schema(store, &path, "memory:///x.parquet", bytes.len() as u64).await
}

fn spec(file_schema: SchemaRef, projection: &[usize]) -> ScanSpec {
    ScanSpec {
        format: ScanFormat::Parquet,
        file_schema,
        projection: projection.to_vec(),
        predicate: None,
        key_filters: vec![],
        files: vec![],
        tasks: vec![],
    }
}

/// The rows of a file of `bytes` that is read in splits with these `cuts` between them, both as a
/// local file and as an object.
async fn read(
    ctx: &TaskContext,
    bytes: &[u8],
    projection: &[usize],
    cuts: &[u64],
) -> Result<Vec<RecordBatch>> {
    let schema = inferred(&file()).await.expect("a good file");
    let spec = spec(schema, projection);
    let (local, _directory) = testing::file("x.parquet", bytes);
    let object = testing::put(ctx, "x.parquet", bytes).await;
    let bounds = [&[0], cuts, &[bytes.len() as u64]].concat();
    let mut both = Vec::new();
    for url in [local, object] {
        let mut batches = Vec::new();
        for bounds in bounds.windows(2) {
            let splits = vec![testing::split(&url, bytes, bounds[0], bounds[1])];
            batches.extend(testing::read(open_whole, &spec, splits, ctx).await?);
        }
        // Row groups come as they are fetched.
        batches.sort_by_key(|batch| testing::show(std::slice::from_ref(batch)));
        both.push(batches);
    }
    assert_eq!(both[0], both[1], "a local file and an object read alike");
    Ok(both.remove(0))
}

#[tokio::test]
async fn columns_come_in_the_order_asked_for() {
    let ctx = testing::context();
    let schema = inferred(&file()).await.expect("a good file");
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(types, ["Int64", "Utf8View", "List(Int32)"]);
    assert!(schema.fields().iter().all(|field| field.is_nullable()));

    let batches = read(&ctx, &file(), &[1, 0], &[])
        .await
        .expect("a good file");
    let shown = testing::show(&batches);
    expect_test::expect![[r#"
        word | n
        a longer word than that | 3
        é | 4
        a | 1
        NULL | 2
        a | 1
        NULL | 2
        a longer word than that | 3
        é | 4"#]]
    .assert_eq(&shown);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 8);
    assert_eq!(ctx.metrics.counts().rows_in, 16, "two reads of eight rows");
}

#[tokio::test]
async fn no_columns_are_still_rows() {
    let batches = read(&testing::context(), &file(), &[], &[])
        .await
        .expect("a good file");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 8);
}

#[tokio::test]
async fn every_row_group_belongs_to_one_split_wherever_the_cuts_are() {
    let bytes = file();
    let ctx = testing::context();
    let whole = read(&ctx, &bytes, &[0, 1, 2], &[])
        .await
        .expect("a good file");
    for cut in (1..bytes.len() as u64).step_by(37) {
        let parts = read(&ctx, &bytes, &[0, 1, 2], &[cut])
            .await
            .expect("a good file");
        assert_eq!(parts, whole, "cut={cut}");
    }
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be_are_named() {
    let bytes = file();
    let half = &bytes[..bytes.len() / 2];
    let mut large_footer = bytes.clone();
    let place = large_footer.len() - 8;
    large_footer[place..place + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut encrypted = bytes.clone();
    encrypted[bytes.len() - 4..].copy_from_slice(b"PARE");
    let cases: [(&[u8], &str); 5] = [
        (
            half,
            "it does not end in PAR1, so it was cut off or is something else",
        ),
        (b"short", "too small to be a Parquet file"),
        (b"text that is long enough", "it does not end in PAR1"),
        (
            &large_footer,
            "its footer claims to be larger than the file",
        ),
        (&encrypted, "encrypted files are not supported"),
    ];
    for (bytes, reason) in cases {
        let error = inferred(bytes).await.expect_err(reason);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let start = format!("bad Parquet file: {reason}");
        assert!(error.report().starts_with(&start), "{}", error.report());
        assert!(
            error.report().contains("file=memory:///x.parquet"),
            "{}",
            error.report()
        );
    }
}

#[tokio::test]
async fn other_columns_than_the_first_files_are_named() {
    let other = RecordBatch::try_from_iter([("n", Arc::new(StringArray::from(vec!["x"])) as _)]);
    let other = other.expect("one column");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, other.schema(), None).expect("a writer");
    writer.write(&other).expect("a batch");
    writer.close().expect("a footer");
    let ctx = testing::context();
    let error = read(&ctx, &bytes, &[0], &[]).await;
    let error = error.expect_err("a string is no number");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let reason = "column=\"n\" expected=Int64 found=Utf8View";
    assert!(error.report().contains(reason), "{}", error.report());
    assert!(error.report().contains("x.parquet"), "{}", error.report());
}

/// Every damage is an error or goes unnoticed, but nothing panics and no row is lost or made up.
#[tokio::test]
async fn damaged_files_never_panic() {
    let bytes = file();
    let ctx = testing::context();
    let mut failed = 0;
    for seed in 0..1000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut damaged = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..damaged.len() - 8);
            damaged[place] = random.u8(..);
        }
        match read(&ctx, &damaged, &[0, 1, 2], &[]).await {
            Ok(batches) => {
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                assert_eq!(rows, 8, "seed={seed}");
            }
            Err(error) => {
                assert_eq!(
                    error.kind(),
                    ErrorKind::Invalid,
                    "seed={seed} {}",
                    error.report()
                );
                assert!(
                    error.report().contains("x.parquet"),
                    "seed={seed} {}",
                    error.report()
                );
                failed += 1;
            }
        }
    }
    assert!(failed > 100, "most damage is noticed failed={failed}");
}
