//! Columns against the parquet crate's own reader, and chunks that are not what they should be.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, UInt32Array, make_array};
use arrow::array::{BinaryViewArray, BooleanArray, StringViewArray};
use arrow::buffer::Buffer;
use arrow::compute::{concat, filter, take};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use fastrand::Rng;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{WriterProperties, WriterVersion};
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::error::ErrorKind;

const ROWS: usize = 3000;

fn types() -> Vec<DataType> {
    use DataType as T;
    vec![
        T::Boolean,
        T::Int8,
        T::Int16,
        T::Int32,
        T::Int64,
        T::UInt8,
        T::UInt16,
        T::UInt32,
        T::UInt64,
        T::Float32,
        T::Float64,
        T::Date32,
        T::Timestamp(TimeUnit::Second, None),
        T::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        T::Timestamp(TimeUnit::Microsecond, None),
        T::Timestamp(TimeUnit::Nanosecond, Some("+01:00".into())),
        T::Decimal32(9, 2),
        T::Decimal64(18, 4),
        T::Decimal128(9, 2),
        T::Decimal128(18, 1),
        T::Decimal128(20, 0),
        T::Decimal128(38, 6),
        T::Utf8View,
        T::BinaryView,
    ]
}

/// `count` values of a type, some of them equal.
fn values(data_type: &DataType, count: usize, random: &mut Rng) -> ArrayRef {
    let text = |random: &mut Rng| -> String {
        let most = [3, 13, 40, 300][random.usize(0..4)];
        let letters = if random.bool() { "ab cz" } else { "aé字🦀" };
        let letters: Vec<char> = letters.chars().collect();
        (0..random.usize(0..most))
            .map(|_| letters[random.usize(0..letters.len())])
            .collect()
    };
    match data_type {
        DataType::Boolean => {
            let bits: Vec<bool> = (0..count).map(|_| random.bool()).collect();
            Arc::new(BooleanArray::from(bits))
        }
        DataType::Utf8View => {
            let texts = (0..count).map(|_| text(random));
            Arc::new(StringViewArray::from_iter_values(texts))
        }
        DataType::BinaryView => {
            let texts = (0..count).map(|_| {
                let mut bytes = text(random).into_bytes();
                bytes.resize(bytes.len() + random.usize(0..3), 0xff);
                bytes
            });
            Arc::new(BinaryViewArray::from_iter_values(texts))
        }
        number => {
            let width = number.primitive_width().expect("a number");
            let mut image = Vec::new();
            for _ in 0..count {
                let value = match number {
                    DataType::Decimal32(..) | DataType::Decimal128(9, _) => {
                        i128::from(random.i32(-999_999_999..=999_999_999))
                    }
                    DataType::Decimal128(38, _) => {
                        random.i128(-(10i128.pow(38)) + 1..10i128.pow(38))
                    }
                    _ => i128::from(random.i64(-(10i64.pow(18)) + 1..10i64.pow(18))),
                };
                image.extend_from_slice(&value.to_le_bytes()[..width]);
            }
            let data = ArrayData::builder(number.clone()).len(count);
            make_array(
                data.add_buffer(Buffer::from_vec(image))
                    .build()
                    .expect("numbers"),
            )
        }
    }
}

/// A file of one column and one row group.
struct File {
    column: ArrayRef,
    chunk: Bytes,
    metadata: Arc<ParquetMetaData>,
}

impl File {
    fn write(column: ArrayRef, properties: WriterProperties) -> File {
        let is_nullable = column.null_count() > 0 || column.len().is_multiple_of(2);
        let batch = RecordBatch::try_from_iter_with_nullable([("c", column.clone(), is_nullable)]);
        let batch = batch.expect("a batch");
        let mut bytes = Vec::new();
        let writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties));
        let mut writer = writer.expect("a writer");
        writer.write(&batch).expect("it can be written");
        writer.close().expect("a footer");
        let bytes = Bytes::from(bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("a file");
        let metadata = Arc::clone(reader.metadata());
        let batches: Vec<_> = reader.build().expect("a reader").collect();
        let parts = batches.iter().map(|batch| {
            let batch = batch.as_ref().expect("it can be read");
            batch.column(0).as_ref()
        });
        let theirs = concat(&parts.collect::<Vec<_>>()).expect("of one type");
        assert_eq!(&theirs, &column, "the crate reads what it wrote");
        let (start, length) = metadata.row_group(0).column(0).byte_range();
        File {
            column,
            chunk: bytes.slice(start as usize..(start + length) as usize),
            metadata,
        }
    }

    /// A file of random values written in a random way.
    fn random(data_type: &DataType, random: &mut Rng) -> File {
        let mut pick = |most: &[usize]| most[random.usize(0..most.len())];
        let compression = match pick(&[0, 1, 2, 3]) {
            0 => Compression::UNCOMPRESSED,
            1 => Compression::SNAPPY,
            2 => Compression::ZSTD(ZstdLevel::default()),
            _ => Compression::GZIP(GzipLevel::default()),
        };
        let page_rows = pick(&[70, 1000, 5000]);
        let mut properties = WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(page_rows)
            .set_write_batch_size(page_rows)
            .set_data_page_size_limit(pick(&[500, 1 << 20]))
            .set_dictionary_enabled(pick(&[0, 1, 1]) == 1)
            .set_dictionary_page_size_limit(pick(&[1000, 1 << 20]));
        if pick(&[0, 1]) == 0 {
            properties = properties.set_writer_version(WriterVersion::PARQUET_2_0);
            if *data_type != DataType::Boolean || pick(&[0, 1]) == 0 {
                properties = properties.set_encoding(Encoding::PLAIN);
            }
        }
        let rows = ROWS + pick(&[0, 1]);
        let (distinct, nulls, run) = (pick(&[1, 2, 40, 3000]), pick(&[0, 1, 50]), pick(&[1, 60]));
        let distinct_values = values(data_type, distinct, random);
        let mut indices = Vec::with_capacity(rows);
        while indices.len() < rows {
            let index = random.u32(0..distinct as u32);
            let index = (random.usize(0..100) >= nulls).then_some(index);
            let until = (indices.len() + random.usize(1..=run)).min(rows);
            indices.resize(until, index);
        }
        let column = take(&distinct_values, &UInt32Array::from(indices), None);
        File::write(column.expect("indices within"), properties.build())
    }

    fn reader(&self, chunk: Bytes) -> Result<Option<ColumnChunkReader>> {
        let metadata = self.metadata.row_group(0).column(0);
        ColumnChunkReader::try_new(chunk, metadata, self.column.data_type())
    }
}

/// A predicate for values of every type.
fn is_wanted(values: &ArrayRef) -> Result<BooleanBuffer> {
    assert_eq!(values.null_count(), 0, "a predicate is not asked for null");
    let hash = |row| {
        xxh3_64(
            array_value_to_string(values, row)
                .unwrap_or_default()
                .as_bytes(),
        )
    };
    Ok((0..values.len()).map(|row| hash(row) % 3 == 0).collect())
}

fn mask(rows: usize, random: &mut Rng) -> BooleanBuffer {
    let (share, run) = (
        [0, 1, 50, 99, 100][random.usize(0..5)],
        [1, 200][random.usize(0..2)],
    );
    let mut mask = Vec::with_capacity(rows);
    while mask.len() < rows {
        let until = (mask.len() + random.usize(1..=run)).min(rows);
        mask.resize(until, random.usize(0..100) < share);
    }
    BooleanBuffer::from(mask)
}

/// Reads, skips and tests at random until the end, and compares with `expected` where given.
fn walk(
    mut reader: ColumnChunkReader,
    expected: Option<&ArrayRef>,
    random: &mut Rng,
) -> Result<()> {
    let mut at = 0;
    while reader.rows_left() > 0 {
        let most = [10, 300, 5000][random.usize(0..3)];
        let rows = random.usize(0..=reader.rows_left().min(most));
        let wanted = expected.map(|all| all.slice(at, rows));
        at += rows;
        if random.u8(0..3) == 0 {
            let answer = reader.test(rows, &mut |values| is_wanted(values))?;
            assert_eq!(answer.len(), rows);
            if let Some(wanted) = &wanted {
                for row in 0..rows {
                    let value = wanted.slice(row, 1);
                    let is = value.null_count() == 0 && is_wanted(&value)?.value(0);
                    assert_eq!(answer.value(row), is, "row {row}");
                }
            }
        }
        let read = match random.u8(0..4) {
            0 => {
                reader.skip(rows)?;
                continue;
            }
            1 => (reader.read(rows)?, BooleanBuffer::new_set(rows)),
            _ => {
                let mask = mask(rows, random);
                (reader.read_selected(&mask)?, mask)
            }
        };
        let (read, mask) = read;
        read.to_data().validate_full().expect("a valid array");
        if let Some(wanted) = &wanted {
            let wanted = filter(wanted, &BooleanArray::new(mask, None))?;
            assert_eq!(&read, &wanted);
        }
    }
    Ok(())
}

#[test]
fn every_type_reads_as_the_crate_reads_it() {
    for data_type in types() {
        for seed in 0..24 {
            eprintln!("type={data_type} seed={seed}");
            let random = &mut Rng::with_seed(seed);
            let file = File::random(&data_type, random);
            for _ in 0..3 {
                let reader = file.reader(file.chunk.clone()).expect("a chunk");
                let reader = reader.expect("it is read here");
                walk(reader, Some(&file.column), random).expect("it can be read");
            }
        }
    }
}

#[test]
fn flipped_bytes_are_an_error_or_other_values() {
    let (mut refused, mut read) = (0, 0);
    for data_type in types() {
        for seed in 0..40 {
            eprintln!("type={data_type} seed={seed}");
            let random = &mut Rng::with_seed(seed);
            let file = File::random(&data_type, random);
            let mut bytes = file.chunk.to_vec();
            for _ in 0..random.usize(1..4) {
                let most = [40, usize::MAX][random.usize(0..2)];
                let place = random.usize(0..bytes.len().min(most));
                bytes[place] ^= random.u8(1..);
            }
            let end = if random.u8(0..5) == 0 {
                random.usize(0..bytes.len())
            } else {
                bytes.len()
            };
            let chunk = Bytes::from(bytes).slice(..end);
            let walked = match file.reader(chunk) {
                Ok(Some(reader)) => walk(reader, None, random),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match walked {
                Ok(()) => read += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100 && read > 100, "refused={refused} read={read}");
}

#[test]
fn pages_that_nobody_asks_for_are_not_touched() {
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..1000));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(Compression::SNAPPY)
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(100);
    let file = File::write(numbers, properties.build());
    let mut bytes = file.chunk.to_vec();
    let reader = file.reader(file.chunk.clone()).expect("a chunk");
    assert_eq!(reader.expect("it is read here").rows_left(), 1000);
    // The second half of the chunk belongs to rows behind the fifth page; damage the first.
    let spoilt = bytes.len() / 20;
    bytes[spoilt..spoilt + 8].fill(0xff);
    let open = || {
        file.reader(Bytes::from(bytes.clone()))
            .expect("a chunk")
            .expect("read here")
    };
    open().read(100).expect_err("the first page is damaged");
    let mut reader = open();
    reader.skip(150).expect("nothing is decompressed");
    assert_eq!(
        &reader.read(50).expect("the second page"),
        &file.column.slice(150, 50)
    );
    let mut mask = vec![false; 1000];
    mask[999] = true;
    let read = open()
        .read_selected(&BooleanBuffer::from(mask))
        .expect("the last page");
    assert_eq!(&read, &file.column.slice(999, 1));
}

#[test]
fn a_dictionary_is_asked_once() {
    let words = (0..1000).map(|row| ["x", "y", "z"][row % 3]);
    let words: ArrayRef = Arc::new(StringViewArray::from_iter_values(words));
    let file = File::write(words, WriterProperties::builder().build());
    let mut reader = file
        .reader(file.chunk.clone())
        .expect("a chunk")
        .expect("read here");
    let mut asked = Vec::new();
    for _ in 0..10 {
        let answer = reader.test(100, &mut |values| {
            asked.push(values.len());
            Ok((0..values.len()).map(|row| row == 1).collect())
        });
        let answer = answer.expect("three words");
        let read = reader.read_selected(&answer).expect("the words");
        let read = read
            .as_any()
            .downcast_ref::<StringViewArray>()
            .expect("strings");
        assert!(read.len() >= 33 && read.iter().all(|word| word == Some("y")));
    }
    assert_eq!(asked, [3]);
    reader.read(1).expect_err("there are no more");
}

#[test]
fn what_is_not_read_here_is_left_to_the_crate() {
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..1000));
    let properties = WriterProperties::builder().set_dictionary_enabled(false);
    for properties in [
        properties
            .clone()
            .set_writer_version(WriterVersion::PARQUET_2_0),
        properties.clone().set_encoding(Encoding::BYTE_STREAM_SPLIT),
        properties.set_compression(Compression::LZ4_RAW),
    ] {
        let file = File::write(numbers.clone(), properties.build());
        assert!(file.reader(file.chunk.clone()).expect("a chunk").is_none());
    }
}

#[test]
fn a_page_that_claims_a_gigabyte_is_refused() {
    let number: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![7]));
    let file = File::write(number, WriterProperties::builder().build());
    // A data page of 8 bytes that become 2^30.
    let header = [0x15, 0, 0x15, 0x80, 0x80, 0x80, 0x80, 0x08, 0x15, 16];
    let part = [0x2c, 0x15, 2, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0];
    let chunk = [&header[..], &part, &[0; 8]].concat();
    let error = file.reader(chunk.into()).err().expect("too large");
    assert!(error.message().contains("too large"), "{error}");
}

#[test]
fn a_checksum_is_compared_where_there_is_one() {
    let number: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![7]));
    let file = File::write(number, WriterProperties::builder().build());
    let value = 7i64.to_le_bytes();
    let mut crc = flate2::Crc::new();
    crc.update(&value);
    for (sum, fits) in [(crc.sum(), true), (crc.sum() ^ 1, false)] {
        // Numbers are zigzag: the sign is the lowest bit.
        let mut zigzag = ((sum as i32) << 1 ^ (sum as i32) >> 31) as u32;
        let mut header = vec![0x15, 0, 0x15, 16, 0x15, 16, 0x15];
        while zigzag > 127 {
            header.push(zigzag as u8 | 128);
            zigzag >>= 7;
        }
        header.push(zigzag as u8);
        let part = [0x1c, 0x15, 2, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0];
        let chunk = [&header[..], &part, &value].concat();
        let reader = file.reader(chunk.into()).expect("a header");
        match reader.expect("it is read here").read(1) {
            Ok(read) => assert!(fits && read.as_ref() == file.column.as_ref()),
            Err(error) => assert!(!fits && error.message().contains("checksum"), "{error}"),
        }
    }
}
