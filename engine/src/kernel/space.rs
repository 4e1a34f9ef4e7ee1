//! Where white space begins and ends in a text, found 64 bytes at a time.
//!
//! Unicode White_Space has 25 characters. The six of ASCII are found by comparing whole vectors.
//! The others begin with one of the bytes C2, E1, E2, E3, so a block of 64 bytes without any of
//! these, as nearly all blocks are, needs nothing else.
//!
//! The answer is a list of *edges*: the positions where white space and other text meet. They
//! alternate, beginning of a word and end of a word, which makes finding them free of branches
//! that depend on the text.
#![expect(
    unsafe_code,
    reason = "vector instructions chosen when the program runs"
)]

use crate::kernel::view::Padded;

/// Bytes looked at together.
const BLOCK_BYTES: usize = 64;

/// Edges that are collected before they are handed on.
pub const EDGES_MAX: usize = 16 << 10;

/// How far a text has been searched, and the edges found but not yet handed on.
#[derive(Debug)]
pub struct Edges {
    /// Next block.
    at: usize,
    /// The byte before the next block belongs to white space (or to nothing).
    in_space: bool,
    /// White space characters that reach into the next block, a bit for each byte.
    reach: u64,
    /// The edges, of which `count` are there. A beginning without its end may be the last.
    found: Box<[u32]>,
    count: usize,
    done: bool,
}

impl Default for Edges {
    fn default() -> Self {
        let found = vec![0; EDGES_MAX + BLOCK_BYTES + 2].into_boxed_slice();
        Edges {
            at: 0,
            in_space: true,
            reach: 0,
            found,
            count: 0,
            done: false,
        }
    }
}

impl Edges {
    /// Starts over, for another text.
    pub fn reset(&mut self) {
        (self.at, self.in_space, self.reach) = (0, true, 0);
        (self.count, self.done) = (0, false);
    }

    /// Searches on in `text`, always the same one since the last reset, until there are about
    /// `limit` words or the text ends. Returns the words found, as pairs of beginning and end;
    /// none at the end of the text.
    pub fn next(&mut self, text: Padded<'_>, limit: usize) -> &[[u32; 2]] {
        debug_assert!(
            2 * limit <= EDGES_MAX,
            "the list of edges has room for the limit"
        );
        // A beginning whose end has not been found yet goes to the front.
        if self.count % 2 == 1 {
            self.found[0] = self.found[self.count - 1];
        }
        self.count %= 2;
        if !self.done {
            // A block adds at most half as many words as it has bytes.
            self.search(text, (2 * limit).saturating_sub(BLOCK_BYTES));
        }
        self.found[..self.count].as_chunks().0
    }

    fn search(&mut self, text: Padded<'_>, enough: usize) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt")
        {
            // SAFETY: the processor has the instructions, as just asked.
            return unsafe { x86::search_avx2(self, text, enough) };
        }
        #[cfg(target_arch = "x86_64")]
        self.search_with(text, enough, x86::masks_sse2);
        #[cfg(not(target_arch = "x86_64"))]
        self.search_with(text, enough, masks_plain);
    }

    #[inline(always)]
    fn search_with(
        &mut self,
        text: Padded<'_>,
        enough: usize,
        masks: impl Fn(&[u8; BLOCK_BYTES]) -> Masks,
    ) {
        while self.at < text.len() && self.count <= enough {
            let Masks { mut space, lead } = masks(text.load(self.at));
            space |= self.reach;
            self.reach = 0;
            if lead != 0 {
                let wide = wide_spaces(text, self.at, lead);
                space |= wide as u64;
                self.reach = (wide >> 64) as u64;
            }
            let left = text.len() - self.at;
            if left < BLOCK_BYTES {
                space |= !0 << left;
            }
            let edges = space ^ (space << 1 | u64::from(self.in_space));
            self.in_space = space >> 63 == 1;
            self.note(edges);
            self.at += BLOCK_BYTES;
        }
        if self.at >= text.len() {
            self.done = true;
            if !self.in_space {
                self.in_space = true;
                self.found[self.count] = text.len() as u32;
                self.count += 1;
            }
        }
    }

    /// Appends the positions of the bits. Most blocks have at most sixteen; these are written
    /// whether they are there or not, which is cheaper than a branch that nobody can predict.
    #[inline(always)]
    fn note(&mut self, mut edges: u64) {
        let base = self.at as u32;
        let count = edges.count_ones() as usize;
        let out = &mut self.found[self.count..self.count + BLOCK_BYTES];
        self.count += count;
        let (first, rest) = out.split_at_mut(16);
        for slot in first {
            *slot = base + edges.trailing_zeros();
            edges &= edges.wrapping_sub(1);
        }
        if count > 16 {
            for slot in rest {
                if edges == 0 {
                    break;
                }
                *slot = base + edges.trailing_zeros();
                edges &= edges.wrapping_sub(1);
            }
        }
    }
}

/// A bit for each byte of a block.
struct Masks {
    /// ASCII white space.
    space: u64,
    /// Bytes with which other white space begins: C2, E1, E2, E3.
    lead: u64,
}

/// White space outside ASCII that begins in the block at `at`, a bit for each of its bytes; the
/// upper half is what reaches into the next block.
#[cold]
fn wide_spaces(text: Padded<'_>, at: usize, mut lead: u64) -> u128 {
    let mut mask = 0;
    while lead != 0 {
        let position = lead.trailing_zeros() as usize;
        lead &= lead - 1;
        if at + position >= text.len() {
            break;
        }
        let len = match *text.load(at + position) {
            [0xc2, 0x85 | 0xa0, _] => 2,
            [0xe1, 0x9a, 0x80]
            | [0xe2, 0x80, 0x80..=0x8a | 0xa8 | 0xa9 | 0xaf]
            | [0xe2, 0x81, 0x9f]
            | [0xe3, 0x80, 0x80] => 3,
            _ => 0,
        };
        mask |= ((1u128 << len) - 1) << position;
    }
    mask
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn masks_plain(block: &[u8; BLOCK_BYTES]) -> Masks {
    let mut masks = Masks { space: 0, lead: 0 };
    for (position, byte) in block.iter().enumerate() {
        let space = matches!(byte, b' ' | 0x09..=0x0d);
        let lead = matches!(byte, 0xc2 | 0xe1..=0xe3);
        masks.space |= u64::from(space) << position;
        masks.lead |= u64::from(lead) << position;
    }
    masks
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8, _mm_sub_epi8, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };

    use super::{BLOCK_BYTES, Edges, Masks, Padded};

    const E1: i8 = 0xe1u8 as i8;
    const C2: i8 = 0xc2u8 as i8;

    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn search_avx2(edges: &mut Edges, text: Padded<'_>, enough: usize) {
        edges.search_with(text, enough, |block| masks_avx2(block));
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn masks_avx2(block: &[u8; BLOCK_BYTES]) -> Masks {
        // SAFETY: both halves lie in the block, and the loads need no alignment.
        let halves: [__m256i; 2] = unsafe {
            let place: *const __m256i = block.as_ptr().cast();
            [_mm256_loadu_si256(place), _mm256_loadu_si256(place.add(1))]
        };
        let bits = |mask: __m256i| u64::from(_mm256_movemask_epi8(mask) as u32);
        let both =
            |of: &dyn Fn(__m256i) -> __m256i| bits(of(halves[0])) | bits(of(halves[1])) << 32;
        // At most `width` above `low`: the wrapped difference is its own minimum with the width.
        let within = |bytes: __m256i, low: i8, width: i8| {
            let above = _mm256_sub_epi8(bytes, _mm256_set1_epi8(low));
            _mm256_cmpeq_epi8(_mm256_min_epu8(above, _mm256_set1_epi8(width)), above)
        };
        let equal = |bytes: __m256i, to: i8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(to));
        let space = both(&|v| _mm256_or_si256(equal(v, 0x20), within(v, 9, 4)));
        let mut lead = 0;
        if bits(_mm256_or_si256(halves[0], halves[1])) != 0 {
            lead = both(&|v| _mm256_or_si256(equal(v, C2), within(v, E1, 2)));
        }
        Masks { space, lead }
    }

    /// Every x86-64 processor can run this.
    #[inline]
    pub(super) fn masks_sse2(block: &[u8; BLOCK_BYTES]) -> Masks {
        let mut masks = Masks { space: 0, lead: 0 };
        for (quarter, bytes) in block.as_chunks().0.iter().enumerate() {
            // SAFETY: SSE2 is part of x86-64.
            let (space, lead) = unsafe { masks_16(bytes) };
            masks.space |= u64::from(space) << (16 * quarter);
            masks.lead |= u64::from(lead) << (16 * quarter);
        }
        masks
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn masks_16(bytes: &[u8; 16]) -> (u16, u16) {
        // SAFETY: sixteen bytes are there, and the load needs no alignment.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        let within = |low: i8, width: i8| {
            let above = _mm_sub_epi8(bytes, _mm_set1_epi8(low));
            _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8(width)), above)
        };
        let equal = |to: i8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(to));
        let space = _mm_movemask_epi8(_mm_or_si128(equal(0x20), within(9, 4)));
        let lead = _mm_movemask_epi8(_mm_or_si128(equal(C2), within(E1, 2)));
        (space as u16, lead as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::view::PADDING_BYTES;

    fn words_of(text: &[u8], limit: usize, plain: bool) -> Vec<[u32; 2]> {
        let mut bytes = text.to_vec();
        // Padding that would be taken for words if it were looked at.
        bytes.resize(text.len() + PADDING_BYTES, b'x');
        let padded = Padded::new(&bytes, text.len());
        let mut edges = Edges::default();
        let mut words = Vec::new();
        if plain {
            edges.search_with(padded, EDGES_MAX, masks_plain);
            words.extend_from_slice(edges.found[..edges.count].as_chunks().0);
            return words;
        }
        loop {
            let found = edges.next(padded, limit);
            assert!(found.len() <= limit.max(32), "{} of {limit}", found.len());
            if found.is_empty() {
                return words;
            }
            words.extend_from_slice(found);
        }
    }

    #[test]
    fn every_character_is_classified_as_the_standard_library_does() {
        for c in (0..=char::MAX as u32).filter_map(char::from_u32) {
            let text = format!("a{c}b");
            let words = words_of(text.as_bytes(), 1 << 10, false).len();
            assert_eq!(words, if c.is_whitespace() { 2 } else { 1 }, "{:?}", c);
        }
    }

    #[test]
    fn vectors_agree_with_the_plain_loop_at_every_alignment() {
        let spaces = ["", " ", "\u{2003}", "\u{a0}\u{3000}", "\u{85}\t"];
        for space in spaces {
            for before in 0..70 {
                for len in [0, 1, 13, 64, 130] {
                    let text = format!("{}{space}{}", "y".repeat(before), "ž".repeat(len));
                    let text = text.as_bytes();
                    assert_eq!(words_of(text, 40, false), words_of(text, 0, true));
                    #[cfg(target_arch = "x86_64")]
                    for block in text.as_chunks().0 {
                        let (sse, plain) = (x86::masks_sse2(block), masks_plain(block));
                        assert_eq!((sse.space, sse.lead), (plain.space, plain.lead));
                    }
                }
            }
        }
    }
}
