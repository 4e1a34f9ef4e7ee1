//! Joins past their memory: every kind under budgets from nothing to enough, against a nested loop
//! or against the same join in memory.

use std::iter::from_fn;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use fastrand::Rng;
use kiln_engine::ErrorKind;
use kiln_engine::expr::col;
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::{DiskBudget, MemoryBudget};
use kiln_engine::operator::Breaker;
use kiln_engine::operator::join::{Builder, Join, JoinSpec, Resources};
use kiln_engine::plan::{JoinStep, StepKind};

use crate::join::{KINDS, resources, run, step};
use crate::join_data::{KEY_TYPES, KeyType, Rows, lines, nested_loop};

fn types(random: &mut Rng, keys: &[usize], from: &[KeyType]) -> Vec<KeyType> {
    let keys = keys[random.usize(..keys.len())];
    (0..keys)
        .map(|_| from[random.usize(..from.len())])
        .collect()
}

/// What a join made, as text, and the bytes that it wrote to disk.
fn joined(
    seed: u64,
    step: &JoinStep,
    sides: [(&Rows, &[RecordBatch]); 2],
    lanes: usize,
    resources: &Resources,
) -> (Vec<String>, u64) {
    let made = run(step, sides[0], sides[1], lanes, resources);
    let lines = lines(&made);
    let longest = made.iter().map(RecordBatch::num_rows).max();
    assert!(longest <= Some(BATCH_ROWS), "seed={seed}");
    drop(made);
    let memory = &resources.memory;
    let left = (memory.used(), memory.disk().used());
    assert_eq!(left, (0, 0), "seed={seed}: everything is given back");
    (lines, resources.metrics.counts().spilled_bytes)
}

#[test]
fn joins_under_any_budget() {
    let (mut spilled_all, mut spilled_some) = (0, 0);
    for seed in 0..6000 {
        let mut random = Rng::with_seed(seed);
        let types = types(&mut random, &[1, 1, 1, 2, 3, 0], &KEY_TYPES);
        let most = if types.is_empty() { 20 } else { 60 };
        let counts = [random.usize(..most), random.usize(..most)];
        let probe = Rows::random(&mut random, "probe", counts[0], &types);
        let build = Rows::random(&mut random, "build", counts[1], &types);
        let kind = KINDS[random.usize(..KINDS.len())];
        let has_filter = random.u8(..3) == 0;
        let step = step(&mut random, kind, types.len(), has_filter);
        let (probes, builds) = (probe.batches(&mut random), build.batches(&mut random));
        let expected = nested_loop(kind, &probe, &build, has_filter, &step.output);
        let lanes = random.usize(1..4);
        for bytes in [0, random.u64(..2000), random.u64(..50_000), 1 << 30] {
            let resources = Resources {
                unasked_bytes: if random.bool() { 0 } else { random.u64(..1000) },
                ..resources(bytes)
            };
            let sides = [(&probe, probes.as_slice()), (&build, builds.as_slice())];
            let (found, spilled) = joined(seed, &step, sides, lanes, &resources);
            assert!(
                found == expected,
                "seed={seed} {kind:?} {types:?} filter={has_filter} output={:?} bytes={bytes}\n\
                 {found:#?}\nexpected {expected:#?}",
                step.output,
            );
            let has_rows = kind.emits_build_rows() && build.len() > 0;
            match bytes {
                0 if has_rows && resources.unasked_bytes == 0 => {
                    assert!(spilled > 0, "seed={seed}")
                }
                0 => {}
                0x4000_0000 => assert_eq!(spilled, 0, "seed={seed}"),
                _ if spilled > 0 => spilled_some += 1,
                _ => spilled_all += 1,
            }
        }
    }
    assert!(spilled_all > 1000 && spilled_some > 1000);
}

/// Types of keys of which there are many.
const MANY: [KeyType; 8] = [
    KeyType::Int64,
    KeyType::Int16AndInt32,
    KeyType::UInt64AndInt64,
    KeyType::Sparse,
    KeyType::Decimals,
    KeyType::LongDecimals,
    KeyType::Float,
    KeyType::Text,
];

#[test]
fn joins_of_many_rows_are_the_same_on_disk_as_in_memory() {
    for seed in 0..80 {
        let mut random = Rng::with_seed(seed);
        let types = types(&mut random, &[1, 1, 2], &MANY);
        // One key has half of the build rows at times, or there are very few.
        let (distinct, is_skewed) = match random.u8(..4) {
            0 => (random.i64(2..5), false),
            1 => (2000, true),
            _ => (random.i64(1000..4000), false),
        };
        let counts = match distinct {
            ..5 => [30, 6000],
            _ => [random.usize(1000..8000), random.usize(3000..8000)],
        };
        let rows = |random: &mut Rng, side, count, is_skewed| {
            Rows::of_keys(random, (side, count), &types, (distinct, is_skewed))
        };
        let probe = rows(&mut random, "probe", counts[0], false);
        let build = rows(&mut random, "build", counts[1], is_skewed);
        let kind = KINDS[seed as usize % KINDS.len()];
        let has_filter = random.bool();
        let step = step(&mut random, kind, types.len(), has_filter);
        let (probes, builds) = (probe.batches(&mut random), build.batches(&mut random));
        let lanes = random.usize(1..4);
        let sides = [(&probe, probes.as_slice()), (&build, builds.as_slice())];
        let join = |bytes: u64, unasked_bytes: u64| {
            let resources = Resources {
                unasked_bytes,
                ..resources(bytes)
            };
            let (lines, spilled) = joined(seed, &step, sides, lanes, &resources);
            let peak = resources.memory.peak();
            assert!(peak <= bytes, "seed={seed} peak={peak} bytes={bytes}");
            (lines, spilled)
        };
        let (expected, spilled) = join(1 << 30, 0);
        assert_eq!(spilled, 0, "seed={seed}");
        for (bytes, unasked_bytes) in [(0, 16 << 10), (20_000, 8 << 10), (64 << 10, 4 << 10)] {
            let (found, spilled) = join(bytes, unasked_bytes);
            assert!(
                found == expected,
                "seed={seed} {kind:?} {types:?} filter={has_filter} bytes={bytes}: {} rows, not {}",
                found.len(),
                expected.len()
            );
            // Only a key may be kept of each row: then a table is as small as 24,000 bytes.
            assert!(
                spilled > 0 || bytes == 64 << 10,
                "seed={seed} bytes={bytes}"
            );
        }
    }
}

#[test]
fn a_full_disk_is_told_with_the_figures() {
    let mut random = Rng::with_seed(0);
    let types = [KeyType::Int64];
    let probe = Rows::of_keys(&mut random, ("probe", 5000), &types, (1000, false));
    let build = Rows::of_keys(&mut random, ("build", 5000), &types, (1000, false));
    let step = step(&mut random, StepKind::FullOuter, 1, false);
    let (mut refused, mut joined) = (0, 0);
    for limit in (0..400_000).step_by(10_000) {
        let disk = DiskBudget::new(limit, None);
        let resources = Resources {
            memory: MemoryBudget::with_disk(1000, disk),
            ..resources(0)
        };
        let spec = JoinSpec::new(&step, probe.batch.schema_ref(), build.batch.schema_ref());
        let spec = Arc::new(spec.expect("a join that fits"));
        let outcome = (|| {
            let builder = Builder::new(Arc::clone(&spec), vec![], &resources);
            builder.add(&build.batch)?;
            let join = Join::new(spec, Arc::new(builder.finish()?), &resources);
            let mut lane = join.lane()?;
            let mut emit = |_| Ok(());
            lane.push(probe.batch.clone(), &mut emit)?;
            lane.finish(&mut emit)?;
            drop(lane);
            let rest = join.breaker().expect("build rows come out");
            let merged = rest.merge()?.into_iter();
            merged
                .chain(from_fn(|| rest.more()))
                .try_for_each(|morsel| morsel(&mut emit))
        })();
        match outcome {
            Ok(()) => joined += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Exhausted);
                let figures = format!("limit={limit}");
                let message = error.message();
                assert!(message.contains(&figures), "{error}");
                assert!(message.starts_with("join: "), "{error}");
            }
        }
        let memory = &resources.memory;
        assert_eq!(
            (memory.used(), memory.disk().used()),
            (0, 0),
            "limit={limit}"
        );
    }
    assert!(
        refused > 10 && joined > 3,
        "refused={refused} joined={joined}"
    );
}

/// A join of `rows` rows of either side, all with the same key and all on disk: what is left of it
/// when the probe rows have come.
fn all_on_disk(rows: i64, kind: StepKind, resources: &Resources) -> Arc<dyn Breaker> {
    let side = |side: &str| {
        let keys = Int64Array::from_iter_values((0..rows).map(|_| 7));
        let values = Int64Array::from_iter_values(0..rows);
        let columns = [
            (format!("{side}_key0"), Arc::new(keys) as ArrayRef),
            (format!("{side}_value"), Arc::new(values)),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    };
    let (probe, build) = (side("probe"), side("build"));
    let step = JoinStep {
        side: 0,
        kind,
        probe_keys: vec![col("probe_key0")],
        build_keys: vec![col("build_key0")],
        filter: None,
        output: vec!["probe_value".to_owned(), "build_value".to_owned()],
    };
    let spec = JoinSpec::new(&step, probe.schema_ref(), build.schema_ref());
    let spec = Arc::new(spec.expect("a join that fits"));
    let builder = Builder::new(Arc::clone(&spec), vec![], resources);
    builder.add(&build).expect("room on disk");
    let table = builder.finish().expect("room on disk");
    assert!(table.has_spilled() && table.rows() == rows as u64);
    let join = Join::new(spec, Arc::new(table), resources);
    let mut lane = join.lane().expect("a lane");
    let mut none = |_| panic!("all rows go to disk");
    for start in (0..rows as usize).step_by(100) {
        let some = probe.slice(start, 100.min(rows as usize - start));
        lane.push(some, &mut none).expect("room on disk");
    }
    lane.finish(&mut none).expect("room on disk");
    join.breaker().expect("all is to be done")
}

#[test]
fn a_sink_can_write_while_a_partition_makes_many_rows() {
    let resources = Resources {
        unasked_bytes: 4 << 10,
        ..resources(0)
    };
    let rest = all_on_disk(2000, StepKind::Inner, &resources);
    assert!(rest.merge().expect("no build rows come out").is_empty());
    let (mut rows, mut morsels) = (0, 0);
    while let Some(morsel) = rest.more() {
        let before = rows;
        let mut emit = |batch: RecordBatch| {
            rows += batch.num_rows();
            Ok(())
        };
        morsel(&mut emit).expect("rows that are there");
        let bytes = (rows - before) * 16;
        assert!(bytes < 16 << 20, "bytes={bytes}");
        morsels += 1;
    }
    assert_eq!(rows, 4_000_000);
    assert!(morsels > 5, "morsels={morsels}");
}

#[test]
fn what_is_on_disk_is_left_there_by_an_attempt_that_is_cancelled() {
    for kind in [StepKind::Inner, StepKind::FullOuter] {
        let resources = resources(0);
        let rest = all_on_disk(500, kind, &resources);
        let merged = rest.merge().expect("nothing is in memory").into_iter();
        resources.cancel.cancel();
        let mut morsels = 0;
        for morsel in merged.chain(from_fn(|| rest.more())) {
            let ended = morsel(&mut |_| panic!("rows come out all the same"));
            let error = ended.expect_err("the attempt is cancelled");
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            morsels += 1;
        }
        assert_eq!(morsels, 1);
        drop(rest);
        let memory = &resources.memory;
        assert_eq!((memory.used(), memory.disk().used()), (0, 0));
    }
}
