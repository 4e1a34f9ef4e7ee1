//! A journal that somebody has damaged: nobody leads, it is said why, and nothing is lost when the
//! damage is undone.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Driver, Guard, kiln, run, run_ok, signal, wait_for, write};

/// The entries of a journal, in order.
fn entries(storage: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(Path::new(storage).join("journal/entries")).expect("a journal");
    let mut entries: Vec<_> = found.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries
}

/// A driver that finds a journal damaged says so and waits; when it is whole again, it goes on.
fn check(damage: fn(&Path)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let storage = directory.path().join("storage").display().to_string();
    let settings = ["--storage", &storage, "--grace-ms", "600000"];
    let mut driver = Driver::start(&settings);
    let input = write(directory.path(), "in.txt", b"one two two\n");
    let args = ["submit", "wordcount", &input, "--driver", &driver.url];
    let id = run_ok(args);
    signal(driver.guard.pid(), "KILL");
    driver.guard.ended();
    // With the job in it, and something behind it.
    let entries = entries(&storage);
    assert!(entries.len() > 1, "{entries:?}");
    let first = &entries[0];
    let whole = fs::read(first).expect("an entry");
    damage(first);

    let address = driver.url.trim_start_matches("http://");
    let mut command = kiln(["driver", "--listen", address, "--leader-lease-ms", "2000"]);
    command.args(settings);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut next = Guard::start(command);
    let mut stderr = BufReader::new(next.child.stderr.take().expect("stderr is piped"));
    let mut said = String::new();
    while !said.contains("the journal is damaged") {
        let read = stderr.read_line(&mut said).expect("stderr is text");
        assert!(read > 0, "it ended without a word about it: {said}");
    }
    // Whatever it says from now on is of no interest, but has to go somewhere.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    let asked = run(["jobs", "--driver", &driver.url]);
    assert_eq!(asked.code, Some(3), "{asked:?}");
    assert!(asked.stderr.contains("no driver leads"), "{asked:?}");
    assert!(next.is_alive());

    fs::write(first, whole).expect("room for an entry");
    let jobs = wait_for("a driver to lead", || {
        let asked = run(["jobs", "--driver", &driver.url]);
        (asked.code == Some(0)).then_some(asked.stdout)
    });
    assert!(jobs.contains(id.trim()), "{jobs}");
    let _executor = driver.executor(1);
    let answer = run_ok(["wait", id.trim(), "--json", "--driver", &driver.url]);
    assert_eq!(answer.lines().count(), 2, "{answer}");
}

#[test]
fn an_entry_that_is_empty_is_noticed() {
    check(|entry| fs::write(entry, "").expect("it can be written"));
}

#[test]
fn an_entry_with_a_wrong_bit_is_noticed() {
    check(|entry| {
        let mut bytes = fs::read(entry).expect("an entry");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(entry, bytes).expect("it can be written");
    });
}

#[test]
fn an_entry_that_is_gone_is_noticed() {
    check(|entry| fs::remove_file(entry).expect("it can be removed"));
}
