//! A seeded simulation of whole clusters whose drivers come and go.
//!
//! Drivers crash, stall and wake up, are started beside one another and after one another, with
//! clocks that show different times and run at different paces; their store carries out late,
//! answers late, with errors, or with errors though it has done what it was asked. Executors crash,
//! stall and lose streams; objects vanish. What leads, elects, writes the journal, commits and
//! cleans up is the real thing; only messages, time, the store's mood, planning and the tasks' work
//! are simulated.
//!
//! Whatever happens: two drivers never lead in the same term; an attempt is launched once, and no
//! task again that an executor knows to be done; a job that a client was told of is never
//! forgotten, ends, and ends one way; one that is done has exactly the rows that went in, and its
//! output is there once; one that is not has none; nothing is left behind; and the journal, whole
//! or compacted, says what the leader knows.
//!
//! `KILN_SEED=N` runs one seed and prints what happened; `KILN_SEEDS=N` runs N seeds. `mutants/run`
//! breaks the drivers on purpose, in every way that is listed there, and expects a failure.

mod checks;
#[path = "../../tests/simulation/data.rs"]
mod data;
mod drivers;
mod executors;
mod process;
mod store;
mod world;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

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
fn no_job_is_lost_and_none_is_done_twice() {
    if let Some(seed) = number("KILN_SEED") {
        eprintln!("{:?}", run(seed, true));
        return;
    }
    let seeds = number("KILN_SEEDS").unwrap_or(10_000);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicU64::new(0);
    let share = || {
        let mut sum = Summary::default();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                seed if seed < seeds => sum.add(&run(seed, false)),
                _ => return sum,
            }
        }
    };
    let mut sum = Summary::default();
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        for share in shares {
            sum.add(&share.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
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
