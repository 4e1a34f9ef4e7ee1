//! The planner: from what a user asked for to stages that can be scheduled.
//!
//! [`plan`] checks the logical plan, rewrites it (`optimize`), finds its input files and cuts
//! them into tasks (`inputs`), and cuts the plan into stages at its shuffles (`stages`). Only the
//! finding of files does I/O; everything else is a function of plan, files and cluster, so the
//! same job on the same files and the same cluster is the same graph.

use kiln_engine::plan::{
    LogicalPlan, Stage, StageGraph, StageSource, explain_logical, explain_stages,
};
use kiln_engine::storage::Stores;
use kiln_engine::{Error, Result, limits};

mod rewrite;
mod rules;

mod inputs;
mod optimize;
mod stages;

pub use optimize::optimize;

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
    /// one executor of an embedded session, whose jobs need no exchange.
    pub may_grow: bool,
}

/// The stages of `plan` on a cluster of that shape.
///
/// # Errors
/// `Invalid` for a plan that does not fit together or input that cannot be read as it says;
/// `Unavailable` if a store does not answer.
pub async fn plan(
    plan: &LogicalPlan,
    cluster: &ClusterShape,
    stores: &Stores,
) -> Result<StageGraph> {
    check(plan)?;
    physical(&optimize(plan.clone())?, cluster, stores).await
}

/// Every level of `plan` as text: as it was written, optimised, and as stages.
///
/// # Errors
/// As for [`plan`].
pub async fn explain(
    plan: &LogicalPlan,
    cluster: &ClusterShape,
    stores: &Stores,
) -> Result<String> {
    check(plan)?;
    let optimised = optimize(plan.clone())?;
    let graph = physical(&optimised, cluster, stores).await?;
    Ok(format!(
        "# logical plan\n{}\n# optimised plan\n{}\n# stages\n{}",
        explain_logical(plan),
        explain_logical(&optimised),
        explain_stages(&graph)
    ))
}

async fn physical(
    plan: &LogicalPlan,
    cluster: &ClusterShape,
    stores: &Stores,
) -> Result<StageGraph> {
    let input = inputs::resolve(rewrite::scan(plan)?, cluster, stores).await?;
    let graph = stages::cut(plan, input, cluster)?;
    debug_assert!(graph.stages.iter().all(|stage| reads_backwards(stage)));
    Ok(graph)
}

/// Producers come before consumers.
fn reads_backwards(stage: &Stage) -> bool {
    match stage.source {
        StageSource::Scan(_) => true,
        StageSource::Shuffle { stage: from, .. } => from < stage.id,
    }
}

/// Whether `plan` fits together; everything behind this check relies on it.
fn check(plan: &LogicalPlan) -> Result<()> {
    kiln_engine::plan::schema_of(plan)?;
    let (mut node, mut depth) = (plan, 0);
    while let Some(input) = node.input() {
        node = input;
        depth += 1;
        // A session in this process sends nothing, so no decoder has looked at the plan before.
        if depth > limits::PLAN_DEPTH_MAX {
            return Err(Error::invalid(format!(
                "the plan is nested too deeply depth_max={}",
                limits::PLAN_DEPTH_MAX
            )));
        }
        if let LogicalPlan::Write { output, .. } = node {
            return Err(Error::invalid(format!(
                "write has to be the last step of a plan url={}",
                output.url
            )));
        }
    }
    Ok(())
}
