//! Records and fields one at a time: slow, and only for headers, samples and error messages.

use std::borrow::Cow;

use memchr::memchr_iter;

use super::cut::Cutter;

/// A record among the bytes of a block.
pub(super) struct Record<'a> {
    /// Its bytes, without its line end.
    pub(super) bytes: &'a [u8],
    /// Line of the file on which it starts.
    pub(super) line: u64,
    /// Where the next record starts in the block.
    pub(super) end: usize,
}

/// The records of `block`, whose first byte is on `line`. Blank lines are none.
pub(super) fn records(block: &[u8], delimiter: u8, line: u64) -> impl Iterator<Item = Record<'_>> {
    let (mut start, mut line) = (0, line);
    std::iter::from_fn(move || {
        while start < block.len() {
            let end = record_end(&block[start..], delimiter).map_or(block.len(), |end| start + end);
            let whole = &block[start..end];
            let record = Record {
                bytes: without_line_end(whole),
                line,
                end,
            };
            line += memchr_iter(b'\n', whole).count() as u64;
            start = end;
            if !record.bytes.is_empty() {
                return Some(record);
            }
        }
        None
    })
}

fn without_line_end(record: &[u8]) -> &[u8] {
    let last = record
        .iter()
        .rposition(|byte| !matches!(byte, b'\n' | b'\r'));
    &record[..last.map_or(0, |last| last + 1)]
}

/// One past the line end of the first record.
fn record_end(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let mut cutter = Cutter::new(delimiter);
    let mut from = 0;
    for newline in memchr_iter(b'\n', bytes) {
        if cutter.scan(&bytes[from..=newline]).is_some() {
            return Some(newline + 1);
        }
        from = newline + 1;
    }
    None
}

/// The fields of a record, unquoted.
pub(super) fn fields(record: &[u8], delimiter: u8) -> Vec<Cow<'_, str>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, after) = match rest.strip_prefix(b"\"") {
            Some(quoted) => quoted_field(quoted, delimiter),
            None => plain_field(rest, delimiter),
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return fields,
        }
    }
}

/// A field up to the next delimiter, and what stands behind that.
fn plain_field(bytes: &[u8], delimiter: u8) -> (Cow<'_, str>, Option<&[u8]>) {
    match bytes.iter().position(|&byte| byte == delimiter) {
        Some(end) => (
            String::from_utf8_lossy(&bytes[..end]),
            Some(&bytes[end + 1..]),
        ),
        None => (String::from_utf8_lossy(bytes), None),
    }
}

/// A field whose opening quote has been read.
fn quoted_field(bytes: &[u8], delimiter: u8) -> (Cow<'_, str>, Option<&[u8]>) {
    let mut text = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'"' {
            text.push(byte);
        } else if bytes.get(at) == Some(&b'"') {
            text.push(b'"');
            at += 1;
        } else {
            // What follows a closing quote is taken as it stands.
            let (tail, after) = plain_field(&bytes[at..], delimiter);
            text.extend_from_slice(tail.as_bytes());
            return (String::from_utf8_lossy(&text).into_owned().into(), after);
        }
    }
    (String::from_utf8_lossy(&text).into_owned().into(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_their_lines() {
        let text = b"a,b\r\n\n\"x\ny\",2\nlast";
        let found: Vec<(u64, &str)> = records(text, b',', 1)
            .map(|record| {
                (
                    record.line,
                    std::str::from_utf8(record.bytes).expect("text"),
                )
            })
            .collect();
        assert_eq!(found, [(1, "a,b"), (3, "\"x\ny\",2"), (5, "last")]);
    }

    #[test]
    fn fields_are_unquoted() {
        let check = |record: &str, expected: &[&str]| {
            assert_eq!(fields(record.as_bytes(), b';'), expected, "{record}");
        };
        check("a;b", &["a", "b"]);
        check("", &[""]);
        check(";", &["", ""]);
        check(r#""a;b";"c""d";x"y"#, &["a;b", "c\"d", "x\"y"]);
        check(r#""a"b;c"#, &["ab", "c"]);
        check(r#""open;"#, &["open;"]);
    }
}
