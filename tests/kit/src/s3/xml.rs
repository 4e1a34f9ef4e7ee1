//! The little XML that the protocol needs: written by hand, picked from by name.

use std::fmt::Write as _;

/// `text` where XML has text.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            char if char < ' ' => {
                write!(escaped, "&#{};", u32::from(char)).expect("a string takes all");
            }
            char => escaped.push(char),
        }
    }
    escaped
}

/// The text of every element called `name`, in order.
pub(super) fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let behind = xml.split(open.as_str()).skip(1);
    let texts = behind.filter_map(|rest| rest.split(close.as_str()).next());
    texts.map(unescape).collect()
}

fn unescape(text: &str) -> String {
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    plain.iter().fold(text.to_owned(), |text, (escape, char)| {
        text.replace(escape, char)
    })
}
