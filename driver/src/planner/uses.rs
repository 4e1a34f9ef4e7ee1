//! Which parts of a plan are worth to be run once for all who read them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kiln_engine::plan::LogicalPlan;

use super::inputs::address;

/// In how many places of a plan each node stands that is worth to be run once.
#[derive(Default)]
pub(super) struct Uses {
    counts: BTreeMap<usize, u32>,
    /// Whether a node is worth it, for those that have been looked at.
    works: HashMap<usize, bool>,
    seen: BTreeSet<usize>,
}

impl Uses {
    /// Those of `plan`.
    pub(super) fn of(plan: &Arc<LogicalPlan>) -> Self {
        let mut uses = Uses::default();
        uses.count_below(plan);
        uses
    }

    /// The nodes that stand in more than one place.
    pub(super) fn several(self) -> BTreeSet<usize> {
        let several = self.counts.into_iter().filter(|(_, uses)| *uses > 1);
        several.map(|(node, _)| node).collect()
    }

    /// What is below a node that is run once is run once with it, so each is looked at once.
    fn count_below(&mut self, node: &Arc<LogicalPlan>) {
        if !self.seen.insert(address(node)) {
            return;
        }
        for input in node.inputs() {
            if self.works(input) {
                *self.counts.entry(address(input)).or_default() += 1;
            }
            self.count_below(input);
        }
    }

    /// Whether a node does more than pass on what it scans, or may pass on other rows each time.
    fn works(&mut self, node: &Arc<LogicalPlan>) -> bool {
        if let Some(&known) = self.works.get(&address(node)) {
            return known;
        }
        let works = match &**node {
            LogicalPlan::Scan(_) => false,
            LogicalPlan::Join { .. }
            | LogicalPlan::Apply { .. }
            | LogicalPlan::Reduce { .. }
            | LogicalPlan::Aggregate { .. }
            | LogicalPlan::Sort { .. }
            | LogicalPlan::Limit { .. } => true,
            // What it reads is written once, whoever reads that.
            LogicalPlan::Repartition { .. } => false,
            other => other.inputs().into_iter().any(|input| self.works(input)),
        };
        self.works.insert(address(node), works);
        works
    }
}
