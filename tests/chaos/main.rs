//! Whole jobs on a cluster of real processes, while these are killed, stopped, told to leave and
//! cut off, and while the store fails: the answer is right, the output is there once, nothing is
//! left behind, and nobody has to do anything.
//!
//! A round is what its seed says: a job, and faults that begin when the store sees a certain
//! request. That request is held while the fault begins, or for as long as it lasts, so that a
//! fault never comes too late, and so that what a dead process has sent arrives after its
//! successor's. Only the order of requests is up to the system. The network is made of proxies, and
//! where that is permitted a second time of namespaces.
//!
//! `KILN_ROUNDS=200` runs more rounds, `KILN_SEED=7` repeats one.

mod cluster;
mod fault;
mod namespace;
mod network;
mod round;
mod store;
mod work;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use fault::Kind;
use network::Between;
use round::Round;
use store::Store;

/// Rounds unless somebody asks for more: as many as it takes for every kind of fault.
const ROUNDS: u64 = 10;

/// The number in a variable, if it is set.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Rounds take turns: they wait for leases to end, which is no use on a machine that is too busy.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn jobs_outlive_whatever_happens() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    rounds(Between::Proxies);
}

#[test]
fn jobs_outlive_what_happens_between_namespaces() {
    if namespace::is_within() {
        let store = namespace::bridge();
        return rounds(Between::Bridge { store });
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match namespace::is_permitted() {
        true => namespace::run_within("jobs_outlive_what_happens_between_namespaces"),
        false => eprintln!("namespaces are not permitted here: proxies have to do"),
    }
}

fn rounds(between: Between) {
    let seed = number("KILN_SEED");
    let rounds = number("KILN_ROUNDS").unwrap_or(ROUNDS);
    let seeds = seed.map_or(0..rounds, |seed| seed..seed + 1);
    let store = Store::new(between);
    let mut fired: BTreeMap<Kind, usize> = BTreeMap::new();
    for seed in seeds {
        for kind in Round::run(&store, seed) {
            *fired.entry(kind).or_default() += 1;
        }
    }
    if seed.is_none() && rounds >= ROUNDS {
        let missing: Vec<_> = Kind::certain()
            .filter(|kind| !fired.contains_key(kind))
            .collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}
