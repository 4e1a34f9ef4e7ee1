//! [`Session`]: where jobs run.
//!
//! A local session is a driver and an executor in this process, a remote one a connection to a
//! driver elsewhere. Behind it everything is the same, so a program does not change when its jobs
//! move to a cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::datatypes::SchemaRef;
use kiln_engine::id::JobId;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{CsvOptions, LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::{Stores, parse_location};
use kiln_engine::{Error, Result};
use kiln_proto::address::Drivers;
use kiln_proto::message::{ExecutorStatus, JobStatus};

use crate::backend::Backend;
use crate::connection::Connection;
use crate::dataframe::DataFrame;
use crate::files::{self, FileStats};
use crate::inputs::Inputs;
use crate::job::Job;
use crate::local::{Local, LocalSettings};
use crate::program::Hosted;
use crate::runtime::Runtime;
use crate::scan;

/// Where jobs run. Clones share everything; the last one to be dropped ends a local session and
/// the jobs in it.
#[derive(Debug, Clone)]
pub struct Session {
    connection: Connection,
}

/// Settings of a local session: see [`Session::builder`].
#[derive(Debug, Clone, Default)]
pub struct SessionBuilder {
    settings: LocalSettings,
}

impl SessionBuilder {
    /// Threads that compute; all cores by default.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = Some(threads);
        self
    }

    /// The memory budget in bytes; by default a share of what the machine or container has.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.settings.memory = Some(bytes);
        self
    }

    /// Bytes of local disk that may be taken for what does not fit into memory; by default all
    /// that there are.
    #[must_use]
    pub fn spill_limit(mut self, bytes: u64) -> Self {
        self.settings.spill_limit = Some(bytes);
        self
    }

    /// Starts the session.
    ///
    /// # Errors
    /// `Invalid` for settings that make no sense, `Exhausted` if there are no threads left.
    pub fn build(self) -> Result<Session> {
        let runtime = Runtime::start()?;
        let stores = Arc::new(Stores::new());
        let opened = Local::open(self.settings, Arc::clone(&stores));
        let backend = Backend::Local(runtime.wait(opened)?);
        Ok(Session {
            connection: Connection::new(backend, stores, runtime),
        })
    }
}

impl Session {
    /// Runs jobs in this process, with all cores.
    ///
    /// # Errors
    /// As for [`SessionBuilder::build`].
    pub fn local() -> Result<Self> {
        Session::builder().build()
    }

    /// Runs jobs in this process, with settings of one's own.
    ///
    /// ```
    /// let session = kiln::Session::builder().threads(2).memory(512 << 20).build()?;
    /// # Ok::<(), kiln::Error>(())
    /// ```
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// Runs jobs on the cluster whose driver listens at `drivers`, e.g. `http://127.0.0.1:7440`;
    /// where others stand by, at one of `http://one:7440,http://two:7440`.
    ///
    /// A session that is connected waits up to a minute for a driver that it has lost, and for
    /// another to lead; jobs go on meanwhile.
    ///
    /// # Errors
    /// `Invalid` if that is not a list of addresses, `Unavailable` if nobody answers there.
    pub fn connect(drivers: &str) -> Result<Self> {
        Session::connect_with(drivers.parse()?, None)
    }

    /// As [`Session::connect`], for a process that is `program`.
    pub(crate) fn connect_with(drivers: Drivers, program: Option<Hosted>) -> Result<Self> {
        let runtime = Runtime::start()?;
        let backend = runtime.wait(async move { Backend::connect(drivers, program).await })?;
        let stores = Arc::new(Stores::new());
        Ok(Session {
            connection: Connection::new(backend, stores, runtime),
        })
    }

    /// The memory budget of the jobs of a session in this process; none where a cluster runs them.
    pub fn memory_budget(&self) -> Option<&Arc<MemoryBudget>> {
        self.connection.memory_budget()
    }

    /// The same session, in which jobs have `weight` shares of the slots where those of others have
    /// one: 1 to 1000, and 1 unless it is said. A driver refuses jobs of any other weight.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        Session {
            connection: self.connection.with_weight(weight),
        }
    }

    /// The lines of text files: columns `path`, `offset` (in bytes) and `line`.
    ///
    /// # Errors
    /// `Invalid` if an input is not a path or URL. Whether it exists shows when the job runs.
    pub fn read_text(&self, inputs: impl Inputs) -> Result<DataFrame> {
        self.read_text_with(inputs, TextOptions::default())
    }

    /// As [`Session::read_text`], with options of one's own.
    ///
    /// # Errors
    /// As for [`Session::read_text`].
    pub fn read_text_with(&self, inputs: impl Inputs, options: TextOptions) -> Result<DataFrame> {
        let locations = locations(inputs)?;
        self.scan(locations, ScanFormat::Text(options), scan::text_schema())
    }

    /// The rows of Parquet files, which may have different columns: one that a file lacks is null
    /// in its rows, and numbers of different widths are read as the wider.
    ///
    /// # Errors
    /// `Invalid` if there is no such file, it is not Parquet, or the files are not one table.
    pub fn read_parquet(&self, inputs: impl Inputs) -> Result<DataFrame> {
        self.read(locations(inputs)?, ScanFormat::Parquet)
    }

    /// The rows of CSV files whose first line names the columns. The types of columns are guessed
    /// from the first file.
    ///
    /// # Errors
    /// `Invalid` if there is no such file or it is not CSV.
    pub fn read_csv(&self, inputs: impl Inputs) -> Result<DataFrame> {
        self.read_csv_with(inputs, CsvOptions::default(), None)
    }

    /// As [`Session::read_csv`], with options of one's own, and with the names and types of the
    /// columns unless they are to be guessed.
    ///
    /// # Errors
    /// As for [`Session::read_csv`]. Whether the files have the columns of `schema` shows when the
    /// job runs.
    pub fn read_csv_with(
        &self,
        inputs: impl Inputs,
        options: CsvOptions,
        schema: Option<SchemaRef>,
    ) -> Result<DataFrame> {
        let (locations, format) = (locations(inputs)?, ScanFormat::Csv(options));
        match schema {
            Some(schema) => self.scan(locations, format, scan::with_views(&schema)),
            None => self.read(locations, format),
        }
    }

    /// The rows of Parquet or CSV files, whichever they are by name or content.
    ///
    /// # Errors
    /// `Invalid` if there is no such file, or it is neither.
    pub fn read_table(&self, inputs: impl Inputs) -> Result<DataFrame> {
        let locations = locations(inputs)?;
        let (stores, looked_at) = (self.connection.stores(), locations.clone());
        let format = self
            .connection
            .wait(async move { scan::table_format(&stores, &looked_at).await })?;
        self.read(locations, format)
    }

    /// The rows of files of any kind: as [`Session::read_table`] if they are Parquet or CSV, the
    /// lines as [`Session::read_text`] otherwise.
    ///
    /// # Errors
    /// `Invalid` if there is no such file, or they are of different kinds.
    pub fn read_files(&self, inputs: impl Inputs) -> Result<DataFrame> {
        let locations = locations(inputs)?;
        let (stores, looked_at) = (self.connection.stores(), locations.clone());
        let (format, _) = self
            .connection
            .wait(async move { scan::any_format(&stores, &looked_at).await })?;
        self.read(locations, format)
    }

    /// What is in files of any kind, as far as it can be told without reading them.
    ///
    /// # Errors
    /// `Invalid` if there is no such file, or it is not what it is taken for.
    pub fn file_stats(&self, inputs: impl Inputs) -> Result<Vec<FileStats>> {
        let locations = locations(inputs)?;
        let stores = self.connection.stores();
        self.connection
            .wait(async move { files::file_stats(&stores, &locations).await })
    }

    fn read(&self, locations: Vec<String>, format: ScanFormat) -> Result<DataFrame> {
        let (stores, looked_at) = (self.connection.stores(), locations.clone());
        let wanted = format.clone();
        let schema = self
            .connection
            .wait(async move { scan::infer_schema(&stores, &looked_at, wanted).await })?;
        self.scan(locations, format, schema)
    }

    fn scan(
        &self,
        locations: Vec<String>,
        format: ScanFormat,
        schema: SchemaRef,
    ) -> Result<DataFrame> {
        let scan = Scan {
            locations,
            format,
            schema,
            projection: None,
            predicate: None,
        };
        DataFrame::new(self.connection.clone(), LogicalPlan::Scan(scan))
    }

    /// On Ctrl-C or SIGTERM sets `flag` and cancels the jobs of this session; the second time it
    /// ends the process.
    pub(crate) fn cancel_on_interrupt(&self, flag: Arc<AtomicBool>) -> Result<()> {
        self.connection.cancel_on_interrupt(flag)
    }

    /// Whether jobs run in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.connection.is_local()
    }

    /// The jobs that the driver knows, the newest last.
    ///
    /// # Errors
    /// `Unavailable` if the cluster cannot be reached.
    pub fn jobs(&self) -> Result<Vec<JobStatus>> {
        self.connection.list()
    }

    /// The job called `id`, whether the driver knows it or not.
    pub fn job(&self, id: JobId) -> Job {
        Job::new(self.connection.clone(), id)
    }

    /// The executors that are attached to the driver.
    ///
    /// # Errors
    /// `Unavailable` if the cluster cannot be reached.
    pub fn executors(&self) -> Result<Vec<ExecutorStatus>> {
        self.connection.executors()
    }
}

fn locations(inputs: impl Inputs) -> Result<Vec<String>> {
    let locations: Vec<String> = inputs
        .into_locations()
        .iter()
        .map(|location| parse_location(location))
        .collect::<Result<_>>()?;
    if locations.is_empty() {
        return Err(Error::invalid("no input is given"));
    }
    Ok(locations)
}
