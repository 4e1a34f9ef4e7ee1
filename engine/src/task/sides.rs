//! What a task reads before its source: the tables of its joins, and what the scan learns of them.
//!
//! Tables are built one after the other, each by all threads. Tasks of one stage that run in one
//! process at the same time share a table where they read the same partitions.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};

use super::chain::output_schema;
use crate::context::{Share, SharedKey, TaskContext, compute};
use crate::error::{Error, Result};
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::operator::Morsel;
use crate::operator::join::{Builder, FilterRequest, JoinSpec, JoinTable, Resources};
use crate::plan::{KeyFilterSpec, OperatorSpec, ShuffleInput, Stage, StageSource, TaskSpec};
use crate::shuffle;
use crate::source::ColumnFilter;

/// The table of one join.
pub(super) struct SideTable {
    /// Position of the join among the stage's operators.
    pub(super) operator: usize,
    pub(super) spec: Arc<JoinSpec>,
    pub(super) table: Share<JoinTable>,
    /// What each of the table's filters is for: a column of the files.
    columns: Vec<usize>,
}

impl SideTable {
    /// Whether some of the rows are on disk.
    pub(super) fn has_spilled(&self) -> bool {
        self.table.value().has_spilled()
    }
}

/// The tables of all joins of the task, in the order of its operators; its source has the columns
/// `schema`. All are built, even where an earlier one turns out to let no row pass: a later join
/// may emit build rows all the same, and other tasks of the stage share what is built.
///
/// # Errors
/// `Invalid` if an operator does not fit its rows; what reading the sides answered; `Exhausted` if
/// the disk is full.
pub(super) async fn open_sides(
    spec: &TaskSpec,
    schema: &SchemaRef,
    ctx: &TaskContext,
) -> Result<Vec<SideTable>> {
    let stage = &spec.stage;
    let mut schema = Arc::clone(schema);
    let mut tables = Vec::new();
    for (operator, step) in stage.operators.iter().enumerate() {
        if let OperatorSpec::Join(join) = step {
            let (Some(side), Some(input)) = (stage.sides.get(join.side), spec.sides.get(join.side))
            else {
                return Err(Error::internal(format!(
                    "a join has no side task={}",
                    spec.id
                )));
            };
            let to_come = sides_behind(stage, spec, operator);
            let join = Arc::new(JoinSpec::new(join, &schema, &side.schema)?);
            let (columns, requests) = filters_of(&stage.source, operator, &join);
            let key = SharedKey {
                job: spec.id.job,
                stage: stage.id,
                operator,
                partitions: input.partitions.clone(),
            };
            let read = Side {
                spec: &join,
                requests,
                schema: &side.schema,
                task: spec,
                input,
                ctx,
                cap: cap(&ctx.memory, input, &to_come),
            };
            let table = ctx.cancel.guard(ctx.shared.get(key, read.table())).await?;
            tables.push(SideTable {
                operator,
                spec: join,
                table,
                columns,
            });
        }
        schema = output_schema(step, &schema, &stage.sides)?;
    }
    Ok(tables)
}

/// What the joins behind the one at `operator` read.
fn sides_behind<'a>(stage: &Stage, spec: &'a TaskSpec, operator: usize) -> Vec<&'a ShuffleInput> {
    let behind = stage.operators.iter().skip(operator + 1);
    let sides = behind.filter_map(|step| match step {
        OperatorSpec::Join(join) => spec.sides.get(join.side),
        _ => None,
    });
    sides.collect()
}

/// Bytes that the table of `input` may take before the tables of `to_come` are built: of what is
/// free now a part as large as its rows are among theirs. A third is for what follows.
fn cap(memory: &MemoryBudget, input: &ShuffleInput, to_come: &[&ShuffleInput]) -> u64 {
    let weight = |input: &ShuffleInput| stored_bytes(input).max(memory.unasked());
    let of_rest: u64 = to_come.iter().map(|input| weight(input)).sum();
    let own = u128::from(weight(input));
    (u128::from(memory.free()) * 2 / 3 * own / (own + u128::from(of_rest))) as u64
}

/// The bytes of a side as it is stored.
fn stored_bytes(input: &ShuffleInput) -> u64 {
    let metas = input.sources.iter().flat_map(|source| &source.partitions);
    metas.map(|meta| meta.bytes).sum()
}

/// The rows of a side.
fn stored_rows(input: &ShuffleInput) -> usize {
    let metas = input.sources.iter().flat_map(|source| &source.partitions);
    metas.map(|meta| meta.rows as usize).sum()
}

/// Whether some join drops all rows of the source because it has no build rows. Only joins of
/// rows as they come count: groups are something else without the rows that they are made of.
pub(super) fn drop_everything(tables: &[SideTable], operators: &[OperatorSpec]) -> bool {
    let groups = |operator: &OperatorSpec| matches!(operator, OperatorSpec::Aggregate { .. });
    let before_groups = operators.iter().position(groups);
    let drops = |side: &SideTable| {
        before_groups.is_none_or(|position| side.operator < position)
            && side.spec.needs_build_rows()
            && side.table.value().rows() == 0
    };
    tables.iter().any(drops)
}

/// The filters that the scan gets of all tables.
pub(super) fn column_filters(tables: &[SideTable]) -> Vec<ColumnFilter> {
    let of_side = |side: &SideTable| {
        let columns = side.columns.iter().zip(side.table.value().filters());
        let filters = columns.map(|(&column, keys)| ColumnFilter {
            column,
            keys: Arc::clone(keys),
        });
        filters.collect::<Vec<_>>()
    };
    tables.iter().flat_map(of_side).collect()
}

/// The columns that the scan filters by keys of the join at `operator`, and what it needs for it.
fn filters_of(
    source: &StageSource,
    operator: usize,
    join: &JoinSpec,
) -> (Vec<usize>, Vec<FilterRequest>) {
    let StageSource::Scan(scan) = source else {
        return (Vec::new(), Vec::new());
    };
    let request = |filter: &KeyFilterSpec| {
        let field = scan.file_schema.fields().get(filter.column)?;
        let request = join.filter_request(filter.key, field.data_type())?;
        Some((filter.column, request))
    };
    let filters = scan.key_filters.iter();
    let filters = filters.filter(|filter| filter.operator == operator);
    filters.filter_map(request).unzip()
}

/// A side to be read.
struct Side<'a> {
    spec: &'a Arc<JoinSpec>,
    requests: Vec<FilterRequest>,
    schema: &'a SchemaRef,
    task: &'a TaskSpec,
    input: &'a ShuffleInput,
    ctx: &'a TaskContext,
    /// Bytes that the table may take.
    cap: u64,
}

impl Side<'_> {
    async fn table(self) -> Result<JoinTable> {
        let ctx = self.ctx;
        let spec = Arc::clone(self.spec);
        let builder = Builder::new(spec, self.requests, &Resources::of(ctx));
        let builder = builder.with_cap(self.cap);
        let builder = Arc::new(builder.expecting(stored_rows(self.input)));
        let morsels = shuffle::open(
            self.input.stage,
            self.task.id.job,
            self.input.partitions.clone(),
            self.input.sources.clone(),
            Arc::clone(self.schema),
            ctx,
        )?;
        let lanes = ctx.pool.current_num_threads();
        let mut taken = morsels
            .map(|morsel| take(morsel, Arc::clone(&builder), ctx.clone()))
            .buffer_unordered(lanes)
            .boxed();
        while taken.try_next().await?.is_some() {}
        drop(taken);
        let builder = Arc::into_inner(builder)
            .ok_or_else(|| Error::internal("a side is still being read"))?;
        let table = compute(ctx, move || builder.finish()).await??;
        TaskMetrics::count(&ctx.metrics.build_rows, table.rows());
        TaskMetrics::count(&ctx.metrics.build_bytes, table.bytes());
        Ok(table)
    }
}

/// Lets `builder` have the rows of a morsel. Owns what it needs, so that it can wait anywhere.
async fn take(morsel: Result<Morsel>, builder: Arc<Builder>, ctx: TaskContext) -> Result<()> {
    let morsel = morsel?;
    compute(&ctx, move || morsel(&mut |batch| builder.add(&batch))).await?
}
