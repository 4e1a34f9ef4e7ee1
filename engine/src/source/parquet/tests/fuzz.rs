//! Files with flipped bytes: an error that names the file or other values, nothing else.

use std::time::Duration;

use arrow::datatypes::DataType;

use super::formats::{CHOICES, small, written};
use super::*;
use crate::expr::{col, lit};

/// Reads a file as a table of its own inferred columns, the half of the time with a predicate.
async fn read_all(ctx: &TaskContext, bytes: &[u8], filtered: bool) -> Result<usize> {
    let url = testing::put(ctx, "x.parquet", bytes).await;
    let (store, path) = ctx.stores.get(&url)?;
    let schema = infer_schema(store, &path, &url, bytes.len() as u64).await?;
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let mut spec = spec(Arc::clone(&schema), &all);
    // A flip may have renamed or retyped the columns of the predicate.
    let typed = |name: &str, data_type: &DataType| {
        let field = schema.field_with_name(name);
        field.is_ok_and(|field| field.data_type() == data_type)
    };
    if filtered && typed("i64", &DataType::Int64) && typed("text", &DataType::Utf8View) {
        spec.predicate = Some(col("i64").gt_eq(lit(5)).and(col("text").eq(lit("word 6"))));
    }
    let splits = vec![testing::split(&url, bytes, 0, bytes.len() as u64)];
    let batches = testing::read(open_whole, &spec, splits, ctx).await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

#[tokio::test]
async fn flipped_bytes_never_panic_hang_or_take_much_memory() {
    let mut failed = 0;
    let files: Vec<Vec<u8>> = (0..CHOICES)
        .map(|choice| written(&small(&mut fastrand::Rng::with_seed(choice as u64)), choice))
        .collect();
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = files[random.usize(..files.len())].clone();
        // Half of the flips go to the pages, which are less than half of such a small file.
        let footer = bytes.len() - 8;
        let pages = usize::try_from(u32::from_le_bytes(
            bytes[footer..footer + 4].try_into().expect("four bytes"),
        ));
        let end = match random.bool() {
            true => footer - pages.expect("a small file"),
            false => bytes.len(),
        };
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..end);
            bytes[place] ^= 1 << random.u8(..8);
        }
        let ctx = testing::context();
        let work = read_all(&ctx, &bytes, random.bool());
        let outcome = tokio::time::timeout(Duration::from_secs(60), work).await;
        match outcome.unwrap_or_else(|_| panic!("it hangs seed={seed}")) {
            Ok(rows) => assert!(rows <= 40, "seed={seed} rows={rows}"),
            Err(error) => {
                let report = error.report();
                assert_eq!(error.kind(), ErrorKind::Invalid, "seed={seed} {report}");
                assert!(report.contains("x.parquet"), "seed={seed} {report}");
                // Panics are caught, but that is the last line of defence, not the first.
                failed += 1;
            }
        }
        assert_eq!(ctx.memory.used(), 0, "seed={seed}");
    }
    assert!(failed > 500, "most damage is noticed failed={failed}");
}
