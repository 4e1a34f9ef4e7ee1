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
use crate::metrics::TaskMetrics;
use crate::operator::Morsel;
use crate::operator::join::{Builder, FilterRequest, JoinSpec, JoinTable};
use crate::plan::{KeyFilterSpec, OperatorSpec, ShuffleInput, StageSource, TaskSpec};
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

/// The tables of all joins of the task, in the order of its operators; its source has the columns
/// `schema`. All are built, even where an earlier one turns out to let no row pass: a later join
/// may emit build rows all the same, and other tasks of the stage share what is built.
///
/// # Errors
/// `Invalid` if an operator does not fit its rows; what reading the sides answered; `Exhausted` if
/// a table does not fit into memory.
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
}

impl Side<'_> {
    async fn table(self) -> Result<JoinTable> {
        let ctx = self.ctx;
        let builder = Builder::new(
            Arc::clone(self.spec),
            self.requests,
            &ctx.memory,
            ctx.cancel.clone(),
        );
        let builder = Arc::new(builder);
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
        TaskMetrics::count(&ctx.metrics.build_rows, table.rows() as u64);
        TaskMetrics::count(&ctx.metrics.build_bytes, table.bytes());
        Ok(table)
    }
}

/// Lets `builder` have the rows of a morsel. Owns what it needs, so that it can wait anywhere.
async fn take(morsel: Result<Morsel>, builder: Arc<Builder>, ctx: TaskContext) -> Result<()> {
    let morsel = morsel?;
    compute(&ctx, move || morsel(&mut |batch| builder.add(&batch))).await?
}
