//! What a person types becomes an absolute URL.
//!
//! A URL in Kiln names one file or directory, with every other character than the plainest
//! percent-encoded, or it is a glob. The two cannot be confused: a glob's own characters
//! (`* ? [ {`) stand raw only where they mean a pattern, and are encoded where a file is called
//! so. A URL therefore survives being parsed again, unchanged.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::id::JobId;

/// Schemes of stores that Kiln can reach.
const SCHEMES: &[&str] = &[
    "file", "memory", "s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https",
];

/// Characters that begin a pattern where they stand raw.
const GLOB_STARTS: &[u8] = b"*?[{";

/// Characters that a pattern may hold raw besides those of a plain path.
const GLOB_BODY: &[u8] = b"*?[]{}";

/// The absolute URL of what somebody typed: a path of this machine, or a URL.
///
/// A path may hold any character. Where it contains glob characters and exists literally, in
/// whole or up to some directory, that part is taken literally; what remains is a pattern.
///
/// # Errors
/// `Invalid` for an empty text, an unknown scheme, a URL without its authority, or a relative
/// path when the working directory is gone.
pub fn parse_location(text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::invalid("empty location: expected a path or a URL"));
    }
    let Some((scheme, rest)) = split_scheme(text) else {
        return path_url(Path::new(text)).map_err(|error| error.context(text));
    };
    let scheme = scheme.to_ascii_lowercase();
    if !SCHEMES.contains(&scheme.as_str()) {
        return Err(Error::invalid(format!(
            "unknown scheme {scheme:?}: expected a path or one of {} location={text}",
            SCHEMES.join(", ")
        )));
    }
    match scheme.as_str() {
        "file" => file_location(text, rest),
        "memory" => Ok(format!(
            "memory:///{}",
            encode_typed(rest.trim_start_matches('/'), GLOB_BODY)
        )),
        "http" | "https" => http_location(text, &scheme, rest),
        _ => {
            let (authority, path) = split_authority(rest);
            need_authority(text, authority)?;
            Ok(format!(
                "{scheme}://{authority}{}",
                encode_typed(path, GLOB_BODY)
            ))
        }
    }
    .map(|url| trim_slash(&url).to_owned())
}

/// The path of a `file` URL; none for every other URL.
pub fn local_path(url: &str) -> Option<PathBuf> {
    let path = url
        .strip_prefix("file://")
        .filter(|path| path.starts_with('/'))?;
    Some(PathBuf::from(OsString::from_vec(decode(path))))
}

/// The URL of an absolute path, taken literally.
pub fn local_url(path: &Path) -> String {
    format!("file://{}", encode(path.as_os_str().as_bytes(), b""))
}

/// Where the attempts of `job` write before its output at `output` is committed: a hidden
/// directory beside it on a file system, so that commit is a rename; below it elsewhere.
///
/// # Errors
/// `Invalid` if the output is a file system's root.
pub fn staging_url(output: &str, job: JobId) -> Result<String> {
    let output = trim_slash(output);
    if !output.starts_with("file://") {
        return Ok(format!("{output}/_staging-{job}"));
    }
    match output.rsplit_once('/') {
        Some((parent, name)) if !name.is_empty() => Ok(format!("{parent}/.{name}.kiln-{job}")),
        _ => Err(Error::invalid(format!(
            "a root cannot be an output directory output={output}"
        ))),
    }
}

/// Whether the URL is a pattern.
pub(super) fn is_glob(url: &str) -> bool {
    // A query is no pattern, and the web has no listing to match one against.
    !is_http(url) && url.bytes().any(|byte| GLOB_STARTS.contains(&byte))
}

/// Whether the URL is one of the web, where nothing can be listed.
pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Decodes `%XX`; a `%` without two digits behind it stays.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape_at(bytes, at) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// The byte that a `%XX` at `at` stands for.
pub(super) fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digits = bytes.get(at..at + 3).filter(|escape| escape[0] == b'%')?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[1])? << 4 | digit(digits[2])?).ok()
}

/// Encodes every byte but those of a plain path and those in `keep`.
pub(super) fn encode(bytes: &[u8], keep: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"/-_.~!$&'()+,;=:@".contains(&byte);
        if plain || keep.contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// Encodes what was typed as part of a URL: escapes that are there stay.
fn encode_typed(text: &str, keep: &[u8]) -> String {
    let bytes = text.as_bytes();
    let mut encoded = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        // Spelled again, so that one place has one URL.
        let (byte, width) = escape_at(bytes, at).map_or((bytes[at], 1), |byte| (byte, 3));
        let keep = if width == 1 { keep } else { b"" };
        // An encoded slash is part of a name, not a separator.
        match (width, byte) {
            (3, b'/') => encoded.push_str("%2F"),
            _ => encoded.push_str(&encode(&[byte], keep)),
        }
        at += width;
    }
    encoded
}

/// `scheme` and what follows `://`, if the text begins so.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let letter = scheme
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    let tail = scheme
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (letter && tail).then_some((scheme, rest))
}

/// The authority, and the path with its leading slash or nothing.
fn split_authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn need_authority(text: &str, authority: &str) -> Result<()> {
    if authority.is_empty() {
        return Err(Error::invalid(format!(
            "the URL names no bucket or host location={text}"
        )));
    }
    Ok(())
}

fn http_location(text: &str, scheme: &str, rest: &str) -> Result<String> {
    let (authority, path) = split_authority(rest);
    need_authority(text, authority)?;
    if rest.contains(['?', '#']) {
        return Err(Error::invalid(format!(
            "a web location cannot have a query or a fragment location={text}"
        )));
    }
    Ok(format!("{scheme}://{authority}{}", encode_typed(path, b"")))
}

fn file_location(text: &str, rest: &str) -> Result<String> {
    let (authority, path) = split_authority(rest);
    if !(authority.is_empty() || authority == "localhost") || path.is_empty() {
        return Err(Error::invalid(format!(
            "a file URL has three slashes and an absolute path location={text}"
        )));
    }
    let url = format!("file://{}", encode_typed(path, GLOB_BODY));
    let literal = format!("file://{}", encode_typed(path, b""));
    let exists = local_path(&literal).is_some_and(|path| path.symlink_metadata().is_ok());
    Ok(if exists { literal } else { url })
}

fn path_url(path: &Path) -> Result<String> {
    let absolute = absolute(path)?;
    let mut literal = PathBuf::from("/");
    let mut url = String::from("file://");
    let mut pattern = false;
    for component in absolute.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let name = name.as_bytes();
        literal.push(component);
        // Only a name that could be a pattern is worth asking the file system about.
        let glob = name.iter().any(|byte| GLOB_STARTS.contains(byte));
        pattern = pattern || (glob && literal.symlink_metadata().is_err());
        url.push('/');
        url.push_str(&encode(name, if pattern { GLOB_BODY } else { b"" }));
    }
    Ok(if absolute.parent().is_none() {
        "file:///".to_owned()
    } else {
        url
    })
}

/// `path` from the root, without `.` and `..`. A `..` behind a symbolic link means the parent of
/// what the link points to, so everything up to the last `..` is resolved where it exists.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |error| Error::invalid("cannot make the path absolute").with_source(error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    let components: Vec<Component<'_>> = absolute.components().collect();
    let Some(last) = components
        .iter()
        .rposition(|part| *part == Component::ParentDir)
    else {
        return Ok(absolute);
    };
    let (head, tail) = components.split_at(last + 1);
    let head: PathBuf = head.iter().collect();
    let mut resolved = std::fs::canonicalize(&head).unwrap_or_else(|_| lexical(&head));
    resolved.extend(tail);
    Ok(resolved)
}

fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// Without the slashes at its end, except those of a root.
fn trim_slash(url: &str) -> &str {
    let root = url.find("://").map_or(0, |at| at + 3);
    let path = url[root..].find('/').map_or(url.len(), |at| root + at);
    let trimmed = url.trim_end_matches('/');
    if trimmed.len() <= path {
        &url[..url.len().min(path + 1)]
    } else {
        trimmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        match parse_location(text) {
            Ok(url) => url,
            Err(error) => format!("{}: {}", error.kind(), error.report()),
        }
    }

    #[test]
    fn what_people_type_becomes_a_url() {
        let cases = [
            ("/data/a.txt", "file:///data/a.txt"),
            ("/data/dir/", "file:///data/dir"),
            ("/data/./x//y", "file:///data/x/y"),
            ("/", "file:///"),
            ("/no/such/../dir/x", "file:///no/dir/x"),
            ("/a b/c#1/50%/é", "file:///a%20b/c%231/50%25/%C3%A9"),
            ("/no/such/*.{csv,txt}", "file:///no/such/*.{csv,txt}"),
            (
                "/no/such/a?[0-9]/**/x y",
                "file:///no/such/a?[0-9]/**/x%20y",
            ),
            ("file:///data/a%20b", "file:///data/a%20b"),
            ("file:///data/a b", "file:///data/a%20b"),
            ("FILE://localhost/data", "file:///data"),
            ("file:///data/%2a*", "file:///data/%2A*"),
            ("memory:///x/y", "memory:///x/y"),
            ("memory://x/y/", "memory:///x/y"),
            ("memory://", "memory:///"),
            ("s3://bucket/dir/*.csv", "s3://bucket/dir/*.csv"),
            ("s3://bucket/dir/a?b#c%", "s3://bucket/dir/a?b%23c%25"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket/"),
            (
                "abfs://box@account.dfs.core.windows.net/d",
                "abfs://box@account.dfs.core.windows.net/d",
            ),
            (
                "https://example.com/a b.csv",
                "https://example.com/a%20b.csv",
            ),
        ];
        for (typed, url) in cases {
            assert_eq!(parse(typed), url, "{typed}");
            assert_eq!(parse(url), url, "{url} again");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_in_one_line() {
        let cases = [
            ("", "invalid: empty location"),
            ("hdfs://host/x", "invalid: unknown scheme \"hdfs\""),
            (
                "s3:///x",
                "invalid: the URL names no bucket or host location=s3:///x",
            ),
            ("file://data/x", "invalid: a file URL has three slashes"),
            (
                "https://example.com/x?y=1",
                "invalid: a web location cannot have a query",
            ),
        ];
        for (typed, message) in cases {
            let answer = parse(typed);
            assert!(
                answer.starts_with(message) && !answer.contains('\n'),
                "{typed}: {answer}"
            );
        }
    }

    #[test]
    fn a_relative_path_starts_at_the_working_directory() {
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(
            local_path(&parse("x/y")).expect("a local URL"),
            here.join("x/y")
        );
        assert_eq!(parse("s3:x"), format!("{}/s3:x", local_url(&here)));
    }

    #[test]
    fn any_name_survives_the_round_trip() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in [
            "a b",
            "50%",
            "%41",
            "#",
            "x#1",
            "é\u{1F600}",
            "a\tb",
            "a*",
            "[x]",
            "{",
            "?",
        ] {
            let path = directory.path().join(name);
            assert_eq!(local_path(&local_url(&path)).expect("a local URL"), path);
            std::fs::write(&path, "x").expect("a file");
            let url = parse(path.to_str().expect("UTF-8"));
            assert_eq!(local_path(&url).expect("a local URL"), path, "{url}");
            assert!(
                !is_glob(&url),
                "{name} exists and is taken literally: {url}"
            );
            assert_eq!(parse(&url), url);
        }
        let below = directory.path().join("[x]y/*.txt");
        assert!(is_glob(&parse(below.to_str().expect("UTF-8"))));
        std::fs::create_dir(directory.path().join("[x]y")).expect("a directory");
        let url = parse(below.to_str().expect("UTF-8"));
        assert!(url.ends_with("/%5Bx%5Dy/*.txt"), "{url}");
    }

    #[test]
    fn staging_is_beside_a_directory_and_below_a_prefix() {
        let job = JobId::new(0xabc);
        let stage = |output| staging_url(output, job).map_err(|error| error.report());
        assert_eq!(
            stage("file:///a/out").as_deref(),
            Ok("file:///a/.out.kiln-000000000abc")
        );
        assert_eq!(
            stage("s3://b/out").as_deref(),
            Ok("s3://b/out/_staging-000000000abc")
        );
        assert!(stage("file:///").is_err());
    }
}
