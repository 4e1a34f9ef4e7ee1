//! `kiln run sort`: rows in an order.

use clap::Args;

use super::OutputArgs;
use super::job::parse_top;

/// `sort`.
#[derive(Debug, Args)]
#[command(after_help = ORDER)]
pub(crate) struct SortArgs {
    /// The columns to sort by, the most significant first
    #[arg(
        long,
        value_name = "COL[:desc][,COL…]",
        required = true,
        value_delimiter = ',',
        value_parser = parse_key
    )]
    pub(crate) by: Vec<SortColumn>,
    /// Parquet, CSV or text files, directories, globs or URLs; all of one format
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the first N rows [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const ORDER: &str = "\
A column may be followed by :asc or :desc, and by :nulls-first or :nulls-last [default: asc,
nulls-last]. Lines of text are the column `line`. The files that are written are in order as a
whole: by name, and each in itself. In one process rows with equal keys stay in the order of the
input.";

/// One column of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SortColumn {
    /// Its name.
    pub(crate) name: String,
    /// Largest first.
    pub(crate) descending: bool,
    /// Nulls before everything else.
    pub(crate) nulls_first: bool,
}

/// A column and what is said of it. Names may have colons in them.
fn parse_key(text: &str) -> Result<SortColumn, String> {
    let mut column = SortColumn {
        name: text.to_owned(),
        descending: false,
        nulls_first: false,
    };
    while let Some((name, word)) = column.name.rsplit_once(':') {
        match word {
            "asc" => column.descending = false,
            "desc" => column.descending = true,
            "nulls-first" => column.nulls_first = true,
            "nulls-last" => column.nulls_first = false,
            _ => break,
        }
        column.name = name.to_owned();
    }
    match column.name.is_empty() {
        true => Err("a column has a name".to_owned()),
        false => Ok(column),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_a_column() {
        let found = |text: &str| {
            parse_key(text).map(|key| (key.name.clone(), key.descending, key.nulls_first))
        };
        let key =
            |name: &str, descending, nulls_first| Ok((name.to_owned(), descending, nulls_first));
        for (text, expected) in [
            ("a", key("a", false, false)),
            ("a:desc", key("a", true, false)),
            ("a:asc:nulls-first", key("a", false, true)),
            ("a:nulls-first:desc", key("a", true, true)),
            ("a:nulls-last", key("a", false, false)),
            ("a:b:desc", key("a:b", true, false)),
            ("a:dsc", key("a:dsc", false, false)),
            (":desc", Err("a column has a name".to_owned())),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}
