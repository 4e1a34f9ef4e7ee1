//! Calls of functions of users' programs.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::compile::Typed;
use super::eval::{Rows, Step, Value};
use super::{Expr, coerce};
use crate::error::{Error, Result};
use crate::udf::{ScalarBody, ScalarUdf};

/// A function that is ready to run.
pub(super) struct UserCall {
    name: String,
    body: Option<Arc<dyn ScalarBody>>,
}

impl UserCall {
    pub(super) fn run(&self, values: Vec<Value>, rows: &Rows<'_>) -> Result<Value> {
        let Some(body) = &self.body else {
            return Err(Error::invalid(format!(
                "this process does not have the code of a function name={:?}",
                self.name
            )));
        };
        let args = values
            .into_iter()
            .map(|value| value.into_array(rows.count()));
        let args: Vec<ArrayRef> = args.collect::<Result<_>>()?;
        Ok(Value::Array(body.call(&args, rows.count())?))
    }
}

/// Checks the arguments of `expr`, a call of `function`, and converts them to what it takes.
pub(super) fn compile(expr: &Expr, function: &ScalarUdf, args: Vec<Typed>) -> Result<Typed> {
    let signature = function.output();
    let args = match &signature.arguments {
        None => args,
        Some(types) if types.len() == args.len() => {
            let pairs = args.into_iter().zip(types);
            let converted = pairs.map(|(arg, to)| {
                if arg.constant().is_none() && !coerce::widens(&arg.data_type, to) {
                    return Err(Error::invalid(format!(
                        "{expr}: an argument has another type expected={to} found={}",
                        arg.data_type
                    )));
                }
                arg.exactly(to, expr)
            });
            converted.collect::<Result<_>>()?
        }
        Some(types) => {
            return Err(Error::invalid(format!(
                "{expr}: wrong number of arguments expected={} found={}",
                types.len(),
                args.len()
            )));
        }
    };
    let call = UserCall {
        name: function.name().to_owned(),
        body: function.body().cloned(),
    };
    let nodes = args.into_iter().map(|arg| arg.node).collect();
    let step = Step::Udf(call, nodes);
    Ok(Typed::new(step, expr, signature.returns.clone(), true))
}
