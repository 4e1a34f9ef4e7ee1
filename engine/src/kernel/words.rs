//! Words: maximal runs of characters without Unicode White_Space, as views into their text.
//!
//! Nothing is copied: a word of at most twelve bytes is held in its view, a longer one is pointed
//! at. The text has to be valid UTF-8; since white space is cut out by whole characters, so are
//! the words.

use arrow::array::{Array, ListArray, StringViewArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};

use crate::error::{Error, Result};
use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::space::{EDGES_MAX, Edges};
use crate::kernel::view::{PADDING_BYTES, Padded, string_array, view_of};

/// Finds the words of one text after another.
#[derive(Debug, Default)]
pub struct Tokenizer {
    edges: Edges,
}

impl Tokenizer {
    /// Starts over, for another text.
    pub fn reset(&mut self) {
        self.edges.reset();
    }

    /// Appends the views of the next words of `text`, at most `limit` (at least 64) of them.
    /// The text will be found at `offset` of buffer `buffer`. False when there are no more.
    pub fn next(
        &mut self,
        text: Padded<'_>,
        (buffer, offset): (u32, u32),
        limit: usize,
        views: &mut Vec<u128>,
    ) -> bool {
        let words = self.edges.next(text, limit.min(EDGES_MAX / 2));
        views.extend(
            words
                .iter()
                .map(|&[start, end]| view_of(text, start as usize, end as usize, buffer, offset)),
        );
        !words.is_empty()
    }

    /// Appends the views of all words of `text`.
    fn all(&mut self, text: Padded<'_>, place: (u32, u32), views: &mut Vec<u128>) {
        self.reset();
        while self.next(text, place, EDGES_MAX / 2, views) {}
    }
}

/// The words of each string, as a list that shares the buffers of `array`. Null where the string
/// is null.
///
/// # Errors
/// `Invalid` if there are more words than a list array can number.
pub fn words_list(array: &StringViewArray) -> Result<ListArray> {
    let mut tokenizer = Tokenizer::default();
    let mut views = Vec::new();
    let mut ends: Vec<i32> = Vec::with_capacity(array.len() + 1);
    ends.push(0);
    let mut copy = Vec::new();
    for (row, view) in array.views().iter().enumerate() {
        if array.is_valid(row) {
            let len = *view as u32 as usize;
            let place = ((view >> 64) as u32, (view >> 96) as u32);
            let source = array
                .data_buffers()
                .get(place.0 as usize)
                .map(Buffer::as_slice);
            match source
                .filter(|_| len > INLINE_BYTES)
                .map(|bytes| &bytes[place.1 as usize..])
            {
                Some(rest) if len + PADDING_BYTES <= rest.len() => {
                    tokenizer.all(Padded::new(rest, len), place, &mut views);
                }
                _ => {
                    copy.clear();
                    copy.extend_from_slice(array.value(row).as_bytes());
                    copy.resize(len + PADDING_BYTES, 0);
                    tokenizer.all(Padded::new(&copy, len), place, &mut views);
                }
            }
        }
        let end = i32::try_from(views.len()).map_err(|_| {
            Error::invalid(format!(
                "a batch has too many words for a list rows={}",
                array.len()
            ))
        })?;
        ends.push(end);
    }
    let words = string_array(views, array.data_buffers().to_vec(), None);
    let field = Field::new_list_field(DataType::Utf8View, false);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
    let nulls = array.nulls().cloned();
    Ok(ListArray::try_new(
        field.into(),
        offsets,
        std::sync::Arc::new(words),
        nulls,
    )?)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    const PIECES: [&str; 24] = [
        " ",
        "\n",
        "\t",
        "\r\n",
        "\u{b}",
        "\u{c}",
        "\u{1c}",
        "\u{85}",
        "\u{a0}",
        "\u{1680}",
        "\u{2002}",
        "\u{2028}",
        "\u{202f}",
        "\u{205f}",
        "\u{3000}",
        "\u{200b}",
        "a",
        "bc",
        "ž",
        "日本",
        "🦀",
        "twelve-bytes",
        "thirteen-bytes",
        "\u{2014}",
    ];

    fn random_text(rng: &mut fastrand::Rng) -> String {
        let pieces = rng.usize(0..200);
        let spaces = rng.bool();
        (0..pieces)
            .map(|_| {
                PIECES[if spaces {
                    rng.usize(..24)
                } else {
                    rng.usize(16..24)
                }]
            })
            .collect()
    }

    fn list_of(array: &StringViewArray) -> Vec<Option<Vec<String>>> {
        let list = words_list(array).expect("the words fit a list");
        (0..list.len())
            .map(|row| {
                let words = list.is_valid(row).then(|| list.value(row))?;
                Some(
                    words
                        .as_string_view()
                        .iter()
                        .flatten()
                        .map(str::to_owned)
                        .collect(),
                )
            })
            .collect()
    }

    #[test]
    fn words_are_those_of_the_standard_library() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let texts: Vec<Option<String>> = (0..20)
                .map(|_| rng.u8(..8).ne(&0).then(|| random_text(&mut rng)))
                .collect();
            let expected: Vec<Option<Vec<String>>> = texts
                .iter()
                .map(|text| {
                    Some(
                        text.as_ref()?
                            .split_whitespace()
                            .map(str::to_owned)
                            .collect(),
                    )
                })
                .collect();
            let array = StringViewArray::from(texts);
            assert_eq!(list_of(&array), expected, "seed={seed}");
            assert_eq!(list_of(&array.slice(5, 9)), expected[5..14], "seed={seed}");
        }
    }

    #[test]
    fn a_text_is_handed_out_in_pieces_of_the_limit() {
        let text = "ab cd ".repeat(50_000);
        let mut bytes = text.clone().into_bytes();
        bytes.resize(text.len() + PADDING_BYTES, b'x');
        let padded = Padded::new(&bytes, text.len());
        let (mut tokenizer, mut views) = (Tokenizer::default(), Vec::new());
        let mut before = 0;
        while tokenizer.next(padded, (0, 0), 1000, &mut views) {
            assert!(views.len() - before <= 1000);
            before = views.len();
        }
        assert_eq!(views.len(), 100_000);
        let words = string_array(views, vec![bytes.into()], None);
        assert!(words.iter().flatten().eq(text.split_whitespace()));
    }
}
