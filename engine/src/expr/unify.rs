//! One type for several values: the branches of CASE, the items of IN, the arguments of coalesce.
//!
//! The columns decide. A constant joins them with the value it spells, so that `0` beside a
//! decimal is a decimal and widens nothing, and a string beside a date is a date.

use arrow::compute::{can_cast_types, cast_with_options};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};

use super::compile::Typed;
use super::eval::STRICT;
use super::exact::Exact;
use super::{Expr, coerce};
use crate::error::{Error, Result};

/// Brings all of `parts`, which belong to `expr`, to one type.
///
/// # Errors
/// `Invalid` if there is none, or a constant does not convert.
pub(super) fn unify(expr: &Expr, parts: Vec<Typed>) -> Result<(Vec<Typed>, DataType)> {
    let mut common = DataType::Null;
    let nothing = |left: &DataType, right: &DataType| {
        Error::invalid(format!(
            "{expr}: these types have nothing in common left={left} right={right}"
        ))
    };
    for part in parts.iter().filter(|part| part.constant().is_none()) {
        common = coerce::common(&common, &part.data_type)
            .ok_or_else(|| nothing(&common, &part.data_type))?;
    }
    let columns = common.clone();
    for part in parts.iter().filter(|part| part.constant().is_some()) {
        if columns != DataType::Null && beside(part, &columns) {
            continue;
        }
        let own = match part.constant().and_then(|value| Exact::of(value)) {
            Some(exact) if common.is_decimal() => exact.data_type(),
            _ => part.data_type.clone(),
        };
        common = coerce::common(&common, &own).ok_or_else(|| nothing(&common, &own))?;
    }
    if parts.iter().all(|part| !is_widest(&part.data_type)) {
        common = bounded(common);
    }
    let parts = parts
        .into_iter()
        .map(|part| part.exactly(&common, expr))
        .collect::<Result<_>>()?;
    Ok((parts, common))
}

fn is_widest(data_type: &DataType) -> bool {
    matches!(coerce::plain(data_type), DataType::Decimal256(..))
}

/// Decimals of up to 38 digits stay below that together: a value that then has too many is an
/// error, while the type alone is none.
pub(super) fn bounded(common: DataType) -> DataType {
    match common {
        DataType::Decimal256(_, scale) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale),
        other => other,
    }
}

/// Whether a constant means a value of type `to`, which is another one's: a number that the type
/// has, or a string where a date or time is expected.
pub(super) fn beside(constant: &Typed, to: &DataType) -> bool {
    let Some(value) = constant.constant() else {
        return false;
    };
    let fits = |to: &DataType| Exact::of(value).is_some_and(|exact| exact.constant(to).is_some());
    match to {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            value.data_type() == &DataType::Utf8View
                || constant.data_type == DataType::Null
                || can_cast_types(value.data_type(), to)
                    && value.data_type().is_temporal()
                    && cast_with_options(value, to, &STRICT).is_ok()
                    && coerce::common(value.data_type(), to).as_ref() == Some(to)
        }
        _ => constant.data_type == DataType::Null || fits(to),
    }
}
