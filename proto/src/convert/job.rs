//! What people see of jobs and executors.

use kiln_engine::Result;
use kiln_engine::id::StageId;

use crate::convert::control::{decode_registration, encode_registration};
use crate::convert::enums::Twin;
use crate::convert::need;
use crate::convert::output::{decode_output, encode_output};
use crate::convert::task::{
    decode_counts, decode_failure, decode_job_id, decode_warnings, encode_counts, encode_failure,
    encode_warnings,
};
use crate::message::{
    AttemptState, AttemptStatus, ExecutorStatus, JobState, JobStatus, PartitionsRead, StageStatus,
};
use crate::wire;

/// How far a job is.
pub fn encode(status: &JobStatus) -> wire::JobStatus {
    wire::JobStatus {
        id: status.id.value(),
        name: status.name.clone(),
        state: status.state.encode(),
        failure: status.failure.as_ref().map(encode_failure),
        submitted_ms: status.submitted_ms,
        ended_ms: status.ended_ms,
        stages: status.stages.iter().map(encode_stage).collect(),
        warnings: encode_warnings(&status.warnings),
        note: status.note.clone(),
        output: status.output.as_ref().map(encode_output),
    }
}

/// How far a job is, as a client gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode(status: wire::JobStatus) -> Result<JobStatus> {
    Ok(JobStatus {
        id: decode_job_id(status.id)?,
        name: status.name,
        state: JobState::decode(status.state)?,
        failure: status.failure.map(decode_failure).transpose()?,
        submitted_ms: status.submitted_ms,
        ended_ms: status.ended_ms,
        stages: status
            .stages
            .into_iter()
            .map(decode_stage)
            .collect::<Result<_>>()?,
        warnings: decode_warnings(status.warnings),
        note: status.note,
        output: status.output.map(decode_output).transpose()?,
    })
}

fn encode_stage(stage: &StageStatus) -> wire::StageStatus {
    wire::StageStatus {
        id: stage.id.0,
        description: stage.description.clone(),
        reads_shuffle: stage.reads_shuffle,
        writes_shuffle: stage.writes_shuffle,
        tasks: stage.tasks,
        done: stage.done,
        input_bytes: stage.input_bytes,
        counts: Some(encode_counts(&stage.counts)),
        started_ms: stage.started_ms,
        ended_ms: stage.ended_ms,
        attempts: stage.attempts.iter().map(encode_attempt).collect(),
        partitions: stage.partitions.map(encode_partitions),
    }
}

fn decode_stage(stage: wire::StageStatus) -> Result<StageStatus> {
    Ok(StageStatus {
        id: StageId(stage.id),
        description: stage.description,
        reads_shuffle: stage.reads_shuffle,
        writes_shuffle: stage.writes_shuffle,
        tasks: stage.tasks,
        done: stage.done,
        input_bytes: stage.input_bytes,
        counts: decode_counts(stage.counts)?,
        started_ms: stage.started_ms,
        ended_ms: stage.ended_ms,
        attempts: stage
            .attempts
            .into_iter()
            .map(decode_attempt)
            .collect::<Result<_>>()?,
        partitions: stage.partitions.map(decode_partitions),
    })
}

fn encode_partitions(partitions: PartitionsRead) -> wire::PartitionsRead {
    wire::PartitionsRead {
        count: partitions.count,
        split: partitions.split,
        slices: partitions.slices,
        rows: partitions.rows,
        largest_rows: partitions.largest_rows,
    }
}

fn decode_partitions(partitions: wire::PartitionsRead) -> PartitionsRead {
    PartitionsRead {
        count: partitions.count,
        split: partitions.split,
        slices: partitions.slices,
        rows: partitions.rows,
        largest_rows: partitions.largest_rows,
    }
}

fn encode_attempt(attempt: &AttemptStatus) -> wire::AttemptStatus {
    wire::AttemptStatus {
        task: attempt.task,
        attempt: attempt.attempt,
        executor: attempt.executor.clone(),
        state: attempt.state.encode(),
        started_ms: attempt.started_ms,
        ended_ms: attempt.ended_ms,
        counts: Some(encode_counts(&attempt.counts)),
        failure: attempt.failure.as_ref().map(encode_failure),
    }
}

fn decode_attempt(attempt: wire::AttemptStatus) -> Result<AttemptStatus> {
    Ok(AttemptStatus {
        task: attempt.task,
        attempt: attempt.attempt,
        executor: attempt.executor,
        state: AttemptState::decode(attempt.state)?,
        started_ms: attempt.started_ms,
        ended_ms: attempt.ended_ms,
        counts: decode_counts(attempt.counts)?,
        failure: attempt.failure.map(decode_failure).transpose()?,
    })
}

/// An executor as its driver sees it.
pub fn encode_executor(status: ExecutorStatus) -> wire::ExecutorStatus {
    let ExecutorStatus {
        registration,
        running,
        draining,
    } = status;
    let registration = Some(encode_registration(registration));
    wire::ExecutorStatus {
        registration,
        running,
        draining,
    }
}

/// An executor as a client gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_executor(status: wire::ExecutorStatus) -> Result<ExecutorStatus> {
    let wire::ExecutorStatus {
        registration,
        running,
        draining,
    } = status;
    let registration = decode_registration(need(registration, "registration")?)?;
    Ok(ExecutorStatus {
        registration,
        running,
        draining,
    })
}
