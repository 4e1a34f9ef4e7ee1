//! How often the binary of a program travels: into the storage once, to each executor once.
//!
//! Driver and executors are in this process, so that their requests can be counted; the program
//! and its workers are processes.

use std::path::{Path as FilePath, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use kiln_driver::{Driver, DriverSettings, service};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url};
use kiln_executor::{Components, ExecutorSettings};
use kiln_testkit::{FaultyStore, Op, cargo};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tokio::net::TcpListener;
use tokio::process::Command;

const PROGRAM_BYTES: u64 = 50 << 20;

/// Uploads and fetches of whole programs so far.
fn transfers(store: &FaultyStore) -> (usize, usize) {
    let uploads = [Op::Put, Op::PutIfAbsent, Op::CreateMultipart];
    let count = |ops: &[Op]| store.count_at(ops, "^programs/");
    (count(&uploads), count(&[Op::Get]))
}

fn shuffle(store: &Arc<FaultyStore>) -> ShuffleStore {
    ShuffleStore::new(store.clone(), Path::ROOT, Compression::Lz4)
}

/// The test program, at least as large as is asked for: what is behind the end of an executable
/// is not looked at.
fn large_program(directory: &FilePath) -> PathBuf {
    let path = directory.join("program");
    std::fs::copy(cargo::example("test_program"), &path).expect("cargo builds examples");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a copy");
    let bytes = file.metadata().expect("a file").len();
    file.set_len(bytes.max(PROGRAM_BYTES))
        .expect("room on the disk");
    path
}

fn executor(url: &str, number: usize, store: &Arc<FaultyStore>) -> tokio::task::JoinHandle<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let components = Components::new(
        Arc::new(Stores::new()),
        Arc::new(pool.expect("a thread")),
        MemoryBudget::new(1 << 30),
        Some(shuffle(store)),
    );
    let mut settings = ExecutorSettings::new(format!("executor-{number}"), 1, 1 << 30);
    settings.driver = vec![url.to_owned()];
    let served = kiln_executor::serve(settings, components, std::future::pending());
    tokio::spawn(async move {
        let _ = served.await;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_uploaded_once_and_fetched_once_by_each_executor() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let storage = directory.path().join("storage");
    std::fs::create_dir(&storage).expect("room for a directory");
    let program = large_program(directory.path());
    // Tasks enough for two at once on each of two executors.
    let input = directory.path().join("naps.txt");
    let lines = format!("{:01000}\n", 0).repeat(40_000);
    std::fs::write(&input, lines).expect("room on the disk");

    let files = LocalFileSystem::new_with_prefix(&storage).expect("a directory");
    let store = FaultyStore::new(Arc::new(files));
    let settings = DriverSettings {
        allow_programs: true,
        ..DriverSettings::default()
    };
    let components = kiln_driver::Components {
        stores: Arc::new(Stores::new()),
        shuffle: shuffle(&store),
        storage_url: local_url(&storage),
        journal: None,
    };
    let driver = Driver::start(settings, components).expect("valid settings");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let served = tokio::spawn(service::serve(
        driver.clone(),
        listener,
        std::future::pending(),
    ));
    let executors: Vec<_> = (0..2)
        .map(|number| executor(&url, number, &store))
        .collect();

    while driver.executors().expect("it leads").len() < 2 {
        tokio::task::yield_now().await;
    }
    for time in 0..2 {
        let output = directory.path().join(format!("output-{time}"));
        let mut command = Command::new(&program);
        command.arg("nap").arg(&input).args(["--driver", &url]);
        command.arg("--output").arg(&output);
        command
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let said: Output = command.output().await.expect("the program starts");
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        // The second time everybody has it.
        assert_eq!(transfers(&store), (1, 2));
    }
    let tasks = driver
        .list()
        .expect("it leads")
        .iter()
        .map(|job| job.stages[0].tasks)
        .min();
    assert!(tasks >= Some(4), "too few tasks for this test: {tasks:?}");
    driver.shutdown().await;
    served.abort();
    executors.iter().for_each(tokio::task::JoinHandle::abort);
}
