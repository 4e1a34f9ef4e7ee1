//! From the operators of a stage, as data, to running chains.
//!
//! A chain is one lane: every operator of the stage and the lane's end of the sink. Breakers cut
//! it into phases. Rows enter a phase at its first operator; a phase ends when its input does,
//! and then the operators up to and including the breaker finish, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::context::{CancelToken, TaskContext};
use crate::error::{Error, Result};
use crate::expr::typing;
use crate::metrics::{OperatorCounts, TaskMetrics};
use crate::operator::aggregate;
use crate::operator::join::{Join, Resources};
use crate::operator::limit::LimitState;
use crate::operator::reduce::Reduce;
use crate::operator::sort::Sort;
use crate::operator::top_k::TopK;
use crate::operator::{Breaker, Emit, Morsel, Operator, apply, explode, filter, join, project};
use crate::plan::{OperatorSpec, Side};
use crate::sink::Sink;
use crate::task::sides::SideTable;
use crate::udf::UdfContext;

/// The operators of a task, from which every lane gets its own.
pub(super) struct Blueprint {
    steps: Vec<Step>,
    schema: SchemaRef,
    cancel: CancelToken,
    metrics: Arc<TaskMetrics>,
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
    /// Prepares `operators` for rows of `schema`, with the tables of `tables`.
    ///
    /// # Errors
    /// `Invalid` if the operators do not fit the schema.
    pub(super) fn new(
        operators: &[OperatorSpec],
        schema: &SchemaRef,
        tables: &[SideTable],
        (ctx, user): (&TaskContext, &UdfContext),
    ) -> Result<Self> {
        let mut blueprint = Blueprint {
            steps: Vec::new(),
            schema: Arc::clone(schema),
            cancel: ctx.cancel.clone(),
            metrics: Arc::clone(&ctx.metrics),
        };
        for (position, spec) in operators.iter().enumerate() {
            if let OperatorSpec::Join(_) = spec {
                blueprint.join(position, tables, ctx)?;
                continue;
            }
            let step = blueprint.step(spec, ctx, user)?;
            blueprint.steps.push(step);
            blueprint.schema = output_schema(spec, &blueprint.schema, &[])?;
        }
        Ok(blueprint)
    }

    /// Adds the join at `position`, whose table is among `tables`.
    fn join(&mut self, position: usize, tables: &[SideTable], ctx: &TaskContext) -> Result<()> {
        let table = tables.iter().find(|table| table.operator == position);
        let Some(SideTable { spec, table, .. }) = table else {
            return Err(Error::internal("a join has no table"));
        };
        let table = Arc::clone(table.value());
        let join = Join::new(Arc::clone(spec), table, &Resources::of(ctx));
        self.schema = Arc::clone(spec.schema());
        self.steps.push(match join.breaker() {
            Some(breaker) => Step::Breaker(breaker),
            None => Step::Streaming(Box::new(move || join.lane())),
        });
        Ok(())
    }

    fn step(&self, spec: &OperatorSpec, ctx: &TaskContext, user: &UdfContext) -> Result<Step> {
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
            OperatorSpec::Apply { function } => {
                let user = user.clone();
                Step::Streaming(Box::new(move || apply::new(&function, &user)))
            }
            OperatorSpec::Reduce {
                keys,
                order,
                function,
                local: _,
            } => Step::Breaker(Reduce::new(&keys, &order, &function, &schema, (ctx, user))?),
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
            )?),
            OperatorSpec::Join(_) => return Err(Error::internal("a join needs its table")),
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
        let link = |operator| Link {
            operator,
            counts: OperatorCounts::default(),
        };
        Ok(Chain {
            links: operators.into_iter().map(link).collect(),
            source: OperatorCounts::default(),
            cancel: self.cancel.clone(),
            metrics: Arc::clone(&self.metrics),
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

    /// Counts the time in which the breaker at `position` joined what the lanes had collected.
    pub(super) fn count_merge(&self, position: usize, took: Duration) {
        let mut counts = vec![OperatorCounts::default(); position + 2];
        counts[position + 1].nanos = nanos(took);
        self.metrics.count_operators(&counts);
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

/// One lane's operators, the sink's last, and what passed through them.
pub(super) struct Chain {
    links: Vec<Link>,
    source: OperatorCounts,
    cancel: CancelToken,
    metrics: Arc<TaskMetrics>,
}

struct Link {
    operator: Box<dyn Operator>,
    counts: OperatorCounts,
}

impl Chain {
    /// Runs `morsel`, its batches entering `phase`; it stands at `position` in what is read.
    ///
    /// # Errors
    /// What the first operator to fail answered.
    pub(super) fn run(&mut self, phase: &Phase, position: u64, morsel: Morsel) -> Result<()> {
        for link in &mut self.links[phase.entry..=phase.last] {
            link.operator.begin_morsel(position);
        }
        // What enters in the middle comes from the breaker before it.
        let (before, links) = self.links.split_at_mut(phase.entry);
        let counts = before
            .last_mut()
            .map_or(&mut self.source, |link| &mut link.counts);
        let outcome = counted(counts, links, &self.cancel, morsel);
        self.report();
        outcome.map(|_| ())
    }

    /// Tells the sink that what comes now is of another sequence.
    ///
    /// # Errors
    /// As for `run`.
    pub(super) fn begin_sequence(&mut self, number: u32) -> Result<()> {
        match self.links.last_mut() {
            Some(sink) => sink.operator.begin_sequence(number),
            None => Ok(()),
        }
    }

    /// Ends the input of a phase: its operators finish one after the other.
    ///
    /// # Errors
    /// As for `run`.
    pub(super) fn finish(&mut self, phase: &Phase) -> Result<()> {
        let cancel = &self.cancel;
        for position in phase.entry..=phase.last {
            if let Some((link, rest)) = self.links[position..].split_first_mut() {
                let Link { operator, counts } = link;
                counted(counts, rest, cancel, |emit| operator.finish(emit))?;
            }
        }
        self.report();
        Ok(())
    }

    /// Hands what was counted to the task.
    fn report(&mut self) {
        let links = self.links.iter_mut().map(|link| &mut link.counts);
        let counts = std::iter::once(&mut self.source).chain(links);
        let counts: Vec<OperatorCounts> = counts.map(std::mem::take).collect();
        self.metrics.count_operators(&counts);
    }
}

/// Does `work`, whose batches go through `links`, and counts it: what comes out, and the time that
/// it takes less that of `links`. Returns the time of both together.
fn counted(
    counts: &mut OperatorCounts,
    links: &mut [Link],
    cancel: &CancelToken,
    work: impl FnOnce(Emit<'_>) -> Result<()>,
) -> Result<u64> {
    let started = Instant::now();
    let mut behind = 0;
    let outcome = work(&mut |batch| {
        counts.rows_out += batch.num_rows() as u64;
        counts.batches += 1;
        behind += push(links, cancel, batch)?;
        Ok(())
    });
    let nanos = nanos(started.elapsed());
    counts.nanos += nanos.saturating_sub(behind);
    outcome.map(|()| nanos)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Every batch passes here on its way to every operator, so this is where a lane notices that its
/// attempt was cancelled, whatever the size of its morsel. Returns the time that it took.
fn push(links: &mut [Link], cancel: &CancelToken, batch: RecordBatch) -> Result<u64> {
    cancel.check()?;
    let Some((link, rest)) = links.split_first_mut() else {
        return Err(Error::internal("a sink emitted rows"));
    };
    let Link { operator, counts } = link;
    if rest.is_empty() {
        counts.rows_out += batch.num_rows() as u64;
        counts.batches += 1;
    }
    counted(counts, rest, cancel, |emit| operator.push(batch, emit))
}

/// The columns of the rows that `spec` makes of rows of `schema`, in a stage with these sides.
///
/// # Errors
/// `Invalid` if the operator does not fit the schema or the side.
pub fn output_schema(spec: &OperatorSpec, schema: &SchemaRef, sides: &[Side]) -> Result<SchemaRef> {
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
        OperatorSpec::Apply { function } => Arc::clone(function.output()),
        OperatorSpec::Reduce { function, .. } => Arc::clone(function.output()),
        OperatorSpec::Aggregate {
            mode,
            group_by,
            aggregates,
        } => aggregate::output_schema(*mode, schema, group_by, aggregates)?,
        OperatorSpec::Join(step) => match sides.get(step.side) {
            Some(side) => join::output_schema(step, schema, &side.schema)?,
            None => return Err(Error::internal("a join has no side")),
        },
        OperatorSpec::Filter { .. }
        | OperatorSpec::TopK { .. }
        | OperatorSpec::Sort { .. }
        | OperatorSpec::Limit { .. } => Arc::clone(schema),
    })
}
