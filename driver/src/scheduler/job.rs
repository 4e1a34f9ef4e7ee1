//! A job: from submission over its stages to one of three ends.
//!
//! Whatever happens to a job happens in a method here, within one [`Turn`] of the scheduler. Once
//! a job has ended nothing runs for it and nothing changes but what is left to be cleaned.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::plan::{
    ClusterShape, Output, Program, SinkSpec, StageFacts, StageGraph, StageSource, TaskFailure,
};
use kiln_engine::{Error, limits};
use kiln_proto::message::{Ended, JobState, JobStatus, Planned, Prepared, Record};

use super::agenda::{Rank, Wants};
use super::event::{Action, Millis, Submitted};
use super::executors::Executors;
use super::placement;
use super::prepared::Ends;
use super::ratio::Ratio;
use super::retry;
use super::stage::StageRun;
use super::task::Left;

/// How far the pass of a job of weight 1 goes with every launch: divided by a weight something is
/// left.
const PASS: u64 = 1 << 20;

/// A stage, a task of it, and the executor to launch an attempt on.
pub(super) type Next = (usize, u32, ExecutorId);

/// One step of the scheduler, as a job sees it.
pub(super) struct Turn<'a> {
    pub(super) now: Millis,
    pub(super) executors: &'a mut Executors,
    pub(super) actions: &'a mut Vec<Action>,
    /// What happens is to be written down.
    pub(super) journaled: bool,
}

impl Turn<'_> {
    /// Has what has happened written down, if that is wanted.
    pub(super) fn record(&mut self, record: impl FnOnce() -> Record) {
        if self.journaled {
            self.actions.push(Action::Record(record()));
        }
    }
}

/// A submitted job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) name: String,
    /// Its place among all jobs, by submission.
    pub(super) order: u64,
    /// Its share of the slots, against those of other jobs.
    weight: u32,
    /// Grows with every launch, the slower the larger the weight is.
    pass: u64,
    pub(super) state: JobState,
    pub(super) failure: Option<TaskFailure>,
    pub(super) submitted: Millis,
    pub(super) ended: Option<Millis>,
    pub(super) note: Option<String>,
    pub(super) stages: Vec<StageRun>,
    /// Attempts that run.
    pub(super) running: u32,
    /// The stages that are known are all that there will be.
    pub(super) complete: bool,
    /// Where output files go, if that is what the job makes.
    pub(super) output: Option<Output>,
    /// What the plan was asked to go on from, and has not answered.
    plan_requested: Option<(ClusterShape, Vec<StageFacts>)>,
    /// Stages that were done when the plan was last asked to go on.
    pub(super) planned_after: usize,
    /// Times that an output was revoked.
    pub(super) revocations: u32,
    /// Since when it needs an executor and there is none.
    starved_since: Option<Millis>,
    commits: u32,
    pub(super) commit_again: Option<Millis>,
    /// The result is in the shuffle store, for clients to fetch.
    pub(super) result_kept: bool,
    /// The leadership in which it was submitted.
    pub(super) born: u64,
    /// It comes from an earlier leadership, and nobody has looked yet how it goes on.
    pub(super) restored: bool,
    /// The number of the first attempt of a task in this leadership. Below it are those of earlier
    /// ones, of which some may still run.
    pub(super) first_attempt: u32,
    /// Until then nothing is launched: executors have yet to say what they run.
    pub(super) settled: Millis,
    /// All that is known of a job that ended in an earlier leadership.
    pub(super) archived: Option<Box<JobStatus>>,
    /// The program whose functions its plan calls.
    pub(super) program: Option<Arc<Program>>,
    /// The executors that may have processes of it.
    pub(super) hosts: BTreeSet<ExecutorId>,
}

impl Job {
    /// A job that nothing has happened to; `pass` is that of the job that was served last.
    pub(super) fn new(submitted: Submitted, order: u64, pass: u64, now: Millis) -> Self {
        let Submitted {
            job,
            name,
            program,
            weight,
            output,
        } = submitted;
        Job {
            id: job,
            name,
            order,
            weight: weight.clamp(1, limits::JOB_WEIGHT_MAX),
            pass,
            program,
            hosts: BTreeSet::new(),
            state: JobState::Planning,
            failure: None,
            submitted: now,
            ended: None,
            note: None,
            stages: Vec::new(),
            running: 0,
            complete: false,
            output,
            planned_after: 0,
            plan_requested: None,
            revocations: 0,
            starved_since: None,
            commits: 0,
            commit_again: None,
            result_kept: false,
            born: 0,
            restored: false,
            first_attempt: 0,
            settled: 0,
            archived: None,
        }
    }

    pub(super) fn task_id(&self, stage: StageId, task: u32) -> TaskId {
        TaskId {
            job: self.id,
            stage,
            task,
        }
    }

    /// Whether all that a stage reads is there.
    fn is_fed(&self, run: &StageRun) -> bool {
        let mut producers = run.producers();
        producers.all(|producer| self.stages.get(producer).is_some_and(StageRun::is_done))
    }

    /// Asks for the plan, once there is an executor to plan for; and for more of it, whenever the
    /// sizes of more stages are known.
    pub(super) fn request_plan(&mut self, turn: &mut Turn<'_>) {
        if self.plan_requested.is_some() {
            return;
        }
        let done: Vec<StageFacts> = match self.state {
            JobState::Planning if turn.executors.any_accepting() => Vec::new(),
            JobState::Running if !self.complete => {
                let done = self.stages.iter().filter(|run| run.is_done());
                done.map(StageRun::facts).collect()
            }
            _ => return,
        };
        if self.state == JobState::Planning || done.len() > self.planned_after {
            let cluster = turn.executors.shape();
            self.plan_requested = Some((cluster, done.clone()));
            self.planned_after = done.len();
            turn.actions.push(Action::Plan {
                job: self.id,
                cluster,
                done,
            });
        }
    }

    /// Removes what is beside an output and came perhaps after the job had ended. The next driver
    /// goes on with it if this one does not come to its end.
    pub(super) fn discard_late(&self, output: Output, turn: &mut Turn<'_>) {
        let job = self.id;
        if self.state.is_final() {
            turn.record(|| Record::Untidy { job });
        }
        turn.actions.push(Action::Discard { job, output });
    }

    /// The plan has been made, or more of it: stages that follow those known so far.
    pub(super) fn planned(&mut self, graph: &StageGraph, turn: &mut Turn<'_>) {
        let first = self.state == JobState::Planning;
        let checked = check(graph, self.stages.len());
        if self.state != JobState::Running && (!first || checked.is_err()) {
            // Planning has prepared the output, and nobody knows of it but the plan.
            if let Some(output) = graph.output.clone() {
                self.discard_late(output, turn);
            }
        }
        if !first && self.state != JobState::Running {
            return;
        }
        let stuck = graph.stages.is_empty() && self.planned_after == self.stages.len();
        let checked = match stuck {
            true => Err(Error::internal("the plan does not go on")),
            false => checked,
        };
        if let Err(error) = checked {
            return self.fail(retry::failure(&error), turn);
        }
        if let Some((cluster, done)) = self.plan_requested.take() {
            turn.record(|| {
                Record::Planned(Box::new(Planned {
                    job: self.id,
                    cluster,
                    done,
                    graph: graph.clone(),
                }))
            });
        }
        self.complete = graph.complete;
        self.output.clone_from(&graph.output);
        self.stages.extend(graph.stages.iter().map(StageRun::new));
        self.state = JobState::Running;
        self.advance(turn);
    }

    /// The plan could not be made.
    pub(super) fn plan_failed(&mut self, failure: TaskFailure, turn: &mut Turn<'_>) {
        if matches!(self.state, JobState::Planning | JobState::Running) {
            self.fail(failure, turn);
        }
    }

    /// Makes the tasks of stages whose producers are done, and ends the job after the last one.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) {
        for stage in 0..self.stages.len() {
            if self.stages[stage].prepared || !self.is_fed(&self.stages[stage]) {
                continue;
            }
            let (before, after) = self.stages.split_at_mut(stage);
            if let Some(run) = after.first_mut() {
                run.prepare_from(before, turn.executors.slots());
                turn.record(|| {
                    let ends = Ends::of(run.tasks.iter().map(|task| &task.part));
                    Record::Prepared(Prepared {
                        job: self.id,
                        stage: run.stage.id,
                        ends: ends.ranges,
                        producers: ends.producers,
                        cuts: run.cuts.clone(),
                    })
                });
            }
        }
        let ended = self.complete && self.stages.last().is_some_and(StageRun::is_done);
        if self.state == JobState::Running && ended {
            self.conclude(turn);
        }
    }

    /// Goes on where the last record of an earlier leadership ended.
    pub(super) fn take_up(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.restored) {
            self.advance(turn);
        }
    }

    /// All tasks are done.
    fn conclude(&mut self, turn: &mut Turn<'_>) {
        if self.output().is_none() {
            return self.end(JobState::Done, turn);
        }
        self.stop_attempts(turn);
        self.state = JobState::Committing;
        self.note = None;
        turn.record(|| Record::Committing { job: self.id });
        self.commit(turn);
    }

    fn commit(&mut self, turn: &mut Turn<'_>) {
        let Some(output) = self.output().cloned() else {
            return;
        };
        self.commits += 1;
        self.commit_again = None;
        let successes = self
            .stages
            .last()
            .into_iter()
            .flat_map(|stage| &stage.tasks);
        let files = successes.filter_map(|task| match task.output.as_ref()? {
            Left::Files(files) => Some(files.clone()),
            Left::Shuffle => None,
        });
        let files = files.flatten().collect();
        turn.actions.push(Action::Commit {
            job: self.id,
            output,
            files,
        });
    }

    /// A commit has ended.
    pub(super) fn committed(&mut self, outcome: Result<(), TaskFailure>, turn: &mut Turn<'_>) {
        if self.state != JobState::Committing || self.commit_again.is_some() {
            return;
        }
        match outcome {
            Ok(()) => self.end(JobState::Done, turn),
            // A commit that has begun ends: a part of it may be visible, and another driver that
            // was told to do the same may be at it. What may pass is waited for.
            Err(failure) if retry::may_pass(&failure, self.commits) => {
                self.commit_again = Some(turn.now + retry::backoff_ms(self.commits));
                self.note = Some(format!(
                    "the output is not in place yet: {}",
                    failure.message
                ));
            }
            Err(failure) => self.fail(failure, turn),
        }
    }

    /// Tries a failed commit again when it is time.
    pub(super) fn retry_commit(&mut self, turn: &mut Turn<'_>) {
        if self.commit_again.is_some_and(|at| at <= turn.now) {
            self.commit(turn);
        }
    }

    /// Where output files go, if that is what the job makes.
    pub(super) fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }

    /// The stages, by number, that could launch tasks.
    fn runnable(&self) -> impl Iterator<Item = (usize, &StageRun)> {
        let runnable =
            |run: &StageRun| self.state == JobState::Running && run.prepared && self.is_fed(run);
        let stages = self.stages.iter().enumerate();
        stages.filter(move |(_, run)| runnable(run))
    }

    /// Whether tasks of it may be launched.
    fn launches(&self, now: Millis) -> bool {
        self.state == JobState::Running && self.settled <= now
    }

    /// The first task that waits for an executor and finds one.
    pub(super) fn next_task(&self, now: Millis, executors: &Executors) -> Option<Next> {
        self.runnable().find_map(|(stage, run)| {
            let mut ready = run.ready(now).take(limits::PLACEMENT_TASKS_MAX);
            ready.find_map(|(task, entry)| {
                let executor = placement::choose(executors, entry)?;
                Some((stage, task, executor))
            })
        })
    }

    /// The first slow task that finds another executor.
    pub(super) fn next_straggler(&self, now: Millis, executors: &Executors) -> Option<Next> {
        let slots = executors.slots();
        let mut stages = self.runnable().filter(|(_, run)| run.may_race(slots));
        stages.find_map(|(stage, run)| {
            let mut late = run.late(now).take(limits::PLACEMENT_TASKS_MAX);
            late.find_map(|(task, entry)| {
                let executor = placement::choose_other(executors, entry)?;
                Some((stage, task, executor))
            })
        })
    }

    /// The job gets a slot. `served` is the pass of the job that got the last one; gives this
    /// job's, which counts from there even if the job has wanted none for a while.
    pub(super) fn serve(&mut self, served: u64) -> u64 {
        let pass = self.pass.max(served);
        self.pass = pass + PASS / u64::from(self.weight);
        pass
    }

    /// Somebody asked for the job to stop. Once its output is being put in place it cannot be
    /// stopped any more: output appears all at once or not at all.
    pub(super) fn cancel(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.state, JobState::Planning | JobState::Running) {
            self.end(JobState::Cancelled, turn);
        }
    }

    /// The job has failed.
    pub(super) fn fail(&mut self, failure: TaskFailure, turn: &mut Turn<'_>) {
        if !self.state.is_final() {
            self.failure = Some(failure);
            self.end(JobState::Failed, turn);
        }
    }

    fn end(&mut self, state: JobState, turn: &mut Turn<'_>) {
        let turn_now = turn.now;
        self.stop_attempts(turn);
        self.state = state;
        self.ended = Some(turn.now);
        turn.record(|| {
            Record::Ended(Box::new(Ended {
                job: self.id,
                at_ms: turn_now,
                state,
                failure: self.failure.clone(),
            }))
        });
        self.note = None;
        self.starved_since = None;
        self.commit_again = None;
        self.result_kept = state == JobState::Done && self.output().is_none();
        let ended = std::mem::take(&mut self.hosts).into_iter();
        let ended = ended.map(|executor| Action::EndJob {
            executor,
            job: self.id,
        });
        turn.actions.extend(ended);
        // What is in place stays there; what is beside it goes.
        if let Some(output) = self.output().cloned() {
            turn.actions.push(Action::Discard {
                job: self.id,
                output,
            });
        }
        self.settle_partitions();
        let result = self.stages.len().saturating_sub(1);
        let mut objects = Vec::new();
        for (number, run) in self.stages.iter_mut().enumerate() {
            let keep = self.result_kept && number == result;
            objects.extend(run.objects().filter(|&(_, task, attempt)| {
                let winner = run.tasks.get(task as usize).and_then(|task| task.winner);
                !(keep && winner == Some(attempt))
            }));
            run.release(keep);
        }
        self.clean(objects, turn);
    }

    /// The result is kept no longer.
    pub(super) fn drop_result(&mut self, turn: &mut Turn<'_>) {
        if !std::mem::take(&mut self.result_kept) {
            return;
        }
        turn.record(|| Record::ResultDropped { job: self.id });
        let Some(run) = self.stages.last_mut() else {
            return;
        };
        let sources = run.all_sources();
        let id = run.stage.id;
        let objects = sources
            .iter()
            .map(|source| (id, source.task, source.attempt))
            .collect();
        run.release(false);
        self.clean(objects, turn);
    }

    /// Has every stage keep what people may ask about partitions, which follows from other stages.
    fn settle_partitions(&mut self) {
        for stage in 0..self.stages.len() {
            let (before, after) = self.stages.split_at_mut(stage);
            if let Some(run) = after.first_mut() {
                run.read = run.partitions_read(before);
            }
        }
    }

    /// Gives up what only a running job needs; keeps where the result is, if it is kept.
    pub(super) fn release(&mut self) {
        self.settle_partitions();
        let result = self.stages.len().saturating_sub(1);
        for (number, run) in self.stages.iter_mut().enumerate() {
            run.release(self.result_kept && number == result);
        }
    }

    /// Whether an object is one of those that hold the result, which is kept.
    pub(super) fn keeps(&self, stage: StageId, task: u32, attempt: u32) -> bool {
        let run = self.stages.last().filter(|_| self.result_kept);
        let task = run.and_then(|run| run.tasks.get(task as usize));
        let is_result = stage.0 as usize + 1 == self.stages.len();
        is_result && task.is_some_and(|task| task.winner == Some(attempt))
    }

    /// Whether the result can still be fetched.
    pub(super) fn keeps_result(&self) -> bool {
        self.result_kept
    }

    /// The size of the result, as stored; nothing if there is none to be fetched.
    pub(super) fn result_bytes(&self) -> Option<u64> {
        let run = self.stages.last().filter(|_| self.result_kept)?;
        Some(run.output_bytes())
    }

    fn clean(&self, objects: Vec<(StageId, u32, u32)>, turn: &mut Turn<'_>) {
        if !objects.is_empty() {
            turn.actions.push(Action::Cleanup {
                job: self.id,
                objects,
            });
        }
    }

    /// Notices that the job cannot go on for want of an executor, and gives up after `grace_ms`.
    /// This is the only place where that time begins.
    pub(super) fn starve(&mut self, grace_ms: u64, turn: &mut Turn<'_>) {
        let needs = match self.state {
            JobState::Planning => self.plan_requested.is_none(),
            JobState::Running => self.running == 0,
            _ => false,
        };
        if !needs || turn.executors.any_accepting() {
            self.starved_since = None;
            self.note = None;
            return;
        }
        let since = *self.starved_since.get_or_insert(turn.now);
        let seconds = grace_ms as f64 / 1_000.0;
        if turn.now >= since + grace_ms {
            let message = format!("no executor was there to run the job for {seconds} s");
            return self.fail(retry::failure(&Error::unavailable(message)), turn);
        }
        let note = || format!("waiting for an executor; gives up after {seconds} s");
        self.note.get_or_insert_with(note);
    }

    /// What the job wants now; nothing if it has ended.
    pub(super) fn wants(&self, now: Millis, grace_ms: u64) -> Option<Wants> {
        let ready = self
            .runnable()
            .any(|(_, run)| run.ready(now).next().is_some());
        let late = self
            .runnable()
            .any(|(_, run)| run.late(now).next().is_some());
        (!self.state.is_final()).then(|| Wants {
            rank: Rank {
                share: Ratio::new(self.running, self.weight),
                pass: self.pass,
                order: self.order,
            },
            ready: self.launches(now) && ready,
            late: self.launches(now) && late,
            due: self.deadline(now, grace_ms),
        })
    }

    /// The next time after `now` at which something about the job changes by itself.
    fn deadline(&self, now: Millis, grace_ms: u64) -> Option<Millis> {
        let stages = self.runnable().flat_map(|(_, run)| {
            let times = [run.next_ready(now), run.next_late(now)];
            times.into_iter().flatten()
        });
        let starved = self.starved_since.map(|since| since + grace_ms);
        stages
            .chain(starved)
            .chain([self.settled])
            .chain(self.commit_again)
            .filter(|&at| at > now)
            .min()
    }
}

/// Refuses a graph that cannot be run behind `known` stages.
pub(super) fn check(graph: &StageGraph, known: usize) -> Result<(), Error> {
    let wrong = |what: String| Err(Error::internal(format!("the plan cannot be run: {what}")));
    let last = (known + graph.stages.len()).wrapping_sub(1);
    for (number, stage) in (known..).zip(&graph.stages) {
        if stage.id.0 as usize != number {
            return wrong(format!("stage {number} is called {}", stage.id));
        }
        let source = match &stage.source {
            StageSource::Scan(_) => &[][..],
            StageSource::Shuffle { stages, .. } => stages,
        };
        let sides = stage.sides.iter().map(|side| &side.stage);
        if let Some(producer) = source.iter().chain(sides).find(|read| **read >= stage.id) {
            return wrong(format!("stage {} reads stage {producer}", stage.id));
        }
        let is_result = graph.complete && number == last;
        let written = match &stage.sink {
            SinkSpec::Files { output } => Some(output),
            SinkSpec::Shuffle { .. } => None,
        };
        if written != graph.output.as_ref().filter(|_| is_result) {
            return wrong(format!("stage {} writes other files", stage.id));
        }
    }
    Ok(())
}
