//! Stages: maximal pieces of a plan without a shuffle, and how rows go from one to the next.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::expr::{AggregateExpr, Expr, SortKey};
use crate::id::StageId;
use crate::plan::{Output, ScanFormat};
use crate::udf::{GroupUdf, TableUdf};

/// What can be scheduled of a job: stages in an order in which producers come before consumers.
#[derive(Debug, Clone, PartialEq)]
pub struct StageGraph {
    /// The stages; stage `i` has id `i`.
    pub stages: Vec<Arc<Stage>>,
    /// The last stage makes the job's result. Otherwise more stages follow when sizes are known of
    /// what these write.
    pub complete: bool,
    /// Where output files go, if that is what the job makes.
    pub output: Option<Output>,
}

/// What a stage that is done has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageFacts {
    /// Which stage.
    pub stage: StageId,
    /// Rows of all its winning attempts.
    pub rows: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
}

/// What a plan needs to know of the cluster that will run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterShape {
    /// Executors; 0 counts as 1, for a job that waits for its first.
    pub executors: u32,
    /// Threads that compute, of all executors together.
    pub threads: u32,
    /// Memory budget of the smallest executor, in bytes.
    pub memory: u64,
    /// Executors may join while the job runs, so it is cut such that they find work; false for the
    /// one executor of an embedded session, whose jobs need no exchange but for joins that do not
    /// fit into its memory.
    pub may_grow: bool,
}

/// A maximal piece of a plan without a shuffle.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its place in the graph.
    pub id: StageId,
    /// Where its rows come from.
    pub source: StageSource,
    /// Rows of earlier stages that its joins look up in, each read as a whole before the first row
    /// of `source`.
    pub sides: Vec<Side>,
    /// What is done to them, in order.
    pub operators: Vec<OperatorSpec>,
    /// Where they go.
    pub sink: SinkSpec,
    /// Columns of the rows that reach the sink.
    pub schema: SchemaRef,
}

/// Where the rows of a stage come from.
#[derive(Debug, Clone, PartialEq)]
pub enum StageSource {
    /// Input files.
    Scan(ScanSpec),
    /// The output of earlier stages.
    Shuffle {
        /// The stages that wrote it, all with the same partitioning; several for a union.
        stages: Vec<StageId>,
        /// Their columns.
        schema: SchemaRef,
        /// How it is dealt out to tasks.
        deal: Deal,
    },
}

/// How the output of earlier stages is dealt out to the tasks of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deal {
    /// One task reads everything (a global limit, order or aggregate).
    Gather,
    /// A task reads a range of partitions of every producer: all rows of a key meet in it.
    Partitions,
    /// A task reads one partition of every producer: as many tasks as partitions that have rows,
    /// however few.
    Each,
    /// A task reads everything that some of the producing tasks wrote: rows in no order.
    Producers,
    /// A task reads a range of the order in which every producer of the one stage wrote its rows
    /// ([`Partitioning::Sorted`]), and begins with the same sort as they have ended with. The
    /// tasks are in the order of their ranges.
    Ranges,
}

/// Rows that a join of a stage looks up in.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// The stage that wrote them.
    pub stage: StageId,
    /// Their columns.
    pub schema: SchemaRef,
    /// Every task reads all partitions. Otherwise a task reads the range of partitions that it
    /// reads of its source, which has the same keys and as many partitions.
    pub broadcast: bool,
}

/// A scan whose files are known.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanSpec {
    /// How the bytes become rows.
    pub format: ScanFormat,
    /// Every column that the files have.
    pub file_schema: SchemaRef,
    /// Indices into `file_schema` of the columns to produce, in order.
    pub projection: Vec<usize>,
    /// Only rows for which this is true, over `file_schema`.
    pub predicate: Option<Expr>,
    /// Columns whose rows no join keeps unless it knows the key.
    pub key_filters: Vec<KeyFilterSpec>,
    /// The files, in listing order; empty in the copy that travels to executors, whose splits
    /// carry what they need.
    pub files: Vec<FileMeta>,
    /// The splits of each task.
    pub tasks: Vec<Vec<Split>>,
}

impl ScanSpec {
    /// The columns that the scan produces.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<_> = self
            .projection
            .iter()
            .map(|&column| self.file_schema.field(column).clone())
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// A scan may drop rows that a later join of its stage would drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFilterSpec {
    /// Index into `file_schema` of the column that is the join's key.
    pub column: usize,
    /// Position of the join among the stage's operators.
    pub operator: usize,
    /// Which of the join's keys.
    pub key: usize,
}

/// An input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Its URL.
    pub url: String,
    /// Its size.
    pub bytes: u64,
}

/// A piece of an input file: the records that start in `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// URL of the file.
    pub url: String,
    /// Size of the whole file in bytes, so that no reader has to ask.
    pub file_bytes: u64,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// One step of a stage, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum OperatorSpec {
    /// One output column per expression.
    Project {
        /// The columns.
        exprs: Vec<Expr>,
    },
    /// The rows for which the predicate is true.
    Filter {
        /// A boolean expression.
        predicate: Expr,
    },
    /// One row per element of a list column.
    Explode {
        /// The list column.
        column: String,
    },
    /// What a function of a user's program makes of rows.
    Apply {
        /// The function.
        function: TableUdf,
    },
    /// What a function of a user's program makes of rows, group by group.
    Reduce {
        /// The columns whose values make a group.
        keys: Vec<String>,
        /// The order of the rows of a group.
        order: Vec<SortKey>,
        /// The function.
        function: GroupUdf,
        /// Whether the rows of a group may also be in other tasks.
        local: bool,
    },
    /// Grouping.
    Aggregate {
        /// Which part of it happens here.
        mode: AggregateMode,
        /// The keys; for `Final`, columns of the partial output.
        group_by: Vec<Expr>,
        /// What to compute.
        aggregates: Vec<AggregateExpr>,
    },
    /// Look-ups in a side, a row at a time as far as anybody can tell.
    Join(JoinStep),
    /// The first `limit` rows in order.
    TopK {
        /// Most significant first.
        keys: Vec<SortKey>,
        /// How many.
        limit: u64,
    },
    /// All rows in order.
    Sort {
        /// Most significant first.
        keys: Vec<SortKey>,
    },
    /// Some rows: `offset` are passed over, then at most `limit` kept.
    Limit {
        /// Rows to pass over.
        offset: u64,
        /// Rows to keep at most.
        limit: u64,
    },
}

impl Stage {
    /// The order in which its tasks write, for a stage whose shuffle is cut by ranges.
    pub fn written_order(&self) -> Option<&[SortKey]> {
        match (&self.sink, self.operators.last()) {
            (
                SinkSpec::Shuffle {
                    partitioning: Partitioning::Sorted,
                },
                Some(OperatorSpec::Sort { keys }),
            ) => Some(keys),
            _ => None,
        }
    }

    /// The order of which its tasks read ranges, for a stage that does.
    pub fn read_order(&self) -> Option<&[SortKey]> {
        match (&self.source, self.operators.first()) {
            (
                StageSource::Shuffle {
                    deal: Deal::Ranges, ..
                },
                Some(OperatorSpec::Sort { keys }),
            ) => Some(keys),
            _ => None,
        }
    }

    /// Whether a function of a user's program is called in it.
    pub fn calls_functions(&self) -> bool {
        let predicate = match &self.source {
            StageSource::Scan(scan) => scan.predicate.as_ref(),
            StageSource::Shuffle { .. } => None,
        };
        let applies = |operator: &OperatorSpec| {
            let aggregates = match operator {
                OperatorSpec::Aggregate { aggregates, .. } => aggregates.as_slice(),
                _ => &[],
            };
            matches!(
                operator,
                OperatorSpec::Apply { .. } | OperatorSpec::Reduce { .. }
            ) || aggregates.iter().any(AggregateExpr::calls_functions)
                || operator.exprs().into_iter().any(Expr::calls_functions)
        };
        predicate.is_some_and(Expr::calls_functions) || self.operators.iter().any(applies)
    }

    /// Whether the rows of one partition may be dealt out to several tasks, each of which reads
    /// the whole partition of the sides: joins look up in what has been brought together with the
    /// rows, and nothing else needs rows with equal keys to be in one task.
    pub fn may_split_partitions(&self) -> bool {
        let by_partition = matches!(
            self.source,
            StageSource::Shuffle {
                deal: Deal::Partitions,
                ..
            }
        );
        let looks_up = |side| {
            let joins =
                |step: &OperatorSpec| matches!(step, OperatorSpec::Join(join) if join.side == side);
            self.operators.iter().any(joins)
        };
        let mut together = (0..).zip(&self.sides).filter(|(_, side)| !side.broadcast);
        by_partition
            && self.sides.iter().any(|side| !side.broadcast)
            && together.all(|(number, _)| looks_up(number))
            && !self.operators.iter().any(OperatorSpec::needs_whole_groups)
    }
}

impl OperatorSpec {
    /// Whether its answer is wrong where rows with equal keys, or all rows of the stage, are in
    /// several tasks. The first rows that a stage of several tasks keeps are not all that is kept
    /// of them: those of all tasks meet later.
    fn needs_whole_groups(&self) -> bool {
        match self {
            OperatorSpec::Project { .. }
            | OperatorSpec::Filter { .. }
            | OperatorSpec::Explode { .. }
            | OperatorSpec::Apply { .. }
            | OperatorSpec::TopK { .. }
            | OperatorSpec::Limit { .. } => false,
            OperatorSpec::Reduce { local, .. } => !local,
            OperatorSpec::Aggregate { mode, .. } => *mode != AggregateMode::Partial,
            OperatorSpec::Join(step) => step.kind.emits_build_rows(),
            OperatorSpec::Sort { .. } => true,
        }
    }

    /// The expressions of this operator.
    pub fn exprs(&self) -> Vec<&Expr> {
        match self {
            OperatorSpec::Project { exprs } => exprs.iter().collect(),
            OperatorSpec::Filter { predicate } => vec![predicate],
            OperatorSpec::Aggregate {
                group_by,
                aggregates,
                ..
            } => {
                let operands = aggregates.iter().flat_map(AggregateExpr::operands);
                group_by.iter().chain(operands).collect()
            }
            OperatorSpec::Join(step) => {
                let keys = step.probe_keys.iter().chain(&step.build_keys);
                keys.chain(&step.filter).collect()
            }
            OperatorSpec::TopK { keys, .. }
            | OperatorSpec::Sort { keys }
            | OperatorSpec::Reduce { order: keys, .. } => {
                keys.iter().map(|key| &key.expr).collect()
            }
            OperatorSpec::Explode { .. }
            | OperatorSpec::Apply { .. }
            | OperatorSpec::Limit { .. } => Vec::new(),
        }
    }

    /// The expressions of this operator, to be changed.
    pub fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            OperatorSpec::Project { exprs } => exprs.iter_mut().collect(),
            OperatorSpec::Filter { predicate } => vec![predicate],
            OperatorSpec::Aggregate {
                group_by,
                aggregates,
                ..
            } => {
                let parts = aggregates.iter_mut();
                let parts =
                    parts.flat_map(|part| part.arguments.iter_mut().chain(&mut part.filter));
                group_by.iter_mut().chain(parts).collect()
            }
            OperatorSpec::Join(step) => {
                let keys = step.probe_keys.iter_mut().chain(&mut step.build_keys);
                keys.chain(&mut step.filter).collect()
            }
            OperatorSpec::TopK { keys, .. }
            | OperatorSpec::Sort { keys }
            | OperatorSpec::Reduce { order: keys, .. } => {
                keys.iter_mut().map(|key| &mut key.expr).collect()
            }
            OperatorSpec::Explode { .. }
            | OperatorSpec::Apply { .. }
            | OperatorSpec::Limit { .. } => Vec::new(),
        }
    }
}

/// A join as a step of a stage. The rows that flow through the stage are the *probe* rows, those
/// of the side are the *build* rows.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinStep {
    /// Index into the stage's sides.
    pub side: usize,
    /// What comes out.
    pub kind: StepKind,
    /// Keys over the probe rows; none where every row meets every row.
    pub probe_keys: Vec<Expr>,
    /// Keys over the build rows, as many and of the same types.
    pub build_keys: Vec<Expr>,
    /// What else has to be true of a pair, over the columns of both.
    pub filter: Option<Expr>,
    /// Names of the columns that come out, of either side (of the one side that is kept for the
    /// semi and anti kinds), in order.
    pub output: Vec<String>,
}

impl JoinStep {
    /// Whether a column of that name comes out.
    pub fn output_has(&self, name: &str) -> bool {
        self.output.iter().any(|column| column == name)
    }
}

/// What a join step does with rows that match and those that do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// A row for each pair that matches.
    Inner,
    /// And probe rows without a match.
    ProbeOuter,
    /// And build rows without a match.
    BuildOuter,
    /// And rows of either side without a match.
    FullOuter,
    /// Probe rows with a match, once each.
    ProbeSemi,
    /// Probe rows without a match.
    ProbeAnti,
    /// Build rows with a match, once each.
    BuildSemi,
    /// Build rows without a match.
    BuildAnti,
}

impl StepKind {
    /// Whether a probe row without a match leaves no trace, so that a source may drop it.
    pub fn drops_probe_rows(self) -> bool {
        matches!(
            self,
            StepKind::Inner
                | StepKind::BuildOuter
                | StepKind::ProbeSemi
                | StepKind::BuildSemi
                | StepKind::BuildAnti
        )
    }

    /// Whether build rows come out by themselves once all probe rows have been seen. Then only one
    /// task may look up in the same build rows.
    pub fn emits_build_rows(self) -> bool {
        matches!(
            self,
            StepKind::BuildOuter | StepKind::FullOuter | StepKind::BuildSemi | StepKind::BuildAnti
        )
    }
}

/// Which part of an aggregation an operator does.
///
/// The columns between `Partial` and `Final` are the keys under their names, then the states:
/// `<name>:count`, `<name>:sum` (`:sum_i64` or `:sum_u64`, in a wide decimal, of whole numbers),
/// `:min`, `:max` or `:first`, and for a variance `:count`, `:mean` and `:m2`. An avg has a sum and
/// a count. A state that several aggregates need is there once, under the name of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateMode {
    /// Rows in, results out.
    Single,
    /// Rows in, states out; groups may appear several times.
    Partial,
    /// States in, results out.
    Final,
}

/// Where the rows of a stage go.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkSpec {
    /// A shuffle object per task, for a later stage or for the client to fetch.
    Shuffle {
        /// How rows are spread over partitions.
        partitioning: Partitioning,
    },
    /// Output files, committed when the job ends.
    Files {
        /// Where and what.
        output: Output,
    },
}

/// How rows are spread over the partitions of a shuffle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioning {
    /// By the hash of the keys ([`crate::kernel::hash`]).
    Hash {
        /// Columns of the stage's schema.
        keys: Vec<String>,
        /// How many partitions.
        partitions: u32,
    },
    /// All rows in one.
    Single,
    /// In stretches, in the order of the sort that the stage ends with. Where the order is cut for
    /// those who read it is decided when all of it is there.
    Sorted,
}

impl Partitioning {
    /// How many partitions there are; those of an order that is cut later are one until then.
    pub fn count(&self) -> u32 {
        match self {
            Partitioning::Hash { partitions, .. } => *partitions,
            Partitioning::Single | Partitioning::Sorted => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(kind: StepKind, broadcast: bool, then: Vec<OperatorSpec>) -> Stage {
        let schema = Arc::new(Schema::empty());
        let join = OperatorSpec::Join(JoinStep {
            side: 0,
            kind,
            probe_keys: vec![],
            build_keys: vec![],
            filter: None,
            output: vec![],
        });
        Stage {
            id: StageId(2),
            source: StageSource::Shuffle {
                stages: vec![StageId(0)],
                schema: Arc::clone(&schema),
                deal: Deal::Partitions,
            },
            sides: vec![Side {
                stage: StageId(1),
                schema: Arc::clone(&schema),
                broadcast,
            }],
            operators: std::iter::once(join).chain(then).collect(),
            sink: SinkSpec::Shuffle {
                partitioning: Partitioning::Single,
            },
            schema,
        }
    }

    #[test]
    fn partitions_are_split_where_only_joins_need_them() {
        let groups = |mode| OperatorSpec::Aggregate {
            mode,
            group_by: vec![],
            aggregates: vec![],
        };
        let all = |kind, then| joined(kind, false, then).may_split_partitions();
        assert!(all(StepKind::Inner, vec![]));
        assert!(all(
            StepKind::ProbeOuter,
            vec![groups(AggregateMode::Partial)]
        ));
        assert!(all(
            StepKind::ProbeAnti,
            vec![OperatorSpec::Limit {
                offset: 0,
                limit: 1
            }]
        ));
        assert!(!all(StepKind::BuildOuter, vec![]));
        assert!(!all(StepKind::BuildSemi, vec![]));
        assert!(!all(StepKind::Inner, vec![groups(AggregateMode::Single)]));
        assert!(!all(StepKind::Inner, vec![groups(AggregateMode::Final)]));
        assert!(!all(
            StepKind::Inner,
            vec![OperatorSpec::Sort { keys: vec![] }]
        ));
        assert!(!joined(StepKind::Inner, true, vec![]).may_split_partitions());
        let without_join = Stage {
            operators: vec![],
            ..joined(StepKind::Inner, false, vec![])
        };
        assert!(!without_join.may_split_partitions());
    }
}
