//! A simulated executor, and what can happen in a simulated cluster.

use std::collections::BTreeMap;

use kiln_driver::scheduler::{Action, Event, Millis};
use kiln_engine::id::{ExecutorId, JobId, TaskId};
use kiln_engine::plan::{TaskFailure, TaskSpec};
use kiln_proto::message::{PROTOCOL_VERSION, Registration, Report};

/// Something that happens at a simulated time.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Somebody submits a job.
    Submit(JobId),
    /// Somebody cancels one.
    Cancel(JobId),
    /// The driver is told something; by an executor's stream, if that is named.
    Tell(Event, Option<(ExecutorId, u64)>),
    /// An executor is told something over a stream.
    Order(ExecutorId, u64, Action),
    /// An executor process starts.
    Start,
    /// An executor's heartbeat is due.
    Beat(ExecutorId),
    /// An executor has finished an attempt.
    Finish(ExecutorId, TaskId, u32),
    /// An executor opens its stream again.
    Reconnect(ExecutorId),
    /// Something goes wrong somewhere.
    Chaos,
    /// From now on nothing goes wrong any more.
    Calm,
    /// A commit is carried out.
    Commit(JobId, Vec<String>),
}

/// A simulated executor process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: ExecutorId,
    slots: u32,
    /// Its open stream, if there is one.
    pub(crate) stream: Option<u64>,
    /// It does nothing until then.
    pub(crate) stalled_until: Millis,
    pub(crate) draining: bool,
    pub(crate) running: BTreeMap<(TaskId, u32), TaskSpec>,
    /// Reports that have not been acknowledged.
    pub(crate) reports: BTreeMap<u64, Report>,
    sequence: u64,
    /// Whether a report was acknowledged over this stream. Before that reports keep their order:
    /// that is what a new stream begins with.
    pub(crate) settled: bool,
    /// When the last message over its stream arrives, each way: streams keep order.
    pub(crate) up_until: Millis,
    pub(crate) down_until: Millis,
}

impl Machine {
    pub(crate) fn new(id: ExecutorId, slots: u32) -> Self {
        Machine {
            id,
            slots,
            stream: None,
            stalled_until: 0,
            draining: false,
            running: BTreeMap::new(),
            reports: BTreeMap::new(),
            sequence: 0,
            settled: false,
            up_until: 0,
            down_until: 0,
        }
    }

    pub(crate) fn registration(&self) -> Registration {
        Registration {
            executor: self.id,
            name: format!("host-{}", self.id.0),
            protocol: PROTOCOL_VERSION,
            threads: 1,
            slots: self.slots,
            memory: 1 << 30,
        }
    }

    /// Keeps a report until it is acknowledged.
    pub(crate) fn report(
        &mut self,
        task: TaskId,
        attempt: u32,
        outcome: Result<kiln_engine::plan::TaskSuccess, TaskFailure>,
    ) -> Report {
        self.sequence += 1;
        let report = Report {
            sequence: self.sequence,
            task,
            attempt,
            outcome,
        };
        self.reports.insert(self.sequence, report.clone());
        report
    }

    /// It runs nothing and has nothing to tell.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.reports.is_empty()
    }

    pub(crate) fn heartbeat(&self) -> Event {
        let running = self.running.keys().copied().collect();
        Event::ExecutorHeard {
            executor: self.id,
            running,
        }
    }

    pub(crate) fn acknowledged(&mut self, sequence: u64) {
        self.reports.retain(|&number, _| number > sequence);
        self.settled = true;
    }
}
