//! Rows as functions take and give them: one value, or a tuple of values for several columns.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use chrono::{NaiveDate, NaiveDateTime};
use kiln_engine::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::datum::{Datum, Packed};

/// A Rust type whose values are rows: a [`Datum`] is a row of one column, a tuple a row of several.
pub trait Row: Send + 'static {
    /// A row as functions are given it and as it is written.
    type Ref<'a>;

    /// Columns whose rows can be read.
    type Columns: Send + Sync;

    /// Columns under construction.
    type Builders: Send;

    /// How many columns there are.
    const COLUMNS: usize;

    /// Type of each column, and whether it may have nulls.
    fn types() -> Vec<(DataType, bool)>;

    /// The columns of arrays.
    ///
    /// # Errors
    /// `Invalid` if they are too few or of other types.
    fn columns(arrays: &[ArrayRef]) -> Result<Self::Columns>;

    /// A row.
    ///
    /// # Errors
    /// As for [`Datum::get`].
    fn get(columns: &Self::Columns, row: usize) -> Result<Self::Ref<'_>>;

    /// Empty columns.
    fn builders() -> Self::Builders;

    /// Appends a row.
    ///
    /// # Errors
    /// As for [`Datum::append`].
    fn append(builders: &mut Self::Builders, row: Self::Ref<'_>) -> Result<()>;

    /// The columns; the builders are empty again.
    fn finish(builders: &mut Self::Builders) -> Vec<ArrayRef>;
}

fn array(arrays: &[ArrayRef], index: usize) -> Result<&ArrayRef> {
    arrays.get(index).ok_or_else(|| {
        let count = arrays.len();
        Error::invalid(format!("too few columns for a row found={count}"))
    })
}

macro_rules! row_of_one {
    ($([$($generics:tt)*] $datum:ty;)*) => {
        $(impl<$($generics)*> Row for $datum {
            type Ref<'a> = <$datum as Datum>::Ref<'a>;
            type Columns = <$datum as Datum>::Column;
            type Builders = <$datum as Datum>::Builder;

            const COLUMNS: usize = 1;

            fn types() -> Vec<(DataType, bool)> {
                vec![(<$datum>::data_type(), <$datum>::NULLABLE)]
            }

            fn columns(arrays: &[ArrayRef]) -> Result<Self::Columns> {
                <$datum>::column(array(arrays, 0)?)
            }

            #[inline]
            fn get(columns: &Self::Columns, row: usize) -> Result<Self::Ref<'_>> {
                <$datum as Datum>::get(columns, row)
            }

            fn builders() -> Self::Builders {
                <$datum>::builder()
            }

            #[inline]
            fn append(builders: &mut Self::Builders, row: Self::Ref<'_>) -> Result<()> {
                <$datum as Datum>::append(builders, row)
            }

            fn finish(builders: &mut Self::Builders) -> Vec<ArrayRef> {
                vec![<$datum as Datum>::finish(builders)]
            }
        })*
    };
}

row_of_one! {
    [] i8;
    [] i16;
    [] i32;
    [] i64;
    [] u8;
    [] u16;
    [] u32;
    [] u64;
    [] f32;
    [] f64;
    [] bool;
    [] String;
    [] Vec<u8>;
    [] NaiveDate;
    [] NaiveDateTime;
    [T: Datum] Option<T>;
    [T: Serialize + DeserializeOwned + Clone + Send + 'static] Packed<T>;
}

macro_rules! row_of_several {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Datum),*> Row for ($($name,)*) {
            type Ref<'a> = ($($name::Ref<'a>,)*);
            type Columns = ($($name::Column,)*);
            type Builders = ($($name::Builder,)*);

            const COLUMNS: usize = [$($index),*].len();

            fn types() -> Vec<(DataType, bool)> {
                vec![$(($name::data_type(), $name::NULLABLE)),*]
            }

            fn columns(arrays: &[ArrayRef]) -> Result<Self::Columns> {
                Ok(($($name::column(array(arrays, $index)?)?,)*))
            }

            #[inline]
            fn get(columns: &Self::Columns, row: usize) -> Result<Self::Ref<'_>> {
                Ok(($($name::get(&columns.$index, row)?,)*))
            }

            fn builders() -> Self::Builders {
                ($($name::builder(),)*)
            }

            #[inline]
            fn append(builders: &mut Self::Builders, row: Self::Ref<'_>) -> Result<()> {
                $($name::append(&mut builders.$index, row.$index)?;)*
                Ok(())
            }

            fn finish(builders: &mut Self::Builders) -> Vec<ArrayRef> {
                vec![$($name::finish(&mut builders.$index)),*]
            }
        }
    };
}

row_of_several!(A 0, B 1);
row_of_several!(A 0, B 1, C 2);
row_of_several!(A 0, B 1, C 2, D 3);
row_of_several!(A 0, B 1, C 2, D 3, E 4);
row_of_several!(A 0, B 1, C 2, D 3, E 4, F 5);
row_of_several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
row_of_several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
