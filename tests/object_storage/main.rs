//! Whole jobs on object stores: input, shuffle and output behind `s3://` and `az://`, in one
//! process and on a cluster of processes, with and without a store that fails.
//!
//! The stand-in for S3 is part of these tests. Other servers are named by variables:
//! `.ci/object-stores` starts them and runs the tests that are ignored here.

mod place;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};

use kiln_testkit::process::wait_for;
use kiln_testkit::s3::{S3Fault, S3Op, S3Rule, S3Server};
use place::{Cluster, Place};
use regex::Regex;
use serde_json::Value;

const BUCKET: &str = "kiln-test";

/// Answers of the benchmark's queries at this scale are known.
const SCALE: &str = "0.01";

/// Text that is large enough to be read by several tasks, or nothing would be shuffled; and its
/// counts.
fn text() -> (String, BTreeMap<String, u64>) {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut text, mut counts) = (String::new(), BTreeMap::new());
    for number in 0..2_500_000 {
        let word = match random.u8(..) {
            0..100 => format!("common{}", random.u8(..)),
            _ => format!("rare{:x}", random.u32(..50_000)),
        };
        let end = if number % 10 == 9 { '\n' } else { ' ' };
        write!(text, "{word}{end}").expect("a string takes all");
        *counts.entry(word).or_insert(0) += 1;
    }
    (text, counts)
}

/// Counts words into an output and reads that.
fn check_word_count(place: &Place, driver: &[&str]) {
    let (text, counts) = text();
    let half = text[..text.len() / 2].rfind('\n').expect("a line") + 1;
    place.put("in/1.txt", &text.as_bytes()[..half]);
    place.put("in/2.txt", &text.as_bytes()[half..]);
    let (input, output) = (place.url("in"), place.url("out"));
    let args = ["run", "wordcount", "--output", &output, &input];
    place.run_ok(&[&args[..], driver].concat());
    let rows = place.run_ok(&["head", "--json", "-n", "1000000", &output]);
    let count = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("a line is JSON");
        let word = row["word"].as_str().expect("a word").to_owned();
        (word, row["count"].as_u64().expect("a count"))
    };
    let found: Vec<(String, u64)> = rows.lines().map(count).collect();
    assert_eq!(found.len(), counts.len(), "rows are missing or there twice");
    assert!(found.into_iter().collect::<BTreeMap<_, _>>() == counts);
    // What is there already is not written again.
    let said = place.run(&[&args[..], driver].concat());
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("exists"), "{said:?}");
}

/// Two queries over Parquet tables, compared with answers that are known.
fn check_queries(place: &Place, driver: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let local = directory.path().join("tables");
    let to = local.display().to_string();
    place.run_ok(&[
        "generate", "tpch", "--scale", SCALE, "--parts", "2", "--output", &to,
    ]);
    place.put_directory("tables", &local);
    let data = place.url("tables");
    let results = directory.path().join("results");
    let to = results.display().to_string();
    let args = [
        "bench",
        "tpch",
        "--data",
        &data,
        "--queries",
        "3,6",
        "--results",
        &to,
    ];
    place.run_ok(&[&args[..], driver].concat());
    for name in ["q03.csv", "q06.csv"] {
        let found = std::fs::read_to_string(results.join(name)).expect("an answer");
        let known = format!("{}/tests/tpch/sf{SCALE}/{name}", env!("CARGO_MANIFEST_DIR"));
        let known = std::fs::read_to_string(known).expect("a known answer");
        assert_eq!(found, known, "{name}");
    }
}

/// Everything, in one process and on a cluster with its storage in the same place.
fn check_all(place: &Place) {
    check_word_count(&place.below("embedded"), &[]);
    check_queries(&place.below("embedded"), &[]);
    let place = place.below("cluster");
    let cluster = Cluster::start(&place);
    check_word_count(&place, &["--driver", &cluster.url]);
    check_queries(&place, &["--driver", &cluster.url]);
}

/// Where shuffle objects are: a hash, a job.
const SHUFFLE: &str = "/storage/(.*/)?[0-9a-f]{4}/[0-9a-f]{12}/";

fn stand_in() -> (S3Server, Place) {
    let server = S3Server::start(&[BUCKET]);
    // Real pages have 1,000 entries; these jobs have fewer.
    server.set_page(3);
    let place = Place::new(server.variables(), &format!("s3://{BUCKET}/jobs"));
    (server, place)
}

#[test]
fn jobs_run_on_a_strict_s3() {
    let (server, place) = stand_in();
    // A rule that does no harm counts.
    let shuffled = S3Rule::new(&[S3Op::Get], S3Fault::Delay(0)).at(SHUFFLE);
    let shuffled = server.add(shuffled);
    check_all(&place);
    assert!(
        shuffled.count() > 0,
        "nothing was shuffled through the store"
    );
    assert_eq!(server.uploads(), [""; 0], "uploads were left behind");
    let ops = [S3Op::Get, S3Op::Put, S3Op::List, S3Op::Head];
    assert!(ops.iter().all(|op| server.count(&[*op]) > 0));
}

#[test]
fn jobs_survive_a_store_that_fails() {
    let (server, place) = stand_in();
    let all = [S3Op::Get, S3Op::Put, S3Op::List, S3Op::Head, S3Op::Delete];
    let reads = [S3Op::Get];
    let rules = [
        S3Rule::new(&all, S3Fault::Status(503)).chance(0.05),
        S3Rule::new(&all, S3Fault::Status(429)).chance(0.03),
        S3Rule::new(&all, S3Fault::Status(500)).chance(0.03),
        S3Rule::new(&all, S3Fault::Reset).chance(0.03),
        S3Rule::new(&[S3Op::Put], S3Fault::LoseAnswer).chance(0.1),
        S3Rule::new(&[S3Op::Delete], S3Fault::LoseAnswer).chance(0.1),
        S3Rule::new(&reads, S3Fault::Truncate).chance(0.05),
        S3Rule::new(&all, S3Fault::Delay(20)).chance(0.1),
    ];
    let fired: Vec<_> = rules.into_iter().map(|rule| server.add(rule)).collect();
    check_all(&place);
    let counts: Vec<u64> = fired.iter().map(|fired| fired.count()).collect();
    // Whether single objects are deleted one by one is up to whoever deletes.
    let needed = counts.iter().enumerate().filter(|(number, _)| *number != 5);
    assert!(needed.clone().all(|(_, count)| *count > 0), "{counts:?}");
}

#[test]
fn a_damaged_shuffle_object_is_asked_for_again() {
    let (server, place) = stand_in();
    let cluster = Cluster::start(&place);
    let flipped = S3Rule::new(&[S3Op::Get], S3Fault::FlipBit);
    let flipped = server.add(flipped.at(SHUFFLE).times(1));
    check_word_count(&place, &["--driver", &cluster.url]);
    assert_eq!(flipped.count(), 1);
}

#[test]
fn a_store_that_is_gone_ends_a_job_with_an_error() {
    let (server, place) = stand_in();
    place.put("in/1.txt", b"a b a");
    let input = place.url("in");
    drop(server);
    let said = place.run(&["run", "wordcount", &input]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains(&input), "{said:?}");
}

#[test]
fn a_store_that_refuses_in_the_middle_of_a_job_ends_it_and_keeps_its_secrets() {
    let (server, place) = stand_in();
    place.put("in/1.txt", text().0.as_bytes());
    let cluster = Cluster::start(&place);
    let refused = S3Rule::new(&[S3Op::Get], S3Fault::Status(403)).at(SHUFFLE);
    let refused = server.add(refused);
    let (input, output) = (place.url("in"), place.url("out"));
    let args = ["run", "wordcount", "--output", &output, &input, "--driver"];
    let said = place.run(&[&args[..], &[&cluster.url]].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("AccessDenied"), "{said:?}");
    assert!(refused.count() > 0);
    let secrets = server.variables().into_iter();
    let mut secrets = secrets.filter(|(name, _)| name.contains("KEY"));
    assert!(
        secrets.all(|(_, secret)| !said.stderr.contains(&secret)),
        "{said:?}"
    );
    wait_for("what the job has made to be removed", || {
        let keys = server.keys(BUCKET);
        let shuffle = Regex::new(SHUFFLE).expect("a pattern");
        let is_left = |key: &String| key.contains("/out/") || shuffle.is_match(key);
        (!keys.iter().any(is_left) && server.uploads().is_empty()).then_some(())
    });
}

#[test]
fn an_output_that_cannot_be_written_is_noticed_before_anything_is_read() {
    let (server, place) = stand_in();
    place.put("in/1.txt", b"a b a");
    let input = place.url("in");
    let writes = [S3Op::Put, S3Op::CreateMultipart];
    let read_only = server.add(S3Rule::new(&writes, S3Fault::Status(403)));
    for output in ["s3://no-such-bucket/out", &place.url("out")] {
        let said = place.run(&["run", "wordcount", "--output", output, &input]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(output), "{said:?}");
    }
    assert!(read_only.count() > 0);
    let requests = server.requests();
    let reads = requests.iter().filter(|made| made.op == S3Op::Get);
    let reads: Vec<_> = reads.filter(|made| made.key.contains("/in/")).collect();
    assert!(reads.is_empty(), "the input was read: {reads:?}");
}

#[test]
fn a_client_waits_while_the_storage_of_its_driver_answers_nothing() {
    let (server, place) = stand_in();
    let cluster = Cluster::start(&place);
    let jobs = ["jobs", "--driver", &cluster.url];
    place.run_ok(&jobs);
    let silent = S3Rule::new(&[], S3Fault::Status(503)).at("/storage/journal/");
    let silent = server.add(silent);
    // It finds that nobody leads, or loses the one that did.
    let waits = |said: &str| {
        let signs = ["no driver leads yet, waiting", "driver lost, trying again"];
        signs.iter().any(|sign| said.contains(sign))
    };
    // Until the driver has noticed, it answers.
    wait_for("a client to wait", || {
        let mut client = place.client(&jobs);
        let stderr = client.child.stderr.take().expect("stderr is piped");
        let mut said = String::new();
        for line in BufReader::new(stderr).lines() {
            said += &line.expect("stderr is text");
            if waits(&said) {
                server.clear();
            }
        }
        assert_eq!(client.ended(), Some(0), "{said}");
        waits(&said).then_some(())
    });
    assert!(silent.count() > 0);
}

/// The value of a variable that `.ci/object-stores` sets.
fn named(variable: &str) -> String {
    let value = std::env::var(variable);
    value.unwrap_or_else(|_| panic!("{variable} names a running server: see .ci/object-stores"))
}

#[test]
#[ignore = "needs a server: .ci/object-stores"]
fn jobs_run_on_moto() {
    let variables = kiln_testkit::s3::variables(&named("KILN_TEST_MOTO"));
    check_all(&Place::new(variables, &format!("s3://{BUCKET}/jobs")));
}

#[test]
#[ignore = "needs a server: .ci/object-stores"]
fn jobs_run_on_azurite() {
    let variables = [
        ("AZURE_STORAGE_ENDPOINT", named("KILN_TEST_AZURITE")),
        (
            "AZURE_STORAGE_ACCOUNT_NAME",
            named("KILN_TEST_AZURITE_ACCOUNT"),
        ),
        ("AZURE_STORAGE_ACCOUNT_KEY", named("KILN_TEST_AZURITE_KEY")),
        ("AZURE_ALLOW_HTTP", "true".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    check_all(&Place::new(
        variables.into(),
        &format!("az://{BUCKET}/jobs"),
    ));
}
