//! Groups against plain code: any keys, orders and budgets, and functions that stop early.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Int64Array, StringViewArray, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use fastrand::Rng;

use super::*;
use crate::error::ErrorKind;
use crate::memory::MemoryBudget;
use crate::testing::context;
use crate::udf::{EmitRows, GroupBody, Groups};

/// A row: two keys, a number and a text.
type Row = (Option<String>, i64, i64, String);

/// What plain code makes of rows: the numbers of each group, and its longest text.
type Expected = BTreeMap<(Option<String>, i64), (Vec<i64>, String)>;

fn schema() -> SchemaRef {
    let texts = Fields::from(vec![Field::new("text", DataType::Utf8View, false)]);
    Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8View, true),
        Field::new("number", DataType::Int64, false),
        Field::new("value", DataType::Int64, false),
        Field::new("packed", DataType::Struct(texts), false),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let texts = StringViewArray::from_iter_values(rows.iter().map(|row| &row.3));
    let DataType::Struct(fields) = schema().field(3).data_type().clone() else {
        unreachable!("a struct");
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter(
            rows.iter().map(|row| row.0.as_ref()),
        )),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(StructArray::new(fields, vec![Arc::new(texts)], None)),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

/// Rows of few or many groups, some of which are large.
fn random_rows(random: &mut Rng, count: usize) -> Vec<Row> {
    let groups = 1 << random.u32(0..14);
    let row = |random: &mut Rng| {
        let group = random.u32(..groups).min(random.u32(..groups));
        let name = (!group.is_multiple_of(7))
            .then(|| format!("{}{group}", "name ".repeat(group as usize % 4)));
        let text = "text".repeat(random.usize(..12));
        (name, i64::from(group % 3), random.i64(-500..500), text)
    };
    (0..count).map(|_| row(random)).collect()
}

fn expected(rows: &[Row]) -> Expected {
    let mut groups = Expected::new();
    for (name, number, value, text) in rows {
        let (values, longest) = groups.entry((name.clone(), *number)).or_default();
        values.push(*value);
        if text.len() > longest.len() {
            longest.clone_from(text);
        }
    }
    groups
}

/// For each group: its keys, its values as they come, and its longest text. It stops reading a
/// group behind `limit` rows.
struct Tell {
    limit: usize,
}

impl GroupBody for Tell {
    fn call(&self, groups: &mut dyn Groups, _: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        while groups.next_group()? {
            let (mut key, mut values, mut longest) = (None, Vec::new(), String::new());
            while values.len() < self.limit
                && let Some((batch, rows)) = groups.next_rows()?
            {
                assert!(!rows.is_empty(), "rows come where there are some");
                let part = batch.slice(rows.start, rows.len());
                key.get_or_insert_with(|| part.slice(0, 1));
                values.extend_from_slice(part.column(2).as_primitive::<Int64Type>().values());
                let texts = part
                    .column(3)
                    .as_struct()
                    .column(0)
                    .as_string_view()
                    .clone();
                let texts = texts.iter().flatten();
                longest = texts
                    .map(str::to_owned)
                    .chain([longest])
                    .max()
                    .unwrap_or_default();
            }
            let key = key.expect("a group has rows");
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::clone(key.column(0)),
                Arc::clone(key.column(1)),
                Arc::new(StringViewArray::from(vec![values.join(" ")])),
                Arc::new(StringViewArray::from(vec![longest])),
            ];
            emit(RecordBatch::try_new(told(), columns)?)?;
        }
        Ok(())
    }
}

fn told() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8View, true),
        Field::new("number", DataType::Int64, false),
        Field::new("values", DataType::Utf8View, false),
        Field::new("longest", DataType::Utf8View, false),
    ]))
}

/// An operator over the groups of rows, and what its rows go to.
struct Run {
    reduce: Arc<Reduce>,
    ctx: TaskContext,
}

impl Run {
    fn new(body: impl GroupBody + 'static, order: &[SortKey], budget: u64) -> Self {
        let mut ctx = context();
        ctx.memory = MemoryBudget::new(budget);
        let function = GroupUdf::new("tell", "", told(), Some(Arc::new(body)));
        let user = UdfContext::new("rows", Arc::clone(&ctx.metrics), ctx.cancel.clone(), None);
        let keys = ["name".to_owned(), "number".to_owned()];
        let reduce = Reduce::new(&keys, order, &function, &schema(), (&ctx, &user));
        Run {
            reduce: reduce.expect("keys and an order of the schema"),
            ctx,
        }
    }

    /// What comes of `rows`, dealt out to two lanes that work at the same time.
    fn of(&self, rows: &[Row]) -> Result<Vec<RecordBatch>> {
        let batches: Vec<RecordBatch> = rows.chunks(3000).map(batch).collect();
        let lanes = [0, 1].map(|lane| {
            let batches: Vec<RecordBatch> = batches.iter().skip(lane).step_by(2).cloned().collect();
            let mut operator = self.reduce.lane().expect("a lane");
            move || {
                let mut none = |_| panic!("rows before all of them are there");
                for batch in batches {
                    operator.push(batch, &mut none)?;
                }
                operator.finish(&mut none)
            }
        });
        let [one, other] = lanes;
        let (one, other) = self.ctx.pool.join(one, other);
        one.and(other)?;
        let mut made = Vec::new();
        for morsel in self.reduce.merge()? {
            morsel(&mut |batch| {
                made.push(batch);
                Ok(())
            })?;
        }
        Ok(made)
    }

    fn spilled(&self) -> u64 {
        self.ctx.metrics.counts().spilled_bytes
    }
}

/// What was told of groups; each only once.
fn found(made: &[RecordBatch]) -> Expected {
    let all = concat_batches(&told(), made).expect("rows of one schema");
    let names = all.column(0).as_string_view().iter();
    let numbers = all.column(1).as_primitive::<Int64Type>().values().iter();
    let values = all.column(2).as_string_view().iter().flatten();
    let longest = all.column(3).as_string_view().iter().flatten();
    let mut groups = Expected::new();
    for (((name, number), values), longest) in names.zip(numbers).zip(values).zip(longest) {
        let key = (name.map(str::to_owned), *number);
        let values = values
            .split(' ')
            .map(|value| value.parse().expect("a number"));
        let told = (values.collect(), longest.to_owned());
        assert!(groups.insert(key, told).is_none(), "a group was told twice");
    }
    groups
}

#[test]
fn groups_equal_plain_code_with_any_order_and_budget() {
    let first = fastrand::u64(..);
    for step in 0..16 {
        let seed = first.wrapping_add(step);
        let mut random = Rng::with_seed(seed);
        let little = step % 2 == 1;
        let (budget, count) = match little {
            true => (random.u64(1 << 20..3 << 20), 60_000),
            false => (1 << 30, random.usize(..9000)),
        };
        let rows = random_rows(&mut random, count);
        let order = match random.u8(..3) {
            0 => Vec::new(),
            1 => vec![col("value").asc()],
            _ => vec![col("value").desc()],
        };
        let run = Run::new(Tell { limit: usize::MAX }, &order, budget);
        let made = run
            .of(&rows)
            .unwrap_or_else(|error| panic!("seed={seed} {error:?}"));
        let (mut found, mut expected) = (found(&made), expected(&rows));
        for (values, _) in expected.values_mut() {
            values.sort_unstable();
        }
        for (values, _) in found.values_mut() {
            match order.first().map(|key| key.descending) {
                None => values.sort_unstable(),
                Some(true) => values.reverse(),
                Some(false) => {}
            }
        }
        assert!(found == expected, "seed={seed} order={order:?}");
        assert_eq!(run.spilled() > 0, little, "seed={seed}");
        assert_eq!(
            run.ctx.memory.used(),
            0,
            "seed={seed}: all memory is given back"
        );
        assert!(run.ctx.memory.peak() <= budget, "seed={seed}");
    }
}

#[test]
fn a_group_that_does_not_fit_into_memory_is_read_in_order() {
    let mut random = Rng::with_seed(7);
    let text = "of some length ".repeat(20);
    let row = |random: &mut Rng| {
        (
            Some("all".to_owned()),
            0,
            random.i64(..1 << 30),
            text.clone(),
        )
    };
    let rows: Vec<Row> = (0..40_000).map(|_| row(&mut random)).collect();
    let run = Run::new(Tell { limit: usize::MAX }, &[col("value").asc()], 3 << 20);
    let found = found(&run.of(&rows).expect("one group"));
    let mut expected = expected(&rows);
    for (values, _) in expected.values_mut() {
        values.sort_unstable();
    }
    assert!(found == expected);
    assert!(run.spilled() > 0);
}

#[test]
fn what_a_function_leaves_of_a_group_is_passed_over() {
    for budget in [1 << 20, 1 << 30] {
        let mut random = Rng::with_seed(budget);
        let rows = random_rows(&mut random, 60_000);
        let run = Run::new(Tell { limit: 1 }, &[col("value").asc()], budget);
        let found = found(&run.of(&rows).expect("the first rows of groups"));
        let expected = expected(&rows);
        assert!(found.keys().eq(expected.keys()), "budget={budget}");
        for (key, (values, _)) in &found {
            let least = expected[key].0.iter().min();
            assert_eq!(values.first(), least, "budget={budget} {key:?}");
        }
        assert_eq!(run.ctx.memory.used(), 0);
    }
}

/// Ends with its first group.
struct First;

impl GroupBody for First {
    fn call(&self, groups: &mut dyn Groups, _: &UdfContext, _: EmitRows<'_>) -> Result<()> {
        groups.next_group().map(|_| ())
    }
}

#[test]
fn a_function_may_end_before_its_groups_do() {
    for budget in [1 << 20, 1 << 30] {
        let rows = random_rows(&mut Rng::with_seed(1), 60_000);
        let run = Run::new(First, &[], budget);
        assert!(run.of(&rows).expect("nothing").is_empty());
        assert_eq!(run.ctx.memory.used(), 0, "budget={budget}");
    }
}

#[test]
fn lanes_end_when_they_are_cancelled() {
    let rows = random_rows(&mut Rng::with_seed(2), 9000);
    let run = Run::new(First, &[], 1 << 30);
    run.ctx.cancel.cancel();
    let error = run.of(&rows).expect_err("a cancelled attempt");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    drop(run.reduce);
    assert_eq!(run.ctx.memory.used(), 0);
}

#[test]
fn a_budget_without_room_for_two_blocks_is_told() {
    let rows = random_rows(&mut Rng::with_seed(3), 60_000);
    let run = Run::new(Tell { limit: 1 }, &[], 1000);
    let error = run.of(&rows).expect_err("too little memory");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(
        error.report().starts_with("reduce needs more memory"),
        "{error:?}"
    );
}
