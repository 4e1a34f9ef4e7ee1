//! Programs in storage: fetched once, checked, and told of when they are not there.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::expect;
use futures::stream::BoxStream;
use kiln_engine::id::JobId;
use kiln_engine::plan::{Binary, Program, Sha256};
use kiln_engine::storage::{Compression, ShuffleStore};
use kiln_proto::message::ToExecutor;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use sha2::Digest as _;

use crate::stage::{Executor, components, directory, misbehaving, settings, until};

/// Bytes of the program that is fetched, at least.
const PROGRAM_BYTES: usize = 50 << 20;

/// A store that counts the requests for bytes.
#[derive(Debug)]
struct Counting {
    store: LocalFileSystem,
    gets: AtomicUsize,
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "counting {}", self.store)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.store.put_opts(to, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(to, how).await
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get_opts(from, how).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.gets.fetch_add(ranges.len(), Ordering::Relaxed);
        self.store.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, how).await
    }
}

/// Puts `bytes` where programs are, under the hash of `named`.
fn stage(storage: &FilePath, named: &[u8], bytes: &[u8]) -> Binary {
    let sha256 = Sha256(sha2::Sha256::digest(named).into());
    let programs = storage.join("programs");
    std::fs::create_dir_all(&programs).expect("a directory");
    std::fs::write(programs.join(sha256.to_string()), bytes).expect("a file");
    Binary::Staged {
        sha256,
        bytes: named.len() as u64,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_fetch_a_large_program_once() {
    let directory = directory();
    let storage = directory.path().join("storage");
    let mut program = std::fs::read(misbehaving()).expect("the program");
    program.resize(program.len().max(PROGRAM_BYTES), 0);
    let binary = stage(&storage, &program, &program);
    let store = Arc::new(Counting {
        store: LocalFileSystem::new_with_prefix(&storage).expect("a directory"),
        gets: AtomicUsize::new(0),
    });
    let shuffle = ShuffleStore::new(store.clone(), Path::ROOT, Compression::Lz4);
    let mut settings = settings(directory.path());
    settings.slots = 4;
    let mut components = components();
    components.shuffle = Some(shuffle);
    let mut executor = Executor::with(directory, settings, components).await;
    let program = Program {
        binary,
        ..executor.program()
    };
    for task in 0..4 {
        executor
            .launch(executor.task(1, task, &program, "echoes"))
            .await;
    }
    for _ in 0..4 {
        let success = executor.report().await.outcome.expect("all is well");
        assert_eq!(success.counts.rows_out, 3);
    }
    assert_eq!(store.gets.load(Ordering::Relaxed), 1);
    // It is kept for a later job.
    executor
        .say(ToExecutor::JobEnded { job: JobId::new(1) })
        .await;
    until(|| executor.processes().is_empty()).await;
    let later = executor.task(2, 0, &program, "echoes");
    assert_eq!(executor.told(later).await, "3 rows");
    assert_eq!(store.gets.load(Ordering::Relaxed), 1);
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_what_it_should_be_is_not_run() {
    let mut executor = Executor::start().await;
    let storage = executor.directory.path().join("storage");
    let missing = Binary::Staged {
        sha256: Sha256([0xab; 32]),
        bytes: 7,
    };
    let cases = [
        ("missing", missing),
        ("damaged", stage(&storage, b"a program", b"a pr0gram")),
        ("cut off", stage(&storage, b"another program", b"another")),
        (
            "no program",
            stage(&storage, b"not a program", b"not a program"),
        ),
        ("a script", stage(&storage, SCRIPT, SCRIPT)),
    ];
    let mut texts = String::new();
    for (task, (what, binary)) in cases.into_iter().enumerate() {
        let program = Program {
            binary,
            ..executor.program()
        };
        let spec = executor.task(1, task as u32, &program, "echoes");
        texts += &format!("{what}\n    {}\n", executor.told(spec).await);
    }
    expect![[r#"
        missing
            unavailable: a program is not in the storage sha256=abababababababababababababababababababababababababababababababab
        damaged
            unavailable: a program is not what its name says: it has other bytes sha256=d69ea8cda2433733c1ce02de65da8f48e6a3dbba6bb18876a2062908e54ef7cb bytes=9
        cut off
            unavailable: a program is not what its name says: it is shorter sha256=60f787c0cff51e6d575260e89b89f42c99e2dec420fefcd7741146e41ae19939 bytes=15
        no program
            program: cannot start the program path=DIRECTORY/programs/PROGRAMS/program-4: Exec format error (os error 8)
        a script
            program: the program did not become a worker, as one that runs an App does: it ended: exit status: 3 output="no tasks today"
    "#]].assert_eq(&texts);
    executor.leave().await;
}

const SCRIPT: &[u8] = b"#!/bin/sh\necho no tasks today\nexit 3\n";
