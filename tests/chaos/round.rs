//! One round: a job runs, things go wrong, everything is healed, and then it is looked at.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_testkit::process::{DEADLINE, Guard, wait_for};
use kiln_testkit::s3::S3Fired;

use crate::cluster::{Cluster, log};
use crate::fault::{Cut, Fault, Kind, What, faults};
use crate::store::{BUCKET, Store};
use crate::work::Work;

/// Lines of each process that are shown of a round that failed.
const LINES_SHOWN: usize = 60;

/// A fault that goes on.
struct Ongoing {
    fault: Fault,
    /// When it ends.
    until: Instant,
    /// Which processes, if it is one of these.
    places: Vec<usize>,
    /// What the store was told, if it is one of the store.
    rules: Vec<S3Fired>,
}

/// A round.
pub(crate) struct Round<'a> {
    store: &'a Store,
    seed: u64,
    work: Work,
    cluster: Cluster,
    directory: PathBuf,
    ongoing: Vec<Ongoing>,
    fired: Vec<Kind>,
    /// What has happened, for people.
    story: String,
    began: Instant,
    is_done: bool,
}

impl<'a> Round<'a> {
    /// Runs the round of this seed; the kinds of faults that happened.
    pub(crate) fn run(store: &'a Store, seed: u64) -> Vec<Kind> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = format!("round-{seed}/");
        let storage = format!("s3://{BUCKET}/{root}storage");
        store.server.clear();
        store.server.seed(seed);
        let mut round = Round {
            store,
            seed,
            work: Work::of(seed),
            cluster: Cluster::start(store, &storage, directory.path()),
            directory: directory.path().to_owned(),
            ongoing: Vec::new(),
            fired: Vec::new(),
            story: String::new(),
            began: Instant::now(),
            is_done: false,
        };
        let mut client = round.client(&root);
        round.suffer(&mut client);
        store.server.clear();
        wait_for("everything to be healed", || {
            round.heal(|_| true);
            round.ongoing.is_empty().then_some(())
        });
        round.check(&mut client, &root);
        round.is_done = true;
        round.fired.clone()
    }

    fn client(&self, root: &str) -> Guard {
        let ways = &self.cluster.client;
        let drivers = ways.urls();
        let mut command = self
            .work
            .client(&ways.store.url, &drivers, root, &self.directory);
        command = self.cluster.as_client(command);
        let said = self.directory.join("client");
        command.stdout(log(&said)).stderr(log(&said));
        command.env("RUST_LOG", "warn,kiln_driver=info");
        Guard::start(command)
    }

    fn tell(&mut self, what: &str) {
        let at = self.began.elapsed().as_millis();
        writeln!(self.story, "{at:>7} ms  {what}").expect("a string takes all");
    }

    /// Lets one fault after another happen, each at its moment, until the client has ended.
    fn suffer(&mut self, client: &mut Guard) {
        for fault in faults(self.seed, !self.work.has_result()) {
            let held = self.store.server.add(fault.moment.rule());
            let limit = Instant::now() + DEADLINE;
            while held.count() == 0 {
                self.heal(|ongoing| ongoing.until <= Instant::now());
                if !client.is_alive() {
                    return self.tell(&format!("the client has ended before {fault:?}"));
                }
                assert!(Instant::now() < limit, "the job does not go on");
                std::thread::sleep(Duration::from_millis(2));
            }
            self.begin(fault);
        }
        let goes_on = |ongoing: &Ongoing| !ongoing.places.is_empty();
        while self.ongoing.iter().any(goes_on) && client.is_alive() {
            self.heal(|ongoing| ongoing.until <= Instant::now());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets a fault begin, unless whom it is to meet has met another one.
    fn begin(&mut self, fault: Fault) {
        let mut until = Instant::now() + fault.lasts;
        let mut rules = Vec::new();
        let mut places = Vec::new();
        match fault.kind {
            Kind::Process(what, who) => {
                places = self.cluster.find(who, fault.number);
                for &place in &places {
                    self.strike(place, what, fault.cut);
                }
                if !places.is_empty() {
                    self.fired.push(fault.kind);
                }
            }
            Kind::Store(trouble) => {
                let told = trouble.rules(fault.times).into_iter();
                rules = told.map(|rule| self.store.server.add(rule)).collect();
                // It ends when it has met so many requests, or with the job.
                until += DEADLINE;
            }
        }
        self.tell(&format!("processes {places:?}: {fault:?}"));
        if !fault.holds || places.is_empty() {
            self.store.server.release();
        }
        self.ongoing.push(Ongoing {
            fault,
            until,
            places,
            rules,
        });
    }

    /// Lets it happen to a process.
    fn strike(&mut self, place: usize, what: What, cut: Cut) {
        let member = &mut self.cluster.members[place];
        member.is_busy = true;
        match what {
            What::Kill => {
                member.signal("KILL");
                member.ended();
            }
            What::Stop => member.signal("STOP"),
            What::Leave => member.signal("TERM"),
            What::Cut => self.cluster.set(place, cut, true),
        }
    }

    /// Makes up for it.
    fn restore(&mut self, place: usize, what: What, cut: Cut) {
        let member = &mut self.cluster.members[place];
        member.is_busy = false;
        match what {
            What::Kill => member.start(),
            What::Stop => member.signal("CONT"),
            What::Leave => {
                let code = member.ended();
                let name = &member.name;
                assert_eq!(code, Some(0), "{name} did not leave in order");
                member.start();
            }
            What::Cut => self.cluster.set(place, cut, false),
        }
    }

    /// Ends the faults that are over. Whoever was told to leave takes its time.
    fn heal(&mut self, is_over: impl Fn(&Ongoing) -> bool) {
        let members = &mut self.cluster.members;
        let mut is_leaving = |ongoing: &Ongoing| match ongoing.fault.kind {
            Kind::Process(What::Leave, _) => {
                let mut places = ongoing.places.iter();
                places.any(|&place| members[place].is_alive())
            }
            _ => false,
        };
        let over = self
            .ongoing
            .extract_if(.., |ongoing| is_over(ongoing) && !is_leaving(ongoing));
        for over in over.collect::<Vec<_>>() {
            let fault = over.fault;
            if let Kind::Process(what, _) = fault.kind {
                for &place in &over.places {
                    self.restore(place, what, fault.cut);
                }
            }
            let met: u64 = over.rules.iter().map(S3Fired::count).sum();
            over.rules.iter().for_each(S3Fired::end);
            if met > 0 {
                self.fired.push(fault.kind);
            }
            if fault.holds && !over.places.is_empty() {
                self.store.server.release();
            }
            self.tell(&format!("over: {:?}, requests met={met}", fault.kind));
        }
    }

    /// The client has its answer, the answer is right, and nothing is left.
    fn check(&mut self, client: &mut Guard, root: &str) {
        let code = client.ended();
        self.tell(&format!("the client has ended with {code:?}"));
        assert_eq!(code, Some(0), "{}", tail(&self.directory.join("client")));
        self.work.check(self.store, root, &self.directory);
        let with_result = self.work.has_result();
        wait_for("everything to be cleared away", || {
            let left = self.store.left_behind(root, with_result);
            left.is_empty().then_some(())
        });
        let jobs = self
            .store
            .ask(&["jobs", "--json", "--driver", &self.cluster.drivers]);
        let jobs: serde_json::Value = serde_json::from_str(&jobs).expect("JSON");
        let jobs = jobs.as_array().expect("an array");
        assert_eq!(jobs.len(), self.work.jobs(), "{jobs:#?}");
        assert!(jobs.iter().all(|job| job["state"] == "done"), "{jobs:#?}");
        for member in &mut self.cluster.members {
            assert!(member.is_alive(), "{} has ended", member.name);
        }
        let panics = self.cluster.panics();
        assert!(panics.is_empty(), "{panics:#?}");
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let Round { seed, work, .. } = self;
        let took = self.began.elapsed();
        match self.is_done {
            true => eprintln!(
                "round {seed}: {work}, {} faults, {took:.1?}",
                self.fired.len()
            ),
            false => eprintln!("round {seed} failed, KILN_SEED={seed} repeats it: {work}"),
        }
        if self.is_done && std::env::var_os("KILN_SEED").is_none() {
            return;
        }
        eprintln!("{}", self.story);
        let logs = self.cluster.members.iter().map(|member| member.log.clone());
        for path in logs.chain([self.directory.join("client")]) {
            eprintln!("---- {}\n{}", path.display(), tail(&path));
        }
        let left = self
            .store
            .left_behind(&format!("round-{seed}/"), work.has_result());
        eprintln!("---- left behind: {left:#?}");
    }
}
