//! Files that lie: every lie is an error that says where it is, and costs no memory to believe.

use arrow::array::{FixedSizeBinaryArray, Int32Array};
use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{
    ColumnChunkMetaDataBuilder, FileMetaData, ParquetMetaData, ParquetMetaDataReader,
    ParquetMetaDataWriter, RowGroupMetaData,
};

use super::*;

/// A file of one row group with two columns of 100 rows: numbers with a dictionary, and bytes of
/// fixed length, which our own decoder leaves to the crate's.
fn honest(compression: Compression) -> Vec<u8> {
    let numbers = (0..100).map(|row| if row == 0 { 1 } else { 2 });
    let fixed = (0..100_u64).map(|row| row.to_be_bytes());
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(numbers)), false),
        (
            "fixed",
            Arc::new(FixedSizeBinaryArray::try_from_iter(fixed).expect("eight bytes")),
            false,
        ),
    ];
    let table = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let properties = WriterProperties::builder().set_compression(compression);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, table.schema(), Some(properties.build()))
        .expect("a writer");
    writer.write(&table).expect("a batch");
    writer.close().expect("a footer");
    bytes
}

fn metadata(bytes: &[u8]) -> ParquetMetaData {
    let bytes = Bytes::from(bytes.to_vec());
    let reader = ParquetMetaDataReader::new();
    reader.parse_and_finish(&bytes).expect("a good footer")
}

/// The pages of a file, changed, with another footer.
fn rewritten(pages: &[u8], metadata: &ParquetMetaData) -> Vec<u8> {
    let mut bytes = pages.to_vec();
    let mut footer = Vec::new();
    let writer = ParquetMetaDataWriter::new(&mut footer, metadata);
    writer.finish().expect("a footer");
    bytes.append(&mut footer);
    bytes
}

fn pages(bytes: &[u8]) -> &[u8] {
    let end = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[end..end + 4].try_into().expect("four bytes"));
    &bytes[..end - usize::try_from(length).expect("a small footer")]
}

/// The file with a row group of `rows` rows whose columns are changed.
fn lie(
    bytes: &[u8],
    rows: i64,
    change: impl Fn(usize, ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder,
) -> Vec<u8> {
    let metadata = metadata(bytes);
    let own = metadata.file_metadata();
    let group = metadata.row_group(0).clone();
    let columns = group.columns().iter().enumerate();
    let columns = columns.map(|(leaf, column)| {
        let column = change(leaf, column.clone().into_builder());
        column.build().expect("a column")
    });
    let group = RowGroupMetaData::builder(own.schema_descr_ptr())
        .set_num_rows(rows)
        .set_total_byte_size(group.total_byte_size())
        .set_column_metadata(columns.collect())
        .build()
        .expect("a row group");
    let file = FileMetaData::new(
        own.version(),
        rows,
        None,
        own.key_value_metadata().cloned(),
        own.schema_descr_ptr(),
        None,
    );
    rewritten(pages(bytes), &ParquetMetaData::new(file, vec![group]))
}

/// What reading all of `bytes` as the table that it says it is says.
async fn refusal(bytes: &[u8]) -> String {
    let ctx = testing::context();
    let url = testing::put(&ctx, "x.parquet", bytes).await;
    let outcome = async {
        let schema = inferred(bytes).await?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let splits = vec![testing::split(&url, bytes, 0, bytes.len() as u64)];
        testing::read(open_whole, &spec(schema, &all), splits, &ctx).await
    };
    match outcome.await {
        Ok(batches) => format!(
            "rows={}",
            batches.iter().map(RecordBatch::num_rows).sum::<usize>()
        ),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
            assert!(error.report().contains("x.parquet"), "{}", error.report());
            assert_eq!(ctx.memory.used(), 0);
            error.report()
        }
    }
}

#[tokio::test]
async fn an_honest_file_is_read() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let bytes = honest(compression);
        assert_eq!(refusal(&bytes).await, "rows=100");
        let same = lie(&bytes, 100, |_, column| column);
        assert_eq!(refusal(&same).await, "rows=100");
    }
}

#[tokio::test]
async fn footers_that_lie_are_refused() {
    let bytes = honest(Compression::UNCOMPRESSED);
    type Change = fn(usize, ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder;
    let cases: [(i64, Change, &str); 9] = [
        (
            99,
            |_, column| column,
            "row group 0 has a column of another length column=\"n\"",
        ),
        (-1, |_, column| column, "row group 0"),
        (
            100,
            |leaf, column| column.set_num_values(if leaf == 1 { 101 } else { 100 }),
            "row group 0 has a column of another length column=\"fixed\"",
        ),
        (
            99,
            |_, column| column.set_num_values(99),
            "row group 0 column \"n\"",
        ),
        (
            101,
            |_, column| column.set_num_values(101),
            "row group 0 column \"n\"",
        ),
        (
            100,
            |_, column| column.set_total_compressed_size(-1),
            "row group 0 does not lie within the file",
        ),
        (
            100,
            |_, column| {
                column
                    .set_data_page_offset(-1)
                    .set_dictionary_page_offset(None)
            },
            "row group 0 does not lie within the file",
        ),
        (
            100,
            |_, column| column.set_total_compressed_size(1 << 30),
            "row group 0 does not lie within the file",
        ),
        (
            100,
            |_, column| {
                column
                    .set_data_page_offset(4)
                    .set_dictionary_page_offset(None)
            },
            "row group 0 has a column that lies within another column=",
        ),
    ];
    for (rows, change, reason) in cases {
        let report = refusal(&lie(&bytes, rows, change)).await;
        assert!(report.contains(reason), "{report} instead of {reason}");
    }
}

#[tokio::test]
async fn pages_that_are_not_what_they_should_be_are_refused() {
    let bytes = honest(Compression::UNCOMPRESSED);
    let group = metadata(&bytes).row_group(0).clone();
    for leaf in 0..2 {
        let (start, length) = group.column(leaf).byte_range();
        let chunk =
            usize::try_from(start).expect("small")..usize::try_from(start + length).expect("small");
        let name = format!("row group 0 column {:?}", ["n", "fixed"][leaf]);
        // Pages of nothing, of noise, and cut off in the middle.
        let mut zeros = bytes.clone();
        zeros[chunk.clone()].fill(0);
        let mut noise = bytes.clone();
        fastrand::Rng::with_seed(7).fill(&mut noise[chunk.clone()]);
        let mut half = bytes.clone();
        half[(chunk.start + chunk.end) / 2..chunk.end].fill(0xff);
        for damaged in [zeros, noise, half] {
            let report = refusal(&damaged).await;
            assert!(report.contains(&name), "{report} instead of {name}");
        }
    }
}

#[tokio::test]
async fn the_wrong_codec_is_noticed() {
    let bytes = honest(Compression::ZSTD(ZstdLevel::default()));
    let wrong = [
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::GZIP(Default::default()),
    ];
    for codec in wrong {
        let report = refusal(&lie(&bytes, 100, |_, column| column.set_compression(codec))).await;
        assert!(
            report.contains("row group 0 column \"n\""),
            "{codec:?} {report}"
        );
    }
}

#[tokio::test]
async fn codes_without_a_value_are_refused() {
    let mut bytes = honest(Compression::UNCOMPRESSED);
    let (start, length) = metadata(&bytes).row_group(0).column(0).byte_range();
    let last = usize::try_from(start + length).expect("small") - 1;
    // The chunk ends in a run of one code: how often, and which.
    assert_eq!(bytes[last], 1, "the second of two values");
    bytes[last] = 77;
    let report = refusal(&bytes).await;
    assert!(report.contains("row group 0 column \"n\""), "{report}");
}

/// The header of a data page, as Thrift's compact protocol spells it.
fn page_header(uncompressed: u32, compressed: u32, values: u32) -> Vec<u8> {
    let mut header = Vec::new();
    let number = |header: &mut Vec<u8>, number: u32| {
        header.push(0x15);
        let mut rest = u64::from(number) << 1;
        while rest >= 0x80 {
            header.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        header.push(rest as u8);
    };
    for field in [0, uncompressed, compressed] {
        number(&mut header, field);
    }
    // Field 5, a structure: values, plain, levels in runs.
    header.push(0x2c);
    for field in [values, 0, 3, 3] {
        number(&mut header, field);
    }
    header.extend([0, 0]);
    header
}

#[tokio::test]
async fn a_page_that_claims_a_gigabyte_is_refused_before_anybody_allocates() {
    let bytes = honest(Compression::SNAPPY);
    for leaf in 0..2 {
        for (uncompressed, values) in [(1 << 30, 100), (100, 1 << 30), (1 << 30, 1 << 30)] {
            let mut pages = b"PAR1".to_vec();
            let mut page = page_header(uncompressed, 100, values);
            page.extend([7; 100]);
            let starts = [4, 4 + page.len() as i64];
            pages.extend_from_slice(&page);
            pages.extend_from_slice(&page);
            let length = page.len() as i64;
            let footer = lie(&bytes, i64::from(values), |other, column| {
                let column = column
                    .set_dictionary_page_offset(None)
                    .set_data_page_offset(starts[other])
                    .set_total_compressed_size(length);
                column.set_num_values(values.into())
            });
            let metadata = metadata(&footer);
            let file = rewritten(&pages, &metadata);
            let ctx = testing::context();
            let schema = inferred(&file).await.expect("a good footer");
            let url = testing::put(&ctx, "x.parquet", &file).await;
            let splits = vec![testing::split(&url, &file, 0, file.len() as u64)];
            let outcome = testing::read(open_whole, &spec(schema, &[leaf]), splits, &ctx).await;
            let report = outcome.expect_err("no such page").report();
            let name = format!("row group 0 column {:?}", ["n", "fixed"][leaf]);
            assert!(report.contains(&name), "{report}");
        }
    }
}

#[tokio::test]
async fn files_with_nothing_in_them_are_read() {
    let columns = |count: usize, rows: usize| {
        let column = || Arc::new(Int32Array::from(vec![7; rows])) as ArrayRef;
        let columns = (0..count).map(|n| (format!("c{n}"), column()));
        match count {
            0 => Ok(RecordBatch::new_empty(Arc::new(Schema::empty()))),
            _ => RecordBatch::try_from_iter(columns),
        }
    };
    let write = |batch: &RecordBatch, groups: usize| {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        for _ in 0..groups {
            writer.write(batch).expect("a batch");
        }
        writer.close().expect("a footer");
        bytes
    };
    let empty = columns(2, 0).expect("no rows");
    assert_eq!(refusal(&write(&empty, 0)).await, "rows=0", "no row groups");
    assert_eq!(refusal(&write(&empty, 1)).await, "rows=0", "no rows");
    let wide = columns(10_000, 1).expect("one row");
    assert_eq!(refusal(&write(&wide, 1)).await, "rows=1", "many columns");
    let bytes = honest(Compression::UNCOMPRESSED);
    let none = lie(&bytes, 0, |_, column| column.set_num_values(0));
    assert_eq!(refusal(&none).await, "rows=0", "a row group of no rows");

    // No columns, which is no reason to have no rows.
    let none = write(&columns(0, 0).expect("no columns"), 0);
    let own = metadata(&none);
    let schema = own.file_metadata().schema_descr_ptr();
    let group = RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(3);
    let file = FileMetaData::new(1, 3, None, None, schema, None);
    let groups = vec![group.build().expect("a row group")];
    let three = rewritten(b"PAR1", &ParquetMetaData::new(file, groups));
    assert_eq!(refusal(&three).await, "rows=3", "no columns");
}
