//! A journal that an earlier build has written, with every kind of record: it is read for ever.
//!
//! `golden/v1` is such a journal, a snapshot and the entries behind it, written once by the code of
//! its time. What a release has written is not changed any more: a kind of record that comes later
//! gets a journal of its own beside this one. Until the first release it may be removed and written
//! anew, by `cargo test --workspace --lib -- --ignored write_the_journal`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use expect_test::expect;
use kiln_engine::error::LostOutput;
use kiln_engine::expr::{col, count_all};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, Warning};
use kiln_engine::plan::{
    Binary, ClusterShape, FileFormat, LogicalPlan, Output, OutputFile, OutputOptions,
    PartitionMeta, PendingUpload, Program, Scan, ScanFormat, Sha256, SinkSpec, Stage, StageSource,
    TaskFailure, TaskOutput, TaskSuccess, TextOptions,
};
use kiln_engine::storage::{Created, Stores, local_url};
use kiln_engine::{ErrorKind, Result};
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{
    Ended, JobState, OfferedProgram, Planned, Prepared, Record, Submission, Submitted, Won,
    WriterId,
};
use object_store::ObjectStoreExt as _;

use super::compact::compact;
use super::store::JournalStore;
use crate::planner::{Planner, PlannerSettings};
use crate::restored::Restored;
use crate::scheduler::Detail;
use crate::settings::DriverSettings;

const CLUSTER: ClusterShape = ClusterShape {
    executors: 2,
    threads: 4,
    memory: 4 << 30,
    may_grow: true,
};

const MIB: u64 = 1 << 20;

/// Where the journal of a version is.
fn place(version: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/journal/golden");
    here.join(version)
}

fn journal(version: &str) -> JournalStore {
    let url = local_url(&place(version));
    JournalStore::open(&Stores::new(), &url).expect("a directory")
}

/// What a record is called. A new kind has to be named here, and then be in a journal.
fn kind(record: &Record) -> &'static str {
    match record {
        Record::Term { .. } => "term",
        Record::Submitted(_) => "submitted",
        Record::Planned(_) => "planned",
        Record::Prepared(_) => "prepared",
        Record::Won(_) => "won",
        Record::Revoked { .. } => "revoked",
        Record::Committing { .. } => "committing",
        Record::Ended(_) => "ended",
        Record::Cleaned { .. } => "cleaned",
        Record::Untidy { .. } => "untidy",
        Record::ResultDropped { .. } => "result dropped",
        Record::Forgotten { .. } => "forgotten",
        Record::Archived { .. } => "archived",
        Record::Alive => "alive",
        Record::Resigned => "resigned",
    }
}

#[tokio::test]
async fn version_1_has_every_kind_of_record_and_says_what_it_said() {
    let loaded = journal("v1").load().await.expect("it is read for ever");
    let kinds: BTreeSet<&str> = loaded.records().map(kind).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    expect!["alive, archived, cleaned, committing, ended, forgotten, planned, prepared, resigned, result dropped, revoked, submitted, term, untidy, won"].assert_eq(&kinds.join(", "));
    let restored = Restored::replay(DriverSettings::default(), &loaded);
    let restored = restored.expect("it makes sense");
    expect![[r#"
        000000000001 job 1 Done output=None failure=None result=false submitted=1501 ended=Some(4001)
          s0 4/4 rows=12 scan text lines → aggregate partial → shuffle hash(line) × 4
            t0-a0 Won on host-0:17
            t1-a0 Won on host-1:17
            t2-a0 Won on host-2:17
            t3-a0 Won on host-3:17
          s1 1/1 rows=3 read stage 0 → aggregate final → shuffle single
            t0-a0 Won on host-0:17
        000000000002 job 2 Done output=Some("memory:///out-2") failure=None result=false submitted=1502 ended=Some(4002)
          s0 4/4 rows=12 scan text lines → aggregate partial → shuffle hash(line) × 4
          s1 1/1 rows=3 read stage 0 → aggregate final → write json
        000000000003 job 3 Failed output=Some("memory:///out-3") failure=Some("a shuffle object is missing") result=false submitted=1503 ended=Some(4003)
        000000000005 job 5 Done output=None failure=None result=false submitted=1505 ended=Some(4005)
          s0 4/4 rows=12 scan text lines → aggregate partial → shuffle hash(line) × 4
          s1 1/1 rows=3 read stage 0 → aggregate final → shuffle single
        000000000006 job 6 Running output=None failure=None result=false submitted=1506 ended=None
          s0 1/4 rows=3 scan text lines → aggregate partial → shuffle hash(line) × 4
            t0-a0 Failed on host-0:17
            t0-a1000 Won on host-0:17
          s1 0/0 rows=0 read stage 0 → aggregate final → shuffle single
        00000000000a job 10 Done output=None failure=None result=true submitted=1510 ended=Some(4010)
          s0 4/4 rows=12 scan text lines → aggregate partial → shuffle hash(line) × 4
            t0-a0 Won on host-0:17
            t1-a0 Won on host-1:17
            t2-a0 Won on host-2:17
            t3-a0 Won on host-3:17
          s1 3/3 rows=9 read stage 0 → aggregate final → shuffle single
            t0-a0 Won on host-0:17
            t1-a0 Won on host-1:17
            t2-a0 Won on host-2:17
        000000000007 job 7 Committing output=Some("memory:///out-7") failure=None result=false submitted=1507 ended=None
          s0 4/4 rows=12 scan text lines → aggregate partial → shuffle hash(line) × 4
            t0-a0 Won on host-0:17
            t1-a0 Won on host-1:17
            t2-a0 Won on host-2:17
            t3-a0 Won on host-3:17
          s1 3/3 rows=9 read stage 0 → aggregate final → write json
            t0-a0 Won on host-0:17
            t1-a0 Won on host-1:17
            t2-a0 Won on host-2:17
        000000000008 job 8 Cancelled output=None failure=None result=false submitted=1508 ended=Some(4008)
          s0 0/4 rows=0 scan text lines → aggregate partial → shuffle hash(line) × 4
          s1 0/0 rows=0 read stage 0 → aggregate final → shuffle single
        keys 4276944897:000000000001 4276944898:000000000002 4276944899:000000000003 4276944901:000000000005 4276944902:000000000006 4276944906:00000000000a 4276944903:000000000007 4276944904:000000000008
        to go on with 000000000006 000000000007
        to tidy up 000000000002 memory:///out-2
        to tidy up 000000000003 memory:///out-3
        program Staged { sha256: 0707070707070707070707070707070707070707070707070707070707070707, bytes: 1000 } {"MODE": "fast"}
    "#]].assert_eq(&shown(&restored));
}

#[tokio::test]
async fn version_1_is_compacted_to_the_same_state() {
    let loaded = journal("v1").load().await.expect("it is read for ever");
    let before = Restored::replay(DriverSettings::default(), &loaded).expect("it makes sense");
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_all(&place("v1"), copy.path());
    let store = JournalStore::open(&Stores::new(), &local_url(copy.path())).expect("a directory");
    compact(&store).await.expect("it makes sense");
    let loaded = store.load().await.expect("just written");
    assert_eq!(loaded.entries, [], "all is in the snapshot");
    let after = Restored::replay(DriverSettings::default(), &loaded).expect("it makes sense");
    // What ended is told by its status from then on, which has no attempts.
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("    "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(lines(&shown(&after)), lines(&shown(&before)));
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused() {
    let error = refused(|store| async move {
        // A record of a kind that nobody knows: field 200 of the message, empty.
        let record = Bytes::from_static(&[0xc2, 0x0c, 0x00]);
        let entry = encode_entry(1, WriterId(1), 2, vec![record]);
        store.append(2, &entry).await
    });
    expect!["cannot read the journal object=kiln/journal/entries/00000000000000000002 url=memory:///kiln: malformed message: record of a journal, which a newer version of kiln may have written, is missing"].assert_eq(&error.await);
}

/// What is said of a journal to which `write` has added something.
async fn refused<F: Future<Output = Result<Created>>>(
    write: impl FnOnce(JournalStore) -> F,
) -> String {
    let store = Arc::new(object_store::memory::InMemory::new());
    let store = JournalStore::new(store, "kiln".into(), "memory:///kiln");
    append(&store, 1, 1, &[term(1)]).await;
    assert_eq!(write(store.clone()).await.expect("written"), Created::Ours);
    let error = store.load().await.expect_err("it is not understood");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    error.report()
}

/// A journal put back together, for people.
fn shown(restored: &Restored) -> String {
    let mut text = String::new();
    let scheduler = &restored.scheduler;
    for id in scheduler.jobs() {
        let job = scheduler.status(id, Detail::Attempts).expect("it is known");
        let output = job.output.as_ref().map(|output| output.url.as_str());
        let failure = job.failure.as_ref().map(|failure| &failure.message);
        let has_result = scheduler.result(id).is_some();
        let (name, state) = (&job.name, job.state);
        let line = format!("{id} {name} {state:?} output={output:?} failure={failure:?}");
        let times = format!("submitted={} ended={:?}", job.submitted_ms, job.ended_ms);
        let _ = writeln!(text, "{line} result={has_result} {times}");
        for stage in &job.stages {
            let rows = stage.counts.rows_out;
            let done = format!("{}/{}", stage.done, stage.tasks);
            let _ = writeln!(
                text,
                "  {} {done} rows={rows} {}",
                stage.id, stage.description
            );
            for attempt in &stage.attempts {
                let name = format!("t{}-a{}", attempt.task, attempt.attempt);
                let (state, executor) = (attempt.state, &attempt.executor);
                let _ = writeln!(text, "    {name} {state:?} on {executor}");
            }
        }
    }
    let keys: Vec<String> = restored
        .keys
        .iter()
        .map(|(key, job)| format!("{key}:{job}"))
        .collect();
    let _ = writeln!(text, "keys {}", keys.join(" "));
    let planners: Vec<String> = restored.planners.keys().map(JobId::to_string).collect();
    let _ = writeln!(text, "to go on with {}", planners.join(" "));
    for (job, output) in &restored.untidy {
        let _ = writeln!(text, "to tidy up {job} {}", output.url);
    }
    for program in scheduler.programs() {
        let _ = writeln!(
            text,
            "program {:?} {:?}",
            program.binary, program.environment
        );
    }
    text
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("room for a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).expect("an entry");
        match path.is_dir() {
            true => copy_all(&path, &to.join(name)),
            false => drop(std::fs::copy(&path, to.join(name)).expect("room for a file")),
        }
    }
}

// ---- how it was written -------------------------------------------------------------------------

#[tokio::test]
#[ignore = "writes the journal that the others read, where it is missing"]
async fn write_the_journal_of_version_1() {
    if place("v1").join("journal").exists() {
        return;
    }
    let store = journal("v1");
    let history = History::new().await;
    for (index, records) in history.before().into_iter().enumerate() {
        append(&store, 1, 1 + index as u64, &records).await;
    }
    compact(&store).await.expect("just written");
    let next = store.newest_snapshot().await.expect("just written") + 1;
    for (index, records) in history.behind().into_iter().enumerate() {
        append(&store, 2, next + index as u64, &records).await;
    }
}

async fn append(store: &JournalStore, term: u64, sequence: u64, records: &[Record]) {
    let records = records.iter().map(encode_record).collect::<Result<_>>();
    let writer = WriterId(0x1000 + u128::from(term));
    let entry = encode_entry(term, writer, sequence, records.expect("encoded"));
    let created = store.append(sequence, &entry).await;
    assert!(matches!(created, Ok(Created::Ours)), "{created:?}");
}

/// What happened to ten jobs.
struct History {
    planned: BTreeMap<u64, Planned>,
}

/// Jobs that write files. The others have results.
const WRITING: [u64; 3] = [2, 3, 7];

/// Jobs of which a partition is split.
const SPLIT: [u64; 2] = [7, 10];

impl History {
    async fn new() -> Self {
        let stores = Stores::new();
        let (store, path) = stores.get("memory:///in/a.txt").expect("a store");
        let text = Bytes::from("one\ntwo\nthree\n".repeat(300_000));
        store.put(&path, text.into()).await.expect("room");
        let mut planned = BTreeMap::new();
        for job in 1..=10 {
            let settings = PlannerSettings {
                task_input_bytes_min: MIB,
                ..PlannerSettings::default()
            };
            let planner = Planner::with(settings, &plan(job), CLUSTER, &stores).await;
            let graph = planner.and_then(|mut planner| planner.advance(&[]));
            let record = Planned {
                job: JobId::new(job),
                cluster: CLUSTER,
                done: Vec::new(),
                graph: graph.expect("it fits together"),
            };
            assert_eq!(record.graph.stages.len(), 2, "a map and a reduce stage");
            planned.insert(job, record);
        }
        History { planned }
    }

    /// What is in the snapshot.
    fn before(&self) -> Vec<Vec<Record>> {
        let mut entries = vec![vec![term(1)]];
        let jobs = (1..=6).chain([10]);
        entries.push(jobs.map(|job| submitted(job, 1)).collect());
        for job in [1, 2, 5, 10] {
            entries.push(self.done(job));
        }
        entries.push(vec![
            Record::Cleaned { job: JobId::new(2) },
            Record::ResultDropped { job: JobId::new(5) },
            ended(3, JobState::Failed),
            ended(4, JobState::Cancelled),
            Record::Forgotten { job: JobId::new(4) },
        ]);
        entries.push(vec![self.planned(6), self.won(6, 0, 0, 0)]);
        entries
    }

    /// What comes behind it.
    fn behind(&self) -> Vec<Vec<Record>> {
        let lost = Record::Revoked {
            task: task(6, 0, 0),
            attempt: 0,
        };
        let mut entries = vec![vec![term(2)], vec![Record::Alive]];
        entries.push((7..=9).map(|job| submitted(job, 2)).collect());
        entries.push(vec![lost, self.won(6, 0, 0, 1000), self.planned(8)]);
        let mut written = self.done(7);
        // It is in the middle of its commit.
        written.pop();
        entries.push(written);
        entries.push(vec![
            Record::ResultDropped { job: JobId::new(1) },
            ended(8, JobState::Cancelled),
            Record::Cleaned { job: JobId::new(8) },
            Record::Untidy { job: JobId::new(2) },
            ended(9, JobState::Failed),
            Record::Forgotten { job: JobId::new(9) },
        ]);
        entries.push(vec![Record::Resigned]);
        entries
    }

    /// A job from its plan to its end.
    fn done(&self, job: u64) -> Vec<Record> {
        let stages = &self.planned[&job].graph.stages;
        let StageSource::Scan(scan) = &stages[0].source else {
            panic!("the first stage reads files");
        };
        let mut records = vec![self.planned(job)];
        let maps = 0..scan.tasks.len() as u32;
        records.extend(maps.map(|task| self.won(job, 0, task, 0)));
        let SinkSpec::Shuffle { partitioning } = &stages[0].sink else {
            panic!("the first stage writes a shuffle");
        };
        let count = partitioning.count();
        let (ends, producers) = match SPLIT.contains(&job) {
            true => (vec![count - 1, count, count], vec![0, 1, 2]),
            false => (vec![count], vec![]),
        };
        let reduces = 0..ends.len() as u32;
        records.push(Record::Prepared(Prepared {
            job: JobId::new(job),
            stage: StageId(1),
            ends,
            producers,
            cuts: Vec::new(),
        }));
        records.extend(reduces.map(|task| self.won(job, 1, task, 0)));
        if WRITING.contains(&job) {
            let job = JobId::new(job);
            records.push(Record::Committing { job });
        }
        records.push(ended(job, JobState::Done));
        records
    }

    fn planned(&self, job: u64) -> Record {
        Record::Planned(Box::new(self.planned[&job].clone()))
    }

    fn won(&self, job: u64, stage: u32, number: u32, attempt: u32) -> Record {
        let written = &self.planned[&job].graph.stages[stage as usize];
        Record::Won(Box::new(Won {
            task: task(job, stage, number),
            attempt,
            executor: format!("host-{number}:17").into(),
            started_ms: 2_000,
            ended_ms: 3_000,
            success: success(job, written),
        }))
    }
}

fn success(job: u64, stage: &Stage) -> TaskSuccess {
    let output = match &stage.sink {
        SinkSpec::Shuffle { partitioning } => {
            let partition = |number: u32| PartitionMeta {
                bytes: 64 * u64::from(number),
                rows: number.into(),
                checksum: number.into(),
            };
            TaskOutput::Shuffle((0..partitioning.count()).map(partition).collect())
        }
        SinkSpec::Files { .. } => TaskOutput::Files(vec![OutputFile {
            name: format!("part-{job:012x}-0.json"),
            rows: 3,
            bytes: 99,
            checksum: 77,
            pending: Some(PendingUpload {
                id: "an upload".to_owned(),
                parts: vec!["a part".to_owned()],
            }),
        }]),
    };
    TaskSuccess {
        output,
        counts: Counts {
            rows_in: 300,
            rows_out: 3,
            user: Box::new(BTreeMap::from([("lines".to_owned(), 300)])),
            ..Counts::default()
        },
        warnings: vec![Warning {
            subject: "memory:///in/a.txt".to_owned(),
            message: "invalid UTF-8 replaced".to_owned(),
            count: 2,
        }],
    }
}

fn term(number: u64) -> Record {
    Record::Term {
        url: format!("http://host-{number}:7440"),
        at_ms: 1_000 * number,
    }
}

fn submitted(job: u64, term: u64) -> Record {
    let program = Program {
        binary: Binary::Staged {
            sha256: Sha256([7; 32]),
            bytes: 1_000,
        },
        memory: 1 << 30,
        call_ms: 10_000,
        environment: BTreeMap::from([("MODE".to_owned(), "fast".to_owned())]),
    };
    let program = OfferedProgram {
        program,
        platform: "x86_64-linux-gnu".to_owned(),
        protocol: 1,
        functions: vec!["similar".to_owned()],
    };
    Record::Submitted(Box::new(Submitted {
        job: JobId::new(job),
        at_ms: 1_500 + job,
        term,
        submission: Submission {
            name: format!("job {job}"),
            key: 0xfeed_0000 + job,
            plan: plan(job),
            program: (job == 6).then_some(program),
            weight: 1 + job as u32,
        },
    }))
}

fn plan(job: u64) -> LogicalPlan {
    let columns = [
        Field::new("path", DataType::Utf8View, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("line", DataType::Utf8View, false),
    ];
    let scan = LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec!["memory:///in/a.txt".to_owned()],
        format: ScanFormat::Text(TextOptions::default()),
        schema: Arc::new(Schema::new(columns.to_vec())),
        projection: None,
    });
    let counted = LogicalPlan::Aggregate {
        input: Arc::new(scan),
        group_by: vec![col("line")],
        aggregates: vec![count_all().alias("count")],
    };
    if !WRITING.contains(&job) {
        return counted;
    }
    LogicalPlan::Write {
        input: Arc::new(counted),
        output: Output {
            url: format!("memory:///out-{job}"),
            format: FileFormat::Json,
            options: OutputOptions::default(),
        },
    }
}

fn task(job: u64, stage: u32, task: u32) -> TaskId {
    TaskId {
        job: JobId::new(job),
        stage: StageId(stage),
        task,
    }
}

fn ended(job: u64, state: JobState) -> Record {
    let failure = TaskFailure {
        kind: ErrorKind::Unavailable,
        message: "a shuffle object is missing".to_owned(),
        lost: Some(LostOutput {
            stage: StageId(0),
            task: 1,
            attempt: 2,
        }),
    };
    Record::Ended(Box::new(Ended {
        job: JobId::new(job),
        at_ms: 4_000 + job,
        state,
        failure: (state == JobState::Failed).then_some(failure),
    }))
}
