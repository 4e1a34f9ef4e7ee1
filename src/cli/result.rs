//! The result of a job that is done, on stdout; what people should know besides, on stderr.

use std::io::{self, BufWriter, Write};

use kiln::arrow::array::{AsArray as _, RecordBatch};
use kiln::arrow::compute::cast;
use kiln::arrow::datatypes::{DataType, Int64Type};
use kiln::arrow::error::ArrowError;
use kiln::arrow::json::LineDelimitedWriter;
use kiln::{Error, Job, JobStatus, Rows, WriteSummary, display};
use serde_json::json;

use super::exit::{Failure, Outcome};
use super::plan::GREP;
use super::status;
use super::units::{bytes, grouped, plural};

/// Prints the result of `job`: a table, the lines that `grep` found, or what was written where.
///
/// # Errors
/// The result cannot be fetched or printed.
pub(crate) fn print(job: &Job, status: &JobStatus, json: bool) -> Outcome {
    print_warnings(status);
    print_counters(status);
    status::log_shuffle(status);
    if let Some(written) = kiln::written(status) {
        return print_written(&written, status, json);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        print_json(&mut out, rows(job)?)?;
    } else if status.name == GREP {
        for batch in rows(job)? {
            print_lines(&mut out, &batch.map_err(Failure::from_driver)?)?;
        }
    } else {
        // How wide a table is shows when all of it is there.
        let batches = job.result().map_err(Failure::from_driver)?;
        if let Some(first) = batches.first() {
            let text = display::table(&first.schema(), &batches).map_err(Failure::Job)?;
            out.write_all(text.as_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Says what went wrong without failing the job: `warning: file: 3 times invalid UTF-8 replaced`.
pub(crate) fn print_warnings(status: &JobStatus) {
    for warning in &status.warnings {
        let times = plural(warning.count, "time");
        let subject = display::location(&warning.subject);
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(
            io::stderr(),
            "warning: {subject}: {times} {}",
            warning.message
        );
    }
}

/// Says what functions of the job's program counted: `counter lines.empty: 3`.
fn print_counters(status: &JobStatus) {
    for (name, n) in kiln::counters(status) {
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "counter {name}: {}", grouped(n));
    }
}

fn print_written(written: &WriteSummary, status: &JobStatus, json: bool) -> Outcome {
    if json {
        let summary = json!({
            "job": status.id.to_string(),
            "url": written.url,
            "files": written.files,
            "rows": written.rows,
            "bytes": written.bytes,
            "counters": written.counters,
        });
        return Ok(writeln!(io::stdout(), "{summary}")?);
    }
    let _ = writeln!(
        io::stderr(),
        "wrote {}, {}, {} to {}",
        plural(written.files, "file"),
        plural(written.rows, "row"),
        bytes(written.bytes),
        display::location(&written.url)
    );
    Ok(())
}

fn rows(job: &Job) -> Outcome<Rows> {
    job.rows().map_err(Failure::from_driver)
}

fn print_json(out: &mut impl Write, rows: Rows) -> Outcome {
    let mut writer = LineDelimitedWriter::new(out);
    let failed = |error: ArrowError| match error {
        ArrowError::IoError(_, error) => Failure::from(error),
        other => Failure::Job(Error::from(other)),
    };
    for batch in rows {
        let batch = batch.map_err(Failure::from_driver)?;
        writer.write(&batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)
}

/// `path:offset:line`, as grep prints it.
fn print_lines(out: &mut impl Write, batch: &RecordBatch) -> Outcome {
    let column = |name: &str, data_type: &DataType| {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::internal(format!("a grep result without column {name:?}")))?;
        Ok::<_, Error>(cast(column, data_type)?)
    };
    let paths = column("path", &DataType::Utf8View).map_err(Failure::Job)?;
    let offsets = column("offset", &DataType::Int64).map_err(Failure::Job)?;
    let lines = column("line", &DataType::Utf8View).map_err(Failure::Job)?;
    let (paths, lines) = (paths.as_string_view(), lines.as_string_view());
    let offsets = offsets.as_primitive::<Int64Type>();
    let mut path = (String::new(), String::new());
    for row in 0..batch.num_rows() {
        if path.0 != paths.value(row) {
            path = (
                paths.value(row).to_owned(),
                display::location(paths.value(row)),
            );
        }
        writeln!(
            out,
            "{}:{}:{}",
            path.1,
            offsets.value(row),
            lines.value(row)
        )?;
    }
    Ok(())
}
