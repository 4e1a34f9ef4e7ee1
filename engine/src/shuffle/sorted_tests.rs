//! Rows that several tasks write in order, cut anywhere and read back by ranges.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, SchemaRef};
use bytes::Bytes;
use futures::TryStreamExt;

use super::tests::{STAGE, context, in_memory, job};
use super::{SortedSink, open_range, read_index};
use crate::context::TaskContext;
use crate::error::ErrorKind;
use crate::expr::{SortKey, col};
use crate::id::TaskId;
use crate::limits;
use crate::operator::sort::Sort;
use crate::operator::{Breaker, Operator};
use crate::plan::{Cut, PartitionMeta, RangeInput, ShuffleSource, Stretch, TaskOutput};

/// Rows of half a kilobyte: many have the same key, some none, some keys are longer than what cuts
/// look at.
fn random_rows(random: &mut fastrand::Rng, task: u32, count: usize) -> RecordBatch {
    let key = |random: &mut fastrand::Rng| match random.u8(..8) {
        0 => None,
        1..4 => Some("heavy".to_owned()),
        4 => Some(format!("{}{}", "long ".repeat(40), random.u8(..9))),
        _ => Some(format!("{}", random.u16(..))),
    };
    let keys: StringViewArray = (0..count).map(|_| key(random)).collect();
    let second = Int64Array::from_iter((0..count).map(|_| random.bool().then(|| random.i64(..3))));
    let first = i64::from(task) << 32;
    let place = Int64Array::from_iter_values(first..first + count as i64);
    let text = || -> String { (0..500).map(|_| random.alphanumeric()).collect() };
    let texts: StringViewArray = std::iter::repeat_with(text).take(count).map(Some).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("key", Arc::new(keys)),
        ("second", Arc::new(second)),
        ("place", Arc::new(place)),
        ("text", Arc::new(texts)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .expect("columns of one length")
}

/// What sorting `rows`, and nothing else, gives; equal ones as they came.
fn sorted(rows: &RecordBatch, keys: &[SortKey], ctx: &TaskContext) -> RecordBatch {
    let sort = Sort::new(keys, &rows.schema(), ctx).expect("an order");
    let mut lane = sort.lane().expect("a lane");
    lane.push(rows.clone(), &mut |_| Ok(())).expect("pushed");
    lane.finish(&mut |_| Ok(())).expect("finished");
    let mut batches = Vec::new();
    for morsel in sort.merge().expect("merged") {
        let mut take = |batch| {
            batches.push(batch);
            Ok(())
        };
        morsel(&mut take).expect("read");
    }
    concat_batches(&rows.schema(), &batches).expect("a batch")
}

/// Writes rows in order, in `sequences` pieces that two lanes write, the last first.
async fn write(
    ctx: &TaskContext,
    keys: &[SortKey],
    task: u32,
    rows: &RecordBatch,
    sequences: usize,
) -> Vec<Stretch> {
    let id = TaskId {
        job: job(),
        stage: STAGE,
        task,
    };
    let sink = SortedSink::new(keys, rows.schema(), id, 0, ctx).expect("a sink");
    let mut lanes = [sink.lane(0), sink.lane(1)].map(|lane| lane.expect("a lane"));
    for number in (0..sequences).rev() {
        let lane: &mut Box<dyn Operator> = &mut lanes[number % 2];
        lane.begin_sequence(number as u32).expect("begun");
        let at = |number: usize| rows.num_rows() * number / sequences;
        let piece = rows.slice(at(number), at(number + 1) - at(number));
        for start in (0..piece.num_rows()).step_by(1000) {
            let batch = piece.slice(start, 1000.min(piece.num_rows() - start));
            lane.push(batch, &mut |_| Ok(())).expect("pushed");
        }
    }
    for lane in &mut lanes {
        lane.finish(&mut |_| Ok(())).expect("finished");
    }
    match sink.close().await.expect("written") {
        TaskOutput::Sorted(stretches) => stretches,
        other => panic!("a sorted sink writes stretches: {other:?}"),
    }
}

/// All of what tasks wrote, for whoever looks only at what is between two cuts.
fn everything(runs: &[Vec<Stretch>]) -> RangeInput {
    let source = |(task, run): (u32, &Vec<Stretch>)| ShuffleSource {
        task,
        attempt: 0,
        offset: 0,
        partitions: run.iter().map(|stretch| stretch.partition).collect(),
    };
    RangeInput {
        stage: STAGE,
        start: None,
        end: None,
        sources: (0..).zip(runs).map(source).collect(),
    }
}

/// The rows of a range, brought into the order of their places.
async fn read(ctx: &TaskContext, input: RangeInput, keys: &[SortKey], schema: &SchemaRef) -> Read {
    let morsels = open_range(input, job(), keys, Arc::clone(schema), ctx).expect("an order");
    let mut morsels: Vec<_> = morsels.try_collect().await?;
    morsels.sort_by_key(|(place, _)| *place);
    let mut batches = Vec::new();
    for (_, morsel) in morsels {
        morsel(&mut |batch| {
            batches.push(batch);
            Ok(())
        })?;
    }
    Ok(concat_batches(schema, &batches)?)
}

type Read = crate::error::Result<RecordBatch>;

fn places(rows: &RecordBatch) -> Vec<i64> {
    let places = rows.column(2).as_primitive::<Int64Type>();
    places.values().to_vec()
}

#[tokio::test]
async fn ranges_of_an_order_are_all_rows_in_order() {
    let mut random = fastrand::Rng::with_seed(3);
    let ctx = context(in_memory(), 1 << 30);
    let orders = [
        vec![col("key").asc()],
        vec![col("key").desc().nulls_first(), col("second").asc()],
        vec![col("second").desc(), col("key").asc().nulls_first()],
    ];
    for keys in orders {
        let rows: Vec<RecordBatch> = [4000, 0, 3000, 1]
            .into_iter()
            .zip(0..)
            .map(|(count, task)| random_rows(&mut random, task, count))
            .collect();
        let schema = rows[0].schema();
        let all = concat_batches(&schema, &rows).expect("a batch");
        let mut runs = Vec::new();
        for (task, rows) in (0..).zip(&rows) {
            let in_order = match rows.num_rows() {
                0 => rows.clone(),
                _ => sorted(rows, &keys, &ctx),
            };
            runs.push(write(&ctx, &keys, task, &in_order, 1 + task as usize).await);
        }
        let index = read_index(&ctx.shuffle, job(), STAGE, 0, 0).await;
        let told: Vec<PartitionMeta> = runs[0].iter().map(|stretch| stretch.partition).collect();
        assert_eq!(index.expect("an object"), told);
        assert!(runs[0].len() > 4, "2 MB of rows");
        assert!(runs[0].iter().all(|stretch| stretch.partition.rows < 1000));
        assert!(runs[0].is_sorted_by_key(|stretch| &stretch.first_key));
        assert_eq!((runs[1].len(), runs[3].len()), (0, 1));

        let starts = (0..).zip(&runs).flat_map(|(task, run)| {
            let stretches = run.iter();
            stretches.map(move |stretch| Cut::new(stretch.first_key.clone(), task))
        });
        let mut cuts: Vec<Cut> = starts.filter(|_| random.bool()).collect();
        cuts.push(Cut::new(Bytes::from_static(b"\x02heav"), 2));
        cuts.sort();
        cuts.dedup();
        let starts = [None].into_iter().chain(cuts.iter().cloned().map(Some));
        let ends = cuts.iter().cloned().map(Some).chain([None]);
        let mut found = Vec::new();
        for (start, end) in starts.zip(ends) {
            let input = RangeInput {
                start,
                end,
                ..everything(&runs)
            };
            let range = read(&ctx, input, &keys, &schema).await.expect("read");
            if range.num_rows() > 0 {
                found.push(sorted(&range, &keys, &ctx));
            }
        }
        assert!(found.len() > 4, "cut in several");
        let found = concat_batches(&schema, &found).expect("a batch");
        let expected = sorted(&all, &keys, &ctx);
        assert!(
            places(&found) == places(&expected),
            "rows are lost, or in another order"
        );
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_task_with_much_to_write_makes_larger_stretches() {
    let ctx = context(in_memory(), 1 << 20);
    let text = "x".repeat(1 << 16);
    let texts = StringViewArray::from_iter_values(std::iter::repeat_n(&text, 4 * 300));
    let columns: [(&str, ArrayRef); 1] = [("text", Arc::new(texts))];
    let rows = RecordBatch::try_from_iter(columns).expect("a batch");
    let run = write(&ctx, &[col("text").asc()], 0, &rows, 1).await;
    let rows: Vec<u64> = run.iter().map(|stretch| stretch.partition.rows).collect();
    let (first, rest) = rows.split_at(limits::STRETCHES_SAME as usize);
    assert!(first.iter().all(|&rows| rows <= 4), "of 256 KiB: {first:?}");
    let (_, rest) = rest.split_last().expect("there are more");
    assert!(rest.iter().all(|&rows| rows > 4), "larger: {rest:?}");
    assert_eq!(rows.iter().sum::<u64>(), 4 * 300);
    let long = limits::CUT_KEY_BYTES_MAX;
    assert!(run.iter().all(|stretch| stretch.first_key.len() == long));
}

#[tokio::test]
async fn a_missing_or_damaged_run_names_its_producer() {
    let mut random = fastrand::Rng::with_seed(4);
    let ctx = context(in_memory(), 1 << 30);
    let keys = [col("key").asc()];
    let rows = random_rows(&mut random, 0, 2000);
    let run = write(&ctx, &keys, 0, &sorted(&rows, &keys, &ctx), 1).await;
    let schema = rows.schema();
    let mut runs = vec![run.clone()];
    runs[0][1].partition.checksum ^= 1;
    runs.push(run);
    for (runs, lost) in [(&runs[..1], 0), (&runs[1..], 1)] {
        let mut input = everything(runs);
        input.sources[0].task = lost;
        let error = read(&ctx, input, &keys, &schema).await;
        let error = error.expect_err("a damaged run, and one that nobody wrote");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.lost().map(|lost| lost.task), Some(lost));
    }
    let none = everything(&[]);
    let found = read(&ctx, none, &keys, &schema).await.expect("nothing");
    assert_eq!(found.num_rows(), 0);
}
