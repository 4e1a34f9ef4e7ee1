//! `kiln schema`: the columns of files.

use std::io::{self, Write as _};

use kiln::arrow::datatypes::FieldRef;
use kiln::display;
use serde_json::json;

use super::args::{GlobalResources, SchemaArgs};
use super::connect;
use super::exit::{Failure, Outcome};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &SchemaArgs) -> Outcome {
    let resources = GlobalResources {
        threads: Some(1),
        ..GlobalResources::default()
    };
    let session = connect::session(None, resources)?;
    let frame = session.read_files(&args.files).map_err(Failure::Job)?;
    let fields = frame.schema().fields();
    let mut out = io::stdout();
    if args.json {
        for field in fields {
            let column = json!({
                "name": field.name(),
                "type": field.data_type().to_string(),
                "nullable": field.is_nullable(),
            });
            writeln!(out, "{column}")?;
        }
        return Ok(());
    }
    let row = |field: &FieldRef| {
        let nulls = if field.is_nullable() {
            "may be null"
        } else {
            ""
        };
        vec![
            field.name().clone(),
            field.data_type().to_string(),
            nulls.to_owned(),
        ]
    };
    let rows = fields.iter().map(row).collect();
    let table = display::lines(&["column", "type", "nulls"], &[false; 3], rows);
    Ok(write!(out, "{table}")?)
}
