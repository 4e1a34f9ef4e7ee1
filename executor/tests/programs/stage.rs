//! An executor whose driver is the test, a file to read, and a program that misbehaves.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use kiln_engine::expr::{Expr, col};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{
    Binary, OperatorSpec, Partitioning, Program, ScanFormat, ScanSpec, SinkSpec, Split, Stage,
    StageSource, TaskFailure, TaskInput, TaskSpec, TaskSuccess, TextOptions,
};
use kiln_engine::storage::{Stores, local_url};
use kiln_engine::udf::{ScalarType, ScalarUdf, TableUdf};
use kiln_executor::{Components, ExecutorSettings, Exit, Link, ProgramSettings, run};
use kiln_proto::message::{FromExecutor, Report, RunningAttempt, ToExecutor, Welcome};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Memory of the executor in bytes.
const MEMORY: u64 = 256 << 20;

/// The program: an example of this crate, which cargo puts beside its tests.
pub(crate) fn misbehaving() -> PathBuf {
    let own = std::env::current_exe().expect("a test is a file");
    let target = own.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = target.join("examples/misbehaving");
    assert!(
        program.exists(),
        "{} is missing: build it with `cargo build -p kiln-executor --examples`",
        program.display()
    );
    program
}

/// An executor and the driver's end of its link.
pub(crate) struct Executor {
    pub(crate) directory: Directory,
    to_executor: mpsc::Sender<ToExecutor>,
    from_executor: mpsc::Receiver<FromExecutor>,
    runs: JoinHandle<kiln_engine::Result<Exit>>,
    reports: u64,
}

/// Where an executor works.
pub(crate) struct Directory {
    path: PathBuf,
    _owned: Option<TempDir>,
}

impl Directory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory with something to read.
pub(crate) fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for made in ["storage", "programs"] {
        std::fs::create_dir(directory.path().join(made)).expect("a directory");
    }
    std::fs::write(directory.path().join("input.txt"), "one\ntwo\nthree\n").expect("a file");
    directory
}

/// Settings of an executor that keeps its programs in `directory`.
pub(crate) fn settings(directory: &Path) -> ExecutorSettings {
    let mut settings = ExecutorSettings::new("host:1", 2, MEMORY);
    settings.programs = ProgramSettings {
        directory: directory.join("programs"),
        kiln: misbehaving(),
        ..ProgramSettings::default()
    };
    settings
}

pub(crate) fn components() -> Components {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = Arc::new(pool.expect("two threads"));
    Components::new(
        Arc::new(Stores::new()),
        pool,
        MemoryBudget::new(MEMORY),
        None,
    )
}

impl Executor {
    pub(crate) async fn start() -> Self {
        let directory = directory();
        let settings = settings(directory.path());
        Executor::with(directory, settings, components()).await
    }

    pub(crate) async fn with(
        directory: TempDir,
        settings: ExecutorSettings,
        components: Components,
    ) -> Self {
        let mut executor = Executor::at(directory.path(), settings, components).await;
        executor.directory._owned = Some(directory);
        executor
    }

    /// One that works in a directory that is somebody else's.
    pub(crate) async fn at(
        directory: &Path,
        settings: ExecutorSettings,
        components: Components,
    ) -> Self {
        let (to_driver, from_executor) = mpsc::channel(64);
        let (to_executor, from_driver) = mpsc::channel(64);
        let link = Link {
            to_driver,
            from_driver,
        };
        let storage = local_url(&directory.join("storage"));
        let mut executor = Executor {
            directory: Directory {
                path: directory.to_owned(),
                _owned: None,
            },
            to_executor,
            from_executor,
            runs: tokio::spawn(run(settings, components, link, pending())),
            reports: 0,
        };
        let registered = executor.from_executor.recv().await;
        assert!(matches!(registered, Some(FromExecutor::Register(_))));
        let welcome = Welcome {
            epoch: 1,
            storage,
            heartbeat_ms: 50,
        };
        executor.say(ToExecutor::Welcome(welcome)).await;
        executor
    }

    pub(crate) async fn say(&self, message: ToExecutor) {
        let said = self.to_executor.send(message).await;
        said.expect("the executor listens");
    }

    pub(crate) async fn launch(&self, spec: TaskSpec) {
        self.say(ToExecutor::Launch { epoch: 1, spec }).await;
    }

    /// The next report.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            let message = self.from_executor.recv().await;
            if let FromExecutor::Report(report) = message.expect("the executor is there")
                && report.sequence > self.reports
            {
                self.reports = report.sequence;
                let sequence = report.sequence;
                self.say(ToExecutor::Acknowledge { sequence }).await;
                return report;
            }
        }
    }

    /// What the next heartbeat says is running.
    pub(crate) async fn running(&mut self) -> Vec<RunningAttempt> {
        loop {
            let message = self.from_executor.recv().await;
            if let FromExecutor::Heartbeat { running, .. } = message.expect("the executor is there")
            {
                return running;
            }
        }
    }

    /// How a task ends.
    pub(crate) async fn outcome(&mut self, spec: TaskSpec) -> Result<TaskSuccess, TaskFailure> {
        let task = spec.id;
        self.launch(spec).await;
        let report = self.report().await;
        assert_eq!(report.task, task);
        report.outcome
    }

    /// How a task ends, on one line without anything that is different each time.
    pub(crate) async fn told(&mut self, spec: TaskSpec) -> String {
        let task = spec.id;
        match self.outcome(spec).await {
            Ok(success) => format!("{} rows", success.counts.rows_out),
            Err(failure) => {
                let text = format!("{}: {}", failure.kind, failure.message);
                let text = text.replace(&format!("task {task} attempt 0: "), "");
                let text = text.replace(&local_url(self.directory.path()), "DIRECTORY");
                let text = text.replace(&self.directory.path().display().to_string(), "DIRECTORY");
                without_chance(&text.replace(BACKTRACE, ""))
            }
        }
    }

    /// The program, with a limit for each call.
    pub(crate) fn program(&self) -> Program {
        Program {
            binary: Binary::Kiln,
            memory: 256 << 20,
            call_ms: 60_000,
            environment: BTreeMap::new(),
        }
    }

    /// A task of job `job` that calls `function` over all rows of the file.
    pub(crate) fn task(&self, job: u64, task: u32, program: &Program, function: &str) -> TaskSpec {
        let lines = Arc::new(Schema::new(vec![Field::new(
            "line",
            DataType::Utf8View,
            false,
        )]));
        let (operator, schema) = match function {
            "keeps" | "shortens" | "mistypes" => {
                let output = ScalarType {
                    arguments: None,
                    returns: DataType::Utf8View,
                };
                let function = ScalarUdf::new(function, "", output, None);
                let args = vec![col("line")];
                let call = Expr::Udf { function, args }.alias("line");
                let schema = Schema::new(vec![Field::new("line", DataType::Utf8View, true)]);
                (
                    OperatorSpec::Project { exprs: vec![call] },
                    Arc::new(schema),
                )
            }
            _ => {
                let function = TableUdf::new(function, "", Arc::clone(&lines), None);
                (OperatorSpec::Apply { function }, lines)
            }
        };
        let stage = Stage {
            id: StageId(0),
            source: StageSource::Scan(scan()),
            sides: Vec::new(),
            operators: vec![operator],
            sink: SinkSpec::Shuffle {
                partitioning: Partitioning::Single,
            },
            schema,
        };
        let id = TaskId {
            job: JobId::new(job),
            stage: StageId(0),
            task,
        };
        TaskSpec {
            id,
            attempt: 0,
            stage: Arc::new(stage),
            input: TaskInput::Splits(vec![self.split()]),
            sides: Vec::new(),
            program: Some(Arc::new(program.clone())),
        }
    }

    fn split(&self) -> Split {
        let file = self.directory.path().join("input.txt");
        let bytes = std::fs::metadata(&file).expect("a file").len();
        Split {
            url: local_url(&file),
            file_bytes: bytes,
            start: 0,
            end: bytes,
        }
    }

    /// The processes of its programs, and what they have started.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes_in(self.directory.path())
    }

    /// Hangs up, and sees that nothing is left of the executor.
    pub(crate) async fn leave(self) -> Directory {
        drop((self.to_executor, self.from_executor));
        self.runs.await.expect("no panic").expect("a normal end");
        let left = std::fs::read_dir(self.directory.path().join("programs"));
        assert_eq!(left.expect("a directory").count(), 0);
        self.directory
    }
}

/// What Rust says to programs that fail, and does not say everywhere.
const BACKTRACE: &str =
    " | note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";

/// Without the thread that failed, and the part of a directory's name that was drawn at random.
fn without_chance(text: &str) -> String {
    let ends = [
        ("thread 'kiln-lane-", " has overflowed", "a thread"),
        ("/kiln-programs-", "/program-", "/PROGRAMS"),
    ];
    ends.iter()
        .fold(text.to_owned(), |text, (from, to, instead)| {
            match (text.split_once(from), text.split_once(to)) {
                (Some((before, _)), Some((_, after))) => format!("{before}{instead}{to}{after}"),
                _ => text,
            }
        })
}

fn scan() -> ScanSpec {
    ScanSpec {
        format: ScanFormat::Text(TextOptions::default()),
        file_schema: Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8View, false),
            Field::new("offset", DataType::Int64, false),
            Field::new("line", DataType::Utf8View, false),
        ])),
        projection: vec![2],
        predicate: None,
        key_filters: Vec::new(),
        files: Vec::new(),
        tasks: Vec::new(),
    }
}

/// The processes that live and work in `directory`.
pub(crate) fn processes_in(directory: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("a system with /proc");
    let names = entries.flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.parse().ok());
    let works_there = |pid: &i32| {
        let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
        place.is_ok_and(|place| place.starts_with(directory))
    };
    numbers.filter(works_there).collect()
}

/// Waits until `holds`, or for ever: then the test is stopped by whoever runs it.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
