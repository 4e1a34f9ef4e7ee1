//! The planner: from what a user asked for to stages that can be scheduled.
//!
//! A [`Planner`] checks the logical plan, finds its input files and what is known of them and
//! cuts them into tasks (`inputs`), rewrites the plan (`optimize`), and cuts it into stages at its
//! shuffles (`stages`, `joins`), some of them only when the sizes of others are known. Only the
//! finding of files does I/O; everything else is a function of plan, files, cluster and sizes.

use std::sync::Arc;

use kiln_engine::plan::{
    LogicalPlan, Stage, StageGraph, StageSource, explain_logical, explain_stages,
};
use kiln_engine::storage::Stores;
use kiln_engine::{Error, Result, limits};

use stages::Stages;

mod rewrite;

mod predicate;

mod statistics;

mod rules;

mod shared;

mod optimize;

mod order;

mod facts;
mod inputs;

mod pipe;
mod stages;
mod uses;

mod joins;

pub use kiln_engine::plan::{ClusterShape, StageFacts};
pub use optimize::optimize;
pub(crate) use statistics::row_bytes;

/// Where the planner takes one way rather than another. The defaults are for real work; with lower
/// ones a few rows are cut and exchanged as if they were many, which is how tests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannerSettings {
    /// Rewrite the plan before it is cut into stages.
    pub optimise: bool,
    /// Smallest share of input, in bytes, that is worth a task of its own.
    pub task_input_bytes_min: u64,
    /// A build side thought to be smaller than this, in bytes, is broadcast without waiting for
    /// its true size.
    pub small_build_bytes: u64,
}

impl Default for PlannerSettings {
    fn default() -> Self {
        PlannerSettings {
            optimise: true,
            task_input_bytes_min: limits::TASK_INPUT_BYTES_MIN,
            small_build_bytes: 4 << 20,
        }
    }
}

/// The planner of one job: gives its stages as soon as it can be said what they are.
pub struct Planner {
    optimised: Arc<LogicalPlan>,
    stages: Stages,
}

impl Planner {
    /// Rewrites `plan` for a cluster of that shape and finds its input files. All that needs
    /// storage happens here.
    ///
    /// # Errors
    /// `Invalid` for a plan that does not fit together or input that cannot be read as it says;
    /// `Unavailable` if a store does not answer.
    pub async fn new(plan: &LogicalPlan, cluster: ClusterShape, stores: &Stores) -> Result<Self> {
        Planner::with(PlannerSettings::default(), plan, cluster, stores).await
    }

    /// As [`new`](Self::new), by settings of the caller's own.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub async fn with(
        settings: PlannerSettings,
        plan: &LogicalPlan,
        cluster: ClusterShape,
        stores: &Stores,
    ) -> Result<Self> {
        check(plan)?;
        let tables = inputs::find(plan, stores).await?;
        let optimised = Arc::new(match settings.optimise {
            true => optimize(plan.clone(), &|scan| tables.statistics(scan))?,
            // Stages are cut by columns.
            false => rules::keys_as_columns(plan.clone())?,
        });
        let inputs = tables
            .deal_out(&optimised, &cluster, &settings, stores)
            .await?;
        let stages = Stages::new(Arc::clone(&optimised), inputs, tables, cluster, settings);
        Ok(Planner { optimised, stages })
    }

    /// The plan that is cut into stages.
    pub fn plan(&self) -> &LogicalPlan {
        &self.optimised
    }

    /// The stages that follow those given so far, now that `done` is known of them. Needs no
    /// storage; the same files and the same facts give the same stages.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn advance(&mut self, done: &[StageFacts]) -> Result<StageGraph> {
        let graph = self.stages.advance(done)?;
        debug_assert!(graph.stages.iter().all(|stage| reads_backwards(stage)));
        Ok(graph)
    }

    /// All stages, as they are if sizes turn out as estimated.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn foresee(mut self) -> Result<StageGraph> {
        let mut graph = self.advance(&[])?;
        while !graph.complete {
            let known = graph.stages.len();
            let more = self.advance(&self.stages.estimates())?;
            graph.stages.extend(more.stages);
            graph.complete = more.complete;
            if graph.stages.len() == known && !graph.complete {
                return Err(Error::internal("the plan does not come to an end"));
            }
        }
        Ok(graph)
    }
}

/// Every level of `plan` as text: as it was written, optimised, and as stages.
///
/// # Errors
/// As for [`Planner::new`].
pub async fn explain(
    plan: &LogicalPlan,
    cluster: &ClusterShape,
    stores: &Stores,
) -> Result<String> {
    let planner = Planner::new(plan, *cluster, stores).await?;
    let optimised = explain_logical(&planner.optimised);
    let graph = planner.foresee()?;
    Ok(format!(
        "# logical plan\n{}\n# optimised plan\n{optimised}\n# stages\n{}",
        explain_logical(plan),
        explain_stages(&graph)
    ))
}

/// Producers come before consumers.
fn reads_backwards(stage: &Stage) -> bool {
    let sources = match &stage.source {
        StageSource::Scan(_) => &[][..],
        StageSource::Shuffle { stages, .. } => stages,
    };
    let sides = stage.sides.iter().map(|side| &side.stage);
    sources.iter().chain(sides).all(|from| *from < stage.id)
}

/// Whether `plan` fits together; everything behind this check relies on it.
fn check(plan: &LogicalPlan) -> Result<()> {
    kiln_engine::plan::schema_of(plan)?;
    for node in inputs::nodes_below(plan) {
        if let LogicalPlan::Write { output, .. } = &**node {
            return Err(Error::invalid(format!(
                "write has to be the last step of a plan url={}",
                output.url
            )));
        }
    }
    Ok(())
}
