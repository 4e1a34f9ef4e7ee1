//! What an aggregation computes, taken apart: keys, states, and how states become results.
//!
//! A *state* is something that is updated row by row and merged: a count, a sum, a least or a
//! greatest value. Every aggregate is one state, except the mean, which is a sum and a count. The
//! three modes differ only in where states get their input and in what comes out.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::expr::eval::{Compiled, compile};
use crate::expr::{AggregateExpr, AggregateFunction, Expr, typing};
use crate::operator::aggregate::state::States;
use crate::plan::AggregateMode;

/// An aggregation, ready to run.
pub(super) struct Spec {
    pub(super) mode: AggregateMode,
    pub(super) keys: Vec<Compiled>,
    pub(super) states: Vec<StateSpec>,
    pub(super) results: Vec<ResultSpec>,
    pub(super) schema: SchemaRef,
}

/// One state of every group.
pub(super) struct StateSpec {
    pub(super) kind: StateKind,
    /// What it is computed from; none for the rows themselves.
    pub(super) input: Option<Compiled>,
    /// What the input has to be converted to first.
    input_type: Option<DataType>,
    /// Type of the state.
    pub(super) data_type: DataType,
    /// Name of the state's column between partial and final.
    pub(super) column: String,
    /// The aggregate it belongs to, for errors.
    pub(super) aggregate: String,
}

/// How a state is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateKind {
    /// The count that the table keeps of each group: of rows, or of weights that come as input.
    Rows,
    /// Input values that are not null.
    Count,
    /// Counts that come as input, added up.
    AddCounts,
    /// Sum.
    Sum,
    /// Least.
    Min,
    /// Greatest.
    Max,
}

/// How a result comes from states.
pub(super) enum ResultSpec {
    /// It is the state of that number.
    State(usize),
    /// Sum over count.
    Mean {
        /// Number of the sum's state.
        sum: usize,
        /// Number of the count's state.
        count: usize,
    },
}

impl Spec {
    pub(super) fn new(
        mode: AggregateMode,
        input: &Schema,
        group_by: &[Expr],
        aggregates: &[AggregateExpr],
    ) -> Result<Self> {
        let keys = group_by
            .iter()
            .map(|key| compile(key, input))
            .collect::<Result<_>>()?;
        let mut spec = Spec {
            mode,
            keys,
            states: Vec::new(),
            results: Vec::new(),
            schema: Arc::new(Schema::empty()),
        };
        let mut fields = spec.key_fields();
        for aggregate in aggregates {
            let result = spec.lower(aggregate, input)?;
            if mode != AggregateMode::Partial {
                fields.push(spec.result_field(aggregate, &result));
            }
            spec.results.push(result);
        }
        if mode == AggregateMode::Partial {
            fields.extend(spec.states.iter().map(|state| {
                Field::new(
                    &state.column,
                    state.data_type.clone(),
                    !state.kind.is_count(),
                )
            }));
        }
        spec.schema = Arc::new(Schema::new(fields));
        Ok(spec)
    }

    /// Adds the states of `aggregate`.
    fn lower(&mut self, aggregate: &AggregateExpr, input: &Schema) -> Result<ResultSpec> {
        let name = &aggregate.name;
        if self.mode != AggregateMode::Final {
            typing::aggregate_field(aggregate, input)?;
        }
        let (sum_column, count_column) = (format!("{name}:sum"), format!("{name}:count"));
        let is_final = self.mode == AggregateMode::Final;
        // In the final step the states of the partial one are the input.
        let argument = |column: &str| match is_final {
            true => Some(Expr::Column(column.to_owned())),
            false => aggregate.argument.clone(),
        };
        let counting = if is_final {
            StateKind::AddCounts
        } else {
            StateKind::Count
        };
        let plain = |kind| (kind, argument(name), name.clone());
        let states = match aggregate.function {
            AggregateFunction::Count if is_final && !self.counts_rows() => {
                vec![plain(StateKind::Rows)]
            }
            AggregateFunction::Count if !is_final && aggregate.argument.is_none() => {
                vec![plain(StateKind::Rows)]
            }
            AggregateFunction::Count => vec![plain(counting)],
            AggregateFunction::Sum => vec![plain(StateKind::Sum)],
            AggregateFunction::Min => vec![plain(StateKind::Min)],
            AggregateFunction::Max => vec![plain(StateKind::Max)],
            AggregateFunction::Avg => vec![
                (StateKind::Sum, argument(&sum_column), sum_column),
                (counting, argument(&count_column), count_column),
            ],
            _ => return Err(Error::internal(format!("{aggregate}: does not run yet"))),
        };
        let first = self.states.len();
        for (kind, argument, column) in states {
            let is_mean = aggregate.function == AggregateFunction::Avg;
            let argument = argument
                .map(|argument| compile(&argument, input))
                .transpose()?;
            let (input_type, data_type) = match &argument {
                _ if kind.is_count() => (None, DataType::Int64),
                None => return Err(Error::internal("an aggregate lost its argument")),
                Some(argument) => {
                    let argument = argument.field().data_type();
                    let (input, state) = state_types(kind, argument, is_mean)
                        .ok_or_else(|| unsupported(aggregate, argument))?;
                    ((input != *argument).then_some(input), state)
                }
            };
            self.states.push(StateSpec {
                kind,
                input: argument,
                input_type,
                data_type,
                column,
                aggregate: name.clone(),
            });
        }
        Ok(match aggregate.function {
            AggregateFunction::Avg => ResultSpec::Mean {
                sum: first,
                count: first + 1,
            },
            _ => ResultSpec::State(first),
        })
    }

    /// The columns of the keys.
    pub(super) fn key_fields(&self) -> Vec<Field> {
        self.keys.iter().map(|key| key.field().clone()).collect()
    }

    fn counts_rows(&self) -> bool {
        self.states
            .iter()
            .any(|state| state.kind == StateKind::Rows)
    }

    /// In the final step, the partial counts that the table adds up.
    pub(super) fn weights(&self) -> Option<&Compiled> {
        let rows = self
            .states
            .iter()
            .find(|state| state.kind == StateKind::Rows)?;
        rows.input.as_ref()
    }

    fn result_field(&self, aggregate: &AggregateExpr, result: &ResultSpec) -> Field {
        match result {
            ResultSpec::Mean { .. } => Field::new(&aggregate.name, DataType::Float64, true),
            ResultSpec::State(state) => {
                let state = &self.states[*state];
                Field::new(
                    &aggregate.name,
                    state.data_type.clone(),
                    !state.kind.is_count(),
                )
            }
        }
    }
}

impl StateKind {
    /// Whether it is a number that is never null.
    pub(super) fn is_count(self) -> bool {
        matches!(
            self,
            StateKind::Rows | StateKind::Count | StateKind::AddCounts
        )
    }
}

impl StateSpec {
    /// What rows of `batch` add to the state; none where these are counted as they are.
    ///
    /// # Errors
    /// As for [`Compiled::evaluate`].
    pub(super) fn evaluate(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>> {
        let Some(input) = &self.input else {
            return Ok(None);
        };
        let values = input.evaluate(batch)?;
        Ok(Some(match &self.input_type {
            Some(wanted) => cast(&values, wanted)?,
            None => values,
        }))
    }
}

fn unsupported(aggregate: &AggregateExpr, found: &DataType) -> Error {
    Error::invalid(format!(
        "{aggregate}: does not take this type found={found}"
    ))
}

/// For a sum, least or greatest: the type that the input has to have and the type of the state;
/// none where there is no such state. The sum behind a mean is exact for whole numbers, since it
/// is not the result.
fn state_types(kind: StateKind, input: &DataType, is_mean: bool) -> Option<(DataType, DataType)> {
    if kind != StateKind::Sum {
        let input = match input {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            DataType::Dictionary(_, value) => return state_types(kind, value, is_mean),
            other => other.clone(),
        };
        return States::supports(&input).then(|| (input.clone(), input));
    }
    let exact = |sum: DataType| if is_mean { decimal(0) } else { sum };
    Some(match input {
        DataType::Null => (DataType::Int64, exact(DataType::Int64)),
        DataType::Float16 => (DataType::Float64, DataType::Float64),
        DataType::Float32 | DataType::Float64 => (input.clone(), DataType::Float64),
        signed if signed.is_signed_integer() => (input.clone(), exact(DataType::Int64)),
        unsigned if unsigned.is_unsigned_integer() => (input.clone(), exact(DataType::UInt64)),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => (input.clone(), decimal(*scale)),
        _ => return None,
    })
}

fn decimal(scale: i8) -> DataType {
    DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
}
