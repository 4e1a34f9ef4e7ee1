//! What the server does wrong when it is told to.

use std::time::Duration;

use regex::Regex;
use serde::Deserialize;

use crate::occasion::Occasion;

/// What a client asks an S3-compatible server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum S3Op {
    /// `GET` of an object.
    Get,
    /// `HEAD` of an object.
    Head,
    /// `GET` of a bucket.
    List,
    /// `PUT` of an object.
    Put,
    /// `PUT` of an object from another one.
    Copy,
    /// `DELETE` of an object.
    Delete,
    /// `POST` of names to be deleted.
    BulkDelete,
    /// An upload in parts begins.
    CreateMultipart,
    /// A part of it.
    PutPart,
    /// It is put in place.
    CompleteMultipart,
    /// It is given up.
    AbortMultipart,
    /// Anything else.
    Other,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum S3Fault {
    /// It is not carried out and answered with this status.
    Status(u16),
    /// It is carried out and the connection closed without an answer.
    LoseAnswer,
    /// It is not carried out and the connection reset.
    Reset,
    /// It is not carried out and never answered.
    Hang,
    /// It is carried out so many milliseconds later.
    Delay(u64),
    /// It is carried out when the server lets go of it, though whoever sent it may be dead by then.
    Hold,
    /// Half of the answer's body comes, and then the connection is closed.
    Truncate,
    /// One bit in the middle of the answer's body is wrong.
    FlipBit,
    /// Half of the request's body is taken for all of it.
    Tear,
}

impl S3Fault {
    /// The conflict that S3 reports for conditional requests that meet, though nobody has won.
    pub const CONFLICT: S3Fault = S3Fault::Status(409);

    pub(super) fn delay(self) -> Duration {
        match self {
            S3Fault::Delay(ms) => Duration::from_millis(ms),
            _ => Duration::ZERO,
        }
    }
}

/// A fault, and the requests that meet it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Rule {
    /// Kinds of requests; none is all.
    #[serde(default)]
    pub ops: Vec<S3Op>,
    /// A regular expression for keys (for lists, the prefix); none is all.
    #[serde(default)]
    pub key: Option<String>,
    /// So many requests that match are spared first.
    #[serde(default)]
    pub skip: u64,
    /// Not more requests than this.
    #[serde(default = "no_limit")]
    pub times: u64,
    /// By this probability.
    #[serde(default = "certain")]
    pub chance: f64,
    /// What happens.
    pub fault: S3Fault,
}

fn no_limit() -> u64 {
    Occasion::ALWAYS.times
}

fn certain() -> f64 {
    Occasion::ALWAYS.chance
}

impl S3Rule {
    /// `fault` for every request of these kinds.
    pub fn new(ops: &[S3Op], fault: S3Fault) -> Self {
        let Occasion {
            skip,
            times,
            chance,
        } = Occasion::ALWAYS;
        S3Rule {
            ops: ops.to_vec(),
            key: None,
            skip,
            times,
            chance,
            fault,
        }
    }

    /// Only where `pattern`, a regular expression, matches some part of the key.
    pub fn at(mut self, pattern: &str) -> Self {
        self.key = Some(pattern.to_owned());
        self
    }

    /// Not the first `count` requests that match.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Not more than `count` requests.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Only with this probability.
    pub fn chance(mut self, probability: f64) -> Self {
        self.chance = probability;
        self
    }
}

/// Rules and what they have done.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Ready>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Ready {
    rule: S3Rule,
    key: Option<Regex>,
    occasion: Occasion,
    fired: u64,
}

impl Rules {
    pub(super) fn new() -> Self {
        Rules {
            rules: Vec::new(),
            random: fastrand::Rng::with_seed(0),
        }
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// Adds a rule; its number.
    ///
    /// # Errors
    /// What is wrong with its pattern.
    pub(super) fn add(&mut self, rule: S3Rule) -> Result<usize, regex::Error> {
        let key = rule.key.as_deref().map(Regex::new).transpose()?;
        let occasion = Occasion {
            skip: rule.skip,
            times: rule.times,
            chance: rule.chance,
        };
        self.rules.push(Ready {
            rule,
            key,
            occasion,
            fired: 0,
        });
        Ok(self.rules.len() - 1)
    }

    /// Ends every rule; their numbers stay.
    pub(super) fn end_all(&mut self) {
        for ready in &mut self.rules {
            ready.occasion.times = 0;
        }
    }

    /// Ends one rule.
    pub(super) fn end(&mut self, number: usize) {
        self.rules[number].rule.times = 0;
    }

    /// How often each rule has fired.
    pub(super) fn fired(&self) -> Vec<u64> {
        self.rules.iter().map(|ready| ready.fired).collect()
    }

    /// The fault of the first rule that matches.
    pub(super) fn decide(&mut self, op: S3Op, key: &str) -> Option<S3Fault> {
        for ready in &mut self.rules {
            let rule = &ready.rule;
            let is_op = rule.ops.is_empty() || rule.ops.contains(&op);
            let is_key = ready.key.as_ref().is_none_or(|regex| regex.is_match(key));
            if is_op && is_key && ready.occasion.take(&mut self.random) {
                ready.fired += 1;
                return Some(rule.fault);
            }
        }
        None
    }
}
