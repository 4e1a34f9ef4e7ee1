//! Rows of every type, to bytes and back.

use arrow::array::{
    BinaryViewArray, Decimal128Array, Decimal256Array, Float32Array, Int8Array, Int64Array,
    ListArray, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Fields, Int32Type, Schema, i256};

use super::*;

/// Rows of all kinds of types, with and without nulls.
fn rows() -> RecordBatch {
    let some = |n: i64| (n % 3 != 0).then_some(n);
    let numbers = || (0..50_i64).map(some);
    let text = |n: i64| "x".repeat(n as usize);
    let texts: StringViewArray = numbers().map(|n| n.map(text)).collect();
    let bytes: BinaryViewArray = numbers().map(|n| n.map(text)).collect();
    let lists = numbers().map(|n| n.map(|n| vec![Some(n as i32); (n % 4) as usize]));
    let inner: Int64Array = (0..50).map(Some).collect();
    let fields = Fields::from(vec![Field::new("inner", DataType::Int64, true)]);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (
            "bool",
            Arc::new(BooleanArray::from_iter(
                numbers().map(|n| n.map(|n| n % 2 == 0)),
            )),
            true,
        ),
        (
            "tiny",
            Arc::new(Int8Array::from_iter(numbers().map(|n| n.map(|n| n as i8)))),
            true,
        ),
        (
            "float",
            Arc::new(Float32Array::from_iter_values(
                (0..50).map(|n| n as f32 / 4.0),
            )),
            false,
        ),
        ("int", Arc::new(Int64Array::from_iter(numbers())), true),
        ("text", Arc::new(texts), true),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from_iter(numbers()).with_timezone("UTC")),
            true,
        ),
        ("bytes", Arc::new(bytes), true),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from_iter(numbers().map(|n| n.map(i128::from)))
                    .with_precision_and_scale(20, 3)
                    .expect("a decimal"),
            ),
            true,
        ),
        (
            "wide",
            Arc::new(
                Decimal256Array::from_iter(numbers().map(|n| n.map(|n| i256::from_i128(n.into()))))
                    .with_precision_and_scale(50, 3)
                    .expect("a decimal"),
            ),
            true,
        ),
        ("null", Arc::new(NullArray::new(50)), true),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
            true,
        ),
        (
            "struct",
            Arc::new(StructArray::new(fields, vec![Arc::new(inner)], None)),
            false,
        ),
    ];
    let field = |(name, array, nullable): &(&str, ArrayRef, bool)| {
        Field::new(*name, array.data_type().clone(), *nullable)
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, array, _)| array).collect();
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length")
}

/// `batch` laid out and picked again by `picks`.
fn there_and_back(batch: &RecordBatch, picks: &[usize]) -> RecordBatch {
    let layout = Layout::new(&batch.schema(), false).expect("types that can be laid out");
    let input = layout.rows(batch, None).expect("rows");
    let (mut out, mut starts) = (Vec::new(), Vec::new());
    layout
        .append(&input, &mut out, &mut starts)
        .expect("small rows");
    assert!(
        out.len() <= layout.bytes(&input),
        "more bytes than were asked for"
    );
    let picked = picks
        .iter()
        .map(|&row| layout.row(&out, starts[row] as usize));
    layout
        .batch(&picked.collect::<Vec<_>>())
        .expect("the same types")
}

#[test]
fn rows_of_every_type_come_back_in_any_order() {
    let batch = rows();
    let picks: Vec<usize> = (0..50).rev().chain([7, 7, 0]).collect();
    let indices = arrow::array::UInt32Array::from_iter_values(picks.iter().map(|&n| n as u32));
    let expected = arrow::compute::take_record_batch(&batch, &indices).expect("rows");
    assert_eq!(there_and_back(&batch, &picks), expected);
    // What is cut out of others, and each column by itself.
    let slice = batch.slice(3, 20);
    let all: Vec<usize> = (0..20).collect();
    assert_eq!(there_and_back(&slice, &all), slice);
    for column in 0..batch.num_columns() {
        let alone = slice.project(&[column]).expect("a column");
        assert_eq!(there_and_back(&alone, &all), alone);
    }
}

#[test]
fn rows_without_columns_are_still_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options);
    let batch = batch.expect("no columns");
    assert_eq!(there_and_back(&batch, &[0, 1, 2]).num_rows(), 3);
}
