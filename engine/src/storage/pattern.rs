//! Globs: `*`, `?`, `[…]` and `{…}` within a name, `**` across directories.
//!
//! A pattern is cut where its first glob character stands: what is before is a directory to start
//! from, what is behind is matched against paths relative to it, a name at a time where that is
//! possible, so that directories which cannot lead to a match are not even opened.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::location::escape_at;
use crate::error::{Error, Result};

/// Whether a name is skipped below a directory: bookkeeping, not data.
pub(super) fn hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'_' | b'.'))
}

/// A glob, cut into the directory that it starts from and what to match below it.
pub(super) struct Pattern {
    /// URL of the directory.
    base: String,
    whole: GlobMatcher,
    /// Matchers of the first 1, 2, … components: where to look further. Empty where a component
    /// cannot be told from the next.
    levels: Vec<GlobMatcher>,
    /// The pattern names hidden files.
    hidden: bool,
    /// Matches may lie at any depth.
    any_depth: bool,
}

impl Pattern {
    /// # Errors
    /// `Invalid` for a bracket or a brace that is not closed.
    pub(super) fn parse(url: &str) -> Result<Pattern> {
        let at = url.find(['*', '?', '[', '{']).unwrap_or(url.len());
        let cut = url[..at].rfind('/').map_or(at, |slash| slash + 1);
        let (base, tail) = url.split_at(cut);
        let matcher = |glob: &str| {
            let mut builder = GlobBuilder::new(glob);
            builder.literal_separator(true).backslash_escape(false);
            builder
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| {
                    Error::invalid(format!("not a valid pattern location={url}"))
                        .with_source(error.kind().to_string())
                })
        };
        let glob = glob_text(tail);
        let components: Vec<&str> = glob.split('/').collect();
        let any_depth = components.iter().any(|component| component.contains("**"));
        // A brace that spans a slash has no meaning per component.
        let plain = components.iter().all(|part| {
            part.matches('{').count() == part.matches('}').count()
                && part.matches('[').count() <= part.matches(']').count()
        });
        let levels = if plain && !any_depth {
            let prefixes = 1..components.len();
            prefixes
                .map(|end| matcher(&components[..end].join("/")))
                .collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(Pattern {
            base: base.to_owned(),
            whole: matcher(&glob)?,
            hidden: components
                .iter()
                .any(|component| hidden(component.as_bytes())),
            any_depth: any_depth || !plain,
            levels,
        })
    }

    /// URL of the directory to start from, with a slash at its end.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Whether names that are usually skipped may match.
    pub(super) fn names_hidden(&self) -> bool {
        self.hidden
    }

    /// Whether matches may lie at any depth.
    pub(super) fn any_depth(&self) -> bool {
        self.any_depth
    }

    /// Whether a path, relative to the base, matches.
    pub(super) fn matches(&self, relative: &[u8]) -> bool {
        self.whole.is_match(Path::new(OsStr::from_bytes(relative)))
    }

    /// Whether something below a directory might match.
    pub(super) fn may_match_below(&self, relative: &[u8]) -> bool {
        let depth = relative.iter().filter(|&&byte| byte == b'/').count();
        self.any_depth
            || self
                .levels
                .get(depth)
                .is_some_and(|level| level.is_match(Path::new(OsStr::from_bytes(relative))))
    }
}

/// The pattern with its escapes undone: a character that was encoded means itself.
fn glob_text(tail: &str) -> String {
    let bytes = tail.as_bytes();
    let mut glob = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape_at(bytes, at) {
            Some(byte @ (b'*' | b'?' | b'[' | b']' | b'{' | b'}')) => {
                glob.extend_from_slice(&[b'[', byte, b']']);
                at += 3;
            }
            Some(byte) => {
                glob.push(byte);
                at += 3;
            }
            None => {
                glob.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&glob).into_owned()
}
