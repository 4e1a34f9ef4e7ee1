//! Commands as mapper, combiner and reducer, as Hadoop Streaming has them: any program that reads
//! lines and prints lines.
//!
//! The mapper reads records, one a line, and prints lines `key<TAB>value`. The reducer reads such
//! lines sorted by the bytes of their keys, and prints such lines, which become rows with the
//! columns `key` and `value`. A combiner does what a reducer does, to the lines of one task before
//! they are shuffled. A line without a tab is a key with an empty value.
//!
//! A command is a function of a user's program like any other, by the names of [`functions`], with
//! the command as its parameter; so a plan with commands travels to a cluster as others do. Every
//! lane has a mapper of its own, from its first record to its last; reducers and combiners are
//! given some of the groups of a task each. What they say on stderr is seen when they fail.

mod lines;
mod process;

mod talk;

mod map;
mod reduce;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::udf::{Functions, GroupBody, GroupUdf, TableBody, TableUdf};
use kiln_engine::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use map::Mapper;
use reduce::Reducer;

/// The column of keys, which commands print before the tab.
pub const KEY: &str = "key";

/// The column of values, which they print behind it.
pub const VALUE: &str = "value";

const MAP: &str = "kiln.external.map";
const COMBINE: &str = "kiln.external.combine";
const REDUCE: &str = "kiln.external.reduce";

/// The commands of a job, each for `sh -c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// Reads records, prints lines `key<TAB>value`.
    pub map: String,
    /// Reads such lines sorted by key, prints fewer of them.
    pub combine: Option<String>,
    /// Reads such lines sorted by key, prints the result.
    pub reduce: String,
}

/// The functions that commands are, for a process that runs plans of others.
///
/// # Errors
/// None, unless two of them had the same name.
pub fn functions() -> Result<Functions> {
    let mut functions = Functions::default();
    functions.add_table(MAP, |parameters| Ok(mapper(&Command::parse(parameters)?)))?;
    for name in [COMBINE, REDUCE] {
        functions.add_group(name, |parameters| Ok(reducer(&Command::parse(parameters)?)))?;
    }
    Ok(functions)
}

/// What a function that is a command was made with.
#[derive(Serialize, Deserialize)]
struct Command {
    command: String,
}

impl Command {
    fn parse(parameters: &str) -> Result<Self> {
        serde_json::from_str(parameters).map_err(|error| {
            Error::invalid(format!("not a command parameters={parameters:?}")).with_source(error)
        })
    }
}

impl Commands {
    /// The mapper as a function from rows with one column of text.
    pub(crate) fn map(&self) -> TableUdf {
        let command = Command::new(&self.map);
        TableUdf::new(MAP, command.parameters(), lines(), Some(mapper(&command)))
    }

    /// The combiner, if there is one, as a function over rows grouped by [`KEY`].
    pub(crate) fn combine(&self) -> Option<GroupUdf> {
        let command = self.combine.as_deref();
        command.map(|command| group(COMBINE, command))
    }

    /// The reducer as a function over rows grouped by [`KEY`].
    pub(crate) fn reduce(&self) -> GroupUdf {
        group(REDUCE, &self.reduce)
    }
}

impl Command {
    fn new(command: &str) -> Self {
        Command {
            command: command.to_owned(),
        }
    }

    fn parameters(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

fn group(name: &str, command: &str) -> GroupUdf {
    let command = Command::new(command);
    let body = Some(reducer(&command));
    GroupUdf::new(name, command.parameters(), lines(), body)
}

fn mapper(command: &Command) -> Arc<dyn TableBody> {
    Arc::new(Mapper::new(&command.command))
}

fn reducer(command: &Command) -> Arc<dyn GroupBody> {
    Arc::new(Reducer::new(&command.command))
}

/// The columns of what commands print.
fn lines() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Utf8View, false);
    Arc::new(Schema::new(vec![field(KEY), field(VALUE)]))
}

/// The error for a command that did `what`.
fn wrong(command: &str, what: impl fmt::Display) -> Error {
    let text = format!("the command {what} command={command:?}");
    Error::new(ErrorKind::Program, text)
}
