//! A seeded simulation of whole clusters around the scheduler.
//!
//! Simulated executors run tasks on simulated data, crash, restart, stall for longer than their
//! lease, lose streams, drain, fail with typed errors, write objects that vanish, and repeat,
//! lose, delay and reorder their reports; plans are made step by step, and all of that happens
//! between the steps too. Whatever happens, every job ends, a job that is done
//! has exactly the rows that went in, and nothing is left in storage.
//!
//! `KILN_SEED=N` runs one seed and prints what the scheduler did; `KILN_SEEDS=N` runs N seeds.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/data.rs"]
mod data;
#[path = "simulation/executors.rs"]
mod executors;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/world.rs"]
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
fn every_job_ends_and_a_job_that_is_done_is_right() {
    if let Some(seed) = number("KILN_SEED") {
        eprintln!("{:?}", run(seed, true));
        return;
    }
    let mut sum = Summary::default();
    for seed in 0..number("KILN_SEEDS").unwrap_or(2_000) {
        sum.add(&run(seed, false));
    }
    eprintln!("{sum:?}");
    // A simulation in which nothing goes wrong, or in which nothing goes well, shows nothing.
    let seen = [
        ("done", sum.done),
        ("failed", sum.failed),
        ("cancelled", sum.cancelled),
        ("lost attempts", sum.lost),
        ("failed attempts", sum.failures),
        ("revoked outputs", sum.revoked),
        ("second attempts", sum.stragglers),
        ("split partitions", sum.split),
        ("adopted attempts", sum.adopted),
        ("late successes", sum.late),
        ("plans that went on", sum.increments),
        ("cancelled while a plan went on", sum.cancelled_between),
        ("outputs missed while a plan went on", sum.missed_between),
        ("executors lost while a plan went on", sum.lost_between),
    ];
    if number("KILN_SEEDS").is_none() {
        for (what, count) in seen {
            assert!(count >= 20, "hardly ever seen: {what} count={count}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    for seed in 0..50 {
        assert_eq!(
            run(seed, false).log_hash,
            run(seed, false).log_hash,
            "seed={seed}"
        );
    }
    assert_ne!(run(1, false).log_hash, run(2, false).log_hash);
}
