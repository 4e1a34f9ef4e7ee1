//! Asking a data frame for an answer: rows, a number, files, or how it would be computed.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use kiln_engine::expr::count_all;
use kiln_engine::plan::{FileFormat, LogicalPlan, Output, OutputOptions};
use kiln_engine::storage::parse_location;
use kiln_engine::{Error, Result};

use super::DataFrame;
use crate::analyze;
use crate::display;
use crate::job::{Job, WriteSummary};
use crate::rows::Rows;

/// Rows that [`DataFrame::show`] prints.
const SHOW_ROWS: u64 = 20;

impl DataFrame {
    /// How this would be run: logical plan, optimised plan and stages, as text. Looks at the
    /// input files, but not into them.
    ///
    /// # Errors
    /// `Invalid` if there is no such input, `Unavailable` if the cluster cannot be reached.
    pub fn explain(&self) -> Result<String> {
        self.connection.explain(Arc::clone(&self.plan))
    }

    /// Runs this and says what each step of it did: rows, batches and time, what of the files was
    /// never looked at, and what joins held in memory.
    ///
    /// # Errors
    /// Why the job failed.
    pub fn explain_analyze(&self) -> Result<String> {
        let status = self.submit("explain")?.wait()?;
        Ok(analyze::text(&status))
    }

    /// Starts the job and returns at once; `name` is for people.
    ///
    /// # Errors
    /// `Invalid` if the plan is refused, `Unavailable` if the cluster cannot be reached.
    pub fn submit(&self, name: &str) -> Result<Job> {
        let id = self.connection.submit(name, Arc::clone(&self.plan))?;
        Ok(Job::new(self.connection.clone(), id))
    }

    /// Runs the job and returns its rows.
    ///
    /// # Errors
    /// Why the job failed; `Exhausted` if there are too many rows for one process: then
    /// [`DataFrame::stream`] has them one batch after the other.
    pub fn collect(&self) -> Result<Vec<RecordBatch>> {
        self.submit("collect")?.collect()
    }

    /// Runs the job and returns its rows batch by batch as they arrive: they may be more than fit
    /// into memory.
    ///
    /// ```
    /// # let session = kiln::Session::local()?;
    /// # let words = session.read_text("README.md")?;
    /// let mut rows = 0;
    /// for batch in words.stream()? {
    ///     rows += batch?.num_rows();
    /// }
    /// # assert!(rows > 100);
    /// # Ok::<(), kiln::Error>(())
    /// ```
    ///
    /// # Errors
    /// Why the job failed.
    pub fn stream(&self) -> Result<Rows> {
        let job = self.submit("stream")?;
        job.wait()?;
        job.rows()
    }

    /// Runs the job and prints its first rows.
    ///
    /// # Errors
    /// Why the job failed, or stdout could not be written to.
    pub fn show(&self) -> Result<()> {
        let batches = self.limit(SHOW_ROWS)?.submit("show")?.collect()?;
        let text = display::table(&self.schema, &batches)?;
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Error::unavailable("cannot write to stdout").with_source(error))
    }

    /// Runs the job and returns how many rows there are.
    ///
    /// # Errors
    /// Why the job failed.
    pub fn count(&self) -> Result<u64> {
        let counted = self.aggregate([count_all().alias("rows")])?;
        let batches = counted.submit("count")?.collect()?;
        let rows = batches
            .iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| {
                let rows = batch.column(0).as_primitive::<Int64Type>();
                rows.values().iter().sum::<i64>()
            });
        Ok(rows.sum::<i64>().unsigned_abs())
    }

    /// Runs the job and writes its rows to Parquet files in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write_parquet(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Parquet)
    }

    /// Runs the job and writes its rows to CSV files in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists or a column has no CSV form.
    pub fn write_csv(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Csv)
    }

    /// Runs the job and writes its rows to JSON files, an object a line, in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write_json(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Json)
    }

    /// Runs the job and writes its only column, of texts, to files of plain lines in the directory
    /// `url`. A null is an empty line.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists, there are other columns, or a text
    /// has an end of a line in it.
    pub fn write_text(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Text)
    }

    /// As [`DataFrame::write_parquet`], with options of one's own: what becomes of an output that
    /// is there already, the size of row groups and files, the compression, the order of rows.
    ///
    /// # Errors
    /// As for [`DataFrame::write_parquet`]; `Invalid` if the rows have no such order.
    pub fn write_parquet_with(&self, url: &str, options: OutputOptions) -> Result<WriteSummary> {
        self.write_with(url, FileFormat::Parquet, options)
    }

    /// Runs the job and writes its rows to files in the directory `url`, which appears all at
    /// once or not at all.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write(&self, url: &str, format: FileFormat) -> Result<WriteSummary> {
        self.written_to(url, format)?.submit("write")?.written()
    }

    /// As [`DataFrame::write`], with options of one's own.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kiln::{FileFormat, OutputMode, OutputOptions, Session};
    ///
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// # let directory = tempfile::tempdir()?;
    /// # let url = directory.path().join("lines").display().to_string();
    /// let session = Session::local()?;
    /// let lines = session.read_text("rustfmt.toml")?;
    /// let more = OutputOptions {
    ///     mode: OutputMode::Append,
    ///     ..OutputOptions::default()
    /// };
    /// lines.write_with(&url, FileFormat::Parquet, more.clone())?;
    /// lines.write_with(&url, FileFormat::Parquet, more)?;
    /// assert_eq!(session.read_parquet(&url)?.count()?, 2 * lines.count()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`DataFrame::write`]; `Invalid` if the directory is to be replaced or added to and
    /// holds what Kiln did not write, or if the format has no such options.
    pub fn write_with(
        &self,
        url: &str,
        format: FileFormat,
        options: OutputOptions,
    ) -> Result<WriteSummary> {
        self.written_with(url, format, options)?
            .submit("write")?
            .written()
    }

    /// Runs the job and writes its rows to files in directories below `url`, which the texts in
    /// `column` name: `out/errors/part-00000.csv` for rows with `errors`. They are committed
    /// together, and the column is in none of the files.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kiln::{FileFormat, Session, case_when, col, length, lit};
    ///
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// # let directory = tempfile::tempdir()?;
    /// # let url = directory.path().join("lines").display().to_string();
    /// let kind = case_when(length(col("line")).gt(40), "long").otherwise("short");
    /// let lines = Session::local()?.read_text("Cargo.toml")?;
    /// lines
    ///     .select([col("line"), kind.alias("kind")])?
    ///     .write_split(&url, FileFormat::Csv, "kind")?;
    /// assert!(std::fs::exists(format!("{url}/long/part-00000.csv"))?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`DataFrame::write`]; `Invalid` if the column is unknown or holds no texts, or one of
    /// them is null or cannot name a directory.
    pub fn write_split(&self, url: &str, format: FileFormat, column: &str) -> Result<WriteSummary> {
        let options = OutputOptions {
            directories: Some(column.to_owned()),
            ..OutputOptions::default()
        };
        self.write_with(url, format, options)
    }

    /// The same rows with files in the directory `url` as where they go: for
    /// [`DataFrame::submit`] and [`DataFrame::explain`].
    ///
    /// # Errors
    /// `Invalid` if `url` is not a location.
    pub fn written_to(&self, url: &str, format: FileFormat) -> Result<Self> {
        self.written_with(url, format, OutputOptions::default())
    }

    /// As [`DataFrame::written_to`], with options of one's own.
    ///
    /// # Errors
    /// As for [`DataFrame::written_to`].
    pub fn written_with(
        &self,
        url: &str,
        format: FileFormat,
        options: OutputOptions,
    ) -> Result<Self> {
        let output = Output {
            url: parse_location(url)?,
            format,
            options,
        };
        self.then(LogicalPlan::Write {
            input: self.input(),
            output,
        })
    }
}
