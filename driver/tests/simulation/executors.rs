//! What simulated executors do, and what goes wrong with them.

use kiln_driver::scheduler::{Action, Event};
use kiln_engine::id::{ExecutorId, JobId, TaskId};
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{TaskFailure, TaskSuccess};
use kiln_engine::{Error, ErrorKind};
use kiln_proto::message::Report;

use crate::data::{self, Name};
use crate::machine::{Happening, Machine};
use crate::world::World;

impl World {
    pub(crate) fn start(&mut self) {
        self.machines_made += 1;
        let id = ExecutorId(self.machines_made);
        let slots = self.random.u32(1..4);
        self.machines.insert(id, Machine::new(id, slots));
        self.connect(id);
        self.later(self.settings.heartbeat_ms, Happening::Beat(id));
    }

    pub(crate) fn reconnect(&mut self, happening: Happening) {
        if let Happening::Reconnect(id) = happening {
            self.connect(id);
        }
    }

    pub(crate) fn connect(&mut self, id: ExecutorId) {
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.stream.is_some() {
            return;
        }
        self.streams_made += 1;
        machine.stream = Some(self.streams_made);
        machine.settled = false;
        let joined = Event::ExecutorJoined(machine.registration());
        let heartbeat = machine.heartbeat();
        let reports: Vec<Report> = machine.reports.values().cloned().collect();
        let draining = machine.draining;
        self.send(id, joined);
        for report in reports {
            self.send(
                id,
                Event::Reported {
                    executor: id,
                    report,
                },
            );
        }
        self.send(id, heartbeat);
        if draining {
            self.send(id, Event::ExecutorDraining { executor: id });
        }
    }

    /// Sends over an executor's stream, which keeps order.
    pub(crate) fn send(&mut self, id: ExecutorId, event: Event) {
        let delay = self.random.u64(0..10);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let Some(stream) = machine.stream else { return };
        let at = machine.up_until.max(self.now + delay);
        machine.up_until = at;
        self.at(at, Happening::Tell(event, Some((id, stream))));
    }

    /// Sends a report that may be lost, doubled or late; it is repeated until acknowledged.
    pub(crate) fn send_report(&mut self, id: ExecutorId, report: Report) {
        let Some(machine) = self.machines.get(&id) else {
            return;
        };
        let (settled, stream) = (machine.settled, machine.stream);
        let event = Event::Reported {
            executor: id,
            report,
        };
        let Some(stream) = stream.filter(|_| settled && self.rough) else {
            return self.send(id, event);
        };
        if self.chance(10) {
            return;
        }
        if self.chance(10) {
            let delay = self.random.u64(0..400);
            self.later(delay, Happening::Tell(event.clone(), Some((id, stream))));
        }
        if self.chance(20) {
            let delay = self.random.u64(0..400);
            self.later(delay, Happening::Tell(event, Some((id, stream))));
        } else {
            self.send(id, event);
        }
    }

    pub(crate) fn beat(&mut self, happening: Happening) {
        let Happening::Beat(id) = happening else {
            return;
        };
        let Some(machine) = self.machines.get(&id) else {
            return;
        };
        if machine.draining && machine.is_idle() {
            return self.remove(id);
        }
        let reports: Vec<Report> = machine.reports.values().cloned().collect();
        let heartbeat = machine.heartbeat();
        for report in reports {
            self.send_report(id, report);
        }
        if !self.chance(5) {
            self.send(id, heartbeat);
        }
        self.later(self.settings.heartbeat_ms, Happening::Beat(id));
    }

    pub(crate) fn obey(&mut self, happening: Happening) {
        let Happening::Order(id, stream, action) = happening else {
            return;
        };
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.stream != Some(stream) {
            return;
        }
        match action {
            Action::Launch { spec, .. } => {
                let key = (spec.id, spec.attempt);
                machine.running.insert(key, spec);
                let slow = self.chance(3);
                let takes = self.random.u64(1..200) + if slow { 5_000 } else { 0 };
                self.later(takes, Happening::Finish(id, key.0, key.1));
            }
            Action::Cancel { task, attempt, .. } => {
                machine.running.remove(&(task, attempt));
            }
            Action::Acknowledge { sequence, .. } => machine.acknowledged(sequence),
            other => panic!("executors are not told {other}"),
        }
    }

    pub(crate) fn finish(&mut self, happening: Happening) {
        let Happening::Finish(id, task, attempt) = happening else {
            return;
        };
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let Some(spec) = machine.running.remove(&(task, attempt)) else {
            return;
        };
        let name = (task.job, task.stage.0, task.task, attempt);
        let graph = &self.jobs[&spec.id.job].graph;
        let read = data::read(&spec, graph, &self.store);
        let outcome = match read {
            Err(lost) => Err(Error::corrupt("an object is missing").with_lost(lost)),
            Ok(_) if self.chance(10) => {
                let error = self.random_error();
                if error.kind() != ErrorKind::Cancelled && self.random.bool() {
                    // A failed attempt may leave something behind.
                    self.put(name, vec![vec![u64::MAX]]);
                }
                Err(error)
            }
            Ok(rows) => {
                let (parts, output) = data::write(&spec, rows);
                if parts.iter().any(|part| !part.is_empty()) {
                    self.put(name, parts);
                }
                let counts = Counts {
                    rows_out: 1,
                    ..Counts::default()
                };
                Ok(TaskSuccess {
                    output,
                    counts,
                    warnings: Vec::new(),
                })
            }
        };
        let outcome = outcome.map_err(|error| TaskFailure::from(&error));
        let machine = self.machines.get_mut(&id).expect("it just ran");
        let report = machine.report(task, attempt, outcome);
        self.send_report(id, report);
    }

    pub(crate) fn put(&mut self, name: Name, parts: Vec<Vec<u64>>) {
        let before = self.store.insert(name, parts);
        assert!(before.is_none(), "written twice: {name:?}");
    }

    pub(crate) fn random_error(&mut self) -> Error {
        let kind = match self.random.u8(0..20) {
            0..8 => ErrorKind::Unavailable,
            8..12 => ErrorKind::Exhausted,
            12..16 => ErrorKind::Internal,
            16..18 => ErrorKind::Cancelled,
            18 => ErrorKind::Corrupt,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, "simulated")
    }

    pub(crate) fn chaos(&mut self) {
        if !self.rough {
            return;
        }
        let ids: Vec<_> = self.machines.keys().copied().collect();
        match (self.random.u8(0..10), self.random.choice(ids)) {
            (0, Some(id)) => self.crash(id),
            (1 | 2, Some(id)) => self.break_stream(id),
            (3 | 4, Some(id)) => {
                let until = self.now + self.random.u64(0..3_000);
                self.machines
                    .get_mut(&id)
                    .expect("it was chosen")
                    .stalled_until = until;
            }
            (5, Some(id)) => {
                self.machines.get_mut(&id).expect("it was chosen").draining = true;
                self.send(id, Event::ExecutorDraining { executor: id });
            }
            (6, _) => self.rot(),
            (7, _) => self.start(),
            _ => {}
        }
        let again = self.random.u64(20..800);
        self.later(again, Happening::Chaos);
    }

    pub(crate) fn crash(&mut self, id: ExecutorId) {
        self.remove(id);
        if self.random.u8(0..4) > 0 {
            let back = self.random.u64(0..2_000);
            self.later(back, Happening::Start);
        }
    }

    /// An executor process is not there any more.
    pub(crate) fn remove(&mut self, id: ExecutorId) {
        self.break_stream(id);
        let Some(machine) = self.machines.remove(&id) else {
            return;
        };
        for report in machine.reports.values() {
            let TaskId { job, stage, task } = report.task;
            self.excused.insert((job, stage.0, task, report.attempt));
        }
    }

    pub(crate) fn break_stream(&mut self, id: ExecutorId) {
        let lag = self.random.u64(0..50);
        let back = self.random.u64(0..1_500);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let Some(stream) = machine.stream.take() else {
            return;
        };
        let at = machine.up_until.max(self.now + lag);
        machine.up_until = at;
        let gone = Event::ExecutorGone { executor: id };
        self.at(at, Happening::Tell(gone, Some((id, stream))));
        // It comes back after the driver has noticed.
        self.at(at + back, Happening::Reconnect(id));
    }

    /// An object that is not the result vanishes.
    pub(crate) fn rot(&mut self) {
        let last = |job: &JobId| self.jobs[job].graph.stages.len() as u32 - 1;
        let names = self
            .store
            .keys()
            .filter(|(job, stage, ..)| *stage < last(job));
        let names: Vec<Name> = names.copied().collect();
        if let Some(name) = self.random.choice(names) {
            self.store.remove(&name);
        }
    }
}
