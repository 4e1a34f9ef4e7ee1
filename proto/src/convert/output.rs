//! Where result rows go and how files are made, in plans, in stages and in the status of a job.

use kiln_engine::Result;
use kiln_engine::plan::{
    ColumnOrder, FileCompression, FileFormat, Output, OutputMode, OutputOptions,
};

use crate::convert::enums::Twin;
use crate::convert::{malformed, need};
use crate::wire;
use crate::wire::file_compression::Codec;

pub(super) fn encode_output(output: &Output) -> wire::Output {
    let OutputOptions {
        mode,
        row_group_rows,
        compression,
        sort_by,
        file_bytes,
        directories,
    } = &output.options;
    wire::Output {
        url: output.url.clone(),
        format: output.format.encode(),
        row_group_rows: *row_group_rows,
        compression: compression.map(encode_compression),
        sort_by: sort_by.iter().map(encode_order).collect(),
        file_bytes: *file_bytes,
        directories: directories.clone(),
        mode: mode.encode(),
    }
}

/// Only the form is checked here: what an output may ask for is checked with its plan.
pub(super) fn decode_output(output: wire::Output) -> Result<Output> {
    let options = OutputOptions {
        mode: OutputMode::decode(output.mode)?,
        row_group_rows: output.row_group_rows,
        compression: output.compression.map(decode_compression).transpose()?,
        sort_by: output.sort_by.into_iter().map(decode_order).collect(),
        file_bytes: output.file_bytes,
        directories: output.directories,
    };
    Ok(Output {
        url: output.url,
        format: FileFormat::decode(output.format)?,
        options,
    })
}

fn encode_compression(compression: FileCompression) -> wire::FileCompression {
    let codec = match compression {
        FileCompression::None => Codec::None(wire::Unit {}),
        FileCompression::Snappy => Codec::Snappy(wire::Unit {}),
        FileCompression::Lz4 => Codec::Lz4(wire::Unit {}),
        FileCompression::Gzip => Codec::Gzip(wire::Unit {}),
        FileCompression::Zstd(level) => Codec::Zstd(u32::from(level)),
    };
    wire::FileCompression { codec: Some(codec) }
}

fn decode_compression(compression: wire::FileCompression) -> Result<FileCompression> {
    Ok(match need(compression.codec, "codec of an output")? {
        Codec::None(wire::Unit {}) => FileCompression::None,
        Codec::Snappy(wire::Unit {}) => FileCompression::Snappy,
        Codec::Lz4(wire::Unit {}) => FileCompression::Lz4,
        Codec::Gzip(wire::Unit {}) => FileCompression::Gzip,
        Codec::Zstd(level) => {
            let unknown = |_| malformed(format_args!("a ZSTD level of {level}"));
            FileCompression::Zstd(u8::try_from(level).map_err(unknown)?)
        }
    })
}

fn encode_order(order: &ColumnOrder) -> wire::ColumnOrder {
    let ColumnOrder {
        column,
        descending,
        nulls_first,
    } = order.clone();
    wire::ColumnOrder {
        column,
        descending,
        nulls_first,
    }
}

fn decode_order(order: wire::ColumnOrder) -> ColumnOrder {
    let wire::ColumnOrder {
        column,
        descending,
        nulls_first,
    } = order;
    ColumnOrder {
        column,
        descending,
        nulls_first,
    }
}
