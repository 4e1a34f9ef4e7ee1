//! What a journal says of the jobs of a driver, put together again.

use std::collections::BTreeMap;

use kiln_engine::Result;
use kiln_engine::id::JobId;
use kiln_engine::plan::Output;
use kiln_proto::message::Record;

use crate::journal::store::Loaded;
use crate::scheduler::Scheduler;
use crate::settings::DriverSettings;
use crate::work::JobPlanner;

/// The state of a driver that leads.
pub(crate) struct Restored {
    pub(crate) scheduler: Scheduler,
    /// The keys that jobs were submitted with.
    pub(crate) keys: Vec<(u64, JobId)>,
    /// The planners of jobs that have not ended.
    pub(crate) planners: BTreeMap<JobId, JobPlanner>,
    /// Outputs of jobs that have ended, of which something may be left behind.
    pub(crate) untidy: Vec<(JobId, Output)>,
}

impl Restored {
    /// Replays a journal.
    ///
    /// # Errors
    /// `Corrupt` if it makes no sense.
    pub(crate) fn replay(settings: DriverSettings, journal: &Loaded) -> Result<Self> {
        let mut restored = Restored {
            scheduler: Scheduler::journaled(settings),
            keys: Vec::new(),
            planners: BTreeMap::new(),
            untidy: Vec::new(),
        };
        let mut outputs = BTreeMap::new();
        for record in journal.records() {
            restored.note(record, &mut outputs);
            restored.scheduler.restore(record.clone())?;
        }
        restored.untidy = outputs.into_iter().collect();
        Ok(restored)
    }

    fn note(&mut self, record: &Record, untidy: &mut BTreeMap<JobId, Output>) {
        match record {
            Record::Submitted(submitted) => {
                let (job, submission) = (submitted.job, &submitted.submission);
                self.keys.push((submission.key, job));
                let planner = JobPlanner::new(submission.plan.clone());
                self.planners.insert(job, planner);
            }
            Record::Planned(planned) => {
                if let Some(planner) = self.planners.get(&planned.job) {
                    planner.remember(planned);
                }
            }
            Record::Ended(ended) => {
                self.planners.remove(&ended.job);
                let output = self.scheduler.output(ended.job);
                untidy.extend(output.map(|output| (ended.job, output.clone())));
            }
            Record::Archived {
                key,
                status,
                cleaned,
            } => {
                self.keys.push((*key, status.id));
                let output = status.output.as_ref().filter(|_| !cleaned);
                untidy.extend(output.map(|output| (status.id, output.clone())));
            }
            Record::Cleaned { job } => drop(untidy.remove(job)),
            Record::Untidy { job } => {
                let output = self.scheduler.output(*job);
                untidy.extend(output.map(|output| (*job, output.clone())));
            }
            Record::Forgotten { job } => {
                self.keys.retain(|(_, known)| known != job);
                untidy.remove(job);
            }
            _ => {}
        }
    }
}
