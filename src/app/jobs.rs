//! MapReduce jobs of an [`App`]: their functions are registered under the name of the job.

use std::sync::Arc;

use kiln_engine::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::App;
use super::parameters::body_of;
use crate::mapreduce::{MapReduce, MapReduceTarget, Reduce, Unmapped, Unregistered};
use crate::udf::parameters::WithParameters;
use crate::udf::table::TableFunction;

/// Orders of values that a job with parameters may have, one for each call of `sort_values_by`.
const ORDERS_MAX: usize = 8;

impl App {
    /// Begins a MapReduce job, whose functions are registered when it ends with its columns: as
    /// `count.map`, `count.combine`, `count.reduce`, `count.partition`, `count.order` and
    /// `count.bad` if it is called `count`, as far as it has them.
    ///
    /// ```no_run
    /// use kiln::{App, Emitter, Pairs, col};
    ///
    /// #[derive(clap::Args)]
    /// struct Options {
    ///     /// Files to read.
    ///     inputs: Vec<String>,
    ///     /// A directory to write to.
    ///     #[arg(long)]
    ///     output: String,
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     let mut app = App::new("words");
    ///     let count = app
    ///         .map_reduce("count")
    ///         .map(|line: &str, out: &mut Pairs<String, i64>| {
    ///             for word in line.split_whitespace() {
    ///                 out.emit(word, 1);
    ///             }
    ///         })
    ///         .combine(|a, b| a + b)
    ///         .reduce(|word, counts, out: &mut Emitter<(String, i64)>| {
    ///             out.emit((word, counts.sum()));
    ///         })
    ///         .columns(["word", "count"]);
    ///     app.run(move |session, options: Options| {
    ///         let lines = session.read_text(options.inputs)?.select([col("line")])?;
    ///         count.run_on(lines)?.write_parquet(&options.output)?;
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub fn map_reduce(&mut self, name: &str) -> Unmapped<&mut App> {
        Unmapped::new(self, name)
    }

    /// Registers a MapReduce job that is made of parameters, which travel with the plan:
    ///
    /// ```no_run
    /// # use kiln::{App, Emitter, Pairs};
    /// # let mut app = App::new("words");
    /// let count = app.map_reduce_with("count", |separator: char, job| {
    ///     job.map(move |line: &str, out: &mut Pairs<String, i64>| {
    ///         for word in line.split(separator) {
    ///             out.emit(word, 1);
    ///         }
    ///     })
    ///     .combine(|a, b| a + b)
    ///     .reduce(|word, counts, out: &mut Emitter<(String, i64)>| out.emit((word, counts.sum())))
    ///     .columns(["word", "count"])
    /// });
    /// let by_comma = count.with(&',')?;
    /// # Ok::<(), kiln::Error>(())
    /// ```
    pub fn map_reduce_with<P>(
        &mut self,
        name: &str,
        make: impl Fn(P, Unmapped<Unregistered>) -> MapReduce + Send + Sync + 'static,
    ) -> WithParameters<P, MapReduce>
    where
        P: Serialize + DeserializeOwned + 'static,
    {
        let of = name.to_owned();
        let jobs = WithParameters::new(name, move |parameters| {
            Ok(make(parameters, Unmapped::new(Unregistered, &of)))
        });
        // Which functions the job has is only known once it has its parameters.
        self.add_table_of(name, "map", &jobs, |job| Some(&job.map));
        self.add_table_of(name, "bad", &jobs, |job| job.bad.as_ref());
        self.add_table_of(name, "reduce_combined", &jobs, |job| match &job.reduce {
            Reduce::Rows(function) => Some(function),
            Reduce::Groups(_) => None,
        });
        let make = jobs.factory();
        let added = self
            .functions
            .add_group(&format!("{name}.reduce"), move |json| {
                let job = make(json)?;
                body_of(match &job.reduce {
                    Reduce::Groups(function) => function.body(),
                    Reduce::Rows(_) => None,
                })
            });
        self.note(added);
        let make = jobs.factory();
        let added = self
            .functions
            .add_aggregate(&format!("{name}.combine"), move |json| {
                let job = make(json)?;
                body_of(
                    job.combine
                        .as_ref()
                        .and_then(|function| function.udf.body()),
                )
            });
        self.note(added);
        let orders = (2..=ORDERS_MAX).map(|number| format!("order{number}"));
        for function in ["partition", "order"]
            .map(str::to_owned)
            .into_iter()
            .chain(orders)
        {
            let function = format!("{name}.{function}");
            let (make, wanted) = (jobs.factory(), function.clone());
            let added = self.functions.add_scalar(&function, move |json| {
                let job = make(json)?;
                let mut functions = job.scalar_functions();
                let found = functions.find(|function| function.name() == wanted);
                body_of(found.and_then(|function| function.udf.body()))
            });
            self.note(added);
        }
        jobs
    }

    /// Registers a function over rows that is part of jobs.
    fn add_table_of<P: Serialize + DeserializeOwned + 'static>(
        &mut self,
        name: &str,
        function: &str,
        jobs: &WithParameters<P, MapReduce>,
        of: fn(&MapReduce) -> Option<&TableFunction>,
    ) {
        let make = jobs.factory();
        let added = self
            .functions
            .add_table(&format!("{name}.{function}"), move |json| {
                let job = make(json)?;
                body_of(of(&job).and_then(|function| function.udf.body()))
            });
        self.note(added);
    }
}

impl MapReduceTarget for &mut App {
    type Built = MapReduce;

    fn take(self, job: MapReduce) -> MapReduce {
        for function in [Some(&job.map), job.bad.as_ref()].into_iter().flatten() {
            self.add_table(function.clone());
        }
        if let Some(combine) = &job.combine {
            self.add_aggregate(combine.clone());
        }
        for function in job.scalar_functions() {
            self.add_scalar(function.clone());
        }
        match &job.reduce {
            Reduce::Rows(function) => {
                self.add_table(function.clone());
            }
            Reduce::Groups(function) => {
                if let Some(body) = function.body().map(Arc::clone) {
                    let factory = move |_: &str| -> Result<_> { Ok(Arc::clone(&body)) };
                    let added = self.functions.add_group(function.name(), factory);
                    self.note(added);
                }
            }
        }
        job
    }
}
