//! A scheduler that takes up what another has left: records of a journal, replayed.
//!
//! Records are facts, so replaying them decides nothing and asks for nothing to be done; that
//! begins with the first step after [`Scheduler::resume`]. What was launched and has not won is
//! not in any record: executors tell what they run and what has ended, and until they had time for
//! that nothing is launched anew. New attempts have higher numbers than any of before, so nothing
//! that an old attempt still writes can be taken for the work of a new one.

use std::sync::Arc;

use kiln_engine::id::ExecutorId;
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{Deal, StageSource};
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::{
    AttemptState, Ended, JobState, JobStatus, Planned, Prepared, Record, Won,
};

use super::Scheduler;
use super::event::{Millis, Submitted};
use super::job::Job;
use super::prepared::Ends;
use super::stage::StageRun;
use super::task::{Attempt, wrote_object};

/// Stands for the executors of attempts of earlier leaderships: none has this id, or it does not
/// matter.
const NOBODY: ExecutorId = ExecutorId(0);

impl Scheduler {
    /// Takes note of something that happened in an earlier leadership. Records come in the order
    /// in which they were written.
    ///
    /// # Errors
    /// `Corrupt` for a record that contradicts those before it.
    pub fn restore(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Term { .. }
            | Record::Alive
            | Record::Resigned
            | Record::Cleaned { .. }
            | Record::Untidy { .. } => Ok(()),
            Record::Submitted(submitted) => {
                let kiln_proto::message::Submitted {
                    job,
                    at_ms,
                    term,
                    submission,
                } = *submitted;
                let output = submission.plan.output().cloned();
                let program = submission.program.map(|offered| Arc::new(offered.program));
                self.submit(
                    at_ms,
                    Submitted {
                        job,
                        name: submission.name,
                        program,
                        weight: submission.weight,
                        output,
                    },
                );
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.born = term;
                }
                Ok(())
            }
            Record::Archived { status, .. } => {
                self.unarchive(*status);
                Ok(())
            }
            Record::Forgotten { job } => {
                self.jobs.remove(&job);
                Ok(())
            }
            record => {
                let job = record.job().and_then(|id| self.jobs.get_mut(&id));
                let Some(job) = job else {
                    return Err(contradiction("a record of a job that nobody submitted"));
                };
                job.restore(record)
            }
        }
    }

    fn unarchive(&mut self, status: JobStatus) {
        let submitted = Submitted {
            job: status.id,
            name: status.name.clone(),
            program: None,
            weight: 1,
            output: status.output.clone(),
        };
        self.submit(status.submitted_ms, submitted);
        if let Some(job) = self.jobs.get_mut(&status.id) {
            job.state = status.state;
            job.ended = status.ended_ms;
            job.failure.clone_from(&status.failure);
            job.archived = Some(Box::new(status));
        }
    }

    /// Goes on from what was restored, as the driver that leads in `term`. Until `settled` nothing
    /// is launched for jobs of earlier leaderships.
    pub fn resume(&mut self, now: Millis, term: u64, settled: Millis) {
        self.stepped = now;
        for job in self.jobs.values_mut() {
            let leaderships = term.saturating_sub(job.born);
            let first = leaderships.saturating_mul(limits::ATTEMPTS_ALL_MAX as u64);
            job.first_attempt = u32::try_from(first).unwrap_or(u32::MAX);
            job.settled = settled;
            job.restored = true;
            if job.state == JobState::Committing {
                job.commit_again = Some(now);
            }
        }
        let ended = self.active.values().filter_map(|id| self.jobs.get(id));
        let mut ended: Vec<_> = ended.filter_map(|job| Some((job.ended?, job.id))).collect();
        // Those that ended first are forgotten first.
        ended.sort_unstable();
        for (_, id) in ended {
            self.file_away(now, id);
        }
        self.active.retain(|_, id| {
            let job = self.jobs.get(id);
            job.is_some_and(|job| !job.state.is_final())
        });
        // The first step is about all of them, and is due at once.
        let active = self.active.iter().map(|(&order, &job)| (order, job));
        self.touched = active.collect();
        self.unfinished = true;
    }
}

impl Job {
    fn restore(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Planned(planned) => self.restore_planned(*planned),
            Record::Prepared(prepared) => {
                let run = self.stages.get_mut(prepared.stage.0 as usize);
                let run = run.filter(|run| !run.prepared);
                let run = run.ok_or_else(|| contradiction("tasks of a stage that is not known"))?;
                run.restore_tasks(prepared)
            }
            Record::Won(won) => self.restore_won(*won),
            Record::Revoked { task, attempt } => {
                let run = self.stages.get_mut(task.stage.0 as usize);
                let entry = run.and_then(|run| {
                    let entry = run.tasks.get(task.task as usize)?;
                    (entry.winner == Some(attempt)).then_some(run)
                });
                let run = entry.ok_or_else(|| contradiction("an output that nobody has made"))?;
                run.revoke(0, task.task);
                if let Some(entry) = run.tasks.get_mut(task.task as usize) {
                    entry.revoked += 1;
                    if let Some(winner) = entry.attempt_mut(attempt) {
                        winner.state = AttemptState::Failed;
                    }
                }
                self.revocations += 1;
                Ok(())
            }
            Record::Committing { .. } => {
                self.state = JobState::Committing;
                Ok(())
            }
            Record::Ended(ended) => {
                let Ended {
                    at_ms,
                    state,
                    failure,
                    ..
                } = *ended;
                (self.state, self.ended, self.failure) = (state, Some(at_ms), failure);
                self.result_kept = state == JobState::Done && self.output().is_none();
                self.release();
                Ok(())
            }
            Record::ResultDropped { .. } => {
                self.result_kept = false;
                self.release();
                Ok(())
            }
            _ => Err(contradiction("a record that is of no job")),
        }
    }

    fn restore_planned(&mut self, planned: Planned) -> Result<()> {
        let Planned { done, graph, .. } = planned;
        super::job::check(&graph, self.stages.len())?;
        self.planned_after = done.len();
        self.complete = graph.complete;
        self.output.clone_from(&graph.output);
        self.stages.extend(graph.stages.iter().map(StageRun::new));
        self.state = JobState::Running;
        Ok(())
    }

    fn restore_won(&mut self, won: Won) -> Result<()> {
        let Won {
            task,
            attempt,
            executor,
            started_ms,
            ended_ms,
            success,
        } = won;
        let run = self.stages.get_mut(task.stage.0 as usize);
        let run = run.filter(|run| run.fits(&success.output));
        let run = run.ok_or_else(|| contradiction("an output that does not fit its stage"))?;
        let entry = run.tasks.get(task.task as usize);
        if entry.is_none_or(|entry| entry.winner.is_some()) {
            return Err(contradiction("a second winner of a task"));
        }
        if entry.is_some_and(|entry| entry.attempt(attempt).is_none()) {
            let entry = Attempt {
                number: attempt,
                executor: NOBODY,
                executor_name: executor,
                state: AttemptState::Won,
                started: started_ms,
                ended: Some(ended_ms),
                counts: Counts::default(),
                heard: started_ms,
                slow: false,
                failure: None,
                revocations: self.revocations,
                object: wrote_object(&success.output),
            };
            run.know(task.task, entry);
        }
        run.win(ended_ms, task.task, attempt, success);
        Ok(())
    }
}

impl StageRun {
    /// Makes the tasks of a stage as they were made before.
    fn restore_tasks(&mut self, prepared: Prepared) -> Result<()> {
        let StageSource::Shuffle { deal, .. } = &self.stage.source else {
            return Err(contradiction("ranges of a stage that reads files"));
        };
        if *deal == Deal::Ranges {
            self.prepare_cuts(prepared.cuts);
            return Ok(());
        }
        let ends = Ends {
            ranges: prepared.ends,
            producers: prepared.producers,
        };
        let parts = ends.into_parts(*deal);
        self.prepare(parts.ok_or_else(|| contradiction("tasks that do not follow one another"))?);
        Ok(())
    }
}

fn contradiction(what: &str) -> Error {
    Error::corrupt(format!("the journal contradicts itself: {what}"))
}
