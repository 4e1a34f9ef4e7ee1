//! Searching strings: LIKE, parts, regular expressions. Patterns are prepared once.
//!
//! A pattern of `%` and plain text, which almost all are, is a prefix, some strings to be found
//! one after the other, and a suffix. The first bytes of a string lie in its view, so most strings
//! without the prefix are told apart without being looked at.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::comparison;
use arrow::datatypes::DataType;
use memchr::memmem::Finder;
use regex::Regex;

use super::cut::cut;
use super::strings::{Made, each};
use super::{Binding, argument, texts};
use crate::error::{Error, Result};
use crate::expr::Function;
use crate::expr::compile::Typed;
use crate::expr::eval::Value;

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    call.strings(0..call.count().min(2))?;
    match call.function {
        Function::Contains | Function::StartsWith | Function::EndsWith => return Ok(part(call)),
        Function::RegexpReplace => call.strings([2])?,
        Function::RegexpExtract => call.integers(2..call.count())?,
        _ => {}
    }
    let function = call.function;
    let group = match (function, call.count()) {
        (Function::RegexpExtract, 3) => call.constant_integer(2, "group")?,
        _ => 0,
    };
    let pattern = call.constant_string(1, "pattern")?;
    Ok(match function {
        Function::Like => matches(call, Matcher::like(&pattern)?),
        Function::Ilike => matches(call, Matcher::Regex(like_regex(&pattern, "is")?)),
        Function::RegexpReplace => {
            let regex = regex(&pattern)?;
            call.partial(DataType::Utf8View, move |values, rows| {
                let (text, to) = (texts(values, 0)?, texts(values, 1)?);
                each(rows, |row, out: &mut Made| {
                    let (Some(text), Some(to)) = (text.get(row), to.get(row)) else {
                        return Ok(false);
                    };
                    out.push(&regex.replace_all(text, to))?;
                    Ok(true)
                })
            })
        }
        Function::RegexpExtract => {
            let regex = regex(&pattern)?;
            let groups = regex.captures_len();
            let group = usize::try_from(group)
                .ok()
                .filter(|group| *group < groups)
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "{}: the pattern has no such group groups={} found={group}",
                        call.expr,
                        groups - 1
                    ))
                })?;
            call.finish(DataType::Utf8View, true, false, move |values, rows| {
                Ok(cut(texts(values, 0)?, rows, |_, text| {
                    Some(regex.captures(text)?.get(group)?.range())
                }))
            })
        }
        _ => matches(call, Matcher::Regex(regex(&pattern)?)),
    })
}

/// `contains`, `starts_with` or `ends_with`, of a constant or a column.
fn part(mut call: Binding<'_>) -> Typed {
    let function = call.function;
    let constant = call.args[1].constant().and_then(|value| {
        let value = value.as_string_view();
        value.is_valid(0).then(|| value.value(0).to_owned())
    });
    if let Some(text) = constant {
        call.args.truncate(1);
        return matches(call, Matcher::Pieces(Pieces::part(function, text)));
    }
    let kernel = match function {
        Function::StartsWith => comparison::starts_with,
        Function::EndsWith => comparison::ends_with,
        _ => comparison::contains,
    };
    call.total(DataType::Boolean, move |values, _| {
        let (text, part) = (argument(values, 0)?, argument(values, 1)?);
        Ok(Arc::new(kernel(text, part)?))
    })
}

fn matches(call: Binding<'_>, matcher: Matcher) -> Typed {
    let kernel = move |values: &[Value], _| -> Result<ArrayRef> {
        let text = argument(values, 0)?.array().as_string_view();
        Ok(Arc::new(matcher.run(text)))
    };
    call.total(DataType::Boolean, kernel)
}

fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        // The crate draws a picture over several lines; its last one is the reason.
        let picture = error.to_string();
        let reason = picture.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        Error::invalid(format!(
            "bad regular expression: {reason} pattern={pattern:?}"
        ))
    })
}

enum Matcher {
    Pieces(Pieces),
    Regex(Regex),
}

impl Matcher {
    fn like(pattern: &str) -> Result<Matcher> {
        Ok(match Pieces::like(pattern) {
            Some(pieces) => Matcher::Pieces(pieces),
            None => Matcher::Regex(like_regex(pattern, "s")?),
        })
    }

    fn run(&self, text: &StringViewArray) -> BooleanArray {
        let is_valid = |row| text.nulls().is_none_or(|nulls| nulls.is_valid(row));
        let found = match self {
            Matcher::Regex(regex) => BooleanBuffer::collect_bool(text.len(), |row| {
                is_valid(row) && regex.is_match(text.value(row))
            }),
            Matcher::Pieces(pieces) => {
                let views = text.views();
                BooleanBuffer::collect_bool(text.len(), |row| {
                    pieces.may_match(views[row])
                        && is_valid(row)
                        && pieces.is_match(text.value(row).as_bytes())
                })
            }
        };
        BooleanArray::new(found, text.nulls().cloned())
    }
}

/// One token of a LIKE pattern.
enum Token {
    Plain(char),
    /// `_`
    One,
    /// `%`
    Any,
}

fn tokens(pattern: &str) -> impl Iterator<Item = Token> {
    let mut chars = pattern.chars();
    std::iter::from_fn(move || {
        Some(match chars.next()? {
            '%' => Token::Any,
            '_' => Token::One,
            '\\' => Token::Plain(chars.next().unwrap_or('\\')),
            other => Token::Plain(other),
        })
    })
}

fn like_regex(pattern: &str, flags: &str) -> Result<Regex> {
    let mut text = format!("(?{flags})^");
    for token in tokens(pattern) {
        match token {
            Token::Any => text.push_str(".*"),
            Token::One => text.push('.'),
            Token::Plain(char) => text.push_str(&regex::escape(char.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push('$');
    regex(&text)
}

/// A pattern without `_`.
struct Pieces {
    prefix: Vec<u8>,
    /// To be found one after the other behind the prefix and before the suffix.
    middle: Vec<Finder<'static>>,
    suffix: Vec<u8>,
    /// There is no `%`: the prefix is everything.
    whole: bool,
    bytes_min: u32,
    /// The first four bytes of the prefix as they stand in a view, and which of them there are.
    start: u32,
    start_mask: u32,
}

impl Pieces {
    fn new(prefix: Vec<u8>, middle: Vec<Vec<u8>>, suffix: Vec<u8>, whole: bool) -> Self {
        let middle_bytes = middle.iter().map(Vec::len).sum::<usize>();
        let known = prefix.len().min(4);
        let (mut start, mut mask) = ([0; 4], [0; 4]);
        start[..known].copy_from_slice(&prefix[..known]);
        mask[..known].fill(0xff);
        Pieces {
            bytes_min: (prefix.len() + middle_bytes + suffix.len()) as u32,
            start: u32::from_le_bytes(start),
            start_mask: u32::from_le_bytes(mask),
            middle: middle
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .map(|piece| Finder::new(&piece).into_owned())
                .collect(),
            prefix,
            suffix,
            whole,
        }
    }

    /// None if the pattern has a `_`.
    fn like(pattern: &str) -> Option<Pieces> {
        let mut pieces = vec![String::new()];
        for token in tokens(pattern) {
            match token {
                Token::Any => pieces.push(String::new()),
                Token::One => return None,
                Token::Plain(char) => pieces.last_mut()?.push(char),
            }
        }
        let mut pieces: Vec<Vec<u8>> = pieces.into_iter().map(String::into_bytes).collect();
        let whole = pieces.len() == 1;
        let prefix = pieces.remove(0);
        let suffix = pieces.pop().unwrap_or_default();
        Some(Pieces::new(prefix, pieces, suffix, whole))
    }

    fn part(function: Function, text: String) -> Pieces {
        let (text, none) = (text.into_bytes(), Vec::new);
        match function {
            Function::StartsWith => Pieces::new(text, none(), Vec::new(), false),
            Function::EndsWith => Pieces::new(Vec::new(), none(), text, false),
            _ => Pieces::new(Vec::new(), vec![text], Vec::new(), false),
        }
    }

    /// False only where the view alone tells that there is no match.
    #[inline]
    fn may_match(&self, view: u128) -> bool {
        view as u32 >= self.bytes_min && (view >> 32) as u32 & self.start_mask == self.start
    }

    fn is_match(&self, text: &[u8]) -> bool {
        if self.whole {
            return text == self.prefix;
        }
        // Comparing nothing is not free: an empty vector points nowhere, and the processor takes
        // hundreds of cycles to find out that it need not look there.
        let begins = self.prefix.is_empty() || text.starts_with(&self.prefix);
        let ends = self.suffix.is_empty() || text.ends_with(&self.suffix);
        if text.len() < self.bytes_min as usize || !begins || !ends {
            return false;
        }
        let mut rest = &text[self.prefix.len()..text.len() - self.suffix.len()];
        for piece in &self.middle {
            let Some(at) = piece.find(rest) else {
                return false;
            };
            rest = &rest[at + piece.needle().len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likes_agree_with_their_regular_expressions() {
        const PIECES: [&str; 8] = ["a", "b", "ab", "%", "%", "ß", "\\%", "\\_"];
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut some = |pieces: &[&str], most| -> String {
                (0..random.usize(..most))
                    .map(|_| pieces[random.usize(..pieces.len())])
                    .collect()
            };
            let pattern = some(&PIECES, 7);
            let texts: Vec<Option<String>> = (0..10)
                .map(|_| {
                    Some(some(
                        &["a", "b", "ab", "ß", "%", "_", "long enough", "\n"],
                        8,
                    ))
                })
                .chain([None])
                .collect();
            let texts: StringViewArray = texts.iter().map(Option::as_deref).collect();
            let pieces = Pieces::like(&pattern).expect("no underscore but escaped");
            let found = Matcher::Pieces(pieces).run(&texts);
            let regex = like_regex(&pattern, "s").expect("a pattern");
            assert_eq!(
                found,
                Matcher::Regex(regex).run(&texts),
                "seed={seed} {pattern}"
            );
        }
    }
}
