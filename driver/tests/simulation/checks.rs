//! Committing, fetching, and what must hold when a job or the whole simulation ends.

use kiln_driver::scheduler::{Detail, Event};
use kiln_engine::Error;
use kiln_engine::id::JobId;
use kiln_engine::plan::{SinkSpec, TaskFailure};
use kiln_proto::message::{AttemptState, JobState, JobStatus};

use crate::data;
use crate::machine::Happening;
use crate::world::World;

impl World {
    pub(crate) fn commit(&mut self, job: JobId, files: Vec<String>) {
        let outcome = if self.chance(20) {
            Err(TaskFailure::from(&Error::unavailable("the store is away")))
        } else {
            let mut rows = Vec::new();
            for ((owner, stage, task, attempt), parts) in &self.store {
                let last = self.jobs[&job].graph.stages.len() as u32 - 1;
                if (*owner, *stage) == (job, last) && files.contains(&format!("t{task}-a{attempt}"))
                {
                    rows.extend(parts.iter().flatten());
                }
            }
            rows.sort_unstable();
            let entry = self.jobs.get_mut(&job).expect("the job is known");
            assert!(entry.committed.is_none(), "committed twice: {job}");
            entry.committed = Some(rows);
            self.discard(job);
            Ok(())
        };
        self.later(1, Happening::Tell(Event::Committed { job, outcome }, None));
    }

    pub(crate) fn discard(&mut self, job: JobId) {
        let last = self.jobs[&job].graph.stages.len() as u32 - 1;
        self.store
            .retain(|(owner, stage, ..), _| (*owner, *stage) != (job, last));
    }

    /// Looks at jobs that have just ended, and fetches their results.
    pub(crate) fn check_ended(&mut self) {
        let ended: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| !job.checked)
            .filter_map(|(id, _)| {
                self.scheduler
                    .state(*id)
                    .is_some_and(JobState::is_final)
                    .then_some(*id)
            })
            .collect();
        for id in ended {
            self.jobs.get_mut(&id).expect("the job is known").checked = true;
            let status = self
                .scheduler
                .status(id, Detail::Attempts)
                .expect("the job is known");
            self.count(&status);
            if status.state == JobState::Done {
                self.check_done(id, &status);
            } else {
                assert!(
                    self.jobs[&id].committed.is_none(),
                    "committed and not done: {status:?}"
                );
                assert!(!self.spotless, "failed without a reason: {status:?}");
            }
            if self.scheduler.result(id).is_some() {
                self.later(5, Happening::Tell(Event::ResultRead { job: id }, None));
            }
        }
    }

    pub(crate) fn check_done(&mut self, id: JobId, status: &JobStatus) {
        let graph = &self.jobs[&id].graph;
        let rows = match &graph.stages[graph.stages.len() - 1].sink {
            SinkSpec::Files { .. } => self.jobs[&id].committed.clone().expect("it was committed"),
            SinkSpec::Shuffle { .. } => self.fetch(id),
        };
        assert_eq!(
            rows,
            data::expected(graph),
            "the result is wrong: {status:?}"
        );
        for stage in &status.stages {
            let mut won = vec![0; stage.tasks as usize];
            for attempt in &stage.attempts {
                won[attempt.task as usize] += u32::from(attempt.state == AttemptState::Won);
            }
            // A task of an earlier stage may be running again when a late reader wins.
            let last = stage.id.0 as usize + 1 == status.stages.len();
            let least = if last { 1 } else { 0 };
            assert!(
                won.iter().all(|won| (least..=1).contains(won)),
                "winners: {stage:?}"
            );
            assert_eq!(won.iter().sum::<u32>(), stage.done, "done: {stage:?}");
            assert_eq!(
                stage.counts.rows_out,
                u64::from(stage.done),
                "counts: {stage:?}"
            );
        }
    }

    pub(crate) fn fetch(&self, job: JobId) -> Vec<u64> {
        let location = self.scheduler.result(job).expect("the result is kept");
        let mut rows = Vec::new();
        for source in location.sources {
            let name = (job, location.stage.0, source.task, source.attempt);
            rows.extend(self.store[&name].iter().flatten());
        }
        rows.sort_unstable();
        rows
    }

    pub(crate) fn count(&mut self, status: &JobStatus) {
        match status.state {
            JobState::Done => self.seen.done += 1,
            JobState::Cancelled => self.seen.cancelled += 1,
            _ => self.seen.failed += 1,
        }
        let read = status.stages.iter().filter_map(|stage| stage.partitions);
        self.seen.split += read.map(|read| u64::from(read.split)).sum::<u64>();
        for attempt in status.stages.iter().flat_map(|stage| &stage.attempts) {
            assert!(
                attempt.state != AttemptState::Running,
                "it runs on: {status:?}"
            );
            let failure = attempt.failure.as_ref();
            self.seen.lost += u64::from(attempt.state == AttemptState::Lost);
            self.seen.failures += u64::from(attempt.state == AttemptState::Failed);
            let revoked = attempt.counts.rows_out == 1 && failure.is_some();
            self.seen.revoked += u64::from(revoked);
            let superseded = attempt.state == AttemptState::Cancelled && failure.is_none();
            self.seen.stragglers += u64::from(superseded && status.state == JobState::Done);
        }
    }

    /// Nothing is left: not in storage, not on executors, not in the scheduler's tables.
    pub(crate) fn check_end(&self) {
        assert!(self.jobs.values().all(|job| job.checked));
        let left: Vec<_> = self
            .store
            .keys()
            .filter(|name| !self.excused.contains(*name))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let busy: Vec<_> = self
            .scheduler
            .executors()
            .into_iter()
            .filter(|status| status.running > 0)
            .collect();
        assert!(busy.is_empty(), "thought to run something: {busy:?}");
        assert_eq!(self.scheduler.active_jobs(), 0);
    }
}
