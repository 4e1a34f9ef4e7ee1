//! Aggregate functions: the rows of a group to a value.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef};
use arrow::buffer::NullBuffer;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, AggregateFunction as Function, Expr};
use kiln_engine::udf::{AggregateBody, AggregateType, AggregateUdf, GroupStates};

use super::datum::Datum;
use super::row::Row;

/// What an aggregate function does: a state for each group is begun, updated by rows, merged with
/// states of other rows of the group, and finished.
///
/// ```
/// use kiln::Aggregator;
///
/// /// The mean of values, each with its weight.
/// struct WeightedMean;
///
/// impl Aggregator for WeightedMean {
///     type Input = (f64, f64);
///     type State = (f64, f64);
///     type Output = Option<f64>;
///
///     fn init(&self) -> (f64, f64) {
///         (0.0, 0.0)
///     }
///
///     fn update(&self, state: &mut (f64, f64), (value, weight): (f64, f64)) {
///         state.0 += value * weight;
///         state.1 += weight;
///     }
///
///     fn merge(&self, state: &mut (f64, f64), other: (f64, f64)) {
///         state.0 += other.0;
///         state.1 += other.1;
///     }
///
///     fn finish(&self, state: &(f64, f64)) -> Option<f64> {
///         (state.1 != 0.0).then(|| state.0 / state.1)
///     }
/// }
/// ```
pub trait Aggregator: Send + Sync + 'static {
    /// The arguments: a value, or a tuple of several. Rows in which one is null are passed over,
    /// unless it is an `Option`.
    type Input: Row;

    /// What is kept of a group.
    type State: Datum + Sync;

    /// What comes of it.
    type Output: Datum;

    /// About how many bytes a state takes beyond its own size, for the memory budget.
    const STATE_BYTES: usize = 0;

    /// The state of no rows.
    fn init(&self) -> Self::State;

    /// Adds a row.
    fn update(&self, state: &mut Self::State, row: <Self::Input as Row>::Ref<'_>);

    /// Adds the rows of another state. The order of rows is not known.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// The result of a group.
    fn finish(&self, state: &Self::State) -> Self::Output;
}

/// An aggregate function, to be called in a group-by.
#[derive(Debug, Clone)]
pub struct AggregateFunction {
    pub(crate) udf: AggregateUdf,
}

impl AggregateFunction {
    /// The function that does what `aggregator` says.
    pub fn new<A: Aggregator>(name: &str, aggregator: A) -> Self {
        let types = A::Input::types().into_iter();
        let output = AggregateType {
            arguments: types.map(|(data_type, _)| data_type).collect(),
            state: A::State::data_type(),
            returns: A::Output::data_type(),
        };
        let body: Arc<dyn AggregateBody> = Arc::new(Body(Arc::new(aggregator)));
        AggregateFunction {
            udf: AggregateUdf::new(name, "", output, Some(body)),
        }
    }

    /// The name by which it is known.
    pub fn name(&self) -> &str {
        self.udf.name()
    }

    /// A call, for [`GroupBy::aggregate`](crate::GroupBy::aggregate).
    pub fn call(&self, args: impl IntoIterator<Item = Expr>) -> AggregateExpr {
        AggregateExpr::of(Function::Udf(self.udf.clone()), args)
    }
}

struct Body<A>(Arc<A>);

impl<A: Aggregator> AggregateBody for Body<A> {
    fn groups(&self) -> Box<dyn GroupStates> {
        Box::new(States {
            aggregator: Arc::clone(&self.0),
            states: Vec::new(),
        })
    }
}

struct States<A: Aggregator> {
    aggregator: Arc<A>,
    states: Vec<A::State>,
}

impl<A: Aggregator> States<A> {
    /// The rows for which the function is not called.
    fn stops(args: &[ArrayRef]) -> Option<NullBuffer> {
        let types = A::Input::types();
        let firm = args
            .iter()
            .zip(types)
            .filter(|(_, (_, nullable))| !nullable);
        firm.fold(None, |stops, (array, _)| {
            NullBuffer::union(stops.as_ref(), array.logical_nulls().as_ref())
        })
    }
}

impl<A: Aggregator> GroupStates for States<A> {
    fn resize(&mut self, groups: usize) {
        while self.states.len() < groups {
            self.states.push(self.aggregator.init());
        }
    }

    fn update(&mut self, groups: &[u32], rows: &[u32], args: &[ArrayRef]) -> Result<()> {
        let columns = A::Input::columns(args)?;
        let stops = Self::stops(args);
        for (group, row) in groups.iter().zip(rows) {
            let row = *row as usize;
            if stops.as_ref().is_none_or(|stops| stops.is_valid(row)) {
                let state = &mut self.states[*group as usize];
                let row = A::Input::get(&columns, row)?;
                self.aggregator.update(state, row);
            }
        }
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], rows: &[u32], states: &ArrayRef) -> Result<()> {
        let column = A::State::column(states)?;
        for (group, row) in groups.iter().zip(rows) {
            let other = A::State::own(A::State::get(&column, *row as usize)?);
            let state = &mut self.states[*group as usize];
            self.aggregator.merge(state, other);
        }
        Ok(())
    }

    fn states(&self, groups: Range<usize>) -> Result<ArrayRef> {
        let mut made = A::State::builder();
        for state in &self.states[groups] {
            A::State::append(&mut made, state.lend())?;
        }
        Ok(A::State::finish(&mut made))
    }

    fn results(&self, groups: Range<usize>) -> Result<ArrayRef> {
        let mut made = A::Output::builder();
        for state in &self.states[groups] {
            A::Output::append(&mut made, self.aggregator.finish(state).lend())?;
        }
        Ok(A::Output::finish(&mut made))
    }

    fn bytes(&self) -> u64 {
        (self.states.capacity() * (size_of::<A::State>() + A::STATE_BYTES)) as u64
    }
}
