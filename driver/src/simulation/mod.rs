//! A seeded simulation of whole clusters whose drivers come and go.
//!
//! Drivers crash, stall and wake up, are started beside one another and after one another, with
//! clocks that show different times; their store answers late, with errors, or with errors though
//! it has done what it was asked. Executors crash, stall and lose streams; objects vanish. What
//! leads, elects, writes the journal, commits and cleans up is the real thing; only messages, time,
//! the store's mood, planning and the tasks' work are simulated.
//!
//! Whatever happens: two drivers never lead in the same term; an attempt is launched once; a job
//! that a client was told of is never forgotten, ends, and ends one way; one that is done has
//! exactly the rows that went in, and its output is there once; one that is not has none; nothing
//! is left behind; and the journal, whole or compacted, says what the leader knows.
//!
//! What is known not to hold yet is said where the test is ignored.
//!
//! `KILN_SEED=N` runs one seed and prints what happened; `KILN_SEEDS=N` runs N seeds.

mod checks;
#[path = "../../tests/simulation/data.rs"]
mod data;
mod drivers;
mod executors;
mod process;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::{Summary, World};

fn run(seed: u64, print: bool) -> Summary {
    let world = catch_unwind(AssertUnwindSafe(|| World::new(seed, print).run()));
    world.unwrap_or_else(|panic| {
        eprintln!("the simulation failed: seed={seed}; KILN_SEED={seed} repeats it");
        resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
}

#[test]
#[ignore = "a leader that was stalled may still tell of jobs for a second: seed 196"]
fn no_job_is_lost_and_none_is_done_twice() {
    if let Some(seed) = number("KILN_SEED") {
        eprintln!("{:?}", run(seed, true));
        return;
    }
    let mut sum = Summary::default();
    for seed in 0..number("KILN_SEEDS").unwrap_or(10_000) {
        sum.add(&run(seed, false));
    }
    eprintln!("{sum:?}");
    if number("KILN_SEEDS").is_none() {
        sum.check_seen();
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        let hashes = [run(seed, false).log_hash, run(seed, false).log_hash];
        assert_eq!(hashes[0], hashes[1], "seed={seed}");
    }
    assert_ne!(run(1, false).log_hash, run(2, false).log_hash);
}
