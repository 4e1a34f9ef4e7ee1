//! Clusters whose network brings everything, but late, or little at a time: that costs time and
//! nothing else. Heartbeats are small and do not wait for what the store brings.

use std::time::Duration;

use kiln_testkit::proxy::{Network, Proxy};
use kiln_testkit::s3::{S3Server, variables};
use serde_json::Value;

use crate::support::{
    Driver, Guard, attempts, count_plainly, kiln, run_ok, sorted_keys, top_json, write,
};

const BUCKET: &str = "kiln-network";

/// Silence after which an executor would be taken for lost, in milliseconds and seconds.
const LEASE_MS: &str = "2000";
const LEASE_S: u32 = 2;

/// Of a link of 16 megabits a second.
const BYTES_PER_SECOND: u32 = 2_000_000;

/// Words that are there once each: all of them are shuffled.
const WORDS: u32 = 1_000_000;

/// So many lines of different words that hardly compress.
fn words(number: u32) -> String {
    let mixed = |n: u32| n.wrapping_mul(0x9e37_79b1);
    let line = |n| format!("{:08x}{:08x}\n", mixed(n), mixed(!n));
    (0..number).map(line).collect()
}

/// What the job did, if nobody was taken for lost meanwhile.
fn nobody_lost(driver: &Driver, id: &str) -> Value {
    let job = driver.job_json(id);
    for (stage, attempt) in attempts(&job) {
        // On a busy machine a slow task gets a second attempt, and one of the two is stopped.
        let state = attempt["state"].as_str();
        let good = matches!(state, Some("won" | "cancelled"));
        assert!(good, "stage={stage} {job:#}");
    }
    job
}

#[test]
fn what_is_said_half_a_second_late_is_heard_all_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = words(3);
    let expected = sorted_keys(&top_json(&count_plainly([text.as_bytes()]), 3));
    let input = write(directory.path(), "in.txt", text.as_bytes());
    let driver = Driver::start(&["--heartbeat-ms", "200", "--lease-ms", LEASE_MS]);
    let (near_client, near_executor) = (Proxy::to(&driver.url), Proxy::to(&driver.url));
    for way in [&near_client, &near_executor] {
        way.set(Network::Slow(Duration::from_millis(500)));
    }
    let args = ["executor", "--threads", "1", "--driver", &near_executor.url];
    let _executor = Guard::start(kiln(args));
    let submit = ["submit", "wordcount", "--top", "3", &input];
    let id = run_ok([&submit[..], &["--driver", &near_client.url]].concat());
    let id = id.trim();
    let answer = run_ok(["wait", id, "--json", "--driver", &near_client.url]);
    assert_eq!(sorted_keys(&answer), expected);
    nobody_lost(&driver, id);
}

#[test]
fn executors_with_little_bandwidth_to_the_store_are_not_lost() {
    let store = S3Server::start(&[BUCKET]);
    let narrow = Proxy::to(&store.url());
    narrow.set(Network::Narrow(BYTES_PER_SECOND));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = words(WORDS);
    let half = text.len() / 2;
    let write = |name: &str, text: &str| write(directory.path(), name, text.as_bytes());
    let inputs = [write("1.txt", &text[..half]), write("2.txt", &text[half..])];
    let storage = format!("s3://{BUCKET}/storage");
    let times = ["--heartbeat-ms", "200", "--lease-ms", LEASE_MS];
    let mut command = kiln(["driver", "--listen", "127.0.0.1:0", "--storage", &storage]);
    command.args(times).envs(store.variables());
    let driver = Driver::spawn(command);
    let _executors: Vec<Guard> = (0..2)
        .map(|_| {
            let mut command = kiln(["executor", "--threads", "1", "--driver", &driver.url]);
            command.envs(variables(&narrow.url));
            Guard::start(command)
        })
        .collect();
    driver.wait_for_executors(2);
    let output = directory.path().join("out").display().to_string();
    let submit = ["submit", "wordcount", "--output", &output];
    let id = run_ok(
        [
            &submit[..],
            &[&inputs[0], &inputs[1], "--driver", &driver.url],
        ]
        .concat(),
    );
    let id = id.trim();
    run_ok(["wait", id, "--driver", &driver.url]);
    let job = nobody_lost(&driver, id);
    // That took longer than a lease.
    let least = u64::from(BYTES_PER_SECOND * LEASE_S);
    let written = job["shuffle"]["bytes_written"].as_u64();
    assert!(written.is_some_and(|bytes| bytes > least), "{job:#}");
    let counted = run_ok(["head", "--json", "-n", "1000000", &output]);
    assert_eq!(counted.lines().count(), WORDS as usize);
    let once = |line: &str| line.ends_with("\"count\":1}");
    assert!(counted.lines().all(once), "a word is there more than once");
}

#[test]
fn a_leader_that_cannot_reach_the_store_leaves_everybody_to_the_next_one() {
    let store = S3Server::start(&[BUCKET]);
    let way = Proxy::to(&store.url());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "in.txt", b"one\n");
    let storage = format!("s3://{BUCKET}/storage");
    let driver = |endpoint: &str| {
        let mut command = kiln(["driver", "--listen", "127.0.0.1:0", "--storage", &storage]);
        command.args(["--leader-lease-ms", "2000"]);
        command.envs(variables(endpoint));
        Driver::spawn(command)
    };
    let first = driver(&way.url);
    assert_eq!(run_ok(["jobs", "--json", "--driver", &first.url]), "[]\n");
    let second = driver(&store.url());
    let both = format!("{},{}", first.url, second.url);
    let mut command = kiln(["executor", "--threads", "1", "--driver", &both]);
    command.envs(store.variables());
    let _executor = Guard::start(command);
    first.wait_for_executors(1);
    way.set(Network::Stalled);
    // All of them can still reach the first one.
    let counted = run_ok(["run", "wordcount", "--json", &input, "--driver", &both]);
    assert_eq!(counted, "{\"word\":\"one\",\"count\":1}\n");
    assert!(way.faults() > 0, "nothing was cut off");
    let jobs = run_ok(["jobs", "--driver", &second.url]);
    assert!(jobs.contains("done"), "{jobs}");
    second.wait_for_executors(1);
}
