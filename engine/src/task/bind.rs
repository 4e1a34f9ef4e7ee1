//! Gives an attempt the functions of users that its stage calls.

use std::sync::Arc;

use crate::context::TaskContext;
use crate::error::Result;
use crate::expr::{AggregateFunction, Expr};
use crate::plan::{OperatorSpec, ShuffleInput, Split, Stage, StageSource, TaskInput, TaskSpec};
use crate::udf::{Functions, UdfContext};

/// Splits of an attempt's input that are named where user code goes wrong; more are counted.
const SPLITS_SHOWN: usize = 3;

/// What user code has of the attempt `spec`.
pub(super) fn context_of(spec: &TaskSpec, ctx: &TaskContext) -> UdfContext {
    let board = ctx.functions.board.clone();
    UdfContext::new(
        input_of(&spec.input),
        Arc::clone(&ctx.metrics),
        ctx.cancel.clone(),
        board,
    )
}

/// The attempt with bodies for all functions that its stage calls.
///
/// # Errors
/// `Invalid` if this process does not have one of them.
pub(super) fn bind(spec: TaskSpec, ctx: &TaskContext) -> Result<TaskSpec> {
    if !spec.stage.calls_functions() {
        return Ok(spec);
    }
    let binder = Binder {
        functions: &ctx.functions.functions,
        context: context_of(&spec, ctx),
    };
    let mut stage = Stage::clone(&spec.stage);
    binder.stage(&mut stage)?;
    Ok(TaskSpec {
        stage: Arc::new(stage),
        ..spec
    })
}

struct Binder<'a> {
    functions: &'a Functions,
    context: UdfContext,
}

impl Binder<'_> {
    fn stage(&self, stage: &mut Stage) -> Result<()> {
        if let StageSource::Scan(scan) = &mut stage.source
            && let Some(predicate) = &mut scan.predicate
        {
            self.expr(predicate)?;
        }
        for operator in &mut stage.operators {
            match operator {
                OperatorSpec::Apply { function } => {
                    *function = function.bound(self.functions, &self.context)?;
                }
                OperatorSpec::Reduce { function, .. } => {
                    *function = function.bound(self.functions, &self.context)?;
                }
                OperatorSpec::Aggregate { aggregates, .. } => {
                    for aggregate in aggregates {
                        if let AggregateFunction::Udf(function) = &mut aggregate.function {
                            *function = function.bound(self.functions, &self.context)?;
                        }
                    }
                }
                _ => {}
            }
            for expr in operator.exprs_mut() {
                self.expr(expr)?;
            }
        }
        Ok(())
    }

    fn expr(&self, expr: &mut Expr) -> Result<()> {
        if let Expr::Udf { function, .. } = expr {
            *function = function.bound(self.functions, &self.context)?;
        }
        expr.operands_mut()
            .into_iter()
            .try_for_each(|operand| self.expr(operand))
    }
}

/// What an attempt reads, in words for people.
pub fn input_of(input: &TaskInput) -> String {
    match input {
        TaskInput::Splits(splits) => {
            let shown = splits.iter().take(SPLITS_SHOWN).map(split);
            listed(shown.collect(), splits.len())
        }
        TaskInput::Shuffle(inputs) => {
            let shown = inputs.iter().take(SPLITS_SHOWN).map(partitions);
            listed(shown.collect(), inputs.len())
        }
        TaskInput::Range(range) => format!("a range of the order of stage {}", range.stage.0),
    }
}

fn split(split: &Split) -> String {
    let Split {
        url, start, end, ..
    } = split;
    if *start == 0 && *end == split.file_bytes {
        return url.clone();
    }
    format!("{url} bytes {start}..{end}")
}

fn partitions(input: &ShuffleInput) -> String {
    let ShuffleInput {
        stage, partitions, ..
    } = input;
    format!(
        "partitions {}..{} of stage {}",
        partitions.start, partitions.end, stage.0
    )
}

fn listed(shown: Vec<String>, count: usize) -> String {
    let rest = count - shown.len();
    match rest {
        0 => shown.join(", "),
        _ => format!("{} and {rest} more", shown.join(", ")),
    }
}
