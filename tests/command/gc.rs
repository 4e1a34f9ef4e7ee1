//! `kiln gc`: what killed processes leave behind goes, and what anybody still works with stays.
//!
//! Jobs stand still at a gate, which is a file, until the test has done what it is about. Every
//! process of a test has the test's own temporary directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;

use crate::support::{Driver, Guard, Said, kiln, run, signal, wait_for, write};

/// A place for a cluster, its temporary directory, and the gate of its job.
struct Place {
    directory: tempfile::TempDir,
}

/// The command of a job that stands still at the gate.
#[derive(PartialEq)]
enum At {
    Map,
    Reduce,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("tmp")).expect("room for a directory");
        Place { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn storage(&self) -> String {
        self.path("storage").display().to_string()
    }

    fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = kiln(args);
        command.env("TMPDIR", self.path("tmp"));
        command
    }

    fn said<const N: usize>(&self, args: [&str; N]) -> Said {
        let output = self.command(args).output();
        output.expect("the command starts").into()
    }

    fn ok<const N: usize>(&self, args: [&str; N]) -> String {
        let said = self.said(args);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.stdout
    }

    /// A driver that keeps its jobs in this storage, or in a directory of its own.
    fn driver(&self, storage: Option<&str>) -> Driver {
        let mut command = self.command(["driver", "--listen", "127.0.0.1:0", "--allow-programs"]);
        command.args(
            storage
                .map(|storage| ["--storage", storage])
                .iter()
                .flatten(),
        );
        Driver::spawn(command)
    }

    fn executor(&self, driver: &Driver) -> Guard {
        Guard::start(self.command(["executor", "--driver", &driver.url, "--threads", "1"]))
    }

    /// The arguments of a job after the verb, and whatever else it takes.
    fn job(&self, at: At) -> [String; 6] {
        let input = write(self.directory.path(), "in.txt", b"b\na\n");
        let wait = format!(
            "echo x >> {}; until [ -e {} ]; do sleep 0.1; done;",
            self.path("arrived").display(),
            self.path("gate").display()
        );
        let wait_at = |here: bool| if here { wait.as_str() } else { "" };
        let map = format!("{} sed 's/$/\t1/'", wait_at(at == At::Map));
        let reduce = format!("{} cat", wait_at(at == At::Reduce));
        ["external", "--map", &map, "--reduce", &reduce, &input].map(str::to_owned)
    }

    /// Submits a job; its id when it stands at the gate.
    fn submit(&self, at: At, driver: &Driver) -> String {
        let mut command = self.command(["submit"]);
        command.args(self.job(at)).args(["--driver", &driver.url]);
        let said: Said = command.output().expect("the command starts").into();
        assert_eq!(said.code, Some(0), "{said:?}");
        self.arrived();
        said.stdout.trim().to_owned()
    }

    fn arrived(&self) {
        let arrived = self.path("arrived");
        wait_for("the job to stand at its gate", || {
            arrived.exists().then_some(())
        });
    }

    fn open(&self) {
        std::fs::write(self.path("gate"), "").expect("room for a file");
    }

    /// What `gc` finds, by kinds and owners.
    fn left<const N: usize>(&self, args: [&str; N]) -> Vec<(String, String)> {
        let mut command = self.command(["gc", "--dry-run", "--json"]);
        let said: Said = command.args(args).output().expect("it starts").into();
        assert_eq!(said.code, Some(0), "{said:?}");
        let found: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!(found["removed"], false, "{found:#}");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let rows = found["left"].as_array().expect("a list").iter();
        rows.map(|row| (text(&row["what"]), text(&row["of"])))
            .collect()
    }

    /// The names in the temporary directory, without what makes them unique.
    fn scratch(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("tmp")).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            let name = name.into_string().expect("UTF-8");
            name.rsplit_once('-').expect("a prefix").0.to_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

const NOTHING: &str = "nothing is left behind\n";

/// The rows of the job, sorted, as `--json` prints them.
fn check_rows(printed: &str) {
    let rows = printed.lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        row["key"].as_str().expect("a text").to_owned()
    });
    assert_eq!(rows.collect::<Vec<_>>(), ["a", "b"], "{printed}");
}

/// The shuffle objects of a job below a storage.
fn objects(storage: &str, job: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from(storage)];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => left.push(path),
                path => found.push(path),
            }
        }
    }
    let job = Path::new(job).as_os_str();
    found.retain(|path| {
        path.iter().any(|part| part == job) && !path.display().to_string().contains('#')
    });
    found
}

#[test]
fn what_a_killed_driver_and_executor_leave_in_the_temporary_directory_goes() {
    let place = Place::new();
    let mut driver = place.driver(None);
    let mut executor = place.executor(&driver);
    // The result of a job that is done is kept, and the next one is in the middle.
    place.open();
    let done = place.submit(At::Reduce, &driver);
    check_rows(&place.ok(["wait", &done, "--json", "--driver", &driver.url]));
    for name in ["gate", "arrived"] {
        std::fs::remove_file(place.path(name)).expect("it was there");
    }
    place.submit(At::Reduce, &driver);
    let storage = driver.banner.trim().rsplit_once("storage=");
    let storage = storage.expect("a banner").1.trim_start_matches("file://");
    let storage = storage.to_owned();
    assert_eq!(objects(&storage, &done).len(), 1);
    assert_eq!(place.left([]), [], "both live");
    for process in [&mut driver.guard, &mut executor] {
        signal(process.pid(), "KILL");
        process.ended();
    }
    let both = ["kiln-driver", "kiln-programs"];
    let left = place.left([]);
    let kinds: Vec<_> = left.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(kinds, ["directory", "directory"], "{left:?}");
    assert_eq!(left[0].1, storage);
    let text = place.ok(["gc", "--dry-run"]);
    assert!(
        text.ends_with(": nothing was removed, as --dry-run says\n"),
        "{text}"
    );
    assert_eq!(place.scratch(), both);
    let text = place.ok(["gc"]);
    assert!(
        text.contains(&storage) && text.ends_with(": removed\n"),
        "{text}"
    );
    assert_eq!(place.scratch(), [""; 0]);
    assert_eq!(place.ok(["gc"]), NOTHING);
}

#[test]
fn what_an_executor_writes_for_a_job_that_is_over_goes() {
    let place = Place::new();
    let storage = place.storage();
    let mut first = place.driver(Some(&storage));
    let mut executor = place.executor(&first);
    let id = place.submit(At::Map, &first);
    signal(first.guard.pid(), "KILL");
    first.guard.ended();
    // The executor never hears of this one, which ends the job and leaves.
    let mut second = place.driver(Some(&storage));
    let cancelled = place.ok(["cancel", &id, "--driver", &second.url]);
    assert_eq!(cancelled, format!("cancelled {id}\n"));
    signal(second.guard.pid(), "TERM");
    assert_eq!(second.guard.ended(), Some(0));
    assert_eq!(objects(&storage, &id), Vec::<PathBuf>::new());
    place.open();
    let object = wait_for("the attempt to end", || objects(&storage, &id).pop());
    signal(executor.pid(), "KILL");
    executor.ended();

    let shuffle = ("shuffle".to_owned(), format!("job {id}"));
    assert_eq!(place.left(["--storage", &storage])[0], shuffle);
    let left = place.left([]);
    assert!(left.len() == 1 && left[0].0 == "directory", "{left:?}");
    assert!(object.exists(), "nothing was to be removed");
    let text = place.ok(["gc", "--storage", &storage, "--json"]);
    let removed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&removed["removed"], &removed["left"][0]["objects"]),
        (&true.into(), &1.into())
    );
    assert_eq!(objects(&storage, &id), Vec::<PathBuf>::new());
    assert_eq!(place.ok(["gc", "--storage", &storage]), NOTHING);
    // The journal is as good as before.
    let third = place.driver(Some(&storage));
    let jobs = place.ok(["jobs", "--json", "--driver", &third.url]);
    assert!(jobs.contains(&id) && jobs.contains("cancelled"), "{jobs}");
}

/// A job goes on while somebody cleans up around it.
fn check_live(storage: Option<&str>) {
    let place = Place::new();
    let journaled = storage.map(|name| place.path(name).display().to_string());
    let driver = place.driver(journaled.as_deref());
    let _executor = place.executor(&driver);
    let id = place.submit(At::Reduce, &driver);
    let before = place.scratch();
    match &journaled {
        Some(storage) => {
            assert_eq!(place.left(["--storage", storage]), []);
            assert_eq!(place.ok(["gc", "--storage", storage]), NOTHING);
        }
        None => {
            let storage = driver
                .banner
                .trim()
                .rsplit_once("storage=")
                .expect("a banner")
                .1;
            let said = place.said(["gc", "--storage", storage]);
            assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
            assert!(
                said.stderr.contains("nobody knows what is needed"),
                "{said:?}"
            );
            assert_eq!(place.ok(["gc"]), NOTHING);
        }
    }
    assert_eq!(place.scratch(), before);
    assert!(before.contains(&"kiln-programs".to_owned()), "{before:?}");
    place.open();
    check_rows(&place.ok(["wait", &id, "--json", "--driver", &driver.url]));
    // Its result is kept, and whoever asks gets it.
    if let Some(storage) = &journaled {
        place.ok(["gc", "--storage", storage]);
    }
    check_rows(&place.ok(["wait", &id, "--json", "--driver", &driver.url]));
}

#[test]
fn a_job_of_a_driver_with_a_journal_is_not_touched() {
    check_live(Some("storage"));
}

#[test]
fn a_job_of_a_driver_without_a_journal_is_not_touched() {
    check_live(None);
}

#[test]
fn a_job_whose_driver_is_dead_goes_on_with_the_next() {
    let place = Place::new();
    let storage = place.storage();
    let mut first = place.driver(Some(&storage));
    let executor = place.executor(&first);
    let id = place.submit(At::Reduce, &first);
    signal(first.guard.pid(), "KILL");
    first.guard.ended();
    drop(executor);
    // Nobody is at work here, and all the same the job has not ended.
    let left = place.left(["--storage", &storage]);
    assert!(left.len() == 1 && left[0].0 == "directory", "{left:?}");
    place.ok(["gc", "--storage", &storage]);
    place.open();
    let second = place.driver(Some(&storage));
    let _executor = place.executor(&second);
    check_rows(&place.ok(["wait", &id, "--json", "--driver", &second.url]));
}

#[test]
fn a_storage_that_is_none_is_refused() {
    let said = run(["gc", "--storage", "/no/such/directory"]);
    expect![[r#"
        error: there is no such directory url=/no/such/directory
    "#]]
    .assert_eq(&said.stderr);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    let said = run(["gc", "--storage", "nothing://bucket"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:?}");
}
