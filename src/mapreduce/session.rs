//! Jobs of a session: put together where their input is at hand, without an `App`.

use kiln_engine::expr::col;
use kiln_engine::plan::{FileFormat, OutputOptions};
use kiln_engine::{Error, Result};

use super::builder::{MapReduceTarget, Unmapped};
use super::job::MapReduce;
use crate::dataframe::DataFrame;
use crate::inputs::Inputs;
use crate::job::WriteSummary;
use crate::session::Session;

impl Session {
    /// A MapReduce job of this session, for programs that run in one process.
    ///
    /// ```
    /// use kiln::{Emitter, Pairs, Session, Values};
    ///
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// let session = Session::local()?;
    /// let counts = session
    ///     .map_reduce("count")
    ///     .input("Cargo.toml")
    ///     .map(|line: &str, out: &mut Pairs<String, i64>| {
    ///         for word in line.split_whitespace() {
    ///             out.emit(word, 1);
    ///         }
    ///     })
    ///     .combine(|a, b| a + b)
    ///     .reduce(|word, counts, out: &mut Emitter<(String, i64)>| out.emit((word, counts.sum())))
    ///     .columns(["word", "count"])
    ///     .frame()?;
    /// counts.show()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// On a cluster its functions would not be found, because a worker never comes to where they
    /// are: there a job is registered with an [`App`](crate::App) before it runs, by the same
    /// steps, and given its input by [`MapReduce::run_on`].
    pub fn map_reduce(&self, name: &str) -> MapReduceOnSession {
        MapReduceOnSession {
            session: self.clone(),
            name: name.to_owned(),
        }
    }
}

/// A job of a session, to be told its input.
#[derive(Debug)]
pub struct MapReduceOnSession {
    session: Session,
    name: String,
}

impl MapReduceOnSession {
    /// What the map function is given: a data frame, whose columns are its arguments, or files
    /// of text, whose lines are.
    pub fn input(self, input: impl MapInput) -> Unmapped<OnSession> {
        let input = match self.session.is_local() {
            true => input.into_frame(&self.session),
            false => Err(Error::invalid(format!(
                "on a cluster functions have to be registered on an App job={:?}",
                self.name
            ))),
        };
        Unmapped::new(OnSession { input }, &self.name)
    }
}

/// What a job can read.
pub trait MapInput {
    /// The rows.
    ///
    /// # Errors
    /// `Invalid` for what is not a path or URL.
    fn into_frame(self, session: &Session) -> Result<DataFrame>;
}

impl MapInput for DataFrame {
    fn into_frame(self, _session: &Session) -> Result<DataFrame> {
        Ok(self)
    }
}

impl MapInput for &DataFrame {
    fn into_frame(self, _session: &Session) -> Result<DataFrame> {
        Ok(self.clone())
    }
}

impl<I: Inputs> MapInput for I {
    fn into_frame(self, session: &Session) -> Result<DataFrame> {
        session.read_text(self)?.select([col("line")])
    }
}

/// What a job of a session is built on.
#[derive(Debug)]
pub struct OnSession {
    input: Result<DataFrame>,
}

impl MapReduceTarget for OnSession {
    type Built = MapReduceRun;

    fn take(self, job: MapReduce) -> MapReduceRun {
        MapReduceRun(self.input.and_then(|input| job.run_on(input)))
    }
}

/// A job of a session with its input.
#[derive(Debug)]
pub struct MapReduceRun(Result<DataFrame>);

impl MapReduceRun {
    /// The rows that it makes, for whatever data frames are good for.
    ///
    /// # Errors
    /// `Invalid` if the input is none, or does not fit the map function.
    pub fn frame(self) -> Result<DataFrame> {
        self.0
    }

    /// Runs it and writes its rows to files in the directory `url`, as
    /// [`DataFrame::write`](crate::DataFrame::write) does.
    ///
    /// # Errors
    /// As for [`frame`](Self::frame); why the job failed; `Invalid` if the directory exists.
    pub fn output(self, url: &str, format: FileFormat) -> Result<WriteSummary> {
        self.0?.write(url, format)
    }

    /// As [`output`](Self::output), with options of one's own, as
    /// [`DataFrame::write_with`](crate::DataFrame::write_with) takes them.
    ///
    /// # Errors
    /// As for [`output`](Self::output) and for
    /// [`DataFrame::write_with`](crate::DataFrame::write_with).
    pub fn output_with(
        self,
        url: &str,
        format: FileFormat,
        options: OutputOptions,
    ) -> Result<WriteSummary> {
        self.0?.write_with(url, format, options)
    }
}
