//! What simulated executors do, and what goes wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use kiln_engine::id::{ExecutorId, JobId, TaskId};
use kiln_engine::metrics::Counts;
use kiln_engine::plan::{
    OutputFile, PendingUpload, ShuffleInput, SinkSpec, Stage, StageGraph, TaskFailure, TaskOutput,
    TaskSpec, TaskSuccess, part_prefix, upload_record,
};
use kiln_engine::storage::{ShuffleStore, staging_url};
use kiln_engine::{Error, ErrorKind};
use kiln_proto::message::{PROTOCOL_VERSION, Registration, Report};
use object_store::ObjectStoreExt as _;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_64;

use super::data::{self, Name};
use super::world::{Happening, World};
use crate::scheduler::{Action, Event, Millis};

/// What a driver tells an executor: an action, or its welcome.
pub(super) struct Order {
    pub(super) epoch: u64,
    pub(super) action: Option<Action>,
}

/// A simulated executor process.
#[derive(Debug)]
pub(super) struct Machine {
    slots: u32,
    /// Driver and number of its open stream, if there is one.
    stream: Option<(u64, u64)>,
    welcome: bool,
    /// The newest leadership that it has heard of.
    epoch: u64,
    /// It does nothing until then.
    pub(super) stalled_until: Millis,
    pub(super) running: BTreeMap<(TaskId, u32), TaskSpec>,
    /// Reports that have not been acknowledged.
    reports: BTreeMap<u64, Report>,
    sequence: u64,
    up_until: Millis,
    pub(super) down_until: Millis,
}

impl Machine {
    /// It runs nothing and has nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.reports.is_empty()
    }
}

/// Has a job write its files where no other does.
pub(super) fn write_to(graph: &mut StageGraph, key: u64) {
    let Some(output) = &mut graph.output else {
        return;
    };
    output.url = format!("memory:///out/{key}");
    let last = graph.stages.last_mut().expect("a job has a stage");
    let mut stage = Stage::clone(last);
    stage.sink = SinkSpec::Files {
        output: output.clone(),
    };
    *last = Arc::new(stage);
}

impl World {
    pub(super) fn start_executor(&mut self) {
        self.machines_made += 1;
        let id = ExecutorId(self.machines_made);
        let machine = Machine {
            slots: self.random.u32(1..4),
            stream: None,
            welcome: false,
            epoch: 0,
            stalled_until: 0,
            running: BTreeMap::new(),
            reports: BTreeMap::new(),
            sequence: 0,
            up_until: 0,
            down_until: 0,
        };
        self.machines.insert(id, machine);
        self.connect(id);
        self.later(100, Happening::Beat(id));
    }

    /// Dials one of the drivers.
    pub(super) fn connect(&mut self, id: ExecutorId) {
        let drivers: Vec<_> = self.drivers.keys().copied().collect();
        let driver = self.random.choice(drivers);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.stream.is_some() {
            return;
        }
        let Some(driver) = driver else {
            return self.later(200, Happening::Connect(id));
        };
        self.streams_made += 1;
        machine.stream = Some((driver, self.streams_made));
        machine.welcome = false;
        let joined = Event::ExecutorJoined(Registration {
            executor: id,
            name: format!("host-{}", id.0),
            protocol: PROTOCOL_VERSION,
            threads: 1,
            slots: machine.slots,
            memory: 1 << 30,
        });
        // Silence from a driver that is stalled is noticed after a while.
        let (stream, patience) = (self.streams_made, self.random.u64(1_000..2_000));
        self.send(id, joined);
        self.later(patience, Happening::Broken(id, u64::MAX - stream));
    }

    /// Sends over an executor's stream, which keeps order.
    fn send(&mut self, id: ExecutorId, event: Event) {
        let delay = self.random.u64(0..10);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let Some((driver, stream)) = machine.stream else {
            return;
        };
        let at = machine.up_until.max(self.now + delay);
        machine.up_until = at;
        self.at(at, Happening::Tell(driver, event, id, stream));
    }

    fn send_reports(&mut self, id: ExecutorId) {
        let reports: Vec<Report> = self.machines[&id].reports.values().cloned().collect();
        for report in reports {
            let executor = id;
            self.send(id, Event::Reported { executor, report });
        }
    }

    pub(super) fn beat(&mut self, id: ExecutorId) {
        if self.machines[&id].welcome {
            self.send_reports(id);
            let running = self.machines[&id].running.keys().copied().collect();
            if !self.chance(5) {
                let executor = id;
                self.send(id, Event::ExecutorHeard { executor, running });
            }
        }
        self.later(100, Happening::Beat(id));
    }

    pub(super) fn obey(&mut self, id: ExecutorId, stream: u64, order: Order) {
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.stream.is_none_or(|(_, open)| open != stream) {
            return;
        }
        if order.epoch < machine.epoch {
            return self.hang_up(id, stream);
        }
        machine.epoch = order.epoch;
        match order.action {
            None => {
                machine.welcome = true;
                self.send_reports(id);
                let running = self.machines[&id].running.keys().copied().collect();
                let executor = id;
                self.send(id, Event::ExecutorHeard { executor, running });
            }
            Some(Action::Launch { spec, .. }) => {
                let key = (spec.id, spec.attempt);
                let reports = machine.reports.values();
                let is_known = |report: &Report| (report.task, report.attempt) == key;
                if reports.clone().any(is_known) {
                    return;
                }
                machine.running.insert(key, spec);
                let slow = self.chance(5);
                let takes = self.random.u64(1..400) + if slow { 5_000 } else { 0 };
                self.later(takes, Happening::Finish(id, key.0, key.1));
            }
            Some(Action::Cancel { task, attempt, .. }) => {
                machine.running.remove(&(task, attempt));
            }
            Some(Action::Acknowledge { sequence, .. }) => {
                let taken = machine.reports.extract_if(..=sequence, |_, _| true);
                let done = taken.filter(|(_, report)| report.outcome.is_ok());
                self.acknowledged
                    .extend(done.map(|(_, report)| report.task));
            }
            Some(other) => panic!("executors are not told {other}"),
        }
    }

    pub(super) fn finish(&mut self, id: ExecutorId, task: TaskId, attempt: u32) {
        let machine = self.machines.get_mut(&id).expect("it is there");
        let Some(spec) = machine.running.remove(&(task, attempt)) else {
            return;
        };
        self.forget_gone(&spec);
        let graph = &self.clients[&self.wishes[&task.job]].graph;
        let outcome = match data::read(&spec, graph, &self.content) {
            Err(lost) => Err(Error::corrupt("an object is missing").with_lost(lost)),
            Ok(_) if self.chance(5) => Err(self.random_error()),
            Ok(rows) => Ok(self.write_output(&spec, rows)),
        };
        let outcome = outcome.map_err(|error| TaskFailure::from(&error));
        let machine = self.machines.get_mut(&id).expect("it just ran");
        machine.sequence += 1;
        let report = Report {
            sequence: machine.sequence,
            task,
            attempt,
            outcome,
        };
        machine.reports.insert(report.sequence, report.clone());
        if machine.welcome {
            let executor = id;
            self.send(id, Event::Reported { executor, report });
        }
    }

    /// What is not on the disk any more is not to be read.
    fn forget_gone(&mut self, spec: &TaskSpec) {
        let of_side = |side: &ShuffleInput| {
            let sources = side.sources.iter();
            sources
                .map(|source| (side.stage, source.clone()))
                .collect::<Vec<_>>()
        };
        let sources = spec.input.sources();
        let sources = sources.map(|(stage, source)| (stage, source.clone()));
        for (stage, source) in sources.chain(spec.sides.iter().flat_map(of_side)) {
            let name = (spec.id.job, stage.0, source.task, source.attempt);
            if !self.is_there(&object_path(name)) {
                self.content.remove(&name);
            }
        }
    }

    fn write_output(&mut self, spec: &TaskSpec, rows: Vec<u64>) -> TaskSuccess {
        let TaskId { job, stage, task } = spec.id;
        let name = (job, stage.0, task, spec.attempt);
        let (parts, output) = data::write(spec, rows);
        let output = match (&spec.stage.sink, output) {
            (SinkSpec::Files { output }, _) => {
                TaskOutput::Files(self.stage_file(spec, &output.url, &parts[0]))
            }
            (SinkSpec::Shuffle { .. }, output) => {
                if parts.iter().any(|part| !part.is_empty()) {
                    self.put(&object_path(name), "an object".to_owned());
                    let before = self.content.insert(name, parts);
                    assert!(before.is_none(), "written twice: {name:?}");
                }
                output
            }
        };
        TaskSuccess {
            output,
            counts: Counts {
                rows_out: 1,
                ..Counts::default()
            },
            warnings: Vec::new(),
        }
    }

    /// Uploads a file as far as an executor does.
    fn stage_file(&mut self, spec: &TaskSpec, url: &str, rows: &[u64]) -> Vec<OutputFile> {
        let TaskId { job, task, .. } = spec.id;
        let name = format!("{}t{task}-a{}", part_prefix(job), spec.attempt);
        let lines = rows.iter().map(|row| format!("{row}\n"));
        let text: String = lines.collect();
        let file = in_memory(url).join(name.as_str());
        let disk = Arc::clone(&self.disk);
        let upload = async {
            let id = disk.create_multipart(&file).await?;
            let part = disk.put_part(&file, &id, 0, text.clone().into()).await?;
            Ok::<_, object_store::Error>((id, part.content_id))
        };
        let uploaded = upload.now_or_never().expect("memory answers at once");
        let (id, part) = uploaded.expect("there is room");
        self.put(&record_path(url, job, &name), id.clone());
        vec![OutputFile {
            name,
            rows: rows.len() as u64,
            bytes: text.len() as u64,
            checksum: xxh3_64(text.as_bytes()),
            pending: Some(PendingUpload {
                id,
                parts: vec![part],
            }),
        }]
    }

    fn put(&mut self, path: &Path, text: String) {
        assert!(!self.is_there(path), "written twice: {path}");
        let put = self.disk.put(path, text.into()).now_or_never();
        put.expect("memory answers at once").expect("there is room");
    }

    fn random_error(&mut self) -> Error {
        let kind = match self.random.u8(0..20) {
            0..8 => ErrorKind::Unavailable,
            8..12 => ErrorKind::Exhausted,
            12..17 => ErrorKind::Internal,
            17..19 => ErrorKind::Cancelled,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, "simulated")
    }

    pub(super) fn crash_executor(&mut self, id: ExecutorId) {
        self.break_stream(id);
        let Some(machine) = self.machines.remove(&id) else {
            return;
        };
        for report in machine.reports.values() {
            let TaskId { job, stage, task } = report.task;
            let name = (job, stage.0, task, report.attempt);
            self.excused.insert(object_path(name));
            let graph = &self.clients[&self.wishes[&job]].graph;
            let output = graph.output.as_ref().map(|output| output.url.as_str());
            if let (Ok(success), Some(url)) = (&report.outcome, output)
                && let TaskOutput::Files(files) = &success.output
            {
                let records = files.iter().map(|file| record_path(url, job, &file.name));
                self.excused.extend(records);
            }
        }
        let back = self.random.u64(0..2_000);
        self.later(back, Happening::StartExecutor);
    }

    /// The stream of an executor breaks; its driver notices after what was sent before.
    pub(super) fn break_stream(&mut self, id: ExecutorId) {
        let gone = Event::ExecutorGone { executor: id };
        self.send(id, gone);
        let stream = self.machines.get(&id).and_then(|machine| machine.stream);
        if let Some((_, stream)) = stream {
            self.hang_up(id, stream);
        }
    }

    /// An executor notices that its stream has ended, or that nobody welcomes it.
    pub(super) fn hang_up(&mut self, id: ExecutorId, stream: u64) {
        let back = self.random.u64(10..300);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let Some((_, open)) = machine.stream else {
            return;
        };
        let is_impatient = stream == u64::MAX - open && !machine.welcome;
        if stream == open || is_impatient {
            if is_impatient {
                let gone = Event::ExecutorGone { executor: id };
                self.send(id, gone);
            }
            let machine = self.machines.get_mut(&id).expect("it was there");
            (machine.stream, machine.welcome) = (None, false);
            self.later(back, Happening::Connect(id));
        }
    }

    /// An object that is not the result vanishes.
    pub(super) fn rot(&mut self) {
        let last = |name: &Name| {
            let graph = &self.clients[&self.wishes[&name.0]].graph;
            graph.stages.len() as u32 - 1
        };
        let names = self.content.keys().filter(|name| name.1 < last(name));
        let names: Vec<Name> = names.copied().collect();
        if let Some(name) = self.random.choice(names) {
            let gone = self.disk.delete(&object_path(name)).now_or_never();
            // It may have been removed already.
            drop(gone.expect("memory answers at once"));
            self.rotten = true;
        }
    }
}

fn in_memory(url: &str) -> Path {
    Path::from(url.strip_prefix("memory:///").expect("in memory"))
}

/// Where it is noted that a file of a job's output is being uploaded.
fn record_path(url: &str, job: JobId, file: &str) -> Path {
    let staging = staging_url(url, job).expect("a staging directory");
    in_memory(&staging).join(upload_record(file))
}

/// Where the object of that name is.
pub(super) fn object_path((job, stage, task, attempt): Name) -> Path {
    let store = ShuffleStore::new(
        Arc::new(object_store::memory::InMemory::new()),
        "cluster".into(),
        kiln_engine::storage::Compression::None,
    );
    store.object_path(job, kiln_engine::id::StageId(stage), task, attempt)
}
