//! What goes over the stream between an executor and its driver.

use kiln_engine::Result;
use kiln_engine::id::{ExecutorId, TaskId};

use crate::convert::task::{
    decode_counts, decode_failure, decode_job_id, decode_spec, decode_success, decode_task_id,
    encode_counts, encode_failure, encode_spec, encode_success, encode_task_id,
};
use crate::convert::{malformed, need};
use crate::message::{FromExecutor, Registration, Report, RunningAttempt, ToExecutor, Welcome};
use crate::wire;
use crate::wire::report::Outcome;
use crate::wire::{driver_message, executor_message};

/// A message of an executor.
pub fn encode_from_executor(message: FromExecutor) -> wire::ExecutorMessage {
    use executor_message::Message;
    let message = match message {
        FromExecutor::Register(registration) => {
            Message::Register(encode_registration(registration))
        }
        FromExecutor::Heartbeat {
            memory_used,
            running,
        } => {
            let running = running.iter().map(encode_running);
            Message::Heartbeat(wire::Heartbeat {
                memory_used,
                running: running.collect(),
            })
        }
        FromExecutor::Report(report) => Message::Report(encode_report(&report)),
        FromExecutor::Draining => Message::Draining(wire::Draining {}),
    };
    wire::ExecutorMessage {
        message: Some(message),
    }
}

/// A message of an executor, as its driver gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_from_executor(message: wire::ExecutorMessage) -> Result<FromExecutor> {
    use executor_message::Message;
    Ok(match need(message.message, "message of an executor")? {
        Message::Register(registration) => {
            FromExecutor::Register(decode_registration(registration)?)
        }
        Message::Heartbeat(wire::Heartbeat {
            memory_used,
            running,
        }) => {
            let running = running.into_iter().map(decode_running);
            FromExecutor::Heartbeat {
                memory_used,
                running: running.collect::<Result<_>>()?,
            }
        }
        Message::Report(report) => FromExecutor::Report(decode_report(report)?),
        Message::Draining(wire::Draining {}) => FromExecutor::Draining,
    })
}

/// A message of the driver.
///
/// # Errors
/// `Invalid` if it is a launch with an expression that nests too deeply.
pub fn encode_to_executor(message: ToExecutor) -> Result<wire::DriverMessage> {
    use driver_message::Message;
    let message = match message {
        ToExecutor::Welcome(Welcome {
            epoch,
            storage,
            heartbeat_ms,
        }) => Message::Welcome(wire::Welcome {
            epoch,
            storage,
            heartbeat_ms,
        }),
        ToExecutor::Refused { message } => Message::Refused(wire::Refused { message }),
        ToExecutor::Launch { epoch, spec } => {
            let spec = Some(encode_spec(&spec)?);
            Message::Launch(Box::new(wire::Launch { epoch, spec }))
        }
        ToExecutor::Cancel { task, attempt } => Message::Cancel(encode_attempt(task, attempt)),
        ToExecutor::Acknowledge { sequence } => Message::Acknowledge(sequence),
        ToExecutor::Drain => Message::Drain(wire::Drain {}),
        ToExecutor::JobEnded { job } => Message::JobEnded(job.value()),
    };
    Ok(wire::DriverMessage {
        message: Some(message),
    })
}

/// A message of the driver, as an executor gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_to_executor(message: wire::DriverMessage) -> Result<ToExecutor> {
    use driver_message::Message;
    Ok(match need(message.message, "message of the driver")? {
        Message::Welcome(wire::Welcome {
            epoch,
            storage,
            heartbeat_ms,
        }) => {
            if heartbeat_ms == 0 {
                return Err(malformed("a heartbeat interval of 0"));
            }
            ToExecutor::Welcome(Welcome {
                epoch,
                storage,
                heartbeat_ms,
            })
        }
        Message::Refused(wire::Refused { message }) => ToExecutor::Refused { message },
        Message::Launch(launch) => {
            let spec = decode_spec(need(launch.spec, "task of a launch")?)?;
            ToExecutor::Launch {
                epoch: launch.epoch,
                spec,
            }
        }
        Message::Cancel(attempt) => {
            let (task, attempt) = decode_attempt(Some(attempt))?;
            ToExecutor::Cancel { task, attempt }
        }
        Message::Acknowledge(sequence) => ToExecutor::Acknowledge { sequence },
        Message::Drain(wire::Drain {}) => ToExecutor::Drain,
        Message::JobEnded(job) => ToExecutor::JobEnded {
            job: decode_job_id(job)?,
        },
    })
}

pub(super) fn encode_registration(registration: Registration) -> wire::Registration {
    let Registration {
        executor,
        name,
        protocol,
        threads,
        slots,
        memory,
    } = registration;
    wire::Registration {
        executor: executor.0,
        name,
        protocol,
        threads,
        slots,
        memory,
    }
}

pub(super) fn decode_registration(registration: wire::Registration) -> Result<Registration> {
    let wire::Registration {
        executor,
        name,
        protocol,
        threads,
        slots,
        memory,
    } = registration;
    if threads == 0 || slots == 0 {
        return Err(malformed(format_args!(
            "an executor of {threads} threads, {slots} slots"
        )));
    }
    Ok(Registration {
        executor: ExecutorId(executor),
        name,
        protocol,
        threads,
        slots,
        memory,
    })
}

fn encode_attempt(task: TaskId, attempt: u32) -> wire::AttemptId {
    wire::AttemptId {
        task: Some(encode_task_id(task)),
        attempt,
    }
}

fn decode_attempt(attempt: Option<wire::AttemptId>) -> Result<(TaskId, u32)> {
    let wire::AttemptId { task, attempt } = need(attempt, "attempt")?;
    Ok((decode_task_id(task)?, attempt))
}

fn encode_running(running: &RunningAttempt) -> wire::RunningAttempt {
    wire::RunningAttempt {
        attempt: Some(encode_attempt(running.task, running.attempt)),
        counts: Some(encode_counts(&running.counts)),
    }
}

fn decode_running(running: wire::RunningAttempt) -> Result<RunningAttempt> {
    let (task, attempt) = decode_attempt(running.attempt)?;
    Ok(RunningAttempt {
        task,
        attempt,
        counts: decode_counts(running.counts)?,
    })
}

fn encode_report(report: &Report) -> wire::Report {
    let outcome = match &report.outcome {
        Ok(success) => Outcome::Success(Box::new(encode_success(success))),
        Err(failure) => Outcome::Failure(encode_failure(failure)),
    };
    wire::Report {
        sequence: report.sequence,
        attempt: Some(encode_attempt(report.task, report.attempt)),
        outcome: Some(outcome),
    }
}

fn decode_report(report: wire::Report) -> Result<Report> {
    if report.sequence == 0 {
        return Err(malformed("a report numbered 0"));
    }
    let (task, attempt) = decode_attempt(report.attempt)?;
    let outcome = match need(report.outcome, "outcome of an attempt")? {
        Outcome::Success(success) => Ok(decode_success(*success)?),
        Outcome::Failure(failure) => Err(decode_failure(failure)?),
    };
    Ok(Report {
        sequence: report.sequence,
        task,
        attempt,
        outcome,
    })
}
