//! Functions with parameters: small values that travel with the plan.
//!
//! What is registered under a name is not the function but what makes it of its parameters. They
//! are JSON in the plan; a process that runs a task makes the function of them once.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kiln_engine::context::panic_message;
use kiln_engine::udf::Udf;
use kiln_engine::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::aggregate::{AggregateFunction, Aggregator};
use super::scalar::{ScalarFn, ScalarFunction};
use super::table::{FlatMapFn, TableFunction};

/// A function, or job of functions, `F` that waits for its parameters `P`.
pub struct WithParameters<P, F> {
    name: String,
    make: Make<F>,
    parameters: PhantomData<fn(&P)>,
}

type Make<F> = Arc<dyn Fn(&str) -> Result<F> + Send + Sync>;

impl<P, F> WithParameters<P, F>
where
    P: Serialize + DeserializeOwned + 'static,
    F: Parameterised + 'static,
{
    /// What `make` makes of parameters.
    pub(crate) fn new(name: &str, make: impl Fn(P) -> Result<F> + Send + Sync + 'static) -> Self {
        let of = name.to_owned();
        let make = move |json: &str| {
            let parameters = serde_json::from_str(json).map_err(|error| {
                Error::invalid(format!("function {of:?}: not its parameters found={json}"))
                    .with_source(error)
            })?;
            let made = catch_unwind(AssertUnwindSafe(|| make(parameters)));
            let made = made.map_err(|panic| {
                let text = panic_message(&*panic);
                let text = format!("function {of:?} panicked when it was made: {text}");
                Error::new(ErrorKind::Program, text)
            })?;
            Ok(made?.with_parameters(json))
        };
        WithParameters {
            name: name.to_owned(),
            make: Arc::new(make),
            parameters: PhantomData,
        }
    }

    /// The function with these parameters.
    ///
    /// # Errors
    /// `Invalid` if they cannot be written as JSON and read again.
    pub fn with(&self, parameters: &P) -> Result<F> {
        let json = serde_json::to_string(parameters).map_err(|error| {
            Error::invalid(format!(
                "function {:?}: its parameters cannot be written as JSON",
                self.name
            ))
            .with_source(error)
        })?;
        (self.make)(&json)
    }

    /// Makes the function of parameters as JSON.
    pub(crate) fn factory(&self) -> impl Fn(&str) -> Result<F> + Send + Sync + use<P, F> {
        let make = Arc::clone(&self.make);
        move |json| make(json)
    }
}

impl<P, F> Clone for WithParameters<P, F> {
    fn clone(&self) -> Self {
        WithParameters {
            name: self.name.clone(),
            make: Arc::clone(&self.make),
            parameters: PhantomData,
        }
    }
}

impl<P, F> fmt::Debug for WithParameters<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithParameters({:?})", self.name)
    }
}

/// What can say which parameters it was made with.
pub trait Parameterised: Sized {
    /// The same, made with parameters `json`.
    #[must_use]
    fn with_parameters(self, json: &str) -> Self;
}

/// `udf` with parameters.
pub(crate) fn with_json<O: Clone, B: ?Sized>(udf: &Udf<O, B>, json: &str) -> Udf<O, B> {
    let body = udf.body().map(Arc::clone);
    Udf::new(udf.name(), json, udf.output().clone(), body)
}

macro_rules! parameterised {
    ($($function:ty),*) => {
        $(impl Parameterised for $function {
            fn with_parameters(mut self, json: &str) -> Self {
                self.udf = with_json(&self.udf, json);
                self
            }
        })*
    };
}

parameterised!(ScalarFunction, TableFunction, AggregateFunction);

impl ScalarFunction {
    /// The functions that `make` makes of parameters, which travel with the plan:
    /// `|factor: f64| move |x: f64| x * factor`.
    ///
    /// ```
    /// use kiln::{ScalarFunction, Session, col};
    ///
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// let starts = ScalarFunction::with("starts", |start: String| {
    ///     move |line: &str| line.starts_with(&start)
    /// });
    /// let lines = Session::local()?.read_text("Cargo.toml")?;
    /// let sections = starts.with(&"[".to_owned())?;
    /// assert!(lines.filter(sections.call([col("line")]))?.count()? > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// What is prepared of parameters, a pattern or a table, is prepared once and not for each row.
    pub fn with<P, M, F>(
        name: &str,
        make: impl Fn(P) -> F + Send + Sync + 'static,
    ) -> WithParameters<P, Self>
    where
        P: Serialize + DeserializeOwned + 'static,
        F: ScalarFn<M>,
    {
        let of = name.to_owned();
        WithParameters::new(name, move |parameters| {
            Ok(ScalarFunction::new(&of, make(parameters)))
        })
    }
}

impl TableFunction {
    /// The functions of one row to many that `make` makes of parameters: see
    /// [`ScalarFunction::with`] and [`TableFunction::flat_map`].
    pub fn flat_map_with<P, M, F>(
        name: &str,
        columns: impl IntoIterator<Item = impl Into<String>>,
        make: impl Fn(P) -> F + Send + Sync + 'static,
    ) -> WithParameters<P, Self>
    where
        P: Serialize + DeserializeOwned + 'static,
        F: FlatMapFn<M>,
    {
        let of = name.to_owned();
        let columns: Vec<String> = columns.into_iter().map(Into::into).collect();
        WithParameters::new(name, move |parameters| {
            TableFunction::flat_map(&of, columns.clone(), make(parameters))
        })
    }
}

impl AggregateFunction {
    /// The aggregate functions that `make` makes of parameters: see [`ScalarFunction::with`].
    pub fn with<P, A>(
        name: &str,
        make: impl Fn(P) -> A + Send + Sync + 'static,
    ) -> WithParameters<P, Self>
    where
        P: Serialize + DeserializeOwned + 'static,
        A: Aggregator,
    {
        let of = name.to_owned();
        WithParameters::new(name, move |parameters| {
            Ok(AggregateFunction::new(&of, make(parameters)))
        })
    }
}
