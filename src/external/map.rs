//! A command over records: one process for each lane, from its first record to its last.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::record_batch::RecordBatch;
use kiln_engine::udf::{EmitRows, TableBody, TableLane, UdfContext};
use kiln_engine::{Error, Result};

use super::talk::Talk;

/// Gives records to a command.
pub(super) struct Mapper {
    command: Arc<str>,
}

impl Mapper {
    pub(super) fn new(command: &str) -> Self {
        Mapper {
            command: command.into(),
        }
    }
}

impl TableBody for Mapper {
    fn lane(&self) -> Box<dyn TableLane> {
        Box::new(Lane {
            command: Arc::clone(&self.command),
            talk: None,
            has_ended: false,
        })
    }
}

struct Lane {
    command: Arc<str>,
    /// None before the first record, and after the command has ended.
    talk: Option<Talk>,
    has_ended: bool,
}

impl TableLane for Lane {
    fn push(
        &mut self,
        batch: &RecordBatch,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        if self.has_ended || batch.num_rows() == 0 {
            return Ok(());
        }
        let talk = match &mut self.talk {
            Some(talk) => talk,
            none => none.insert(Talk::start(&self.command)?),
        };
        let column = match batch.columns() {
            [column] => column.as_string_view_opt(),
            _ => None,
        };
        let records = column.ok_or_else(|| Error::invalid("a command takes one column of text"))?;
        for row in (0..records.len()).filter(|row| records.is_valid(*row)) {
            talk.line(&[records.value(row)], context, emit)?;
        }
        // A command that has failed is not asked to wait for the rest.
        if talk.has_ended()? {
            return self.finish(context, emit);
        }
        Ok(())
    }

    fn finish(&mut self, context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        self.has_ended = true;
        match self.talk.take() {
            Some(talk) => talk.finish(context, emit),
            None => Ok(()),
        }
    }
}
