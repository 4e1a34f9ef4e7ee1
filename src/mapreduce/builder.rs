//! How a job is put together: map, then what else there is in any order, then reduce and columns.

use std::marker::PhantomData;
use std::sync::Arc;

use kiln_engine::udf::{GroupBody, GroupUdf, TableUdf};

use super::bad::{self, BadRecords, Skip};
use super::by::{self, SortBy};
use super::combine;
use super::job::{MapReduce, Reduce, ValueOrder};
use super::map::{MapFn, Mapper};
use super::pairs::{Pair, key_columns};
use super::reduce::{Closure, Reducer};
use super::regroup::Regrouped;
use super::values::Values;
use crate::udf::aggregate::AggregateFunction;
use crate::udf::datum::Datum;
use crate::udf::emitter::Emitter;
use crate::udf::outcome::Outcome;
use crate::udf::row::Row;
use crate::udf::scalar::ScalarFunction;
use crate::udf::table::{TableFunction, schema_of_rows};

/// What a job is built for: an [`App`](crate::App), with which its functions are registered, or
/// rows of a [`Session`](crate::Session).
pub trait MapReduceTarget {
    /// What comes of the job.
    type Built;

    /// Takes the job.
    fn take(self, job: MapReduce) -> Self::Built;
}

/// A job that is described and no more: of one with parameters, what it is with some of them.
#[derive(Debug)]
pub struct Unregistered;

impl MapReduceTarget for Unregistered {
    type Built = MapReduce;

    fn take(self, job: MapReduce) -> MapReduce {
        job
    }
}

/// A job without functions, to be told its map function.
#[derive(Debug)]
pub struct Unmapped<T> {
    target: T,
    name: String,
}

impl<T: MapReduceTarget> Unmapped<T> {
    pub(crate) fn new(target: T, name: &str) -> Self {
        Unmapped {
            target,
            name: name.to_owned(),
        }
    }

    /// The map function: `|line: &str, out: &mut Pairs<String, i64>| …`. It is called for each
    /// record, and makes pairs of a key and a value. Records in which an argument is null make
    /// nothing, unless the argument is an `Option`. It may answer a `Result`; an error fails the
    /// attempt.
    ///
    /// Keys may be tuples of up to eight parts, values any [`Datum`].
    pub fn map<M, F: MapFn<M>>(self, map: F) -> MapReduceBuilder<T, F::Key, F::Value, NoReduce> {
        MapReduceBuilder {
            target: self.target,
            name: self.name,
            map: map.into_mapper(),
            bad_max: None,
            combine: None,
            partition: None,
            order: Vec::new(),
            reduce: NoReduce,
            pairs: PhantomData,
        }
    }
}

/// A job with keys `K` and values `V` that is being put together.
pub struct MapReduceBuilder<T, K, V, R> {
    target: T,
    name: String,
    map: Mapper,
    /// Bad records that an attempt may skip, if any.
    bad_max: Option<u64>,
    combine: Option<AggregateFunction>,
    partition: Option<ScalarFunction>,
    order: Vec<ValueOrder>,
    reduce: R,
    pairs: PhantomData<fn() -> (K, V)>,
}

/// A job has no reduce function yet.
pub struct NoReduce;

/// A job has a reduce function that makes rows `R`.
pub struct Reduced<R> {
    reducer: Reducer,
    rows: PhantomData<fn() -> R>,
}

impl<T, K, V, R> MapReduceBuilder<T, K, V, R>
where
    T: MapReduceTarget,
    K: Row,
    V: Datum,
{
    /// A function that makes two values of a key one. It is called as often as there is reason
    /// to, before the shuffle and after it, in any order: what comes of it must not depend on
    /// that. The reduce function is then given one value for each key.
    #[must_use]
    pub fn combine(mut self, combine: impl Fn(V, V) -> V + Send + Sync + 'static) -> Self
    where
        V: Sync,
    {
        let name = format!("{}.combine", self.name);
        self.combine = Some(combine::function(name, combine));
        self
    }

    /// Skips records for which the map function answers an error or panics, up to `max` in each
    /// task; one more fails the attempt. What it had made of such a record is taken back. They
    /// are counted as `count.skipped`, if the job is called `count`, and the first of them are
    /// told in the job's warnings; for all of them see [`MapReduce::bad_records`].
    #[must_use]
    pub fn skip_bad(mut self, max: u64) -> Self {
        self.bad_max = Some(max);
        self
    }

    /// Sorts the values of each key by what `by` says of them, smallest first; `by` may answer
    /// `std::cmp::Reverse` for the largest first. Called again, it says how to sort those that
    /// are equal so far.
    ///
    /// Values that were combined need no order: there is one for each key.
    #[must_use]
    pub fn sort_values_by<S, F>(mut self, by: F) -> Self
    where
        S: SortBy + 'static,
        F: for<'a> Fn(V::Ref<'a>) -> S + Send + Sync + 'static,
    {
        let name = match self.order.len() {
            0 => format!("{}.order", self.name),
            before => format!("{}.order{}", self.name, before + 1),
        };
        self.order
            .push((by::order::<V, S, F>(name, by), S::DESCENDING));
        self
    }

    /// Says which keys stay together: those for which `partition` gives the same number are
    /// reduced by one task, one after the other, in the order of keys, and what comes of them
    /// stands together in one file. Without it each key may go elsewhere.
    #[must_use]
    pub fn partition_by<F>(mut self, partition: F) -> Self
    where
        F: for<'a> Fn(K::Ref<'a>) -> u64 + Send + Sync + 'static,
    {
        let name = format!("{}.partition", self.name);
        self.partition = Some(by::partition::<K, F>(name, partition));
        self
    }
}

impl<T, K, V> MapReduceBuilder<T, K, V, NoReduce>
where
    T: MapReduceTarget,
    K: Row,
    V: Datum,
{
    /// The reduce function: `|word, counts, out: &mut Emitter<(String, i64)>| …`. It is called
    /// for each key with all of its values, and makes rows. It may answer a `Result`; an error
    /// fails the attempt.
    pub fn reduce<R, O, F>(self, reduce: F) -> MapReduceBuilder<T, K, V, Reduced<R>>
    where
        R: Row,
        O: Outcome + 'static,
        F: for<'a, 'b, 'c, 'd, 'e> Fn(
                K::Ref<'a>,
                &'b mut Values<'c, V>,
                &'d mut Emitter<'e, R>,
            ) -> O
            + Send
            + Sync
            + 'static,
    {
        MapReduceBuilder {
            target: self.target,
            name: self.name,
            map: self.map,
            bad_max: self.bad_max,
            combine: self.combine,
            partition: self.partition,
            order: self.order,
            reduce: Reduced {
                reducer: Reducer::new::<K, V, R>(Closure(reduce, PhantomData)),
                rows: PhantomData,
            },
            pairs: PhantomData,
        }
    }
}

impl<T, K, V, R> MapReduceBuilder<T, K, V, Reduced<R>>
where
    T: MapReduceTarget,
    K: Row,
    V: Datum,
    R: Row,
{
    /// The names of the columns of the rows that the reduce function makes, as many as there are:
    /// another number of them does not compile. This ends the job's description.
    pub fn columns<const N: usize>(self, names: [&str; N]) -> T::Built {
        const {
            assert!(N == R::COLUMNS, "as many names as columns are needed");
        }
        let names = names.map(str::to_owned).to_vec();
        let name = |function: &str| format!("{}.{function}", self.name);
        let output = schema_of_rows::<R>(names);
        let Reducer {
            over_rows,
            over_groups,
        } = self.reduce.reducer;
        let reduce = match (&self.combine, &self.partition) {
            (Some(_), None) => Reduce::Rows(TableFunction {
                udf: TableUdf::new(name("reduce"), "", output, Some(over_rows)),
                arguments: None,
            }),
            (_, None) => {
                Reduce::Groups(GroupUdf::new(name("reduce"), "", output, Some(over_groups)))
            }
            (_, Some(_)) => {
                let body: Arc<dyn GroupBody> = Arc::new(Regrouped {
                    body: over_groups,
                    keys: K::COLUMNS,
                });
                Reduce::Groups(GroupUdf::new(name("reduce"), "", output, Some(body)))
            }
        };
        let map = |function: &str, schema, bad| TableFunction {
            udf: TableUdf::new(name(function), "", schema, Some((self.map.body)(bad))),
            arguments: Some(self.map.arguments.clone()),
        };
        let bad = match self.bad_max {
            None => BadRecords::Fail,
            Some(max) => BadRecords::Skip(Skip {
                max,
                counter: name("skipped"),
            }),
        };
        let told = |_| map("bad", bad::schema(), BadRecords::Tell);
        self.target.take(MapReduce {
            bad: self.bad_max.map(told),
            map: map("map", Pair::<K, V>::schema(), bad),
            combine: self.combine,
            partition: self.partition,
            order: self.order,
            reduce,
            keys: key_columns::<K>(),
        })
    }
}
