//! Combine functions: the values of a key become one, on the side of the map and after the shuffle.
//!
//! To the engine it is an aggregate function: grouping, memory and shuffle are those of any other.
//! A state is the one value that is left of the rows so far.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use kiln_engine::udf::{AggregateBody, AggregateType, AggregateUdf, GroupStates};
use kiln_engine::{Error, Result};

use crate::udf::aggregate::AggregateFunction;
use crate::udf::datum::Datum;

/// The aggregate function called `name` that makes two values one by `combine`.
pub(super) fn function<V: Datum + Sync>(
    name: String,
    combine: impl Fn(V, V) -> V + Send + Sync + 'static,
) -> AggregateFunction {
    let output = AggregateType {
        arguments: vec![V::data_type()],
        state: V::data_type(),
        returns: V::data_type(),
    };
    let body: Arc<dyn AggregateBody> = Arc::new(Body {
        combine: Arc::new(combine),
        values: PhantomData::<fn() -> V>,
    });
    AggregateFunction {
        udf: AggregateUdf::new(name, "", output, Some(body)),
    }
}

struct Body<F, V> {
    combine: Arc<F>,
    values: PhantomData<fn() -> V>,
}

impl<F, V> AggregateBody for Body<F, V>
where
    F: Fn(V, V) -> V + Send + Sync + 'static,
    V: Datum + Sync,
{
    fn groups(&self) -> Box<dyn GroupStates> {
        Box::new(States {
            combine: Arc::clone(&self.combine),
            values: Vec::new(),
            bytes_beyond: 0,
        })
    }
}

/// What is left of each group.
struct States<F, V> {
    combine: Arc<F>,
    values: Vec<Option<V>>,
    /// What the values hold beside their place in the vector.
    bytes_beyond: usize,
}

impl<F, V> States<F, V>
where
    F: Fn(V, V) -> V,
    V: Datum,
{
    fn add(&mut self, groups: &[u32], rows: &[u32], values: &ArrayRef) -> Result<()> {
        let column = V::column(values)?;
        for (group, row) in groups.iter().zip(rows) {
            let value = V::own(V::get(&column, *row as usize)?);
            let slot = &mut self.values[*group as usize];
            let value = match slot.take() {
                Some(before) => {
                    self.bytes_beyond -= before.bytes_beyond();
                    (self.combine)(before, value)
                }
                None => value,
            };
            self.bytes_beyond += value.bytes_beyond();
            *slot = Some(value);
        }
        Ok(())
    }

    fn column(&self, groups: Range<usize>) -> Result<ArrayRef> {
        let mut made = V::builder();
        for value in &self.values[groups] {
            let value = value.as_ref();
            let value = value.ok_or_else(|| Error::internal("a key without a value"))?;
            V::append(&mut made, value.lend())?;
        }
        Ok(V::finish(&mut made))
    }
}

impl<F, V> GroupStates for States<F, V>
where
    F: Fn(V, V) -> V + Send + Sync,
    V: Datum + Sync,
{
    fn resize(&mut self, groups: usize) {
        self.values.resize_with(groups, || None);
    }

    fn update(&mut self, groups: &[u32], rows: &[u32], args: &[ArrayRef]) -> Result<()> {
        self.add(groups, rows, super::only(args)?)
    }

    fn merge(&mut self, groups: &[u32], rows: &[u32], states: &ArrayRef) -> Result<()> {
        self.add(groups, rows, states)
    }

    fn states(&self, groups: Range<usize>) -> Result<ArrayRef> {
        self.column(groups)
    }

    fn results(&self, groups: Range<usize>) -> Result<ArrayRef> {
        self.column(groups)
    }

    fn bytes(&self) -> u64 {
        (self.values.capacity() * size_of::<Option<V>>() + self.bytes_beyond) as u64
    }
}
