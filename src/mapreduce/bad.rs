//! Records for which a map function fails, and what becomes of them.
//!
//! Usually the first of them fails the attempt. A job may want them skipped, up to a limit: then
//! what was made of one so far is taken back, it is counted, and it is told in a warning. Or it
//! may want nothing but them, to look at.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kiln_engine::udf::{EmitRows, UdfContext};
use kiln_engine::{Error, ErrorKind, Result};

use super::pairs::{Pair, Pairs};
use crate::udf::datum::Datum;
use crate::udf::emitter::Emitter;
use crate::udf::row::Row;
use crate::udf::table::schema_of_rows;

/// Characters of a record that a warning shows.
const SHOWN_CHARS: usize = 200;

/// What becomes of records for which the function fails.
#[derive(Debug, Clone)]
pub(super) enum BadRecords {
    /// The attempt fails.
    Fail,
    /// They are skipped.
    Skip(Skip),
    /// They are what comes out, and nothing else does.
    Tell,
}

/// How bad records are skipped.
#[derive(Debug, Clone)]
pub(super) struct Skip {
    /// How many an attempt may skip.
    pub(super) max: u64,
    /// The counter that counts them.
    pub(super) counter: String,
}

/// A record as text and what was wrong with it.
pub(super) type BadRecord = (String, String);

/// The columns of [`BadRecord`]s.
pub(super) fn schema() -> SchemaRef {
    schema_of_rows::<BadRecord>(vec!["record".to_owned(), "error".to_owned()])
}

impl Skip {
    /// Calls a function for `rows` of a batch, but for those that are bad.
    ///
    /// # Errors
    /// `Program` if there are too many of them, or one had made too much to be taken back.
    pub(super) fn map<K: Row, V: Datum>(
        &self,
        batch: &RecordBatch,
        rows: impl Iterator<Item = usize>,
        call: impl Fn(usize, &mut Pairs<'_, K, V>) -> Result<()>,
        (context, mut pairs): (&UdfContext, Pairs<'_, K, V>),
    ) -> Result<()> {
        for row in rows {
            pairs.begin_record();
            if let Some(wrong) = wrong(|| call(row, &mut pairs)) {
                if !pairs.take_back() {
                    return Err(program(format!(
                        "a bad record cannot be skipped, because it had made too many pairs \
                         already: {wrong}"
                    )));
                }
                self.note(&text(batch, row)?, &wrong, context)?;
            }
            if pairs.is_stopped() {
                break;
            }
        }
        pairs.finish()
    }

    fn note(&self, record: &str, wrong: &str, context: &UdfContext) -> Result<()> {
        let input = context.input();
        if context.count(&self.counter, 1)? > self.max {
            return Err(program(format!(
                "more bad records than may be skipped: {wrong} record={record:?} max={}",
                self.max
            )));
        }
        let shown: String = record.chars().take(SHOWN_CHARS).collect();
        let subject = format!("record {shown:?} of {input}");
        context.warn(&subject, &format!("skipped: {wrong}"));
        Ok(())
    }
}

/// Calls a function for `rows` of a batch, and emits those that are bad.
///
/// # Errors
/// What `emit` answered.
pub(super) fn tell<K: Row, V: Datum>(
    rows: impl Iterator<Item = usize>,
    call: impl Fn(usize, &mut Pairs<'_, K, V>) -> Result<()>,
    (batch, context, emit): (&RecordBatch, &UdfContext, EmitRows<'_>),
) -> Result<()> {
    let (pairs_schema, schema) = (Pair::<K, V>::schema(), schema());
    let mut nowhere = |_: RecordBatch| Ok(());
    // The counters of records count where they are not told but used.
    let uncounted = UdfContext::new(
        context.input(),
        Arc::default(),
        context.cancel().clone(),
        None,
    );
    let mut pairs = Pairs::new(&pairs_schema, &uncounted, &mut nowhere);
    let mut out: Emitter<'_, BadRecord> = Emitter::new(&schema, context, emit);
    for row in rows {
        if let Some(wrong) = wrong(|| call(row, &mut pairs)) {
            out.emit((&text(batch, row)?, &wrong));
        }
        if out.is_stopped() {
            break;
        }
    }
    out.finish()
}

/// What a call says is wrong, if anything: an error or a panic.
fn wrong(call: impl FnOnce() -> Result<()>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.err().map(|error| error.report()),
        Err(panic) => Some(format!("panicked: {}", message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// The columns of a record, tabs between them.
fn text(batch: &RecordBatch, row: usize) -> Result<String> {
    let options = FormatOptions::default();
    let columns = batch.columns().iter().map(|column| {
        let column = ArrayFormatter::try_new(column.as_ref(), &options)?;
        column.value(row).try_to_string()
    });
    let columns = columns.collect::<Result<Vec<String>, ArrowError>>()?;
    Ok(columns.join("\t"))
}

fn program(message: String) -> Error {
    Error::new(ErrorKind::Program, message)
}
