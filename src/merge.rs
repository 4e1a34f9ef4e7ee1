//! One table out of many files: the columns that all of them together have.
//!
//! A table grows: a later file has a column more, or wider numbers. The columns come in the order
//! in which files first name them. One that a file lacks is null in its rows; types that differ
//! become the narrowest type that holds the values of both, and where there is none the files are
//! not one table.

use std::collections::HashMap;

use arrow::datatypes::{
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::{Error, Result};

/// The columns of all `files`, each given with its URL.
///
/// # Errors
/// `Invalid`, naming both files, if a column has types that do not go together.
pub(crate) fn merge_schemas(files: &[(String, SchemaRef)]) -> Result<Schema> {
    let mut columns: Vec<Column<'_>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (file, schema) in files {
        for field in schema.fields() {
            match places.get(field.name().as_str()) {
                Some(&place) => columns[place].add(field, file)?,
                None => {
                    places.insert(field.name(), columns.len());
                    columns.push(Column::new(field, file));
                }
            }
        }
    }
    let fields = columns
        .into_iter()
        .map(|column| column.field(files.len()))
        .collect::<Vec<_>>();
    Ok(Schema::new(fields))
}

/// A column, as far as files have told of it.
struct Column<'a> {
    name: &'a str,
    data_type: DataType,
    nullable: bool,
    files: usize,
    /// The first that has it.
    first: &'a str,
}

impl<'a> Column<'a> {
    fn new(field: &'a Field, file: &'a str) -> Self {
        Column {
            name: field.name(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            files: 1,
            first: file,
        }
    }

    fn add(&mut self, field: &Field, file: &str) -> Result<()> {
        let wider = widened(&self.data_type, field.data_type()).ok_or_else(|| {
            Error::invalid(format!(
                "the files are not one table: column {:?} is {} in {} and {} in {file}",
                self.name,
                self.data_type,
                self.first,
                field.data_type()
            ))
        })?;
        self.data_type = wider;
        self.nullable |= field.is_nullable();
        self.files += 1;
        Ok(())
    }

    fn field(self, files: usize) -> Field {
        let nullable = self.nullable || self.files < files;
        Field::new(self.name, self.data_type, nullable)
    }
}

/// The narrowest type that holds every value of both, if there is one.
fn widened(left: &DataType, right: &DataType) -> Option<DataType> {
    if left == right || right.is_null() {
        return Some(left.clone());
    }
    if left.is_null() {
        return Some(right.clone());
    }
    if let (Some(left), Some(right)) = (digits(left), digits(right)) {
        return decimal_for(left, right);
    }
    match (integer_bits(left), integer_bits(right)) {
        (Some(left), Some(right)) => integer_for(left, right),
        _ => float_for(left, right),
    }
}

/// Digits before and behind the point.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    match *data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            let scale = i16::from(scale);
            Some((i16::from(precision) - scale, scale))
        }
        _ => None,
    }
}

fn decimal_for(left: (i16, i16), right: (i16, i16)) -> Option<DataType> {
    let (whole, scale) = (left.0.max(right.0), left.1.max(right.1));
    let precision = u8::try_from(whole + scale).ok()?;
    let scale = i8::try_from(scale).ok()?;
    if precision <= DECIMAL32_MAX_PRECISION {
        Some(DataType::Decimal32(precision, scale))
    } else if precision <= DECIMAL64_MAX_PRECISION {
        Some(DataType::Decimal64(precision, scale))
    } else {
        (precision <= DECIMAL128_MAX_PRECISION).then_some(DataType::Decimal128(precision, scale))
    }
}

/// Bits of an integer without its sign, and whether it has one.
fn integer_bits(data_type: &DataType) -> Option<(u32, bool)> {
    match data_type {
        DataType::Int8 => Some((7, true)),
        DataType::Int16 => Some((15, true)),
        DataType::Int32 => Some((31, true)),
        DataType::Int64 => Some((63, true)),
        DataType::UInt8 => Some((8, false)),
        DataType::UInt16 => Some((16, false)),
        DataType::UInt32 => Some((32, false)),
        DataType::UInt64 => Some((64, false)),
        _ => None,
    }
}

fn integer_for(left: (u32, bool), right: (u32, bool)) -> Option<DataType> {
    let bits = left.0.max(right.0);
    match (left.1 || right.1, bits) {
        (true, ..=7) => Some(DataType::Int8),
        (true, ..=15) => Some(DataType::Int16),
        (true, ..=31) => Some(DataType::Int32),
        (true, ..=63) => Some(DataType::Int64),
        (true, _) => None,
        (false, ..=8) => Some(DataType::UInt8),
        (false, ..=16) => Some(DataType::UInt16),
        (false, ..=32) => Some(DataType::UInt32),
        (false, _) => Some(DataType::UInt64),
    }
}

/// Floats beside one another, or beside integers that they hold exactly.
fn float_for(left: &DataType, right: &DataType) -> Option<DataType> {
    let exact_bits = |data_type: &DataType| match data_type {
        DataType::Float16 => Some(11),
        DataType::Float32 => Some(24),
        DataType::Float64 => Some(53),
        other => integer_bits(other).map(|(bits, _)| bits),
    };
    if !left.is_floating() && !right.is_floating() {
        return None;
    }
    match exact_bits(left)?.max(exact_bits(right)?) {
        0..=24 => Some(DataType::Float32),
        25..=53 => Some(DataType::Float64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use DataType::*;

    fn file(name: &str, fields: &[(&str, DataType)]) -> (String, SchemaRef) {
        let field =
            |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), false);
        let fields: Vec<Field> = fields.iter().map(field).collect();
        (name.to_owned(), Arc::new(Schema::new(fields)))
    }

    #[test]
    fn a_column_that_only_some_files_have_may_be_null() {
        let merged = merge_schemas(&[
            file("a", &[("id", Int32), ("name", Utf8View)]),
            file("b", &[("price", Float64), ("id", Int64)]),
        ]);
        let expected = Schema::new(vec![
            Field::new("id", Int64, false),
            Field::new("name", Utf8View, true),
            Field::new("price", Float64, true),
        ]);
        assert_eq!(merged.expect("these go together"), expected);
    }

    #[test]
    fn types_widen_only_where_no_value_is_lost() {
        let cases = [
            (Int8, UInt8, Some(Int16)),
            (UInt32, Int32, Some(Int64)),
            (UInt64, Int8, None),
            (UInt8, UInt64, Some(UInt64)),
            (Float32, Int16, Some(Float32)),
            (Float32, Int32, Some(Float64)),
            (Float32, Float64, Some(Float64)),
            (Float64, Int64, None),
            (Null, Utf8View, Some(Utf8View)),
            (Decimal32(9, 2), Decimal32(9, 4), Some(Decimal64(11, 4))),
            (
                Decimal64(18, 0),
                Decimal64(18, 18),
                Some(Decimal128(36, 18)),
            ),
            (Decimal128(38, 0), Decimal32(5, 5), None),
            (Utf8View, Int64, None),
            (Int32, Date32, None),
        ];
        for (left, right, expected) in cases {
            assert_eq!(widened(&left, &right), expected, "{left} {right}");
            assert_eq!(widened(&right, &left), expected, "{right} {left}");
        }
    }

    #[test]
    fn files_that_are_not_one_table_are_named() {
        let files = [file("a", &[("id", Int32)]), file("b", &[("id", Utf8View)])];
        let refused = merge_schemas(&files).expect_err("these do not go together");
        expect_test::expect![[
            r#"the files are not one table: column "id" is Int32 in a and Utf8View in b"#
        ]]
        .assert_eq(&refused.report());
    }
}
