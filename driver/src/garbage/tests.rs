//! What is found and removed at storages where journals say what is needed, and where the stores
//! fail.

use std::sync::Arc;

use arrow::datatypes::Schema;
use expect_test::{Expect, expect};
use kiln_engine::ErrorKind;
use kiln_engine::id::StageId;
use kiln_engine::plan::{
    FileFormat, LogicalPlan, OutputOptions, Program, Scan, ScanFormat, TextOptions,
};
use kiln_engine::storage::{Created, local_url};
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{
    Ended, OfferedProgram, PROTOCOL_VERSION, Record, Submission, Submitted, WriterId,
};
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::*;

const URL: &str = "memory:///cluster";

/// A job that goes on.
const LIVE: u64 = 1;

/// A job that has ended.
const ENDED: u64 = 2;

/// A job that the journal does not know.
const UNKNOWN: u64 = 3;

/// The storage of a cluster.
struct World {
    url: String,
    stores: Stores,
    store: Arc<dyn ObjectStore>,
}

impl World {
    /// One in memory, with a journal that says of a job that it goes on and of another that it has
    /// ended; and what fails there.
    async fn new() -> (Self, Arc<FaultyStore>) {
        let (world, store) = World::without_journal();
        world.begin().await;
        (world, store)
    }

    /// One in memory, of a driver that keeps no journal.
    fn without_journal() -> (Self, Arc<FaultyStore>) {
        let store = FaultyStore::with_multipart(InMemory::new());
        let stores = Stores::new();
        stores.insert_multipart("memory://", Arc::clone(&store));
        let world = World {
            url: URL.to_owned(),
            stores,
            store: store.clone(),
        };
        (world, store)
    }

    /// The same in a directory.
    async fn on_disk(directory: &std::path::Path) -> Self {
        let url = local_url(directory);
        let store = object_store::local::LocalFileSystem::new_with_prefix(directory);
        let world = World {
            url,
            stores: Stores::new(),
            store: Arc::new(store.expect("a directory")),
        };
        world.begin().await;
        world
    }

    async fn begin(&self) {
        let term = Record::Term {
            url: "http://a".to_owned(),
            at_ms: 1,
        };
        self.append(1, &[term]).await;
        self.append(2, &[submitted(LIVE), submitted(ENDED)]).await;
        self.append(3, &[ended(ENDED)]).await;
    }

    fn journal(&self) -> JournalStore {
        JournalStore::open(&self.stores, &self.url).expect("a store")
    }

    async fn append(&self, sequence: u64, records: &[Record]) {
        let records = records.iter().map(encode_record).collect::<Result<_>>();
        let entry = encode_entry(1, WriterId(7), sequence, records.expect("encoded"));
        let created = self.journal().append(sequence, &entry).await;
        assert!(matches!(created, Ok(Created::Ours)), "{created:?}");
    }

    /// Puts a shuffle object of five bytes there.
    async fn write(&self, job: u64, task: u32) {
        let shuffle = ShuffleStore::open(&self.stores, &self.url).expect("a store");
        let path = shuffle.object_path(JobId::new(job), StageId(0), task, 0);
        let put = self.store.put(&path, "12345".into()).await;
        put.expect("room for an object");
    }

    async fn find(&self) -> Result<Vec<Garbage>> {
        find(&self.stores, &self.url).await
    }

    async fn remove(&self, garbage: &[Garbage]) -> Result<()> {
        remove(&self.stores, &self.url, garbage).await
    }

    /// What is found, a line each.
    async fn shown(&self) -> String {
        shown(&self.find().await.expect("the storage answers"))
    }

    /// What is in the storage, the journal apart.
    async fn tree(&self) -> Vec<String> {
        let objects: Vec<_> = self.store.list(None).collect().await;
        let paths = objects.into_iter().map(|object| {
            let path = object.expect("the store answers").location;
            path.to_string()
        });
        let mut paths: Vec<String> = paths.filter(|path| !path.contains("journal/")).collect();
        paths.sort();
        paths
    }
}

fn submitted(job: u64) -> Record {
    let scan = LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec!["memory:///in".to_owned()],
        format: ScanFormat::Text(TextOptions::default()),
        schema: Arc::new(Schema::empty()),
        projection: None,
    });
    let plan = LogicalPlan::Write {
        input: Arc::new(scan),
        output: output(job),
    };
    Record::Submitted(Box::new(Submitted {
        job: JobId::new(job),
        at_ms: 1,
        term: 1,
        submission: Submission {
            name: "a job".to_owned(),
            key: job,
            plan,
            program: Some(program(job)),
            weight: 1,
        },
    }))
}

/// The program of a job; its digest consists of the job's number.
fn program(job: u64) -> OfferedProgram {
    let binary = Binary::Staged {
        sha256: digest(job),
        bytes: 5,
    };
    OfferedProgram {
        program: Program {
            binary,
            memory: 1,
            call_ms: 1,
            environment: BTreeMap::new(),
        },
        platform: String::new(),
        protocol: PROTOCOL_VERSION,
        functions: Vec::new(),
    }
}

fn digest(job: u64) -> Sha256 {
    Sha256([job as u8; 32])
}

fn output(job: u64) -> Output {
    Output {
        url: format!("memory:///out-{job}"),
        format: FileFormat::Json,
        options: OutputOptions::default(),
    }
}

fn ended(job: u64) -> Record {
    Record::Ended(Box::new(Ended {
        job: JobId::new(job),
        at_ms: 2,
        state: JobState::Cancelled,
        failure: None,
    }))
}

fn shown(garbage: &[Garbage]) -> String {
    let line = |one: &Garbage| {
        let what = match &one.what {
            What::Shuffle(job, _) => format!("shuffle {job}"),
            What::HalfWritten(job, _) => format!("half-written {job}"),
            What::Staged(job, output) => format!("staged {job} {}", output.url),
            What::Program(sha256, _) => format!("program {:.4}", sha256.to_string()),
            What::HalfBrought(_) => "half-brought".to_owned(),
        };
        format!("{what} objects={} bytes={}\n", one.objects, one.bytes)
    };
    garbage.iter().map(line).collect()
}

async fn check_found(world: &World, expected: &Expect) {
    expected.assert_eq(&world.shown().await);
}

/// Lets a file look as if it had been written two days ago.
fn age(path: &std::path::Path) {
    let file = std::fs::File::options().write(true).open(path);
    let then = SystemTime::now() - 2 * programs::KEPT;
    let aged = file.and_then(|file| file.set_modified(then));
    aged.expect("a file of this test");
}

#[tokio::test]
async fn what_jobs_left_that_ended_or_are_unknown_goes_and_the_rest_stays() {
    let (world, store) = World::new().await;
    for job in [LIVE, ENDED, UNKNOWN] {
        world.write(job, 0).await;
        world.write(job, 1).await;
        let (job, output) = (JobId::new(job), output(job));
        let prepared = commit::prepare(&world.stores, job, &output).await;
        prepared.expect("nothing is in the way");
    }
    let before = world.tree().await;
    let writes = store.count(Op::WRITES);
    check_found(
        &world,
        &expect![[r#"
            shuffle 000000000002 objects=2 bytes=10
            shuffle 000000000003 objects=2 bytes=10
            staged 000000000002 memory:///out-2 objects=1 bytes=0
        "#]],
    )
    .await;
    assert_eq!(store.count(Op::WRITES), writes, "looking changes nothing");
    let found = world.find().await.expect("the storage answers");
    world.remove(&found).await.expect("nothing is in the way");
    assert_eq!(world.find().await.expect("the storage answers"), []);
    world.remove(&found).await.expect("twice is no error");
    // Nobody knows whether the output of an unknown job is of this cluster.
    let is_kept = |path: &&String| {
        let is_live = path.contains("/000000000001/") || path.starts_with("out-1/");
        is_live || path.starts_with("out-3/")
    };
    let kept: Vec<String> = before.iter().filter(is_kept).cloned().collect();
    assert_eq!((world.tree().await, kept.len()), (kept, 4));
}

#[tokio::test]
async fn a_job_that_begins_while_somebody_looks_is_not_touched() {
    let (world, store) = World::new().await;
    let list = Rule::new(&[Op::List], Fault::Hold).at("^cluster$").times(1);
    let held = store.add(list);
    let look = world.find();
    let begin = async {
        held.reached(1).await;
        world.append(4, &[submitted(UNKNOWN)]).await;
        world.write(UNKNOWN, 0).await;
        held.release();
    };
    let (found, ()) = futures::join!(look, begin);
    assert_eq!(shown(&found.expect("the storage answers")), "");
    assert_eq!(held.count(), 1);
}

#[tokio::test]
async fn a_job_that_a_list_of_the_journal_does_not_show_yet_is_not_touched() {
    let (world, store) = World::new().await;
    world.write(LIVE, 0).await;
    // All but the beginning.
    let old = store.add(Rule::new(&[Op::List], Fault::Truncate(1)).at("journal/entries$"));
    assert_eq!(world.shown().await, "");
    assert_eq!(old.count(), 1);
}

#[tokio::test]
async fn without_a_journal_nothing_is_garbage() {
    let (world, _) = World::without_journal();
    world.write(LIVE, 0).await;
    let error = world.find().await.expect_err("nobody knows");
    assert_eq!(
        error.message(),
        "no driver has kept a journal there, so nobody knows what is needed \
         url=memory:///cluster"
    );
    assert_eq!(
        (error.kind(), world.tree().await.len()),
        (ErrorKind::Invalid, 1)
    );

    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = directory.path().join("missing");
    let error = find(&Stores::new(), &local_url(&missing)).await;
    assert_eq!(
        error.expect_err("it is not there").kind(),
        ErrorKind::Invalid
    );
    assert!(!missing.exists(), "a look makes no directory");
}

/// Looking fails where the store does `fault` to requests of these kinds and names.
async fn check_fails(ops: &[Op], at: &str, fault: Fault, kind: ErrorKind) {
    let (world, store) = World::new().await;
    world.write(ENDED, 0).await;
    let fired = store.add(Rule::new(ops, fault).at(at));
    let error = world.find().await.expect_err("the store fails");
    assert_eq!(error.kind(), kind, "{at} {fault:?}: {}", error.report());
    assert!(fired.count() > 0, "{at} {fault:?} did not fire");
}

#[tokio::test]
async fn where_the_storage_fails_nothing_is_taken_for_garbage() {
    let broken = Fault::Fail(Failure::BUSY);
    let away = ErrorKind::Unavailable;
    check_fails(&[Op::List], "^cluster$", broken, away).await;
    check_fails(&[Op::List], "^cluster$", Fault::Cut(1), away).await;
    check_fails(&[Op::List], "programs$", broken, away).await;
    check_fails(&[Op::List], "entries$", broken, away).await;
    check_fails(&[Op::List], "entries$", Fault::Cut(1), away).await;
    check_fails(&[Op::Get], "entries/", broken, away).await;
    let damaged = ErrorKind::Corrupt;
    check_fails(&[Op::Get], "entries/0*2$", Fault::FlipBit(20), damaged).await;
    check_fails(&[Op::Get], "entries/0*2$", Fault::Truncate(20), damaged).await;
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_the_rest_goes() {
    let (world, store) = World::new().await;
    for task in 0..3 {
        world.write(ENDED, task).await;
    }
    world.write(UNKNOWN, 0).await;
    let found = world.find().await.expect("the storage answers");
    let broken = Rule::new(&[Op::Delete], Fault::Fail(Failure::BUSY));
    let broken = store.add(broken.at("t1-a0$").times(1));
    let lost = Rule::new(&[Op::Delete], Fault::LoseAnswer(Failure::RESET));
    let lost = store.add(lost.at("t2-a0$").times(1));
    let error = world.remove(&found).await.expect_err("the store fails");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!((broken.count(), lost.count()), (1, 1));
    check_found(
        &world,
        &expect![[r#"
            shuffle 000000000002 objects=1 bytes=5
        "#]],
    )
    .await;
    world.remove(&found).await.expect("the store is well again");
    check_found(&world, &expect![[""]]).await;
}

#[tokio::test]
async fn an_output_that_cannot_be_looked_at_hides_nothing_else() {
    let (world, store) = World::new().await;
    world.write(ENDED, 0).await;
    let list = Rule::new(&[Op::List], Fault::Fail(Failure::Status(403)));
    let refused = store.add(list.at("^out-2"));
    check_found(
        &world,
        &expect![[r#"
            shuffle 000000000002 objects=1 bytes=5
        "#]],
    )
    .await;
    assert_eq!(refused.count(), 1);
}

#[tokio::test]
async fn half_written_files_go_when_nobody_goes_on_with_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let world = World::on_disk(directory.path()).await;
    let shuffle = ShuffleStore::open(&world.stores, &world.url).expect("a store");
    for job in [LIVE, ENDED, UNKNOWN] {
        let path = shuffle.object_path(JobId::new(job), StageId(0), 0, 0);
        let upload = world.store.put_multipart(&path).await;
        let mut upload = upload.expect("room for a file");
        let sent = upload.put_part("123".into()).await;
        sent.expect("room for bytes");
        // Its writer is killed.
        std::mem::forget(upload);
    }
    let young = directory.path().join(format!("programs/{}#1", digest(8)));
    let old = directory.path().join(format!("programs/{}#1", digest(9)));
    std::fs::create_dir(directory.path().join("programs")).expect("room for a directory");
    for path in [&young, &old] {
        std::fs::write(path, "1234").expect("room for a file");
    }
    age(&old);
    check_found(
        &world,
        &expect![[r#"
            half-brought objects=1 bytes=4
            half-written 000000000002 objects=1 bytes=3
            half-written 000000000003 objects=1 bytes=3
        "#]],
    )
    .await;
    let found = world.find().await.expect("the storage answers");
    world.remove(&found).await.expect("nothing is in the way");
    check_found(&world, &expect![[""]]).await;
    assert!(young.exists() && !old.exists());
    let left = shuffle.half_written().await.expect("the storage answers");
    let left: Vec<_> = left.iter().map(|file| file.job).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&Some(JobId::new(LIVE))) && left.contains(&None));
}

#[tokio::test]
async fn programs_go_that_no_job_has_called_for_long() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let world = World::on_disk(directory.path()).await;
    let place = |number| {
        directory
            .path()
            .join(format!("programs/{}", digest(number)))
    };
    std::fs::create_dir(directory.path().join("programs")).expect("room for a directory");
    // Of a job that goes on, of one that has ended, and of nobody; and one that is new.
    for number in [LIVE, ENDED, 8, 9] {
        std::fs::write(place(number), "12345").expect("room for a file");
    }
    for number in [LIVE, ENDED, 8] {
        age(&place(number));
    }
    // Who asks is told to bring an old one again, before it might go.
    let shuffle = ShuffleStore::open(&world.stores, &world.url).expect("a store");
    let settings = DriverSettings {
        allow_programs: true,
        ..DriverSettings::default()
    };
    let admission = programs::Admission::new(&settings, &shuffle);
    for (number, is_relied_upon) in [(8, false), (9, true)] {
        let has = admission.has(digest(number)).await;
        assert_eq!(has.expect("the storage answers"), is_relied_upon);
    }
    check_found(
        &world,
        &expect![[r#"
            program 0202 objects=1 bytes=5
            program 0808 objects=1 bytes=5
        "#]],
    )
    .await;
    let found = world.find().await.expect("the storage answers");
    // Brought again in the meantime.
    std::fs::write(place(ENDED), "12345").expect("room for a file");
    world.remove(&found).await.expect("nothing is in the way");
    let left: Vec<bool> = [LIVE, ENDED, 8, 9]
        .map(|number| place(number).exists())
        .into();
    assert_eq!(left, [true, true, false, true]);
}
