//! Cutting a plan into stages at its shuffles.
//!
//! Operators are appended to the stage under construction, from the scan up. Where rows of
//! several tasks have to meet, the stage ends in a shuffle and the next begins. A stage that runs
//! as one task never needs that: all of its rows meet in it anyway, whatever the lanes do.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use kiln_engine::expr::{AggregateExpr, Expr, SortKey, col, output_name};
use kiln_engine::id::StageId;
use kiln_engine::plan::{
    AggregateMode, LogicalPlan, OperatorSpec, Partitioning, Scan, ScanSpec, SinkSpec, Stage,
    StageGraph, StageSource,
};
use kiln_engine::task::output_schema;
use kiln_engine::{Error, Result, limits};

use super::ClusterShape;
use super::inputs::Input;
use super::rewrite;

/// Bytes of rows that one partition of a hash shuffle is meant to hold: a fraction of what a task
/// reads, so that the driver can group partitions into tasks of equal size.
const PARTITION_BYTES: u64 = limits::SHUFFLE_TASK_BYTES / 4;

/// The stages of an optimised plan whose files are known.
///
/// # Errors
/// `Invalid` for a scan of columns that its files do not have.
pub(super) fn cut(plan: &LogicalPlan, input: Input, cluster: &ClusterShape) -> Result<StageGraph> {
    let mut cutter = Cutter::new(rewrite::scan(plan)?, input, cluster)?;
    let mut output = None;
    for node in rewrite::chain(plan).into_iter().rev() {
        match node {
            LogicalPlan::Scan(_) => {}
            LogicalPlan::Project { exprs, .. } => {
                cutter.push(OperatorSpec::Project {
                    exprs: exprs.clone(),
                })?;
            }
            LogicalPlan::Filter { predicate, .. } => {
                cutter.push(OperatorSpec::Filter {
                    predicate: predicate.clone(),
                })?;
            }
            LogicalPlan::Explode { column, .. } => {
                cutter.push(OperatorSpec::Explode {
                    column: column.clone(),
                })?;
            }
            LogicalPlan::Aggregate {
                group_by,
                aggregates,
                ..
            } => {
                cutter.aggregate(group_by, aggregates)?;
            }
            LogicalPlan::Sort { keys, limit, .. } => cutter.sort(keys, *limit)?,
            LogicalPlan::Limit { offset, limit, .. } => cutter.limit(*offset, *limit)?,
            LogicalPlan::Write { output: to, .. } => output = Some(to.clone()),
        }
    }
    Ok(cutter.finish(match output {
        Some(output) => SinkSpec::Files { output },
        // The client fetches the result from there.
        None => SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        },
    }))
}

/// The stages that are complete, and the one under construction.
struct Cutter {
    stages: Vec<Arc<Stage>>,
    source: StageSource,
    operators: Vec<OperatorSpec>,
    /// Columns behind the last operator.
    schema: SchemaRef,
    /// The stage under construction runs as one task.
    one_task: bool,
    /// Partitions of a hash shuffle.
    partitions: u32,
}

impl Cutter {
    fn new(scan: &Scan, input: Input, cluster: &ClusterShape) -> Result<Self> {
        let one_task = input.tasks.len() == 1;
        let spec = ScanSpec {
            format: scan.format.clone(),
            file_schema: scan.schema.clone(),
            projection: projection(scan)?,
            files: input.files,
            tasks: input.tasks,
        };
        let schema = spec.schema();
        Ok(Cutter {
            stages: Vec::new(),
            source: StageSource::Scan(spec),
            operators: Vec::new(),
            schema,
            one_task,
            partitions: partitions(input.bytes, cluster),
        })
    }

    fn push(&mut self, operator: OperatorSpec) -> Result<()> {
        self.schema = output_schema(&operator, &self.schema)?;
        self.operators.push(operator);
        Ok(())
    }

    fn aggregate(&mut self, group_by: &[Expr], aggregates: &[AggregateExpr]) -> Result<()> {
        let step = |mode, group_by: &[Expr]| OperatorSpec::Aggregate {
            mode,
            group_by: group_by.to_vec(),
            aggregates: aggregates.to_vec(),
        };
        if self.one_task {
            return self.push(step(AggregateMode::Single, group_by));
        }
        self.push(step(AggregateMode::Partial, group_by))?;
        let keys: Vec<String> = group_by.iter().map(output_name).collect();
        if keys.is_empty() {
            self.gather();
        } else {
            let partitions = self.partitions;
            self.exchange(
                Partitioning::Hash {
                    keys: keys.clone(),
                    partitions,
                },
                false,
            );
        }
        let keys: Vec<Expr> = keys.into_iter().map(col).collect();
        self.push(step(AggregateMode::Final, &keys))
    }

    fn sort(&mut self, keys: &[SortKey], limit: Option<u64>) -> Result<()> {
        let keys = keys.to_vec();
        let Some(limit) = limit else {
            self.gather();
            return self.push(OperatorSpec::Sort { keys });
        };
        if !self.one_task {
            self.push(OperatorSpec::TopK {
                keys: keys.clone(),
                limit,
            })?;
            self.gather();
        }
        self.push(OperatorSpec::TopK { keys, limit })
    }

    fn limit(&mut self, offset: u64, limit: u64) -> Result<()> {
        if !self.one_task {
            let limit = offset.saturating_add(limit);
            self.push(OperatorSpec::Limit { offset: 0, limit })?;
            self.gather();
        }
        self.push(OperatorSpec::Limit { offset, limit })
    }

    /// Lets all rows meet in one task.
    fn gather(&mut self) {
        if !self.one_task {
            self.exchange(Partitioning::Single, true);
        }
    }

    /// Ends the stage in a shuffle and begins one that reads it.
    fn exchange(&mut self, partitioning: Partitioning, gather: bool) {
        let schema = self.schema.clone();
        let stage = self.complete(SinkSpec::Shuffle { partitioning });
        self.source = StageSource::Shuffle {
            stage,
            schema,
            gather,
        };
        self.one_task = gather;
    }

    /// Puts the stage under construction with those that are complete.
    fn complete(&mut self, sink: SinkSpec) -> StageId {
        let id = StageId(u32::try_from(self.stages.len()).expect("a plan has a bounded length"));
        self.stages.push(Arc::new(Stage {
            id,
            source: self.source.clone(),
            operators: std::mem::take(&mut self.operators),
            sink,
            schema: self.schema.clone(),
        }));
        id
    }

    fn finish(mut self, sink: SinkSpec) -> StageGraph {
        self.complete(sink);
        StageGraph {
            stages: self.stages,
        }
    }
}

/// Indices into the files' columns of those that `scan` produces.
fn projection(scan: &Scan) -> Result<Vec<usize>> {
    let index = |name: &String| find(&scan.schema, name);
    match &scan.projection {
        Some(names) => names.iter().map(index).collect(),
        None => Ok((0..scan.schema.fields().len()).collect()),
    }
}

fn find(schema: &Schema, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        Error::invalid(format!(
            "a scan of a column that files do not have name={name}"
        ))
    })
}

/// A power of two, enough for every thread to have one and for `bytes` to be spread well.
fn partitions(bytes: u64, cluster: &ClusterShape) -> u32 {
    let by_size = u32::try_from(bytes.div_ceil(PARTITION_BYTES)).unwrap_or(u32::MAX);
    let by_threads = cluster.threads.max(cluster.executors.saturating_mul(2));
    let wanted = by_size.max(by_threads).max(1);
    // The limit is a power of two itself.
    wanted
        .min(limits::SHUFFLE_PARTITIONS_MAX)
        .next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_size_and_threads_up_to_the_limit() {
        let count = |gib: u64, threads, executors| {
            let cluster = ClusterShape {
                executors,
                threads,
                memory: 0,
                may_grow: true,
            };
            partitions(gib << 30, &cluster)
        };
        assert_eq!(count(0, 0, 0), 1);
        assert_eq!(count(0, 2, 2), 4);
        assert_eq!(count(1, 6, 2), 32);
        assert_eq!(count(2, 6, 2), 64);
        assert_eq!(count(1, 100, 2), 128);
        assert_eq!(count(1 << 20, 8, 2), limits::SHUFFLE_PARTITIONS_MAX);
    }
}
