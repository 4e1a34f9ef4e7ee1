//! Random plans over random tables, each run in several ways that have to agree: computed a row at
//! a time; in one process and cut up as on a cluster, optimised and as it was written.
//!
//! `KILN_SEED=N` runs one seed; `KILN_SEEDS=N` runs N seeds, from `KILN_SEED_FIRST` on. The test
//! that is not run by itself writes seeds to `KILN_DUCKDB_DIR` for `tests/duckdb/compare.py`.

#[path = "../../../engine/tests/reference/oracle.rs"]
#[expect(dead_code, reason = "these plans have no lists")]
mod oracle;

mod compare;
mod exprs;
mod plans;
mod reference;
mod sql;
mod tables;
mod tasks;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use fastrand::Rng;
use futures::FutureExt;
use kiln_driver::planner::{ClusterShape, Planner, PlannerSettings};
use kiln_engine::Result;
use kiln_engine::context::panic_message;
use kiln_engine::plan::{LogicalPlan, StageGraph, explain_logical, explain_stages, schema_of};
use oracle::Row;
use plans::Plans;
use reference::Reference;
use tables::random_tables;
use tasks::Machine;

const EMBEDDED: ClusterShape = ClusterShape {
    executors: 1,
    threads: 2,
    memory: 1 << 30,
    may_grow: false,
};

/// One executor, in whose memory hardly any table fits.
const CROWDED: ClusterShape = ClusterShape {
    memory: 1 << 10,
    ..EMBEDDED
};

const CLUSTER: ClusterShape = ClusterShape {
    executors: 2,
    threads: 4,
    memory: 1 << 30,
    may_grow: true,
};

/// The ways in which a plan is run.
const WAYS: [(&str, ClusterShape, bool); 5] = [
    ("embedded", EMBEDDED, true),
    ("embedded, little memory", CROWDED, true),
    ("cluster", CLUSTER, true),
    ("embedded, not optimised", EMBEDDED, false),
    ("cluster, not optimised", CLUSTER, false),
];

/// Few rows count as many.
fn settings(optimise: bool, seed: u64) -> PlannerSettings {
    PlannerSettings {
        optimise,
        task_input_bytes_min: 64 << 10,
        small_build_bytes: if seed.is_multiple_of(2) { 0 } else { 500 },
    }
}

/// What a seed was about.
#[derive(Debug, Default)]
struct Seen {
    plans: u64,
    rows: u64,
    without_rows: u64,
    that_fail: u64,
    stages: u64,
    sides_together: u64,
}

/// Runs `plan` in one way; gives what happened beside what was asked for.
async fn run(
    machine: &Machine,
    plan: &LogicalPlan,
    (_, cluster, optimise): (&str, ClusterShape, bool),
    seed: u64,
) -> (String, StageGraph, Result<Vec<RecordBatch>, String>) {
    let mut random = Rng::with_seed(seed);
    let mut job = machine.job(&mut random);
    let mut text = String::new();
    let work = async {
        let settings = settings(optimise, seed);
        let planner = Planner::with(settings, plan, cluster, &machine.stores).await?;
        text = explain_logical(planner.plan());
        job.run(planner).await
    };
    let ended = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(ended) => ended.map_err(|error| error.report()),
        Err(panic) => Err(format!("panicked: {}", panic_message(&*panic))),
    };
    let graph = StageGraph {
        stages: job.stages,
        complete: true,
        output: None,
    };
    (text, graph, ended)
}

/// Runs `plan` in every way and says what is wrong, if anything is.
async fn check(
    machine: &Machine,
    plan: &Arc<LogicalPlan>,
    expected: Option<&[Row]>,
    seed: u64,
    seen: &mut Seen,
) -> Option<String> {
    let schema = schema_of(plan).expect("a good plan");
    for way in WAYS {
        let (text, graph, ended) = run(machine, plan, way, seed).await;
        seen.stages += graph.stages.len() as u64;
        let sides = graph.stages.iter().flat_map(|stage| &stage.sides);
        seen.sides_together += sides.filter(|side| !side.broadcast).count() as u64;
        let wrong = match (&ended, expected) {
            (Ok(batches), Some(expected)) => {
                compare::difference(&schema, expected, batches, compare::is_ordered(plan))
            }
            (Err(error), Some(_)) => Some(format!("it has a result but fails: {error}")),
            // An expression that is never needed may go without notice.
            (Ok(_), None) => None,
            (Err(error), None) => error.contains("panicked").then(|| error.clone()),
        };
        if let Some(wrong) = wrong {
            return Some(format!(
                "way: {}\n# logical plan\n{}\n# plan that was run\n{text}\n# stages\n{}\n{wrong}",
                way.0,
                explain_logical(plan),
                explain_stages(&graph),
            ));
        }
    }
    None
}

/// The nodes of a plan, inputs before those that read them.
fn nodes(plan: &Arc<LogicalPlan>, found: &mut Vec<Arc<LogicalPlan>>) {
    for input in plan.inputs() {
        nodes(input, found);
    }
    found.push(Arc::clone(plan));
}

/// Makes the tables and the plan of a seed and checks it; a part of it that is wrong by itself is
/// told instead of the whole.
async fn run_seed(machine: &Machine, seed: u64, seen: &mut Seen) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = Rng::with_seed(seed);
    let tables = random_tables(&mut random, folder.path(), &machine.stores).await;
    let mut plans = Plans::new(&mut random, &tables);
    let plan = plans.plan();
    let mut reference: Reference = plans.reference;
    let expected = reference.rows(&plan).ok();
    seen.plans += 1;
    match &expected {
        None => seen.that_fail += 1,
        Some(rows) if rows.is_empty() => seen.without_rows += 1,
        Some(rows) => seen.rows += rows.len() as u64,
    }
    let rows = expected.as_ref().map(|rows| rows.as_slice());
    let mut wrong = check(machine, &plan, rows, seed, seen).await?;
    let mut parts = Vec::new();
    nodes(&plan, &mut parts);
    for part in parts {
        let rows = reference.rows(&part).ok();
        let rows = rows.as_ref().map(|rows| rows.as_slice());
        if let Some(found) = check(machine, &part, rows, seed, seen).await {
            wrong = found;
            break;
        }
    }
    Some(wrong)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
}

/// The seeds to run where the caller has not chosen others.
fn seeds(count: u64) -> Range<u64> {
    let first = number("KILN_SEED_FIRST").unwrap_or(0);
    match number("KILN_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("KILN_SEEDS").unwrap_or(count),
    }
}

#[tokio::test]
async fn every_way_of_running_a_plan_gives_the_rows_that_it_means() {
    let machine = Machine::new();
    let mut seen = Seen::default();
    let mut failed = Vec::new();
    for seed in seeds(1_000) {
        if let Some(wrong) = run_seed(&machine, seed, &mut seen).await {
            eprintln!("\n==== seed {seed}; KILN_SEED={seed} repeats it\n{wrong}");
            failed.push(seed);
        }
    }
    eprintln!("{seen:?}");
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

#[tokio::test]
#[ignore = "writes files for a comparison with DuckDB: tests/duckdb/compare.py"]
async fn export_for_duckdb() {
    let folder = std::env::var("KILN_DUCKDB_DIR").expect("KILN_DUCKDB_DIR names a folder");
    let machine = Machine::new();
    for seed in seeds(300) {
        let folder = PathBuf::from(&folder).join(format!("seed-{seed}"));
        std::fs::create_dir_all(&folder).expect("a folder for the seed");
        export(&machine, seed, &folder).await;
    }
}

/// Writes the tables of a seed, its query and what Kiln makes of it. A plan without a result has
/// no query.
async fn export(machine: &Machine, seed: u64, folder: &Path) {
    let mut random = Rng::with_seed(seed);
    let tables = random_tables(&mut random, folder, &machine.stores).await;
    let mut plans = Plans::new(&mut random, &tables);
    let plan = plans.plan();
    if plans.reference.rows(&plan).is_err() {
        return;
    }
    let way = WAYS[(seed % 2) as usize];
    let (_, _, ended) = run(machine, &plan, way, seed).await;
    let batches = ended.unwrap_or_else(|error| panic!("seed {seed} fails: {error}"));
    tables::write_batches(&folder.join("kiln.parquet"), &batches, None);
    std::fs::write(folder.join("query.sql"), sql::query(&plan)).expect("a file");
    std::fs::write(folder.join("plan.txt"), explain_logical(&plan)).expect("a file");
}
