//! From the operators of a stage, as data, to running chains.
//!
//! A chain is one lane: every operator of the stage and the lane's end of the sink. Breakers cut
//! it into phases. Rows enter a phase at its first operator; a phase ends when its input does,
//! and then the operators up to and including the breaker finish, in order.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::context::{CancelToken, TaskContext};
use crate::error::{Error, Result};
use crate::expr::typing;
use crate::operator::aggregate;
use crate::operator::limit::LimitState;
use crate::operator::sort::Sort;
use crate::operator::top_k::TopK;
use crate::operator::{Breaker, Morsel, Operator, explode, filter, project};
use crate::plan::OperatorSpec;
use crate::sink::Sink;

/// The operators of a task, from which every lane gets its own.
pub(super) struct Blueprint {
    steps: Vec<Step>,
    schema: SchemaRef,
    cancel: CancelToken,
}

enum Step {
    Streaming(Factory),
    Limit(Arc<LimitState>),
    Breaker(Arc<dyn Breaker>),
}

type Factory = Box<dyn Fn() -> Result<Box<dyn Operator>> + Send + Sync>;

/// A piece of a chain that runs until its input ends.
pub(super) struct Phase {
    /// Position in the chain where rows enter.
    pub(super) entry: usize,
    /// Position of the last operator that finishes with this phase.
    pub(super) last: usize,
    /// What the last operator collects for; none in the last phase.
    pub(super) breaker: Option<Arc<dyn Breaker>>,
}

impl Blueprint {
    /// Prepares `operators` for rows of `schema`.
    ///
    /// # Errors
    /// `Invalid` if the operators do not fit the schema.
    pub(super) fn new(
        operators: &[OperatorSpec],
        schema: &SchemaRef,
        ctx: &TaskContext,
        lanes: usize,
    ) -> Result<Self> {
        let mut blueprint = Blueprint {
            steps: Vec::new(),
            schema: Arc::clone(schema),
            cancel: ctx.cancel.clone(),
        };
        for spec in operators {
            let step = blueprint.step(spec, ctx, lanes)?;
            blueprint.steps.push(step);
            blueprint.schema = output_schema(spec, &blueprint.schema)?;
        }
        Ok(blueprint)
    }

    fn step(&self, spec: &OperatorSpec, ctx: &TaskContext, lanes: usize) -> Result<Step> {
        let schema = Arc::clone(&self.schema);
        Ok(match spec.clone() {
            OperatorSpec::Project { exprs } => {
                Step::Streaming(Box::new(move || project::new(&exprs, &schema)))
            }
            OperatorSpec::Filter { predicate } => {
                Step::Streaming(Box::new(move || filter::new(&predicate, &schema)))
            }
            OperatorSpec::Explode { column } => {
                Step::Streaming(Box::new(move || explode::new(&column, &schema)))
            }
            OperatorSpec::Aggregate {
                mode,
                group_by,
                aggregates,
            } => Step::Breaker(aggregate::aggregate(
                mode,
                &schema,
                &group_by,
                &aggregates,
                ctx,
                lanes,
            )?),
            OperatorSpec::Join(_) => return Err(Error::internal("joins do not run yet")),
            OperatorSpec::TopK { keys, limit } => {
                Step::Breaker(TopK::new(&keys, limit, &schema, ctx)?)
            }
            OperatorSpec::Sort { keys } => Step::Breaker(Sort::new(&keys, &schema, ctx)?),
            OperatorSpec::Limit { offset, limit } => Step::Limit(LimitState::new(offset, limit)),
        })
    }

    /// The columns that reach the sink.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// One lane's chain, ending in the sink.
    ///
    /// # Errors
    /// What an operator's construction answered.
    pub(super) fn chain(&self, lane: usize, sink: &dyn Sink) -> Result<Chain> {
        let mut operators = Vec::with_capacity(self.steps.len() + 1);
        for step in &self.steps {
            operators.push(match step {
                Step::Streaming(factory) => factory()?,
                Step::Limit(state) => state.lane(),
                Step::Breaker(breaker) => breaker.lane()?,
            });
        }
        operators.push(sink.lane(lane)?);
        Ok(Chain {
            operators,
            cancel: self.cancel.clone(),
        })
    }

    /// The phases of a chain, in order; the last one ends in the sink.
    pub(super) fn phases(&self) -> Vec<Phase> {
        let mut phases = Vec::new();
        let mut entry = 0;
        for (position, step) in self.steps.iter().enumerate() {
            if let Step::Breaker(breaker) = step {
                let breaker = Some(Arc::clone(breaker));
                phases.push(Phase {
                    entry,
                    last: position,
                    breaker,
                });
                entry = position + 1;
            }
        }
        phases.push(Phase {
            entry,
            last: self.steps.len(),
            breaker: None,
        });
        phases
    }

    /// Whether rows that enter at `entry` can no longer change the result, because a limit behind
    /// it has all it wants.
    pub(super) fn is_full(&self, entry: usize) -> bool {
        self.steps[entry..].iter().any(|step| match step {
            Step::Limit(state) => state.is_full(),
            _ => false,
        })
    }
}

/// One lane's operators, the sink's last.
pub(super) struct Chain {
    operators: Vec<Box<dyn Operator>>,
    cancel: CancelToken,
}

impl Chain {
    /// Runs `morsel`, its batches entering at position `entry`.
    ///
    /// # Errors
    /// What the first operator to fail answered.
    pub(super) fn run(&mut self, entry: usize, morsel: Morsel) -> Result<()> {
        let operators = &mut self.operators[entry..];
        let cancel = &self.cancel;
        morsel(&mut |batch| push(operators, cancel, batch))
    }

    /// Ends the input of a phase: its operators finish one after the other.
    ///
    /// # Errors
    /// As for `run`.
    pub(super) fn finish(&mut self, phase: &Phase) -> Result<()> {
        for position in phase.entry..=phase.last {
            if let Some((operator, rest)) = self.operators[position..].split_first_mut() {
                operator.finish(&mut |batch| push(rest, &self.cancel, batch))?;
            }
        }
        Ok(())
    }
}

/// Every batch passes here on its way to every operator, so this is where a lane notices that its
/// attempt was cancelled, whatever the size of its morsel.
fn push(
    operators: &mut [Box<dyn Operator>],
    cancel: &CancelToken,
    batch: RecordBatch,
) -> Result<()> {
    cancel.check()?;
    match operators.split_first_mut() {
        Some((operator, rest)) => operator.push(batch, &mut |batch| push(rest, cancel, batch)),
        None => Err(Error::internal("a sink emitted rows")),
    }
}

/// The columns of the rows that `spec` makes of rows of `schema`.
///
/// # Errors
/// `Invalid` if the operator does not fit the schema.
pub fn output_schema(spec: &OperatorSpec, schema: &SchemaRef) -> Result<SchemaRef> {
    Ok(match spec {
        OperatorSpec::Project { exprs } => {
            let fields: Result<Vec<Field>> = exprs
                .iter()
                .map(|expr| typing::field(expr, schema))
                .collect();
            Arc::new(Schema::new(fields?))
        }
        OperatorSpec::Explode { column } => {
            let fields: Vec<Field> = schema
                .fields()
                .iter()
                .map(|field| match field.data_type() {
                    DataType::List(element) if field.name() == column => {
                        Field::new(column, element.data_type().clone(), element.is_nullable())
                    }
                    _ => field.as_ref().clone(),
                })
                .collect();
            Arc::new(Schema::new(fields))
        }
        OperatorSpec::Aggregate {
            mode,
            group_by,
            aggregates,
        } => aggregate::output_schema(*mode, schema, group_by, aggregates)?,
        OperatorSpec::Join(_) => return Err(Error::internal("joins do not run yet")),
        OperatorSpec::Filter { .. }
        | OperatorSpec::TopK { .. }
        | OperatorSpec::Sort { .. }
        | OperatorSpec::Limit { .. } => Arc::clone(schema),
    })
}
