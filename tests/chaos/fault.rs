//! What goes wrong in a round, when and for how long: all of it is said by the round's seed.

use std::time::Duration;

use kiln_testkit::s3::{S3Fault, S3Op, S3Rule};

/// Where shuffle objects are: a hash, a job.
pub(crate) const SHUFFLE: &str = "/storage/[0-9a-f]{4}/[0-9a-f]{12}/";

/// Whom a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The driver that leads.
    Leader,
    /// The other one.
    Standby,
    /// One of the executors.
    Executor,
    /// All of them and both drivers at once.
    Everybody,
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// SIGKILL, and it is started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// SIGTERM, and it is started again when it has left.
    Leave,
    /// Its network is cut.
    Cut,
}

/// What the store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// It answers 429, 500 and 503.
    Errors,
    /// It takes its time.
    Slow,
    /// It sends half of what was asked for.
    Truncates,
    /// It has flipped bits in shuffle objects on their way.
    Flips,
    /// It does what it is asked to, and does not say so.
    LosesAnswers,
    /// It resets connections.
    Resets,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Of a process.
    Process(What, Who),
    /// Of the store.
    Store(Trouble),
}

const TROUBLES: [Trouble; 6] = [
    Trouble::Errors,
    Trouble::Slow,
    Trouble::Truncates,
    Trouble::Flips,
    Trouble::LosesAnswers,
    Trouble::Resets,
];

/// What every ten rounds have in common. Other combinations come by chance.
const PROCESS: [(What, Who); 10] = [
    (What::Kill, Who::Leader),
    (What::Kill, Who::Executor),
    (What::Stop, Who::Leader),
    (What::Stop, Who::Executor),
    (What::Cut, Who::Leader),
    (What::Cut, Who::Executor),
    (What::Leave, Who::Leader),
    (What::Leave, Who::Executor),
    (What::Kill, Who::Standby),
    (What::Kill, Who::Everybody),
];

/// Requests that the store answers badly, at most: they may all be of one process, which gives up
/// after half a minute.
const TIMES_MAX: u64 = 24;

/// Faults of a round that cost executors what they run: a task that was lost three times is not
/// tried again.
const ATTEMPTS_LOST_MAX: usize = 2;

impl Kind {
    fn costs_attempts(self) -> bool {
        matches!(self, Kind::Process(_, Who::Executor | Who::Everybody))
    }

    /// The kinds that happen in any ten rounds whose seeds follow one another.
    pub(crate) fn certain() -> impl Iterator<Item = Kind> {
        let process = PROCESS.map(|(what, who)| Kind::Process(what, who));
        process.into_iter().chain(TROUBLES.map(Kind::Store))
    }

    fn any(random: &mut fastrand::Rng) -> Self {
        if random.u8(..4) == 0 {
            return Kind::Store(pick(random, &TROUBLES));
        }
        let what = [What::Kill, What::Stop, What::Leave, What::Cut];
        let who = [Who::Leader, Who::Standby, Who::Executor, Who::Executor];
        Kind::Process(pick(random, &what), pick(random, &who))
    }
}

/// How a network is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Between a process and the store.
    pub(crate) from_store: bool,
    /// Between a process and so many other processes.
    pub(crate) from_peers: usize,
    /// Connections are reset again and again; otherwise nothing comes through.
    pub(crate) resets: bool,
}

/// A request at which a fault begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    op: S3Op,
    key: &'static str,
    /// So many of them are let through before.
    skip: u64,
}

/// Kinds of requests, and how many of them may be let through.
type Moments = [(S3Op, &'static str, u64)];

/// Requests with which every job begins.
const EARLY: [(S3Op, &str, u64); 3] = [
    (S3Op::Get, "^(text|tables)/", 20),
    (S3Op::Put, "/storage/journal/entries/", 4),
    (S3Op::Put, SHUFFLE, 2),
];

/// Requests that every job still makes when one of those was made.
const LATER: [(S3Op, &str, u64); 2] = [
    (S3Op::Put, "/storage/journal/entries/", 2),
    (S3Op::Get, SHUFFLE, 1),
];

/// The same of a job that has an output.
const LATER_OUTPUT: [(S3Op, &str, u64); 8] = [
    (S3Op::Put, "/storage/journal/entries/", 2),
    (S3Op::Get, SHUFFLE, 2),
    (S3Op::Put, "/out/_staging-[0-9a-f]*/part-", 1),
    (S3Op::CreateMultipart, "/out/", 1),
    (S3Op::PutPart, "/out/", 1),
    (S3Op::CompleteMultipart, "/out/", 1),
    (S3Op::Put, "/out/_(claim|manifest)", 2),
    (S3Op::Put, "/out/_SUCCESS", 1),
];

impl Moment {
    fn of(random: &mut fastrand::Rng, among: &Moments) -> Self {
        let (op, key, before) = pick(random, among);
        let skip = random.u64(..before);
        Moment { op, key, skip }
    }

    /// Holds the request.
    pub(crate) fn rule(self) -> S3Rule {
        let rule = S3Rule::new(&[self.op], S3Fault::Hold);
        rule.at(self.key).skip(self.skip).times(1)
    }
}

/// A fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) moment: Moment,
    /// If it is one of a process.
    pub(crate) lasts: Duration,
    /// If it is one of a process: the request at which it begins is held until it ends.
    pub(crate) holds: bool,
    /// Which of the executors.
    pub(crate) number: usize,
    pub(crate) cut: Cut,
    /// If it is one of the store: how many requests meet it.
    pub(crate) times: u64,
}

/// The faults of a round. The first two are of kinds that follow one another from seed to seed, and
/// begin at requests that every job makes.
pub(crate) fn faults(seed: u64, has_output: bool) -> Vec<Fault> {
    let random = &mut fastrand::Rng::with_seed(seed);
    let later: &Moments = if has_output { &LATER_OUTPUT } else { &LATER };
    let (what, who) = PROCESS[at(seed, PROCESS.len())];
    let trouble = TROUBLES[at(seed, TROUBLES.len())];
    let mut faults = vec![
        fault(random, Kind::Store(trouble), &EARLY),
        fault(random, Kind::Process(what, who), later),
    ];
    for _ in 0..random.u8(..3) {
        let kind = Kind::any(random);
        let more = fault(random, kind, later);
        let costly = faults.iter().filter(|fault| fault.kind.costs_attempts());
        if costly.count() < ATTEMPTS_LOST_MAX || !kind.costs_attempts() {
            faults.push(more);
        }
    }
    faults
}

fn fault(random: &mut fastrand::Rng, kind: Kind, among: &Moments) -> Fault {
    // Longer than both leases, or a hiccup.
    let ms = if random.u8(..10) < 4 {
        random.u64(2_200..4_000)
    } else {
        random.u64(50..700)
    };
    let all = usize::MAX;
    let cuts = [(true, all), (true, 0), (false, all), (false, 1)];
    let (from_store, from_peers) = pick(random, &cuts);
    Fault {
        kind,
        moment: Moment::of(random, among),
        lasts: Duration::from_millis(ms),
        holds: random.bool(),
        number: random.usize(..3),
        cut: Cut {
            from_store,
            from_peers,
            resets: random.u8(..3) == 0,
        },
        times: if random.u8(..5) == 0 {
            TIMES_MAX
        } else {
            random.u64(1..12)
        },
    }
}

impl Trouble {
    /// What the store is told.
    pub(crate) fn rules(self, times: u64) -> Vec<S3Rule> {
        let writes = [
            S3Op::Put,
            S3Op::PutPart,
            S3Op::CompleteMultipart,
            S3Op::Delete,
            S3Op::BulkDelete,
        ];
        let any = |fault| S3Rule::new(&[], fault).times(times);
        match self {
            Trouble::Errors => {
                let share = |it| S3Rule::new(&[], S3Fault::Status(it)).times(times.div_ceil(3));
                [503, 500, 429].map(share).into()
            }
            Trouble::Slow => vec![any(S3Fault::Delay(100))],
            Trouble::Truncates => vec![S3Rule::new(&[S3Op::Get], S3Fault::Truncate).times(times)],
            // What is damaged is asked for once more; nobody can make a result anew that is damaged
            // then, too.
            Trouble::Flips => {
                let flips = S3Rule::new(&[S3Op::Get], S3Fault::FlipBit);
                vec![flips.at(SHUFFLE).times(1)]
            }
            Trouble::LosesAnswers => {
                vec![S3Rule::new(&writes, S3Fault::LoseAnswer).times(times)]
            }
            Trouble::Resets => vec![any(S3Fault::Reset)],
        }
    }
}

fn pick<T: Copy>(random: &mut fastrand::Rng, among: &[T]) -> T {
    among[random.usize(..among.len())]
}

fn at(seed: u64, count: usize) -> usize {
    usize::try_from(seed % count as u64).expect("less than a count")
}
