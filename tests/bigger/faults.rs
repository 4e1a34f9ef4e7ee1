//! Disks that spoil what was written to them: the attempt fails and says why, and the next one is
//! right. And many jobs at once that need them.
//!
//! A function of the user's stands in the way of the last row: when it is called, one lane has
//! handed all other rows on, and most of them are on disk.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use kiln::{DataFrame, ErrorKind, Job, ScalarFunction, Session, col, sum};
use kiln_proto::message::AttemptState;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::{child, directory, said, scrambled};

/// Rows of the larger table; the other one has half of them.
const ROWS: i64 = 400_000;

/// Rows that are read at once.
const ROW_GROUP: usize = 20_000;

/// Bytes of memory, of which the rows take several times as much.
const MEMORY: u64 = 8 << 20;

/// What a job does with the rows.
#[derive(Debug, Clone, Copy)]
enum Work {
    Sort,
    Groups,
    Join,
}

const WORK: [(&str, Work); 3] = [
    ("sort", Work::Sort),
    ("groups", Work::Groups),
    ("join", Work::Join),
];

/// What happens to files.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Truncated,
    Flipped,
}

const DAMAGE: [(&str, Damage); 2] = [
    ("truncated", Damage::Truncated),
    ("flipped", Damage::Flipped),
];

/// Writes the tables `left.parquet` and `right.parquet`, in the order of their ids.
pub(super) fn write_tables(data: &Path) {
    for (table, rows) in [("left", ROWS), ("right", ROWS / 2)] {
        let file = File::create(data.join(table).with_extension("parquet")).expect("a file");
        let ids: Vec<i64> = (0..rows).collect();
        let text = |id: &i64| {
            let [one, other] = [2 * id, 2 * id + 1].map(|number| scrambled(number as u64));
            format!("{one:016x}{other:016x}")
        };
        let columns: [(&str, ArrayRef); 2] = [
            ("id", Arc::new(Int64Array::from(ids.clone()))),
            (
                "text",
                Arc::new(StringArray::from_iter_values(ids.iter().map(text))),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(ROW_GROUP));
        let writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build()));
        let mut writer = writer.expect("a writer");
        writer.write(&batch).expect("room on disk");
        writer.close().expect("room on disk");
    }
}

impl Work {
    /// The rows on which the job works, each of which passes `hook` on its way.
    fn frame(
        self,
        session: &Session,
        data: &Path,
        hook: &ScalarFunction,
    ) -> kiln::Result<DataFrame> {
        let table = |name: &str| {
            let path = data.join(name).with_extension("parquet");
            session.read_parquet([path.display().to_string()])
        };
        let hooked = hook.call([col("id")]).alias("id");
        let left = table("left")?.select([hooked, col("text")])?;
        match self {
            Work::Sort => left.sort([col("text").asc()]),
            Work::Groups => left
                .group_by([col("text")])
                .aggregate([sum(col("id")).alias("id")]),
            Work::Join => {
                let right = table("right")?.with_prefix("r_")?;
                left.join(&right, kiln::JoinKind::Inner, [("id", "r_id")])
            }
        }
    }

    /// Whether the result of `job` is right, after it has been waited for.
    fn is_right(self, job: &Job) -> kiln::Result<bool> {
        let (mut rows, mut ids, mut last, mut ordered) = (0, 0, String::new(), true);
        job.wait()?;
        for batch in job.rows()? {
            let batch = batch?;
            rows += batch.num_rows() as i64;
            ids += batch["id"]
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .sum::<i64>();
            for text in batch["text"].as_string_view().iter().flatten() {
                ordered &= last.as_str() <= text;
                last.clear();
                last.push_str(text);
            }
        }
        let expected = match self {
            Work::Sort | Work::Groups => ROWS,
            Work::Join => ROWS / 2,
        };
        let ordered = ordered || !matches!(self, Work::Sort);
        Ok(ordered && rows == expected && ids == expected * (expected - 1) / 2)
    }
}

/// The files of this process in `directory` that have no name.
fn spill_files(directory: &Path) -> impl Iterator<Item = File> {
    let open = fs::read_dir("/proc/self/fd").expect("what Linux says of a process");
    open.filter_map(move |open| {
        let open = open.expect("an open file").path();
        // It may have been closed meanwhile.
        let target = fs::read_link(&open).ok()?;
        let file = (target.parent() == Some(directory))
            .then(|| OpenOptions::new().read(true).write(true).open(&open));
        file.map(|file| file.expect("a file without a name can be opened once more"))
    })
}

/// Bytes of a file.
fn size(file: &File) -> u64 {
    file.metadata().expect("a size").len()
}

impl Damage {
    /// Does it to all spill files in `directory`; says how many bytes were in them.
    fn strike(self, directory: &Path) -> u64 {
        let mut struck = 0;
        for file in spill_files(directory) {
            let bytes = size(&file);
            match self {
                Damage::Truncated => file.set_len(bytes / 2).expect("a shorter file"),
                Damage::Flipped => {
                    for at in (0..bytes).step_by(4096) {
                        let mut byte = [0];
                        file.read_exact_at(&mut byte, at).expect("a byte");
                        file.write_all_at(&[!byte[0]], at).expect("a byte");
                    }
                }
            }
            struck += bytes;
        }
        struck
    }
}

/// How the attempts of `job` ended: failures of that kind whose message has `text`, other
/// failures, and tasks that were done.
fn attempts(job: &Job, kind: ErrorKind, text: &str) -> kiln::Result<[i64; 3]> {
    let mut ended = [0; 3];
    let status = job.status()?;
    for attempt in status.stages.iter().flat_map(|stage| &stage.attempts) {
        let expected = |failure: &kiln_engine::plan::TaskFailure| {
            failure.kind == kind && failure.message.contains(text)
        };
        ended[match attempt.state {
            AttemptState::Won => 2,
            _ if attempt.failure.as_ref().is_some_and(expected) => 0,
            _ => 1,
        }] += 1;
    }
    Ok(ended)
}

/// A process that runs a job over `data` and has the directory of spill files to itself.
fn spilling(name: &str, data: &Path) -> Command {
    let spilled = data.join("spilled");
    fs::create_dir_all(&spilled).expect("a directory");
    let mut command = child(name, data);
    command.env("TMPDIR", &spilled);
    command
}

#[test]
fn damaged_files_cost_an_attempt() {
    let data = directory("damaged");
    write_tables(&data);
    for (work, _) in WORK {
        for (damage, _) in DAMAGE {
            let numbers = said(&mut spilling(&format!("damaged {work} {damage}"), &data));
            let [struck, damaged, other, won, right] = numbers[..] else {
                panic!("{work} {damage}: {numbers:?}");
            };
            assert!(struck > MEMORY as i64 / 2, "{work} {damage}: {numbers:?}");
            assert_eq!((damaged, other, right), (1, 0, 1), "{work} {damage}");
            assert!(won > 0, "{work} {damage}: {numbers:?}");
        }
    }
    fs::remove_dir_all(data).expect("data can be removed");
}

/// The job of [`damaged_files_cost_an_attempt`] that `name` says.
pub(super) fn damaged(name: &str, data: &Path) -> kiln::Result<Vec<i64>> {
    let mut words = name.split(' ').skip(1);
    let mut word = || words.next().expect("a word");
    let (work, damage) = (word(), word());
    let (_, work) = WORK.into_iter().find(|one| one.0 == work).expect("a job");
    let (_, damage) = DAMAGE
        .into_iter()
        .find(|one| one.0 == damage)
        .expect("a damage");
    let session = Session::builder().threads(1).memory(MEMORY).build()?;
    let struck = Arc::new(AtomicU64::new(0));
    let hook = {
        let (struck, spilled, once) = (struck.clone(), data.join("spilled"), AtomicBool::new(true));
        ScalarFunction::new("strike", move |id: i64| {
            if id + 1 == ROWS && once.swap(false, Ordering::Relaxed) {
                struck.store(damage.strike(&spilled), Ordering::Relaxed);
            }
            id
        })
    };
    let job = work.frame(&session, data, &hook)?.submit(name)?;
    let right = work.is_right(&job)?;
    let mut said = vec![struck.load(Ordering::Relaxed) as i64];
    said.extend(attempts(
        &job,
        ErrorKind::Corrupt,
        "a spill file is damaged",
    )?);
    said.push(i64::from(right));
    Ok(said)
}

#[test]
fn ten_jobs_at_once_are_done_within_one_budget() {
    let data = directory("ten");
    write_tables(&data);
    assert_eq!(super::run("ten", &data), [10]);
    fs::remove_dir_all(data).expect("data can be removed");
}

/// The jobs of [`ten_jobs_at_once_are_done_within_one_budget`]; says how many were right.
pub(super) fn ten(session: &Session, data: &Path) -> kiln::Result<Vec<i64>> {
    let same = ScalarFunction::new("same", |id: i64| id);
    let mut jobs = Vec::new();
    for number in 0..10 {
        let (name, work) = WORK[number % WORK.len()];
        jobs.push((work, work.frame(session, data, &same)?.submit(name)?));
    }
    let mut right = 0;
    for (work, job) in &jobs {
        right += i64::from(work.is_right(job)?);
    }
    Ok(vec![right])
}
