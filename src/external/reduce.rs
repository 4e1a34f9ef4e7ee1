//! A command over sorted lines: one process for each part of a task's groups.

use std::sync::Arc;

use arrow::array::{AsArray as _, StringViewArray};
use arrow::record_batch::RecordBatch;
use kiln_engine::udf::{EmitRows, GroupBody, Groups, UdfContext};
use kiln_engine::{Error, Result};

use super::talk::Talk;
use super::{KEY, VALUE};

/// Gives the keys and values of groups to a command.
pub(super) struct Reducer {
    command: Arc<str>,
}

impl Reducer {
    pub(super) fn new(command: &str) -> Self {
        Reducer {
            command: command.into(),
        }
    }
}

impl GroupBody for Reducer {
    fn call(
        &self,
        groups: &mut dyn Groups,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        let mut talk = Talk::start(&self.command)?;
        while !talk.is_deaf() && groups.next_group()? {
            while let Some((batch, rows)) = groups.next_rows()? {
                let (keys, values) = (text(batch, KEY)?, text(batch, VALUE)?);
                for row in rows {
                    talk.line(&[keys.value(row), values.value(row)], context, emit)?;
                }
                if talk.is_deaf() {
                    break;
                }
            }
        }
        talk.finish(context, emit)
    }
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringViewArray> {
    let column = batch.column_by_name(name);
    let column = column.and_then(|column| column.as_string_view_opt());
    column.ok_or_else(|| Error::invalid(format!("a command takes a column of text name={name:?}")))
}
