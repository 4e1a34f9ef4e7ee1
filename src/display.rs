//! Record batches as a table for people.
//!
//! Numbers stand at the right, everything else at the left. Control characters are shown escaped,
//! so that no value can command the terminal, and long values are cut: whoever wants every byte
//! writes files.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableComponent};
use kiln_engine::{Error, Result};

/// Characters of one cell that are shown.
const CELL_CHARS_MAX: usize = 100;

/// Lays out `batches` under the columns of `schema`.
///
/// ```
/// # use std::sync::Arc;
/// # use kiln::arrow::array::{Int64Array, RecordBatch, StringArray};
/// let word = Arc::new(StringArray::from(vec!["the", "kiln"])) as _;
/// let count = Arc::new(Int64Array::from(vec![12, 3])) as _;
/// let batch = RecordBatch::try_from_iter([("word", word), ("count", count)])?;
/// let text = kiln::display::table(&batch.schema(), &[batch])?;
/// assert_eq!(text, "word  count\n───────────\nthe      12\nkiln      3\n");
/// # Ok::<(), kiln::Error>(())
/// ```
///
/// # Errors
/// `Invalid` if a value has no text form.
pub fn table(schema: &Schema, batches: &[RecordBatch]) -> Result<String> {
    let fields = schema.fields();
    let right: Vec<bool> = fields
        .iter()
        .map(|field| is_number(field.data_type()))
        .collect();
    let mut rows = Vec::new();
    for batch in batches {
        rows.extend(texts(batch)?);
    }
    let header: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    Ok(lines(&header, &right, rows))
}

/// Lays out `rows` of text under `header`; `right[i]` puts column `i` at the right.
pub fn lines(header: &[&str], right: &[bool], rows: Vec<Vec<String>>) -> String {
    if header.is_empty() {
        return String::new();
    }
    let cell = |column: usize, text: &str| {
        let alignment = if right[column] {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        };
        Cell::new(printable(text)).set_alignment(alignment)
    };
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(header.iter().enumerate().map(|(i, name)| cell(i, name)));
    for row in &rows {
        table.add_row(row.iter().enumerate().map(|(i, text)| cell(i, text)));
    }
    let last = header.len() - 1;
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == last { 0 } else { 1 }));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `url` as a person would type it: a path, from here if it is below here, for a local file.
pub fn location(url: &str) -> String {
    let path = match kiln_engine::storage::local_path(url) {
        Some(path) => path,
        None if url.starts_with('/') => PathBuf::from(url),
        None => return url.to_owned(),
    };
    let here = std::env::current_dir().ok();
    let below = here
        .as_deref()
        .and_then(|here| path.strip_prefix(here).ok());
    match below {
        Some(below) if !below.as_os_str().is_empty() => below.display().to_string(),
        _ => path.display().to_string(),
    }
}

fn texts(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).map_err(Error::from))
        .collect::<Result<_>>()?;
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| Ok(column.value(row).try_to_string()?))
                .collect::<Result<Vec<String>>>()
        })
        .collect()
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// `text` without control characters and not longer than a line.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(CELL_CHARS_MAX));
    for (at, character) in text.chars().enumerate() {
        if at == CELL_CHARS_MAX {
            shown.push('…');
            break;
        }
        if character.is_control() || turns_text_around(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a terminal would show what follows in another order than it is written in.
fn turns_text_around(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn cells_are_harmless_and_short() {
        let rows = vec![
            vec!["\x1b[31mred\n".to_owned(), "1".to_owned()],
            vec!["x".repeat(200), "1000".to_owned()],
            vec!["日本".to_owned(), "20".to_owned()],
            vec!["\u{202e}txt".to_owned(), "3".to_owned()],
        ];
        expect![[r#"
            word                                                                                                      n
            ───────────────────────────────────────────────────────────────────────────────────────────────────────────
            \u{1b}[31mred\n                                                                                           1
            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  1000
            日本                                                                                                     20
            \u{202e}txt                                                                                               3
        "#]].assert_eq(&lines(&["word", "n"], &[false, true], rows));
    }
}
