//! Functions of users' programs: by name. Their code never travels.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use kiln_engine::Result;
use kiln_engine::expr::AggregateFunction;
use kiln_engine::udf::{
    AggregateType, AggregateUdf, GroupUdf, ScalarType, ScalarUdf, TableUdf, Udf,
};

use crate::convert::{malformed, need, schema};
use crate::wire;

/// The functions that are not of a program, beside their numbers.
const BUILT_IN: [(AggregateFunction, wire::AggregateFunction); 14] = [
    (AggregateFunction::Count, wire::AggregateFunction::Count),
    (AggregateFunction::Sum, wire::AggregateFunction::Sum),
    (AggregateFunction::Min, wire::AggregateFunction::Min),
    (AggregateFunction::Max, wire::AggregateFunction::Max),
    (AggregateFunction::Avg, wire::AggregateFunction::Avg),
    (
        AggregateFunction::CountDistinct,
        wire::AggregateFunction::CountDistinct,
    ),
    (
        AggregateFunction::Variance,
        wire::AggregateFunction::Variance,
    ),
    (
        AggregateFunction::VariancePopulation,
        wire::AggregateFunction::VariancePopulation,
    ),
    (AggregateFunction::StdDev, wire::AggregateFunction::StdDev),
    (
        AggregateFunction::StdDevPopulation,
        wire::AggregateFunction::StdDevPopulation,
    ),
    (AggregateFunction::First, wire::AggregateFunction::First),
    (AggregateFunction::Last, wire::AggregateFunction::Last),
    (AggregateFunction::Any, wire::AggregateFunction::Any),
    (AggregateFunction::All, wire::AggregateFunction::All),
];

pub(super) fn encode_aggregate(
    function: &AggregateFunction,
) -> (wire::AggregateFunction, Option<wire::UdfAggregate>) {
    if let AggregateFunction::Udf(function) = function {
        let output = function.output();
        let encoded = wire::UdfAggregate {
            function: Some(encode(function)),
            arguments: encode_types(&output.arguments),
            types: encode_types(&[output.state.clone(), output.returns.clone()]),
        };
        return (wire::AggregateFunction::Unspecified, Some(encoded));
    }
    let number = BUILT_IN.iter().find(|(known, _)| known == function);
    let number = number.map_or(wire::AggregateFunction::Unspecified, |(_, number)| *number);
    (number, None)
}

/// # Errors
/// `Invalid` if it is malformed, or of no known number.
pub(super) fn decode_aggregate(
    number: i32,
    udf: Option<wire::UdfAggregate>,
) -> Result<AggregateFunction> {
    let Some(udf) = udf else {
        let known = BUILT_IN.iter().find(|(_, known)| *known as i32 == number);
        let unknown = || malformed(format_args!("unknown AggregateFunction number={number}"));
        return known
            .map(|(function, _)| function.clone())
            .ok_or_else(unknown);
    };
    let wire::Udf { name, parameters } = need(udf.function, "function of an aggregate")?;
    let types = decode_types(&udf.types)?;
    let [state, returns] = <[DataType; 2]>::try_from(types)
        .map_err(|types| malformed(format_args!("{} types of a state", types.len())))?;
    let output = AggregateType {
        arguments: decode_types(&udf.arguments)?,
        state,
        returns,
    };
    let function = AggregateUdf::new(name, parameters, output, None);
    Ok(AggregateFunction::Udf(function))
}

pub(super) fn encode_call(function: &ScalarUdf, args: Vec<u32>) -> wire::UdfCall {
    let ScalarType { arguments, returns } = function.output();
    wire::UdfCall {
        function: Some(encode(function)),
        arguments: arguments.as_deref().map(encode_types),
        returns: schema::encode_type(returns),
        args,
    }
}

/// The function of a call.
///
/// # Errors
/// `Invalid` if it is malformed.
pub(super) fn decode_call(call: wire::UdfCall) -> Result<ScalarUdf> {
    let wire::Udf { name, parameters } = need(call.function, "function of a call")?;
    let arguments = call.arguments.map(|types| decode_types(&types));
    let output = ScalarType {
        arguments: arguments.transpose()?,
        returns: schema::decode_type(&call.returns)?,
    };
    Ok(ScalarUdf::new(name, parameters, output, None))
}

pub(super) fn encode_apply(function: &TableUdf) -> wire::Apply {
    wire::Apply {
        function: Some(encode(function)),
        schema: schema::encode(function.output()),
    }
}

/// # Errors
/// `Invalid` if it is malformed.
pub(super) fn decode_apply(apply: wire::Apply) -> Result<TableUdf> {
    let wire::Udf { name, parameters } = need(apply.function, "function over rows")?;
    let output = schema::decode(&apply.schema)?;
    Ok(TableUdf::new(name, parameters, output, None))
}

pub(super) fn encode_reduce(
    function: &GroupUdf,
    keys: &[String],
    order: Vec<wire::SortKey>,
    local: bool,
) -> wire::Reduce {
    wire::Reduce {
        function: Some(encode(function)),
        schema: schema::encode(function.output()),
        keys: keys.to_vec(),
        order,
        local,
    }
}

/// The function over groups, and the columns that make a group.
///
/// # Errors
/// `Invalid` if it is malformed.
pub(super) fn decode_reduce(function: Option<wire::Udf>, columns: &[u8]) -> Result<GroupUdf> {
    let wire::Udf { name, parameters } = need(function, "function over groups")?;
    let output = schema::decode(columns)?;
    Ok(GroupUdf::new(name, parameters, output, None))
}

fn encode<O, B: ?Sized>(function: &Udf<O, B>) -> wire::Udf {
    wire::Udf {
        name: function.name().to_owned(),
        parameters: function.parameters().to_owned(),
    }
}

fn encode_types(types: &[DataType]) -> Bytes {
    let fields = types.iter().map(|to| Field::new("", to.clone(), true));
    schema::encode(&Schema::new(fields.collect::<Vec<_>>()))
}

fn decode_types(bytes: &[u8]) -> Result<Vec<DataType>> {
    let schema: Arc<Schema> = schema::decode(bytes)?;
    let fields = schema.fields().iter();
    Ok(fields.map(|field| field.data_type().clone()).collect())
}
