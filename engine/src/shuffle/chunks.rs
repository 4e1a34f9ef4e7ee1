//! Bytes that arrived in pieces, taken apart again without a copy where the pieces allow.

use std::collections::VecDeque;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

/// A run of bytes in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Takes the first `bytes` off, in the pieces in which they are; none if there are not so
    /// many.
    pub(super) fn split(&mut self, bytes: usize) -> Option<Chunks> {
        self.len = self.len.checked_sub(bytes)?;
        let mut head = Chunks::default();
        while head.len < bytes {
            let mut piece = self.pieces.pop_front()?;
            let wanted = bytes - head.len;
            if piece.len() > wanted {
                self.pieces.push_front(piece.split_off(wanted));
            }
            head.push(piece);
        }
        Some(head)
    }

    /// Everything in one piece; copies if there are several.
    pub(super) fn join(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop_front().unwrap_or_default();
        }
        let mut joined = Vec::with_capacity(self.len);
        self.pieces
            .iter()
            .for_each(|piece| joined.extend_from_slice(piece));
        Bytes::from(joined)
    }

    /// Puts the bytes of `other` behind these.
    pub(super) fn append(&mut self, other: Chunks) {
        other.pieces.into_iter().for_each(|piece| self.push(piece));
    }

    /// XXH3-64 of the bytes.
    pub(super) fn checksum(&self) -> u64 {
        let mut hash = Xxh3::new();
        self.update(&mut hash);
        hash.digest()
    }

    /// Adds the bytes to `hash`.
    pub(super) fn update(&self, hash: &mut Xxh3) {
        self.pieces.iter().for_each(|piece| hash.update(piece));
    }
}

impl FromIterator<Bytes> for Chunks {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        let mut chunks = Chunks::default();
        pieces.into_iter().for_each(|piece| chunks.push(piece));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_any_pieces_gives_the_same_bytes() {
        let text = b"0123456789";
        for (cut, at) in (0..=10).flat_map(|cut| (0..=10).map(move |at| (cut, at))) {
            let pieces = [
                Bytes::from_static(&text[..cut]),
                Bytes::from_static(&text[cut..]),
            ];
            let mut rest: Chunks = pieces.into_iter().collect();
            let head = rest.split(at).expect("enough bytes");
            assert_eq!(head.checksum(), xxhash_rust::xxh3::xxh3_64(&text[..at]));
            assert_eq!(head.join(), text[..at]);
            assert!(
                rest.split(11 - at).is_none(),
                "there are only {} left",
                10 - at
            );
        }
        let mut whole: Chunks = [Bytes::from_static(text)].into_iter().collect();
        let head = whole.split(4).expect("enough bytes").join();
        assert_eq!(head.as_ptr(), text.as_ptr(), "a slice is not copied");
    }
}
