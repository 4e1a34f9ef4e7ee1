//! Joins against a nested loop: every kind, all key types, nulls, duplicates, skew, empty sides.

use std::iter::from_fn;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::Schema;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use fastrand::Rng;
use kiln_engine::context::CancelToken;
use kiln_engine::expr::{Expr, col};
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::operator::Operator;
use kiln_engine::operator::join::{Builder, FilterRequest, Join, JoinSpec, Resources};
use kiln_engine::plan::{JoinStep, StepKind};

use crate::join_data::{KEY_TYPES, KeyType, Rows, lines, nested_loop};

pub(crate) const KINDS: [StepKind; 8] = [
    StepKind::Inner,
    StepKind::ProbeOuter,
    StepKind::BuildOuter,
    StepKind::FullOuter,
    StepKind::ProbeSemi,
    StepKind::ProbeAnti,
    StepKind::BuildSemi,
    StepKind::BuildAnti,
];

/// A join of `keys` keys whose output are some of the columns that its kind has.
pub(crate) fn step(random: &mut Rng, kind: StepKind, keys: usize, has_filter: bool) -> JoinStep {
    let key = |side: &str| -> Vec<Expr> {
        (0..keys)
            .map(|key| col(format!("{side}_key{key}")))
            .collect()
    };
    let columns = |side: &str| {
        let columns = ["id", "value", "text", "key0"];
        let columns = &columns[..if keys == 0 { 3 } else { 4 }];
        columns
            .iter()
            .map(|column| format!("{side}_{column}"))
            .collect::<Vec<_>>()
    };
    let (probe, build) = (columns("probe"), columns("build"));
    let mut output = match kind {
        StepKind::ProbeSemi | StepKind::ProbeAnti => probe,
        StepKind::BuildSemi | StepKind::BuildAnti => build,
        _ => [probe, build].concat(),
    };
    random.shuffle(&mut output);
    if random.bool() {
        output.truncate(random.usize(..=output.len()));
    }
    JoinStep {
        side: 0,
        kind,
        probe_keys: key("probe"),
        build_keys: key("build"),
        filter: has_filter.then(|| col("probe_value").lt(col("build_value"))),
        output,
    }
}

/// `bytes` of memory and as much disk as there is; nothing may be taken without asking.
pub(crate) fn resources(bytes: u64) -> Resources {
    Resources {
        memory: MemoryBudget::new(bytes),
        metrics: Arc::default(),
        cancel: CancelToken::default(),
        unasked_bytes: 0,
    }
}

/// The batches that `step` makes of the batches of two sides, on some lanes.
pub(crate) fn run(
    step: &JoinStep,
    probe: (&Rows, &[RecordBatch]),
    build: (&Rows, &[RecordBatch]),
    lanes: usize,
    resources: &Resources,
) -> Vec<RecordBatch> {
    let spec = JoinSpec::new(step, probe.0.batch.schema_ref(), build.0.batch.schema_ref());
    let spec = Arc::new(spec.expect("a join that fits"));
    let requests: Vec<FilterRequest> = (0..step.probe_keys.len())
        .filter_map(|key| {
            let column = probe.0.batch.column_by_name(&format!("probe_key{key}"));
            spec.filter_request(key, column.expect("a key").data_type())
        })
        .collect();
    let builder = Builder::new(Arc::clone(&spec), requests.clone(), resources);
    let builder = builder.expecting(build.0.len());
    for batch in build.1 {
        builder.add(batch).expect("room for all");
    }
    let table = Arc::new(builder.finish().expect("room for all"));
    let join = Join::new(Arc::clone(&spec), Arc::clone(&table), resources);
    let mut operators: Vec<_> = (0..lanes).map(|_| join.lane().expect("a lane")).collect();
    let mut made = Vec::new();
    for (number, batch) in probe.1.iter().enumerate() {
        let batch = match step.kind.drops_probe_rows() {
            true => filtered(batch, &requests, table.filters()),
            false => batch.clone(),
        };
        let operator: &mut dyn Operator = operators[number % lanes].as_mut();
        let mut emit = |batch| {
            made.push(batch);
            Ok(())
        };
        operator
            .push(batch, &mut emit)
            .expect("rows that can be compared");
    }
    for operator in &mut operators {
        let mut emit = |batch| {
            made.push(batch);
            Ok(())
        };
        operator.finish(&mut emit).expect("rows that are there");
    }
    if let Some(breaker) = join.breaker() {
        let merged = breaker.merge().expect("rows that are there").into_iter();
        for morsel in merged.chain(from_fn(|| breaker.more())) {
            let mut emit = |batch| {
                made.push(batch);
                Ok(())
            };
            morsel(&mut emit).expect("rows that are there");
        }
    }
    for batch in &made {
        assert_eq!(&batch.schema(), spec.schema());
    }
    made
}

/// The batch as a scan hands it on that knows the keys.
fn filtered(
    batch: &RecordBatch,
    requests: &[FilterRequest],
    filters: &[Arc<kiln_engine::kernel::key_filter::KeyFilter>],
) -> RecordBatch {
    let mut batch = batch.clone();
    for (request, filter) in requests.iter().zip(filters) {
        let column = batch.column_by_name(&format!("probe_key{}", request.key));
        let mask = filter
            .contains(column.expect("a key"))
            .expect("a type to look up");
        batch = arrow::compute::filter_record_batch(&batch, &mask.into()).expect("one length");
    }
    batch
}

fn compare(seed: u64, random: &mut Rng, types: &[KeyType], probe: &Rows, build: &Rows) {
    let kind = KINDS[random.usize(..KINDS.len())];
    let has_filter = random.u8(..3) == 0;
    let step = step(random, kind, types.len(), has_filter);
    let (probes, builds) = (probe.batches(random), build.batches(random));
    let resources = resources(1 << 30);
    let lanes = random.usize(1..4);
    let found = run(&step, (probe, &probes), (build, &builds), lanes, &resources);
    let expected = nested_loop(kind, probe, build, has_filter, &step.output);
    assert!(
        lines(&found) == expected,
        "seed={seed} {kind:?} {types:?} filter={has_filter} output={:?}\n{:#?}\n\
         expected {expected:#?}",
        step.output,
        lines(&found),
    );
    assert!(
        found.iter().all(|batch| batch.num_rows() <= BATCH_ROWS),
        "seed={seed}"
    );
    drop(found);
    let (memory, counts) = (resources.memory, resources.metrics.counts());
    assert_eq!(memory.used(), 0, "seed={seed}: all memory is given back");
    assert_eq!(
        counts.spilled_bytes, 0,
        "seed={seed}: there is memory for all"
    );
}

#[test]
fn joins() {
    for seed in 0..4000 {
        let mut random = Rng::with_seed(seed);
        let keys = [1, 1, 1, 2, 3, 0][random.usize(..6)];
        let types: Vec<_> = (0..keys)
            .map(|_| KEY_TYPES[random.usize(..KEY_TYPES.len())])
            .collect();
        let most = if keys == 0 { 20 } else { 60 };
        let mut count = || match random.u8(..8) {
            0 => 0,
            1 => 1,
            _ => random.usize(1..most),
        };
        let counts = [count(), count()];
        let probe = Rows::random(&mut random, "probe", counts[0], &types);
        let build = Rows::random(&mut random, "build", counts[1], &types);
        compare(seed, &mut random, &types, &probe, &build);
    }
}

#[test]
fn a_key_with_very_many_matches_comes_out_in_pieces() {
    for (seed, keys) in (0..16).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut random = Rng::with_seed(seed);
        let types = &[KeyType::Boolean][..keys];
        let probe = Rows::random(&mut random, "probe", 9, types);
        let build = Rows::random(&mut random, "build", 9000, types);
        let sides = if random.bool() {
            (&probe, &build)
        } else {
            (&build, &probe)
        };
        if std::ptr::eq(sides.0, &probe) {
            compare(seed, &mut random, types, &probe, &build);
        }
    }
}

/// Rows that all have the same text as their key, which is looked up by hash.
fn all_alike(side: &str, count: i64) -> RecordBatch {
    let keys = StringViewArray::from_iter_values((0..count).map(|_| "the same key"));
    let values = Int64Array::from_iter_values(0..count);
    RecordBatch::try_from_iter([
        (format!("{side}_key0"), Arc::new(keys) as ArrayRef),
        (format!("{side}_value"), Arc::new(values)),
    ])
    .expect("columns of one length")
}

/// A join of `probe` and `build`, ready to look up.
fn ready(step: &JoinStep, probe: &Schema, build: &[RecordBatch]) -> Arc<Join> {
    let spec = JoinSpec::new(step, probe, build[0].schema_ref()).expect("a join that fits");
    let spec = Arc::new(spec);
    let resources = resources(1 << 30);
    let builder = Builder::new(Arc::clone(&spec), Vec::new(), &resources);
    for batch in build {
        builder.add(batch).expect("memory for all");
    }
    let table = builder.finish().expect("memory for all");
    Join::new(spec, Arc::new(table), &resources)
}

/// Counts the rows that come out where every lane looks up all of `probe`, all at once.
fn count(join: &Arc<Join>, probe: &RecordBatch, lanes: usize) -> usize {
    let look_up = || {
        let (mut lane, mut rows) = (join.lane().expect("a lane"), 0);
        let mut emit = |batch: RecordBatch| {
            rows += batch.num_rows();
            Ok(())
        };
        for start in (0..probe.num_rows()).step_by(BATCH_ROWS) {
            let length = BATCH_ROWS.min(probe.num_rows() - start);
            let pushed = lane.push(probe.slice(start, length), &mut emit);
            pushed.expect("rows that can be compared");
        }
        lane.finish(&mut emit).expect("rows that are there");
        rows
    };
    let mut rows: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(look_up)).collect();
        let rows = lanes.into_iter().map(|lane| lane.join().expect("no panic"));
        rows.sum()
    });
    let morsels = join.breaker().map(|breaker| breaker.merge());
    for morsel in morsels.transpose().expect("rows").unwrap_or_default() {
        let mut emit = |batch: RecordBatch| {
            rows += batch.num_rows();
            Ok(())
        };
        morsel(&mut emit).expect("rows that are there");
    }
    rows
}

/// One pair after the other would be ten thousand million pairs for each case.
#[test]
fn a_key_that_all_rows_have_is_not_a_square_of_work() {
    const ROWS: i64 = 100_000;
    let (probe, build) = (all_alike("probe", ROWS), all_alike("build", ROWS));
    let all = ROWS as usize;
    for (kind, filter, expected) in [
        (StepKind::BuildSemi, None, all),
        (StepKind::BuildAnti, None, 0),
        (StepKind::ProbeSemi, None, 2 * all),
        (StepKind::ProbeAnti, None, 0),
        // All build rows but the one with the value 0 have a partner.
        (
            StepKind::BuildSemi,
            Some(col("probe_value").lt(col("build_value"))),
            all - 1,
        ),
        (
            StepKind::BuildAnti,
            Some(col("probe_value").lt(col("build_value"))),
            1,
        ),
    ] {
        let output = match kind {
            StepKind::BuildSemi | StepKind::BuildAnti => "build_value",
            _ => "probe_value",
        };
        let step = JoinStep {
            side: 0,
            kind,
            probe_keys: vec![col("probe_key0")],
            build_keys: vec![col("build_key0")],
            filter,
            output: vec![output.to_owned()],
        };
        let join = ready(&step, &probe.schema(), std::slice::from_ref(&build));
        assert_eq!(count(&join, &probe, 2), expected, "{kind:?}");
    }
}

#[test]
fn a_side_of_no_rows_or_no_batches_is_empty() {
    let mut random = Rng::with_seed(0);
    for (kind, keys) in KINDS
        .iter()
        .flat_map(|kind| [(*kind, 0), (*kind, 1), (*kind, 2)])
    {
        let types = &[KeyType::Int64, KeyType::Text][..keys];
        let some = |random: &mut Rng, side: &str| Rows::random(random, side, 20, types);
        let (probe, build) = (some(&mut random, "probe"), some(&mut random, "build"));
        let none = |side: &Rows| side.batch.slice(0, 0);
        let mut join = |probes: &[RecordBatch], builds: &[RecordBatch]| {
            let step = step(&mut random, kind, keys, false);
            let resources = resources(1 << 30);
            let made = run(&step, (&probe, probes), (&build, builds), 2, &resources);
            made.iter().map(RecordBatch::num_rows).sum::<usize>()
        };
        let keeps = |kinds: &[StepKind]| if kinds.contains(&kind) { 20 } else { 0 };
        let of_probe = keeps(&[
            StepKind::ProbeOuter,
            StepKind::FullOuter,
            StepKind::ProbeAnti,
        ]);
        let of_build = keeps(&[
            StepKind::BuildOuter,
            StepKind::FullOuter,
            StepKind::BuildAnti,
        ]);
        let (probes, builds) = ([probe.batch.clone()], [build.batch.clone()]);
        for empty in [vec![], vec![none(&build)]] {
            assert_eq!(join(&probes, &empty), of_probe, "{kind:?} keys={keys}");
        }
        for empty in [vec![], vec![none(&probe)]] {
            assert_eq!(join(&empty, &builds), of_build, "{kind:?} keys={keys}");
        }
        assert_eq!(join(&[], &[]), 0, "{kind:?} keys={keys}");
    }
}

#[test]
fn a_side_of_more_rows_than_have_numbers_goes_to_disk() {
    let none = Arc::new(Schema::empty());
    let step = JoinStep {
        side: 0,
        kind: StepKind::Inner,
        probe_keys: vec![],
        build_keys: vec![],
        filter: None,
        output: vec![],
    };
    // Rows without columns take no memory.
    let rows = |rows: usize| {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&none), vec![], &options).expect("rows")
    };
    let finish = |second: usize| {
        let spec = JoinSpec::new(&step, &none, &none).expect("a join that fits");
        let builder = Builder::new(Arc::new(spec), vec![], &resources(1 << 20));
        for rows in [rows(1 << 31), rows(second)] {
            builder.add(&rows).expect("room for all");
        }
        let table = builder.finish().expect("room for all");
        (table.rows(), table.has_spilled())
    };
    let most = u32::MAX as usize - 1;
    assert_eq!(finish(most - (1 << 31)), (most as u64, false));
    for second in [most + 1 - (1 << 31), 1 << 31, (1 << 31) + 5] {
        assert_eq!(finish(second), ((second + (1 << 31)) as u64, true));
    }
}

#[test]
fn few_joined_rows_come_out_in_few_batches() {
    let build = all_alike("build", 1);
    // One of a thousand rows has a match.
    let keys = (0..400_000).map(|row| {
        if row % 1000 == 0 {
            "the same key"
        } else {
            "other"
        }
    });
    let keys: ArrayRef = Arc::new(StringViewArray::from_iter_values(keys));
    let probe = RecordBatch::try_from_iter([("probe_key0", keys)]).expect("a column");
    let step = JoinStep {
        side: 0,
        kind: StepKind::Inner,
        probe_keys: vec![col("probe_key0")],
        build_keys: vec![col("build_key0")],
        filter: None,
        output: vec!["probe_key0".to_owned(), "build_value".to_owned()],
    };
    let join = ready(&step, &probe.schema(), &[build]);
    let mut lane = join.lane().expect("a lane");
    let mut made = Vec::new();
    let mut emit = |batch: RecordBatch| {
        made.push(batch.num_rows());
        Ok(())
    };
    for start in (0..probe.num_rows()).step_by(BATCH_ROWS) {
        let length = BATCH_ROWS.min(probe.num_rows() - start);
        lane.push(probe.slice(start, length), &mut emit)
            .expect("text");
    }
    lane.finish(&mut emit).expect("rows that are there");
    // What 32 batches of probe rows make, then the rest.
    assert_eq!(made, [263, 137]);
}
