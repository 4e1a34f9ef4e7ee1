//! What people see of a job: snapshots, made when somebody asks.
//!
//! Sums over tasks that are done are kept by the stages, so a snapshot without attempts costs as
//! much as there are stages and running tasks.

use std::collections::BTreeMap;

use kiln_engine::limits;
use kiln_engine::metrics::Warning;
use kiln_engine::plan::{SinkSpec, StageSource};
use kiln_proto::message::{AttemptStatus, JobStatus, StageStatus};

use super::job::Job;
use super::stage::StageRun;

/// Whether a snapshot lists every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Sums of stages only.
    Stages,
    /// Every attempt as well.
    Attempts,
}

/// How far `job` is.
pub(super) fn snapshot(job: &Job, detail: Detail) -> JobStatus {
    if let Some(archived) = &job.archived {
        return JobStatus::clone(archived);
    }
    let stages = job.stages.iter().enumerate();
    let stages = stages.map(|(number, run)| (&job.stages[..number], run));
    JobStatus {
        id: job.id,
        name: job.name.clone(),
        state: job.state,
        output: job.output().cloned(),
        failure: job.failure.clone(),
        submitted_ms: job.submitted,
        ended_ms: job.ended,
        stages: stages.map(|run| stage(run, detail)).collect(),
        warnings: warnings(job),
        note: job.note.clone(),
    }
}

fn stage((before, run): (&[StageRun], &StageRun), detail: Detail) -> StageStatus {
    StageStatus {
        id: run.stage.id,
        description: run.description.clone(),
        reads_shuffle: matches!(run.stage.source, StageSource::Shuffle { .. }),
        writes_shuffle: matches!(run.stage.sink, SinkSpec::Shuffle { .. }),
        tasks: u32::try_from(run.tasks.len()).unwrap_or(u32::MAX),
        done: run.done,
        input_bytes: run.input_bytes,
        counts: run.counts_so_far(),
        started_ms: run.started,
        ended_ms: run.ended,
        attempts: match detail {
            Detail::Stages => Vec::new(),
            Detail::Attempts => attempts(run),
        },
        partitions: run.partitions_read(before),
    }
}

fn attempts(run: &StageRun) -> Vec<AttemptStatus> {
    let launches = run.launches.iter().filter_map(|&(task, number)| {
        let attempt = run.tasks.get(task as usize)?.attempt(number)?;
        Some(AttemptStatus {
            task,
            attempt: number,
            executor: attempt.executor_name.to_string(),
            state: attempt.state,
            started_ms: attempt.started,
            ended_ms: attempt.ended,
            counts: attempt.counts.clone(),
            failure: attempt.failure.clone(),
        })
    });
    launches.collect()
}

/// The warnings of winning attempts: the first subjects by name, the rest counted together.
fn warnings(job: &Job) -> Vec<Warning> {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let tasks = job.stages.iter().flat_map(|run| {
        run.warned
            .iter()
            .filter_map(|&task| run.tasks.get(task as usize))
    });
    for warning in tasks.flat_map(|task| &task.warnings) {
        let key = (warning.subject.as_str(), warning.message.as_str());
        let full = sums.len() >= limits::WARNINGS_MAX && !sums.contains_key(&key);
        let key = if full { ("(other files)", key.1) } else { key };
        *sums.entry(key).or_default() += warning.count;
    }
    let sums = sums.into_iter().map(|((subject, message), count)| Warning {
        subject: subject.to_owned(),
        message: message.to_owned(),
        count,
    });
    sums.collect()
}
