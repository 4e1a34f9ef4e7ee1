//! [`App`]: a program whose jobs run in its own process or on a cluster, unchanged.

mod jobs;
mod parameters;
mod run;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use clap::Args;
use kiln_engine::udf::Functions;
use kiln_engine::{Error, Result};
use kiln_executor::worker_process;

use crate::external;
use crate::program::{Hosted, OWN_PREFIX, ProgramLimits};
use crate::session::Session;
use crate::udf::aggregate::{AggregateFunction, Aggregator};
use crate::udf::scalar::{ScalarFn, ScalarFunction};
use crate::udf::table::{FlatMapFn, TableFunction};

/// A program: its functions, by name, and a job that uses them.
///
/// ```no_run
/// use kiln::{App, col};
///
/// #[derive(clap::Args)]
/// struct Options {
///     /// Files to read.
///     inputs: Vec<String>,
/// }
///
/// fn main() -> std::process::ExitCode {
///     let mut app = App::new("shout");
///     let shout = app.scalar("shout", |line: &str| line.to_uppercase());
///     app.run(move |session, options: Options| {
///         let lines = session.read_text(options.inputs)?;
///         lines.select([shout.call([col("line")]).alias("line")])?.show()
///     })
/// }
/// ```
///
/// Functions are registered before the job begins, because a worker on a cluster runs the
/// functions and never the job.
pub struct App {
    name: &'static str,
    functions: Functions,
    limits: ProgramLimits,
    environment: BTreeMap<String, String>,
    /// The first thing that went wrong while functions were registered.
    failed: Option<Error>,
}

impl App {
    /// A program without functions.
    pub fn new(name: &'static str) -> Self {
        App {
            name,
            functions: Functions::default(),
            limits: ProgramLimits::default(),
            environment: BTreeMap::new(),
            failed: None,
        }
    }

    /// Registers a scalar function: see [`ScalarFunction::new`].
    pub fn scalar<M>(&mut self, name: &str, function: impl ScalarFn<M>) -> ScalarFunction {
        self.add_scalar(ScalarFunction::new(name, function))
    }

    /// Registers a scalar function of whole columns: see [`ScalarFunction::of_arrays`].
    pub fn scalar_of_arrays(
        &mut self,
        name: &str,
        arguments: impl IntoIterator<Item = DataType>,
        returns: DataType,
        function: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> ScalarFunction {
        let function = ScalarFunction::of_arrays(name, arguments, returns, function);
        self.add_scalar(function)
    }

    fn add_scalar(&mut self, function: ScalarFunction) -> ScalarFunction {
        if let Some(body) = function.udf.body().map(Arc::clone) {
            let factory = move |_: &str| Ok(Arc::clone(&body));
            let added = self.functions.add_scalar(function.name(), factory);
            self.note(added);
        }
        function
    }

    /// Registers a function of one row to many: see [`TableFunction::flat_map`].
    ///
    /// # Errors
    /// `Invalid` if there are not as many names as columns.
    pub fn flat_map<M>(
        &mut self,
        name: &str,
        columns: impl IntoIterator<Item = impl Into<String>>,
        function: impl FlatMapFn<M>,
    ) -> Result<TableFunction> {
        Ok(self.add_table(TableFunction::flat_map(name, columns, function)?))
    }

    /// Registers a function of batches: see [`TableFunction::map_batches`].
    pub fn map_batches(
        &mut self,
        name: &str,
        schema: SchemaRef,
        function: impl Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    ) -> TableFunction {
        self.add_table(TableFunction::map_batches(name, schema, function))
    }

    fn add_table(&mut self, function: TableFunction) -> TableFunction {
        if let Some(body) = function.udf.body().map(Arc::clone) {
            let factory = move |_: &str| Ok(Arc::clone(&body));
            let added = self.functions.add_table(function.name(), factory);
            self.note(added);
        }
        function
    }

    /// Registers an aggregate function: see [`Aggregator`].
    pub fn aggregate(&mut self, name: &str, aggregator: impl Aggregator) -> AggregateFunction {
        self.add_aggregate(AggregateFunction::new(name, aggregator))
    }

    fn add_aggregate(&mut self, function: AggregateFunction) -> AggregateFunction {
        if let Some(body) = function.udf.body().map(Arc::clone) {
            let factory = move |_: &str| Ok(Arc::clone(&body));
            let added = self.functions.add_aggregate(function.name(), factory);
            self.note(added);
        }
        function
    }

    /// Keeps the first mistake for [`run`](Self::run) to tell.
    fn note(&mut self, added: Result<()>) {
        if let Err(error) = added {
            self.failed.get_or_insert(error);
        }
    }

    /// Bytes of memory that the functions may have in a worker process on a cluster, beside what
    /// the engine needs there: 1 GiB unless this is called.
    pub fn memory_limit(&mut self, bytes: u64) -> &mut Self {
        self.limits.memory = bytes;
        self
    }

    /// How long a call of a function may go on in a worker process on a cluster without asking
    /// for rows or giving any, before it is taken for a loop without end: 10 minutes unless this
    /// is called. A scalar function is called for a batch of rows at once.
    pub fn call_limit(&mut self, limit: Duration) -> &mut Self {
        self.limits.call_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets a variable in the environment of worker processes, which is empty but for what they
    /// need to find their storage.
    pub fn environment(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Reads the command line, `A` and the options of every program (`--driver`, `--threads`,
    /// `--memory`), runs `job`, and says on stderr if it fails: exit code 1, 2 for what was typed,
    /// 3 for a cluster that cannot be reached, 130 for Ctrl-C.
    pub fn run<A: Args>(self, job: impl FnOnce(&Session, A) -> Result<()>) -> ExitCode {
        let App {
            name,
            functions,
            limits,
            environment,
            failed,
        } = self;
        let functions = match failed {
            Some(error) => Err(error),
            None => with_own(functions),
        };
        if worker_process::is_wanted() {
            return functions.map_or_else(|error| run::failed(&error), worker_process::main);
        }
        let hosted = functions.map(|functions| {
            let names = functions.names().map(str::to_owned).collect();
            Hosted::this_process(names, limits, environment)
        });
        run::run(name, hosted, job)
    }
}

/// `functions` and those of Kiln itself, which plans of a program may call too.
///
/// # Errors
/// `Invalid` if one has a name that only functions of Kiln may have.
fn with_own(mut functions: Functions) -> Result<Functions> {
    let is_own = |name: &&str| name.starts_with(OWN_PREFIX);
    if let Some(name) = functions.names().find(is_own) {
        return Err(Error::invalid(format!(
            "names that begin with {OWN_PREFIX:?} are for functions of Kiln itself name={name:?}"
        )));
    }
    functions.add_all(external::functions()?)?;
    Ok(functions)
}
