//! The stand-in for S3 as a program, for tests of processes.
//!
//! `s3-stand-in [--port PORT] [--bucket NAME]...` prints where it listens and ends when its
//! standard input does, so that it never outlives whoever started it. Faults are set by
//! `POST /__fault` with a rule as JSON: `{"ops": ["put"], "key": "^journal/", "times": 1,
//! "fault": "lose-answer"}`, `{"chance": 0.1, "fault": {"status": 503}}`.

use std::io::Read as _;

use kiln_testkit::s3::S3Server;

fn main() {
    let (mut port, mut buckets) = (0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match name.as_str() {
            "--port" => port = value.parse().expect("--port is a number"),
            "--bucket" => buckets.push(value),
            _ => panic!("not an option: {name}"),
        }
    }
    if buckets.is_empty() {
        buckets.push("kiln".to_owned());
    }
    let names: Vec<&str> = buckets.iter().map(String::as_str).collect();
    let server = S3Server::start_at(([127, 0, 0, 1], port).into(), &names);
    #[expect(
        clippy::print_stdout,
        reason = "whoever started this waits for the line"
    )]
    {
        println!("{}", server.url());
    }
    // Nothing is ever sent here; what counts is the end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
