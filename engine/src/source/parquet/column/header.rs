//! Page headers: as much of Thrift's compact protocol as they need.
//!
//! A header is a structure of small integers and of other structures; nothing is kept of
//! statistics. Every step takes at least a byte, so that reading ends with the bytes.

use crate::error::{Error, Result};

/// Structures and lists within one another; page headers have three.
const DEPTH_MAX: usize = 8;

/// Types of Thrift's compact protocol that are told apart.
mod thrift {
    pub(super) const STOP: u8 = 0;
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const MAP: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
}

/// What stands before a page. Numbers are as the file has them, not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    /// Bytes of the page that follow the header.
    pub(super) compressed: i64,
    /// Bytes of the page once decompressed.
    pub(super) uncompressed: i64,
    /// Checksum of the bytes that follow the header.
    pub(super) crc: Option<u32>,
}

/// What a page is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PageKind {
    Dictionary {
        values: i64,
        encoding: i64,
    },
    /// A data page whose levels are compressed with its values.
    Data {
        values: i64,
        encoding: i64,
        level_encoding: i64,
    },
    /// A data page whose levels stand before what is compressed.
    DataV2 {
        values: i64,
        encoding: i64,
        definition_bytes: i64,
        repetition_bytes: i64,
        is_compressed: bool,
    },
    /// A page that readers pass over.
    Other,
}

impl PageHeader {
    /// Reads the header at the beginning of `bytes`; also returns its length.
    pub(super) fn read(bytes: &[u8]) -> Result<(PageHeader, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let header = reader.header()?;
        Ok((header, reader.at))
    }
}

/// The integers and truth values of a structure by the numbers of their fields.
type Numbers = [Option<i64>; 9];

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn header(&mut self) -> Result<PageHeader> {
        let (mut own, mut parts): (Numbers, [Option<Numbers>; 9]) = Default::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match id {
                5 | 7 | 8 if kind == thrift::STRUCT => parts[id as usize] = Some(self.numbers()?),
                1..=4 if kind < thrift::DOUBLE => own[id as usize] = Some(self.number(kind)?),
                _ => self.pass(kind, DEPTH_MAX)?,
            }
        }
        let wanted = |number: Option<i64>| number.ok_or_else(|| bad("lacks a number"));
        let part = |id: usize| parts[id].ok_or_else(|| bad("lacks what its kind needs"));
        let kind = match wanted(own[1])? {
            0 => {
                let part = part(5)?;
                PageKind::Data {
                    values: wanted(part[1])?,
                    encoding: wanted(part[2])?,
                    level_encoding: wanted(part[3])?,
                }
            }
            2 => {
                let part = part(7)?;
                PageKind::Dictionary {
                    values: wanted(part[1])?,
                    encoding: wanted(part[2])?,
                }
            }
            3 => {
                let part = part(8)?;
                PageKind::DataV2 {
                    values: wanted(part[1])?,
                    encoding: wanted(part[4])?,
                    definition_bytes: wanted(part[5])?,
                    repetition_bytes: wanted(part[6])?,
                    is_compressed: part[7] != Some(0),
                }
            }
            _ => PageKind::Other,
        };
        Ok(PageHeader {
            kind,
            uncompressed: wanted(own[2])?,
            compressed: wanted(own[3])?,
            crc: own[4].map(|crc| crc as u32),
        })
    }

    /// A structure's numbers; whatever else it has is passed over.
    fn numbers(&mut self) -> Result<Numbers> {
        let mut numbers = Numbers::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match numbers.get_mut(usize::try_from(id).unwrap_or(usize::MAX)) {
                Some(number) if kind < thrift::DOUBLE => *number = Some(self.number(kind)?),
                _ => self.pass(kind, DEPTH_MAX)?,
            }
        }
        Ok(numbers)
    }

    /// The type of the next field, whose number replaces `id`; none at the end of the structure.
    fn field(&mut self, id: &mut i16) -> Result<Option<u8>> {
        let byte = self.byte()?;
        let kind = byte & 15;
        if kind == thrift::STOP {
            return Ok(None);
        }
        *id = match byte >> 4 {
            0 => self.varint()? as i16,
            step => id.wrapping_add(i16::from(step)),
        };
        Ok(Some(kind))
    }

    fn number(&mut self, kind: u8) -> Result<i64> {
        match kind {
            thrift::TRUE => Ok(1),
            thrift::FALSE => Ok(0),
            thrift::BYTE => Ok(i64::from(self.byte()? as i8)),
            _ => {
                let zigzag = self.varint()?;
                Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
            }
        }
    }

    /// Passes over a value.
    fn pass(&mut self, kind: u8, depth: usize) -> Result<()> {
        if depth == 0 {
            return Err(bad("is nested too deeply"));
        }
        match kind {
            thrift::TRUE | thrift::FALSE => Ok(()),
            thrift::BYTE => self.skip(1),
            thrift::I16..=thrift::I64 => self.varint().map(drop),
            thrift::DOUBLE => self.skip(8),
            thrift::BINARY => {
                let length = self.varint()?;
                self.skip(length)
            }
            thrift::LIST | thrift::SET => {
                let byte = self.byte()?;
                let count = match byte >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                (0..count).try_for_each(|_| self.element(byte & 15, depth))
            }
            thrift::MAP => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 15, depth)
                })
            }
            thrift::STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.pass(kind, depth - 1)?;
                }
                Ok(())
            }
            _ => Err(bad("has a field of an unknown type")),
        }
    }

    /// Passes over an element of a list or a map, where a truth value takes a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Result<()> {
        match kind {
            thrift::TRUE | thrift::FALSE => self.skip(1),
            kind => self.pass(kind, depth - 1),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| bad("is cut off"))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let left = self.bytes.len().saturating_sub(self.at);
        match usize::try_from(bytes) {
            Ok(bytes) if bytes <= left => {
                self.at += bytes;
                Ok(())
            }
            _ => Err(bad("is cut off")),
        }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(bad("has a number of more than 64 bits"))
    }
}

fn bad(what: &str) -> Error {
    Error::invalid(format!("a page header {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_the_rest_is_passed_over() {
        // 1: i32 0, 2: i32 100, 3: i32 -1, 4: i32 7, 5: struct { 1: i32 9, 2: i32 8, 3: i32 3,
        // 4: i32 3, 5: struct { 1: binary "ab", 9: list of 2 bools } }, 20: map of one.
        let bytes = [
            0x15, 0, 0x15, 200, 1, 0x15, 1, 0x15, 14, 0x1c, 0x15, 18, 0x15, 16, 0x15, 6, 0x15, 6,
            0x1c, 0x18, 2, b'a', b'b', 0x89, 0x21, 1, 0, 0, 0, 0xfb, 1, 0x58, 6, 1, b'x', 0, 99,
        ];
        let expected = PageHeader {
            kind: PageKind::Data {
                values: 9,
                encoding: 8,
                level_encoding: 3,
            },
            compressed: -1,
            uncompressed: 100,
            crc: Some(7),
        };
        let read = PageHeader::read(&bytes).expect("a header");
        assert_eq!(read, (expected, bytes.len() - 1));
        for end in 0..bytes.len() - 1 {
            let error = PageHeader::read(&bytes[..end]).expect_err("it is cut off");
            assert!(error.message().contains("cut off"), "{error}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        // Structures without end, a list of 2^60 structures that are not there, no fields.
        let deep = [vec![0x15, 0], vec![0x9c; 1000]].concat();
        let list = [&[0xf9, 0xfc][..], &[0xff; 8], &[0x0f]].concat();
        for bytes in [&deep[..], &list, &[0], &[0x15, 4, 0]] {
            PageHeader::read(bytes).expect_err("not a header");
        }
    }
}
