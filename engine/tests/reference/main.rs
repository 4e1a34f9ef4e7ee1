//! Random rows and expressions through the engine and through a row-at-a-time reference.
//!
//! Each test runs many seeds; a failure names its seed, and running that seed alone repeats it.

mod aggregates;
mod data;
mod join;
mod join_data;
mod join_spill;
mod join_task;
mod oracle;

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use fastrand::Rng;
use kiln_engine::ErrorKind;
use kiln_engine::expr::eval::evaluate;
use kiln_engine::expr::{col, lit, typing, words};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::operator::limit::LimitState;
use kiln_engine::operator::sort::Sort;
use kiln_engine::operator::top_k::TopK;
use kiln_engine::operator::{Breaker, Morsel, Operator, explode, filter, project};

use data::NAMES;
use oracle::{Failed, Row};

/// The text of rows, which is what is compared: it tells NaN and -0.0 apart.
fn text(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{row:?}")).collect()
}

/// The rows that `operator` makes of `batches`.
fn run(operator: &mut dyn Operator, batches: &[RecordBatch]) -> kiln_engine::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut emit = |batch: RecordBatch| {
        rows.extend(data::unbatch(&batch));
        Ok(())
    };
    for batch in batches {
        operator.push(batch.clone(), &mut emit)?;
    }
    operator.finish(&mut emit)?;
    Ok(rows)
}

/// The rows that `breaker` makes of `batches`, dealt out to some lanes.
fn run_breaker(breaker: &dyn Breaker, batches: &[RecordBatch], lanes: usize) -> Vec<Row> {
    collect(breaker, batches, lanes);
    emitted(breaker.merge().expect("memory for all"))
}

/// Deals `batches` out to some lanes, each as a morsel.
fn collect(breaker: &dyn Breaker, batches: &[RecordBatch], lanes: usize) {
    let mut lanes: Vec<_> = (0..lanes)
        .map(|_| breaker.lane().expect("a lane"))
        .collect();
    let count = lanes.len();
    let mut none = |_: RecordBatch| panic!("a breaker's lane emits nothing");
    for (index, batch) in batches.iter().enumerate() {
        let lane = &mut lanes[index % count];
        lane.begin_morsel(index as u64);
        lane.push(batch.clone(), &mut none).expect("memory for all");
    }
    for lane in &mut lanes {
        lane.finish(&mut none).expect("memory for all");
    }
}

/// The rows of `morsels`, one after the other.
fn emitted(morsels: Vec<Morsel>) -> Vec<Row> {
    let mut rows = Vec::new();
    for morsel in morsels {
        morsel(&mut |batch| {
            rows.extend(data::unbatch(&batch));
            Ok(())
        })
        .expect("rows that are there");
    }
    rows
}

/// Rows, and the same rows as a few batches.
fn input(random: &mut Rng, most: usize) -> (Vec<Row>, Vec<RecordBatch>) {
    let mut rows = Vec::new();
    let mut batches = Vec::new();
    for _ in 0..random.usize(1..6) {
        let count = random.usize(1..most);
        let some = data::rows(random, count);
        batches.push(data::batch(&some));
        rows.extend(some);
    }
    (rows, batches)
}

/// Compares an outcome with the reference's; where that failed, the engine has to say `Invalid`.
fn check(
    seed: u64,
    what: &str,
    found: kiln_engine::Result<Vec<Row>>,
    expected: Result<Vec<Row>, Failed>,
) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(text(&found), text(&expected), "seed={seed} {what}");
        }
        (Err(error), Err(Failed)) => {
            assert_eq!(
                error.kind(),
                ErrorKind::Invalid,
                "seed={seed} {what}: {error}"
            );
        }
        (found, expected) => panic!("seed={seed} {what}: {found:?} against {expected:?}"),
    }
}

#[test]
fn expressions() {
    for seed in 0..3000 {
        let mut random = Rng::with_seed(seed);
        let kinds = [
            data::integers,
            data::floats,
            data::decimals,
            data::texts,
            data::booleans,
        ];
        let depth = random.usize(..5);
        let expr = kinds[random.usize(..kinds.len())](&mut random, depth);
        let count = random.usize(1..40);
        let rows = data::rows(&mut random, count);
        let batch = data::batch(&rows);
        let found = evaluate(&expr, &batch);
        if let Ok(array) = &found {
            let field = typing::field(&expr, &data::schema()).expect("it has just run");
            assert_eq!(array.data_type(), field.data_type(), "seed={seed} {expr}");
            assert!(
                field.is_nullable() || array.null_count() == 0,
                "seed={seed} {expr}"
            );
        }
        let found = found.map(|array| {
            (0..array.len())
                .map(|row| vec![data::value(&array, row)])
                .collect()
        });
        check(
            seed,
            &expr.to_string(),
            found,
            oracle::project(std::slice::from_ref(&expr), &NAMES, &rows),
        );
    }
}

#[test]
fn filters_and_projections() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, 30);
        let predicate = data::booleans(&mut random, 3);
        let mut operator = filter::new(&predicate, &data::schema()).expect("a boolean");
        let expected = oracle::filter(&predicate, &NAMES, &rows);
        check(
            seed,
            &predicate.to_string(),
            run(operator.as_mut(), &batches),
            expected,
        );

        let exprs = [
            data::texts(&mut random, 2),
            col("n").alias("m"),
            data::floats(&mut random, 2),
        ];
        let mut operator = project::new(&exprs, &data::schema()).expect("expressions that fit");
        let expected = oracle::project(&exprs, &NAMES, &rows);
        check(seed, "project", run(operator.as_mut(), &batches), expected);
    }
}

#[test]
fn explode_of_words() {
    for seed in 0..100 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, 60);
        let exprs = [col("a"), words(col("text")).alias("word"), col("text")];
        let lists = oracle::project(&exprs, &NAMES, &rows).expect("words cannot fail");
        let mut project = project::new(&exprs, &data::schema()).expect("columns that exist");
        let mut made = Vec::new();
        for batch in &batches {
            let mut emit = |batch| {
                made.push(batch);
                Ok(())
            };
            project
                .push(batch.clone(), &mut emit)
                .expect("words cannot fail");
        }
        // Slices and null lists with elements behind them have to come out right too.
        let cut: Vec<RecordBatch> = made
            .iter()
            .map(|batch| batch.slice(1, batch.num_rows() - 1))
            .collect();
        let schema: SchemaRef = made[0].schema();
        for (batches, skipped) in [(&made, false), (&cut, true)] {
            let mut expected = Vec::new();
            let mut start = 0;
            for batch in &made {
                let end = start + batch.num_rows();
                expected.extend(oracle::explode(
                    1,
                    &lists[start + usize::from(skipped)..end],
                ));
                start = end;
            }
            let mut operator = explode::new("word", &schema).expect("a list");
            check(
                seed,
                "explode",
                run(operator.as_mut(), batches),
                Ok(expected),
            );
        }
    }
}

#[test]
fn limits() {
    for seed in 0..100 {
        let mut random = Rng::with_seed(seed);
        let (rows, batches) = input(&mut random, 30);
        let (offset, limit) = (random.usize(..40), random.usize(..60));
        let state = LimitState::new(offset as u64, limit as u64);
        let found = run(state.lane().as_mut(), &batches);
        let kept = rows.iter().skip(offset).take(limit).cloned().collect();
        check(seed, "limit", found, Ok(kept));
        let full = rows.len() >= offset + limit || limit == 0;
        assert_eq!(state.is_full(), full, "seed={seed}");
    }
}

#[test]
fn orders() {
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let most = if seed % 10 == 0 { 3000 } else { 50 };
        let (rows, batches) = input(&mut random, most);
        let keys = data::sort_keys(&mut random);
        let lanes = random.usize(1..4);
        let budget = MemoryBudget::new(1 << 30);
        let expected = oracle::sort(&keys, &NAMES, &rows).expect("keys that cannot fail");

        let limit = random.usize(..rows.len() + 10);
        let limit = if random.bool() { limit } else { limit.min(7) };
        let top = TopK::within(&keys, limit as u64, &data::schema(), &budget).expect("keys");
        let found = run_breaker(&top, &batches, lanes);
        let best = &expected[..limit.min(expected.len())];
        assert_eq!(text(&found), text(best), "seed={seed} top {limit}");

        // A sort leaves rows with equal keys as they came: a lane has the rows of a morsel.
        let sort = Sort::within(&keys, &data::schema(), &budget).expect("keys");
        let found = run_breaker(&sort, &batches, lanes);
        let expected = oracle::sort_stable(&keys, &NAMES, &rows).expect("keys that cannot fail");
        assert_eq!(text(&found), text(&expected), "seed={seed} sort");
        drop((top, sort));
        assert_eq!(budget.used(), 0, "seed={seed}: all memory is given back");
    }
}

#[test]
fn a_sort_larger_than_its_memory_goes_to_disk() {
    let mut random = Rng::with_seed(1);
    let rows: Vec<_> = data::rows(&mut random, 60_000);
    let batches: Vec<RecordBatch> = rows.chunks(2_000).map(data::batch).collect();
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let orders = [
        vec![col("text").desc(), col("n").asc()],
        vec![col("text").asc().nulls_first()],
        vec![col("text").desc()],
        vec![col("ok").asc()],
        vec![col("n").desc().nulls_first(), col("b").asc()],
    ];
    for keys in orders {
        let expected = oracle::sort_stable(&keys, &NAMES, &rows).expect("keys that cannot fail");
        for budget in [1, 2, 3].map(|mib| MemoryBudget::new(mib << 20)) {
            assert!(bytes as u64 > budget.limit(), "all fits in memory: {bytes}");
            for lanes in [1, 3] {
                let sort = Sort::within(&keys, &data::schema(), &budget).expect("keys");
                let found = run_breaker(&sort, &batches, lanes);
                assert!(text(&found) == text(&expected), "{keys:?} lanes={lanes}");
                assert!(budget.disk().peak() > 0, "nothing has gone to disk");
                drop(sort);
                assert_eq!(budget.used(), 0, "all memory is given back");
                assert_eq!(budget.disk().used(), 0, "all disk is given back");
            }
        }
    }
}

#[test]
fn sequences_are_pieces_of_the_order() {
    let mut random = Rng::with_seed(2);
    let rows: Vec<_> = data::rows(&mut random, 30_000);
    let batches: Vec<RecordBatch> = rows.chunks(1_000).map(data::batch).collect();
    for keys in [vec![col("text").asc()], vec![col("ok").desc()]] {
        let expected = oracle::sort_stable(&keys, &NAMES, &rows).expect("keys that cannot fail");
        for budget in [1 << 20, 1 << 30].map(MemoryBudget::new) {
            let sort = Sort::within(&keys, &data::schema(), &budget).expect("keys");
            collect(&sort, &batches, 2);
            let sequences = sort.sequences(Some(200 << 10)).expect("memory for all");
            assert!(sequences.len() > 4, "sequences={}", sequences.len());
            // Lanes take them side by side, and whichever they like first.
            let mut found: Vec<_> = (0..sequences.len()).map(|_| Vec::new()).collect();
            let mut sequences: Vec<_> = sequences.into_iter().enumerate().collect();
            random.shuffle(&mut sequences);
            for (number, morsels) in sequences {
                found[number] = emitted(morsels);
            }
            let large = found.iter().filter(|rows| rows.len() > 1_000).count();
            assert!(
                large > 3,
                "{:?}",
                found.iter().map(Vec::len).collect::<Vec<_>>()
            );
            assert!(text(&found.concat()) == text(&expected), "{keys:?}");
            drop(sort);
            assert_eq!(budget.used(), 0, "all memory is given back");
        }
    }
}

#[test]
fn a_sort_without_memory_for_merging_says_so() {
    let batch = data::batch(&data::rows(&mut Rng::with_seed(1), 20_000));
    let budget = MemoryBudget::new(10_000);
    let sort = Sort::within(&[col("a").asc()], &data::schema(), &budget).expect("a key");
    let mut lane = sort.lane().expect("a lane");
    for _ in 0..2 {
        lane.push(batch.clone(), &mut |_| Ok(()))
            .expect("it goes to disk");
    }
    lane.finish(&mut |_| Ok(())).expect("it is a lane");
    let error = sort.merge().err().expect("two blocks do not fit");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(
        error.message().starts_with("sort needs more memory"),
        "{error}"
    );
}

#[test]
fn and_and_or_guard_their_right_side() {
    let batch = data::batch(&data::rows(&mut Rng::with_seed(3), 100));
    let quotient = (lit(10) / col("n")).gt(2);
    evaluate(&quotient, &batch).expect_err("some row has zero");
    evaluate(&col("n").not_eq(0).and(quotient.clone()), &batch).expect("guarded by and");
    evaluate(&col("n").eq(0).or(quotient), &batch).expect("guarded by or");
}

#[test]
fn a_failed_row_names_its_expression() {
    let batches: Vec<RecordBatch> = (0..3)
        .map(|seed| data::batch(&data::rows(&mut Rng::with_seed(seed), 9)))
        .collect();
    let batch = concat_batches(&data::schema(), &batches).expect("one schema");
    let error = evaluate(&(lit(1) + col("a") / 0), &batch).expect_err("a division by zero");
    assert_eq!(error.report(), "a / 0: division by zero");
    let error = evaluate(&col("text").cast(arrow::datatypes::DataType::Int64), &batch);
    let error = error.expect_err("text is not a number").report();
    assert!(error.starts_with("CAST(text AS Int64): "), "{error}");
}
