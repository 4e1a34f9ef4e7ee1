//! Transcripts of the scheduler: commands, and below each what it made the scheduler do.
//!
//! A line `> TIME COMMAND …` is a step at that time; the indented lines after it are the actions,
//! one each. `#` starts a comment. Run with `UPDATE_EXPECT=1` to write down what happens now.
//!
//! ```text
//! settings [heartbeat=MS] [lease=MS] [reconnect=MS] [grace=MS]     (starts all over)
//! join e1 [slots=N] [threads=N] [memory=MIB] [silent=1]     (one that is new sends a heartbeat,
//!     too, unless it is silent; one that comes back does not)
//! heard e1 [ATTEMPT …]    gone e1    draining e1
//! submit j1 [weight=N] [NAME]    bring j1    plan j1 STAGE; STAGE; …    planfailed j1 KIND MESSAGE
//!     STAGE: INPUT [calling] [SIDE …] -> SINK;
//!     INPUT: (scan TASKS | read STAGES | gather STAGES | pass STAGES | range STAGE);
//!     SIDE: beside STAGE (broadcast) | with STAGE (brought together with the source)
//!         | joining STAGE (brought together, and an inner join looks up in it);
//!     SINK: hash PARTITIONS | single | sorted | files;
//!     `; ...` or `; ... -> files` behind the last says that more stages will follow
//! done e1 ATTEMPT [bytes=N,N,…] [sorted=KEY:N,KEY:N,…] [files=NAME,…] [warn=SUBJECT] [seq=N]
//! fail e1 ATTEMPT KIND [lost=s0/t1-a0] [seq=N] MESSAGE
//! cancel j1    committed j1 [KIND MESSAGE]    read j1    stopping    tick
//! status j1    deadline    executors    result j1             (look, without a step)
//! ```
//! An ATTEMPT is written `j1/s0/t2-a0`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::Schema;
use expect_test::expect_file;
use kiln_driver::DriverSettings;
use kiln_driver::scheduler::{Detail, Event, Scheduler, Submitted};
use kiln_engine::error::LostOutput;
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, Warning};
use kiln_engine::plan::{
    Binary, Deal, FileFormat, JoinStep, OperatorSpec, Output, OutputFile, PartitionMeta,
    Partitioning, Program, ScanFormat, ScanSpec, Side, SinkSpec, Split, Stage, StageGraph,
    StageSource, StepKind, Stretch, TaskFailure, TaskOutput, TaskSuccess, TextOptions,
};
use kiln_engine::udf::TableUdf;
use kiln_engine::{Error, ErrorKind};
use kiln_proto::message::{PROTOCOL_VERSION, Registration, Report, RunningAttempt};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = std::fs::read_dir(&folder).expect("the folder of transcripts is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry can be read").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no transcripts in {folder:?}");
    for path in paths {
        check(&path);
    }
}

fn check(path: &Path) {
    let text = std::fs::read_to_string(path).expect("a transcript can be read");
    let mut world = World::new();
    let mut found = String::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        let _ = writeln!(found, "{line}");
        if let Some(command) = line.strip_prefix("> ") {
            let answer = world.run(command).unwrap_or_else(|what| {
                panic!("{}: {what}: {line}", path.display());
            });
            for line in answer {
                let _ = writeln!(found, "  {}", short(&line));
            }
        } else {
            let ignored = line.is_empty() || line.starts_with('#');
            assert!(ignored, "{}: not a command: {line}", path.display());
        }
    }
    expect_file![path].assert_eq(&found);
}

/// Job ids as transcripts write them: `j1`.
fn short(line: &str) -> String {
    let mut line = line.to_owned();
    for job in 0..10 {
        line = line.replace(&JobId::new(job).to_string(), &format!("j{job}"));
    }
    line
}

/// A scheduler, and what its executors would know.
struct World {
    scheduler: Scheduler,
    stages: BTreeMap<JobId, Vec<Arc<Stage>>>,
    sequences: BTreeMap<ExecutorId, u64>,
}

/// The words of a command that are left.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        if self.0.is_empty() {
            Err("a word is missing".to_owned())
        } else {
            Ok(self.0.remove(0))
        }
    }

    /// Takes `key=value` out, wherever it stands.
    fn option(&mut self, key: &str) -> Option<&'a str> {
        let place = self.0.iter().position(|word| {
            word.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('='))
        })?;
        self.0.remove(place).split_once('=').map(|(_, value)| value)
    }

    fn number(&mut self, key: &str, default: u64) -> Result<u64, String> {
        self.option(key).map_or(Ok(default), number)
    }

    fn executor(&mut self) -> Result<ExecutorId, String> {
        Ok(ExecutorId(number(self.next()?.trim_start_matches('e'))?))
    }

    fn job(&mut self) -> Result<JobId, String> {
        Ok(JobId::new(number(self.next()?.trim_start_matches('j'))?))
    }

    fn rest(&mut self) -> String {
        std::mem::take(&mut self.0).join(" ")
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn numbers(text: &str) -> Result<Vec<u64>, String> {
    text.split(',').map(number).collect()
}

fn attempt(text: &str) -> Result<(TaskId, u32), String> {
    let (job, output) = text.split_once('/').ok_or("not an attempt")?;
    let job = JobId::new(number(job.trim_start_matches('j'))?);
    let lost = output_name(output)?;
    Ok((
        TaskId {
            job,
            stage: lost.stage,
            task: lost.task,
        },
        lost.attempt,
    ))
}

/// `s0/t1-a0`
fn output_name(text: &str) -> Result<LostOutput, String> {
    let parts: Vec<_> = text.split(['/', '-']).collect();
    let [stage, task, attempt] = parts.as_slice() else {
        return Err(format!("what? {text}"));
    };
    let part = |text: &str| number(&text[1..]).map(|n| n as u32);
    Ok(LostOutput {
        stage: StageId(part(stage)?),
        task: part(task)?,
        attempt: part(attempt)?,
    })
}

fn kind(text: &str) -> Result<ErrorKind, String> {
    use ErrorKind::{Cancelled, Corrupt, Exhausted, Internal, Invalid, Program, Unavailable};
    let kinds = [
        Invalid,
        Unavailable,
        Corrupt,
        Exhausted,
        Cancelled,
        Internal,
        Program,
    ];
    let found = kinds.into_iter().find(|kind| kind.to_string() == text);
    found.ok_or_else(|| format!("not a kind: {text}"))
}

fn failure(words: &mut Words<'_>) -> Result<TaskFailure, String> {
    let kind = kind(words.next()?)?;
    let lost = words.option("lost").map(output_name).transpose()?;
    let mut error = Error::new(kind, words.rest());
    if let Some(lost) = lost {
        error = error.with_lost(lost);
    }
    Ok(TaskFailure::from(&error))
}

/// `scan 3 -> hash 4; scan 2 -> hash 4; read 0 with 1 -> single; ...`: the stages that follow
/// `known` others; dots say that there will be more, `... -> files` that the last will write files.
fn graph(text: &str, known: usize) -> Result<StageGraph, String> {
    let text = text.trim_end();
    let writes = text.strip_suffix("; ... -> files");
    let body = writes.or_else(|| text.strip_suffix("; ..."));
    let stages = (known as u32..)
        .zip(body.unwrap_or(text).split(';'))
        .filter(|(_, text)| !text.trim().is_empty());
    let stages = stages.map(|(number, text)| {
        let (source, sink) = text.split_once("->").ok_or("a stage has no sink")?;
        let mut words = Words(source.split_whitespace().collect());
        let source = source_of(&mut words)?;
        let calls = operators_of(&mut words);
        let (sides, joins) = sides_of(&mut words)?;
        let stage = Stage {
            id: StageId(number),
            source,
            operators: calls.into_iter().chain(joins).collect(),
            sides,
            sink: sink_of(&mut Words(sink.split_whitespace().collect()))?,
            schema: Arc::new(Schema::empty()),
        };
        Ok(Arc::new(stage))
    });
    let stages = stages.collect::<Result<Vec<_>, String>>()?;
    let output = stages.last().and_then(|stage| match &stage.sink {
        SinkSpec::Files { output } => Some(output.clone()),
        SinkSpec::Shuffle { .. } => None,
    });
    Ok(StageGraph {
        stages,
        complete: body.is_none(),
        output: output.or_else(|| writes.map(|_| file_output())),
    })
}

/// `calling`: a function of a program.
fn operators_of(words: &mut Words<'_>) -> Vec<OperatorSpec> {
    if words.0.first() != Some(&"calling") {
        return Vec::new();
    }
    words.0.remove(0);
    let function = TableUdf::new("f", "", Arc::new(Schema::empty()), None);
    vec![OperatorSpec::Apply { function }]
}

/// `beside 3 with 4`: stage 3 is broadcast, stage 4 has been brought together with the source.
fn sides_of(words: &mut Words<'_>) -> Result<(Vec<Side>, Vec<OperatorSpec>), String> {
    let (mut sides, mut joins) = (Vec::new(), Vec::new());
    while !words.0.is_empty() {
        let (broadcast, joined) = match words.next()? {
            "beside" => (true, false),
            "with" => (false, false),
            "joining" => (false, true),
            other => return Err(format!("not a side: {other}")),
        };
        if joined {
            joins.push(OperatorSpec::Join(JoinStep {
                side: sides.len(),
                kind: StepKind::Inner,
                probe_keys: Vec::new(),
                build_keys: Vec::new(),
                filter: None,
                output: Vec::new(),
            }));
        }
        sides.push(Side {
            stage: StageId(number(words.next()?)? as u32),
            schema: Arc::new(Schema::empty()),
            broadcast,
        });
    }
    Ok((sides, joins))
}

fn source_of(words: &mut Words<'_>) -> Result<StageSource, String> {
    let (word, value) = (words.next()?, words.next()?);
    let schema = Arc::new(Schema::empty());
    let shuffle = |deal| {
        let stages = numbers(value)?
            .into_iter()
            .map(|stage| StageId(stage as u32));
        Ok(StageSource::Shuffle {
            stages: stages.collect(),
            schema: Arc::new(Schema::empty()),
            deal,
        })
    };
    match word {
        "read" => shuffle(Deal::Partitions),
        "gather" => shuffle(Deal::Gather),
        "pass" => shuffle(Deal::Producers),
        "range" => shuffle(Deal::Ranges),
        "scan" => {
            let url = "file:///in".to_owned();
            let split = Split {
                url,
                file_bytes: 100,
                start: 0,
                end: 100,
            };
            Ok(StageSource::Scan(ScanSpec {
                format: ScanFormat::Text(TextOptions::default()),
                file_schema: schema,
                projection: Vec::new(),
                predicate: None,
                key_filters: Vec::new(),
                files: Vec::new(),
                tasks: vec![vec![split]; number(value)? as usize],
            }))
        }
        other => Err(format!("not a source: {other}")),
    }
}

fn sink_of(words: &mut Words<'_>) -> Result<SinkSpec, String> {
    let partitioning = match words.next()? {
        "hash" => {
            let partitions = number(words.next()?)? as u32;
            Partitioning::Hash {
                keys: vec!["k".to_owned()],
                partitions,
            }
        }
        "single" => Partitioning::Single,
        "sorted" => Partitioning::Sorted,
        "files" => {
            let output = file_output();
            return Ok(SinkSpec::Files { output });
        }
        other => return Err(format!("not a sink: {other}")),
    };
    Ok(SinkSpec::Shuffle { partitioning })
}

/// `k:100`: a stretch of 100 bytes, whose first row has the key `k`.
fn stretch(text: &str) -> Result<Stretch, String> {
    let (key, bytes) = text.split_once(':').ok_or("not a stretch")?;
    let bytes = number(bytes)?;
    Ok(Stretch {
        partition: PartitionMeta {
            bytes,
            rows: bytes / 10,
            checksum: 0,
        },
        first_key: key.to_owned().into(),
    })
}

fn file_output() -> Output {
    Output {
        url: "file:///out".to_owned(),
        format: FileFormat::Csv,
        options: Default::default(),
    }
}

impl World {
    fn new() -> Self {
        World {
            scheduler: Scheduler::new(DriverSettings::default()),
            stages: BTreeMap::new(),
            sequences: BTreeMap::new(),
        }
    }

    fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
        let mut words = Words(line.split_whitespace().collect());
        let now = number(words.next()?)?;
        let command = words.next()?;
        if command == "settings" {
            return self.settings(&mut words).map(|()| Vec::new());
        }
        if let Some(answer) = self.look(command, &mut words)? {
            return Ok(answer);
        }
        let silent = words.number("silent", 0)? > 0;
        let event = self.event(command, &mut words)?;
        if !words.0.is_empty() {
            return Err(format!("too many words: {}", words.rest()));
        }
        let heartbeat = self.first_heartbeat(&event).filter(|_| !silent);
        let mut actions = self.scheduler.step(now, event);
        if let Some(heartbeat) = heartbeat {
            actions.extend(self.scheduler.step(now, heartbeat));
        }
        Ok(actions.iter().map(ToString::to_string).collect())
    }

    /// What an executor that is new says right after it has joined: that it runs nothing.
    fn first_heartbeat(&self, event: &Event) -> Option<Event> {
        let Event::ExecutorJoined(registration) = event else {
            return None;
        };
        let executor = registration.executor;
        let known = self.scheduler.executors().into_iter();
        let mut known = known.map(|status| status.registration.executor);
        (!known.any(|id| id == executor)).then(|| Event::ExecutorHeard {
            executor,
            running: Vec::new(),
        })
    }

    fn settings(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let default = DriverSettings::default();
        let settings = DriverSettings {
            heartbeat_ms: words.number("heartbeat", default.heartbeat_ms)?,
            lease_ms: words.number("lease", default.lease_ms)?,
            reconnect_ms: words.number("reconnect", default.reconnect_ms)?,
            grace_ms: words.number("grace", default.grace_ms)?,
            ..default
        };
        self.scheduler = Scheduler::new(settings);
        self.stages.clear();
        self.sequences.clear();
        Ok(())
    }

    fn event(&mut self, command: &str, words: &mut Words<'_>) -> Result<Event, String> {
        Ok(match command {
            "tick" => Event::Tick,
            "join" => Event::ExecutorJoined(registration(words)?),
            "heard" => {
                let executor = words.executor()?;
                let running = std::mem::take(&mut words.0).into_iter().map(attempt);
                Event::ExecutorHeard {
                    executor,
                    running: running.collect::<Result<_, _>>()?,
                }
            }
            "progress" => {
                let executor = words.executor()?;
                let (task, attempt) = attempt(words.next()?)?;
                let counts = Counts {
                    rows_in: words.number("rows", 0)?,
                    bytes_in: words.number("bytes", 0)?,
                    ..Counts::default()
                };
                let running = vec![RunningAttempt {
                    task,
                    attempt,
                    counts,
                }];
                Event::Progressed { executor, running }
            }
            "gone" => Event::ExecutorGone {
                executor: words.executor()?,
            },
            "draining" => Event::ExecutorDraining {
                executor: words.executor()?,
            },
            "bring" => Event::Submitted(Submitted {
                job: words.job()?,
                name: "brings a program".to_owned(),
                program: Some(Arc::new(Program {
                    binary: Binary::Kiln,
                    memory: 1,
                    call_ms: 1,
                    environment: BTreeMap::new(),
                })),
                weight: 1,
                output: None,
            }),
            "submit" => Event::Submitted(Submitted {
                job: words.job()?,
                weight: words.number("weight", 1)? as u32,
                name: words.rest(),
                program: None,
                output: None,
            }),
            "plan" => {
                let job = words.job()?;
                let known = self.stages.entry(job).or_default();
                let graph = graph(&words.rest(), known.len())?;
                known.extend(graph.stages.iter().cloned());
                Event::Planned { job, graph }
            }
            "planfailed" => Event::PlanFailed {
                job: words.job()?,
                failure: failure(words)?,
            },
            "cancel" => Event::CancelRequested { job: words.job()? },
            "committed" => {
                let job = words.job()?;
                let outcome = if words.0.is_empty() {
                    Ok(())
                } else {
                    Err(failure(words)?)
                };
                Event::Committed { job, outcome }
            }
            "read" => Event::ResultRead { job: words.job()? },
            "stopping" => Event::Stopping,
            "done" | "fail" => self.report(command == "done", words)?,
            other => return Err(format!("not a command: {other}")),
        })
    }

    fn report(&mut self, well: bool, words: &mut Words<'_>) -> Result<Event, String> {
        let executor = words.executor()?;
        let (task, attempt) = attempt(words.next()?)?;
        let counter = self.sequences.entry(executor).or_default();
        let sequence = words.option("seq").map_or(Ok(*counter + 1), number)?;
        *counter = sequence.max(*counter);
        let outcome = if well {
            Ok(self.success(task, words)?)
        } else {
            Err(failure(words)?)
        };
        Ok(Event::Reported {
            executor,
            report: Report {
                sequence,
                task,
                attempt,
                outcome,
            },
        })
    }

    fn success(&self, task: TaskId, words: &mut Words<'_>) -> Result<TaskSuccess, String> {
        let stage = self
            .stages
            .get(&task.job)
            .and_then(|stages| stages.get(task.stage.0 as usize));
        let count = match stage.map(|stage| &stage.sink) {
            Some(SinkSpec::Shuffle { partitioning }) => partitioning.count() as usize,
            _ => 1,
        };
        let output = if let Some(names) = words.option("files") {
            let file = |name: &str| OutputFile {
                name: name.to_owned(),
                rows: 1,
                bytes: 10,
                checksum: 0,
                pending: None,
            };
            TaskOutput::Files(names.split(',').map(file).collect())
        } else if let Some(stretches) = words.option("sorted") {
            let stretches = stretches.split(',').filter(|text| !text.is_empty());
            TaskOutput::Sorted(stretches.map(stretch).collect::<Result<_, _>>()?)
        } else {
            let sizes = words
                .option("bytes")
                .map_or(Ok(vec![100; count]), numbers)?;
            let part = |bytes: u64| PartitionMeta {
                bytes,
                rows: bytes / 10,
                checksum: 0,
            };
            TaskOutput::Shuffle(sizes.into_iter().map(part).collect())
        };
        let warning = |subject: &str| Warning {
            subject: subject.to_owned(),
            message: "odd".to_owned(),
            count: 2,
        };
        let warnings = words.option("warn").map(warning).into_iter().collect();
        Ok(TaskSuccess {
            output,
            counts: Counts {
                rows_in: 5,
                ..Counts::default()
            },
            warnings,
        })
    }

    /// Commands that only look.
    fn look(&self, command: &str, words: &mut Words<'_>) -> Result<Option<Vec<String>>, String> {
        Ok(Some(match command {
            "status" => self.status(words.job()?),
            "deadline" => vec![format!("{:?}", self.scheduler.deadline())],
            "executors" => {
                let statuses = self.scheduler.executors().into_iter();
                let line = statuses.map(|status| {
                    let drains = if status.draining { " draining" } else { "" };
                    format!(
                        "{} running={}{drains}",
                        status.registration.name, status.running
                    )
                });
                line.collect()
            }
            "result" => match self.scheduler.result(words.job()?) {
                None => vec!["none".to_owned()],
                Some(found) => {
                    let sources = found.sources.iter().map(|source| {
                        let bytes: u64 = source.partitions.iter().map(|part| part.bytes).sum();
                        format!(
                            "{}/t{}-a{} {bytes} B",
                            found.stage, source.task, source.attempt
                        )
                    });
                    sources.collect()
                }
            },
            _ => return Ok(None),
        }))
    }

    fn status(&self, job: JobId) -> Vec<String> {
        let Some(status) = self.scheduler.status(job, Detail::Attempts) else {
            return vec!["unknown".to_owned()];
        };
        let mut lines = vec![format!(
            "{:?} {} at {}",
            status.state, status.name, status.submitted_ms
        )];
        lines.extend(status.ended_ms.map(|at| format!("ended {at}")));
        lines.extend(status.note.map(|note| format!("note: {note}")));
        lines.extend(
            status
                .failure
                .map(|f| format!("failure: {}: {}", f.kind, f.message)),
        );
        for warning in status.warnings {
            lines.push(format!(
                "warning: {}: {} × {}",
                warning.subject, warning.message, warning.count
            ));
        }
        for stage in status.stages {
            lines.push(format!(
                "{} {}: {}/{} in={} rows={} {:?}..{:?}",
                stage.id,
                stage.description,
                stage.done,
                stage.tasks,
                stage.input_bytes,
                stage.counts.rows_in,
                stage.started_ms,
                stage.ended_ms
            ));
            if let Some(read) = stage.partitions.filter(|read| read.split > 0) {
                lines.push(format!("  split {} of {}", read.split, read.count));
            }
            for one in stage.attempts {
                let mut line = format!(
                    "  t{}-a{} {} {:?} {}..{:?}",
                    one.task, one.attempt, one.executor, one.state, one.started_ms, one.ended_ms
                );
                if let Some(failure) = one.failure {
                    let _ = write!(line, " {}: {}", failure.kind, failure.message);
                }
                lines.push(line);
            }
        }
        lines
    }
}

fn registration(words: &mut Words<'_>) -> Result<Registration, String> {
    let slots = words.number("slots", 2)? as u32;
    let threads = words.number("threads", 1)? as u32;
    let memory = words.number("memory", 1 << 10)? << 20;
    let executor = words.executor()?;
    Ok(Registration {
        executor,
        name: format!("host-{}", executor.0),
        protocol: PROTOCOL_VERSION,
        threads,
        slots,
        memory,
    })
}
