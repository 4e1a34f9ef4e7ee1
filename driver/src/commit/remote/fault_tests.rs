//! Commits that are cut off between any two requests or whose answers are lost, two drivers that
//! run the same commit at once, and jobs that write the same output.

use kiln_engine::plan::recorded_upload;

use super::super::{commit, discard};
use super::stepped::{Driver, Fault, Stepped, run};
use super::tests::{World, stores};
use super::*;

/// A kind of commit: its mode, and whether there is an output.
#[derive(Debug, Clone, Copy)]
struct Case {
    mode: OutputMode,
    base: bool,
}

const CASES: [Case; 5] = [
    Case {
        mode: OutputMode::ErrorIfExists,
        base: false,
    },
    Case {
        mode: OutputMode::Overwrite,
        base: false,
    },
    Case {
        mode: OutputMode::Overwrite,
        base: true,
    },
    Case {
        mode: OutputMode::Append,
        base: false,
    },
    Case {
        mode: OutputMode::Append,
        base: true,
    },
];

/// What is in a store.
type Objects = Vec<(String, u64)>;

impl Case {
    /// A job that is to be committed.
    fn world(self) -> World {
        if !self.base {
            return World::written(self.mode);
        }
        let base = World::written(OutputMode::ErrorIfExists);
        let store = base.store.another(None);
        let committed = attempt(&base, &store).finish(|| {});
        committed.expect("nothing is in the way");
        base.next(self.mode)
    }

    /// What is there after a commit, and how many requests it makes.
    fn outcome(self) -> (Objects, usize) {
        let world = self.world();
        let store = world.store.another(None);
        let committed = attempt(&world, &store).finish(|| check(&world, &format!("{self:?}")));
        committed.expect("nothing is in the way");
        (store.objects(), store.made())
    }
}

/// A driver that commits, by a way of its own.
fn attempt<'a>(world: &'a World, store: &Stepped) -> Driver<'a, Result<()>> {
    let (stores, files) = (stores(store), world.files.clone());
    Driver::new(store, async move {
        let committed = commit(&stores, world.job, &world.output, files).await;
        committed.map(drop)
    })
}

fn give_up<'a>(world: &'a World, store: &Stepped) -> Driver<'a, Result<()>> {
    let stores = stores(store);
    Driver::new(store, async move {
        discard(&stores, world.job, &world.output).await
    })
}

/// What a reader finds at any time: all that a manifest names is there, and a new output has no
/// visible file that nobody has claimed.
fn check(world: &World, when: &str) {
    let objects = world.store.objects();
    let manifest = world.manifest();
    let there = |name: &str| {
        let name = format!("deep/out/{name}");
        objects.iter().find(|(found, _)| *found == name)
    };
    for file in manifest.iter().flat_map(|manifest| &manifest.files) {
        let found = there(&file.name).map(|(_, bytes)| *bytes);
        assert_eq!(found, Some(file.bytes), "{when}: {}", file.name);
    }
    let makes = world.output.options.mode == OutputMode::ErrorIfExists;
    let parts = objects.iter().filter_map(|(name, _)| {
        let is_part = is_part_name(file_name(name)) && recorded_upload(name).is_none();
        is_part.then(|| name.trim_start_matches("deep/out/"))
    });
    match manifest {
        None => {
            assert!(there(SUCCESS).is_none(), "{when}: the last comes first");
            let is_claimed = !makes || there(CLAIM).is_some();
            assert!(
                is_claimed || parts.count() == 0,
                "{when}: nobody has claimed it"
            );
        }
        Some(manifest) if makes => {
            for name in parts {
                assert!(manifest.names(name), "{when}: {name} is another job's");
            }
        }
        Some(_) => {}
    }
}

fn told(outcome: Result<()>, when: &str) {
    outcome.unwrap_or_else(|error| panic!("{when}: {}", error.report()));
}

#[test]
fn a_commit_that_was_cut_off_anywhere_is_finished_by_the_next() {
    for case in CASES {
        let (after, requests) = case.outcome();
        for number in 0..requests {
            for fault in [Fault::CutOff(number), Fault::Lost(number)] {
                let when = format!("{case:?} {fault:?}");
                let world = case.world();
                let store = world.store.another(Some(fault));
                let look = || check(&world, &when);
                let outcome = attempt(&world, &store).finish(look);
                assert!(store.fired(), "{when}");
                let is_there = world.manifest().is_some_and(|found| found.has(world.job));
                assert!(is_there || outcome.is_err(), "{when}");
                for _ in 0..2 {
                    let next = world.store.another(None);
                    told(attempt(&world, &next).finish(look), &when);
                    assert_eq!(next.objects(), after, "{when}");
                    assert_eq!(next.open_uploads(), 0, "{when}");
                }
                let late = world.store.another(None);
                told(give_up(&world, &late).finish(look), &when);
                assert_eq!(late.objects(), after, "{when}");
            }
        }
    }
}

#[test]
fn a_job_that_failed_leaves_what_was_there() {
    for case in CASES {
        let (after, requests) = case.outcome();
        let base = |world: &World| {
            let ours = part_prefix(world.job);
            let is_base = |(name, _): &(String, u64)| {
                !name.contains(&ours) && !name.contains(STAGING) && !name.ends_with(CLAIM)
            };
            let objects = world.store.objects().into_iter();
            objects.filter(is_base).collect::<Objects>()
        };
        for number in 0..requests {
            let when = format!("{case:?} cut off at {number}");
            let world = case.world();
            let before = base(&world);
            let store = world.store.another(Some(Fault::CutOff(number)));
            let outcome = attempt(&world, &store).finish(|| check(&world, &when));
            assert!(store.fired(), "{when}");
            // Clearing up is cut off as well, at each point once, and two drivers are at it.
            for cut in (0..).step_by(3) {
                let store = world.store.another(Some(Fault::CutOff(cut)));
                if give_up(&world, &store).finish(|| {}).is_ok() && !store.fired() {
                    break;
                }
            }
            let is_done = world.manifest().is_some_and(|found| found.has(world.job));
            assert!(is_done || outcome.is_err(), "{when}");
            let mut expected = if is_done { after.clone() } else { before };
            if is_done && world.store.content("deep/out/_SUCCESS").is_none() {
                expected.retain(|(name, _)| !name.ends_with(SUCCESS));
            }
            assert_eq!(world.store.objects(), expected, "{when}");
            assert_eq!(world.store.open_uploads(), 0, "{when}");
        }
    }
}

/// Has two drivers go on in turns, until both have ended.
fn together(
    drivers: [Driver<'_, Result<()>>; 2],
    mut turn: impl FnMut() -> usize,
    look: impl Fn(),
) -> [Result<()>; 2] {
    let [mut one, mut other] = drivers;
    while !one.has_ended() || !other.has_ended() {
        let one_goes = other.has_ended() || (turn() == 0 && !one.has_ended());
        match one_goes {
            true => one.step(),
            false => other.step(),
        }
        look();
    }
    [one, other].map(|driver| driver.outcome.expect("it has ended"))
}

/// Orders of turns: one is held up at each point until the other has made each number of steps,
/// and seeded ones.
fn orders(requests: usize) -> impl Iterator<Item = (String, Box<dyn FnMut() -> usize>)> {
    let held_up = (0..requests).flat_map(move |first| {
        (1..=requests).map(move |second| {
            let mut made = 0;
            let order = move || {
                made += 1;
                usize::from(made > first && made <= first + second)
            };
            let order: Box<dyn FnMut() -> usize> = Box::new(order);
            (format!("first={first} second={second}"), order)
        })
    });
    let seeded = (0..300).map(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let order: Box<dyn FnMut() -> usize> = Box::new(move || random.usize(..2));
        (format!("seed={seed}"), order)
    });
    held_up.chain(seeded)
}

#[test]
fn two_drivers_at_once_come_to_the_same_end() {
    for case in CASES {
        let (after, requests) = case.outcome();
        for (when, order) in orders(requests) {
            let when = format!("{case:?} {when}");
            let world = case.world();
            let ways = [world.store.another(None), world.store.another(None)];
            let drivers = [&ways[0], &ways[1]].map(|store| attempt(&world, store));
            for outcome in together(drivers, order, || check(&world, &when)) {
                told(outcome, &when);
            }
            assert_eq!(world.store.objects(), after, "{when}");
            assert_eq!(world.store.open_uploads(), 0, "{when}");
        }
    }
}

#[test]
fn one_of_two_jobs_makes_an_output() {
    let (_, requests) = CASES[0].outcome();
    for (when, order) in orders(requests) {
        let one = World::written(OutputMode::ErrorIfExists);
        let other = one.next(OutputMode::ErrorIfExists);
        let drivers = [&one, &other].map(|world| attempt(world, &world.store.another(None)));
        let outcomes = together(drivers, order, || check(&one, &when));
        let mut winners = 0;
        for (world, outcome) in [&one, &other].into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => winners += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{when}");
                    assert_eq!(
                        error.message(),
                        "output already exists url=memory:///deep/out"
                    );
                    world.discard().expect("discarded");
                }
            }
        }
        assert_eq!(winners, 1, "{when}");
        check(&one, &when);
        assert_eq!(one.store.objects().len(), 4, "{when}: {:?}", one.tree());
        assert_eq!(one.store.open_uploads(), 0, "{when}");
    }
}

#[test]
fn jobs_that_add_lose_nothing_of_each_other() {
    for base in [false, true] {
        let case = Case {
            mode: OutputMode::Append,
            base,
        };
        let (_, requests) = case.outcome();
        for (when, order) in orders(requests) {
            let one = case.world();
            let other = one.next(OutputMode::Append);
            let drivers = [&one, &other].map(|world| attempt(world, &world.store.another(None)));
            for outcome in together(drivers, order, || check(&one, &when)) {
                told(outcome, &when);
            }
            let manifest = one.manifest().expect("a manifest");
            assert!(manifest.has(one.job) && manifest.has(other.job), "{when}");
            let files = if base { 6 } else { 4 };
            assert_eq!(manifest.files.len(), files, "{when}");
            assert_eq!(one.store.objects().len(), files + 2, "{when}");
        }
    }
}

#[test]
fn jobs_that_replace_an_output_leave_that_of_one() {
    let case = Case {
        mode: OutputMode::Overwrite,
        base: true,
    };
    let (_, requests) = case.outcome();
    for (when, order) in orders(requests) {
        let one = case.world();
        let other = one.next(OutputMode::Overwrite);
        let drivers = [&one, &other].map(|world| attempt(world, &world.store.another(None)));
        for outcome in together(drivers, order, || check(&one, &when)) {
            told(outcome, &when);
        }
        let manifest = one.manifest().expect("a manifest");
        assert_eq!(manifest.files.len(), 2, "{when}");
        assert_eq!(one.store.objects().len(), 4, "{when}: {:?}", one.tree());
    }
}

#[test]
fn clearing_up_can_be_run_twice_at_once() {
    let requests = {
        let world = World::written(OutputMode::ErrorIfExists);
        let store = world.store.another(None);
        told(give_up(&world, &store).finish(|| {}), "alone");
        store.made()
    };
    for (when, order) in orders(requests) {
        let world = World::written(OutputMode::ErrorIfExists);
        let ways = [world.store.another(None), world.store.another(None)];
        let drivers = [&ways[0], &ways[1]].map(|store| give_up(&world, store));
        for outcome in together(drivers, order, || check(&world, &when)) {
            told(outcome, &when);
        }
        assert_eq!(world.tree(), [""; 0], "{when}");
        assert_eq!(run(&ways[0], async { ways[0].open_uploads() }), 0, "{when}");
    }
}
