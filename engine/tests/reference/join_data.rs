//! Random sides of joins, and what a nested loop makes of them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal64Array, Decimal128Array, Float64Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt32Array, UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use fastrand::Rng;
use kiln_engine::plan::StepKind;

/// Types of a key, on the probe side and on the build side, that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Int64,
    Int16AndInt32,
    UInt32AndInt16,
    UInt64,
    /// Meets in a decimal of more digits than 64 bits hold.
    UInt64AndInt64,
    Date,
    /// Spread over all of 64 bits.
    Sparse,
    /// Two scales, 64 bits wide on the one side.
    Decimals,
    LongDecimals,
    Float,
    Text,
    Boolean,
}

pub(crate) const KEY_TYPES: [KeyType; 12] = [
    KeyType::Int64,
    KeyType::Int16AndInt32,
    KeyType::UInt32AndInt16,
    KeyType::UInt64,
    KeyType::UInt64AndInt64,
    KeyType::Date,
    KeyType::Sparse,
    KeyType::Decimals,
    KeyType::LongDecimals,
    KeyType::Float,
    KeyType::Text,
    KeyType::Boolean,
];

/// A side as one batch, and each row's keys in a form in which equal means equal.
pub(crate) struct Rows {
    pub(crate) batch: RecordBatch,
    keys: Vec<Vec<Option<String>>>,
    values: Vec<Option<i64>>,
}

impl Rows {
    /// `count` random rows: the columns `<side>_id`, `<side>_value`, `<side>_text` and
    /// `<side>_key0`, `<side>_key1`, ….
    pub(crate) fn random(random: &mut Rng, side: &str, count: usize, types: &[KeyType]) -> Rows {
        let (distinct, skewed) = (random.i64(1..40), random.u8(..4) == 0);
        Rows::of_keys(random, (side, count), types, (distinct, skewed))
    }

    /// The same with keys of so many values; one of them has half of the rows if they are skewed.
    pub(crate) fn of_keys(
        random: &mut Rng,
        (side, count): (&str, usize),
        types: &[KeyType],
        (distinct, skewed): (i64, bool),
    ) -> Rows {
        let or_null = random.u8(2..12);
        let number = |random: &mut Rng| {
            if random.u8(..or_null) == 0 {
                return None;
            }
            Some(if skewed && random.bool() {
                1
            } else {
                random.i64(0..distinct)
            })
        };
        let ids: ArrayRef = Arc::new((0..count as i64).map(Some).collect::<Int64Array>());
        let values: Vec<_> = (0..count).map(|_| number(random)).collect();
        let text =
            |value: &Option<i64>| value.map(|value| "long text, ".repeat(value as usize % 4));
        let texts: StringViewArray = values.iter().map(text).collect();
        let value_array: Int64Array = values.iter().copied().collect();
        let mut columns = vec![
            (format!("{side}_id"), ids),
            (format!("{side}_value"), Arc::new(value_array) as ArrayRef),
            (format!("{side}_text"), Arc::new(texts)),
        ];
        let mut keys = vec![Vec::new(); count];
        for (index, key) in types.iter().enumerate() {
            let numbers: Vec<_> = (0..count).map(|_| number(random)).collect();
            let array = key.array(&numbers, side == "probe");
            for (row, keys) in keys.iter_mut().enumerate() {
                keys.push(
                    array
                        .is_valid(row)
                        .then(|| key.name(numbers[row], side == "probe")),
                );
            }
            columns.push((format!("{side}_key{index}"), array));
        }
        let field =
            |(name, array): &(String, ArrayRef)| Field::new(name, array.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let columns = columns.into_iter().map(|(_, array)| array).collect();
        Rows {
            batch: RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length"),
            keys,
            values,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The rows as some batches, whose views share no buffer.
    pub(crate) fn batches(&self, random: &mut Rng) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let count = random.usize(1..=self.len()).min(self.len() - start);
            let slice = self.batch.slice(start, count);
            let copy = concat_batches(&slice.schema(), [&slice]).expect("one schema");
            batches.push(if random.bool() { slice } else { copy });
            start += count;
        }
        batches
    }

    /// A row as text, of the columns `names` of either side; null where the side has no row.
    fn text(sides: [(&Rows, Option<usize>); 2], names: &[String]) -> String {
        let value = |name: &String| {
            let side = sides
                .iter()
                .find(|(rows, _)| rows.batch.column_by_name(name).is_some());
            let (rows, row) = side.expect("a column of one side");
            let column = rows
                .batch
                .column_by_name(name)
                .expect("it was there just now");
            row.map_or(String::new(), |row| show(column, row))
        };
        names.iter().map(value).collect::<Vec<_>>().join("|")
    }
}

/// A value as text; nothing for null.
fn show(column: &ArrayRef, row: usize) -> String {
    match column.is_null(row) {
        true => String::new(),
        false => array_value_to_string(column, row).expect("a type that prints"),
    }
}

/// The rows of batches as text, in an order of their own.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| show(column, row));
            lines.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    lines
}

impl KeyType {
    fn array(self, numbers: &[Option<i64>], probe: bool) -> ArrayRef {
        fn of<A: FromIterator<Option<T>> + Array + 'static, T>(
            numbers: &[Option<i64>],
            value: impl Fn(i64) -> T,
        ) -> ArrayRef {
            Arc::new(numbers.iter().map(|n| n.map(&value)).collect::<A>())
        }
        let decimal64 = |precision, scale, unit: i64| -> ArrayRef {
            let array: Decimal64Array = numbers.iter().map(|n| n.map(|n| n * unit)).collect();
            Arc::new(
                array
                    .with_precision_and_scale(precision, scale)
                    .expect("it fits"),
            )
        };
        let decimal128 = |precision, scale, unit: i128| -> ArrayRef {
            let value = |n: i64| i128::from(n) * unit;
            let array: Decimal128Array = numbers.iter().map(|n| n.map(value)).collect();
            Arc::new(
                array
                    .with_precision_and_scale(precision, scale)
                    .expect("it fits"),
            )
        };
        match (self, probe) {
            (KeyType::Int64, _) | (KeyType::UInt64AndInt64, false) => {
                of::<Int64Array, _>(numbers, |n| n)
            }
            (KeyType::Int16AndInt32, true) | (KeyType::UInt32AndInt16, false) => {
                of::<Int16Array, _>(numbers, |n| n as i16)
            }
            (KeyType::Int16AndInt32, false) => of::<Int32Array, _>(numbers, |n| n as i32),
            (KeyType::UInt32AndInt16, true) => of::<UInt32Array, _>(numbers, |n| n as u32),
            (KeyType::UInt64, _) => of::<UInt64Array, _>(numbers, |n| u64::MAX - n as u64),
            (KeyType::UInt64AndInt64, true) => of::<UInt64Array, _>(numbers, |n| n as u64),
            (KeyType::Date, _) => of::<Date32Array, _>(numbers, |n| n as i32 - 20),
            (KeyType::Sparse, _) => of::<Int64Array, _>(numbers, spread),
            (KeyType::Decimals, true) => decimal64(15, 2, 50),
            (KeyType::Decimals, false) => decimal128(17, 4, 5000),
            (KeyType::LongDecimals, true) => decimal128(38, 4, 10i128.pow(30)),
            (KeyType::LongDecimals, false) => decimal128(36, 2, 10i128.pow(28)),
            (KeyType::Float, _) => of::<Float64Array, _>(numbers, float),
            (KeyType::Text, _) => {
                let texts = numbers.iter().map(|n| n.map(text));
                Arc::new(texts.collect::<StringViewArray>())
            }
            (KeyType::Boolean, _) => of::<BooleanArray, _>(numbers, |n| n % 2 == 0),
        }
    }

    /// Equal for equal keys of either side, and only for those.
    fn name(self, number: Option<i64>, _probe: bool) -> String {
        let number = number.expect("a valid key");
        match self {
            KeyType::Boolean => (number % 2).to_string(),
            // Zero and minus zero print as two, NaN as one.
            KeyType::Float => format!("{:?}", float(number)),
            _ => number.to_string(),
        }
    }
}

fn spread(number: i64) -> i64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64
}

fn float(number: i64) -> f64 {
    match number {
        0 => 0.0,
        1 => -0.0,
        2 => f64::NAN,
        3 => f64::NEG_INFINITY,
        number => number as f64 / 4.0,
    }
}

fn text(number: i64) -> String {
    match number % 3 {
        0 => number.to_string(),
        1 => format!("exactly 12 {}", number % 10) + &" ".repeat((number / 10) as usize),
        _ => format!("the same start and then {number}"),
    }
}

/// What a join has to make of its sides, row by row.
pub(crate) fn nested_loop(
    kind: StepKind,
    probe: &Rows,
    build: &Rows,
    has_filter: bool,
    output: &[String],
) -> Vec<String> {
    let passes = |p: usize, b: usize| match (probe.values[p], build.values[b]) {
        (Some(p), Some(b)) => p < b,
        _ => false,
    };
    let meets = |p: usize, b: usize| {
        let mut keys = probe.keys[p].iter().zip(&build.keys[b]);
        keys.all(|(p, b)| p.is_some() && p == b) && (!has_filter || passes(p, b))
    };
    let mut pairs = Vec::new();
    let (mut probes, mut builds) = (vec![false; probe.len()], vec![false; build.len()]);
    for (p, p_matched) in probes.iter_mut().enumerate() {
        for (b, b_matched) in builds.iter_mut().enumerate().filter(|(b, _)| meets(p, *b)) {
            pairs.push((Some(p), Some(b)));
            (*p_matched, *b_matched) = (true, true);
        }
    }
    let of = |marks: &[bool], wanted: bool| -> Vec<usize> {
        (0..marks.len())
            .filter(|row| marks[*row] == wanted)
            .collect()
    };
    let lone_probes = of(&probes, false).into_iter().map(|row| (Some(row), None));
    let lone_builds = of(&builds, false).into_iter().map(|row| (None, Some(row)));
    let rows: Vec<(Option<usize>, Option<usize>)> = match kind {
        StepKind::Inner => pairs,
        StepKind::ProbeOuter => pairs.into_iter().chain(lone_probes).collect(),
        StepKind::BuildOuter => pairs.into_iter().chain(lone_builds).collect(),
        StepKind::FullOuter => pairs
            .into_iter()
            .chain(lone_probes)
            .chain(lone_builds)
            .collect(),
        StepKind::ProbeSemi => of(&probes, true)
            .into_iter()
            .map(|row| (Some(row), None))
            .collect(),
        StepKind::ProbeAnti => lone_probes.collect(),
        StepKind::BuildSemi => of(&builds, true)
            .into_iter()
            .map(|row| (None, Some(row)))
            .collect(),
        StepKind::BuildAnti => lone_builds.collect(),
    };
    let text = |(p, b)| Rows::text([(probe, p), (build, b)], output);
    let mut lines: Vec<String> = rows.into_iter().map(text).collect();
    lines.sort();
    lines
}
