//! Whether two lots of rows are the same: as multisets, floats within a billionth.

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use kiln_engine::plan::LogicalPlan;

use crate::oracle::{Row, Value};
use crate::tables::rows_of;
use crate::tasks::schema_of_batches;

/// Rows shown of a difference.
const SHOWN: usize = 8;

/// Whether the order of the plan's rows is part of its result.
pub(crate) fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort { .. } => true,
        LogicalPlan::Limit { input, .. } => is_ordered(input),
        _ => false,
    }
}

/// What is different, if anything is.
pub(crate) fn difference(
    schema: &SchemaRef,
    expected: &[Row],
    found: &[RecordBatch],
    ordered: bool,
) -> Option<String> {
    let names_and_types = |schema: &SchemaRef| {
        let fields = schema.fields().iter();
        let field = fields.map(|field| format!("{}: {}", field.name(), field.data_type()));
        field.collect::<Vec<_>>().join(", ")
    };
    let (wanted, has) = (
        names_and_types(schema),
        names_and_types(&schema_of_batches(found)),
    );
    if wanted != has {
        return Some(format!("columns\nexpected: {wanted}\nfound:    {has}"));
    }
    let mut expected: Vec<Row> = expected.to_vec();
    let mut found = rows_of(found);
    if !ordered {
        expected.sort_by_cached_key(name);
        found.sort_by_cached_key(name);
    }
    let same = expected.len() == found.len()
        && expected.iter().zip(&found).all(|(a, b)| {
            let mut pairs = a.iter().zip(b);
            a.len() == b.len() && pairs.all(|(a, b)| are_same(a, b))
        });
    (!same).then(|| describe(&expected, &found))
}

/// What rows are put in order by: floats last and with few digits, so that those that differ by
/// little only are in the same place.
fn name(row: &Row) -> String {
    let mut name = String::new();
    for value in row {
        match value {
            Value::Float(_) => write!(name, "~|"),
            other => write!(name, "{other:?}|"),
        }
        .expect("a string takes all");
    }
    for value in row {
        if let Value::Float(value) = value {
            write!(name, "{:.6e}|", if *value == 0.0 { 0.0 } else { *value })
                .expect("a string takes all");
        }
    }
    name
}

fn are_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            let close = (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0);
            a == b || close || a.is_nan() && b.is_nan()
        }
        (a, b) => format!("{a:?}") == format!("{b:?}"),
    }
}

fn describe(expected: &[Row], found: &[Row]) -> String {
    let mut text = format!("rows expected={} found={}\n", expected.len(), found.len());
    let lacks = |rows: &[Row], others: &[Row]| -> Vec<String> {
        let mut others: Vec<String> = others.iter().map(name).collect();
        let mut lacking = Vec::new();
        for row in rows {
            match others.iter().position(|other| *other == name(row)) {
                Some(at) => drop(others.swap_remove(at)),
                None => lacking.push(format!("{row:?}")),
            }
        }
        lacking
    };
    let sides = [("missing", expected, found), ("surplus", found, expected)];
    for (what, rows, others) in sides {
        let rows = lacks(rows, others);
        writeln!(text, "{what}: {}", rows.len()).expect("a string takes all");
        for row in rows.iter().take(SHOWN) {
            writeln!(text, "    {row}").expect("a string takes all");
        }
    }
    text
}
