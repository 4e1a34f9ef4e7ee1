//! The store of all rounds: what jobs read is there, and what they leave is looked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use kiln_testkit::process;
use kiln_testkit::s3::{S3Server, variables};
use regex::Regex;

use crate::fault::SHUFFLE;
use crate::network::Between;

pub(crate) const BUCKET: &str = "kiln-chaos";

/// Answers of the benchmark's queries at this scale are known.
pub(crate) const SCALE: &str = "0.01";

/// How often the text repeats itself: enough for several tasks, or nothing would be shuffled.
const REPEATS: usize = 5;

/// The store.
pub(crate) struct Store {
    pub(crate) server: S3Server,
    pub(crate) between: Between,
    /// How often each word is in the text.
    pub(crate) words: BTreeMap<String, u64>,
}

impl Store {
    pub(crate) fn new(between: Between) -> Self {
        let server = match between {
            Between::Proxies => S3Server::start(&[BUCKET]),
            Between::Bridge { store } => S3Server::start_at(store, &[BUCKET]),
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tables = directory.path().join("tables");
        let to = tables.display().to_string();
        let args = ["generate", "tpch", "--scale", SCALE, "--output", &to];
        let args = [&args[..], &["--parts", "2"]].concat();
        let generated = process::command(env!("CARGO_BIN_EXE_kiln"), args).output();
        let generated = generated.expect("the command starts");
        assert!(generated.status.success(), "{generated:?}");
        put_directory(&server, "tables", &tables);
        let (text, words) = text();
        server.put(BUCKET, "text/1.txt", text.clone());
        server.put(BUCKET, "text/2.txt", text);
        Store {
            server,
            between,
            words,
        }
    }

    /// The command, with this store behind `endpoint`.
    pub(crate) fn command(endpoint: &str, args: &[&str]) -> Command {
        let mut command = process::command(env!("CARGO_BIN_EXE_kiln"), args);
        command.envs(variables(endpoint));
        command
    }

    /// The end of what the command prints, which has to succeed.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = Store::command(&self.server.url(), args).output();
        let output = output.expect("the command starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The keys that begin with `prefix`, without it.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.server.keys(BUCKET);
        let below = keys.iter().filter_map(|key| key.strip_prefix(prefix));
        below.map(str::to_owned).collect()
    }

    /// What a round has left that nobody needs, though all its jobs have ended: shuffle objects but
    /// the one of a result, staged files, uploads. An upload without parts may be left by an
    /// executor that died when it had begun it, as `docs/output.md` says.
    pub(crate) fn left_behind(&self, root: &str, with_result: bool) -> Vec<String> {
        let shuffle = Regex::new(SHUFFLE).expect("a pattern");
        let mut left = Vec::new();
        let mut results = Vec::new();
        let all = self.server.keys(BUCKET).into_iter();
        for key in all.filter(|key| key.starts_with(root)) {
            let job = key.split('/').nth(3).map(str::to_owned);
            if key.contains("/_staging-") {
                left.push(key);
            } else if shuffle.is_match(&key) && with_result && !results.contains(&job) {
                results.push(job);
            } else if shuffle.is_match(&key) {
                left.push(key);
            }
        }
        let uploads = self.server.uploads_with_parts();
        left.extend(uploads.into_iter().filter(|key| key.starts_with(root)));
        left
    }
}

/// A text of frequent words and rare ones.
fn text() -> (Vec<u8>, BTreeMap<String, u64>) {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut text, mut words) = (String::new(), BTreeMap::new());
    for number in 0..300_000 {
        let word = match random.u8(..) {
            0..100 => format!("common{}", random.u8(..)),
            _ => format!("rare{:x}", random.u32(..60_000)),
        };
        let end = if number % 10 == 9 { '\n' } else { ' ' };
        write!(text, "{word}{end}").expect("a string takes all");
        // There are two files of it.
        *words.entry(word).or_insert(0) += 2 * REPEATS as u64;
    }
    (text.repeat(REPEATS).into_bytes(), words)
}

/// Puts every file below `directory`.
fn put_directory(server: &S3Server, key: &str, directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let key = format!("{key}/{}", name.expect("a plain name"));
        if path.is_dir() {
            put_directory(server, &key, &path);
        } else {
            let data = std::fs::read(&path).expect("a file");
            server.put(BUCKET, &key, data);
        }
    }
}
