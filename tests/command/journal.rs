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

/// Starts a driver that finds the journal damaged, and says so.
fn damaged(address: &str, storage: &str) -> Guard {
    let args = ["driver", "--listen", address, "--storage", storage];
    let mut command = kiln([&args[..], &["--leader-lease-ms", "2000"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut driver = Guard::start(command);
    let mut stderr = BufReader::new(driver.child.stderr.take().expect("stderr is piped"));
    let mut said = String::new();
    while !said.contains("the journal is damaged") {
        let read = stderr.read_line(&mut said).expect("stderr is text");
        assert!(read > 0, "it ended without a word about it: {said}");
    }
    // Whatever it says from now on is of no interest, but has to go somewhere.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    driver
}

#[test]
fn with_a_damaged_journal_nobody_leads_until_it_is_whole_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let storage = directory.path().join("storage").display().to_string();
    let mut driver = Driver::start(&["--storage", &storage]);
    let address = driver.url.trim_start_matches("http://");
    let input = write(directory.path(), "in.txt", b"one two two\n");
    let id = run_ok(["submit", "wordcount", &input, "--driver", &driver.url]);
    signal(driver.guard.pid(), "KILL");
    driver.guard.ended();
    let entries = entries(&storage);
    assert!(entries.len() > 1, "{entries:?}");
    let entry = &entries[0];
    let whole = fs::read(entry).expect("an entry");

    fs::write(entry, "").expect("it can be emptied");
    drop(damaged(address, &storage));
    let mut wrong = whole.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    fs::write(entry, wrong).expect("it can be changed");
    drop(damaged(address, &storage));
    fs::remove_file(entry).expect("it can be removed");
    let mut next = damaged(address, &storage);
    let asked = run(["jobs", "--driver", &driver.url]);
    assert_eq!(asked.code, Some(3), "{asked:?}");
    assert!(asked.stderr.contains("no driver leads"), "{asked:?}");
    assert!(next.is_alive());

    fs::write(entry, whole).expect("room for an entry");
    let jobs = wait_for("a driver to lead", || {
        let asked = run(["jobs", "--driver", &driver.url]);
        (asked.code == Some(0)).then_some(asked.stdout)
    });
    assert!(jobs.contains(id.trim()), "{jobs}");
    let _executor = driver.executor(1);
    let answer = run_ok(["wait", id.trim(), "--json", "--driver", &driver.url]);
    assert_eq!(answer.lines().count(), 2, "{answer}");
}
