//! The bytes around the rows: block headers and the footer.
//!
//! All numbers are little-endian. Parsing refuses whatever a writer would not write.

use xxhash_rust::xxh3::xxh3_64;

use super::chunks::Chunks;
use crate::limits::{SHUFFLE_ALIGN_BYTES, SHUFFLE_PARTITIONS_MAX};
use crate::plan::PartitionMeta;

/// First bytes of a block.
const BLOCK_MAGIC: [u8; 4] = *b"KLNB";

/// Last bytes of an object.
const OBJECT_MAGIC: [u8; 8] = *b"KLNSHUF1";

/// Version of the format.
const VERSION: u32 = 1;

/// Bytes of a block header: a whole alignment step, so that what follows is aligned too.
pub(super) const BLOCK_HEADER_BYTES: usize = SHUFFLE_ALIGN_BYTES;

const ENTRY_BYTES: usize = 32;
const TAIL_BYTES: usize = 32;

/// Bytes of the largest footer.
pub(super) const FOOTER_BYTES_MAX: u64 =
    SHUFFLE_PARTITIONS_MAX as u64 * ENTRY_BYTES as u64 + TAIL_BYTES as u64;

/// What stands before the rows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// Rows in the block.
    pub(super) rows: u32,
    /// Bytes of the Arrow IPC stream, without header and padding.
    pub(super) bytes: u64,
    /// Bytes of the columns once decoded.
    pub(super) decoded_bytes: u64,
    /// XXH3-64 of the Arrow IPC stream.
    pub(super) checksum: u64,
}

impl BlockHeader {
    pub(super) fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&BLOCK_MAGIC);
        to[4..8].copy_from_slice(&self.rows.to_le_bytes());
        to[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        to[16..24].copy_from_slice(&self.decoded_bytes.to_le_bytes());
        to[24..32].copy_from_slice(&self.checksum.to_le_bytes());
        to[32..BLOCK_HEADER_BYTES].fill(0);
    }

    pub(super) fn parse(from: &[u8]) -> Result<Self, &'static str> {
        if from.len() != BLOCK_HEADER_BYTES || from[..4] != BLOCK_MAGIC {
            return Err("a block does not begin as one");
        }
        if from[32..].iter().any(|&byte| byte != 0) {
            return Err("a block header has bytes of no meaning");
        }
        let header = BlockHeader {
            rows: u32_at(from, 4),
            bytes: u64_at(from, 8),
            decoded_bytes: u64_at(from, 16),
            checksum: u64_at(from, 24),
        };
        if header.rows == 0 || header.bytes == 0 {
            return Err("a block is empty");
        }
        Ok(header)
    }
}

impl BlockHeader {
    /// Bytes of the whole block; none if they cannot be counted.
    pub(super) fn block_bytes(&self) -> Option<usize> {
        let stream = usize::try_from(self.bytes).ok()?;
        let bytes = stream.checked_add(BLOCK_HEADER_BYTES)?;
        bytes.checked_next_multiple_of(SHUFFLE_ALIGN_BYTES)
    }

    /// Compares the whole `block` that begins with this header with its checksum.
    pub(super) fn compare(&self, block: &Chunks) -> Result<(), &'static str> {
        let mut rest = block.clone();
        rest.split(BLOCK_HEADER_BYTES);
        let length = usize::try_from(self.bytes).map_err(|_| "a block is too long")?;
        let stream = rest.split(length).ok_or("a block is cut off")?;
        match stream.checksum() == self.checksum {
            true => Ok(()),
            false => Err("the checksum of a block is wrong"),
        }
    }
}

/// Bytes of padding behind `bytes`.
pub(super) fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(SHUFFLE_ALIGN_BYTES) - bytes
}

/// The footer of an object with these partitions.
pub(super) fn footer(partitions: &[PartitionMeta]) -> Vec<u8> {
    let mut footer = Vec::with_capacity(partitions.len() * ENTRY_BYTES + TAIL_BYTES);
    let mut offset: u64 = 0;
    for partition in partitions {
        for number in [offset, partition.bytes, partition.rows, partition.checksum] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        offset += partition.bytes;
    }
    footer.extend_from_slice(&offset.to_le_bytes());
    footer.extend_from_slice(&VERSION.to_le_bytes());
    let count = u32::try_from(partitions.len()).expect("partitions are counted in 32 bits");
    footer.extend_from_slice(&count.to_le_bytes());
    let checksum = xxh3_64(&footer);
    footer.extend_from_slice(&checksum.to_le_bytes());
    footer.extend_from_slice(&OBJECT_MAGIC);
    footer
}

/// The partitions of an object of `object_bytes`, from its last bytes.
pub(super) fn parse_footer(
    tail: &[u8],
    object_bytes: u64,
) -> Result<Vec<PartitionMeta>, &'static str> {
    let at = tail
        .len()
        .checked_sub(TAIL_BYTES)
        .ok_or("the object is too short for a footer")?;
    if tail[at + 24..] != OBJECT_MAGIC {
        return Err("the object does not end as a shuffle object");
    }
    let (data_bytes, version, count) = (
        u64_at(tail, at),
        u32_at(tail, at + 8),
        u32_at(tail, at + 12),
    );
    if version != VERSION {
        return Err("the object has an unknown version");
    }
    let start = (count <= SHUFFLE_PARTITIONS_MAX)
        .then(|| at.checked_sub(count as usize * ENTRY_BYTES))
        .flatten()
        .ok_or("the footer is cut off")?;
    if xxh3_64(&tail[start..at + 16]) != u64_at(tail, at + 16) {
        return Err("the checksum of the footer is wrong");
    }
    if data_bytes.checked_add((tail.len() - start) as u64) != Some(object_bytes) {
        return Err("the object has another length than its footer says");
    }
    let entry = |at: usize| PartitionMeta {
        bytes: u64_at(tail, at + 8),
        rows: u64_at(tail, at + 16),
        checksum: u64_at(tail, at + 24),
    };
    Ok((start..at).step_by(ENTRY_BYTES).map(entry).collect())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_tells_what_was_written_and_every_flipped_bit() {
        let meta = |bytes, rows, checksum| PartitionMeta {
            bytes,
            rows,
            checksum,
        };
        let partitions = [meta(128, 3, 7), meta(0, 0, 0), meta(64, 1, u64::MAX)];
        let written = footer(&partitions);
        let object_bytes = 192 + written.len() as u64;
        assert_eq!(
            parse_footer(&written, object_bytes).as_deref(),
            Ok(&partitions[..])
        );
        for at in 0..written.len() * 8 {
            let mut flipped = written.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(parse_footer(&flipped, object_bytes).is_err(), "bit {at}");
        }
        for length in 0..written.len() {
            let start = written.len() - length;
            assert!(
                parse_footer(&written[start..], object_bytes).is_err(),
                "last {length}"
            );
            assert!(
                parse_footer(&written[..length], object_bytes).is_err(),
                "first {length}"
            );
        }
        assert!(parse_footer(&written, object_bytes + 1).is_err());
    }
}
