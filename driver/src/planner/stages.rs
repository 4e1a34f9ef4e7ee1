//! Cutting a plan into stages, as far as is known what they have to be.
//!
//! Operators are appended to the stage under construction, from the scans up. Where rows of
//! several tasks have to meet, the stage ends in a shuffle and the next begins. A stage that runs
//! as one task never needs that: all of its rows meet in it anyway, whatever the lanes do.
//!
//! The build side of a join is a stage of its own. Whether its rows are sent to every task or both
//! sides are brought together by key depends on how large they are, which nobody knows before
//! that stage has run. So the plan is walked again whenever more sizes are known, and each walk
//! gives the stages that can be said by now. A stage that was given once is recognised by its key
//! and never changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use kiln_engine::expr::{AggregateExpr, Expr, SortKey, col, output_name};
use kiln_engine::id::StageId;
use kiln_engine::plan::{
    AggregateMode, Deal, LogicalPlan, OperatorSpec, Output, Partitioning, Scan, ScanSpec, SinkSpec,
    Stage, StageGraph, partition_keys, schema_of,
};
use kiln_engine::{Error, Result, limits};

use super::inputs::{Input, Tables, address};
use super::order::order_of_result;
use super::pipe::Pipe;
use super::rewrite::columns;
use super::statistics::{Estimate, bytes_at_most, estimate};
use super::uses::Uses;
use super::{ClusterShape, PlannerSettings, StageFacts};

/// Bytes of rows that one partition of a hash shuffle is meant to hold: a fraction of what a task
/// reads, so that the driver can group partitions into tasks of equal size.
const PARTITION_BYTES: u64 = limits::SHUFFLE_TASK_BYTES / 4;

/// The stages of one job: those that have been given, and what is needed to give more.
pub(super) struct Stages {
    plan: Arc<LogicalPlan>,
    pub(super) cluster: ClusterShape,
    pub(super) settings: PlannerSettings,
    /// The files of each scan, by the address of its node.
    inputs: HashMap<usize, Input>,
    tables: Tables,
    /// Nodes that stand in several places of the plan and are worth to be run once.
    shared: BTreeSet<usize>,
    /// The sort, by its address, that is cut into ranges.
    in_ranges: Option<usize>,
    given: Vec<Given>,
    /// Numbers of the stages that have been given, by what they are.
    keys: BTreeMap<String, StageId>,
    facts: BTreeMap<StageId, StageFacts>,
    /// Stages that the walk under way has added.
    added: Vec<Arc<Stage>>,
}

/// What has to be known of a stage once it has been given.
struct Given {
    schema: SchemaRef,
    one_task: bool,
    partitions: u32,
    /// What it was thought to write when it was planned.
    estimate: Estimate,
}

/// The columns that whoever reads a node wants of it; none for all.
pub(super) type Needed<'a> = Option<&'a BTreeSet<String>>;

impl Stages {
    /// The stages of an optimised `plan`, each of whose scans, by its [`address`], reads one of
    /// `inputs`.
    pub(super) fn new(
        plan: Arc<LogicalPlan>,
        inputs: HashMap<usize, Input>,
        tables: Tables,
        cluster: ClusterShape,
        settings: PlannerSettings,
    ) -> Self {
        Stages {
            shared: Uses::of(&plan).several(),
            in_ranges: order_of_result(&plan)
                .filter(|_| cluster.may_grow || cluster.executors > 1)
                .map(address),
            plan,
            cluster,
            settings,
            inputs,
            tables,
            given: Vec::new(),
            keys: BTreeMap::new(),
            facts: BTreeMap::new(),
            added: Vec::new(),
        }
    }

    /// The stages that follow those given so far, now that `done` is known.
    ///
    /// # Errors
    /// `Invalid` for a scan of columns that its files do not have.
    pub(super) fn advance(&mut self, done: &[StageFacts]) -> Result<StageGraph> {
        self.facts
            .extend(done.iter().map(|facts| (facts.stage, *facts)));
        let root = Arc::clone(&self.plan);
        let (body, output) = match &*root {
            LogicalPlan::Write { input, output } => (input, Some(output)),
            _ => (&root, None),
        };
        let complete = match self.build(body, None)? {
            Some(mut pipe) => {
                pipe.in_order_of(&*schema_of(body)?)?;
                self.give_result(pipe, body, output);
                true
            }
            None => false,
        };
        Ok(StageGraph {
            stages: std::mem::take(&mut self.added),
            complete,
            output: output.cloned(),
        })
    }

    fn give_result(&mut self, pipe: Pipe, body: &LogicalPlan, output: Option<&Output>) {
        let sink = match output {
            Some(output) => SinkSpec::Files {
                output: output.clone(),
            },
            // The client fetches the result from there.
            None => SinkSpec::Shuffle {
                partitioning: Partitioning::Single,
            },
        };
        self.give("result".to_owned(), pipe, sink, body);
    }

    /// What every stage that is not done will write, if all goes as estimated.
    pub(super) fn estimates(&self) -> Vec<StageFacts> {
        let known = |stage: &StageId| !self.facts.contains_key(stage);
        let given = (0..).map(StageId).zip(&self.given);
        let open = given.filter(|(stage, _)| known(stage));
        open.map(|(stage, given)| StageFacts {
            stage,
            rows: given.estimate.rows as u64,
            bytes: given.estimate.bytes as u64,
        })
        .collect()
    }

    /// The rows of `node`, of which only `needed` are wanted; nothing if sizes have to be known
    /// first.
    ///
    /// # Errors
    /// As for [`advance`](Self::advance).
    pub(super) fn build(
        &mut self,
        node: &Arc<LogicalPlan>,
        needed: Needed<'_>,
    ) -> Result<Option<Pipe>> {
        if !self.shared.contains(&address(node)) {
            return self.build_node(node, needed);
        }
        let key = format!("shared {:x}", address(node));
        let stage = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                let Some(pipe) = self.build_node(node, None)? else {
                    return Ok(None);
                };
                self.give(key, pipe, single(), node)
            }
        };
        let mut pipe = self.read_back(vec![stage], Deal::Producers);
        if let Some(keys) = order_of(node) {
            // What is read back comes as it comes.
            pipe.push(OperatorSpec::Sort { keys })?;
        }
        Ok(Some(pipe))
    }

    fn build_node(&mut self, node: &Arc<LogicalPlan>, needed: Needed<'_>) -> Result<Option<Pipe>> {
        match &**node {
            LogicalPlan::Scan(scan) => self.scan(node, scan).map(Some),
            LogicalPlan::Project { input, exprs } => {
                let exprs: Vec<Expr> = match needed {
                    Some(needed) => {
                        let wanted = |expr: &&Expr| needed.contains(&output_name(expr));
                        exprs.iter().filter(wanted).cloned().collect()
                    }
                    None => exprs.clone(),
                };
                let below = columns(&exprs);
                let Some(mut pipe) = self.build(input, Some(&below))? else {
                    return Ok(None);
                };
                if !is_identity(&exprs, &pipe) {
                    pipe.push(OperatorSpec::Project { exprs })?;
                }
                Ok(Some(pipe))
            }
            LogicalPlan::Filter { input, predicate } => {
                let below = needed.map(|needed| with(needed, columns([predicate])));
                let pipe = self.build(input, below.as_ref())?;
                then(
                    pipe,
                    OperatorSpec::Filter {
                        predicate: predicate.clone(),
                    },
                )
            }
            LogicalPlan::Explode { input, column } => {
                let own = BTreeSet::from([column.clone()]);
                let below = needed.map(|needed| with(needed, own));
                let pipe = self.build(input, below.as_ref())?;
                then(
                    pipe,
                    OperatorSpec::Explode {
                        column: column.clone(),
                    },
                )
            }
            LogicalPlan::Apply { input, function } => {
                let pipe = self.as_written(input)?;
                then(
                    pipe,
                    OperatorSpec::Apply {
                        function: function.clone(),
                    },
                )
            }
            LogicalPlan::Reduce {
                input,
                keys,
                order,
                function,
                local,
            } => {
                let step = OperatorSpec::Reduce {
                    keys: keys.clone(),
                    order: order.clone(),
                    function: function.clone(),
                    local: *local,
                };
                let pipe = match local {
                    true => self.as_written(input)?,
                    false => self.bring_together(node, input, keys)?,
                };
                then(pipe, step)
            }
            LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            } => self.aggregate(node, input, group_by, aggregates),
            LogicalPlan::Join { .. } => self.join(node, needed),
            LogicalPlan::Union { inputs } => self.union(node, inputs),
            LogicalPlan::Sort { input, keys, limit } => {
                let own = columns(keys.iter().map(|key| &key.expr));
                let below = needed.map(|needed| with(needed, own));
                self.sort(node, input, keys, *limit, below.as_ref())
            }
            LogicalPlan::Repartition {
                input,
                keys,
                partitions,
            } => self.repartition(node, input, keys, *partitions),
            LogicalPlan::SortPartitions { input, keys } => {
                let own = columns(keys.iter().map(|key| &key.expr));
                let below = needed.map(|needed| with(needed, own));
                let pipe = self.build(input, below.as_ref())?;
                then(pipe, OperatorSpec::Sort { keys: keys.clone() })
            }
            LogicalPlan::Limit {
                input,
                offset,
                limit,
            } => self.limit(node, input, *offset, *limit, needed),
            LogicalPlan::Write { .. } => Err(Error::internal("a write that is not the last step")),
        }
    }

    fn scan(&mut self, node: &Arc<LogicalPlan>, scan: &Scan) -> Result<Pipe> {
        let input = self.inputs.get(&address(node));
        let input = input.ok_or_else(|| Error::internal("a scan whose files nobody listed"))?;
        Ok(Pipe::scan(ScanSpec {
            format: scan.format.clone(),
            file_schema: scan.schema.clone(),
            projection: projection(scan)?,
            predicate: scan.predicate.clone(),
            key_filters: Vec::new(),
            files: input.files.clone(),
            tasks: input.tasks.clone(),
        }))
    }

    fn aggregate(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        group_by: &[Expr],
        aggregates: &[AggregateExpr],
    ) -> Result<Option<Pipe>> {
        let step = |mode, group_by: &[Expr]| OperatorSpec::Aggregate {
            mode,
            group_by: group_by.to_vec(),
            aggregates: aggregates.to_vec(),
        };
        let names: Vec<String> = group_by.iter().map(output_name).collect();
        let partial = aggregates
            .iter()
            .all(|aggregate| aggregate.function.is_mergeable());
        let (mode, rest) = if partial {
            (AggregateMode::Final, names.iter().map(col).collect())
        } else {
            (AggregateMode::Single, group_by.to_vec())
        };
        let key = format!("groups {:x}", address(node));
        let exchanged = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                let arguments = aggregates
                    .iter()
                    .flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
                let below = columns(group_by.iter().chain(arguments));
                let Some(mut pipe) = self.build(input, Some(&below))? else {
                    return Ok(None);
                };
                if pipe.has_whole_groups(&names) {
                    pipe.push(step(AggregateMode::Single, group_by))?;
                    return Ok(Some(pipe));
                }
                if partial {
                    pipe.push(step(AggregateMode::Partial, group_by))?;
                }
                let sink = match names.is_empty() {
                    true => single(),
                    false => self.hash_of(input, &names),
                };
                self.give(key, pipe, sink, input)
            }
        };
        let mut pipe = match names.is_empty() {
            true => self.read_back(vec![exchanged], Deal::Gather),
            false => self
                .read_back(vec![exchanged], Deal::Partitions)
                .brought_together(&names),
        };
        pipe.push(step(mode, &rest))?;
        Ok(Some(pipe))
    }

    /// All columns of `input`, in order: functions of users go by position.
    fn as_written(&mut self, input: &Arc<LogicalPlan>) -> Result<Option<Pipe>> {
        let Some(mut pipe) = self.build(input, None)? else {
            return Ok(None);
        };
        pipe.in_order_of(&*schema_of(input)?)?;
        Ok(Some(pipe))
    }

    /// The rows of `input`, all that have the same values in `keys` in one task.
    fn bring_together(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        keys: &[String],
    ) -> Result<Option<Pipe>> {
        let key = format!("together {:x}", address(node));
        let stage = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                let Some(pipe) = self.as_written(input)? else {
                    return Ok(None);
                };
                if pipe.has_whole_groups(keys) {
                    return Ok(Some(pipe));
                }
                let sink = match keys.is_empty() {
                    true => single(),
                    false => self.hash_of(input, keys),
                };
                self.give(key, pipe, sink, input)
            }
        };
        Ok(Some(match keys.is_empty() {
            true => self.read_back(vec![stage], Deal::Gather),
            false => self
                .read_back(vec![stage], Deal::Partitions)
                .brought_together(keys),
        }))
    }

    /// The rows of `input` in so many tasks.
    fn repartition(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        keys: &[String],
        partitions: u32,
    ) -> Result<Option<Pipe>> {
        let key = format!("repartition {:x}", address(node));
        let stage = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                // Whoever reads it may want other columns.
                let Some(pipe) = self.as_written(input)? else {
                    return Ok(None);
                };
                let sink = match partitions {
                    1 => single(),
                    _ => hash(&partition_keys(keys, pipe.schema()), partitions),
                };
                self.give(key, pipe, sink, input)
            }
        };
        let pipe = match partitions {
            1 => self.read_back(vec![stage], Deal::Gather),
            _ => self.read_back(vec![stage], Deal::Each),
        };
        Ok(Some(match keys {
            [] => pipe,
            keys => pipe.brought_together(keys),
        }))
    }

    fn sort(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        keys: &[SortKey],
        limit: Option<u64>,
        needed: Needed<'_>,
    ) -> Result<Option<Pipe>> {
        let keys = keys.to_vec();
        let step = match limit {
            Some(limit) => OperatorSpec::TopK { keys, limit },
            None if self.in_ranges == Some(address(node)) => {
                return self.sort_in_ranges(node, input, OperatorSpec::Sort { keys }, needed);
            }
            None => OperatorSpec::Sort { keys },
        };
        // Each task leaves the first of its own.
        let before = limit.map(|_| step.clone());
        let pipe = self.gather(node, input, needed, before)?;
        then(pipe, step)
    }

    /// The rows of `input` in the order of `sort`, a range of it in each task. The tasks that make
    /// them sort what they have, and where to cut is seen then.
    fn sort_in_ranges(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        sort: OperatorSpec,
        needed: Needed<'_>,
    ) -> Result<Option<Pipe>> {
        let key = format!("order {:x}", address(node));
        let stage = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                let Some(mut pipe) = self.build(input, needed)? else {
                    return Ok(None);
                };
                pipe.push(sort.clone())?;
                if pipe.is_one_task() {
                    return Ok(Some(pipe));
                }
                let sink = SinkSpec::Shuffle {
                    partitioning: Partitioning::Sorted,
                };
                self.give(key, pipe, sink, input)
            }
        };
        then(Some(self.read_back(vec![stage], Deal::Ranges)), sort)
    }

    fn limit(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        offset: u64,
        limit: u64,
        needed: Needed<'_>,
    ) -> Result<Option<Pipe>> {
        let before = OperatorSpec::Limit {
            offset: 0,
            limit: offset.saturating_add(limit),
        };
        let pipe = self.gather(node, input, needed, Some(before))?;
        then(pipe, OperatorSpec::Limit { offset, limit })
    }

    /// Lets all rows of `input` meet in one task; where they are in several, each does `before`
    /// with its own first.
    fn gather(
        &mut self,
        node: &Arc<LogicalPlan>,
        input: &Arc<LogicalPlan>,
        needed: Needed<'_>,
        before: Option<OperatorSpec>,
    ) -> Result<Option<Pipe>> {
        let key = format!("gather {:x}", address(node));
        let stage = match self.keys.get(&key) {
            Some(&stage) => stage,
            None => {
                let Some(mut pipe) = self.build(input, needed)? else {
                    return Ok(None);
                };
                if pipe.is_one_task() {
                    return Ok(Some(pipe));
                }
                if let Some(before) = before {
                    pipe.push(before)?;
                }
                self.give(key, pipe, single(), input)
            }
        };
        Ok(Some(self.read_back(vec![stage], Deal::Gather)))
    }

    fn union(
        &mut self,
        node: &Arc<LogicalPlan>,
        inputs: &[Arc<LogicalPlan>],
    ) -> Result<Option<Pipe>> {
        let schema = schema_of(node)?;
        let mut stages = Vec::with_capacity(inputs.len());
        let mut blocked = false;
        for (number, input) in inputs.iter().enumerate() {
            let key = format!("union {:x}.{number}", address(node));
            if let Some(&stage) = self.keys.get(&key) {
                stages.push(stage);
                continue;
            }
            match self.build(input, None)? {
                Some(mut pipe) => {
                    pipe.in_order_of(&schema)?;
                    stages.push(self.give(key, pipe, single(), input));
                }
                None => blocked = true,
            }
        }
        if blocked {
            return Ok(None);
        }
        let one_task = stages.iter().all(|stage| self.of(*stage).one_task);
        let deal = if one_task {
            Deal::Gather
        } else {
            Deal::Producers
        };
        Ok(Some(Pipe::read(stages, schema, deal)))
    }

    /// Ends a stage in `sink`; `node` is what it computes.
    pub(super) fn give(
        &mut self,
        key: String,
        pipe: Pipe,
        sink: SinkSpec,
        node: &LogicalPlan,
    ) -> StageId {
        let id = StageId(u32::try_from(self.given.len()).expect("a plan has a bounded length"));
        self.given.push(Given {
            schema: Arc::clone(pipe.schema()),
            one_task: pipe.is_one_task(),
            partitions: match &sink {
                SinkSpec::Shuffle { partitioning } => partitioning.count(),
                SinkSpec::Files { .. } => 0,
            },
            estimate: self.estimate(node),
        });
        self.added.push(Arc::new(pipe.into_stage(id, sink)));
        self.keys.insert(key, id);
        id
    }

    /// The stage that was given under `key`.
    pub(super) fn find(&self, key: &str) -> Option<StageId> {
        self.keys.get(key).copied()
    }

    fn of(&self, stage: StageId) -> &Given {
        &self.given[stage.0 as usize]
    }

    /// The columns that a stage writes.
    pub(super) fn schema(&self, stage: StageId) -> SchemaRef {
        Arc::clone(&self.of(stage).schema)
    }

    /// How many partitions a stage writes.
    pub(super) fn partitions(&self, stage: StageId) -> u32 {
        self.of(stage).partitions
    }

    /// What a stage wrote, once it is done.
    pub(super) fn facts(&self, stage: StageId) -> Option<&StageFacts> {
        self.facts.get(&stage)
    }

    /// What `node` is thought to make.
    pub(super) fn estimate(&self, node: &LogicalPlan) -> Estimate {
        estimate(node, &|scan| self.tables.statistics(scan))
    }

    /// Bytes of rows that `node` makes at most.
    pub(super) fn bytes_at_most(&self, node: &LogicalPlan) -> f64 {
        bytes_at_most(node, &|scan| self.tables.statistics(scan))
    }

    /// The rows that stages of one kind wrote. What one task wrote one task can read.
    pub(super) fn read_back(&self, stages: Vec<StageId>, deal: Deal) -> Pipe {
        let one_task = stages.iter().all(|stage| self.of(*stage).one_task);
        let deal = match deal {
            Deal::Producers if one_task => Deal::Gather,
            other => other,
        };
        let schema = self.schema(stages[0]);
        Pipe::read(stages, schema, deal)
    }

    /// A sink that brings rows of `node` together by `keys`.
    pub(super) fn hash_of(&self, node: &LogicalPlan, keys: &[String]) -> SinkSpec {
        hash(
            keys,
            partitions(self.estimate(node).bytes as u64, &self.cluster),
        )
    }
}

/// A sink that brings rows together by `keys`.
pub(super) fn hash(keys: &[String], partitions: u32) -> SinkSpec {
    SinkSpec::Shuffle {
        partitioning: Partitioning::Hash {
            keys: keys.to_vec(),
            partitions,
        },
    }
}

/// A sink of a single partition.
pub(super) fn single() -> SinkSpec {
    SinkSpec::Shuffle {
        partitioning: Partitioning::Single,
    }
}

/// `pipe` with one more operator, if there is a pipe.
fn then(pipe: Option<Pipe>, operator: OperatorSpec) -> Result<Option<Pipe>> {
    let Some(mut pipe) = pipe else {
        return Ok(None);
    };
    pipe.push(operator)?;
    Ok(Some(pipe))
}

fn with(needed: &BTreeSet<String>, own: BTreeSet<String>) -> BTreeSet<String> {
    needed.iter().cloned().chain(own).collect()
}

/// Whether `exprs` are just the columns of `pipe`, in order.
fn is_identity(exprs: &[Expr], pipe: &Pipe) -> bool {
    let fields = pipe.schema().fields();
    let mut pairs = exprs.iter().zip(fields);
    exprs.len() == fields.len()
        && pairs.all(|(expr, field)| matches!(expr, Expr::Column(name) if name == field.name()))
}

/// The order in which a node gives its rows, if it has one.
fn order_of(node: &LogicalPlan) -> Option<Vec<SortKey>> {
    match node {
        LogicalPlan::Sort { keys, .. } | LogicalPlan::SortPartitions { keys, .. } => {
            Some(keys.clone())
        }
        LogicalPlan::Limit { input, .. } | LogicalPlan::Filter { input, .. } => order_of(input),
        LogicalPlan::Project { input, exprs } => {
            let keys = order_of(input)?;
            let kept = |name: &String| {
                let same = |expr: &Expr| matches!(expr, Expr::Column(column) if column == name);
                exprs.iter().any(same)
            };
            columns(keys.iter().map(|key| &key.expr))
                .iter()
                .all(kept)
                .then_some(keys)
        }
        _ => None,
    }
}

/// Indices into the files' columns of those that `scan` produces.
fn projection(scan: &Scan) -> Result<Vec<usize>> {
    let index = |name: &String| {
        scan.schema.index_of(name).map_err(|_| {
            Error::invalid(format!(
                "a scan of a column that files do not have name={name}"
            ))
        })
    };
    match &scan.projection {
        Some(names) => names.iter().map(index).collect(),
        None => Ok((0..scan.schema.fields().len()).collect()),
    }
}

/// A power of two, enough for every thread to have one and for `bytes` to be spread well.
pub(super) fn partitions(bytes: u64, cluster: &ClusterShape) -> u32 {
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
