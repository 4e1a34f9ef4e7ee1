//! Random rows and expressions, and the way between rows and arrow's columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef,
};
use arrow::record_batch::RecordBatch;
use fastrand::Rng;
use kiln_engine::expr::{
    BinaryOp, Expr, SortKey, abs, case_when, coalesce, col, concat, contains, decimal, ends_with,
    length, lit, lower, regexp_like, starts_with, trim, upper,
};

use crate::oracle::{self, Row, Value};

/// The columns of random rows: two whole numbers, a narrow one, a float, a string, a boolean.
pub(crate) const NAMES: [&str; 6] = ["a", "b", "n", "x", "text", "ok"];

pub(crate) fn schema() -> SchemaRef {
    let types = [
        DataType::Int64,
        DataType::Int64,
        DataType::Int32,
        DataType::Float64,
        DataType::Utf8View,
        DataType::Boolean,
    ];
    let fields = NAMES.into_iter().zip(types);
    Arc::new(Schema::new(
        fields
            .map(|(name, data_type)| Field::new(name, data_type, true))
            .collect::<Vec<_>>(),
    ))
}

pub(crate) fn rows(random: &mut Rng, count: usize) -> Vec<Row> {
    (0..count).map(|_| row(random)).collect()
}

fn row(random: &mut Rng) -> Row {
    let values = [
        Value::Int(integer(random)),
        Value::Int(integer(random)),
        Value::Int(random.i64(-3..4)),
        Value::Float(float(random)),
        Value::Text(text(random)),
        Value::Bool(random.bool()),
    ];
    let or_null = |value| {
        if random.u8(..6) == 0 {
            Value::Null
        } else {
            value
        }
    };
    values.into_iter().map(or_null).collect()
}

fn integer(random: &mut Rng) -> i64 {
    match random.u8(..40) {
        0 => i64::MAX,
        1 => i64::MIN,
        _ => random.i64(-20..20),
    }
}

fn float(random: &mut Rng) -> f64 {
    match random.u8(..20) {
        0 => f64::NAN,
        1 => -0.0,
        2 => f64::INFINITY,
        _ => random.i32(-8..8) as f64 / 2.0,
    }
}

fn text(random: &mut Rng) -> String {
    const PIECES: [&str; 9] = [
        "a",
        "B",
        "the",
        " ",
        "  ",
        "ß",
        "İx",
        "longer than inline",
        "\u{3000}",
    ];
    (0..random.usize(..5))
        .map(|_| PIECES[random.usize(..PIECES.len())])
        .collect()
}

/// A random expression of whole numbers.
pub(crate) fn integers(random: &mut Rng, depth: usize) -> Expr {
    if depth == 0 {
        return match random.u8(..5) {
            0 => lit(integer(random)),
            1 => col("n"),
            2 => col("b"),
            _ => col("a"),
        };
    }
    let depth = depth - 1;
    match random.u8(..11) {
        10 => {
            let first = integers(random, depth);
            let case = case_when(booleans(random, depth), first);
            let case = case.when(booleans(random, 0), integers(random, 0));
            case.otherwise(integers(random, depth))
        }
        0 => -integers(random, depth),
        1 => abs(integers(random, depth)),
        2 => length(texts(random, depth)),
        3 => coalesce([integers(random, depth), integers(random, depth)]),
        4 => integers(random, 0),
        _ => arithmetic(random, depth),
    }
}

fn arithmetic(random: &mut Rng, depth: usize) -> Expr {
    const OPS: [BinaryOp; 5] = [
        BinaryOp::Add,
        BinaryOp::Subtract,
        BinaryOp::Multiply,
        BinaryOp::Divide,
        BinaryOp::Modulo,
    ];
    let (left, right) = (integers(random, depth), integers(random, depth.min(1)));
    // Widened, so that both ways compute in 64 bits.
    Expr::binary(
        left.cast(DataType::Int64),
        OPS[random.usize(..OPS.len())],
        right,
    )
}

/// A random expression of floats.
pub(crate) fn floats(random: &mut Rng, depth: usize) -> Expr {
    if depth == 0 {
        return if random.bool() {
            col("x")
        } else {
            lit(float(random))
        };
    }
    let depth = depth - 1;
    match random.u8(..7) {
        5 => decimals(random, depth.min(1)) / decimals(random, 0),
        6 => case_when(booleans(random, depth), floats(random, depth)).end(),
        0 => -floats(random, depth),
        1 => abs(floats(random, depth)),
        2 => floats(random, depth) + integers(random, 0),
        _ => floats(random, depth) * floats(random, depth),
    }
}

/// A random expression of decimals, all of them small.
pub(crate) fn decimals(random: &mut Rng, depth: usize) -> Expr {
    if depth == 0 {
        let wide = random.u8(2..20);
        return match random.u8(..4) {
            0 => decimal(["0.25", "-1.5", "10", "0.05"][random.usize(..4)]),
            1 => col("n").cast(DataType::Decimal32(9, 1)),
            2 => col("n").cast(DataType::Decimal128(wide + 10, random.i8(0..3))),
            _ => col("n").cast(DataType::Decimal64(15, 2)),
        };
    }
    let depth = depth - 1;
    let some = decimals(random, depth);
    match random.u8(..9) {
        0 => -some,
        1 => some + decimals(random, depth),
        2 => some - decimals(random, depth),
        3 => some * decimals(random, depth),
        4 => some % decimals(random, 0),
        5 => lit(float(random).clamp(-9.0, 9.0).max(0.5)) * some,
        6 => some - random.i64(-9..10),
        7 => case_when(booleans(random, depth), some).otherwise(decimal("0")),
        _ => coalesce([some, decimals(random, depth)]),
    }
}

/// The operand in a list, mostly of constants.
fn in_list(random: &mut Rng, operand: Expr, mut item: impl FnMut(&mut Rng) -> Expr) -> Expr {
    let mut list: Vec<Expr> = (0..random.usize(1..25)).map(|_| item(random)).collect();
    if random.u8(..4) == 0 {
        list.push(lit(None::<i64>));
    }
    operand.in_list(list)
}

/// A random expression of strings.
pub(crate) fn texts(random: &mut Rng, depth: usize) -> Expr {
    if depth == 0 {
        return if random.u8(..4) > 0 {
            col("text")
        } else {
            lit(text(random))
        };
    }
    let depth = depth - 1;
    match random.u8(..6) {
        0 => lower(texts(random, depth)),
        1 => upper(texts(random, depth)),
        2 => trim(texts(random, depth)),
        3 => coalesce([texts(random, depth), texts(random, depth)]),
        _ => concat([texts(random, depth), texts(random, depth)]),
    }
}

/// A random expression of booleans.
pub(crate) fn booleans(random: &mut Rng, depth: usize) -> Expr {
    const OPS: [BinaryOp; 6] = [
        BinaryOp::Equal,
        BinaryOp::NotEqual,
        BinaryOp::Less,
        BinaryOp::LessOrEqual,
        BinaryOp::Greater,
        BinaryOp::GreaterOrEqual,
    ];
    if depth == 0 {
        return match random.u8(..6) {
            0 => lit(random.bool()),
            1 => lit(None::<bool>),
            _ => col("ok"),
        };
    }
    let depth = depth - 1;
    let op = OPS[random.usize(..OPS.len())];
    match random.u8(..14) {
        10 => Expr::binary(decimals(random, depth), op, decimals(random, depth)),
        11 => match random.u8(..3) {
            0 => Expr::binary(decimals(random, depth), op, integers(random, 0)),
            1 => Expr::binary(lit(float(random)), op, decimals(random, depth)),
            _ => Expr::binary(integers(random, 0), op, lit(float(random))),
        },
        12 => {
            let operand = texts(random, depth);
            in_list(random, operand, |random| texts(random, 0))
        }
        13 => {
            let operand = integers(random, depth);
            in_list(random, operand, |random| match random.u8(..30) {
                0 => col("b"),
                _ => lit(random.i64(-20..20)),
            })
        }
        0 => booleans(random, depth).and(booleans(random, depth)),
        1 => booleans(random, depth).or(booleans(random, depth)),
        2 => !booleans(random, depth),
        3 => integers(random, depth).is_null(),
        4 => Expr::binary(texts(random, depth), op, texts(random, depth)),
        5 => Expr::binary(floats(random, depth), op, integers(random, 0)),
        6 => contains(texts(random, depth), texts(random, 0)),
        7 => starts_with(col("text"), "a").or(ends_with(col("text"), lit("e"))),
        8 => regexp_like(texts(random, depth), "the"),
        _ => Expr::binary(integers(random, depth), op, integers(random, depth)),
    }
}

/// Random sort keys: columns, and sometimes an expression that cannot fail.
pub(crate) fn sort_keys(random: &mut Rng) -> Vec<SortKey> {
    let key = |random: &mut Rng| {
        let expr = match random.usize(..NAMES.len() + 1) {
            index if index < NAMES.len() => col(NAMES[index]),
            _ => length(col("text")),
        };
        let key = if random.bool() {
            expr.asc()
        } else {
            expr.desc()
        };
        if random.bool() {
            key.nulls_first()
        } else {
            key
        }
    };
    (0..random.usize(1..4)).map(|_| key(random)).collect()
}

/// The rows as a batch of [`schema`].
pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    fn column<T, A: FromIterator<Option<T>> + Array + 'static>(
        rows: &[Row],
        index: usize,
        get: impl Fn(&Value) -> Option<T>,
    ) -> ArrayRef {
        Arc::new(rows.iter().map(|row| get(&row[index])).collect::<A>())
    }
    let int = |value: &Value| {
        if let Value::Int(value) = value {
            Some(*value)
        } else {
            None
        }
    };
    let columns = vec![
        column::<i64, Int64Array>(rows, 0, int),
        column::<i64, Int64Array>(rows, 1, int),
        column::<i32, Int32Array>(rows, 2, |value| Some(int(value)? as i32)),
        column::<f64, Float64Array>(rows, 3, |value| match value {
            Value::Float(value) => Some(*value),
            _ => None,
        }),
        column::<String, StringViewArray>(rows, 4, |value| match value {
            Value::Text(value) => Some(value.clone()),
            _ => None,
        }),
        column::<bool, BooleanArray>(rows, 5, |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

/// The rows of a batch.
pub(crate) fn unbatch(batch: &RecordBatch) -> Vec<Row> {
    let row = |row| {
        batch
            .columns()
            .iter()
            .map(|column| value(column, row))
            .collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The value of `column` at `row`.
pub(crate) fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) || column.data_type() == &DataType::Null {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => {
            let to = DataType::Decimal128(38, *scale);
            let wide = cast(&column.slice(row, 1), &to).expect("a wider decimal");
            oracle::decimal(
                wide.as_primitive::<Decimal128Type>().value(0),
                *scale as u32,
            )
        }
        DataType::Utf8View => Value::Text(column.as_string_view().value(row).into()),
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::List(_) => {
            let elements = column.as_list::<i32>().value(row);
            Value::List(
                (0..elements.len())
                    .map(|row| value(&elements, row))
                    .collect(),
            )
        }
        other => panic!("no expression makes {other}"),
    }
}
