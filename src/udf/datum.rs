//! Rust types that stand for columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BinaryViewBuilder, BooleanArray, BooleanBuilder,
    Date32Array, Date32Builder, PrimitiveArray, PrimitiveBuilder, StringViewArray,
    StringViewBuilder, StructArray, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Fields, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use kiln_engine::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A Rust type whose values a column holds, as functions take and give them.
///
/// Numbers, `bool`, [`String`], `Vec<u8>`, chrono's `NaiveDate` and `NaiveDateTime`, tuples of
/// these, `Option` of each for columns with nulls, and any type of one's own inside [`Packed`].
pub trait Datum: Sized + Send + 'static {
    /// A value as functions are given it and as it is written: borrowed where that saves a copy.
    type Ref<'a>;

    /// A column whose values can be read.
    type Column: Send + Sync;

    /// A column under construction.
    type Builder: Send;

    /// The type of the column.
    fn data_type() -> DataType;

    /// Whether the column may have nulls.
    const NULLABLE: bool = false;

    /// The column of an array.
    ///
    /// # Errors
    /// `Invalid` if it is of another type.
    fn column(array: &ArrayRef) -> Result<Self::Column>;

    /// The value of a row, which is not null unless this is an `Option`.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no value of a type of one's own.
    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>>;

    /// An empty column.
    fn builder() -> Self::Builder;

    /// Appends a value.
    ///
    /// # Errors
    /// `Invalid` for a value that the column cannot hold.
    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()>;

    /// Appends a place that holds no value, to be covered by a null.
    fn append_nothing(builder: &mut Self::Builder);

    /// The column; the builder is empty again.
    fn finish(builder: &mut Self::Builder) -> ArrayRef;

    /// The value by itself.
    fn own(value: Self::Ref<'_>) -> Self;

    /// The value as it is written.
    fn lend(&self) -> Self::Ref<'_>;

    /// About how many bytes it takes beyond its own size, for the memory budget. Of a type of
    /// one's own it is not known, and 0.
    #[inline]
    fn bytes_beyond(&self) -> usize {
        0
    }
}

fn wrong_type<T: Datum>(array: &ArrayRef) -> Error {
    Error::invalid(format!(
        "a column has another type expected={} found={}",
        T::data_type(),
        array.data_type()
    ))
}

macro_rules! primitive {
    ($($native:ty: $arrow:ty;)*) => {
        $(impl Datum for $native {
            type Ref<'a> = $native;
            type Column = PrimitiveArray<$arrow>;
            type Builder = PrimitiveBuilder<$arrow>;

            fn data_type() -> DataType {
                <$arrow as ArrowPrimitiveType>::DATA_TYPE
            }

            fn column(array: &ArrayRef) -> Result<Self::Column> {
                let column = array.as_primitive_opt::<$arrow>();
                column.cloned().ok_or_else(|| wrong_type::<Self>(array))
            }

            #[inline]
            fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
                Ok(column.value(row))
            }

            fn builder() -> Self::Builder {
                PrimitiveBuilder::new()
            }

            #[inline]
            fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
                builder.append_value(value);
                Ok(())
            }

            fn append_nothing(builder: &mut Self::Builder) {
                builder.append_value(<$native>::default());
            }

            fn finish(builder: &mut Self::Builder) -> ArrayRef {
                Arc::new(builder.finish())
            }

            fn own(value: Self::Ref<'_>) -> Self {
                value
            }

            fn lend(&self) -> Self::Ref<'_> {
                *self
            }
        })*
    };
}

primitive! {
    i8: Int8Type;
    i16: Int16Type;
    i32: Int32Type;
    i64: Int64Type;
    u8: UInt8Type;
    u16: UInt16Type;
    u32: UInt32Type;
    u64: UInt64Type;
    f32: Float32Type;
    f64: Float64Type;
}

impl Datum for bool {
    type Ref<'a> = bool;
    type Column = BooleanArray;
    type Builder = BooleanBuilder;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn column(array: &ArrayRef) -> Result<Self::Column> {
        let column = array.as_boolean_opt();
        column.cloned().ok_or_else(|| wrong_type::<Self>(array))
    }

    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
        Ok(column.value(row))
    }

    fn builder() -> Self::Builder {
        BooleanBuilder::new()
    }

    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
        builder.append_value(value);
        Ok(())
    }

    fn append_nothing(builder: &mut Self::Builder) {
        builder.append_value(false);
    }

    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }

    fn own(value: Self::Ref<'_>) -> Self {
        value
    }

    fn lend(&self) -> Self::Ref<'_> {
        *self
    }
}

/// Bytes that a builder of texts allocates at once.
const BLOCK_BYTES: u32 = 256 << 10;

macro_rules! view {
    ($owned:ty, $borrowed:ty, $array:ty, $builder:ty, $cast:ident, $data_type:expr) => {
        impl Datum for $owned {
            type Ref<'a> = &'a $borrowed;
            type Column = $array;
            type Builder = $builder;

            fn data_type() -> DataType {
                $data_type
            }

            fn column(array: &ArrayRef) -> Result<Self::Column> {
                let column = array.$cast();
                column.cloned().ok_or_else(|| wrong_type::<Self>(array))
            }

            #[inline]
            fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
                Ok(column.value(row))
            }

            fn builder() -> Self::Builder {
                <$builder>::new().with_fixed_block_size(BLOCK_BYTES)
            }

            #[inline]
            fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
                // Of one value no more than a block is allocated, whatever its length.
                Ok(builder.try_append_value(value)?)
            }

            fn append_nothing(builder: &mut Self::Builder) {
                builder.append_value(<&$borrowed>::default());
            }

            fn finish(builder: &mut Self::Builder) -> ArrayRef {
                Arc::new(builder.finish())
            }

            fn own(value: Self::Ref<'_>) -> Self {
                value.to_owned()
            }

            fn lend(&self) -> Self::Ref<'_> {
                self
            }

            fn bytes_beyond(&self) -> usize {
                self.capacity()
            }
        }
    };
}

view!(
    String,
    str,
    StringViewArray,
    StringViewBuilder,
    as_string_view_opt,
    DataType::Utf8View
);
view!(
    Vec<u8>,
    [u8],
    BinaryViewArray,
    BinaryViewBuilder,
    as_binary_view_opt,
    DataType::BinaryView
);

impl Datum for NaiveDate {
    type Ref<'a> = NaiveDate;
    type Column = Date32Array;
    type Builder = Date32Builder;

    fn data_type() -> DataType {
        DataType::Date32
    }

    fn column(array: &ArrayRef) -> Result<Self::Column> {
        let column = array.as_primitive_opt();
        column.cloned().ok_or_else(|| wrong_type::<Self>(array))
    }

    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
        let date = column.value_as_date(row);
        date.ok_or_else(|| Error::invalid(format!("not a date days={}", column.value(row))))
    }

    fn builder() -> Self::Builder {
        Date32Builder::new()
    }

    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
        let days = value.signed_duration_since(NaiveDate::default()).num_days();
        let days = i32::try_from(days);
        builder.append_value(days.map_err(|_| Error::invalid(format!("not a date {value}")))?);
        Ok(())
    }

    fn append_nothing(builder: &mut Self::Builder) {
        builder.append_value(0);
    }

    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }

    fn own(value: Self::Ref<'_>) -> Self {
        value
    }

    fn lend(&self) -> Self::Ref<'_> {
        *self
    }
}

impl Datum for NaiveDateTime {
    type Ref<'a> = NaiveDateTime;
    type Column = TimestampMicrosecondArray;
    type Builder = TimestampMicrosecondBuilder;

    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, None)
    }

    fn column(array: &ArrayRef) -> Result<Self::Column> {
        let column = array.as_primitive_opt();
        column.cloned().ok_or_else(|| wrong_type::<Self>(array))
    }

    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
        let micros = column.value(row);
        let time = DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc());
        time.ok_or_else(|| Error::invalid(format!("not a point in time micros={micros}")))
    }

    fn builder() -> Self::Builder {
        TimestampMicrosecondBuilder::new()
    }

    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
        builder.append_value(value.and_utc().timestamp_micros());
        Ok(())
    }

    fn append_nothing(builder: &mut Self::Builder) {
        builder.append_value(0);
    }

    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }

    fn own(value: Self::Ref<'_>) -> Self {
        value
    }

    fn lend(&self) -> Self::Ref<'_> {
        *self
    }
}

/// The column of an `Option`.
pub struct Optional<C> {
    column: C,
    nulls: Option<NullBuffer>,
}

/// The column of an `Option` under construction.
pub struct OptionalBuilder<B> {
    values: B,
    valid: BooleanBuilder,
}

impl<T: Datum> Datum for Option<T> {
    type Ref<'a> = Option<T::Ref<'a>>;
    type Column = Optional<T::Column>;
    type Builder = OptionalBuilder<T::Builder>;

    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        T::data_type()
    }

    fn column(array: &ArrayRef) -> Result<Self::Column> {
        Ok(Optional {
            column: T::column(array)?,
            nulls: array.logical_nulls(),
        })
    }

    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
        match &column.nulls {
            Some(nulls) if nulls.is_null(row) => Ok(None),
            _ => T::get(&column.column, row).map(Some),
        }
    }

    fn builder() -> Self::Builder {
        OptionalBuilder {
            values: T::builder(),
            valid: BooleanBuilder::new(),
        }
    }

    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
        builder.valid.append_value(value.is_some());
        match value {
            Some(value) => T::append(&mut builder.values, value),
            None => {
                T::append_nothing(&mut builder.values);
                Ok(())
            }
        }
    }

    fn append_nothing(builder: &mut Self::Builder) {
        builder.valid.append_value(false);
        T::append_nothing(&mut builder.values);
    }

    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        let own = NullBuffer::new(builder.valid.finish().values().clone());
        let values = T::finish(&mut builder.values).to_data();
        let nulls = NullBuffer::union(values.nulls(), Some(&own));
        let covered = values.into_builder().nulls(nulls);
        // What was built is valid without its nulls, and a bitmap of its length changes nothing.
        let data = covered.build().expect("a bitmap as long as the column");
        arrow::array::make_array(data)
    }

    fn own(value: Self::Ref<'_>) -> Self {
        value.map(T::own)
    }

    fn lend(&self) -> Self::Ref<'_> {
        self.as_ref().map(T::lend)
    }

    fn bytes_beyond(&self) -> usize {
        self.as_ref().map_or(0, T::bytes_beyond)
    }
}

/// A value of a type of one's own, as bytes: whatever serde can write and read again.
///
/// As a key its order is that of the bytes, which says nothing of the order of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packed<T>(pub T);

impl<T: Serialize + DeserializeOwned + Clone + Send + 'static> Datum for Packed<T> {
    type Ref<'a> = T;
    type Column = BinaryViewArray;
    type Builder = BinaryViewBuilder;

    fn data_type() -> DataType {
        DataType::BinaryView
    }

    fn column(array: &ArrayRef) -> Result<Self::Column> {
        <Vec<u8> as Datum>::column(array)
    }

    fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
        postcard::from_bytes(column.value(row)).map_err(|error| {
            Error::corrupt("a packed value cannot be read by this type").with_source(error)
        })
    }

    fn builder() -> Self::Builder {
        <Vec<u8> as Datum>::builder()
    }

    fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
        let bytes = postcard::to_allocvec(&value)
            .map_err(|error| Error::invalid("a value cannot be packed").with_source(error))?;
        <Vec<u8> as Datum>::append(builder, &bytes)
    }

    fn append_nothing(builder: &mut Self::Builder) {
        builder.append_value([]);
    }

    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }

    fn own(value: Self::Ref<'_>) -> Self {
        Packed(value)
    }

    fn lend(&self) -> Self::Ref<'_> {
        self.0.clone()
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Datum),*> Datum for ($($name,)*) {
            type Ref<'a> = ($($name::Ref<'a>,)*);
            type Column = ($($name::Column,)*);
            type Builder = ($($name::Builder,)*);

            fn data_type() -> DataType {
                DataType::Struct(Fields::from(vec![
                    $(Field::new(stringify!($index), $name::data_type(), $name::NULLABLE)),*
                ]))
            }

            fn column(array: &ArrayRef) -> Result<Self::Column> {
                let parts = array.as_struct_opt().ok_or_else(|| wrong_type::<Self>(array))?;
                Ok(($($name::column(
                    parts.columns().get($index).ok_or_else(|| wrong_type::<Self>(array))?
                )?,)*))
            }

            #[inline]
            fn get(column: &Self::Column, row: usize) -> Result<Self::Ref<'_>> {
                Ok(($($name::get(&column.$index, row)?,)*))
            }

            fn builder() -> Self::Builder {
                ($($name::builder(),)*)
            }

            #[inline]
            fn append(builder: &mut Self::Builder, value: Self::Ref<'_>) -> Result<()> {
                $($name::append(&mut builder.$index, value.$index)?;)*
                Ok(())
            }

            fn append_nothing(builder: &mut Self::Builder) {
                $($name::append_nothing(&mut builder.$index);)*
            }

            fn finish(builder: &mut Self::Builder) -> ArrayRef {
                let DataType::Struct(fields) = Self::data_type() else {
                    unreachable!("the type of a tuple is a struct");
                };
                let columns = vec![$($name::finish(&mut builder.$index)),*];
                Arc::new(StructArray::new(fields, columns, None))
            }

            fn own(value: Self::Ref<'_>) -> Self {
                ($($name::own(value.$index),)*)
            }

            fn lend(&self) -> Self::Ref<'_> {
                ($(self.$index.lend(),)*)
            }

            fn bytes_beyond(&self) -> usize {
                0 $(+ self.$index.bytes_beyond())*
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
