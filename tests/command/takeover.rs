//! Drivers that share a storage: when one is gone or stands still, another goes on with its jobs.
//!
//! A job stands still in its last stage, at a gate that is a file, until the fault has happened.
//! Its mappers leave marks, so that it is seen whether one of them ran again.

use std::path::{Path, PathBuf};

use crate::failover::Client;
use crate::support::{Driver, Guard, kiln, run_ok, signal, wait_for, write};

/// A place for a cluster, and a job that waits at a gate.
struct Place {
    directory: tempfile::TempDir,
    maps: PathBuf,
    reduces: PathBuf,
    gate: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        Place {
            maps: path("maps"),
            reduces: path("reduces"),
            gate: path("gate"),
            directory,
        }
    }

    /// A driver of this storage.
    fn driver(&self, address: &str) -> Driver {
        let storage = self.directory.path().join("storage").display().to_string();
        Driver::start_at(address, &["--allow-programs", "--storage", &storage])
    }

    /// A client that runs the job on one of `drivers`, when its last stage has begun.
    fn run(&self, drivers: &str) -> Client {
        let input = write(self.directory.path(), "in.txt", b"b\na\n");
        let map = format!("echo x >> {}; sed 's/$/\t1/'", self.maps.display());
        let reduce = format!(
            "echo x >> {}; until [ -e {} ]; do sleep 0.1; done; cat",
            self.reduces.display(),
            self.gate.display()
        );
        let client = Client::start([
            "run", "external", "--map", &map, "--reduce", &reduce, &input, "--json", "--driver",
            drivers,
        ]);
        wait_for("the last stage to begin", || {
            (marks(&self.reduces) > 0).then_some(())
        });
        client
    }

    fn open(&self) {
        std::fs::write(&self.gate, "").expect("room for a file");
    }
}

fn marks(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().len() / "x\n".len()
}

fn executor(drivers: &str) -> Guard {
    let args = ["executor", "--driver", drivers, "--threads", "1"];
    Guard::start(kiln(args))
}

fn address(driver: &Driver) -> String {
    driver.url.trim_start_matches("http://").to_owned()
}

/// The client ends with the right answer, and has only said that it lost its driver.
fn check_answer(client: Client) {
    let (code, printed, said) = client.ends();
    assert_eq!(code, Some(0), "{said}");
    let rows: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let keys: Vec<_> = rows.iter().map(|row| row["key"].as_str()).collect();
    assert_eq!(keys, [Some("a"), Some("b")], "{printed}");
}

#[test]
fn a_job_outlives_a_driver_that_is_killed_and_started_again() {
    let place = Place::new();
    let mut driver = place.driver("127.0.0.1:0");
    let _executor = executor(&driver.url);
    let mut client = place.run(&driver.url);
    let mapped = marks(&place.maps);
    signal(driver.guard.pid(), "KILL");
    driver.guard.ended();
    client.hears("driver lost, trying again");
    let next = place.driver(&address(&driver));
    client.hears("driver is back");
    place.open();
    check_answer(client);
    assert_eq!(marks(&place.maps), mapped, "a finished stage ran again");
    let reduced = marks(&place.reduces);
    // The same job again, and nothing happens to it.
    std::fs::remove_file(&place.reduces).expect("it was there");
    check_answer(place.run(&next.url));
    assert_eq!(
        reduced,
        marks(&place.reduces),
        "a running attempt was not kept"
    );
}

/// The first of two drivers meets `fault` while the job runs.
fn check_standby(fault: &str) {
    let place = Place::new();
    let first = place.driver("127.0.0.1:0");
    // Its client waits until it leads, so the other one does not.
    run_ok(["jobs", "--driver", &first.url]);
    let second = place.driver("127.0.0.1:0");
    let both = format!("{},{}", first.url, second.url);
    let _executor = executor(&both);
    let mut client = place.run(&both);
    let mapped = marks(&place.maps);
    signal(first.guard.pid(), fault);
    client.hears("driver lost, trying again");
    client.hears("driver is back");
    place.open();
    check_answer(client);
    assert_eq!(marks(&place.maps), mapped, "a finished stage ran again");
    if fault == "STOP" {
        // It still believes that it leads, until it wants to write something down.
        signal(first.guard.pid(), "CONT");
        let jobs = run_ok(["jobs", "--json", "--driver", &second.url]);
        assert!(jobs.contains("done"), "{jobs}");
    }
    let input = write(place.directory.path(), "more.txt", b"one\n");
    let counted = run_ok(["run", "wordcount", "--json", &input, "--driver", &both]);
    assert_eq!(counted, "{\"word\":\"one\",\"count\":1}\n");
}

#[test]
fn a_standby_goes_on_when_its_leader_is_killed() {
    check_standby("KILL");
}

#[test]
fn a_standby_goes_on_when_its_leader_stands_still_which_is_then_not_heard() {
    check_standby("STOP");
}
