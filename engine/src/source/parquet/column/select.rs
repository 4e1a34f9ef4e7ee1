//! Keeping some of many: values by mask, masks by mask, and places for nulls.

use arrow::array::{BooleanArray, BooleanBufferBuilder};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter;

use crate::error::Result;

/// Appends what `convert` makes of those of `from` that are set in `mask`, which is as long.
pub(super) fn select<S: Copy, T: Copy + Default>(
    from: &[S],
    mask: &BooleanBuffer,
    convert: impl Fn(S) -> T,
    out: &mut Vec<T>,
) {
    debug_assert_eq!(
        from.len(),
        mask.len(),
        "a mask is as long as what it selects from"
    );
    let mut next = out.len();
    out.resize(next + mask.count_set_bits(), T::default());
    for (from, mut word) in from.chunks(64).zip(mask.bit_chunks().iter_padded()) {
        if word == u64::MAX && from.len() == 64 {
            for (&value, out) in from.iter().zip(&mut out[next..next + 64]) {
                *out = convert(value);
            }
            next += 64;
            continue;
        }
        while word != 0 {
            out[next] = convert(from[word.trailing_zeros() as usize]);
            next += 1;
            word &= word - 1;
        }
    }
}

/// Those bits of `bits` that are set in `mask`.
pub(super) fn select_bits(bits: &BooleanBuffer, mask: &BooleanBuffer) -> Result<BooleanBuffer> {
    let [bits, mask] = [bits, mask].map(|bits| BooleanArray::new(bits.clone(), None));
    let selected = filter(&bits, &mask)?;
    let selected = selected.as_any().downcast_ref::<BooleanArray>();
    Ok(selected.expect("booleans remain booleans").values().clone())
}

/// Moves the values that `out` has from `base` on apart, so that there is one for every bit of
/// `valid` and those of set bits keep their order.
pub(super) fn spread<T: Copy + Default>(out: &mut Vec<T>, base: usize, valid: &BooleanBuffer) {
    let mut dense = out.len() - base;
    out.resize(base + valid.len(), T::default());
    let out = &mut out[base..];
    for row in (0..out.len()).rev() {
        let is_valid = valid.value(row);
        dense -= usize::from(is_valid);
        let value = out[dense];
        out[row] = if is_valid { value } else { T::default() };
    }
}

/// Appends a bit for every bit of `valid`: the next of `dense` where it is set, else unset.
pub(super) fn spread_bits(
    out: &mut BooleanBufferBuilder,
    dense: &BooleanBuffer,
    valid: &BooleanBuffer,
) {
    let base = out.len();
    out.append_n(valid.len(), false);
    for (row, bit) in valid.set_indices().zip(dense) {
        out.set_bit(base + row, bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_and_spreading_are_inverse() {
        let mut random = fastrand::Rng::with_seed(3);
        for (len, share) in [(0, 1), (1, 1), (64, 1), (200, 3), (1000, 2), (1000, 64)] {
            let mask: BooleanBuffer = (0..len).map(|_| random.u8(0..share) == 0).collect();
            let values: Vec<u32> = (1..=len).collect();
            let mut out = vec![9];
            select(&values, &mask, |value| value, &mut out);
            let expected = mask.set_indices_u32().map(|index| index + 1);
            assert!(out.iter().skip(1).copied().eq(expected));
            spread(&mut out, 1, &mask);
            for (index, &value) in out[1..].iter().enumerate() {
                assert_eq!(
                    value,
                    if mask.value(index) {
                        index as u32 + 1
                    } else {
                        0
                    }
                );
            }

            let bits: BooleanBuffer = (0..len).map(|_| random.bool()).collect();
            let dense = select_bits(&bits, &mask).expect("of one length");
            let mut out = BooleanBufferBuilder::new(0);
            out.append_n(3, true);
            spread_bits(&mut out, &dense, &mask);
            assert_eq!(out.finish().slice(3, len as usize), &bits & &mask);
        }
    }
}
