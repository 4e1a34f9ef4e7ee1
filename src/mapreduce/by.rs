//! What decides where a key goes and in which order its values come: functions of one of them.

use std::cmp::Reverse;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::DataType;
use kiln_engine::Result;
use kiln_engine::udf::{ScalarBody, ScalarType, ScalarUdf};

use crate::udf::datum::Datum;
use crate::udf::row::Row;
use crate::udf::scalar::ScalarFunction;

/// What values can be sorted by: a [`Datum`], smallest first, or `std::cmp::Reverse` of one,
/// largest first.
pub trait SortBy {
    /// What is compared.
    type Datum: Datum;

    /// Largest first.
    const DESCENDING: bool;

    /// What is compared.
    fn into_datum(self) -> Self::Datum;
}

impl<D: Datum> SortBy for D {
    type Datum = D;

    const DESCENDING: bool = false;

    fn into_datum(self) -> D {
        self
    }
}

impl<D: Datum> SortBy for Reverse<D> {
    type Datum = D;

    const DESCENDING: bool = true;

    fn into_datum(self) -> D {
        self.0
    }
}

fn scalar(
    name: String,
    arguments: Vec<DataType>,
    returns: DataType,
    body: impl ScalarBody + 'static,
) -> ScalarFunction {
    let output = ScalarType {
        arguments: Some(arguments),
        returns,
    };
    ScalarFunction {
        udf: ScalarUdf::new(name, "", output, Some(Arc::new(body))),
    }
}

/// The function called `name` from keys to numbers.
pub(super) fn partition<K, F>(name: String, function: F) -> ScalarFunction
where
    K: Row,
    F: for<'a> Fn(K::Ref<'a>) -> u64 + Send + Sync + 'static,
{
    let types = K::types().into_iter();
    let arguments = types.map(|(data_type, _)| data_type).collect();
    let body = Partition {
        function,
        marker: PhantomData::<fn() -> K>,
    };
    scalar(name, arguments, DataType::UInt64, body)
}

struct Partition<F, K> {
    function: F,
    marker: PhantomData<fn() -> K>,
}

impl<F, K> ScalarBody for Partition<F, K>
where
    K: Row,
    F: for<'a> Fn(K::Ref<'a>) -> u64 + Send + Sync,
{
    fn call(&self, args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let keys = K::columns(args)?;
        let numbers = (0..rows).map(|row| Ok((self.function)(K::get(&keys, row)?)));
        let numbers: Vec<u64> = numbers.collect::<Result<_>>()?;
        Ok(Arc::new(UInt64Array::from(numbers)))
    }
}

/// The function called `name` from values to what they are sorted by.
pub(super) fn order<V, S, F>(name: String, function: F) -> ScalarFunction
where
    V: Datum,
    S: SortBy + 'static,
    F: for<'a> Fn(V::Ref<'a>) -> S + Send + Sync + 'static,
{
    let body = Order {
        function,
        marker: PhantomData::<fn() -> (V, S)>,
    };
    scalar(name, vec![V::data_type()], S::Datum::data_type(), body)
}

struct Order<F, M> {
    function: F,
    marker: PhantomData<fn() -> M>,
}

impl<F, V, S> ScalarBody for Order<F, (V, S)>
where
    V: Datum,
    S: SortBy,
    F: for<'a> Fn(V::Ref<'a>) -> S + Send + Sync,
{
    fn call(&self, args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let values = V::column(super::only(args)?)?;
        let mut made = S::Datum::builder();
        for row in 0..rows {
            let by = (self.function)(V::get(&values, row)?).into_datum();
            S::Datum::append(&mut made, by.lend())?;
        }
        Ok(S::Datum::finish(&mut made))
    }
}
