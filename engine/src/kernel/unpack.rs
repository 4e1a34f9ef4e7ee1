//! Bit-packed codes, and looking values up by code.
//!
//! Parquet stores the codes of a dictionary in as few bits each as they need. Eight codes of `w`
//! bits are `w` bytes, so with AVX2 eight of them are made at once: two loads, a shuffle that
//! brings each code's bytes into its lane, a shift by its own distance, a mask. Whether codes lie
//! within the dictionary is asked once for many of them, not for each.
#![expect(
    unsafe_code,
    reason = "vector instructions chosen when the program runs; bounds checked once for many codes"
)]

/// Most bits of one code.
pub const WIDTH_MAX: u32 = 32;

/// Widths that the vector kernel takes: a code and the seven bits before it fit 32 bits.
#[cfg(target_arch = "x86_64")]
const VECTOR_WIDTH_MAX: u32 = 25;

/// A code that is not in the dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange(pub u32);

/// Unpacks the codes from number `first` on of `bytes`, where each has `width` bits, least
/// significant first.
///
/// # Panics
/// If the codes do not lie within `bytes`, or `width` is more than [`WIDTH_MAX`].
pub fn unpack(bytes: &[u8], first: usize, width: u32, out: &mut [u32]) {
    assert!(width <= WIDTH_MAX, "a code has at most 32 bits");
    let bits = width as usize;
    assert!(
        (first + out.len()) * bits <= bytes.len() * 8,
        "the codes lie within the bytes"
    );
    if bits == 0 {
        out.fill(0);
        return;
    }
    // Codes before the first that begins with a byte.
    let head = (first.next_multiple_of(8) - first).min(out.len());
    let (head, mut rest) = out.split_at_mut(head);
    unpack_each(bytes, first * bits, bits, head);
    let mut at = first + head.len();
    #[cfg(target_arch = "x86_64")]
    if width <= VECTOR_WIDTH_MAX && is_x86_feature_detected!("avx2") {
        let groups = rest.as_chunks_mut::<8>().0;
        // SAFETY: the processor has the instructions, as just asked.
        let done = 8 * unsafe { x86::unpack_groups(&bytes[at / 8 * bits..], bits, groups) };
        (at, rest) = (at + done, &mut rest[done..]);
    }
    unpack_each(bytes, at * bits, bits, rest);
}

/// Unpacks codes one after the other, the first of which begins at `bit`.
#[inline(always)]
fn unpack_each(bytes: &[u8], mut bit: usize, width: usize, out: &mut [u32]) {
    let mask = (1u64 << width) - 1;
    for code in out {
        let word = match bytes[bit / 8..].first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => {
                let mut word = [0; 8];
                let last = &bytes[bit / 8..];
                word[..last.len()].copy_from_slice(last);
                u64::from_le_bytes(word)
            }
        };
        *code = (word >> (bit % 8) & mask) as u32;
        bit += width;
    }
}

/// Appends the value of each code.
///
/// # Errors
/// A code that has no value; nothing is appended then.
pub fn look_up<T: Copy>(values: &[T], codes: &[u32], out: &mut Vec<T>) -> Result<(), OutOfRange> {
    check(codes, values.len())?;
    // SAFETY: no code is as large as there are values, as just checked.
    out.extend(
        codes
            .iter()
            .map(|&code| unsafe { *values.get_unchecked(code as usize) }),
    );
    Ok(())
}

/// The mark of each code as a bit, 64 to a word; unused bits of the last word are unset. A mark is
/// 0 or -1.
///
/// # Errors
/// A code that has no mark.
pub fn look_up_marks(marks: &[i32], codes: &[u32]) -> Result<Vec<u64>, OutOfRange> {
    check(codes, marks.len())?;
    let mut words = Vec::with_capacity(codes.len().div_ceil(64));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && i32::try_from(marks.len()).is_ok() {
        // SAFETY: the processor has the instructions, as just asked; no code is as large as there
        // are marks, and these are few enough for a signed index.
        unsafe { x86::look_up_marks(marks, codes, &mut words) };
        return Ok(words);
    }
    words.extend(codes.chunks(64).map(|codes| marks_of(marks, codes)));
    Ok(words)
}

/// The marks of up to 64 codes.
#[inline(always)]
fn marks_of(marks: &[i32], codes: &[u32]) -> u64 {
    let bit = |(at, code): (usize, &u32)| u64::from(marks[*code as usize] < 0) << at;
    codes
        .iter()
        .enumerate()
        .map(bit)
        .fold(0, |word, bit| word | bit)
}

/// Whether every code is below `count`.
fn check(codes: &[u32], count: usize) -> Result<(), OutOfRange> {
    if codes.is_empty() {
        return Ok(());
    }
    let largest = largest(codes);
    if (largest as usize) < count {
        Ok(())
    } else {
        Err(OutOfRange(largest))
    }
}

fn largest(codes: &[u32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions, as just asked.
        return unsafe { x86::largest(codes) };
    }
    codes.iter().fold(0, |largest, &code| largest.max(code))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_and_si256, _mm256_castsi256_ps, _mm256_i32gather_epi32,
        _mm256_loadu_si256, _mm256_movemask_ps, _mm256_set_m128i, _mm256_set1_epi32,
        _mm256_shuffle_epi8, _mm256_srlv_epi32, _mm256_storeu_si256,
    };

    use super::VECTOR_WIDTH_MAX;

    /// Bytes that must be readable from where a group of eight codes begins.
    const REACH: usize = 32;

    /// How eight codes of one width are brought into their lanes.
    struct Lanes {
        /// The bytes of each code, counted from where its half of the vector was loaded.
        shuffle: [u8; 32],
        /// The bits before each code in its first byte.
        shift: [u32; 8],
    }

    /// The lanes of every width.
    static LANES: [Lanes; VECTOR_WIDTH_MAX as usize + 1] = {
        let mut all = [const {
            Lanes {
                shuffle: [0; 32],
                shift: [0; 8],
            }
        }; VECTOR_WIDTH_MAX as usize + 1];
        let mut width = 0;
        while width < all.len() {
            let mut code = 0;
            while code < 8 {
                let bit = code * width - code / 4 * second_half(width) * 8;
                all[width].shift[code] = (bit % 8) as u32;
                let mut byte = 0;
                while byte < 4 {
                    all[width].shuffle[code * 4 + byte] = (bit / 8 + byte) as u8;
                    byte += 1;
                }
                code += 1;
            }
            width += 1;
        }
        all
    };

    /// The byte in which the fifth of eight codes begins.
    const fn second_half(width: usize) -> usize {
        width * 4 / 8
    }

    /// Unpacks groups of eight codes of `width` bits for as long as whole vectors can be loaded;
    /// returns how many groups.
    #[target_feature(enable = "avx2")]
    pub(super) fn unpack_groups(bytes: &[u8], width: usize, out: &mut [[u32; 8]]) -> usize {
        let second = second_half(width);
        let Lanes { shuffle, shift } = &LANES[width];
        // SAFETY: both arrays have 32 bytes.
        let (shuffle, shift) = unsafe {
            (
                _mm256_loadu_si256(shuffle.as_ptr().cast()),
                _mm256_loadu_si256(shift.as_ptr().cast()),
            )
        };
        let mask = _mm256_set1_epi32(((1u64 << width) - 1) as i32);
        let mut at = 0;
        let mut done = 0;
        for group in out {
            let Some(source) = bytes.get(at..at + REACH) else {
                break;
            };
            // SAFETY: the second half begins at most 12 bytes behind the first, so that 28 bytes
            // are read of the 32 that are there, and 32 bytes are written to eight codes.
            unsafe {
                let low = _mm_loadu_si128(source.as_ptr().cast());
                let high = _mm_loadu_si128(source.as_ptr().add(second).cast());
                let both = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), shuffle);
                let codes = _mm256_and_si256(_mm256_srlv_epi32(both, shift), mask);
                _mm256_storeu_si256(group.as_mut_ptr().cast(), codes);
            }
            at += width;
            done += 1;
        }
        done
    }

    /// The marks of codes, all of which have one.
    ///
    /// # Safety
    /// Every code is below the count of marks, which is below 2^31.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn look_up_marks(marks: &[i32], codes: &[u32], words: &mut Vec<u64>) {
        let (whole, rest) = codes.as_chunks::<64>();
        for codes in whole {
            let mut word = 0;
            for (byte, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
                // SAFETY: eight codes are loaded, and each has a mark, as the caller promises.
                let marks = unsafe {
                    let codes = _mm256_loadu_si256(codes.as_ptr().cast());
                    _mm256_i32gather_epi32::<4>(marks.as_ptr(), codes)
                };
                let bits = _mm256_movemask_ps(_mm256_castsi256_ps(marks)) as u8;
                word |= u64::from(bits) << (8 * byte);
            }
            words.push(word);
        }
        if !rest.is_empty() {
            words.push(super::marks_of(marks, rest));
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn largest(codes: &[u32]) -> u32 {
        codes.iter().fold(0, |largest, &code| largest.max(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(codes: &[u32], width: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; (codes.len() * width as usize).div_ceil(8)];
        for (index, code) in codes.iter().enumerate() {
            for bit in 0..width as usize {
                let place = index * width as usize + bit;
                bytes[place / 8] |= ((code >> bit & 1) as u8) << (place % 8);
            }
        }
        bytes
    }

    #[test]
    fn every_width_from_every_start() {
        for width in 0..=WIDTH_MAX {
            let mut random = fastrand::Rng::with_seed(u64::from(width));
            let most = ((1u64 << width) - 1) as u32;
            let codes: Vec<u32> = (0..300).map(|_| random.u32(0..=most)).collect();
            let bytes = pack(&codes, width);
            for first in 0..20 {
                for count in [0, 1, 7, 8, 9, 64, 200, 280] {
                    let mut out = vec![u32::MAX; count];
                    unpack(&bytes, first, width, &mut out);
                    assert_eq!(out, codes[first..first + count], "{width} {first} {count}");
                }
            }
        }
    }

    #[test]
    fn codes_are_looked_up_or_refused() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [1usize, 2, 63, 64, 65, 1000] {
            let values: Vec<u64> = (0..count).map(|_| random.u64(..)).collect();
            let marks: Vec<i32> = values.iter().map(|value| -((value & 1) as i32)).collect();
            let mut codes: Vec<u32> = (0..500).map(|_| random.u32(0..count as u32)).collect();
            let mut out = vec![];
            assert_eq!(look_up(&values, &codes, &mut out), Ok(()));
            let words = look_up_marks(&marks, &codes).expect("all are there");
            for (index, &code) in codes.iter().enumerate() {
                assert_eq!(out[index], values[code as usize]);
                assert_eq!(words[index / 64] >> (index % 64) & 1, out[index] & 1);
            }
            assert_eq!(words.last().expect("some") >> (500 % 64), 0);
            codes[499] = count as u32;
            let refused = OutOfRange(count as u32);
            assert_eq!(look_up(&values, &codes, &mut out), Err(refused));
            assert_eq!(look_up_marks(&marks, &codes), Err(refused));
            assert_eq!(out.len(), 500);
        }
    }

    #[test]
    #[should_panic(expected = "within the bytes")]
    fn codes_behind_the_end_are_refused() {
        unpack(&[0; 4], 0, 11, &mut [0; 3]);
    }
}
