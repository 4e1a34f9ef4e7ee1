//! Jobs whose data is many times larger than the memory that they may have, with right answers and
//! a process that stays small.
//!
//! Each job runs in a process of its own, this program once more: what that process needed at most
//! is what it is about. It has the allocator of the command, set as the command sets it. Data and
//! memory are a tenth of what is promised for 512 MiB; with `KILN_SCALE=10` they are the whole.

#[path = "../../src/cli/allocator.rs"]
mod allocator;
mod faults;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use kiln::{DataFrame, Session, col, count, count_all, sum};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Which job the process is to run.
const JOB: &str = "KILN_TEST_JOB";

/// Where its data is.
const DATA: &str = "KILN_TEST_DATA";

/// What the job says of itself, on a line of its own.
const SAID: &str = "what the job said: ";

/// How many times a tenth everything is: `KILN_SCALE=10` is the whole.
fn scale() -> i64 {
    let scale = std::env::var("KILN_SCALE").ok();
    scale.map_or(1, |scale| scale.parse().expect("a number"))
}

/// Bytes of memory that a job may reserve.
fn memory() -> u64 {
    scale() as u64 * (512 << 20) / 10
}

/// Bytes that its process may have beside: code, stacks, and batches on their way.
const BESIDE: u64 = 360 << 20;

/// Bytes that a process may have in all that answers one query after the other, at any scale: its
/// allocator keeps some of what each has given back.
const MANY_QUERIES: u64 = 900_000_000;

/// Rows of each table of records, of a hundred bytes.
fn record_count() -> i64 {
    5_000_000 * scale()
}

/// Rows of the table of numbers, and how many groups they are.
fn number_count() -> i64 {
    10_000_000 * scale()
}

fn group_count() -> i64 {
    number_count() / 2
}

/// Words of the text, and how many of them are different.
fn word_count() -> i64 {
    18_000_000 * scale()
}

fn different_words() -> i64 {
    1_160_000 * scale()
}

/// A directory for the data of one test, empty.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join("bigger")
        .join(name);
    if path.exists() {
        fs::remove_dir_all(&path).expect("what an earlier run left can be removed");
    }
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// A process that runs a job of [`job`] over `data`.
fn child(name: &str, data: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "job", "--ignored", "--nocapture"]);
    command.env(JOB, name).env(DATA, data);
    command
}

/// Runs a job; answers with what it said, behind the bytes that its process had at most.
fn peak_and_said(child: &mut Command) -> (u64, Vec<i64>) {
    let ran = child.output().expect("this program can be started");
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{child:?}: {text}{errors}");
    let said = text.lines().find_map(|line| line.split_once(SAID));
    let (_, said) = said.unwrap_or_else(|| panic!("{child:?} said nothing: {text}"));
    let numbers = said
        .split(' ')
        .map(|number| number.parse().expect("a number"));
    let mut numbers: Vec<i64> = numbers.collect();
    let peak = numbers.remove(0) as u64;
    (peak, numbers)
}

/// Runs a job; answers with what it said.
fn said(child: &mut Command) -> Vec<i64> {
    peak_and_said(child).1
}

/// Runs a job of [`job`] over `data` in a process of its own; answers with what it said, after
/// looking at how large the process was.
fn run(name: &str, data: &Path) -> Vec<i64> {
    let (peak, said) = peak_and_said(&mut child(name, data));
    let mut out = std::io::stdout();
    writeln!(out, "\n{name} needed {} MB", peak / 1_000_000).expect("stdout");
    assert!(peak < memory() + BESIDE, "{peak} bytes are too much");
    said
}

/// The most memory that this process has had, in bytes.
fn peak() -> i64 {
    let status = fs::read_to_string("/proc/self/status").expect("what Linux says of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    1024 * kib.expect("a number of kibibytes")
}

/// The job that [`run`] has asked for; nothing when the tests are run.
#[test]
#[ignore = "a part of the other tests, which run it in a process of its own"]
fn job() {
    let Ok(name) = std::env::var(JOB) else {
        return;
    };
    let data = PathBuf::from(std::env::var(DATA).expect("a place for data"));
    let session = || {
        let session = Session::builder().threads(2).memory(memory()).build();
        let session = session.expect("a session");
        allocator::stay_near(session.memory_budget().expect("it is in this process"));
        session
    };
    let said = match name.as_str() {
        "words" => words(&session(), &data),
        "groups" => groups(&session(), &data),
        "join" => join(&session(), &data),
        "misjudged" => misjudged(&session(), &data),
        "sort" => sort(&session(), &data),
        "ten" => faults::ten(&session(), &data),
        name if name.starts_with("damaged ") => faults::damaged(name, &data),
        other => panic!("no job {other}"),
    };
    let said = said.expect("the job is done");
    let said: Vec<String> = [peak()].iter().chain(&said).map(i64::to_string).collect();
    let mut out = std::io::stdout();
    writeln!(out, "\n{SAID}{}", said.join(" ")).expect("stdout");
}

/// The numbers in the one row of a result.
fn numbers(rows: &[RecordBatch]) -> Vec<i64> {
    let row = rows
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .expect("a row");
    let value = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(0);
    row.columns().iter().map(value).collect()
}

/// The rows of all files of a directory, in the order of the names.
fn read(directory: &Path) -> impl Iterator<Item = RecordBatch> {
    let entries = fs::read_dir(directory).expect("an output");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "parquet")
        })
        .collect();
    paths.sort();
    paths.into_iter().flat_map(|path| {
        let file = File::open(path).expect("a file");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|it| it.build());
        reader
            .expect("a Parquet file")
            .map(|batch| batch.expect("rows"))
    })
}

/// A number that looks like chance, of the number that it is of.
fn scrambled(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

/// Number `row` of `rows` in another order, which `seed` names.
fn shuffled(row: i64, seed: i64) -> i64 {
    // Prime to the number of rows, which has no prime factors but 2 and 5.
    (row * (7_654_321 + 20 * seed) + 17 * seed) % record_count()
}

#[test]
fn words_are_counted() {
    let data = directory("words");
    let mut text = BufWriter::new(File::create(data.join("text.txt")).expect("a file"));
    for number in 0..word_count() as u64 {
        // The first come often, the last once or twice.
        let word = match number % 2 {
            0 => scrambled(number) % 1000,
            _ => number / 2 % different_words() as u64,
        };
        let end = if number % 12 == 11 { '\n' } else { ' ' };
        write!(text, "w{word:x}{end}").expect("room on disk");
    }
    text.into_inner().expect("room on disk");
    let said = run("words", &data);
    assert_eq!(said, [different_words(), word_count()]);
    fs::remove_dir_all(data).expect("data can be removed");
}

fn words(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let text = session.read_text([data.join("text.txt").display().to_string()])?;
    let words = text.select([kiln::words(col("line")).alias("word")])?;
    let counts = words.explode("word")?;
    let counts = counts
        .group_by([col("word")])
        .aggregate([count_all().alias("n")])?;
    let all = counts.aggregate([count_all().alias("words"), sum(col("n")).alias("n")])?;
    Ok(numbers(&all.collect()?))
}

#[test]
fn groups_are_made() {
    let data = directory("groups");
    for part in 0..4 {
        let file = File::create(data.join(format!("{part}.parquet"))).expect("a file");
        let batch = |start: i64| {
            let rows = (start..start + 100_000).map(|row| row * 4 + part);
            let keys = rows.clone().map(|row| row * 7_654_321 % group_count());
            let columns: [(&str, ArrayRef); 2] = [
                ("k", Arc::new(Int64Array::from_iter_values(keys))),
                ("v", Arc::new(Int64Array::from_iter_values(rows))),
            ];
            RecordBatch::try_from_iter(columns).expect("columns of one length")
        };
        let mut writer = ArrowWriter::try_new(file, batch(0).schema(), None).expect("a writer");
        for start in (0..number_count() / 4).step_by(100_000) {
            writer.write(&batch(start)).expect("room on disk");
        }
        writer.close().expect("room on disk");
    }
    let said = run("groups", &data);
    let rows = number_count();
    let sum = rows * (rows - 1) / 2;
    assert_eq!(said, [group_count(), rows, sum, group_count()]);
    fs::remove_dir_all(data).expect("data can be removed");
}

fn groups(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let rows = session.read_parquet([data.display().to_string()])?;
    let groups = rows
        .group_by([col("k")])
        .aggregate([count_all().alias("n"), sum(col("v")).alias("v")])?;
    let all = groups.aggregate([
        count_all().alias("groups"),
        sum(col("n")).alias("n"),
        sum(col("v")).alias("v"),
    ])?;
    let different = rows.aggregate([kiln::count_distinct(col("k")).alias("different")])?;
    let mut said = numbers(&all.collect()?);
    said.extend(numbers(&different.collect()?));
    Ok(said)
}

/// Two tables of records of a hundred bytes and a number, in different orders. Tests that read
/// them share them; they stay until the next run.
fn records() -> &'static Path {
    static RECORDS_AT: OnceLock<PathBuf> = OnceLock::new();
    RECORDS_AT.get_or_init(|| {
        let data = directory("records");
        for table in 0..2 {
            write_records(&data.join(format!("{table}.parquet")), table);
        }
        data
    })
}

fn write_records(path: &Path, table: i64) {
    let batch = |start: i64| {
        let ids: Vec<i64> = (start..start + 50_000)
            .map(|row| shuffled(row, table))
            .collect();
        let key = |id: &i64| {
            format!(
                "{:010x}",
                scrambled((id + table * record_count()) as u64) >> 24
            )
        };
        let payload = |id: &i64| {
            let parts = (0..6).map(|part| scrambled((id * 6 + part) as u64));
            let text: String = parts.map(|part| format!("{part:016x}")).collect();
            text[..90].to_owned()
        };
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from(ids.clone()))),
            (
                "key",
                Arc::new(StringArray::from_iter_values(ids.iter().map(key))),
            ),
            (
                "payload",
                Arc::new(StringArray::from_iter_values(ids.iter().map(payload))),
            ),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    };
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch(0).schema(), None).expect("a writer");
    for start in (0..record_count()).step_by(50_000) {
        writer.write(&batch(start)).expect("room on disk");
        if writer.in_progress_size() > 16 << 20 {
            writer.flush().expect("room on disk");
        }
    }
    writer.close().expect("room on disk");
}

#[test]
fn tables_are_joined() {
    let said = run("join", records());
    let rows = record_count();
    // The payload of a record is the same in both tables, its key is another.
    assert_eq!(said, [rows, rows * (rows - 1) / 2, rows]);
}

#[test]
fn a_table_that_is_taken_for_small_is_joined() {
    let said = run("misjudged", records());
    fs::remove_dir_all(records().join("csv")).expect("data can be removed");
    let rows = record_count();
    assert_eq!(said, [rows, rows * (rows - 1) / 2, rows]);
}

/// Joins both tables, one of them behind filters that seem to leave nearly nothing of it, and leave
/// all. The other one is in text files, which several tasks read.
fn misjudged(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let (left, right) = tables(session, data)?;
    let texts = data.join("csv").display().to_string();
    left.repartition(8)?.write_csv(&texts)?;
    let id = || col("r_id");
    let right = right.filter((id() * 2).eq(id() + id()))?;
    let right = right.filter((id() * 3).eq(id() + id() + id()))?;
    joined(&session.read_csv([texts])?, &right)
}

fn join(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let (left, right) = tables(session, data)?;
    joined(&left, &right)
}

/// Both tables, the columns of the second with another name.
fn tables(session: &Session, data: &Path) -> kiln::Result<(DataFrame, DataFrame)> {
    let table = |table: &str| session.read_parquet([data.join(table).display().to_string()]);
    Ok((table("0.parquet")?, table("1.parquet")?.with_prefix("r_")?))
}

/// How many records both have, the sum of their numbers, and how many have the same payload.
fn joined(left: &DataFrame, right: &DataFrame) -> kiln::Result<Vec<i64>> {
    let both = left.join(right, kiln::JoinKind::Inner, [("id", "r_id")])?;
    let same = count(kiln::case_when(col("payload").eq(col("r_payload")), kiln::lit(1)).end());
    let all = both.aggregate([
        count_all().alias("rows"),
        sum(col("id")).alias("ids"),
        same.alias("same"),
    ])?;
    Ok(numbers(&all.collect()?))
}

#[test]
fn records_are_sorted() {
    let said = run("sort", records());
    let output = records().join("sorted");
    let each = record_count();
    assert_eq!(said, [2 * each]);
    let (mut rows, mut ids, mut last) = (0, 0, String::new());
    for batch in read(&output) {
        rows += batch.num_rows() as i64;
        ids += arrow::compute::sum(batch["id"].as_primitive::<Int64Type>()).unwrap_or(0);
        for key in arrow::compute::cast(&batch["key"], &arrow::datatypes::DataType::Utf8)
            .expect("text")
            .as_string::<i32>()
            .iter()
        {
            let key = key.expect("a key");
            assert!(last.as_str() <= key, "{last} before {key}");
            last.clear();
            last.push_str(key);
        }
    }
    assert_eq!((rows, ids), (2 * each, each * (each - 1)));
    fs::remove_dir_all(output).expect("an output can be removed");
}

fn sort(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let records = session.read_parquet([data.join("*.parquet").display().to_string()])?;
    let output = data.join("sorted").display().to_string();
    let written = records.sort([col("key").asc()])?.write_parquet(&output)?;
    Ok(vec![written.rows as i64])
}

/// The answers of the benchmark at scale 1 are known; those at other scales are those that it gives
/// with all memory.
#[test]
fn the_benchmark_is_answered() {
    let kiln = env!("CARGO_BIN_EXE_kiln");
    let data = directory("tpch");
    let said = |arguments: &[&str]| {
        let ran = Command::new(kiln)
            .args(arguments)
            .output()
            .expect("kiln can be started");
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments:?}: {errors}");
    };
    let place = |name: &str| data.join(name).display().to_string();
    let (tables, answers, figures) = (place("tables"), place("answers"), place("figures.json"));
    let (scale, memory_text) = (scale(), memory().to_string());
    said(&[
        "generate",
        "tpch",
        "--scale",
        &scale.to_string(),
        "--output",
        &tables,
    ]);
    let bench = ["bench", "tpch", "--data", &tables, "--threads", "2"];
    let limited = [&bench[..], &["--memory", &memory_text, "--json", &figures]].concat();
    match scale {
        1 => said(&limited),
        _ => {
            said(&[&bench[..], &["--results", &answers]].concat());
            said(&[&limited[..], &["--answers", &answers]].concat());
        }
    }
    let text = fs::read_to_string(&figures).expect("figures");
    let figures: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let queries = figures.as_array().expect("figures of queries");
    assert_eq!(queries.len(), 22, "{text}");
    let peaks = queries
        .iter()
        .filter_map(|query| query["peak_memory_bytes"].as_u64());
    let peak = peaks.max().expect("a size");
    assert!(peak < MANY_QUERIES, "{} MB", peak / 1_000_000);
    fs::remove_dir_all(data).expect("data can be removed");
}
