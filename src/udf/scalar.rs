//! Scalar functions: values of a row to a value.

use std::error::Error as StdError;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use chrono::{NaiveDate, NaiveDateTime};
use kiln_engine::expr::Expr;
use kiln_engine::udf::{ScalarBody, ScalarType, ScalarUdf};
use kiln_engine::{Error, ErrorKind, Result};

use super::datum::Datum;

/// A scalar function, to be called in expressions.
#[derive(Debug, Clone)]
pub struct ScalarFunction {
    pub(crate) udf: ScalarUdf,
}

impl ScalarFunction {
    /// The function of typed values: `|a: i64, s: &str| …`. A row in which an argument is null
    /// gives null without a call, unless the argument is an `Option`.
    ///
    /// It is called with the same values as often as it pleases the engine, so what it gives
    /// should depend on nothing else.
    pub fn new<M>(name: &str, function: impl ScalarFn<M>) -> Self {
        function.into_scalar(name)
    }

    /// The function of whole columns, which are of one length: what it gives has to be of that
    /// length, too. `arguments` are converted to if that loses nothing.
    pub fn of_arrays(
        name: &str,
        arguments: impl IntoIterator<Item = DataType>,
        returns: DataType,
        function: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Self {
        let output = ScalarType {
            arguments: Some(arguments.into_iter().collect()),
            returns,
        };
        let body: Arc<dyn ScalarBody> = Arc::new(OfArrays(function));
        ScalarFunction {
            udf: ScalarUdf::new(name, "", output, Some(body)),
        }
    }

    /// The name by which it is known.
    pub fn name(&self) -> &str {
        self.udf.name()
    }

    /// A call, as an expression.
    pub fn call(&self, args: impl IntoIterator<Item = Expr>) -> Expr {
        Expr::Udf {
            function: self.udf.clone(),
            args: args.into_iter().collect(),
        }
    }
}

struct OfArrays<F>(F);

impl<F> ScalarBody for OfArrays<F>
where
    F: Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync,
{
    fn call(&self, args: &[ArrayRef], _rows: usize) -> Result<ArrayRef> {
        (self.0)(args)
    }
}

/// A type that a closure can take as an argument: a number, `bool`, `&str`, `&[u8]`, a date, or an
/// `Option` of one.
pub trait Argument {
    /// The same type with another lifetime.
    type At<'a>;

    /// What it is a value of.
    type Datum: for<'a> Datum<Ref<'a> = Self::At<'a>>;
}

macro_rules! argument {
    ($($native:ty),*) => {
        $(impl Argument for $native {
            type At<'a> = $native;
            type Datum = $native;
        })*
    };
}

argument!(
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
    u64,
    f32,
    f64,
    bool,
    NaiveDate,
    NaiveDateTime
);

impl Argument for &str {
    type At<'a> = &'a str;
    type Datum = String;
}

impl Argument for &[u8] {
    type At<'a> = &'a [u8];
    type Datum = Vec<u8>;
}

impl<A: Argument> Argument for Option<A> {
    type At<'a> = Option<A::At<'a>>;
    type Datum = Option<A::Datum>;
}

/// What a closure can give: a value, or a `Result` of one.
pub trait Returned {
    /// The value.
    type Value: Datum;

    /// The value, if there is one.
    ///
    /// # Errors
    /// What the closure answered.
    fn into_value(self) -> Result<Self::Value>;
}

impl<T: Datum> Returned for T {
    type Value = T;

    fn into_value(self) -> Result<T> {
        Ok(self)
    }
}

impl<T: Datum, E: Into<Box<dyn StdError + Send + Sync>>> Returned for Result<T, E> {
    type Value = T;

    fn into_value(self) -> Result<T> {
        self.map_err(|error| of_user(error.into()))
    }
}

/// What a user's code gives as the reason why it failed: an error of Kiln's as it is.
pub(super) fn of_user(error: Box<dyn StdError + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::new(ErrorKind::Program, error.to_string()),
    }
}

/// A closure that is a scalar function; `M` says of what.
pub trait ScalarFn<M>: Send + Sync + 'static {
    /// The function under a name.
    fn into_scalar(self, name: &str) -> ScalarFunction;
}

/// The body of a closure.
struct Typed<F, M> {
    function: F,
    marker: PhantomData<fn() -> M>,
}

/// The nulls of an argument for which a closure is not called.
fn stops<A: Argument>(array: &ArrayRef) -> Option<NullBuffer> {
    match A::Datum::NULLABLE {
        true => None,
        false => array.logical_nulls(),
    }
}

macro_rules! scalar_fn {
    ($($name:ident $column:ident $index:tt),*) => {
        impl<Function, R, $($name),*> ScalarFn<fn($($name),*) -> R> for Function
        where
            Function: Fn($($name),*) -> R
                + for<'a> Fn($($name::At<'a>),*) -> R
                + Send
                + Sync
                + 'static,
            R: Returned + 'static,
            $($name: Argument + 'static,)*
        {
            fn into_scalar(self, name: &str) -> ScalarFunction {
                let output = ScalarType {
                    arguments: Some(vec![$($name::Datum::data_type()),*]),
                    returns: R::Value::data_type(),
                };
                let body: Arc<dyn ScalarBody> = Arc::new(Typed {
                    function: self,
                    marker: PhantomData::<fn() -> fn($($name),*) -> R>,
                });
                ScalarFunction {
                    udf: ScalarUdf::new(name, "", output, Some(body)),
                }
            }
        }

        impl<Function, R, $($name),*> ScalarBody for Typed<Function, fn($($name),*) -> R>
        where
            Function: for<'a> Fn($($name::At<'a>),*) -> R + Send + Sync,
            R: Returned,
            $($name: Argument,)*
        {
            fn call(&self, args: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
                let nulls: Option<NullBuffer> = None;
                $(
                    let $column = $name::Datum::column(&args[$index])?;
                    let nulls = NullBuffer::union(
                        nulls.as_ref(),
                        stops::<$name>(&args[$index]).as_ref(),
                    );
                )*
                let mut made = Option::<R::Value>::builder();
                for row in 0..rows {
                    if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                        Option::<R::Value>::append_nothing(&mut made);
                        continue;
                    }
                    let value = (self.function)($($name::Datum::get(&$column, row)?),*);
                    let value = Some(value.into_value()?);
                    Option::<R::Value>::append(&mut made, value.lend())?;
                }
                Ok(Option::<R::Value>::finish(&mut made))
            }
        }
    };
}

scalar_fn!(A a 0);
scalar_fn!(A a 0, B b 1);
scalar_fn!(A a 0, B b 1, C c 2);
scalar_fn!(A a 0, B b 1, C c 2, D d 3);
scalar_fn!(A a 0, B b 1, C c 2, D d 3, E e 4);
scalar_fn!(A a 0, B b 1, C c 2, D d 3, E e 4, F f 5);
