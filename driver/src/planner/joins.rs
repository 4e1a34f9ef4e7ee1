//! Joins: which side is looked up in, and how its rows get to the tasks.
//!
//! The side that is looked up in, the *build* side, becomes a stage of its own. Its rows are sent
//! to every task (broadcast) where that is cheaper than bringing both sides together by key, which
//! means writing and reading the other side once more; the true size of the build side decides.
//! Where nothing can come of the question nobody waits for an answer: one task has all rows of
//! the other side, or the build side is small however the estimate errs. One process writes a side
//! that is thought to be small as one partition, and once more, by key, if it was not and several
//! tasks look there.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use kiln_engine::Result;
use kiln_engine::expr::{Expr, col, output_name, typing};
use kiln_engine::id::StageId;
use kiln_engine::plan::{
    Deal, JoinKind, JoinStep, LogicalPlan, OperatorSpec, Side, StepKind, schema_of,
};

use super::inputs::address;
use super::pipe::Pipe;
use super::rewrite::columns;
use super::stages::{Needed, Stages, hash, partitions, single};
use super::statistics::row_bytes;

/// The kinds that keep the left alone build on the left if the right is this many times as large.
const SWAP_RATIO: f64 = 2.0;

/// A build side is not broadcast if it is larger than this share (1 / this) of an executor's
/// memory.
const BROADCAST_MEMORY_SHARE: u64 = 4;

/// A join whose sides have been given their parts.
struct Sides<'a> {
    probe: &'a Arc<LogicalPlan>,
    build: &'a Arc<LogicalPlan>,
    kind: StepKind,
    /// Keys over the probe side and over the build side, with the type in which they meet.
    keys: Vec<(Expr, Expr, DataType)>,
    filter: Option<&'a Expr>,
}

impl Stages {
    /// The rows of a join.
    ///
    /// # Errors
    /// As for [`Stages::advance`].
    pub(super) fn join(
        &mut self,
        node: &Arc<LogicalPlan>,
        needed: Needed<'_>,
    ) -> Result<Option<Pipe>> {
        let sides = self.sides(node)?;
        let output = output_names(node, needed)?;
        let read: BTreeSet<String> = output
            .iter()
            .cloned()
            .chain(columns(sides.filter))
            .collect();
        let probe_read = with_keys(&read, sides.keys.iter().map(|(probe, _, _)| probe));
        let build_read = with_keys(&read, sides.keys.iter().map(|(_, build, _)| build));

        // Both are walked in any case, so that all stages that can run are known.
        let computed = ComputedNames::of(node)?;
        let build_key = format!("build {:x}", address(node));
        let dealt_key = format!("build dealt out {:x}", address(node));
        let probe_key = format!("probe {:x}", address(node));
        let exchanged = self.find(&probe_key);
        let probe = match exchanged {
            Some(_) => None,
            None => self.build(sides.probe, Some(&probe_read))?,
        };
        // Nobody waits for the size of a small side on a cluster, so this must not be a guess.
        let small_bytes = self.settings.small_build_bytes as f64;
        let most = self.bytes_at_most(sides.build);
        let small = most < small_bytes && !sides.kind.emits_build_rows();
        let broadcast_bytes = self.broadcast_bytes() as f64;
        let stage = match self.find(&build_key) {
            Some(stage) => stage,
            None => {
                let Some(mut pipe) = self.build(sides.build, Some(&build_read))? else {
                    return Ok(None);
                };
                let build_bytes = self.estimate(sides.build).bytes;
                // Without other executors nothing is gained by an exchange, unless the rows do not
                // fit into memory: then every task would have to write all of them to disk.
                let stays = !self.cluster.may_grow && build_bytes <= broadcast_bytes;
                let whole = stays || probe.as_ref().is_some_and(Pipe::is_one_task);
                let names =
                    key_columns(&mut pipe, sides.build_keys(), &computed.build, &build_read)?;
                pipe.keep_only(&with_names(&build_read, &names))?;
                let sink = match whole || small || names.is_empty() {
                    true => single(),
                    false => {
                        let bytes = build_bytes.max(self.estimate(sides.probe).bytes);
                        hash(&names, partitions(bytes as u64, &self.cluster))
                    }
                };
                self.give(build_key, pipe, sink, sides.build)
            }
        };
        let dealt = self.find(&dealt_key);
        let stage = dealt.unwrap_or(stage);
        let schema = self.schema(stage);
        let step = |probe_keys: Vec<Expr>| JoinStep {
            side: 0,
            kind: sides.kind,
            probe_keys,
            build_keys: prepared(sides.build_keys(), &computed.build, &schema),
            filter: sides.filter.cloned(),
            output: output.clone(),
        };
        let side = |broadcast| Side {
            stage,
            schema: Arc::clone(&schema),
            broadcast,
        };
        let partitions = self.partitions(stage);
        // What was written as one partition stays one on a cluster, where that was no guess.
        let is_settled = self.cluster.may_grow || sides.keys.is_empty() || most <= broadcast_bytes;
        let exchanged = match (exchanged, probe) {
            (Some(exchanged), _) => exchanged,
            (None, None) => return Ok(None),
            (None, Some(mut pipe)) => {
                let broadcast = match partitions {
                    _ if pipe.is_one_task() => true,
                    _ if dealt.is_some() => false,
                    1 if sides.kind.emits_build_rows() => false,
                    1 if is_settled => true,
                    _ => match self.is_broadcast(&sides, stage) {
                        Some(false) if partitions == 1 => {
                            let keys = prepared(sides.build_keys(), &computed.build, &schema);
                            self.deal_out(dealt_key, stage, &sides, &keys);
                            // With that stage in place of the other one.
                            return self.join(node, needed);
                        }
                        Some(broadcast) => broadcast,
                        None => return Ok(None),
                    },
                };
                let names =
                    key_columns(&mut pipe, sides.probe_keys(), &computed.probe, &probe_read)?;
                if broadcast {
                    pipe.join(side(true), step(names.into_iter().map(col).collect()))?;
                    return Ok(Some(pipe));
                }
                pipe.keep_only(&with_names(&probe_read, &names))?;
                let sink = match partitions {
                    1 => single(),
                    _ => hash(&names, partitions),
                };
                self.give(probe_key, pipe, sink, sides.probe)
            }
        };
        let deal = match partitions {
            1 => Deal::Gather,
            _ => Deal::Partitions,
        };
        let mut pipe = self.read_back(vec![exchanged], deal);
        let keys = prepared(sides.probe_keys(), &computed.probe, pipe.schema());
        if deal == Deal::Partitions {
            let names: Vec<String> = keys.iter().map(output_name).collect();
            pipe = pipe.brought_together(&names);
        }
        pipe.join(side(deal == Deal::Gather), step(keys))?;
        Ok(Some(pipe))
    }

    /// Whether the rows of the build stage go to every task; nothing before its size is known.
    fn is_broadcast(&self, sides: &Sides<'_>, stage: StageId) -> Option<bool> {
        if sides.kind.emits_build_rows() {
            return Some(false);
        }
        let build = self.written_bytes(stage)?;
        let executors = u64::from(self.cluster.executors.max(1));
        let probe = self.estimate(sides.probe).bytes as u64;
        let fits = build <= self.broadcast_bytes();
        // Each executor reads all of it, or both sides are written and read once.
        Some(
            fits && build.saturating_mul(executors)
                <= build.saturating_add(probe.saturating_mul(2)),
        )
    }

    /// Bytes of the rows that a stage wrote, in memory, once it is done.
    fn written_bytes(&self, stage: StageId) -> Option<u64> {
        let written = self.facts(stage)?;
        // Stored bytes are compressed; a table of the rows is not.
        let rows = written.rows as f64 * row_bytes(&self.schema(stage));
        Some(written.bytes.max(rows as u64))
    }

    /// Deals the rows of a build stage out by key that was written as one partition because it was
    /// thought to be small.
    fn deal_out(&mut self, key: String, stage: StageId, sides: &Sides<'_>, keys: &[Expr]) {
        let build = self.written_bytes(stage).unwrap_or_default();
        let bytes = build.max(self.estimate(sides.probe).bytes as u64);
        let names: Vec<String> = keys.iter().map(output_name).collect();
        let pipe = self.read_back(vec![stage], Deal::Producers);
        let sink = hash(&names, partitions(bytes, &self.cluster));
        self.give(key, pipe, sink, sides.build);
    }

    /// Bytes of rows that every executor may have a table of.
    fn broadcast_bytes(&self) -> u64 {
        self.cluster.memory / BROADCAST_MEMORY_SHARE
    }

    /// Which side is looked up in.
    fn sides<'a>(&self, node: &'a Arc<LogicalPlan>) -> Result<Sides<'a>> {
        let LogicalPlan::Join {
            left,
            right,
            kind,
            on,
            filter,
        } = &**node
        else {
            return Err(kiln_engine::Error::internal("not a join"));
        };
        let (lefts, rights) = (schema_of(left)?, schema_of(right)?);
        let larger = |one, other| {
            let (one, other) = (self.estimate(one).rows, self.estimate(other).rows);
            one > SWAP_RATIO * other
        };
        // Looking up in the left makes the rows of the left the build rows.
        let (build_left, kind) = match kind {
            JoinKind::Inner => (false, StepKind::Inner),
            JoinKind::Full => (false, StepKind::FullOuter),
            JoinKind::Left if larger(right, left) => (true, StepKind::BuildOuter),
            JoinKind::Left => (false, StepKind::ProbeOuter),
            JoinKind::Right if larger(left, right) => (false, StepKind::BuildOuter),
            JoinKind::Right => (true, StepKind::ProbeOuter),
            JoinKind::Semi if larger(right, left) => (true, StepKind::BuildSemi),
            JoinKind::Semi => (false, StepKind::ProbeSemi),
            JoinKind::Anti if larger(right, left) => (true, StepKind::BuildAnti),
            JoinKind::Anti => (false, StepKind::ProbeAnti),
        };
        let key = |(left, right): &(Expr, Expr)| {
            let to = typing::check_keys(left, &lefts, right, &rights)?;
            Ok(match build_left {
                true => (right.clone(), left.clone(), to),
                false => (left.clone(), right.clone(), to),
            })
        };
        Ok(Sides {
            probe: if build_left { right } else { left },
            build: if build_left { left } else { right },
            kind,
            keys: on.iter().map(key).collect::<Result<_>>()?,
            filter: filter.as_ref(),
        })
    }
}

impl Sides<'_> {
    fn probe_keys(&self) -> impl Iterator<Item = (&Expr, &DataType)> {
        self.keys.iter().map(|(probe, _, to)| (probe, to))
    }

    fn build_keys(&self) -> impl Iterator<Item = (&Expr, &DataType)> {
        self.keys.iter().map(|(_, build, to)| (build, to))
    }
}

/// The columns that come out of a join, in the order of its schema.
fn output_names(node: &Arc<LogicalPlan>, needed: Needed<'_>) -> Result<Vec<String>> {
    let schema = schema_of(node)?;
    let names = schema.fields().iter().map(|field| field.name().clone());
    Ok(match needed {
        Some(needed) => names.filter(|name| needed.contains(name)).collect(),
        None => names.collect(),
    })
}

fn with_keys<'a>(
    read: &BTreeSet<String>,
    keys: impl Iterator<Item = &'a Expr>,
) -> BTreeSet<String> {
    read.iter().cloned().chain(columns(keys)).collect()
}

fn with_names(read: &BTreeSet<String>, names: &[String]) -> BTreeSet<String> {
    read.iter().chain(names).cloned().collect()
}

/// What the names of keys that are computed begin with: those of the two sides differ, and no
/// column of either side is called so.
struct ComputedNames {
    probe: String,
    build: String,
}

impl ComputedNames {
    fn of(join: &LogicalPlan) -> Result<Self> {
        let schemas: Vec<_> = join
            .inputs()
            .into_iter()
            .map(|input| schema_of(input))
            .collect::<Result<_>>()?;
        let taken = |start: &str| {
            let mut fields = schemas.iter().flat_map(|schema| schema.fields().iter());
            fields.any(|field| field.name().starts_with(start))
        };
        let free = |start: &str| {
            let mut start = start.to_owned();
            while taken(&start) {
                start.push(':');
            }
            start
        };
        Ok(ComputedNames {
            probe: free(":probe"),
            build: free(":build"),
        })
    }
}

/// Name of the column that key number `number` is computed into, where it is not a column of the
/// right type already.
fn key_name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}")
}

/// Sees to it that every key is a column of its type, beside those that are `read`; gives the
/// names.
fn key_columns<'a>(
    pipe: &mut Pipe,
    keys: impl Iterator<Item = (&'a Expr, &'a DataType)>,
    prefix: &str,
    read: &BTreeSet<String>,
) -> Result<Vec<String>> {
    let schema = Arc::clone(pipe.schema());
    let mut names = Vec::new();
    let mut added = Vec::new();
    for (number, (key, to)) in keys.enumerate() {
        match column_of(key, to, &schema) {
            Some(name) => names.push(name),
            None => {
                let name = key_name(prefix, number);
                added.push(key.clone().cast(to.clone()).alias(&name));
                names.push(name);
            }
        }
    }
    if !added.is_empty() {
        let kept = schema.fields().iter().map(|field| field.name());
        let kept = kept.filter(|name| read.contains(*name)).map(col);
        pipe.push(OperatorSpec::Project {
            exprs: kept.chain(added).collect(),
        })?;
    }
    Ok(names)
}

/// The column that a key is, if it is one of type `to`.
fn column_of(key: &Expr, to: &DataType, schema: &Schema) -> Option<String> {
    match key {
        Expr::Column(name) => {
            let field = schema.field_with_name(name).ok()?;
            (field.data_type() == to).then(|| name.clone())
        }
        _ => None,
    }
}

/// The key columns in rows of `schema` that [`key_columns`] has prepared.
fn prepared<'a>(
    keys: impl Iterator<Item = (&'a Expr, &'a DataType)>,
    prefix: &str,
    schema: &Schema,
) -> Vec<Expr> {
    let name = |(number, (key, to))| {
        col(column_of(key, to, schema).unwrap_or_else(|| key_name(prefix, number)))
    };
    keys.enumerate().map(name).collect()
}
