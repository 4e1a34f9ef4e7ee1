//! What may happen to a request, and to which one.

use std::io;
use std::time::Duration;

use object_store::path::Path;
use regex::Regex;
use tokio::sync::watch;

use crate::occasion::Occasion;

/// What a store is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// A whole object is written, whatever was there.
    Put,
    /// The same, if nothing is there.
    PutIfAbsent,
    /// The same, if a certain version is there.
    PutIfMatch,
    /// An object or a range of it is read.
    Get,
    /// An object is described.
    Head,
    /// A prefix is listed, with or without delimiter; its path is the prefix.
    List,
    /// One object is deleted, on its own or as one of many.
    Delete,
    /// An object is copied; its path is that of the copy.
    Copy,
    /// An object is renamed; its path is the new one.
    Rename,
    /// An upload in parts begins.
    CreateMultipart,
    /// A part of it is sent.
    PutPart,
    /// It is put in place.
    CompleteMultipart,
    /// It is given up.
    AbortMultipart,
}

impl Op {
    /// Every request that changes something.
    pub const WRITES: &[Op] = &[
        Op::Put,
        Op::PutIfAbsent,
        Op::PutIfMatch,
        Op::Delete,
        Op::Copy,
        Op::Rename,
        Op::CreateMultipart,
        Op::PutPart,
        Op::CompleteMultipart,
        Op::AbortMultipart,
    ];

    /// Every request that changes nothing.
    pub const READS: &[Op] = &[Op::Get, Op::Head, Op::List];
}

/// How a request is answered that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// With an error of the operating system: a reset connection, a full disk, …
    Io(io::ErrorKind),
    /// With a status, in the words and kinds in which `object_store` tells of one: 404 is
    /// `NotFound`, 409 is `AlreadyExists`, 412 is `AlreadyExists` for [`Op::PutIfAbsent`] and
    /// `Precondition` otherwise, 401 and 403 are what they say, others only their text.
    Status(u16),
}

impl Failure {
    /// The connection broke.
    pub const RESET: Failure = Failure::Io(io::ErrorKind::ConnectionReset);
    /// Nobody answered in time.
    pub const TIMEOUT: Failure = Failure::Io(io::ErrorKind::TimedOut);
    /// Too many requests.
    pub const THROTTLED: Failure = Failure::Status(429);
    /// The server cannot now.
    pub const BUSY: Failure = Failure::Status(503);
    /// Somebody was there first, or so the answer says.
    pub const EXISTS: Failure = Failure::Status(412);
    /// Nothing is there, or so the answer says.
    pub const MISSING: Failure = Failure::Status(404);

    pub(super) fn error(self, op: Op, path: &Path) -> object_store::Error {
        use object_store::Error;
        let path = path.to_string();
        let code = match self {
            Failure::Io(kind) => {
                let source = io::Error::from(kind).into();
                return Error::Generic {
                    store: STORE,
                    source,
                };
            }
            Failure::Status(code) => code,
        };
        let source = format!("Server returned non-2xx status code: {code}: injected").into();
        match code {
            401 => Error::Unauthenticated { path, source },
            403 => Error::PermissionDenied { path, source },
            404 => Error::NotFound { path, source },
            409 => Error::AlreadyExists { path, source },
            412 if op == Op::PutIfAbsent => Error::AlreadyExists { path, source },
            412 => Error::Precondition { path, source },
            _ => Error::Generic {
                store: STORE,
                source,
            },
        }
    }
}

/// What errors call the store.
pub(super) const STORE: &str = "FaultyStore";

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not carried out, and fails.
    Fail(Failure),
    /// It is carried out, and fails all the same.
    LoseAnswer(Failure),
    /// It is not carried out before [`Fired::release`], perhaps never; then nothing is wrong.
    Hold,
    /// It is carried out, and not answered before [`Fired::release`].
    HoldAnswer,
    /// It is carried out so much later; a body comes in pieces with the same pause before each.
    Slow(Duration),
    /// Only so many bytes of the body are there, and nobody says so: of what is read, or of what
    /// is stored.
    Truncate(usize),
    /// So many bytes of the body (or entries of a list) come, and then the connection breaks.
    Cut(usize),
    /// One bit of the body is wrong, in the byte with this number or, beyond its end, in a byte
    /// drawn by chance: of what is read, or of what is stored.
    FlipBit(usize),
}

/// A fault, and the requests that meet it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) ops: Vec<Op>,
    pub(super) path: Option<Regex>,
    pub(super) occasion: Occasion,
    pub(super) fault: Fault,
}

impl Rule {
    /// `fault` for every request of these kinds.
    pub fn new(ops: &[Op], fault: Fault) -> Self {
        Rule {
            ops: ops.to_vec(),
            path: None,
            occasion: Occasion::ALWAYS,
            fault,
        }
    }

    /// Only where `pattern`, a regular expression, matches some part of the path.
    pub fn at(mut self, pattern: &str) -> Self {
        self.path = Some(Regex::new(pattern).expect("a test's own pattern is valid"));
        self
    }

    /// Not the first `count` requests that match.
    pub fn skip(mut self, count: u64) -> Self {
        self.occasion.skip = count;
        self
    }

    /// Not more than `count` requests.
    pub fn times(mut self, count: u64) -> Self {
        self.occasion.times = count;
        self
    }

    /// Only with this probability, by the seed of the store.
    pub fn chance(mut self, probability: f64) -> Self {
        self.occasion.chance = probability;
        self
    }

    pub(super) fn is_for(&self, op: Op, path: &Path) -> bool {
        let here = |pattern: &Regex| pattern.is_match(path.as_ref());
        self.ops.contains(&op) && self.path.as_ref().is_none_or(here)
    }
}

/// What a rule has done so far, for whoever made it.
#[derive(Debug, Clone)]
pub struct Fired(pub(super) watch::Sender<Progress>);

/// How far a rule is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) fired: u64,
    /// Requests that are held.
    waiting: u64,
    pub(super) released: bool,
}

impl Fired {
    pub(super) fn new() -> Self {
        Fired(watch::Sender::new(Progress::default()))
    }

    /// How many requests have met it.
    pub fn count(&self) -> u64 {
        self.0.borrow().fired
    }

    /// Waits until `count` requests have met it.
    pub async fn reached(&self, count: u64) {
        self.until(|progress| progress.fired >= count).await;
    }

    /// Lets every request go that is held, now and later.
    pub fn release(&self) {
        self.0.send_modify(|progress| progress.released = true);
    }

    /// Waits until no request is held: released, or given up by whoever made it.
    pub async fn deserted(&self) {
        self.until(|progress| progress.waiting == 0).await;
    }

    pub(super) async fn released(&self) {
        let _waiting = Waiting::new(self);
        self.until(|progress| progress.released).await;
    }

    async fn until(&self, is_so: impl Fn(&Progress) -> bool) {
        let mut seen = self.0.subscribe();
        let waited = seen.wait_for(|progress| is_so(progress)).await;
        waited.expect("the sender is held here");
    }
}

/// A request that is held, as long as somebody waits for it.
struct Waiting<'a>(&'a Fired);

impl<'a> Waiting<'a> {
    fn new(fired: &'a Fired) -> Self {
        fired.0.send_modify(|progress| progress.waiting += 1);
        Waiting(fired)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|progress| progress.waiting -= 1);
    }
}
