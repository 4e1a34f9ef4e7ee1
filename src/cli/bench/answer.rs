//! The answer of a query as text, and how it differs from another.
//!
//! The text form is that of the benchmark's answer files: a header, `|` between columns, decimals
//! with all their digits, nulls empty. Two answers agree if they have the same rows in the same
//! order, decimals to the last digit and floating-point numbers to a relative 1e-9, which is far
//! above the differences that the order of additions makes and far below an error. Rows between
//! which the order of the query does not decide may come either way round: they are brought into
//! the order of their text.

use kiln::arrow::array::{Array as _, AsArray as _, RecordBatch};
use kiln::arrow::datatypes::{DataType, Float64Type, Schema};
use kiln::arrow::util::display::{ArrayFormatter, FormatOptions};
use kiln::{Error, Result};

/// How far floating-point numbers may differ, relative to their size.
const TOLERANCE: f64 = 1e-9;

/// Digits of floating-point numbers that a digest keeps: fewer than the tolerance, so that what
/// agrees has, but for values on the edge between two roundings, the same digest.
const DIGEST_DIGITS: usize = 7;

/// The rows of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) header: Vec<String>,
    pub(super) is_float: Vec<bool>,
    /// The cells, as text.
    pub(super) rows: Vec<Vec<String>>,
    /// The columns that order the rows and in which several of them may be equal; none if the
    /// order of the query tells all rows apart.
    ties: Vec<usize>,
}

impl Answer {
    /// The answer to query `number` that `batches` with the columns of `schema` are.
    ///
    /// # Errors
    /// `Invalid` if a value has no text form.
    pub(super) fn of(number: usize, schema: &Schema, batches: &[RecordBatch]) -> Result<Self> {
        let fields = schema.fields();
        let mut rows = Vec::new();
        for batch in batches {
            push_rows(&mut rows, batch)?;
        }
        let header = fields.iter().map(|field| field.name().clone()).collect();
        let is_float = fields
            .iter()
            .map(|field| field.data_type() == &DataType::Float64)
            .collect();
        Ok(Answer::new(number, header, is_float, rows))
    }

    /// An answer to query `number` with these cells.
    pub(super) fn new(
        number: usize,
        header: Vec<String>,
        is_float: Vec<bool>,
        mut rows: Vec<Vec<String>>,
    ) -> Self {
        let names = ties(number).iter();
        let places = names.map(|name| header.iter().position(|column| column == name));
        let ties: Vec<usize> = places.flatten().collect();
        settle(&mut rows, &ties);
        Answer {
            header,
            is_float,
            rows,
            ties,
        }
    }

    /// The text of an answer file.
    pub(super) fn csv(&self) -> String {
        let mut text = self.header.join("|");
        text.push('\n');
        for row in &self.rows {
            text.push_str(&row.join("|"));
            text.push('\n');
        }
        text
    }

    /// The first thing in which this differs from an answer file, if it does.
    pub(super) fn difference(&self, expected: &str) -> Option<String> {
        let mut lines = expected.lines();
        let header = lines.next().unwrap_or_default();
        if header != self.header.join("|") {
            let columns = self.header.join("|");
            return Some(format!("the columns are {columns:?}, not {header:?}"));
        }
        let mut expected: Vec<Vec<&str>> = lines.map(|line| line.split('|').collect()).collect();
        settle(&mut expected, &self.ties);
        if expected.len() != self.rows.len() {
            let (found, wanted) = (self.rows.len(), expected.len());
            return Some(format!("{found} rows instead of {wanted}"));
        }
        for (number, (found, expected)) in self.rows.iter().zip(&expected).enumerate() {
            let is_equal = found.len() == expected.len()
                && (found.iter().zip(expected).zip(&self.is_float))
                    .all(|((found, expected), is_float)| agree(found, expected, *is_float));
            if !is_equal {
                let (found, expected) = (found.join("|"), expected.join("|"));
                let number = number + 1;
                return Some(format!("row {number} is {found:?}, not {expected:?}"));
            }
        }
        None
    }

    /// A number that is the same for answers that agree, and for hardly any other.
    pub(super) fn digest(&self) -> u64 {
        let mut text = self.header.join("|");
        for row in &self.rows {
            text.push('\n');
            for (cell, is_float) in row.iter().zip(&self.is_float) {
                match cell.parse::<f64>() {
                    Ok(value) if *is_float => text.push_str(&format!("{value:.DIGEST_DIGITS$e}")),
                    _ => text.push_str(cell),
                }
                text.push('|');
            }
        }
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }
}

/// The columns that order the rows of query `number`, if several rows may be equal in all of them.
pub(super) fn ties(number: usize) -> &'static [&'static str] {
    match number {
        3 => &["revenue", "o_orderdate"],
        5 | 10 => &["revenue"],
        11 => &["value"],
        18 => &["o_totalprice", "o_orderdate"],
        _ => &[],
    }
}

/// Brings neighbours that are equal in all columns of `ties` into the order of their text.
fn settle<T: Ord>(rows: &mut [Vec<T>], ties: &[usize]) {
    if ties.is_empty() {
        return;
    }
    // A file may hold lines of too few columns.
    let is_tied = |one: &Vec<T>, next: &Vec<T>| {
        let mut columns = ties.iter();
        columns.all(|column| one.get(*column) == next.get(*column))
    };
    for tied in rows.chunk_by_mut(is_tied) {
        tied.sort_unstable();
    }
}

fn agree(found: &str, expected: &str, is_float: bool) -> bool {
    if found == expected {
        return true;
    }
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) if is_float => {
            (found - expected).abs() <= TOLERANCE * found.abs().max(expected.abs())
        }
        _ => false,
    }
}

fn push_rows(rows: &mut Vec<Vec<String>>, batch: &RecordBatch) -> Result<()> {
    let options = FormatOptions::default();
    let columns = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).map_err(Error::from))
        .collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        let cells = columns.iter().zip(batch.columns()).map(|(text, column)| {
            match column.as_primitive_opt::<Float64Type>() {
                // The shortest text that reads back as the same number.
                Some(values) if values.is_valid(row) => Ok(format!("{:?}", values.value(row))),
                _ => Ok(text.value(row).try_to_string()?),
            }
        });
        rows.push(cells.collect::<Result<_>>()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[[&str; 2]]) -> Answer {
        let header = vec!["price".to_owned(), "share".to_owned()];
        let rows = rows.iter().map(|row| row.map(str::to_owned).to_vec());
        Answer::new(1, header, vec![false, true], rows.collect())
    }

    #[test]
    fn answers_agree_to_the_last_digit_of_decimals_and_nine_of_floats() {
        let found = answer(&[["1.10", "0.333333333333"], ["2.00", ""]]);
        let cases = [
            ("price|share\n1.10|0.333333333333\n2.00|\n", None),
            ("price|share\n1.10|0.333333333334\n2.00|\n", None),
            (
                "price|share\n1.11|0.333333333333\n2.00|\n",
                Some(r#"row 1 is "1.10|0.333333333333", not "1.11|0.333333333333""#),
            ),
            (
                "price|share\n1.10|0.33333333\n2.00|\n",
                Some(r#"row 1 is "1.10|0.333333333333", not "1.10|0.33333333""#),
            ),
            (
                "price|share\n1.10|0.333333333333\n",
                Some("2 rows instead of 1"),
            ),
            (
                "price\n",
                Some(r#"the columns are "price|share", not "price""#),
            ),
        ];
        for (expected, difference) in cases {
            let found = found.difference(expected);
            assert_eq!(found.as_deref(), difference, "{expected:?}");
        }
    }

    #[test]
    fn rows_that_the_order_does_not_tell_apart_may_change_places() {
        let of_query = |number: usize, rows: &[[&str; 2]]| {
            let header = vec!["ps_partkey".to_owned(), "value".to_owned()];
            let rows = rows.iter().map(|row| row.map(str::to_owned).to_vec());
            Answer::new(number, header, vec![false, false], rows.collect())
        };
        let there = [["3", "2.5"], ["2", "2.5"], ["1", "2.0"]];
        let and_back = [["2", "2.5"], ["3", "2.5"], ["1", "2.0"]];
        let elsewhere = [["2", "2.5"], ["1", "2.0"], ["3", "2.5"]];
        let file = "ps_partkey|value\n3|2.5\n2|2.5\n1|2.0\n";
        for rows in [&there, &and_back] {
            assert_eq!(of_query(11, rows).difference(file), None, "{rows:?}");
            let digest = of_query(11, rows).digest();
            assert_eq!(digest, of_query(11, &there).digest(), "{rows:?}");
        }
        assert!(of_query(11, &elsewhere).difference(file).is_some());
        assert!(
            of_query(11, &there)
                .difference("ps_partkey|value\n3\n2\n1\n")
                .is_some()
        );
        // The order of query 1 tells all rows apart.
        assert!(of_query(1, &and_back).difference(file).is_some());
    }

    #[test]
    fn digests_differ_where_answers_do() {
        let rows = [["1.10", "0.333333333333"], ["2.00", ""]];
        let digest = answer(&rows).digest();
        let near = [["1.10", "0.333333333334"], ["2.00", ""]];
        assert_eq!(answer(&near).digest(), digest);
        let others = [
            [["1.11", "0.333333333333"], ["2.00", ""]],
            [["1.10", "0.333334"], ["2.00", ""]],
            [["2.00", ""], ["1.10", "0.333333333333"]],
        ];
        for other in others {
            assert_ne!(answer(&other).digest(), digest, "{other:?}");
        }
    }
}
