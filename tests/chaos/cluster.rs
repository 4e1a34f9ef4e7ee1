//! Two drivers, three executors and their network.
//!
//! Each process writes what it says to a file, which is where its driver's address and who leads
//! are read, and what is shown when a round fails.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use kiln_testkit::process::{Guard, signal, wait_for};
use kiln_testkit::proxy::Network;

use crate::fault::{Cut, Who};
use crate::network::Ways;
use crate::store::Store;

const DRIVERS: usize = 2;
const EXECUTORS: usize = 3;

/// Shorter than the defaults, so that a fault may outlast them.
const TIMES: [&str; 6] = [
    "--heartbeat-ms",
    "200",
    "--lease-ms",
    "2000",
    "--leader-lease-ms",
    "2000",
];

/// What is logged: enough to tell who leads, and whether anything has panicked.
const LOG: &str = "warn,kiln_driver=info,kiln_executor=info,kiln::cli::logging=debug";

/// A process that is started again under the same name and at the same address.
pub(crate) struct Member {
    pub(crate) name: String,
    args: Vec<String>,
    pub(crate) ways: Ways,
    pub(crate) log: PathBuf,
    process: Option<Guard>,
    /// A fault is going on.
    pub(crate) is_busy: bool,
}

impl Member {
    /// Starts the process.
    pub(crate) fn start(&mut self) {
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let mut command = Store::command(&self.ways.store.url, &args);
        command.env("RUST_LOG", LOG);
        command.stdout(log(&self.log)).stderr(log(&self.log));
        self.process = Some(Guard::start(command));
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("it was started").pid()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(Guard::is_alive)
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.as_mut().expect("it was started").ended()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The newest leadership that it has told of.
    fn term(&self) -> u64 {
        let said = self.said();
        let terms = said.lines().filter(|line| line.contains(" leading term="));
        let terms = terms.filter_map(|line| {
            let (_, term) = line.split_once("term=")?;
            term.split_whitespace().next()?.parse().ok()
        });
        terms.max().unwrap_or_default()
    }
}

/// A file that whoever writes adds to.
pub(crate) fn log(path: &Path) -> File {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.expect("a file can be written")
}

/// The processes.
pub(crate) struct Cluster {
    /// Drivers first.
    pub(crate) members: Vec<Member>,
    /// The client's.
    pub(crate) client: Ways,
    /// The drivers, past the network.
    pub(crate) drivers: String,
}

impl Cluster {
    /// Starts everything; what is said goes to files in `directory`.
    pub(crate) fn start(store: &Store, storage: &str, directory: &Path) -> Self {
        let at = store.server.url();
        let member = |name: String, ways: Ways, args: &[&str]| Member {
            log: directory.join(&name),
            name,
            ways,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            process: None,
            is_busy: false,
        };
        let mut members = Vec::new();
        for number in 0..DRIVERS {
            let args = ["driver", "--storage", storage, "--listen", "127.0.0.1:0"];
            let ways = Ways::to(&at, &[]);
            let args = [&args[..1], &TIMES[..], &args[1..]].concat();
            let mut driver = member(format!("driver-{number}"), ways, &args);
            driver.start();
            members.push(driver);
        }
        let mut urls = Vec::new();
        for driver in &mut members {
            let url = wait_for("a driver to listen", || listens(&driver.said()));
            let address = url.trim_start_matches("http://").to_owned();
            // Next time at the same one.
            *driver.args.last_mut().expect("it has arguments") = address;
            urls.push(url);
        }
        for number in 0..EXECUTORS {
            let ways = Ways::to(&at, &urls);
            let drivers = ways.urls();
            let args = ["executor", "--driver", &drivers, "--threads", "1"];
            let args = [&args[..], &["--drain-timeout", "1"]].concat();
            let mut executor = member(format!("executor-{number}"), ways, &args);
            executor.start();
            members.push(executor);
        }
        Cluster {
            members,
            client: Ways::to(&at, &urls),
            drivers: urls.join(","),
        }
    }

    /// The places of those whom a fault is to meet, unless they are busy with another one.
    pub(crate) fn find(&self, who: Who, number: usize) -> Vec<usize> {
        let leader = (0..DRIVERS).max_by_key(|&driver| self.members[driver].term());
        let leader = leader.expect("there are drivers");
        let is_free = |place: &usize| !self.members[*place].is_busy;
        let executors = (0..EXECUTORS).map(|next| DRIVERS + (number + next) % EXECUTORS);
        match who {
            Who::Leader => vec![leader].into_iter().filter(is_free).collect(),
            Who::Standby => vec![1 - leader].into_iter().filter(is_free).collect(),
            Who::Executor => executors.filter(is_free).take(1).collect(),
            Who::Everybody => (0..self.members.len()).filter(is_free).collect(),
        }
    }

    /// Lets the network around a process do this.
    pub(crate) fn set_network(&self, place: usize, cut: Cut, network: Network) {
        let member = &self.members[place].ways;
        // Whom it dials, and who dials it if it is a driver.
        let all = self.members.iter().map(|member| &member.ways);
        let dialling = all.chain([&self.client]);
        let dialling = dialling.filter_map(|ways| ways.drivers.get(place));
        let peers = member
            .drivers
            .iter()
            .chain(dialling.filter(|_| place < DRIVERS));
        let store = cut.from_store.then_some(&member.store);
        for way in store.into_iter().chain(peers.take(cut.from_peers)) {
            way.set(network);
        }
    }

    /// What has been said about panics.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for member in &self.members {
            let said = member.said();
            let lines = said
                .lines()
                .filter(|line| line.contains("panicked") || line.contains("this is a bug"));
            panics.extend(lines.map(|line| format!("{}: {line}", member.name)));
        }
        panics
    }
}

/// The URL in a driver's banner.
fn listens(said: &str) -> Option<String> {
    let whole = said
        .lines()
        .find(|line| line.contains("listening on http://"))?;
    let url = whole
        .split_whitespace()
        .find(|word| word.starts_with("http://"))?;
    Some(url.to_owned())
}
