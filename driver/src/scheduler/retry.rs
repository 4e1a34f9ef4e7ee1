//! What a failed attempt means: the kind of the failure decides, nothing else.

use kiln_engine::id::TaskId;
use kiln_engine::limits;
use kiln_engine::plan::TaskFailure;
use kiln_engine::{Error, ErrorKind};

use super::event::Millis;

/// What to do about a failure, before counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Trying again gives the same: the job fails now.
    Fatal,
    /// Something else may work: try again, a limited number of times.
    Retry,
    /// What it read was not what was written: its producer has to run again.
    Reread,
    /// It was stopped without anybody here asking for it: try again.
    Stopped,
}

/// What to do about `failure`.
pub(super) fn judge(failure: &TaskFailure) -> Verdict {
    match failure.kind {
        ErrorKind::Invalid => Verdict::Fatal,
        ErrorKind::Corrupt if failure.lost.is_some() => Verdict::Reread,
        ErrorKind::Cancelled => Verdict::Stopped,
        ErrorKind::Unavailable
        | ErrorKind::Corrupt
        | ErrorKind::Exhausted
        | ErrorKind::Internal
        | ErrorKind::Program => Verdict::Retry,
    }
}

/// Whether what has failed `times` may succeed later though nothing else is done about it.
pub(super) fn may_pass(failure: &TaskFailure, times: u32) -> bool {
    match failure.kind {
        ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::Cancelled => true,
        ErrorKind::Internal => times < limits::ATTEMPTS_MAX,
        ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Program => false,
    }
}

/// How long to wait after the `failures`th failure. No jitter: the tasks of a driver do not
/// compete with those of another, and the same events must give the same actions.
pub(super) fn backoff_ms(failures: u32) -> Millis {
    let doublings = failures.saturating_sub(1).min(16);
    (limits::RETRY_BACKOFF_MS << doublings).min(limits::RETRY_BACKOFF_MS_MAX)
}

/// The failure of a job whose task failed with `failure` for the last time.
pub(super) fn exhausted(task: TaskId, failures: u32, failure: &TaskFailure) -> TaskFailure {
    let message = plain(task, failure);
    let times = if failures == 1 {
        "once".to_owned()
    } else {
        format!("{failures} times")
    };
    TaskFailure {
        kind: failure.kind,
        message: format!("task {task} failed {times}: {message}"),
        lost: failure.lost,
    }
}

/// The failure of a job whose task failed with `failure`, which trying again cannot change: what
/// is wrong is the request or the input, so which task met it first is of no use to anybody.
pub(super) fn fatal(task: TaskId, failure: &TaskFailure) -> TaskFailure {
    TaskFailure {
        message: plain(task, failure).to_owned(),
        ..failure.clone()
    }
}

/// The message without the name of task and attempt that executors put in front.
fn plain(task: TaskId, failure: &TaskFailure) -> &str {
    let message = failure.message.as_str();
    let rest = message.strip_prefix(&format!("task {task} attempt "));
    let rest = rest.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(message)
}

/// An error of the driver's own, as the failure of a job.
pub(super) fn failure(error: &Error) -> TaskFailure {
    TaskFailure::from(error)
}

#[cfg(test)]
mod tests {
    use kiln_engine::id::{JobId, StageId, TaskId};

    use super::{TaskFailure, backoff_ms, exhausted, fatal};
    use kiln_engine::ErrorKind;

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<_> = (1..=9).map(backoff_ms).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff_ms(u32::MAX), 5_000);
    }

    #[test]
    fn a_task_is_named_once() {
        let task = TaskId {
            job: JobId::new(7),
            stage: StageId(1),
            task: 2,
        };
        let message = format!("task {task} attempt 13: the store is away");
        let told = TaskFailure {
            kind: ErrorKind::Unavailable,
            message,
            lost: None,
        };
        assert_eq!(
            exhausted(task, 4, &told).message,
            "task 000000000007/s1/t2 failed 4 times: the store is away"
        );
        assert_eq!(fatal(task, &told).message, "the store is away");
    }
}
