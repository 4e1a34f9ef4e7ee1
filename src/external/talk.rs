//! Lines to a command and rows from it.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::udf::{EmitRows, UdfContext};

use super::lines::Lines;
use super::process::Process;

/// Bytes of lines that are gathered before they are written.
const WRITE_BYTES: usize = 64 << 10;

/// A command and what is on its way to and from it.
pub(super) struct Talk {
    process: Process,
    lines: Lines,
    gathered: Vec<u8>,
}

impl Talk {
    /// Starts a command.
    ///
    /// # Errors
    /// As for [`Process::start`].
    pub(super) fn start(command: &Arc<str>) -> Result<Self> {
        Ok(Talk {
            process: Process::start(command)?,
            lines: Lines::new(command),
            gathered: Vec::with_capacity(WRITE_BYTES),
        })
    }

    /// Gives the command a line of `fields` with tabs between them.
    ///
    /// # Errors
    /// As for [`Process::write`], and what `emit` answered.
    pub(super) fn line(
        &mut self,
        fields: &[&str],
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        for (number, field) in fields.iter().enumerate() {
            if number > 0 {
                self.gathered.push(b'\t');
            }
            self.gathered.extend_from_slice(field.as_bytes());
        }
        self.gathered.push(b'\n');
        match self.gathered.len() {
            ..WRITE_BYTES => Ok(()),
            _ => self.flush(context, emit),
        }
    }

    /// Whether the command reads no more.
    pub(super) fn is_deaf(&self) -> bool {
        self.process.is_deaf()
    }

    /// Whether the command has ended, and reads no more.
    ///
    /// # Errors
    /// As for [`Process::has_ended`].
    pub(super) fn has_ended(&self) -> Result<bool> {
        Ok(self.is_deaf() && self.process.has_ended()?)
    }

    fn flush(&mut self, context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        let lines = &mut self.lines;
        let take = &mut |printed: &[u8]| lines.take(printed, emit);
        self.process.write(&self.gathered, context, take)?;
        self.gathered.clear();
        // One long line must not keep its memory.
        self.gathered.shrink_to(WRITE_BYTES);
        Ok(())
    }

    /// Ends the input of the command, and waits for the end of what it prints.
    ///
    /// # Errors
    /// As for [`Process::finish`], and what `emit` answered.
    pub(super) fn finish(mut self, context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        self.flush(context, emit)?;
        let lines = &mut self.lines;
        let take = &mut |printed: &[u8]| lines.take(printed, emit);
        self.process.finish(context, take)?;
        self.lines.finish(emit)
    }
}
