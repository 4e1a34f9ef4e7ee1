//! A scripted driver and scripted tasks: what a test says happens, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use futures::FutureExt;
use kiln_engine::Error;
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::{Counts, TaskMetrics};
use kiln_engine::plan::{
    Partitioning, ScanFormat, ScanSpec, SinkSpec, Stage, StageSource, TaskInput, TaskOutput,
    TaskSpec, TaskSuccess,
};
use kiln_engine::storage::Stores;
use kiln_executor::{Components, ExecutorSettings, Runner};
use kiln_proto::message::{FromExecutor, Report, ToExecutor, Welcome};
use tokio::sync::{Semaphore, mpsc};

/// What the tasks of a test do, by the number of the task.
pub(crate) const SUCCEED: u32 = 1;
pub(crate) const FAIL: u32 = 2;
pub(crate) const PANIC: u32 = 3;
/// Runs until it is cancelled.
pub(crate) const HANG: u32 = 4;
/// Reads 7 rows and runs until the gate is opened for it.
pub(crate) const GATED: u32 = 5;

pub(crate) fn success() -> TaskSuccess {
    let output = TaskOutput::Shuffle(Vec::new());
    TaskSuccess {
        output,
        counts: Counts::default(),
        warnings: Vec::new(),
    }
}

/// What an executor works with whose tasks do as their numbers say.
pub(crate) fn components(gate: &Arc<Semaphore>) -> Components {
    let gate = Arc::clone(gate);
    let run: Runner = Arc::new(move |spec, context| {
        let gate = Arc::clone(&gate);
        async move {
            match spec.id.task {
                SUCCEED => Ok(success()),
                FAIL => Err(Error::corrupt("bits have rotted")),
                PANIC => panic!("the script says so"),
                HANG => {
                    while !context.cancel.is_cancelled() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(Error::cancelled("as asked"))
                }
                GATED => {
                    TaskMetrics::count(&context.metrics.rows_in, 7);
                    gate.acquire().await.expect("never closed").forget();
                    Ok(success())
                }
                other => Err(Error::internal(format!("no script for task={other}"))),
            }
        }
        .boxed()
    });
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread");
    let (stores, memory) = (Arc::new(Stores::new()), MemoryBudget::new(1 << 20));
    let components = Components::new(stores, Arc::new(threads), memory, None);
    Components { run, ..components }
}

pub(crate) fn settings() -> ExecutorSettings {
    ExecutorSettings::new("host:1", 1, 1 << 20)
}

pub(crate) fn welcome(epoch: u64) -> ToExecutor {
    ToExecutor::Welcome(Welcome {
        epoch,
        storage: "memory:///shuffle".into(),
        heartbeat_ms: 100,
    })
}

pub(crate) fn task(number: u32) -> TaskId {
    TaskId {
        job: JobId::new(7),
        stage: StageId(0),
        task: number,
    }
}

pub(crate) fn launch(epoch: u64, number: u32, attempt: u32) -> ToExecutor {
    let scan = ScanSpec {
        format: ScanFormat::Parquet,
        file_schema: Arc::new(Schema::empty()),
        projection: Vec::new(),
        predicate: None,
        key_filters: Vec::new(),
        files: Vec::new(),
        tasks: Vec::new(),
    };
    let stage = Stage {
        id: StageId(0),
        source: StageSource::Scan(scan),
        sides: Vec::new(),
        operators: Vec::new(),
        sink: SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        },
        schema: Arc::new(Schema::empty()),
    };
    let (stage, input) = (Arc::new(stage), TaskInput::Splits(Vec::new()));
    ToExecutor::Launch {
        epoch,
        spec: TaskSpec {
            id: task(number),
            attempt,
            stage,
            input,
            sides: Vec::new(),
            program: None,
        },
    }
}

/// The driver's end of one link.
pub(crate) struct Driver {
    pub(crate) to_executor: mpsc::Sender<ToExecutor>,
    pub(crate) from_executor: mpsc::Receiver<FromExecutor>,
}

impl Driver {
    pub(crate) async fn say(&self, message: ToExecutor) {
        self.to_executor
            .send(message)
            .await
            .expect("the executor listens");
    }

    /// The next message that is no heartbeat, as one line; none when the executor is gone.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        loop {
            match self.from_executor.recv().await? {
                FromExecutor::Heartbeat { .. } => {}
                FromExecutor::Register(registration) => {
                    let (name, protocol) = (registration.name, registration.protocol);
                    return Some(format!("register {name} protocol={protocol}"));
                }
                FromExecutor::Report(report) => return Some(line(&report)),
                FromExecutor::Draining => return Some("draining".into()),
            }
        }
    }

    /// What the next heartbeat says is running: numbers of tasks.
    pub(crate) async fn running(&mut self) -> Vec<u32> {
        let progress = self.progress().await;
        progress.into_iter().map(|(task, _)| task).collect()
    }

    /// How far the next heartbeat says that tasks are: their numbers and rows read.
    pub(crate) async fn progress(&mut self) -> Vec<(u32, u64)> {
        loop {
            let message = self
                .from_executor
                .recv()
                .await
                .expect("the executor is there");
            if let FromExecutor::Heartbeat { running, .. } = message {
                let progress = running.iter();
                return progress
                    .map(|one| (one.task.task, one.counts.rows_in))
                    .collect();
            }
        }
    }

    /// Accepts the registration.
    pub(crate) async fn welcome(&mut self, epoch: u64) {
        assert_eq!(
            self.hear().await.as_deref(),
            Some("register host:1 protocol=3")
        );
        self.say(welcome(epoch)).await;
    }

    pub(crate) async fn expect(&mut self, line: &str) {
        assert_eq!(self.hear().await.as_deref(), Some(line));
    }

    pub(crate) async fn acknowledge(&self, sequence: u64) {
        self.say(ToExecutor::Acknowledge { sequence }).await;
    }
}

fn line(report: &Report) -> String {
    let Report {
        sequence,
        task,
        attempt,
        outcome,
    } = report;
    let outcome = match outcome {
        Ok(_) => "succeeded".to_owned(),
        Err(failure) => format!("{}: {}", failure.kind, failure.message),
    };
    format!("#{sequence} t{}-a{attempt} {outcome}", task.task).replace(&task.to_string(), "TASK")
}
