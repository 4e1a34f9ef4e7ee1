//! String views: made without validating again what was validated once.
//!
//! A view is sixteen bytes: the length in the low 32 bits; then up to twelve bytes of the value
//! itself, or for longer values the first four bytes, the number of a buffer and an offset in it.
//!
//! This module, [`super::space`] and [`super::unpack`] hold all `unsafe` of the engine. What is
//! built here is checked in full in builds with debug assertions, so every test also tests the
//! promises made in the `SAFETY` comments.
#![expect(
    unsafe_code,
    reason = "a token's text was validated with its block; validating each token again would \
              cost more than finding it"
)]

use arrow::array::{BinaryViewArray, StringViewArray};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use simdutf8::basic::Utf8Error;

use crate::kernel::hash::INLINE_BYTES;

/// Bytes that must be readable behind the end of a text for kernels that load whole vectors.
pub const PADDING_BYTES: usize = 64;

/// A text with [`PADDING_BYTES`] or more readable bytes behind its end.
#[derive(Debug, Clone, Copy)]
pub struct Padded<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Padded<'a> {
    /// The first `len` of `bytes`; the rest is padding and may hold anything.
    ///
    /// # Panics
    /// If there is too little padding.
    pub fn new(bytes: &'a [u8], len: usize) -> Self {
        assert!(
            len + PADDING_BYTES <= bytes.len(),
            "the text lacks its padding"
        );
        Padded { bytes, len }
    }

    /// Length of the text.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether the text has no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The `N` bytes from `at` on, some of which may be padding. `N` is at most
    /// [`PADDING_BYTES`] and `at` at most the length.
    #[inline]
    pub fn load<const N: usize>(self, at: usize) -> &'a [u8; N] {
        self.bytes[at..at + N]
            .try_into()
            .expect("the slice has N bytes")
    }
}

/// Keeps the low `n` bytes of a number.
const LOW_BYTES: [u128; INLINE_BYTES + 1] = {
    let mut masks = [0; INLINE_BYTES + 1];
    let mut n = 0;
    while n <= INLINE_BYTES {
        masks[n] = (1 << (8 * n)) - 1;
        n += 1;
    }
    masks
};

/// The view of `text[start..end]`, which will be found at `offset + start` of buffer `buffer`.
#[inline]
pub fn view_of(text: Padded<'_>, start: usize, end: usize, buffer: u32, offset: u32) -> u128 {
    let len = end - start;
    let bytes = u128::from_le_bytes(*text.load(start));
    let inline = (bytes & LOW_BYTES[len.min(INLINE_BYTES)]) << 32;
    let place = u128::from(offset + start as u32) << 96 | u128::from(buffer) << 64;
    let outside = place | u128::from(bytes as u32) << 32;
    len as u128 | if len <= INLINE_BYTES { inline } else { outside }
}

/// The view of a value that is stored at `offset` of buffer `buffer`.
#[inline]
pub fn make_view(value: &[u8], buffer: u32, offset: u32) -> u128 {
    let mut image = [0u8; 16];
    image[..4].copy_from_slice(&(value.len() as u32).to_le_bytes());
    if value.len() <= INLINE_BYTES {
        image[4..4 + value.len()].copy_from_slice(value);
    } else {
        image[4..8].copy_from_slice(&value[..4]);
        image[8..12].copy_from_slice(&buffer.to_le_bytes());
        image[12..].copy_from_slice(&offset.to_le_bytes());
    }
    u128::from_le_bytes(image)
}

/// The bytes of the value behind `view`; `scratch` lends its space to values held in the view.
#[inline]
pub fn view_bytes<'a>(view: u128, buffers: &[&'a [u8]], scratch: &'a mut [u8; 16]) -> &'a [u8] {
    let len = view as u32 as usize;
    if len <= INLINE_BYTES {
        *scratch = view.to_le_bytes();
        return &scratch[4..4 + len];
    }
    outside_bytes(view, buffers)
}

/// The bytes of a value longer than [`INLINE_BYTES`].
#[inline]
pub fn outside_bytes<'a>(view: u128, buffers: &[&'a [u8]]) -> &'a [u8] {
    let (buffer, start) = ((view >> 64) as u32 as usize, (view >> 96) as usize);
    &buffers[buffer][start..start + view as u32 as usize]
}

/// A string array of `views` into `buffers`.
///
/// The caller promises that every valid view holds, or points at, UTF-8 inside its buffer.
pub(crate) fn string_array(
    views: impl Into<ScalarBuffer<u128>>,
    buffers: Vec<Buffer>,
    nulls: Option<NullBuffer>,
) -> StringViewArray {
    let views = views.into();
    if cfg!(debug_assertions) {
        return StringViewArray::try_new(views, buffers, nulls).expect("views must be valid");
    }
    // SAFETY: the callers (`kernel::words`, `source::text`, `operator::aggregate`,
    // `operator::sort`, `shuffle::gather`, `source::parquet::column`) make views only of text that
    // was validated as UTF-8, cut at character boundaries, and pass the buffers that hold it;
    // builds with debug assertions check each array above.
    unsafe { StringViewArray::new_unchecked(views, buffers.into(), nulls) }
}

/// A binary array of `views` into `buffers`.
///
/// The caller promises that every valid view points inside its buffer.
pub(crate) fn binary_array(
    views: impl Into<ScalarBuffer<u128>>,
    buffers: Vec<Buffer>,
    nulls: Option<NullBuffer>,
) -> BinaryViewArray {
    let views = views.into();
    if cfg!(debug_assertions) {
        return BinaryViewArray::try_new(views, buffers, nulls).expect("views must be valid");
    }
    // SAFETY: as in `string_array`, without the promise about UTF-8.
    unsafe { BinaryViewArray::new_unchecked(views, buffers.into(), nulls) }
}

/// `values` as strings, after a look at whether they are UTF-8: one pass over the views and one
/// over the buffers while everything is ASCII, else each value by itself.
///
/// # Errors
/// Where a value is not UTF-8.
pub fn checked_string_array(values: BinaryViewArray) -> Result<StringViewArray, Utf8Error> {
    /// The highest bits of the bytes that a short view holds.
    const NOT_ASCII: u128 = 0x8080_8080_8080_8080_8080_8080 << 32;
    let short = |view: u128| view as u32 as usize <= INLINE_BYTES;
    let bits = |view: &u128| if short(*view) { *view & NOT_ASCII } else { 0 };
    let views = values
        .views()
        .iter()
        .fold(0, |seen, view| seen | bits(view));
    if views != 0 || !values.data_buffers().iter().all(|buffer| buffer.is_ascii()) {
        let buffers: Vec<&[u8]> = values.data_buffers().iter().map(Buffer::as_slice).collect();
        let mut scratch = [0; 16];
        for &view in values.views() {
            simdutf8::basic::from_utf8(view_bytes(view, &buffers, &mut scratch))?;
        }
    }
    // SAFETY: every view is valid, or there would be no binary array; every value is UTF-8: it
    // was looked at just now, or is all ASCII because its buffer or its view is.
    Ok(unsafe { values.to_string_view_unchecked() })
}

/// Asks the processor to have `slice[index]` at hand soon. Any index will do.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = slice.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn views_agree_with_arrow() {
        let text = "abcdefghijklmnopqrstuvwxyz".repeat(4);
        let padded = Padded::new(text.as_bytes(), 40);
        for end in 0..=40 {
            for start in 0..=end {
                let view = view_of(padded, start, end, 0, 0);
                assert_eq!(
                    view,
                    make_view(&text.as_bytes()[start..end], 0, start as u32)
                );
                let mut scratch = [0; 16];
                let bytes = view_bytes(view, &[text.as_bytes()], &mut scratch);
                assert_eq!(bytes, &text.as_bytes()[start..end]);
                let array = string_array(vec![view], vec![text.as_bytes().into()], None);
                assert_eq!(array.value(0), &text[start..end]);
            }
        }
    }

    #[test]
    fn null_views_may_hold_anything() {
        let nulls = Some(NullBuffer::from(vec![true, false]));
        let array = binary_array(vec![make_view(b"x", 0, 0), 0], vec![], nulls);
        assert_eq!((array.value(0), array.is_null(1)), (&b"x"[..], true));
    }

    #[test]
    fn text_is_looked_at_before_it_is_called_text() {
        let long = "a text of more than twelve bytes";
        let cases: [(&[u8], bool); 9] = [
            (b"", true),
            (b"twelve bytes", true),
            (long.as_bytes(), true),
            ("é".as_bytes(), true),
            ("ééééééé".as_bytes(), true),
            (b"\xc3", false),
            (b"twelve byte\xff", false),
            (b"a text of more than twelve byte\xc3", false),
            (b"\xa9 text of more than twelve bytes", false),
        ];
        for (value, valid) in cases {
            let values = BinaryViewArray::from_iter([Some(b"x".as_slice()), None, Some(value)]);
            match checked_string_array(values) {
                Ok(strings) => assert_eq!(strings.value(2).as_bytes(), value),
                Err(_) => assert!(!valid, "{value:?}"),
            }
            let values = BinaryViewArray::from_iter([Some(value)]);
            assert_eq!(checked_string_array(values).is_ok(), valid, "{value:?}");
        }
    }

    #[test]
    #[should_panic(expected = "padding")]
    fn text_without_padding_is_refused() {
        Padded::new(&[0; 70], 7);
    }
}
