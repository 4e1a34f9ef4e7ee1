//! Two drivers, three executors and their network.
//!
//! Each process writes what it says to a file, which is where its driver's address and who leads
//! are read, and what is shown when a round fails.

use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::process::{Guard, signal, wait_for};

use crate::fault::{Cut, Who};
use crate::namespace::Namespace;
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
    ways: Ways,
    /// Where it runs, if not beside the test.
    namespace: Option<Namespace>,
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
        if let Some(namespace) = &self.namespace {
            command = namespace.enter(&command);
        }
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
    client_namespace: Option<Namespace>,
    /// The drivers, past the network.
    pub(crate) drivers: String,
}

impl Cluster {
    /// Starts everything; what is said goes to files in `directory`.
    pub(crate) fn start(store: &Store, storage: &str, directory: &Path) -> Self {
        let (at, between) = (store.server.url(), store.between);
        let member = |place: usize, name: String, ways: Ways, args: &[&str]| Member {
            namespace: between.namespace(place),
            log: directory.join(&name),
            name,
            ways,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            process: None,
            is_busy: false,
        };
        let mut members = Vec::new();
        for number in 0..DRIVERS {
            let args = ["driver", "--insecure", "--storage", storage, "--listen"];
            let args = [&args[..1], &TIMES[..], &args[1..]].concat();
            let ways = Ways::to(&at, &[], between);
            let mut driver = member(number, format!("driver-{number}"), ways, &args);
            let address = driver.namespace.as_ref().map(Namespace::address);
            let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
            driver.args.push(format!("{address}:0"));
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
            let ways = Ways::to(&at, &urls, between);
            let drivers = ways.urls();
            let args = ["executor", "--driver", &drivers, "--threads", "1"];
            let args = [&args[..], &["--drain-timeout", "1"]].concat();
            let name = format!("executor-{number}");
            let mut executor = member(DRIVERS + number, name, ways, &args);
            executor.start();
            members.push(executor);
        }
        Cluster {
            members,
            client: Ways::to(&at, &urls, between),
            client_namespace: between.namespace(DRIVERS + EXECUTORS),
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

    /// The same command where the client runs.
    pub(crate) fn as_client(&self, command: Command) -> Command {
        match &self.client_namespace {
            Some(namespace) => namespace.enter(&command),
            None => command,
        }
    }

    /// Cuts a process off, or makes up for that: from whom it dials, and from who dials it if it is
    /// a driver.
    pub(crate) fn set(&self, place: usize, cut: Cut, is_cut: bool) {
        let member = &self.members[place];
        if let Some(namespace) = &member.namespace {
            let drivers = &self.members[..DRIVERS];
            let dialling = &self.members[DRIVERS..];
            let peers = if place < DRIVERS { dialling } else { drivers };
            let peers = peers.iter().filter_map(|peer| peer.namespace.as_ref());
            let client = self.client_namespace.as_ref();
            let client = client.filter(|_| place < DRIVERS);
            return cut.set(namespace, peers.chain(client), is_cut);
        }
        let all = self.members.iter().map(|member| &member.ways);
        let dialling = all.chain([&self.client]);
        let dialling = dialling.filter_map(|ways| ways.drivers.get(place));
        let dialling = dialling.filter(|_| place < DRIVERS);
        let peers = member.ways.drivers.iter().chain(dialling);
        let store = cut.from_store.then_some(&member.ways.store);
        for way in store.into_iter().chain(peers.take(cut.from_peers)) {
            way.set(cut, is_cut);
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
