//! The pages of a column chunk: where they lie, and their bytes once decompressed.
//!
//! All headers are read when a chunk is opened, so that it is known at once whether every page can
//! be decoded here, and pages are passed over without being touched. What headers claim is checked
//! before anything is allocated. The buffer of a page that nobody points into any more is used for
//! the next.

use std::io::Read;
use std::ops::Range;

use arrow::buffer::Buffer;
use bytes::Bytes;
use flate2::Crc;
use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use zstd::bulk::Decompressor;

use super::header::{PageHeader, PageKind};
use super::hybrid::Hybrid;
use crate::error::{Error, Result};
use crate::kernel::view::PADDING_BYTES;
use crate::limits;

/// Numbers of encodings in the format.
mod encoding {
    pub(super) const PLAIN: i64 = 0;
    pub(super) const PLAIN_DICTIONARY: i64 = 2;
    pub(super) const RLE: i64 = 3;
    pub(super) const RLE_DICTIONARY: i64 = 8;
}

/// How the values of a page are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    /// Codes of the chunk's dictionary.
    Dictionary,
    /// Runs of truth values.
    Runs,
}

/// Where the levels of a page are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Levels {
    /// Compressed with the values, behind their length.
    Within,
    /// So many bytes before the values, never compressed.
    Before { bytes: usize, is_compressed: bool },
}

/// A page as its header describes it.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// Its bytes in the chunk.
    range: Range<usize>,
    /// Bytes of the page once decompressed.
    uncompressed: usize,
    /// Rows, nulls included; in a dictionary the values.
    pub(super) rows: usize,
    pub(super) encoding: Encoding,
    levels: Levels,
    crc: Option<u32>,
}

/// A page that was decompressed.
#[derive(Debug)]
pub(super) struct Body {
    /// Which values are not null, unless the column has no nulls.
    pub(super) levels: Option<(Hybrid, Buffer)>,
    /// Holds the values.
    pub(super) bytes: Buffer,
    /// Where in the bytes the values are.
    pub(super) values: Range<usize>,
}

/// The pages of a column chunk.
pub(super) struct Pages {
    chunk: Bytes,
    codec: Codec,
    nullable: bool,
    dictionary: Option<Page>,
    data: Vec<Page>,
    /// Space for the next page.
    spare: Vec<u8>,
}

enum Codec {
    Stored,
    Snappy,
    Zstd(Decompressor<'static>),
    Gzip,
}

impl Pages {
    /// The pages of a chunk of `rows` rows; none if some of them cannot be read here.
    pub(super) fn list(
        chunk: Bytes,
        compression: Compression,
        nullable: bool,
        rows: usize,
    ) -> Result<Option<Pages>> {
        let codec = match compression {
            Compression::UNCOMPRESSED => Codec::Stored,
            Compression::SNAPPY => Codec::Snappy,
            Compression::ZSTD(_) => Codec::Zstd(Decompressor::new().map_err(|error| {
                Error::exhausted("no memory to decompress pages").with_source(error)
            })?),
            Compression::GZIP(_) => Codec::Gzip,
            _ => return Ok(None),
        };
        let (mut dictionary, mut data, mut at, mut found) = (None, Vec::new(), 0, 0);
        while found < rows {
            let (header, length) = PageHeader::read(&chunk[at..])?;
            let start = at + length;
            let end = usize::try_from(header.compressed).ok();
            let end = end.and_then(|bytes| start.checked_add(bytes));
            at = end.filter(|&end| end <= chunk.len()).ok_or_else(|| {
                let reason = "a page reaches beyond its column";
                Error::invalid(format!("{reason} bytes={}", header.compressed))
            })?;
            let is_dictionary = matches!(header.kind, PageKind::Dictionary { .. });
            if header.kind == PageKind::Other {
                continue;
            }
            let Some(page) = Page::describe(&header, start..at, nullable)? else {
                return Ok(None);
            };
            if is_dictionary {
                if dictionary.is_some() || !data.is_empty() {
                    return Err(Error::invalid("a column has a dictionary in its middle"));
                }
                dictionary = Some(page);
                continue;
            }
            if page.encoding == Encoding::Dictionary && dictionary.is_none() {
                return Err(Error::invalid("a page has codes without a dictionary"));
            }
            found += page.rows;
            data.push(page);
        }
        if found != rows {
            let reason = "a column's pages have other rows than its row group";
            return Err(Error::invalid(format!(
                "{reason} pages={found} rows={rows}"
            )));
        }
        Ok(Some(Pages {
            chunk,
            codec,
            nullable,
            dictionary,
            data,
            spare: Vec::new(),
        }))
    }

    /// The data pages, in order.
    pub(super) fn data(&self) -> &[Page] {
        &self.data
    }

    /// Whether any page may have codes.
    pub(super) fn has_dictionary(&self) -> bool {
        self.dictionary.is_some()
    }

    /// Decompresses the dictionary; also returns how many values it has.
    pub(super) fn open_dictionary(&mut self) -> Result<(Body, usize)> {
        let page = self.dictionary.clone();
        let page = page.ok_or_else(|| Error::internal("a column lost its dictionary"))?;
        let (bytes, values) = self.decompress(&page, 0)?;
        let body = Body {
            levels: None,
            bytes,
            values,
        };
        Ok((body, page.rows))
    }

    /// Decompresses a data page.
    pub(super) fn open(&mut self, index: usize) -> Result<Body> {
        let page = self.data[index].clone();
        if let Levels::Before { bytes: before, .. } = page.levels {
            let levels = match self.nullable {
                true => {
                    let (start, end) = (page.range.start, page.range.start + before);
                    let bytes = Buffer::from(self.chunk.slice(start..end));
                    Some((Hybrid::new(1, 0, before)?, bytes))
                }
                false => None,
            };
            let (bytes, values) = self.decompress(&page, before)?;
            return Ok(Body {
                levels,
                bytes,
                values,
            });
        }
        let (bytes, mut values) = self.decompress(&page, 0)?;
        let levels = match self.nullable {
            true => {
                let runs = prefixed(&bytes, &values)?;
                values.start = runs.end;
                Some((Hybrid::new(1, runs.start, runs.end)?, bytes.clone()))
            }
            false => None,
        };
        Ok(Body {
            levels,
            bytes,
            values,
        })
    }

    /// Takes back the buffer of a page that was read to its end.
    pub(super) fn close(&mut self, body: Body) {
        drop(body.levels);
        if let Ok(bytes) = body.bytes.into_vec() {
            self.spare = bytes;
        }
    }

    /// The bytes of a page from `before` on; where possible there is padding behind them.
    fn decompress(&mut self, page: &Page, before: usize) -> Result<(Buffer, Range<usize>)> {
        let stored = self.chunk.slice(page.range.clone());
        if let Some(expected) = page.crc {
            let mut crc = Crc::new();
            crc.update(&stored);
            if crc.sum() != expected {
                return Err(Error::invalid(format!(
                    "a page's checksum does not match found={} expected={expected}",
                    crc.sum()
                )));
            }
        }
        let stored = stored.slice(before..);
        let size = page.uncompressed - before;
        let is_compressed = match page.levels {
            Levels::Before { is_compressed, .. } => is_compressed,
            Levels::Within => true,
        };
        if !is_compressed || matches!(self.codec, Codec::Stored) {
            if stored.len() != size {
                return Err(wrong_size(stored.len(), size));
            }
            let start = page.range.start + before;
            return Ok((Buffer::from(self.chunk.slice(start..)), 0..size));
        }
        let mut bytes = std::mem::take(&mut self.spare);
        let wanted = size + PADDING_BYTES;
        if bytes.capacity() < wanted {
            bytes = Vec::with_capacity(wanted);
        }
        self.codec.decompress(&stored, size, &mut bytes)?;
        bytes.resize(wanted, 0);
        Ok((Buffer::from_vec(bytes), 0..size))
    }
}

impl Codec {
    /// Makes `out` the `size` bytes that `stored` stands for.
    fn decompress(&mut self, stored: &[u8], size: usize, out: &mut Vec<u8>) -> Result<()> {
        let failed = |error: &dyn std::error::Error| {
            Error::invalid(format!("a page cannot be decompressed: {error}"))
        };
        if size == 0 {
            out.clear();
            return Ok(());
        }
        let found = match self {
            Codec::Stored => return Err(Error::internal("a page that is not compressed")),
            Codec::Snappy => {
                let found = snap::raw::decompress_len(stored).map_err(|error| failed(&error))?;
                if found == size {
                    out.resize(size, 0);
                    let mut decoder = snap::raw::Decoder::new();
                    let done = decoder.decompress(stored, out);
                    done.map_err(|error| failed(&error))?;
                }
                found
            }
            Codec::Zstd(decompressor) => {
                out.clear();
                let found = decompressor.decompress_to_buffer(stored, out);
                found.map_err(|error| failed(&error))?
            }
            Codec::Gzip => {
                out.clear();
                let mut decoder = MultiGzDecoder::new(stored).take(size as u64 + 1);
                let found = decoder.read_to_end(out);
                found.map_err(|error| failed(&error))?
            }
        };
        if found != size {
            return Err(wrong_size(found, size));
        }
        Ok(())
    }
}

impl Page {
    /// Checks what a header says; none if the page cannot be read here.
    fn describe(header: &PageHeader, range: Range<usize>, nullable: bool) -> Result<Option<Page>> {
        let (values, number, levels) = match header.kind {
            PageKind::Dictionary { values, encoding } => (values, encoding, Levels::Within),
            PageKind::Data {
                values,
                encoding,
                level_encoding,
            } => {
                if nullable && level_encoding != encoding::RLE {
                    return Ok(None);
                }
                (values, encoding, Levels::Within)
            }
            PageKind::DataV2 {
                values,
                encoding,
                definition_bytes,
                repetition_bytes,
                is_compressed,
            } => {
                let bytes = usize::try_from(definition_bytes).ok();
                let bytes = bytes.filter(|&bytes| repetition_bytes == 0 && bytes <= range.len());
                let bytes = bytes.ok_or_else(|| Error::invalid("a page's levels do not fit it"))?;
                let levels = Levels::Before {
                    bytes,
                    is_compressed,
                };
                (values, encoding, levels)
            }
            PageKind::Other => return Ok(None),
        };
        let is_dictionary = matches!(header.kind, PageKind::Dictionary { .. });
        let encoding = match number {
            encoding::PLAIN => Encoding::Plain,
            encoding::PLAIN_DICTIONARY if is_dictionary => Encoding::Plain,
            encoding::PLAIN_DICTIONARY | encoding::RLE_DICTIONARY => Encoding::Dictionary,
            encoding::RLE => Encoding::Runs,
            _ => return Ok(None),
        };
        if is_dictionary && encoding != Encoding::Plain {
            return Ok(None);
        }
        let rows = usize::try_from(values);
        let rows = rows.map_err(|_| Error::invalid(format!("a page has {values} values")))?;
        let before = match levels {
            Levels::Before { bytes, .. } => bytes,
            Levels::Within => 0,
        };
        let uncompressed = usize::try_from(header.uncompressed).ok();
        let uncompressed = uncompressed.filter(|&bytes| bytes >= before && is_sane(bytes, &range));
        let uncompressed = uncompressed.ok_or_else(|| {
            Error::invalid(format!(
                "a page claims to be too large or too small bytes={} compressed={}",
                header.uncompressed,
                range.len()
            ))
        })?;
        Ok(Some(Page {
            range,
            uncompressed,
            rows,
            encoding,
            levels,
            crc: header.crc,
        }))
    }
}

/// Whether a page of the bytes in `range` may become so large.
pub(super) fn is_sane(uncompressed: usize, range: &Range<usize>) -> bool {
    let most = range.len().saturating_mul(limits::PARQUET_PAGE_RATIO_MAX);
    uncompressed <= most.max(limits::PARQUET_PAGE_BYTES) && uncompressed < i32::MAX as usize
}

/// What lies behind a length of four bytes at the beginning of `values`.
pub(super) fn prefixed(bytes: &[u8], values: &Range<usize>) -> Result<Range<usize>> {
    let (start, end) = (values.start, values.end);
    let length = bytes[start..end].first_chunk();
    let length = length.map(|length| u32::from_le_bytes(*length) as usize);
    match length.and_then(|length| length.checked_add(start + 4)) {
        Some(runs_end) if runs_end <= end => Ok(start + 4..runs_end),
        _ => Err(Error::invalid("a page's levels do not fit it")),
    }
}

fn wrong_size(found: usize, expected: usize) -> Error {
    Error::invalid(format!(
        "a page is not as large as its header says found={found} expected={expected}"
    ))
}
