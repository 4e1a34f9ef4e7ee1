//! Functions of an [`App`] that are made of parameters.

use std::sync::Arc;

use kiln_engine::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::App;
use crate::udf::aggregate::{AggregateFunction, Aggregator};
use crate::udf::parameters::WithParameters;
use crate::udf::scalar::{ScalarFn, ScalarFunction};
use crate::udf::table::{FlatMapFn, TableFunction};

impl App {
    /// Registers scalar functions that are made of parameters: see [`ScalarFunction::with`].
    ///
    /// ```no_run
    /// # let mut app = kiln::App::new("scale");
    /// let scale = app.scalar_with("scale", |factor: f64| move |x: f64| x * factor);
    /// let double = scale.with(&2.0)?;
    /// # Ok::<(), kiln::Error>(())
    /// ```
    pub fn scalar_with<P, M, F>(
        &mut self,
        name: &str,
        make: impl Fn(P) -> F + Send + Sync + 'static,
    ) -> WithParameters<P, ScalarFunction>
    where
        P: Serialize + DeserializeOwned + 'static,
        F: ScalarFn<M>,
    {
        let functions = ScalarFunction::with(name, make);
        let make = functions.factory();
        let body = move |json: &str| body_of(make(json)?.udf.body());
        let added = self.functions.add_scalar(name, body);
        self.note(added);
        functions
    }

    /// Registers functions of one row to many that are made of parameters: see
    /// [`TableFunction::flat_map_with`].
    pub fn flat_map_with<P, M, F>(
        &mut self,
        name: &str,
        columns: impl IntoIterator<Item = impl Into<String>>,
        make: impl Fn(P) -> F + Send + Sync + 'static,
    ) -> WithParameters<P, TableFunction>
    where
        P: Serialize + DeserializeOwned + 'static,
        F: FlatMapFn<M>,
    {
        let functions = TableFunction::flat_map_with(name, columns, make);
        let make = functions.factory();
        let body = move |json: &str| body_of(make(json)?.udf.body());
        let added = self.functions.add_table(name, body);
        self.note(added);
        functions
    }

    /// Registers aggregate functions that are made of parameters: see [`ScalarFunction::with`].
    pub fn aggregate_with<P, A>(
        &mut self,
        name: &str,
        make: impl Fn(P) -> A + Send + Sync + 'static,
    ) -> WithParameters<P, AggregateFunction>
    where
        P: Serialize + DeserializeOwned + 'static,
        A: Aggregator,
    {
        let functions = AggregateFunction::with(name, make);
        let make = functions.factory();
        let body = move |json: &str| body_of(make(json)?.udf.body());
        let added = self.functions.add_aggregate(name, body);
        self.note(added);
        functions
    }
}

pub(super) fn body_of<B: ?Sized>(body: Option<&Arc<B>>) -> Result<Arc<B>> {
    let body = body.map(Arc::clone);
    body.ok_or_else(|| Error::invalid("with these parameters there is no such function"))
}
