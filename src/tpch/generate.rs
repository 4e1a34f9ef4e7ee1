//! The benchmark's data as Parquet files: the rows of the specification's own generator.
//!
//! A file is one part of one table. The generator can start anywhere, so files are made in
//! parallel and each is the same whoever makes it, and when. The directory gets its name when all
//! files are there, so whoever finds it finds all of it.

use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use arrow::array::RecordBatchReader;
use kiln_engine::storage::{local_path, parse_location};
use kiln_engine::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tpchgen::generators as rows;
use tpchgen_arrow as batches;

use super::Table;

/// Rows of a file where the number of files is not given: about 60 MB of `lineitem`.
const FILE_ROWS: u64 = 1_500_000;

/// Rows of a row group: enough to make reading one worth while, few enough that several threads
/// have something to do in one file.
const ROW_GROUP_ROWS: usize = 500_000;

/// Scales below have tables without rows.
const SCALE_MIN: f64 = 0.001;

/// Scales above have keys that the generator does not make.
const SCALE_MAX: f64 = 100_000.0;

/// Files of one table at most.
const PARTS_MAX: u32 = 10_000;

/// What to generate, and where.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Size of the data: 1 is about 1 GB as text, 6 million line items.
    pub scale: f64,
    /// A local directory that does not exist yet, or is empty.
    pub directory: String,
    /// Files for each table but the two of fixed size; by the number of rows where not given.
    pub parts: Option<u32>,
    /// Which tables.
    pub tables: Vec<Table>,
    /// Files that are made at once; one for each core where not given.
    pub threads: Option<usize>,
}

/// A table that was generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// Which one.
    pub table: Table,
    /// Its files.
    pub files: u64,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl GenerateOptions {
    /// About how many rows there will be, for progress: the number of line items of an order is
    /// random.
    pub fn rows_estimate(&self) -> u64 {
        let mut tables = self.tables.clone();
        tables.sort_unstable();
        tables.dedup();
        tables
            .into_iter()
            .map(|table| rows_of(table, self.scale))
            .sum()
    }

    fn check(&self) -> Result<()> {
        if !(SCALE_MIN..=SCALE_MAX).contains(&self.scale) {
            return Err(Error::invalid(format!(
                "not a scale from {SCALE_MIN} to {SCALE_MAX} scale={}",
                self.scale
            )));
        }
        match self.parts {
            Some(parts) if !(1..=PARTS_MAX).contains(&parts) => Err(Error::invalid(format!(
                "not a number of files from 1 to {PARTS_MAX} parts={parts}"
            ))),
            _ if self.tables.is_empty() => Err(Error::invalid("no table is given")),
            _ => Ok(()),
        }
    }

    /// The files to make, those of large tables first, so that none is left for the end.
    fn files(&self) -> Vec<Part> {
        let mut tables = self.tables.clone();
        tables.sort_unstable_by_key(|&table| (u64::MAX - rows_of(table, self.scale), table));
        tables.dedup();
        let parts_of = |table| {
            let rows = rows_of(table, self.scale);
            let wanted = match (table, self.parts) {
                (Table::Nation | Table::Region, _) => 1,
                (_, Some(parts)) => u64::from(parts),
                (_, None) => rows.div_ceil(FILE_ROWS),
            };
            // A part has at least one row, an order at least one line.
            let parts = wanted.min(rows / 8).clamp(1, u64::from(PARTS_MAX)) as i32;
            (1..=parts).map(move |part| Part { table, part, parts })
        };
        tables.into_iter().flat_map(parts_of).collect()
    }
}

/// Generates the tables. `progress` is told how many rows were added, from any thread; what it
/// fails with ends the work, and nothing is left behind.
///
/// # Errors
/// `Invalid` for options that make no sense or a directory that is not empty, `Unavailable` or
/// `Exhausted` if files cannot be written.
pub fn generate(
    options: &GenerateOptions,
    progress: impl Fn(u64) -> Result<()> + Sync,
) -> Result<Vec<Generated>> {
    options.check()?;
    let url = parse_location(&options.directory)?;
    let directory = local_path(&url).ok_or_else(|| {
        Error::invalid(format!(
            "data is generated into a local directory, from which it can be copied url={url}"
        ))
    })?;
    check_free(&directory)?;
    let unfinished = Unfinished::create(&directory)?;
    let files = options.files();
    for part in &files {
        create_dir(&unfinished.0.join(part.table.name()))?;
    }
    let made = in_parallel(options, &files, &unfinished.0, &progress)?;
    unfinished.finish(&directory)?;
    let sums = Table::ALL.map(|table| {
        let of_table = || made.iter().filter(move |made| made.table == table);
        Generated {
            table,
            files: of_table().count() as u64,
            rows: of_table().map(|made| made.rows).sum(),
            bytes: of_table().map(|made| made.bytes).sum(),
        }
    });
    Ok(sums.into_iter().filter(|table| table.files > 0).collect())
}

/// One file of a table.
#[derive(Debug, Clone, Copy)]
struct Part {
    table: Table,
    /// From 1.
    part: i32,
    parts: i32,
}

/// Each thread takes the next file until there is none, or one could not be made.
fn in_parallel(
    options: &GenerateOptions,
    files: &[Part],
    directory: &Path,
    progress: &(impl Fn(u64) -> Result<()> + Sync),
) -> Result<Vec<Generated>> {
    let cores = || thread::available_parallelism().map_or(1, NonZero::get);
    let threads = options.threads.unwrap_or_else(cores).clamp(1, files.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(part) = files.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let result = part.write(options.scale, directory, progress);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().collect()
}

impl Part {
    fn write(
        self,
        scale: f64,
        directory: &Path,
        progress: impl Fn(u64) -> Result<()>,
    ) -> Result<Generated> {
        let name = format!("part-{:05}.parquet", self.part - 1);
        let path = directory.join(self.table.name()).join(name);
        let failed = |error| storage(&path, error);
        let parquet_failed = |error| {
            let message = format!("cannot write Parquet file={}", path.display());
            Error::unavailable(message).with_source(error)
        };
        let file = File::create(&path).map_err(failed)?;
        let batches = self.batches(scale);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let mut writer = ArrowWriter::try_new(file, batches.schema(), Some(properties))
            .map_err(parquet_failed)?;
        let mut rows = 0;
        for batch in batches {
            let batch = batch?;
            writer.write(&batch).map_err(parquet_failed)?;
            rows += batch.num_rows() as u64;
            progress(batch.num_rows() as u64)?;
        }
        writer.close().map_err(parquet_failed)?;
        Ok(Generated {
            table: self.table,
            files: 1,
            rows,
            bytes: fs::metadata(&path).map_err(failed)?.len(),
        })
    }

    fn batches(self, scale: f64) -> Box<dyn RecordBatchReader> {
        let Part { part, parts, .. } = self;
        macro_rules! reader {
            ($batches:ident, $rows:ident) => {{
                let rows = rows::$rows::new(scale, part, parts);
                Box::new(batches::$batches::new(rows))
            }};
        }
        match self.table {
            Table::Customer => reader!(CustomerArrow, CustomerGenerator),
            Table::Lineitem => reader!(LineItemArrow, LineItemGenerator),
            Table::Nation => reader!(NationArrow, NationGenerator),
            Table::Orders => reader!(OrderArrow, OrderGenerator),
            Table::Part => reader!(PartArrow, PartGenerator),
            Table::Partsupp => reader!(PartSuppArrow, PartSuppGenerator),
            Table::Region => reader!(RegionArrow, RegionGenerator),
            Table::Supplier => reader!(SupplierArrow, SupplierGenerator),
        }
    }
}

/// Rows of a table; of line items about so many.
fn rows_of(table: Table, scale: f64) -> u64 {
    let rows_at_1 = match table {
        Table::Region => return 5,
        Table::Nation => return 25,
        Table::Supplier => 10_000.0,
        Table::Customer => 150_000.0,
        Table::Part => 200_000.0,
        Table::Partsupp => 800_000.0,
        Table::Orders => 1_500_000.0,
        Table::Lineitem => 6_001_215.0,
    };
    (rows_at_1 * scale) as u64
}

/// A directory under a name of its own, which is removed unless it gets its final one.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Beside `directory`, so that renaming moves no bytes.
    fn create(directory: &Path) -> Result<Self> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let hidden = format!(".{name}.{:016x}.unfinished", fastrand::u64(..));
        let path = directory.with_file_name(hidden);
        create_dir(&path)?;
        Ok(Unfinished(path))
    }

    fn finish(self, directory: &Path) -> Result<()> {
        fs::rename(&self.0, directory).map_err(|error| storage(directory, error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the renaming there is nothing to remove; otherwise the reason has been told.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| storage(path, error))
}

/// The directory does not exist or is empty.
fn check_free(directory: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(storage(directory, error)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the output directory is not empty: {}",
        directory.display()
    )))
}

fn storage(path: &Path, error: io::Error) -> Error {
    let message = format!("cannot write file={}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::exhausted(message),
        _ => Error::unavailable(message),
    }
    .with_source(error)
}
