//! The values of a key, one after the other.

use std::iter::Sum;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use kiln_engine::udf::Groups;
use kiln_engine::{Error, Result};

use crate::udf::datum::Datum;

/// The values of a key, as a reduce function is given them: they come from memory or disk as they
/// are asked for, so there may be more of them than fit into memory.
///
/// They can be gone through once. A function may stop early; what is left is passed over.
pub struct Values<'g, V: Datum> {
    column: &'g mut Typed<V::Column>,
    /// Rows of the column that have not been given.
    rows: Range<usize>,
    /// Where more rows of the key come from, and the place of values among their columns.
    rest: Option<(&'g mut dyn Groups, usize)>,
    failed: Option<Error>,
}

impl<'g, V: Datum> Values<'g, V> {
    /// Those in `rows` of a column, and then those of `rest`, in the column at its place.
    pub(super) fn new(
        column: &'g mut Typed<V::Column>,
        rows: Range<usize>,
        rest: Option<(&'g mut dyn Groups, usize)>,
    ) -> Self {
        Values {
            column,
            rows,
            rest,
            failed: None,
        }
    }

    /// The next value, borrowed if it is a text. If reading fails there are no more, and the
    /// attempt fails when the function returns.
    #[expect(
        clippy::should_implement_trait,
        reason = "a value may borrow from this, which an iterator's cannot"
    )]
    #[inline]
    pub fn next(&mut self) -> Option<V::Ref<'_>> {
        while self.rows.is_empty() {
            if !self.load() {
                return None;
            }
        }
        let row = self.rows.start;
        self.rows.start += 1;
        match V::get(self.column.get()?, row) {
            Ok(value) => Some(value),
            Err(error) => {
                (self.rows, self.rest, self.failed) = (0..0, None, Some(error));
                None
            }
        }
    }

    /// The values that have not been given, each by itself.
    pub fn iter(&mut self) -> impl Iterator<Item = V> {
        std::iter::from_fn(|| self.next().map(V::own))
    }

    /// The sum of those that have not been given.
    pub fn sum(&mut self) -> V
    where
        V: Sum<V>,
    {
        self.iter().sum()
    }

    /// Takes the next rows of the key; false if there are none.
    fn load(&mut self) -> bool {
        let Some((groups, place)) = &mut self.rest else {
            return false;
        };
        let loaded = match groups.next_rows() {
            Ok(Some((batch, rows))) => {
                self.rows = rows;
                self.column.set(batch.columns().get(*place), V::column)
            }
            Ok(None) => {
                self.rest = None;
                return false;
            }
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            (self.rows, self.rest, self.failed) = (0..0, None, Some(error));
        }
        self.failed.is_none()
    }

    /// What reading them met.
    ///
    /// # Errors
    /// That.
    pub(super) fn into_result(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// A column whose values can be read, for as long as rows are those of one and the same array.
pub(super) struct Typed<C>(Option<(ArrayRef, C)>);

impl<C> Typed<C> {
    pub(super) fn new() -> Self {
        Typed(None)
    }

    /// The column of `array`, made by `read` unless it is that of this array already.
    ///
    /// # Errors
    /// `Invalid` if there is no such array, or it is of another type.
    pub(super) fn set(
        &mut self,
        array: Option<&ArrayRef>,
        read: impl FnOnce(&ArrayRef) -> Result<C>,
    ) -> Result<()> {
        let array = array.ok_or_else(|| Error::invalid("too few columns for a key and a value"))?;
        let is_same = |(known, _): &(ArrayRef, C)| Arc::ptr_eq(known, array);
        if !self.0.as_ref().is_some_and(is_same) {
            self.0 = Some((Arc::clone(array), read(array)?));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn get(&self) -> Option<&C> {
        self.0.as_ref().map(|(_, column)| column)
    }
}
