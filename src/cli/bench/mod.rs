//! `kiln bench`: how fast queries are, and whether their answers are right.
//!
//! A query is planned before its clock starts, because its tables are looked into once for all
//! runs; the time is from submitting the job to holding its rows. Figures are written after each
//! query, so that an interrupted run has measured something.

mod answer;
mod figures;
mod known;
mod memory;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use kiln::Error;
use kiln::tpch::{self, QUERIES, Tables};

use super::args::{BenchArgs, BenchTpchArgs, Benchmark};
use super::exit::{Failure, Outcome};
use super::follow::{OnInterrupt, follow};
use super::interrupt::Interrupt;
use super::{connect, result};
use answer::Answer;
use figures::{Earlier, Figures, Verdict};

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &BenchArgs) -> Outcome {
    match &args.benchmark {
        Benchmark::Tpch(args) => tpch(args),
    }
}

fn tpch(args: &BenchTpchArgs) -> Outcome {
    let earlier = args.compare.as_deref().map(Earlier::read).transpose()?;
    if let Some(directory) = &args.results {
        fs::create_dir_all(directory).map_err(|error| cannot_write(directory, error))?;
    }
    let session = connect::session(args.cluster.driver.as_ref(), args.resources)?;
    let tables = Tables::open(&session, &args.data);
    let interrupt = Interrupt::listen()?;
    let bench = Bench {
        args,
        suppliers: suppliers(&tables)?,
        tables,
        interrupt,
    };
    let mut all: Vec<Figures> = Vec::new();
    let numbers = match args.queries.as_slice() {
        [] => (1..=QUERIES).collect(),
        numbers => numbers.to_vec(),
    };
    for number in numbers {
        all.push(bench.measure(number)?);
        if let Some(file) = &args.json {
            write_whole(file, &figures::json(&all))?;
        }
    }
    write!(io::stdout(), "{}", figures::table(&all, earlier.as_ref()))?;
    let wrong: Vec<String> = all.iter().filter_map(Figures::complaint).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Job(Error::invalid(format!(
        "wrong answers: {}",
        wrong.join("; ")
    ))))
}

/// How many suppliers there are, which tells the scale.
fn suppliers(tables: &Tables) -> Outcome<u64> {
    let supplier = tables.supplier().map_err(Failure::Usage)?;
    supplier.count().map_err(Failure::Job)
}

/// What all queries have in common.
struct Bench<'a> {
    args: &'a BenchTpchArgs,
    tables: Tables,
    suppliers: u64,
    interrupt: Interrupt,
}

impl Bench<'_> {
    /// Runs query `number` as often as it was asked for.
    fn measure(&self, number: usize) -> Outcome<Figures> {
        let frame = tpch::query(number, &self.tables).map_err(Failure::Job)?;
        let mut figures = Figures::new(number);
        let is_local = self.args.cluster.driver.is_none();
        let peak = is_local.then(memory::Peak::start);
        for run in 0..self.args.runs {
            let started = Instant::now();
            let job = frame
                .submit(&format!("tpch q{number:02}"))
                .map_err(Failure::from_driver)?;
            let status = follow(&job, &self.interrupt, OnInterrupt::CancelJob)?;
            let batches = job.result().map_err(Failure::from_driver)?;
            figures.runs.push(started.elapsed());
            let files = status.stages.iter().filter(|stage| !stage.reads_shuffle);
            figures.bytes_read = files.map(|stage| stage.counts.bytes_in).sum();
            if run > 0 {
                continue;
            }
            result::print_warnings(&status);
            let answer = Answer::of(number, frame.schema(), &batches).map_err(Failure::Job)?;
            figures.rows = answer.rows.len() as u64;
            figures.verdict = self.verdict(number, &answer)?;
            if let Some(directory) = &self.args.results {
                let file = Path::new(directory).join(format!("q{number:02}.csv"));
                write_whole(&file.to_string_lossy(), &answer.csv())?;
            }
        }
        figures.peak_memory_bytes = peak.and_then(memory::Peak::bytes);
        Ok(figures)
    }

    /// Whether an answer is the one that is expected, as far as anybody knows it.
    fn verdict(&self, number: usize, answer: &Answer) -> Outcome<Verdict> {
        let Some(directory) = &self.args.answers else {
            return Ok(known::verdict(self.suppliers, number, answer));
        };
        let file = Path::new(directory).join(format!("q{number:02}.csv"));
        let expected = fs::read_to_string(&file).map_err(|error| {
            let message = format!("cannot read the answer file={}", file.display());
            Failure::Usage(Error::invalid(message).with_source(error))
        })?;
        Ok(match answer.difference(&expected) {
            None => Verdict::Right,
            Some(difference) => Verdict::Wrong(difference),
        })
    }
}

/// Writes a file so that whoever reads it finds the old or the new text, and nothing in between.
fn write_whole(file: &str, text: &str) -> Outcome {
    let unfinished = format!("{file}.unfinished");
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, file))
        .map_err(|error| cannot_write(file, error))
}

fn cannot_write(file: &str, error: io::Error) -> Failure {
    Failure::Job(Error::unavailable(format!("cannot write file={file}")).with_source(error))
}
