//! What stands between an attempt and the functions of users that it calls.
//!
//! User code may do anything. What it does wrong in a way that can be caught, a panic, a column
//! that is too short, rows of other columns than were announced, becomes an error that names the
//! function and what the attempt reads. What cannot be caught ends the process: for whoever
//! watches over that from outside, every call is written on a [`CallBoard`] before it begins.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::cancel::CancelToken;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::TaskMetrics;
use crate::udf::{
    AggregateBody, AggregateUdf, EmitRows, Functions, GroupBody, GroupStates, GroupUdf, Groups,
    ScalarBody, ScalarUdf, TableBody, TableLane, TableUdf,
};

/// Where calls are announced while they last.
pub trait CallBoard: Send + Sync {
    /// A call of `function` begins on this thread.
    fn enter(&self, function: &str);

    /// The call that lasts goes on: it has asked for more, or pushed something.
    fn tick(&self);

    /// It has ended.
    fn leave(&self);
}

/// What a process has of a user's program. Nothing, unless it is one.
#[derive(Clone, Default)]
pub struct UdfHost {
    /// The functions that it registered.
    pub functions: Functions,
    /// Where their calls are announced, if anybody watches.
    pub board: Option<Arc<dyn CallBoard>>,
}

/// What a function has of the attempt that calls it.
#[derive(Clone)]
pub struct UdfContext {
    input: Arc<str>,
    metrics: Arc<TaskMetrics>,
    cancel: CancelToken,
    board: Option<Arc<dyn CallBoard>>,
}

impl UdfContext {
    /// For an attempt that reads `input`, in words for people.
    pub fn new(
        input: impl Into<Arc<str>>,
        metrics: Arc<TaskMetrics>,
        cancel: CancelToken,
        board: Option<Arc<dyn CallBoard>>,
    ) -> Self {
        UdfContext {
            input: input.into(),
            metrics,
            cancel,
            board,
        }
    }

    /// What the attempt reads, in words for people.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Set when the attempt should stop; for calls that wait.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Adds to a counter of the job; says how much it is in this attempt.
    ///
    /// # Errors
    /// `Exhausted` if there are too many counters.
    pub fn count(&self, counter: &str, n: u64) -> Result<u64> {
        self.metrics.count_user(counter, n)
    }

    /// Notes something that people should know though the job goes on: see [`TaskMetrics::warn`].
    pub fn warn(&self, subject: &str, message: &str) {
        self.metrics.warn(subject, message, 1);
    }

    /// Says that a call which lasts goes on.
    pub fn tick(&self) {
        if let Some(board) = &self.board {
            board.tick();
        }
    }

    /// Calls user code of the function called `name`.
    fn call<T>(&self, name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(board) = &self.board {
            board.enter(name);
        }
        let ended = catch_unwind(AssertUnwindSafe(call));
        if let Some(board) = &self.board {
            board.leave();
        }
        match ended {
            Ok(outcome) => outcome.map_err(|error| match error.kind() {
                // The program's own word.
                ErrorKind::Program => {
                    error.context(format_args!("function {name:?} failed on {}", self.input))
                }
                _ => error.context(format_args!("function {name:?}")),
            }),
            Err(panic) => Err(self.wrong(name, format_args!("panicked: {}", message(&*panic)))),
        }
    }

    /// The error for a function that did `what`.
    fn wrong(&self, name: &str, what: std::fmt::Arguments<'_>) -> Error {
        let input = &self.input;
        Error::new(
            ErrorKind::Program,
            format!("function {name:?} {what} input={input}"),
        )
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// Gives a kind of function bodies that an attempt can call.
macro_rules! bound {
    ($udf:ty, $find:ident) => {
        impl $udf {
            /// This function with a body that an attempt can call: its own, or the one of that
            /// name in `functions`.
            ///
            /// # Errors
            /// `Invalid` if there is none, or it does not take its parameters.
            pub fn bound(&self, functions: &Functions, context: &UdfContext) -> Result<Self> {
                let body = match self.body() {
                    Some(body) => Arc::clone(body),
                    None => functions.$find(self.name(), self.parameters())?,
                };
                Ok(self.with_body(Arc::new(Guarded {
                    udf: self.with_body(body),
                    context: context.clone(),
                })))
            }
        }
    };
}

bound!(ScalarUdf, scalar);
bound!(TableUdf, table);
bound!(AggregateUdf, aggregate);
bound!(GroupUdf, group);

/// A function whose calls are watched over.
struct Guarded<U> {
    udf: U,
    context: UdfContext,
}

impl ScalarBody for Guarded<ScalarUdf> {
    fn call(&self, args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let (name, returns) = (self.udf.name(), &self.udf.output().returns);
        let body = self.udf.body().ok_or_else(without_body)?;
        let result = self.context.call(name, || body.call(args, rows))?;
        self.context.checked(name, result, rows, returns)
    }
}

impl TableBody for Guarded<TableUdf> {
    fn lane(&self) -> Box<dyn TableLane> {
        Box::new(GuardedLane {
            lane: self.udf.body().map(|body| body.lane()),
            udf: self.udf.clone(),
            context: self.context.clone(),
        })
    }
}

/// A lane whose every call is watched over.
struct GuardedLane {
    lane: Option<Box<dyn TableLane>>,
    udf: TableUdf,
    context: UdfContext,
}

impl TableLane for GuardedLane {
    fn push(
        &mut self,
        batch: &RecordBatch,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        let lane = self.lane.as_mut().ok_or_else(without_body)?;
        let announced = (self.udf.name(), self.udf.output());
        self.context
            .with_emit(announced, emit, |emit| lane.push(batch, context, emit))
    }

    fn finish(&mut self, context: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        let lane = self.lane.as_mut().ok_or_else(without_body)?;
        let announced = (self.udf.name(), self.udf.output());
        self.context
            .with_emit(announced, emit, |emit| lane.finish(context, emit))
    }
}

impl GroupBody for Guarded<GroupUdf> {
    fn call(
        &self,
        groups: &mut dyn Groups,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        let body = self.udf.body().ok_or_else(without_body)?;
        let announced = (self.udf.name(), self.udf.output());
        let mut groups = Ticking {
            groups,
            context: &self.context,
            failed: None,
        };
        let outcome = self.context.with_emit(announced, emit, |emit| {
            body.call(&mut groups, context, emit)
        });
        match groups.failed {
            Some(error) => Err(error),
            None => outcome,
        }
    }
}

/// Groups that say so when they are asked for, and whose failures cannot be kept quiet.
struct Ticking<'a> {
    groups: &'a mut dyn Groups,
    context: &'a UdfContext,
    failed: Option<Error>,
}

fn stopped() -> Error {
    Error::cancelled("there are no more rows: reading or writing them failed")
}

impl Groups for Ticking<'_> {
    fn next_group(&mut self) -> Result<bool> {
        self.context.tick();
        self.groups.next_group().map_err(|error| {
            self.failed.get_or_insert(error);
            stopped()
        })
    }

    fn next_rows(&mut self) -> Result<Option<(&RecordBatch, Range<usize>)>> {
        self.groups.next_rows().map_err(|error| {
            self.failed.get_or_insert(error);
            stopped()
        })
    }
}

impl AggregateBody for Guarded<AggregateUdf> {
    fn groups(&self) -> Box<dyn GroupStates> {
        let states = match self.udf.body() {
            Some(body) => body.groups(),
            None => return Box::new(NoStates),
        };
        Box::new(GuardedStates {
            states,
            udf: self.udf.clone(),
            context: self.context.clone(),
        })
    }
}

/// The states of a function without code.
struct NoStates;

impl GroupStates for NoStates {
    fn resize(&mut self, _groups: usize) {}

    fn update(&mut self, _groups: &[u32], _rows: &[u32], _args: &[ArrayRef]) -> Result<()> {
        Err(without_body())
    }

    fn merge(&mut self, _groups: &[u32], _rows: &[u32], _states: &ArrayRef) -> Result<()> {
        Err(without_body())
    }

    fn states(&self, _groups: Range<usize>) -> Result<ArrayRef> {
        Err(without_body())
    }

    fn results(&self, _groups: Range<usize>) -> Result<ArrayRef> {
        Err(without_body())
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// States whose every call is watched over.
struct GuardedStates {
    states: Box<dyn GroupStates>,
    udf: AggregateUdf,
    context: UdfContext,
}

impl GuardedStates {
    fn column(
        &self,
        groups: Range<usize>,
        wanted: &DataType,
        make: impl FnOnce(Range<usize>) -> Result<ArrayRef>,
    ) -> Result<ArrayRef> {
        let expected = groups.len();
        let made = self.context.call(self.udf.name(), || make(groups))?;
        self.context
            .checked(self.udf.name(), made, expected, wanted)
    }
}

impl GroupStates for GuardedStates {
    fn resize(&mut self, groups: usize) {
        self.states.resize(groups);
    }

    fn update(&mut self, groups: &[u32], rows: &[u32], args: &[ArrayRef]) -> Result<()> {
        let states = &mut self.states;
        let update = || states.update(groups, rows, args);
        self.context.call(self.udf.name(), update)
    }

    fn merge(&mut self, groups: &[u32], rows: &[u32], states: &ArrayRef) -> Result<()> {
        let into = &mut self.states;
        let merge = || into.merge(groups, rows, states);
        self.context.call(self.udf.name(), merge)
    }

    fn states(&self, groups: Range<usize>) -> Result<ArrayRef> {
        let wanted = &self.udf.output().state;
        self.column(groups, wanted, |groups| self.states.states(groups))
    }

    fn results(&self, groups: Range<usize>) -> Result<ArrayRef> {
        let wanted = &self.udf.output().returns;
        self.column(groups, wanted, |groups| self.states.results(groups))
    }

    fn bytes(&self) -> u64 {
        self.states.bytes()
    }
}

impl UdfContext {
    /// Calls a function that pushes rows of the columns it announced.
    fn with_emit(
        &self,
        (name, schema): (&str, &SchemaRef),
        emit: EmitRows<'_>,
        call: impl FnOnce(EmitRows<'_>) -> Result<()>,
    ) -> Result<()> {
        // What is wrong with the rows, and what they met further on, is told even if the function
        // keeps it quiet, and the latter is not its failure.
        let mut refused = None;
        let outcome = self.call(name, || {
            call(&mut |made| {
                self.tick();
                self.as_announced(name, made, schema)
                    .and_then(&mut *emit)
                    .map_err(|error| {
                        refused.get_or_insert(error);
                        stopped()
                    })
            })
        });
        match refused {
            Some(error) => Err(error),
            None => outcome,
        }
    }

    /// A column that a function made, if it is `rows` long and of type `wanted`.
    fn checked(
        &self,
        name: &str,
        made: ArrayRef,
        rows: usize,
        wanted: &DataType,
    ) -> Result<ArrayRef> {
        if made.len() != rows {
            let text = format_args!("returned {} values for {rows} rows", made.len());
            return Err(self.wrong(name, text));
        }
        if made.data_type() != wanted {
            let found = made.data_type();
            let text = format_args!(
                "returned another type than announced expected={wanted} found={found}"
            );
            return Err(self.wrong(name, text));
        }
        Ok(made)
    }

    /// `batch` as rows of `schema`, if it has its types.
    fn as_announced(
        &self,
        name: &str,
        batch: RecordBatch,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        if !types(&batch.schema()).eq(types(schema)) {
            let shown = |schema: &Schema| {
                let types: Vec<String> = types(schema).map(ToString::to_string).collect();
                types.join(", ")
            };
            let (expected, found) = (shown(schema), shown(&batch.schema()));
            let text = format_args!(
                "made other columns than announced expected=[{expected}] found=[{found}]"
            );
            return Err(self.wrong(name, text));
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows).map_err(|error| {
            self.wrong(
                name,
                format_args!("made rows that are not as announced: {error}"),
            )
        })
    }
}

fn types(schema: &Schema) -> impl Iterator<Item = &DataType> {
    schema.fields().iter().map(|field| field.data_type())
}

fn without_body() -> Error {
    Error::internal("a function without a body was called")
}
