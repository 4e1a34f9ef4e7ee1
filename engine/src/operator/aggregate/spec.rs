//! What an aggregation computes, taken apart: inputs, states, and how states become results.
//!
//! A *state* is something that is updated row by row and merged: a count, a sum, a least value.
//! An aggregate is made of one or two of them, and two aggregates that need the same state share
//! it, as `sum(x)` and `avg(x)` do. In the same way an expression that several states need is
//! evaluated once. The three modes differ only in where states get their input and in what
//! comes out; which states there are follows from the aggregates alone, so that the final step
//! finds the columns that the partial one made.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::expr::eval::{Compiled, compile};
use crate::expr::{AggregateExpr, AggregateFunction, Expr, case_when, typing};
use crate::plan::AggregateMode;
use crate::udf::AggregateUdf;

/// An aggregation, ready to run.
pub(super) struct Spec {
    pub(super) mode: AggregateMode,
    pub(super) keys: Vec<Compiled>,
    pub(super) inputs: Vec<Input>,
    filters: Vec<Compiled>,
    pub(super) states: Vec<StateSpec>,
    pub(super) results: Vec<ResultSpec>,
    pub(super) schema: SchemaRef,
}

/// An expression that states are computed from.
pub(super) struct Input {
    compiled: Compiled,
    /// The same for the rows of a filter only, where others may have no value.
    filtered: Option<Compiled>,
    /// What its values have to be converted to first.
    convert: Option<DataType>,
}

/// One state of every group.
pub(super) struct StateSpec {
    pub(super) kind: StateKind,
    /// Numbers of the inputs; none for the rows themselves.
    pub(super) inputs: Vec<usize>,
    /// Number of the filter.
    pub(super) filter: Option<usize>,
    /// The columns in which it travels from the partial to the final step.
    pub(super) columns: Vec<Field>,
    /// The aggregate it was first needed for, for errors.
    pub(super) aggregate: String,
    /// The user's function that keeps it.
    pub(super) user: Option<AggregateUdf>,
    /// What such a function is asked for in the end are results, not states.
    pub(super) results: bool,
    identity: Identity,
}

/// States are the same if these are.
#[derive(Clone, PartialEq)]
struct Identity {
    step: Step,
    arguments: Vec<Expr>,
    filter: Option<Expr>,
    user: Option<AggregateUdf>,
}

/// What an aggregate needs, whatever the mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Rows,
    Count,
    Sum,
    Min,
    Max,
    First,
    Moments,
    Distinct,
    User,
}

/// How a state is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateKind {
    /// The count that the table keeps of each group: of rows, or of weights that come as input.
    Rows,
    /// Input values that are not null, or rows where there is no input.
    Count,
    /// Counts that come as input, added up.
    AddCounts,
    /// Sum.
    Sum,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// That of any row.
    First,
    /// Number, mean, and sum of the squares of the distances from the mean.
    Moments,
    /// The same from columns that hold them.
    AddMoments,
    /// Different values.
    Distinct,
    /// The same of groups that come back from disk, whose values come by themselves.
    MergeDistinct,
    /// What a user's function keeps of rows.
    User,
    /// The same from states that come as input.
    MergeUser,
}

/// How a result comes from states, which are given by number.
#[derive(Clone)]
pub(super) enum ResultSpec {
    /// It is the state.
    State(usize),
    /// A sum that was kept wide, as a whole number of this type.
    Whole(usize, DataType),
    /// What a user's function makes of a state, of this type.
    User(usize, DataType),
    /// Sum over count.
    Mean { sum: usize, count: usize },
    /// Variance of a sample or a population, or its root.
    Variance {
        moments: usize,
        sample: bool,
        root: bool,
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
            inputs: Vec::new(),
            filters: Vec::new(),
            states: Vec::new(),
            results: Vec::new(),
            schema: Arc::new(Schema::empty()),
        };
        let mut exprs = Vec::new();
        let mut fields = spec.key_fields();
        for aggregate in aggregates {
            if mode != AggregateMode::Final {
                typing::aggregate_field(aggregate, input)?;
            }
            let result = spec.lower(aggregate, input, &mut exprs)?;
            if mode != AggregateMode::Partial {
                fields.push(spec.result_field(aggregate, &result));
            }
            spec.results.push(result);
        }
        if mode == AggregateMode::Partial {
            fields.extend(spec.states.iter().flat_map(|state| state.columns.clone()));
        }
        spec.schema = Arc::new(Schema::new(fields));
        Ok(spec)
    }

    /// What makes the same results of groups that were put aside: of rows of [`group_fields`].
    ///
    /// [`group_fields`]: Self::group_fields
    ///
    /// # Errors
    /// `Internal` if that is not possible, which it always is.
    pub(super) fn regrouping(&self) -> Result<Self> {
        let fields = self.group_fields();
        let schema = Schema::new(fields.clone());
        let names = fields
            .iter()
            .map(|field| Expr::Column(field.name().clone()));
        let mut columns = names.map(|column| compile(&column, &schema));
        let keys = columns
            .by_ref()
            .take(self.keys.len())
            .collect::<Result<_>>()?;
        let input = |compiled: Result<Compiled>| {
            Ok(Input {
                compiled: compiled?,
                filtered: None,
                convert: None,
            })
        };
        let inputs = columns.map(input).collect::<Result<_>>()?;
        let mut first = 0;
        let state = |state: &StateSpec| {
            let count = state.group_columns().len();
            first += count;
            StateSpec {
                kind: state.kind.regrouping(),
                inputs: (first - count..first).collect(),
                filter: None,
                columns: state.columns.clone(),
                aggregate: state.aggregate.clone(),
                user: state.user.clone(),
                results: state.results,
                identity: state.identity.clone(),
            }
        };
        Ok(Spec {
            mode: AggregateMode::Final,
            keys,
            inputs,
            filters: Vec::new(),
            states: self.states.iter().map(state).collect(),
            results: self.results.clone(),
            schema: Arc::clone(&self.schema),
        })
    }

    /// The columns of groups that are put aside: keys, then states. What there may be several of
    /// for each group, as values that are counted once, is not among them.
    pub(super) fn group_fields(&self) -> Vec<Field> {
        let keys = self.key_fields().into_iter();
        let states = self.states.iter().flat_map(StateSpec::group_columns);
        let named = |(number, field): (usize, Field)| field.with_name(format!("{number}"));
        keys.chain(states.cloned()).enumerate().map(named).collect()
    }

    /// The columns of values of groups that are put aside: keys, then the value as bytes.
    pub(super) fn value_fields(&self) -> Vec<Field> {
        let keys = self.key_fields().into_iter();
        let value = Field::new("", DataType::BinaryView, false);
        let named = |(number, field): (usize, Field)| field.with_name(format!("{number}"));
        keys.chain([value]).enumerate().map(named).collect()
    }

    /// Numbers of the states that are values of which there may be several for each group.
    pub(super) fn distinct_states(&self) -> impl Iterator<Item = usize> + '_ {
        let states = self.states.iter().enumerate();
        let distinct = states.filter(|(_, state)| state.group_columns().is_empty());
        distinct.map(|(number, _)| number)
    }

    /// Adds the states of `aggregate` that are not there yet. `exprs` are the inputs so far.
    fn lower(
        &mut self,
        aggregate: &AggregateExpr,
        input: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<ResultSpec> {
        use AggregateFunction as F;
        if self.mode != AggregateMode::Single && !aggregate.function.is_mergeable() {
            return Err(Error::internal(format!(
                "{aggregate}: does not run in two steps"
            )));
        }
        let mut state = |step| self.state(step, aggregate, input, exprs);
        let variance = |moments, sample, root| ResultSpec::Variance {
            moments,
            sample,
            root,
        };
        Ok(match &aggregate.function {
            F::Count if aggregate.arguments.is_empty() && aggregate.filter.is_none() => {
                ResultSpec::State(state(Step::Rows)?)
            }
            F::Count => ResultSpec::State(state(Step::Count)?),
            F::Sum => {
                let sum = state(Step::Sum)?;
                self.sum_result(sum)
            }
            F::Avg => ResultSpec::Mean {
                sum: state(Step::Sum)?,
                count: state(Step::Count)?,
            },
            F::Min | F::All => ResultSpec::State(state(Step::Min)?),
            F::Max | F::Any => ResultSpec::State(state(Step::Max)?),
            F::First | F::Last => ResultSpec::State(state(Step::First)?),
            F::CountDistinct => ResultSpec::State(state(Step::Distinct)?),
            F::Variance => variance(state(Step::Moments)?, true, false),
            F::VariancePopulation => variance(state(Step::Moments)?, false, false),
            F::StdDev => variance(state(Step::Moments)?, true, true),
            F::StdDevPopulation => variance(state(Step::Moments)?, false, true),
            F::Udf(function) => {
                ResultSpec::User(state(Step::User)?, function.output().returns.clone())
            }
        })
    }

    /// The number of the state of `aggregate` for `step`, which is added if it is new.
    fn state(
        &mut self,
        step: Step,
        aggregate: &AggregateExpr,
        input: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<usize> {
        let mut identity = Identity {
            step,
            arguments: aggregate.arguments.clone(),
            filter: aggregate.filter.clone(),
            user: match &aggregate.function {
                AggregateFunction::Udf(function) => Some(function.clone()),
                _ => None,
            },
        };
        if let (AggregateMode::Single, Step::Count, [argument], None) = (
            self.mode,
            step,
            identity.arguments.as_slice(),
            &identity.filter,
        ) && !typing::field(argument, input)?.is_nullable()
        {
            // What is never null is counted by the table.
            (identity.step, identity.arguments) = (Step::Rows, Vec::new());
        }
        let known = self.states.iter().position(|s| s.identity == identity);
        if let Some(known) = known {
            return Ok(known);
        }
        let state = match self.mode {
            AggregateMode::Final => self.final_state(identity, aggregate, input, exprs)?,
            _ => self.first_state(identity, aggregate, input, exprs)?,
        };
        self.states.push(state);
        Ok(self.states.len() - 1)
    }

    /// A state that is computed from rows.
    fn first_state(
        &mut self,
        identity: Identity,
        aggregate: &AggregateExpr,
        input: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<StateSpec> {
        let kind = match identity.step {
            Step::Rows => StateKind::Rows,
            Step::Count => StateKind::Count,
            Step::Sum => StateKind::Sum,
            Step::Min => StateKind::Min,
            Step::Max => StateKind::Max,
            Step::First => StateKind::First,
            Step::Moments => StateKind::Moments,
            Step::Distinct => StateKind::Distinct,
            Step::User => StateKind::User,
        };
        let mut inputs = Vec::new();
        let mut data_type = DataType::Int64;
        let mut suffix = "";
        let filter_expr = identity.filter.as_ref();
        if let Some(function) = &identity.user {
            data_type = function.output().state.clone();
            for (argument, to) in identity.arguments.iter().zip(&function.output().arguments) {
                let found = typing::data_type(argument, input)?;
                let convert = (*to != found).then(|| to.clone());
                inputs.push(self.argument(argument, filter_expr, convert, input, exprs)?);
            }
        } else if let Some(argument) = identity.arguments.first() {
            let found = typing::data_type(argument, input)?;
            let convert = converted(kind, &found).ok_or_else(|| {
                Error::invalid(format!(
                    "{aggregate}: does not take this type found={found}"
                ))
            })?;
            (data_type, suffix) = state_type(kind, &found, &convert);
            let convert = (convert != found).then_some(convert);
            inputs.push(self.argument(argument, filter_expr, convert, input, exprs)?);
        }
        let filter = match &identity.filter {
            Some(filter) => Some(self.filter(filter, input)?),
            None => None,
        };
        Ok(StateSpec {
            kind,
            inputs,
            filter,
            columns: columns(&aggregate.name, identity.step, data_type, suffix),
            aggregate: aggregate.name.clone(),
            user: identity.user.clone(),
            results: self.mode != AggregateMode::Partial,
            identity,
        })
    }

    /// A state that is merged from the columns that a partial step made of it.
    fn final_state(
        &mut self,
        identity: Identity,
        aggregate: &AggregateExpr,
        input: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<StateSpec> {
        let kind = match identity.step {
            Step::Rows => StateKind::Rows,
            Step::Count => StateKind::AddCounts,
            Step::Sum => StateKind::Sum,
            Step::Min => StateKind::Min,
            Step::Max => StateKind::Max,
            Step::First => StateKind::First,
            Step::Moments => StateKind::AddMoments,
            Step::Distinct => StateKind::Distinct,
            Step::User => StateKind::MergeUser,
        };
        let name = &aggregate.name;
        let suffix = |suffix: &&str| {
            let column = format!("{name}{}{suffix}", identity.step.suffix());
            input.field_with_name(&column).is_ok()
        };
        let suffix = ["", SIGNED, UNSIGNED].into_iter().find(suffix);
        let mut columns = columns(name, identity.step, DataType::Int64, suffix.unwrap_or(""));
        let mut inputs = Vec::new();
        for field in &mut columns {
            let column = Expr::Column(field.name().clone());
            *field = typing::field(&column, input)?.with_nullable(field.is_nullable());
            inputs.push(self.input((column, None), input, exprs)?);
        }
        Ok(StateSpec {
            kind,
            inputs,
            filter: None,
            columns,
            aggregate: name.clone(),
            user: identity.user.clone(),
            results: true,
            identity,
        })
    }

    /// The number of the input of an aggregate's argument. Rows that the filter drops must not
    /// make it fail.
    fn argument(
        &mut self,
        argument: &Expr,
        filter: Option<&Expr>,
        convert: Option<DataType>,
        schema: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<usize> {
        let wanted = |expr: Expr| (expr, convert.clone());
        let Some(filter) = filter.filter(|_| may_fail(argument, schema)) else {
            return self.input(wanted(argument.clone()), schema, exprs);
        };
        let filtered = case_when(filter.clone(), argument.clone()).end();
        let number = self.input(wanted(filtered), schema, exprs)?;
        let input = &mut self.inputs[number];
        if input.filtered.is_none() {
            // All rows at once are faster, as long as that goes well.
            let all = compile(argument, schema)?;
            input.filtered = Some(std::mem::replace(&mut input.compiled, all));
        }
        Ok(number)
    }

    /// The number of an input, which is added if it is new.
    fn input(
        &mut self,
        wanted: (Expr, Option<DataType>),
        schema: &Schema,
        exprs: &mut Vec<(Expr, Option<DataType>)>,
    ) -> Result<usize> {
        if let Some(known) = exprs.iter().position(|known| *known == wanted) {
            return Ok(known);
        }
        self.inputs.push(Input {
            compiled: compile(&wanted.0, schema)?,
            filtered: None,
            convert: wanted.1.clone(),
        });
        exprs.push(wanted);
        Ok(exprs.len() - 1)
    }

    /// The number of a filter, which is added if it is new.
    fn filter(&mut self, filter: &Expr, schema: &Schema) -> Result<usize> {
        let same = |state: &&StateSpec| state.identity.filter.as_ref() == Some(filter);
        if let Some(known) = self.states.iter().find(same).and_then(|state| state.filter) {
            return Ok(known);
        }
        self.filters.push(compile(filter, schema)?);
        Ok(self.filters.len() - 1)
    }

    fn sum_result(&self, sum: usize) -> ResultSpec {
        let column = self.states[sum].columns[0].name();
        if column.ends_with(SIGNED) {
            ResultSpec::Whole(sum, DataType::Int64)
        } else if column.ends_with(UNSIGNED) {
            ResultSpec::Whole(sum, DataType::UInt64)
        } else {
            ResultSpec::State(sum)
        }
    }

    /// The columns of the keys.
    pub(super) fn key_fields(&self) -> Vec<Field> {
        self.keys.iter().map(|key| key.field().clone()).collect()
    }

    /// In the final step, the number of the input with partial counts that the table adds up.
    pub(super) fn weights(&self) -> Option<usize> {
        let rows = self
            .states
            .iter()
            .find(|state| state.kind == StateKind::Rows)?;
        rows.inputs.first().copied()
    }

    fn result_field(&self, aggregate: &AggregateExpr, result: &ResultSpec) -> Field {
        let (data_type, nullable) = match result {
            ResultSpec::State(state) => {
                let column = &self.states[*state].columns[0];
                (column.data_type().clone(), column.is_nullable())
            }
            ResultSpec::Whole(_, data_type) | ResultSpec::User(_, data_type) => {
                (data_type.clone(), true)
            }
            ResultSpec::Mean { .. } | ResultSpec::Variance { .. } => (DataType::Float64, true),
        };
        Field::new(&aggregate.name, data_type, nullable)
    }

    /// The values of every input for the rows of `batch`.
    ///
    /// # Errors
    /// As for [`Compiled::evaluate`].
    pub(super) fn evaluate_inputs(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let value = |input: &Input| {
            let values = match (input.compiled.evaluate(batch), &input.filtered) {
                (Err(_), Some(filtered)) => filtered.evaluate(batch)?,
                (values, _) => values?,
            };
            Ok(match &input.convert {
                Some(wanted) => cast(&values, wanted)?,
                None => values,
            })
        };
        self.inputs.iter().map(value).collect()
    }

    /// The rows that each filter lets through, as what is not null of a mask.
    ///
    /// # Errors
    /// As for [`Compiled::evaluate`].
    pub(super) fn evaluate_filters(&self, batch: &RecordBatch) -> Result<Vec<NullBuffer>> {
        let mask = |filter: &Compiled| {
            let kept = filter.evaluate_boolean(batch)?;
            let is_true = match kept.nulls() {
                Some(nulls) => kept.values() & nulls.inner(),
                None => kept.values().clone(),
            };
            Ok(NullBuffer::new(is_true))
        };
        self.filters.iter().map(mask).collect()
    }
}

/// Whether there may be rows for which an expression has no value.
fn may_fail(expr: &Expr, schema: &Schema) -> bool {
    compile(expr, schema).is_ok_and(|compiled| compiled.can_fail())
}

/// What is added to the name of the column of a sum of whole numbers, so that the final step
/// knows the type of its result.
const SIGNED: &str = "_i64";
const UNSIGNED: &str = "_u64";

impl Step {
    /// What the name of its column ends with.
    fn suffix(self) -> &'static str {
        match self {
            Step::Rows | Step::Count | Step::Distinct => ":count",
            Step::Sum => ":sum",
            Step::Min => ":min",
            Step::Max => ":max",
            Step::First => ":first",
            Step::Moments => ":moments",
            Step::User => ":state",
        }
    }
}

impl StateKind {
    /// How the same state is made of such states.
    fn regrouping(self) -> Self {
        match self {
            StateKind::Count | StateKind::AddCounts => StateKind::AddCounts,
            StateKind::Moments | StateKind::AddMoments => StateKind::AddMoments,
            StateKind::User | StateKind::MergeUser => StateKind::MergeUser,
            StateKind::Distinct | StateKind::MergeDistinct => StateKind::MergeDistinct,
            StateKind::Rows
            | StateKind::Sum
            | StateKind::Min
            | StateKind::Max
            | StateKind::First => self,
        }
    }
}

impl StateSpec {
    /// The columns in which it is put aside with its group.
    fn group_columns(&self) -> &[Field] {
        match self.kind {
            StateKind::Distinct | StateKind::MergeDistinct => &[],
            _ => &self.columns,
        }
    }

    /// Which rows of a batch count for the state: none where all do.
    pub(super) fn mask(&self, inputs: &[ArrayRef], filters: &[NullBuffer]) -> Option<NullBuffer> {
        // A user's function sees nulls itself.
        let first = self.inputs.first().filter(|_| self.user.is_none());
        let nulls = first.and_then(|n| inputs[*n].logical_nulls());
        let kept = self.filter.map(|filter| &filters[filter]);
        NullBuffer::union(nulls.as_ref(), kept).filter(|mask| mask.null_count() > 0)
    }
}

/// The columns of a state of the aggregate called `name`.
fn columns(name: &str, step: Step, data_type: DataType, suffix: &str) -> Vec<Field> {
    match step {
        Step::Moments => vec![
            Field::new(format!("{name}:count"), DataType::Int64, false),
            Field::new(format!("{name}:mean"), DataType::Float64, false),
            Field::new(format!("{name}:m2"), DataType::Float64, false),
        ],
        Step::Rows | Step::Count | Step::Distinct => {
            let column = format!("{name}{}", step.suffix());
            vec![Field::new(column, DataType::Int64, false)]
        }
        _ => {
            let column = format!("{name}{}{suffix}", step.suffix());
            vec![Field::new(column, data_type, true)]
        }
    }
}

/// What values of type `found` are converted to for a state; none if they cannot be.
fn converted(kind: StateKind, found: &DataType) -> Option<DataType> {
    let plain = match found {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) => return converted(kind, value),
        other => other.clone(),
    };
    match kind {
        StateKind::Sum => match plain {
            DataType::Null => Some(DataType::Int64),
            DataType::Float16 => Some(DataType::Float32),
            other => typing::sum_type(&other).map(|_| other),
        },
        StateKind::Moments => typing::sum_type(&plain).map(|_| DataType::Float64),
        StateKind::Count => Some(found.clone()),
        _ => typing::is_kept(&plain).then_some(plain),
    }
}

/// The type of a state, and what its column's name ends with. Sums of whole numbers are kept wide,
/// so that only the last of them has to fit.
fn state_type(kind: StateKind, found: &DataType, converted: &DataType) -> (DataType, &'static str) {
    if kind != StateKind::Sum {
        return (converted.clone(), "");
    }
    let decimal = |scale| DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale);
    match converted {
        DataType::Float32 | DataType::Float64 => (DataType::Float64, ""),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => (decimal(*scale), ""),
        _ if found.is_unsigned_integer() => (decimal(0), UNSIGNED),
        _ => (decimal(0), SIGNED),
    }
}
