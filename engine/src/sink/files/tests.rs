//! What files hold, how they are uploaded, and what is left after an attempt fails.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::multipart::PartId;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::error::ErrorKind;
use crate::id::{JobId, StageId};
use crate::limits;
use crate::plan::{FileFormat, OutputFile, OutputOptions, PendingUpload, upload_record};
use crate::storage::local_url;
use crate::testing;

fn batch() -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        (
            "n",
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
        ),
        (
            "word",
            Arc::new(StringViewArray::from(vec![
                Some("a,b"),
                Some("é\"\n"),
                None,
            ])),
        ),
        ("x", Arc::new(Float64Array::from(vec![0.5, 2.0, 1e300]))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn texts(values: Vec<Option<&str>>) -> RecordBatch {
    let column: ArrayRef = Arc::new(StringViewArray::from(values));
    RecordBatch::try_from_iter([("t", column)]).expect("one column")
}

pub(super) fn output(url: &str, format: FileFormat) -> Output {
    Output {
        url: url.to_owned(),
        format,
        options: OutputOptions::default(),
    }
}

fn task(task: u32) -> TaskId {
    TaskId {
        job: JobId::new(7),
        stage: StageId(1),
        task,
    }
}

/// Writes each lane's batches and closes; the files with their content.
async fn write(
    ctx: &TaskContext,
    output: &Output,
    number: u32,
    lanes: &[&[RecordBatch]],
) -> Result<Vec<(OutputFile, Bytes)>> {
    write_rows(ctx, output, batch().schema(), number, lanes).await
}

/// The same with rows of other columns.
pub(super) async fn write_rows(
    ctx: &TaskContext,
    output: &Output,
    schema: SchemaRef,
    number: u32,
    lanes: &[&[RecordBatch]],
) -> Result<Vec<(OutputFile, Bytes)>> {
    let sink = FileSink::new(output, schema, task(number), 2, ctx)?;
    for (index, batches) in lanes.iter().enumerate() {
        let mut lane = sink.lane(index)?;
        let mut none = |_: RecordBatch| panic!("a sink emits nothing");
        for batch in *batches {
            lane.push(batch.clone(), &mut none)?;
            sink.flush().await?;
        }
        lane.finish(&mut none)?;
        sink.flush().await?;
    }
    let TaskOutput::Files(files) = sink.close().await? else {
        panic!("files were asked for")
    };
    let mut read = Vec::new();
    for file in files {
        let staged = format!("{}/{}", staging_url(&output.url, JobId::new(7))?, file.name);
        let url = format!("{}/{}", output.url, file.name);
        let (store, path) = match &file.pending {
            None => ctx.stores.get(&staged)?,
            Some(PendingUpload { id, parts }) => {
                // It is recorded, and nobody sees it before it is completed.
                let (store, path) = ctx.stores.get(&upload_record(&staged))?;
                let record = store.get(&path).await.expect("it is recorded");
                assert_eq!(record.bytes().await.expect("it is recorded"), id);
                let (store, path) = ctx.stores.get(&url)?;
                assert!(store.head(&path).await.is_err(), "{url} is visible");
                let part = |content_id: &String| PartId {
                    content_id: content_id.clone(),
                };
                let parts = parts.iter().map(part).collect();
                let (uploads, path) = ctx.stores.multipart(&url)?.expect("memory has them");
                let completed = uploads.complete_multipart(&path, id, parts).await;
                completed.expect("all parts are there");
                (store, path)
            }
        };
        let content = store.get(&path).await.expect("it was reported");
        let content = content.bytes().await.expect("it was reported");
        assert_eq!(file.bytes, content.len() as u64);
        assert_eq!(file.checksum, xxh3_64(&content));
        read.push((file, content));
    }
    Ok(read)
}

fn text(files: &[(OutputFile, Bytes)]) -> String {
    let show = |(file, content): &(OutputFile, Bytes)| {
        let content = String::from_utf8(content.to_vec()).expect("text");
        format!("{} rows={}\n{content}", file.name, file.rows)
    };
    files.iter().map(show).collect()
}

pub(super) fn parquet_rows(content: &Bytes) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(content.clone()).expect("a footer");
    let reader = builder.build().expect("a reader");
    reader.collect::<Result<_, _>>().expect("rows")
}

#[tokio::test]
async fn files_of_sequences_are_in_their_order_whoever_writes_them() {
    let ctx = testing::context();
    let csv = output("memory:///out", FileFormat::Csv);
    let sink = FileSink::new(&csv, batch().schema(), task(3), 2, &ctx).expect("a place");
    assert_eq!(sink.sequence_bytes(), Some(limits::SEQUENCE_BYTES));
    let mut lanes = [0, 1].map(|lane| sink.lane(lane).expect("memory"));
    let mut none = |_: RecordBatch| panic!("a sink emits nothing");
    for (lane, number, rows) in [(1, 0, 3), (0, 1, 2), (0, 12, 1), (1, 2, 0), (1, 3, 3)] {
        let lane = &mut lanes[lane];
        lane.begin_sequence(number).expect("room");
        let rows = batch().slice(0, rows);
        lane.push(rows, &mut none).expect("room");
        sink.flush().await.expect("room");
    }
    for lane in &mut lanes {
        lane.finish(&mut none).expect("room");
    }
    let TaskOutput::Files(files) = sink.close().await.expect("room") else {
        panic!("files were asked for")
    };
    let show = |file: &OutputFile| format!("{} rows={}", file.name, file.rows);
    let files: Vec<String> = files.iter().map(show).collect();
    expect_test::expect![[r#"
        part-000000000007-00003-a2-s000000-00000.csv rows=3
        part-000000000007-00003-a2-s000001-00000.csv rows=2
        part-000000000007-00003-a2-s000003-00000.csv rows=3
        part-000000000007-00003-a2-s000012-00000.csv rows=1"#]]
    .assert_eq(&files.join("\n"));
}

#[test]
fn what_is_sorted_otherwise_or_dealt_out_has_no_sequences() {
    let ctx = testing::context();
    let bytes = |options| {
        let url = "memory:///out".to_owned();
        let (format, schema) = (FileFormat::Csv, batch().schema());
        let output = Output {
            url,
            format,
            options,
        };
        let sink = FileSink::new(&output, schema, task(3), 2, &ctx).expect("a place");
        sink.sequence_bytes()
    };
    let order = crate::plan::ColumnOrder {
        column: "n".to_owned(),
        descending: false,
        nulls_first: false,
    };
    let sorted = OutputOptions {
        sort_by: vec![order],
        ..Default::default()
    };
    let dealt_out = OutputOptions {
        directories: Some("word".to_owned()),
        ..Default::default()
    };
    let large = OutputOptions {
        file_bytes: Some(1 << 40),
        ..Default::default()
    };
    assert_eq!(bytes(sorted), None);
    assert_eq!(bytes(dealt_out), None);
    assert_eq!(bytes(large), Some(1 << 40));
}

#[tokio::test]
async fn each_lane_with_rows_writes_a_file() {
    let ctx = testing::context();
    let csv = output("memory:///out", FileFormat::Csv);
    let files = write(
        &ctx,
        &csv,
        3,
        &[&[batch(), batch().slice(0, 1)], &[], &[batch()]],
    )
    .await;
    let files = files.expect("room in memory");
    expect_test::expect![[r#"
        part-000000000007-00003-a2-l0-00000.csv rows=4
        n,word,x
        1,"a,b",0.5
        ,"é""
        ",2.0
        3,,1e300
        1,"a,b",0.5
        part-000000000007-00003-a2-l2-00000.csv rows=3
        n,word,x
        1,"a,b",0.5
        ,"é""
        ",2.0
        3,,1e300
    "#]]
    .assert_eq(&text(&files));
    let counts = ctx.metrics.counts();
    // Each file is begun, recorded and sent.
    assert_eq!((counts.rows_out, counts.objects, counts.puts), (7, 2, 6));

    let json = output("memory:///out", FileFormat::Json);
    let files = write(&ctx, &json, 0, &[&[batch()]])
        .await
        .expect("room in memory");
    expect_test::expect![[r#"
        part-000000000007-00000-a2-l0-00000.json rows=3
        {"n":1,"word":"a,b","x":0.5}
        {"n":null,"word":"é\"\n","x":2.0}
        {"n":3,"word":null,"x":1.0e300}
    "#]]
    .assert_eq(&text(&files));

    let text_format = output("memory:///out", FileFormat::Text);
    let lines = texts(vec![Some("a,b"), None, Some("é\"")]);
    let files = write_rows(&ctx, &text_format, lines.schema(), 0, &[&[lines]])
        .await
        .expect("room in memory");
    expect_test::expect![[r#"
        part-000000000007-00000-a2-l0-00000.txt rows=3
        a,b

        é"
    "#]]
    .assert_eq(&text(&files));

    let parquet = output("memory:///out", FileFormat::Parquet);
    let files = write(&ctx, &parquet, 0, &[&[batch()]])
        .await
        .expect("room in memory");
    assert_eq!(parquet_rows(&files[0].1), [batch()]);
}

#[tokio::test]
async fn an_empty_result_is_one_file_with_columns() {
    let ctx = testing::context();
    let csv = output("memory:///out", FileFormat::Csv);
    let files = write(&ctx, &csv, 0, &[&[], &[]])
        .await
        .expect("room in memory");
    assert_eq!(
        text(&files),
        "part-000000000007-00000-a2-l0-00000.csv rows=0\nn,word,x\n"
    );
    let parquet = output("memory:///out", FileFormat::Parquet);
    let files = write(&ctx, &parquet, 0, &[&[]])
        .await
        .expect("room in memory");
    let builder = ParquetRecordBatchReaderBuilder::try_new(files[0].1.clone()).expect("a footer");
    assert_eq!(builder.schema().fields(), batch().schema().fields());
    let others = write(&ctx, &parquet, 1, &[&[]])
        .await
        .expect("room in memory");
    assert!(others.is_empty(), "the first task's file is enough");
}

/// Numbers that do not compress, enough for several parts.
fn large() -> Vec<RecordBatch> {
    let mut random = fastrand::Rng::with_seed(1);
    let schema = batch().schema();
    let random_batch = |random: &mut fastrand::Rng| {
        let numbers: Int64Array = (0..limits::BATCH_ROWS)
            .map(|_| Some(random.i64(..)))
            .collect();
        let words: StringViewArray = (0..limits::BATCH_ROWS).map(|_| None::<&str>).collect();
        let floats = Float64Array::from(vec![0.0; limits::BATCH_ROWS]);
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(words), Arc::new(floats)];
        RecordBatch::try_new(Arc::clone(&schema), columns).expect("the same columns")
    };
    (0..280).map(|_| random_batch(&mut random)).collect()
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| {
        batch
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .to_vec()
    };
    batches.iter().flat_map(column).collect()
}

#[tokio::test]
async fn large_files_are_uploaded_in_parts_on_disk_and_elsewhere() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = local_url(&directory.path().join("out"));
    let batches = large();
    let cases = [
        ("memory:///out", FileFormat::Csv),
        ("memory:///out", FileFormat::Parquet),
        (&disk, FileFormat::Parquet),
    ];
    for (url, format) in cases {
        let ctx = testing::context();
        let files = write(&ctx, &output(url, format), 0, &[&batches])
            .await
            .expect("room");
        let (file, content) = &files[0];
        assert_eq!(file.rows, batches.len() as u64 * limits::BATCH_ROWS as u64);
        assert!(file.bytes > 2 * limits::UPLOAD_PART_BYTES as u64);
        assert!(
            ctx.metrics.counts().puts > 3,
            "beginning, parts, completion"
        );
        assert_eq!(ctx.memory.used(), 0, "all memory is given back");
        if format == FileFormat::Parquet {
            assert_eq!(numbers(&parquet_rows(content)), numbers(&batches));
        }
    }
}

#[tokio::test]
async fn little_memory_makes_smaller_row_groups() {
    let batches = &large()[..200];
    let parquet = output("memory:///out", FileFormat::Parquet);
    for memory in [12 << 20, 1000] {
        let mut ctx = testing::context();
        ctx.memory = crate::memory::MemoryBudget::new(memory);
        let files = write(&ctx, &parquet, 0, &[batches]).await;
        let files = files.expect("room for a part");
        let builder = ParquetRecordBatchReaderBuilder::try_new(files[0].1.clone());
        let builder = builder.expect("a footer");
        let groups = builder.metadata().num_row_groups();
        let few = 2..batches.len();
        assert!(few.contains(&groups), "memory={memory} groups={groups}");
    }
}

#[tokio::test]
async fn an_aborted_attempt_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = local_url(&directory.path().join("out"));
    let ctx = testing::context();
    let csv = output(&url, FileFormat::Csv);
    for close in [false, true] {
        let sink = FileSink::new(&csv, batch().schema(), task(0), 0, &ctx).expect("a sink");
        let mut lane = sink.lane(0).expect("a lane");
        for batch in large() {
            lane.push(batch, &mut |_| Ok(())).expect("room");
            sink.flush().await.expect("room");
        }
        lane.finish(&mut |_| Ok(())).expect("room");
        if close {
            sink.close().await.expect("room");
        }
        sink.abort().await;
        let staging = directory.path().join(".out.kiln-000000000007");
        let left = std::fs::read_dir(staging)
            .expect("the staging directory")
            .count();
        assert_eq!(left, 0, "close={close}");
    }
}

#[tokio::test]
async fn an_aborted_attempt_leaves_no_upload() {
    let ctx = testing::context();
    let csv = output("memory:///out", FileFormat::Csv);
    let sink = FileSink::new(&csv, batch().schema(), task(0), 0, &ctx).expect("a sink");
    let mut lane = sink.lane(0).expect("a lane");
    lane.push(batch(), &mut |_| Ok(())).expect("room");
    lane.finish(&mut |_| Ok(())).expect("room");
    let TaskOutput::Files(files) = sink.close().await.expect("room") else {
        panic!("files were asked for")
    };
    let upload = files[0].pending.as_ref().expect("an upload");
    let url = format!("memory:///out/{}", files[0].name);
    let (uploads, path) = ctx
        .stores
        .multipart(&url)
        .expect("a store")
        .expect("uploads");
    sink.abort().await;
    let completed = uploads.complete_multipart(&path, &upload.id, Vec::new());
    completed.await.expect_err("it was aborted");
    let (store, _) = ctx.stores.get(&url).expect("a store");
    let left: Vec<_> = store.list(None).try_collect().await.expect("a listing");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_cannot_be_written_is_named() {
    let ctx = testing::context();
    let list = DataType::new_list(DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![Field::new("l", list, true)]));
    let csv = output("memory:///out", FileFormat::Csv);
    let error = FileSink::new(&csv, schema, task(0), 0, &ctx)
        .map(drop)
        .expect_err("a list");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.report(),
        "CSV cannot hold this type: write Parquet or JSON column=\"l\" type=List(Int64)"
    );

    // What a line cannot hold, which only its task can tell.
    let text = output("memory:///out", FileFormat::Text);
    for (value, shown) in [("a\nb", r"a\nb"), ("a\r", r"a\r")] {
        let rows = texts(vec![Some("fine"), Some(value)]);
        let written = write_rows(&ctx, &text, rows.schema(), 0, &[&[rows]]).await;
        let error = written.expect_err("an end of a line");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let expected = format!(
            "a line of text cannot hold the end of a line: write Parquet, CSV or JSON \
             column=\"t\" value=\"{shown}\""
        );
        assert!(error.report().contains(&expected), "{}", error.report());
    }

    // A file where the directory should be.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let csv = output(&local_url(&file.join("out")), FileFormat::Csv);
    let error = write(&ctx, &csv, 0, &[&[batch()]])
        .await
        .expect_err("not a directory");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    assert!(error.report().contains("file/"), "{}", error.report());
}
