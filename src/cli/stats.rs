//! `kiln stats`: what files hold, as their footers say.

use std::io::{self, Write as _};

use kiln::{ColumnStats, FileStats, display};

use super::args::{GlobalResources, StatsArgs};
use super::connect;
use super::exit::{Failure, Outcome};
use super::units::{bytes, grouped, plural};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &StatsArgs) -> Outcome {
    let resources = GlobalResources {
        threads: Some(1),
        ..GlobalResources::default()
    };
    let session = connect::session(None, resources)?;
    let files = session.file_stats(&args.files).map_err(Failure::Job)?;
    let mut out = io::stdout();
    for (number, file) in files.iter().enumerate() {
        let gap = if number > 0 { "\n" } else { "" };
        write!(out, "{gap}{}", text(file))?;
    }
    Ok(())
}

/// One line on the file and one on each of its columns.
fn text(file: &FileStats) -> String {
    let mut first = format!(
        "{}: {}, {}",
        display::location(&file.url),
        file.format,
        bytes(file.bytes)
    );
    if let Some(rows) = file.rows {
        first.push_str(&format!(", {}", plural(rows, "row")));
    }
    if let Some(groups) = file.row_groups {
        first.push_str(&format!(" in {}", plural(groups as u64, "row group")));
    }
    let header = [
        "column",
        "type",
        "encodings",
        "codec",
        "stored",
        "encoded",
        "nulls",
        "least",
        "greatest",
    ];
    let mut right = [false; 9];
    right[4..7].fill(true);
    let says_more = file.rows.is_some();
    let width = if says_more { header.len() } else { 2 };
    let rows = file.columns.iter().map(|column| {
        let mut cells = cells(column);
        cells.truncate(width);
        cells
    });
    let table = display::lines(&header[..width], &right[..width], rows.collect());
    format!("{first}\n{table}")
}

fn cells(column: &ColumnStats) -> Vec<String> {
    let known = |figure: Option<u64>, text: fn(u64) -> String| figure.map_or(String::new(), text);
    vec![
        column.name.clone(),
        column.data_type.clone(),
        column.encodings.join(" "),
        column.codecs.join(" "),
        known(column.bytes, bytes),
        known(column.uncompressed_bytes, bytes),
        known(column.nulls, grouped),
        column.least.clone().unwrap_or_default(),
        column.greatest.clone().unwrap_or_default(),
    ]
}
