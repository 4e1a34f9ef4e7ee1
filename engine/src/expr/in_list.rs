//! IN with constants: membership in a set that is built once.
//!
//! Few items are compared one after the other, which for numbers is a loop without branches and
//! for strings looks at the sixteen bytes of each view first; many go into a hash set.

use std::collections::HashSet;
use std::hash::Hash;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, StringViewArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Int8Type, Int16Type,
    Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::kernel::hash::INLINE_BYTES;

/// Items that are compared one by one.
const FEW: usize = 16;

/// The items of a list that are not null, all of the operand's type.
pub(super) struct Set {
    test: Test,
    /// The list has a null: what is not found is null instead of false.
    has_null: bool,
}

type Test = Box<dyn Fn(&dyn Array) -> BooleanBuffer + Send + Sync>;

impl Set {
    /// The set of the one value of each of `items`; none if their type has no set.
    pub(super) fn new(items: &[&ArrayRef], data_type: &DataType) -> Option<Set> {
        let valid = |item: &&&ArrayRef| item.logical_null_count() == 0;
        let some: Vec<&ArrayRef> = items.iter().filter(valid).copied().collect();
        let test = match data_type {
            DataType::Int8 => primitive::<Int8Type>(&some),
            DataType::Int16 => primitive::<Int16Type>(&some),
            DataType::Int32 => primitive::<Int32Type>(&some),
            DataType::Int64 => primitive::<Int64Type>(&some),
            DataType::UInt8 => primitive::<UInt8Type>(&some),
            DataType::UInt16 => primitive::<UInt16Type>(&some),
            DataType::UInt32 => primitive::<UInt32Type>(&some),
            DataType::UInt64 => primitive::<UInt64Type>(&some),
            DataType::Date32 => primitive::<Date32Type>(&some),
            DataType::Decimal32(..) => primitive::<Decimal32Type>(&some),
            DataType::Decimal64(..) => primitive::<Decimal64Type>(&some),
            DataType::Decimal128(..) => primitive::<Decimal128Type>(&some),
            DataType::Utf8View => strings(&some),
            _ => return None,
        };
        let has_null = some.len() < items.len();
        Some(Set { test, has_null })
    }

    /// Whether each value is in the set.
    pub(super) fn contains(&self, values: &dyn Array) -> BooleanArray {
        let found = (self.test)(values);
        let mut nulls = values.nulls().cloned();
        if self.has_null {
            let known = NullBuffer::new(found.clone());
            nulls = NullBuffer::union(nulls.as_ref(), Some(&known));
        }
        BooleanArray::new(found, nulls)
    }
}

fn primitive<T: ArrowPrimitiveType<Native: Eq + Hash>>(items: &[&ArrayRef]) -> Test {
    let items = items.iter().map(|item| item.as_primitive::<T>().value(0));
    let items: HashSet<T::Native> = items.collect();
    if items.len() > FEW {
        return Box::new(move |values| {
            let values = values.as_primitive::<T>().values();
            BooleanBuffer::collect_bool(values.len(), |row| items.contains(&values[row]))
        });
    }
    let items: Vec<T::Native> = items.into_iter().collect();
    Box::new(move |values| {
        let values = values.as_primitive::<T>().values();
        let test = |row: usize| {
            let value = values[row];
            items
                .iter()
                .fold(false, |seen, item| seen | (*item == value))
        };
        BooleanBuffer::collect_bool(values.len(), test)
    })
}

fn strings(items: &[&ArrayRef]) -> Test {
    let text = |item: &&ArrayRef| item.as_string_view().value(0).to_owned();
    let items: HashSet<String> = items.iter().map(text).collect();
    if items.len() > FEW {
        return Box::new(move |values| {
            let values = values.as_string_view();
            let test = |row| values.is_valid(row) && items.contains(values.value(row));
            BooleanBuffer::collect_bool(values.len(), test)
        });
    }
    let items: StringViewArray = items.iter().map(|item| Some(item.as_str())).collect();
    // What a view tells: all of a short string, length and first bytes of a long one.
    let told = |view: u128| match view as u32 as usize <= INLINE_BYTES {
        true => view,
        false => view & u128::from(u64::MAX),
    };
    let views: Vec<u128> = items.views().iter().map(|view| told(*view)).collect();
    let any_long = items
        .views()
        .iter()
        .any(|view| *view as u32 as usize > INLINE_BYTES);
    Box::new(move |values| {
        let values = values.as_string_view();
        let stored = values.views();
        if !any_long {
            let test = |row: usize| {
                let view = stored[row];
                views
                    .iter()
                    .fold(false, |seen, item| seen | (*item == view))
            };
            return BooleanBuffer::collect_bool(values.len(), test);
        }
        let test = |row: usize| {
            let view = told(stored[row]);
            let same = |at: usize| {
                let is_long = view as u32 as usize > INLINE_BYTES;
                !is_long || values.is_valid(row) && values.value(row) == items.value(at)
            };
            views
                .iter()
                .enumerate()
                .any(|(at, item)| *item == view && same(at))
        };
        BooleanBuffer::collect_bool(values.len(), test)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn strings_of_all_lengths_and_lists_of_all_sizes() {
        const WORDS: [&str; 6] = [
            "",
            "a",
            "twelve bytes",
            "thirteen byte",
            "thirteen bytf",
            "a string that is quite a bit longer",
        ];
        let mut values: Vec<Option<String>> = WORDS.map(|word| Some(word.to_owned())).into();
        values.push(None);
        values.extend((0..20).map(|number| Some(format!("item {number}"))));
        let array: StringViewArray = values.iter().map(Option::as_deref).collect();
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let most = if random.bool() { 6 } else { values.len() };
            let mut picked = values.clone();
            random.shuffle(&mut picked);
            picked.truncate(random.usize(..=most));
            let items: Vec<ArrayRef> = picked
                .iter()
                .map(|item| Arc::new(StringViewArray::from(vec![item.as_deref()])) as ArrayRef)
                .collect();
            let items: Vec<&ArrayRef> = items.iter().collect();
            let set = Set::new(&items, &DataType::Utf8View).expect("a set of strings");
            let found = set.contains(&array);
            for (row, value) in values.iter().enumerate() {
                let expected = match value {
                    None => None,
                    some if picked.contains(some) => Some(true),
                    _ if picked.contains(&None) => None,
                    _ => Some(false),
                };
                let found = found.is_valid(row).then(|| found.value(row));
                assert_eq!(found, expected, "seed={seed} {value:?} in {picked:?}");
            }
        }
    }
}
