//! The answer of a query as text, and how it differs from another.
//!
//! The text form is that of the benchmark's answer files: a header, `|` between columns, decimals
//! with all their digits, nulls empty. Two answers agree if they have the same rows in the same
//! order, decimals to the last digit and floating-point numbers to a relative 1e-9, which is far
//! above the differences that the order of additions makes and far below an error.

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
}

impl Answer {
    /// The answer that `batches` with the columns of `schema` are.
    ///
    /// # Errors
    /// `Invalid` if a value has no text form.
    pub(super) fn of(schema: &Schema, batches: &[RecordBatch]) -> Result<Self> {
        let fields = schema.fields();
        let mut rows = Vec::new();
        for batch in batches {
            push_rows(&mut rows, batch)?;
        }
        Ok(Answer {
            header: fields.iter().map(|field| field.name().clone()).collect(),
            is_float: fields
                .iter()
                .map(|field| field.data_type() == &DataType::Float64)
                .collect(),
            rows,
        })
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
        let expected: Vec<Vec<&str>> = lines.map(|line| line.split('|').collect()).collect();
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
        Answer {
            header: vec!["price".to_owned(), "share".to_owned()],
            is_float: vec![false, true],
            rows: rows
                .iter()
                .map(|row| row.map(str::to_owned).to_vec())
                .collect(),
        }
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
