//! The attempts of a job: launching them, and what follows from how they end.
//!
//! The first success of a task wins, whoever brings it and however late; all that comes after it
//! is ignored. A failure is judged by its kind alone ([`retry`]).

use std::sync::Arc;

use kiln_engine::id::{ExecutorId, StageId, TaskId};
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{SinkSpec, TaskFailure, TaskOutput, TaskSpec, TaskSuccess};
use kiln_engine::{Error, ErrorKind, limits};
use kiln_proto::message::{AttemptState, JobState, Record, RunningAttempt, Won};

use super::event::{Action, Millis};
use super::job::{Job, Turn};
use super::retry::{self, Verdict};
use super::stage::StageRun;
use super::task::{Attempt, wrote_object};

/// Why an attempt is not expected to report any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its executor is lost.
    Executor,
    /// Its executor left, as it had said it would.
    Drained,
    /// Its executor lives and knows nothing of it.
    Missing,
}

impl Job {
    /// Launches an attempt.
    pub(super) fn launch(
        &mut self,
        stage: usize,
        task: u32,
        executor: ExecutorId,
        turn: &mut Turn<'_>,
    ) {
        let before = self.stages.get(..stage).unwrap_or_default();
        let reads = self
            .stages
            .get(stage)
            .and_then(|run| Some((run.input(task, before)?, run.sides(task, before)?)));
        let name = turn
            .executors
            .get(executor)
            .map(|one| Arc::clone(&one.name));
        let revocations = self.revocations;
        let (Some(run), Some((input, sides)), Some(name)) =
            (self.stages.get_mut(stage), reads, name)
        else {
            return;
        };
        let entry = run.tasks.get(task as usize);
        let Some(attempt) = entry.and_then(|entry| entry.next_number(self.first_attempt)) else {
            return;
        };
        let entry = Attempt {
            number: attempt,
            executor,
            executor_name: name,
            state: AttemptState::Running,
            started: turn.now,
            ended: None,
            counts: Counts::default(),
            heard: turn.now,
            slow: false,
            failure: None,
            revocations,
            object: true,
        };
        run.launch(task, entry);
        let stage = Arc::clone(&run.stage);
        let program = self.program.clone().filter(|_| run.calls_functions);
        let id = self.task_id(stage.id, task);
        if program.is_some() {
            self.hosts.insert(executor);
        }
        self.running += 1;
        turn.executors.hold(turn.now, executor, (id, attempt));
        turn.actions.push(Action::Launch {
            executor,
            spec: TaskSpec {
                id,
                attempt,
                stage,
                input,
                sides,
                program,
            },
        });
    }

    fn stage_mut(&mut self, stage: StageId) -> Option<&mut StageRun> {
        self.stages.get_mut(stage.0 as usize)
    }

    /// An attempt, if it was launched on that executor.
    fn attempt(&self, task: TaskId, attempt: u32, executor: ExecutorId) -> Option<&Attempt> {
        let run = self.stages.get(task.stage.0 as usize)?;
        let found = run.tasks.get(task.task as usize)?.attempt(attempt)?;
        (found.executor == executor).then_some(found)
    }

    /// Ends an attempt: it is not running any more, here and in the executor's table.
    fn close(
        &mut self,
        task: TaskId,
        attempt: u32,
        state: AttemptState,
        turn: &mut Turn<'_>,
    ) -> Option<&mut Attempt> {
        let run = self.stages.get_mut(task.stage.0 as usize)?;
        let entry = run
            .tasks
            .get_mut(task.task as usize)?
            .attempt_mut(attempt)?;
        if entry.runs() {
            self.running -= 1;
            turn.executors.release(entry.executor, (task, attempt));
        }
        entry.end(state, turn.now);
        run.watch(task.task);
        run.tasks.get_mut(task.task as usize)?.attempt_mut(attempt)
    }

    /// An attempt has come further. What is said of one that has ended is out of date.
    pub(super) fn progressed(
        &mut self,
        now: Millis,
        executor: ExecutorId,
        running: RunningAttempt,
    ) {
        let RunningAttempt {
            task,
            attempt,
            counts,
        } = running;
        let runs = self
            .attempt(task, attempt, executor)
            .is_some_and(Attempt::runs);
        if let Some(run) = self.stage_mut(task.stage).filter(|_| runs) {
            run.progress(now, task.task, attempt, counts);
        }
    }

    /// An executor reports how an attempt ended.
    pub(super) fn reported(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        attempt: u32,
        outcome: Result<TaskSuccess, TaskFailure>,
        turn: &mut Turn<'_>,
    ) {
        self.recall(executor, task, attempt, turn);
        let known = self.attempt(task, attempt, executor);
        if self.state.is_final() {
            // Of jobs that ended in an earlier leadership some attempts are not known, nor which
            // executor it was that won.
            let is_kept = self.keeps(task.stage, task.task, attempt);
            if !is_kept && known.is_none_or(Attempt::may_win) {
                self.late(task, attempt, &outcome, turn);
            }
            return;
        }
        let Some(entry) = known else {
            return;
        };
        let (runs, may_win) = (entry.runs(), entry.may_win());
        let failure = match outcome {
            Ok(_) if self.state != JobState::Running || self.is_task_done(task) || !may_win => {
                return;
            }
            Ok(success) if self.fits(task, &success.output) => {
                return self.succeeded(executor, task, attempt, success, turn);
            }
            Ok(_) => TaskFailure::from(&Error::internal("an output does not fit its stage")),
            Err(failure) => failure,
        };
        if runs {
            self.failed(executor, task, attempt, failure, turn);
        }
    }

    fn fits(&self, task: TaskId, output: &TaskOutput) -> bool {
        let run = self.stages.get(task.stage.0 as usize);
        run.is_some_and(|run| run.fits(output))
    }

    fn is_task_done(&self, task: TaskId) -> bool {
        let run = self.stages.get(task.stage.0 as usize);
        let entry = run.and_then(|run| run.tasks.get(task.task as usize));
        entry.is_some_and(|task| task.winner.is_some())
    }

    fn succeeded(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        attempt: u32,
        success: TaskSuccess,
        turn: &mut Turn<'_>,
    ) {
        let turn_now = turn.now;
        if let Some(won) = self.close(task, attempt, AttemptState::Won, turn) {
            let (executor, started_ms) = (Arc::clone(&won.executor_name), won.started);
            turn.record(|| {
                Record::Won(Box::new(Won {
                    task,
                    attempt,
                    executor,
                    started_ms,
                    ended_ms: turn_now,
                    success: success.clone(),
                }))
            });
        }
        turn.executors.succeeded(executor);
        self.note_overtaken(task, attempt, turn);
        self.stop_task(task, turn);
        if let Some(run) = self.stage_mut(task.stage) {
            run.win(turn.now, task.task, attempt, success);
        }
        self.advance(turn);
    }

    /// Notes which executors run attempts of a task that read slowly and were launched so long
    /// before the winner that they should have won twice.
    fn note_overtaken(&mut self, task: TaskId, winner: u32, turn: &mut Turn<'_>) {
        let run = self.stages.get(task.stage.0 as usize);
        let Some(entry) = run.and_then(|run| run.tasks.get(task.task as usize)) else {
            return;
        };
        let Some(won) = entry.attempt(winner) else {
            return;
        };
        let took = turn.now.saturating_sub(won.started);
        for other in entry.attempts.iter().filter(|attempt| attempt.runs()) {
            let runs = turn.now.saturating_sub(other.started);
            let elsewhere = other.executor != won.executor;
            if other.slow && elsewhere && runs > took.saturating_mul(2) {
                turn.executors.overtaken(turn.now, other.executor);
            }
        }
    }

    /// An attempt has ended after its job. What it has left since the job was cleaned has to be
    /// cleaned as well.
    fn late(
        &mut self,
        task: TaskId,
        attempt: u32,
        outcome: &Result<TaskSuccess, TaskFailure>,
        turn: &mut Turn<'_>,
    ) {
        let left = match outcome {
            Ok(TaskSuccess {
                output: TaskOutput::Files(files),
                ..
            }) => !files.is_empty(),
            Ok(TaskSuccess { output, .. }) => wrote_object(output),
            // An attempt that was stopped has cleaned up; one that failed may not have been able.
            Err(failure) => failure.kind != ErrorKind::Cancelled,
        };
        if !left {
            return;
        }
        // More stages may have been to come, so where a stage stands does not say what it writes.
        let run = self.stages.get(task.stage.0 as usize);
        let files = match (run.map(|run| &run.stage.sink), outcome) {
            (Some(SinkSpec::Files { output }), _) => Some(output),
            (Some(SinkSpec::Shuffle { .. }), _) => None,
            // Little is known of a job that ended long ago.
            (None, Ok(success)) if matches!(success.output, TaskOutput::Files(_)) => self.output(),
            (None, _) => None,
        };
        match files.cloned() {
            Some(output) => self.discard_late(output, turn),
            None => turn.actions.push(Action::Cleanup {
                job: self.id,
                objects: vec![(task.stage, task.task, attempt)],
            }),
        }
    }

    /// An executor speaks of an attempt that it may have been given in an earlier leadership, of
    /// which nothing was written down: takes note that there is such an attempt.
    fn recall(&mut self, executor: ExecutorId, task: TaskId, attempt: u32, turn: &Turn<'_>) {
        let revocations = self.revocations;
        let is_earlier = attempt < self.first_attempt && self.state == JobState::Running;
        let name = turn.executors.get(executor);
        let name = name.map(|one| Arc::clone(&one.name));
        let (Some(run), Some(name), true) = (self.stage_mut(task.stage), name, is_earlier) else {
            return;
        };
        let entry = run.tasks.get(task.task as usize);
        if entry.is_some_and(|entry| entry.attempt(attempt).is_none()) {
            let entry = Attempt {
                number: attempt,
                executor,
                executor_name: name,
                state: AttemptState::Lost,
                started: turn.now,
                ended: Some(turn.now),
                counts: Counts::default(),
                heard: turn.now,
                slow: false,
                failure: None,
                revocations,
                object: true,
            };
            run.know(task.task, entry);
        }
    }

    fn failed(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        attempt: u32,
        failure: TaskFailure,
        turn: &mut Turn<'_>,
    ) {
        let verdict = retry::judge(&failure);
        let state = match verdict {
            Verdict::Stopped => AttemptState::Cancelled,
            _ => AttemptState::Failed,
        };
        let Some(entry) = self.close(task, attempt, state, turn) else {
            return;
        };
        entry.failure = Some(failure.clone());
        let launched_at = entry.revocations;
        match verdict {
            Verdict::Fatal => self.fail(retry::fatal(task, &failure), turn),
            Verdict::Reread => self.reread(executor, task, launched_at, failure, turn),
            Verdict::Stopped if turn.executors.get(executor).is_none_or(|one| one.draining) => {
                self.again(task, turn.now, turn);
            }
            Verdict::Stopped | Verdict::Retry => self.fault(executor, task, failure, turn),
        }
    }

    /// A failure that counts against the task and the executor.
    fn fault(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        failure: TaskFailure,
        turn: &mut Turn<'_>,
    ) {
        if !self.blames_program(task, &failure) {
            turn.executors.failed(turn.now, executor);
        }
        let memory = turn.executors.get(executor);
        let memory = memory.map_or(0, |one| one.registration.memory);
        let memory_max = turn.executors.memory_max();
        let Some(run) = self.stage_mut(task.stage) else {
            return;
        };
        let Some(entry) = run.tasks.get_mut(task.task as usize) else {
            return;
        };
        entry.failures += 1;
        entry.failed_on.insert(executor);
        if failure.kind == ErrorKind::Exhausted {
            entry.memory_short = entry.memory_short.max(memory);
            entry.exhausted += u32::from(memory >= memory_max);
        }
        let failures = entry.failures;
        // Where the most memory that there is was not enough twice, it is not the first time.
        let hopeless = entry.exhausted >= limits::EXHAUSTED_MAX;
        if (failures < limits::ATTEMPTS_MAX && !hopeless) || entry.runs() {
            self.again(task, turn.now + retry::backoff_ms(failures), turn);
        } else {
            self.fail(retry::exhausted(task, failures, &failure), turn);
        }
    }

    /// Whether a failure says something of the job's program and nothing of the executor, which
    /// runs other jobs as well as before.
    fn blames_program(&self, task: TaskId, failure: &TaskFailure) -> bool {
        let run = self.stages.get(task.stage.0 as usize);
        let in_program = self.program.is_some() && run.is_some_and(|run| run.calls_functions);
        match failure.kind {
            ErrorKind::Program => true,
            ErrorKind::Exhausted => in_program,
            _ => false,
        }
    }

    /// What an attempt read was missing or damaged.
    fn reread(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        launched_at: u32,
        failure: TaskFailure,
        turn: &mut Turn<'_>,
    ) {
        let revocations = self.revocations;
        let reader = self.stages.get(task.stage.0 as usize);
        let reads = |stage: StageId| {
            let mut producers = reader.into_iter().flat_map(StageRun::producers);
            producers.any(|producer| producer == stage.0 as usize)
        };
        let lost = failure.lost.filter(|lost| reads(lost.stage));
        let named = lost.and_then(|lost| {
            let run = self.stages.get_mut(lost.stage.0 as usize)?;
            let entry = run.tasks.get(lost.task as usize)?;
            (entry.winner == Some(lost.attempt)).then_some((run, lost))
        });
        let Some((run, lost)) = named else {
            // Somebody else has complained about that output since this attempt was launched.
            // Where nobody has, the complaint makes no sense and counts as a failure.
            return if lost.is_some() && launched_at < revocations {
                self.again(task, turn.now, turn)
            } else {
                self.fault(executor, task, failure, turn)
            };
        };
        run.revoke(turn.now, lost.task);
        let revoked = TaskId {
            stage: lost.stage,
            task: lost.task,
            ..task
        };
        turn.record(|| Record::Revoked {
            task: revoked,
            attempt: lost.attempt,
        });
        let Some(entry) = run.tasks.get_mut(lost.task as usize) else {
            return;
        };
        entry.revoked += 1;
        let revoked = entry.revoked;
        if let Some(winner) = entry.attempt_mut(lost.attempt) {
            winner.state = AttemptState::Failed;
            winner.failure = Some(failure.clone());
        }
        self.revocations += 1;
        if revoked > limits::OUTPUT_LOST_MAX {
            let id = self.task_id(lost.stage, lost.task);
            let message = format!(
                "output of task {id} was unusable {revoked} times, do all executors reach the same \
                 storage? {}",
                failure.message
            );
            return self.fail(TaskFailure { message, ..failure }, turn);
        }
        self.again(task, turn.now, turn);
    }

    /// Lets a task wait for another attempt, unless one still runs.
    fn again(&mut self, task: TaskId, ready: Millis, turn: &mut Turn<'_>) {
        let Some(run) = self.stage_mut(task.stage) else {
            return;
        };
        let Some(entry) = run.tasks.get(task.task as usize) else {
            return;
        };
        if entry.runs() || entry.winner.is_some() {
            return;
        }
        let attempts = entry.attempts.len();
        if attempts < limits::ATTEMPTS_ALL_MAX {
            return run.wait(task.task, ready);
        }
        let message = format!("task {task} did not end in any attempt attempts={attempts}");
        self.fail(retry::failure(&Error::internal(message)), turn);
    }

    /// An attempt will not report any more.
    pub(super) fn lost(&mut self, task: TaskId, attempt: u32, loss: Loss, turn: &mut Turn<'_>) {
        let Some(entry) = self.close(task, attempt, AttemptState::Lost, turn) else {
            return;
        };
        let name = entry.executor_name.clone();
        let Some(run) = self.stage_mut(task.stage) else {
            return;
        };
        let Some(entry) = run.tasks.get_mut(task.task as usize) else {
            return;
        };
        entry.losses += u32::from(loss == Loss::Executor);
        let losses = entry.losses;
        if losses < limits::EXECUTORS_LOST_MAX {
            return self.again(task, turn.now, turn);
        }
        let message = format!(
            "task {task} was running on {losses} executors when they were lost, so it is not \
             tried again last={name}"
        );
        self.fail(retry::failure(&Error::unavailable(message)), turn);
    }

    /// An executor runs an attempt that nobody here thinks it runs: takes it back if it is of
    /// use, and says whether it is.
    pub(super) fn adopt(
        &mut self,
        executor: ExecutorId,
        task: TaskId,
        attempt: u32,
        turn: &mut Turn<'_>,
    ) -> bool {
        self.recall(executor, task, attempt, turn);
        let lost = |entry: &Attempt| entry.state == AttemptState::Lost;
        let of_use = self.state == JobState::Running && !self.is_task_done(task);
        if !of_use || !self.attempt(task, attempt, executor).is_some_and(lost) {
            return false;
        }
        let Some(run) = self.stage_mut(task.stage) else {
            return false;
        };
        run.resume(task.task);
        let entry = run.tasks.get_mut(task.task as usize);
        if let Some(entry) = entry.and_then(|task| task.attempt_mut(attempt)) {
            entry.state = AttemptState::Running;
            entry.ended = None;
        }
        run.watch(task.task);
        if self.program.is_some() {
            self.hosts.insert(executor);
        }
        self.running += 1;
        turn.executors.hold(turn.now, executor, (task, attempt));
        true
    }

    /// Cancels the attempts of a task that still run.
    fn stop_task(&mut self, task: TaskId, turn: &mut Turn<'_>) {
        let Some(run) = self.stages.get(task.stage.0 as usize) else {
            return;
        };
        let Some(entry) = run.tasks.get(task.task as usize) else {
            return;
        };
        let running = entry.attempts.iter().filter(|attempt| attempt.runs());
        let running: Vec<_> = running
            .map(|entry| (entry.number, entry.executor))
            .collect();
        for (attempt, executor) in running {
            self.close(task, attempt, AttemptState::Cancelled, turn);
            if turn
                .executors
                .get(executor)
                .is_some_and(|one| one.connected)
            {
                turn.actions.push(Action::Cancel {
                    executor,
                    task,
                    attempt,
                });
            }
        }
    }

    pub(super) fn stop_attempts(&mut self, turn: &mut Turn<'_>) {
        let launches = self.stages.iter().flat_map(|run| {
            let tasks = (0..).zip(&run.tasks).filter(|(_, task)| task.runs());
            tasks.map(|(number, _)| self.task_id(run.stage.id, number))
        });
        for task in launches.collect::<Vec<_>>() {
            self.stop_task(task, turn);
        }
    }
}
