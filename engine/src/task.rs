//! Running one attempt of a task: sides, source, lanes, breakers, sink.
//!
//! Tokio waits and rayon computes. Each lane is a small async loop: wait for a morsel, send it
//! with the lane's chain of operators to a rayon thread, wait for the chain to come back, let the
//! sink write out what it has. No rayon thread ever waits for I/O or for another lane, and a slow
//! sink stops the loop before memory fills.
//!
//! Behind an order a lane takes a whole sequence of morsels at a time. There are several of these
//! where nothing stands between the order and a sink that keeps them apart.

mod bind;
mod chain;
mod sides;

use std::iter::from_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::context::{TaskContext, compute};
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::{Breaker, Morsel};
use crate::plan::{
    OperatorSpec, Partitioning, ScanFormat, ScanSpec, SinkSpec, Split, StageSource, TaskInput,
    TaskSpec, TaskSuccess,
};
use crate::shuffle::{self, ShuffleSink, SortedSink};
use crate::sink::Sink;
use crate::sink::files::FileSink;
use crate::source::{self, ColumnFilter, PlacedMorsels};
use chain::{Blueprint, Chain, Phase};
use sides::{column_filters, drop_everything, open_sides};

pub use bind::input_of;
pub use chain::output_schema;

/// Runs one attempt to its end. On failure nothing it wrote is referenced, and what could be
/// removed is removed.
///
/// # Errors
/// The first failure of any lane, with the kind that says what to do about it; a panic on the way
/// is `Internal`.
pub async fn run(spec: TaskSpec, ctx: TaskContext) -> Result<TaskSuccess> {
    let spec = bind::bind(spec, &ctx)?;
    let sink = open_sink(&spec, &ctx)?;
    let finished = match run_lanes(&spec, &ctx, &sink).await {
        Ok(()) => ctx.cancel.guard(sink.close()).await,
        Err(error) => Err(error),
    };
    match finished {
        Ok(output) => {
            let counts = ctx.metrics.counts();
            Ok(TaskSuccess {
                output,
                counts,
                warnings: ctx.metrics.warnings(),
            })
        }
        Err(error) => {
            abort(sink).await;
            Err(error)
        }
    }
}

/// Removes what an attempt wrote, as far as that is possible. With a store that does not answer it
/// goes on beside whatever is run next.
async fn abort(sink: Arc<dyn Sink>) {
    let removed = tokio::spawn(async move { sink.abort().await });
    let wait = Duration::from_millis(limits::ABORT_WAIT_MS);
    if timeout(wait, removed).await.is_err() {
        tracing::warn!("what an attempt wrote is not removed yet");
    }
}

async fn run_lanes(spec: &TaskSpec, ctx: &TaskContext, sink: &Arc<dyn Sink>) -> Result<()> {
    let lanes = ctx.pool.current_num_threads();
    let schema = source_schema(&spec.stage.source);
    let mut tables = open_sides(spec, &schema, ctx).await?;
    let user = bind::context_of(spec, ctx);
    let blueprint = Blueprint::new(&spec.stage.operators, &schema, &tables, (ctx, &user))?;
    if blueprint.schema().fields() != spec.stage.schema.fields() {
        return Err(Error::internal(format!(
            "stage schema differs from its operators' stage={:?} operators={:?}",
            spec.stage.schema.fields(),
            blueprint.schema().fields()
        )));
    }
    let mut chains: Vec<Chain> = (0..lanes)
        .map(|lane| blueprint.chain(lane, sink.as_ref()))
        .collect::<Result<_>>()?;
    let mut work = match drop_everything(&tables, &spec.stage.operators) {
        true => futures::stream::empty().boxed(),
        false => open_source(spec, column_filters(&tables), ctx)?
            .map(|placed| {
                let (position, morsel) = placed?;
                Ok(Work {
                    position,
                    ..Work::from(morsel)
                })
            })
            .boxed(),
    };
    for phase in blueprint.phases() {
        let run = PhaseRun {
            ctx,
            sink,
            blueprint: &blueprint,
            phase: Arc::new(phase),
        };
        chains = run.to_end(chains, work).await?;
        let Some(breaker) = run.phase.breaker.clone() else {
            break;
        };
        // What is left of a join on disk needs the memory of its table.
        tables.retain(|table| table.operator != run.phase.last || !table.has_spilled());
        let behind = &spec.stage.operators[run.phase.last + 1..];
        let sequence_bytes = sink.sequence_bytes().filter(|_| keep_sequences(behind));
        let started = Instant::now();
        let rest = Arc::clone(&breaker);
        let merged = compute(ctx, move || merge(&*breaker, sequence_bytes)).await??;
        blueprint.count_merge(run.phase.last, started.elapsed());
        let more = from_fn(move || rest.more()).map(Work::from);
        work = futures::stream::iter(merged.into_iter().chain(more).map(Ok)).boxed();
    }
    Ok(())
}

/// What a lane takes at a time: morsels that it works on one after the other.
struct Work {
    morsels: Vec<Morsel>,
    /// Where they stand in the order of what was read.
    position: u64,
    /// Which sequence of an order they are, where the sink wants to know.
    sequence: Option<u32>,
}

impl From<Morsel> for Work {
    fn from(morsel: Morsel) -> Self {
        Work {
            morsels: vec![morsel],
            position: 0,
            sequence: None,
        }
    }
}

/// Whether rows leave `operators` sequence by sequence if they come so. What counts rows, or may
/// hold some back, wants all of them on one lane.
fn keep_sequences(operators: &[OperatorSpec]) -> bool {
    operators.iter().all(|operator| {
        matches!(
            operator,
            OperatorSpec::Project { .. }
                | OperatorSpec::Filter { .. }
                | OperatorSpec::Explode { .. }
        )
    })
}

/// What there is to be done behind `breaker`, in sequences of so many bytes where it is in an order
/// and the sink keeps them apart.
fn merge(breaker: &dyn Breaker, sequence_bytes: Option<u64>) -> Result<Vec<Work>> {
    if !breaker.is_ordered() {
        return Ok(breaker.merge()?.into_iter().map(Work::from).collect());
    }
    let sequences = (0..).zip(breaker.sequences(sequence_bytes)?);
    let work = sequences.map(|(number, morsels)| Work {
        morsels,
        position: number.into(),
        sequence: sequence_bytes.map(|_| number),
    });
    Ok(work.collect())
}

/// One phase on its way through all lanes.
struct PhaseRun<'a> {
    ctx: &'a TaskContext,
    sink: &'a Arc<dyn Sink>,
    blueprint: &'a Blueprint,
    phase: Arc<Phase>,
}

impl PhaseRun<'_> {
    /// Runs `work` through `chains` and finishes the phase; gives the chains back.
    async fn to_end(
        &self,
        chains: Vec<Chain>,
        work: BoxStream<'static, Result<Work>>,
    ) -> Result<Vec<Chain>> {
        let work = Mutex::new(work);
        let failed = AtomicBool::new(false);
        let lanes = chains.into_iter().map(async |chain| {
            let outcome = self.lane(chain, &work, &failed).await;
            if outcome.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            outcome
        });
        // Every lane comes to its end before the first failure is passed on, so that the sink is
        // not cleaned up under a lane that still writes to it.
        let ended = join_all(lanes).await;
        let mut chains = Vec::with_capacity(ended.len());
        let mut failure: Option<Error> = None;
        for outcome in ended {
            match outcome {
                Ok(chain) => chains.push(chain),
                Err(error) => failure = Some(failure.unwrap_or(error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(chains),
        }
    }

    async fn lane(
        &self,
        mut chain: Chain,
        work: &Mutex<BoxStream<'static, Result<Work>>>,
        failed: &AtomicBool,
    ) -> Result<Chain> {
        let stopped = || failed.load(Ordering::Relaxed) || self.blueprint.is_full(self.phase.entry);
        while !stopped() {
            let next = async { work.lock().await.next().await.transpose() };
            let Some(work) = self.ctx.cancel.guard(next).await? else {
                break;
            };
            let Work {
                morsels,
                position,
                sequence,
            } = work;
            if let Some(number) = sequence {
                let begin = move |chain: &mut Chain| chain.begin_sequence(number);
                chain = self.timed(chain, begin).await?;
            }
            for morsel in morsels {
                if stopped() {
                    break;
                }
                chain = self.step(chain, position, morsel).await?;
                self.flush().await?;
            }
        }
        if failed.load(Ordering::Relaxed) {
            return Ok(chain);
        }
        let phase = Arc::clone(&self.phase);
        chain = self.timed(chain, move |chain| chain.finish(&phase)).await?;
        self.flush().await?;
        Ok(chain)
    }

    async fn flush(&self) -> Result<()> {
        self.ctx.cancel.guard(self.sink.flush()).await
    }

    async fn step(&self, chain: Chain, position: u64, morsel: Morsel) -> Result<Chain> {
        let phase = Arc::clone(&self.phase);
        self.timed(chain, move |chain| chain.run(&phase, position, morsel))
            .await
    }

    /// Lends `chain` to `work` on a rayon thread and counts the time.
    async fn timed(
        &self,
        mut chain: Chain,
        work: impl FnOnce(&mut Chain) -> Result<()> + Send + 'static,
    ) -> Result<Chain> {
        let metrics = Arc::clone(&self.ctx.metrics);
        compute(self.ctx, move || {
            let started = Instant::now();
            let outcome = work(&mut chain);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            TaskMetrics::count(&metrics.compute_nanos, nanos);
            outcome.map(|()| chain)
        })
        .await?
    }
}

fn source_schema(source: &StageSource) -> SchemaRef {
    match source {
        StageSource::Scan(scan) => scan.schema(),
        StageSource::Shuffle { schema, .. } => Arc::clone(schema),
    }
}

fn open_source(
    spec: &TaskSpec,
    filters: Vec<ColumnFilter>,
    ctx: &TaskContext,
) -> Result<PlacedMorsels> {
    match (&spec.stage.source, &spec.input) {
        (StageSource::Scan(scan), TaskInput::Splits(splits)) => {
            open_scan(scan, splits.clone(), filters, ctx)
        }
        (StageSource::Shuffle { schema, .. }, TaskInput::Shuffle(inputs)) => {
            let streams = inputs.iter().map(|input| {
                shuffle::open(
                    input.stage,
                    spec.id.job,
                    input.partitions.clone(),
                    input.sources.clone(),
                    Arc::clone(schema),
                    ctx,
                )
            });
            let streams = streams.collect::<Result<Vec<_>>>()?;
            // What was shuffled has lost the order of the input.
            let morsels = futures::stream::iter(streams).flatten();
            Ok(morsels.map_ok(|morsel| (0, morsel)).boxed())
        }
        (StageSource::Shuffle { schema, .. }, TaskInput::Range(range)) => {
            let keys = spec.stage.read_order();
            let keys = keys.ok_or_else(|| Error::internal("a range of rows in no order"))?;
            shuffle::open_range(range.clone(), spec.id.job, keys, Arc::clone(schema), ctx)
        }
        _ => Err(Error::internal(format!(
            "task input does not fit its stage task={}",
            spec.id
        ))),
    }
}

fn open_scan(
    scan: &ScanSpec,
    splits: Vec<Split>,
    filters: Vec<ColumnFilter>,
    ctx: &TaskContext,
) -> Result<PlacedMorsels> {
    match scan.format {
        ScanFormat::Text(_) => source::text::open(scan, splits, ctx),
        ScanFormat::Csv(_) => source::csv::open(scan, splits, ctx),
        ScanFormat::Parquet => source::parquet::open(scan, splits, filters, ctx),
    }
}

fn open_sink(spec: &TaskSpec, ctx: &TaskContext) -> Result<Arc<dyn Sink>> {
    let schema = Arc::clone(&spec.stage.schema);
    match &spec.stage.sink {
        SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        } => {
            let keys = spec.stage.written_order();
            let keys = keys.ok_or_else(|| Error::internal("rows in no order are to be cut"))?;
            SortedSink::new(keys, schema, spec.id, spec.attempt, ctx)
        }
        SinkSpec::Shuffle { partitioning } => {
            ShuffleSink::new(partitioning, schema, spec.id, spec.attempt, ctx)
        }
        SinkSpec::Files { output } => FileSink::new(output, schema, spec.id, spec.attempt, ctx),
    }
}
