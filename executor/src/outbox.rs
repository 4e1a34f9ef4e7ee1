//! What an executor has to tell its driver, in the order in which it is to be told.
//!
//! A state machine without I/O: things to say go in, the next message comes out when the link has
//! room. Its invariants: `Register` comes first on every link and nothing else before the welcome;
//! a report stays until it is acknowledged; reports go out in the order of their numbers, and a
//! heartbeat goes out after the reports that are due, so that an attempt which is no longer
//! running has been reported.

use std::collections::VecDeque;

use kiln_engine::id::TaskId;
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{TaskFailure, TaskSuccess};
use kiln_proto::message::{FromExecutor, Registration, Report, RunningAttempt};

use crate::settings::REPORT_REPEAT_BEATS;

/// What is to be said over the current link, and what has to be said over the next one too.
pub(crate) struct Outbox {
    registration: Registration,
    greeting: Greeting,
    sequence: u64,
    reports: VecDeque<Unacknowledged>,
    memory_used: Option<u64>,
    draining: Draining,
}

/// How far the link's beginning is.
#[derive(PartialEq, Eq)]
enum Greeting {
    Due,
    Sent,
    Welcomed,
}

/// Whether the executor leaves, and whether this link's driver knows.
#[derive(PartialEq, Eq)]
enum Draining {
    No,
    Due,
    Sent,
}

struct Unacknowledged {
    report: Report,
    due: bool,
    beats: u32,
}

impl Outbox {
    pub(crate) fn new(registration: Registration) -> Self {
        Outbox {
            registration,
            greeting: Greeting::Due,
            sequence: 0,
            reports: VecDeque::new(),
            memory_used: None,
            draining: Draining::No,
        }
    }

    /// A new link: everything that matters is said again.
    pub(crate) fn start_over(&mut self) {
        self.greeting = Greeting::Due;
        self.memory_used = None;
        for entry in &mut self.reports {
            (entry.due, entry.beats) = (true, 0);
        }
        if self.is_draining() {
            self.draining = Draining::Due;
        }
    }

    /// The driver has accepted the registration.
    pub(crate) fn welcome(&mut self) {
        self.greeting = Greeting::Welcomed;
    }

    /// Whether it has.
    pub(crate) fn is_welcome(&self) -> bool {
        self.greeting == Greeting::Welcomed
    }

    /// An attempt has ended.
    pub(crate) fn report(
        &mut self,
        (task, attempt): (TaskId, u32),
        outcome: Result<TaskSuccess, TaskFailure>,
    ) {
        self.sequence += 1;
        let report = Report {
            sequence: self.sequence,
            task,
            attempt,
            outcome,
        };
        self.reports.push_back(Unacknowledged {
            report,
            due: true,
            beats: 0,
        });
    }

    /// Reports up to this number have arrived.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        while self
            .reports
            .front()
            .is_some_and(|entry| entry.report.sequence <= sequence)
        {
            self.reports.pop_front();
        }
    }

    /// It is time for a sign of life. One that has not gone out yet is replaced. Reports that
    /// were sent a while ago and not acknowledged become due again.
    pub(crate) fn beat(&mut self, memory_used: u64) {
        self.memory_used = Some(memory_used);
        for entry in &mut self.reports {
            entry.beats += 1;
            if entry.beats >= REPORT_REPEAT_BEATS {
                (entry.due, entry.beats) = (true, 0);
            }
        }
    }

    /// The executor leaves when it has finished.
    pub(crate) fn drain(&mut self) {
        if self.draining == Draining::No {
            self.draining = Draining::Due;
        }
    }

    /// Whether it does.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining != Draining::No
    }

    /// The attempts whose reports wait to be acknowledged.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = (TaskId, u32)> {
        self.reports
            .iter()
            .map(|entry| (entry.report.task, entry.report.attempt))
    }

    /// Whether the driver has everything that it must not lose.
    pub(crate) fn is_settled(&self) -> bool {
        self.reports.is_empty() && !(self.is_welcome() && self.draining == Draining::Due)
    }

    /// Whether [`Self::next`] has something.
    pub(crate) fn has_next(&self) -> bool {
        match self.greeting {
            Greeting::Due => true,
            Greeting::Sent => false,
            Greeting::Welcomed => {
                self.memory_used.is_some()
                    || self.draining == Draining::Due
                    || self.reports.iter().any(|entry| entry.due)
            }
        }
    }

    /// What to say next. A heartbeat names the attempts in `running` and those whose reports are
    /// not acknowledged: none of them is lost.
    pub(crate) fn next(
        &mut self,
        running: impl Iterator<Item = RunningAttempt>,
    ) -> Option<FromExecutor> {
        match self.greeting {
            Greeting::Due => {
                self.greeting = Greeting::Sent;
                return Some(FromExecutor::Register(self.registration.clone()));
            }
            Greeting::Sent => return None,
            Greeting::Welcomed => {}
        }
        if let Some(entry) = self.reports.iter_mut().find(|entry| entry.due) {
            entry.due = false;
            return Some(FromExecutor::Report(entry.report.clone()));
        }
        if let Some(memory_used) = self.memory_used.take() {
            let ended = self.reports.iter().map(|entry| RunningAttempt {
                task: entry.report.task,
                attempt: entry.report.attempt,
                // Its report has them.
                counts: Counts::default(),
            });
            let running = running.chain(ended).collect();
            return Some(FromExecutor::Heartbeat {
                memory_used,
                running,
            });
        }
        if self.draining == Draining::Due {
            self.draining = Draining::Sent;
            return Some(FromExecutor::Draining);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use kiln_engine::ErrorKind;
    use kiln_engine::id::{ExecutorId, JobId, StageId};

    use super::*;

    fn outbox() -> Outbox {
        Outbox::new(Registration {
            executor: ExecutorId(1),
            name: "host:1".into(),
            protocol: 1,
            threads: 1,
            slots: 1,
            memory: 1,
        })
    }

    fn attempt(task: u32) -> (TaskId, u32) {
        (
            TaskId {
                job: JobId::new(1),
                stage: StageId(0),
                task,
            },
            0,
        )
    }

    fn failed() -> Result<TaskSuccess, TaskFailure> {
        Err(TaskFailure {
            kind: ErrorKind::Internal,
            message: "x".into(),
            lost: None,
        })
    }

    /// Everything that comes out now, one letter or number each.
    fn said(outbox: &mut Outbox) -> String {
        let mut said = Vec::new();
        while outbox.has_next() {
            said.push(
                match outbox.next(iter::empty()).expect("it said that it has") {
                    FromExecutor::Register(_) => "R".to_owned(),
                    FromExecutor::Heartbeat { running, .. } => format!("H{}", running.len()),
                    FromExecutor::Report(report) => report.sequence.to_string(),
                    FromExecutor::Draining => "D".to_owned(),
                },
            );
        }
        assert!(
            outbox.next(iter::empty()).is_none(),
            "more came than was announced"
        );
        said.join(" ")
    }

    #[test]
    fn nothing_but_the_registration_goes_out_before_the_welcome() {
        let mut outbox = outbox();
        outbox.report(attempt(1), failed());
        outbox.beat(0);
        outbox.drain();
        assert_eq!(said(&mut outbox), "R");
        outbox.welcome();
        assert_eq!(said(&mut outbox), "1 H1 D");
        assert_eq!(said(&mut outbox), "");
    }

    #[test]
    fn reports_are_repeated_in_order_until_they_are_acknowledged() {
        let mut outbox = outbox();
        said(&mut outbox);
        outbox.welcome();
        (1..=3).for_each(|task| outbox.report(attempt(task), failed()));
        assert_eq!(said(&mut outbox), "1 2 3");
        outbox.acknowledge(1);
        for expected in ["H2", "H2", "2 3 H2", "H2"] {
            outbox.beat(0);
            assert_eq!(said(&mut outbox), expected);
        }
        outbox.start_over();
        assert_eq!(said(&mut outbox), "R");
        outbox.welcome();
        assert_eq!(said(&mut outbox), "2 3");
        assert!(!outbox.is_settled());
        outbox.acknowledge(3);
        assert!(outbox.is_settled());
        outbox.report(attempt(4), failed());
        assert_eq!(said(&mut outbox), "4");
    }

    #[test]
    fn a_driver_that_is_new_hears_of_draining_again() {
        let mut outbox = outbox();
        outbox.drain();
        outbox.drain();
        said(&mut outbox);
        outbox.welcome();
        assert!(!outbox.is_settled());
        assert_eq!(said(&mut outbox), "D");
        assert!(outbox.is_settled());
        outbox.start_over();
        assert_eq!(said(&mut outbox), "R");
        outbox.welcome();
        assert_eq!(said(&mut outbox), "D");
    }
}
