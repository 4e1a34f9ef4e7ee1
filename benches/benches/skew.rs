//! A join and a grouping where one key has half of all rows, beside the same where all keys have
//! as many, on a cluster that runs: `cargo bench --bench skew -- DIRECTORY DRIVER`.
//!
//! The rows are written into the directory unless they are there. The side that the join looks up
//! in is too large for executors of 350 MiB to be sent to all of them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use kiln::{DataFrame, Error, JoinKind, Result, Session, col, count_all, sum};
use parquet::arrow::ArrowWriter;

/// Rows that are joined and grouped, and how many keys they have.
const ROWS: u64 = 24_000_000;
const KEYS: u64 = 6_000_000;

/// Files of rows: some for each task.
const FILES: u64 = 16;

/// How often each job is run, beside one run that does not count.
const RUNS: usize = 5;

const BATCH_ROWS: u64 = 1 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&String> = arguments.iter().filter(|one| *one != "--bench").collect();
    let [directory, driver] = arguments[..] else {
        eprintln!("usage: cargo bench --bench skew -- DIRECTORY DRIVER");
        return Ok(());
    };
    let directory = Path::new(directory);
    write_all(directory)?;
    let session = Session::connect(driver)?;
    let table = |name: &str| session.read_parquet(directory.join(name).display().to_string());
    let keys = table("keys")?;
    let (even, skewed) = (table("even")?, table("skewed")?);
    compare("join", joined(&even, &keys)?, joined(&skewed, &keys)?)?;
    compare("group", grouped(&even)?, grouped(&skewed)?)
}

/// The sum of a product over all pairs.
fn joined(rows: &DataFrame, keys: &DataFrame) -> Result<DataFrame> {
    let pairs = rows.join(keys, JoinKind::Inner, ["key"])?;
    pairs.aggregate([sum(col("value") * col("weight")).alias("sum")])
}

/// How many groups there are.
fn grouped(rows: &DataFrame) -> Result<DataFrame> {
    let groups = rows.group_by([col("key")]);
    let groups = groups.aggregate([count_all().alias("rows"), sum(col("value")).alias("sum")])?;
    groups.aggregate([count_all().alias("groups"), sum(col("rows")).alias("rows")])
}

/// Runs both in turn and prints medians, and the ratio pair by pair.
fn compare(name: &str, even: DataFrame, skewed: DataFrame) -> Result<()> {
    let (mut evens, mut skews) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let (one, other) = (seconds(&even)?, seconds(&skewed)?);
        if run > 0 {
            evens.push(one);
            skews.push(other);
        }
    }
    let ratios = skews.iter().zip(&evens).map(|(skew, even)| skew / even);
    let (ratio, least, most) = median(ratios.collect());
    let ((even, ..), (skew, ..)) = (median(evens), median(skews));
    eprintln!("{name}: {even:.2} s, with a key of half of all rows {skew:.2} s");
    eprintln!("  ratio {ratio:.2} ({least:.2} to {most:.2}, {RUNS} pairs)");
    Ok(())
}

fn seconds(frame: &DataFrame) -> Result<f64> {
    let started = Instant::now();
    frame.collect()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The median, the least and the most.
fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    )
}

fn write_all(directory: &Path) -> Result<()> {
    let key = |row: u64| mixed(row) % KEYS;
    let skewed = |row: u64| if mixed(row) >> 63 == 0 { 7 } else { key(row) };
    write(&directory.join("even"), ("value", ROWS), key)?;
    write(&directory.join("skewed"), ("value", ROWS), skewed)?;
    write(&directory.join("keys"), ("weight", KEYS), |row| row)
}

/// Writes files of rows with a key and one more column, unless they are there.
fn write(directory: &Path, (name, rows): (&str, u64), key: impl Fn(u64) -> u64) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let failed = |error| Error::unavailable("the data cannot be written").with_source(error);
    let refused = |error| Error::internal("the data cannot be encoded").with_source(error);
    let staging = directory.with_extension("part");
    std::fs::create_dir_all(&staging).map_err(failed)?;
    for file in 0..FILES {
        let path = staging.join(format!("{file}.parquet"));
        let mut writer = None;
        let (first, end) = (file * rows / FILES, (file + 1) * rows / FILES);
        for start in (first..end).step_by(BATCH_ROWS as usize) {
            let rows = start..end.min(start + BATCH_ROWS);
            let keys = Int64Array::from_iter_values(rows.clone().map(|row| key(row) as i64));
            let values = rows.map(|row| (mixed(row ^ 0x5555) % 1_000_000) as i64);
            let columns: [(&str, ArrayRef); 2] = [
                ("key", Arc::new(keys)),
                (name, Arc::new(Int64Array::from_iter_values(values))),
            ];
            let batch = RecordBatch::try_from_iter(columns)?;
            if writer.is_none() {
                let file = File::create(&path).map_err(failed)?;
                writer = Some(ArrowWriter::try_new(file, batch.schema(), None).map_err(refused)?);
            }
            if let Some(writer) = &mut writer {
                writer.write(&batch).map_err(refused)?;
            }
        }
        if let Some(writer) = writer {
            writer.close().map_err(refused)?;
        }
    }
    std::fs::rename(&staging, directory).map_err(failed)
}

/// A number without order (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
