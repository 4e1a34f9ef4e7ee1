//! The built-in functions: what they take, what they give, and how they run. A file per family.
//!
//! Binding a call checks its arguments, converts them to what the function takes, and makes a
//! kernel that holds everything that does not depend on rows: patterns, units, formats.

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Int64Type};

use super::compile::Typed;
use super::eval::{Step, Value};
use super::{Expr, Function, coerce};
use crate::error::{Error, Result};

mod calendar;
mod choice;
mod cut;
mod dates;
mod letters;
mod math;
mod parse;
mod pattern;
mod strings;

/// From the values of the arguments, and the number of rows, to a column of that many. Arguments
/// that are single values may stand among columns.
type Kernel = Box<dyn Fn(&[Value], usize) -> Result<ArrayRef> + Send + Sync>;

/// A function with everything that does not depend on rows.
pub(super) struct Call {
    kernel: Kernel,
    can_fail: bool,
}

impl Call {
    /// Runs on `rows` rows.
    pub(super) fn run(&self, values: Vec<Value>, rows: usize) -> Result<ArrayRef> {
        (self.kernel)(&values, rows)
    }

    /// Whether there may be rows that this cannot be computed for.
    pub(super) fn can_fail(&self) -> bool {
        self.can_fail
    }
}

/// Checks the arguments of `expr`, a call of `function`, and converts them to what it takes.
pub(super) fn compile(expr: &Expr, function: Function, args: Vec<Typed>) -> Result<Typed> {
    use Function::*;
    let (least, most) = function.arguments();
    if !(least..=most).contains(&args.len()) {
        let expected = match most {
            usize::MAX => format!("{least} or more"),
            most if most > least => format!("{least} to {most}"),
            _ => least.to_string(),
        };
        return Err(Error::invalid(format!(
            "{expr}: wrong number of arguments expected={expected} found={}",
            args.len()
        )));
    }
    let binding = Binding {
        expr,
        function,
        args,
    };
    match function {
        Coalesce | Greatest | Least | Nullif => choice::bind(binding),
        RegexpLike | RegexpReplace | RegexpExtract | Like | Ilike | Contains | StartsWith
        | EndsWith => pattern::bind(binding),
        Year | Quarter | Month | Week | Day | DayOfWeek | DayOfYear | Hour | Minute | Second
        | EpochSeconds | DateTrunc | DateDiff => dates::bind(binding),
        ToDate | ToTimestamp => parse::bind(binding),
        Abs | Round | Floor | Ceil | Trunc | Sqrt | Exp | Ln | Log10 | Log2 | Power | Sign
        | Sin | Cos | Tan | Atan2 => math::bind(binding),
        Trim | Ltrim | Rtrim | Substring | Left | Right | SplitPart => cut::bind(binding),
        Words | Lower | Upper | Length | Concat | Replace | Reverse | Repeat | Lpad | Rpad
        | Split | Strpos | Ascii | Chr | Initcap => strings::bind(binding),
    }
}

/// A call whose arguments are being checked.
struct Binding<'a> {
    expr: &'a Expr,
    function: Function,
    args: Vec<Typed>,
}

impl Binding<'_> {
    fn count(&self) -> usize {
        self.args.len()
    }

    fn data_type(&self, index: usize) -> DataType {
        let data_type = self.args.get(index).map(|arg| &arg.data_type);
        data_type.map_or(DataType::Null, coerce::plain)
    }

    /// Brings an argument to a type.
    fn cast(&mut self, index: usize, to: &DataType) -> Result<()> {
        if index < self.args.len() {
            let arg = self.args.remove(index).exactly(to, self.expr)?;
            self.args.insert(index, arg);
        }
        Ok(())
    }

    /// The error for an argument of a type that the function does not take.
    fn needs(&self, what: &str, found: &DataType) -> Error {
        Error::invalid(format!("{}: {what} is needed found={found}", self.expr))
    }

    /// Requires strings at these places; an untyped null counts as one.
    fn strings(&mut self, indices: impl IntoIterator<Item = usize>) -> Result<()> {
        for index in indices {
            match self.data_type(index) {
                DataType::Utf8View | DataType::Null => self.cast(index, &DataType::Utf8View)?,
                found => return Err(self.needs("a string", &found)),
            }
        }
        Ok(())
    }

    /// Requires whole numbers at these places, and makes them 64 bits wide.
    fn integers(&mut self, indices: impl IntoIterator<Item = usize>) -> Result<()> {
        for index in indices {
            let found = self.data_type(index);
            if !found.is_integer() && found != DataType::Null {
                return Err(self.needs("a whole number", &found));
            }
            self.cast(index, &DataType::Int64)?;
        }
        Ok(())
    }

    /// Requires numbers everywhere, and makes them floats.
    fn floats(&mut self) -> Result<()> {
        for index in 0..self.count() {
            let found = self.data_type(index);
            if !found.is_numeric() && found != DataType::Null {
                return Err(self.needs("a number", &found));
            }
            self.cast(index, &DataType::Float64)?;
        }
        Ok(())
    }

    /// Takes out a string argument that has to be a constant.
    fn constant_string(&mut self, index: usize, what: &str) -> Result<String> {
        let arg = self.args.remove(index);
        let value = arg.constant().and_then(|value| {
            let value = value.as_string_view_opt()?;
            value.is_valid(0).then(|| value.value(0).to_owned())
        });
        value.ok_or_else(|| {
            Error::invalid(format!(
                "{}: the {what} has to be a constant string",
                self.expr
            ))
        })
    }

    /// Takes out a whole number that has to be a constant.
    fn constant_integer(&mut self, index: usize, what: &str) -> Result<i64> {
        let arg = self.args.remove(index);
        let value = arg.constant().and_then(|value| {
            let value = value.as_primitive_opt::<Int64Type>()?;
            value.is_valid(0).then(|| value.value(0))
        });
        value.ok_or_else(|| {
            Error::invalid(format!(
                "{}: the {what} has to be a constant whole number",
                self.expr
            ))
        })
    }

    fn any_null(&self) -> bool {
        self.args.iter().any(|arg| arg.nullable)
    }

    /// A call that cannot fail and is null where an argument is.
    fn total(
        self,
        data_type: DataType,
        kernel: impl Fn(&[Value], usize) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Typed {
        let nullable = self.any_null();
        self.finish(data_type, nullable, false, kernel)
    }

    /// A call that can fail and is null where an argument is.
    fn partial(
        self,
        data_type: DataType,
        kernel: impl Fn(&[Value], usize) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Typed {
        let nullable = self.any_null();
        self.finish(data_type, nullable, true, kernel)
    }

    fn finish(
        self,
        data_type: DataType,
        nullable: bool,
        can_fail: bool,
        kernel: impl Fn(&[Value], usize) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Typed {
        let nodes = self.args.into_iter().map(|arg| arg.node).collect();
        let call = Call {
            kernel: Box::new(kernel),
            can_fail,
        };
        Typed::new(Step::Call(call, nodes), self.expr, data_type, nullable)
    }
}

/// The strings of the argument at `index`.
fn texts(values: &[Value], index: usize) -> Result<Texts<'_>> {
    let value = argument(values, index)?;
    Ok(Texts {
        array: value.array().as_string_view(),
        is_scalar: value.is_scalar(),
    })
}

/// The whole numbers of the argument at `index`.
fn integers(values: &[Value], index: usize) -> Result<impl Fn(usize) -> Option<i64> + '_> {
    let value = argument(values, index)?;
    let (array, is_scalar) = (value.array().as_primitive::<Int64Type>(), value.is_scalar());
    Ok(move |row| {
        let row = if is_scalar { 0 } else { row };
        array.is_valid(row).then(|| array.value(row))
    })
}

fn argument(values: &[Value], index: usize) -> Result<&Value> {
    values
        .get(index)
        .ok_or_else(|| Error::internal("a call lacks an argument"))
}

/// Strings, or one string for all rows.
#[derive(Clone, Copy)]
struct Texts<'a> {
    array: &'a StringViewArray,
    is_scalar: bool,
}

impl<'a> Texts<'a> {
    fn get(&self, row: usize) -> Option<&'a str> {
        let row = self.place(row);
        self.array.is_valid(row).then(|| self.array.value(row))
    }

    fn place(&self, row: usize) -> usize {
        if self.is_scalar { 0 } else { row }
    }
}
