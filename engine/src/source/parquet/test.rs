//! One thing that a scan asks of rows, and what asking has shown so far.
//!
//! The lanes of a task share what they learn: how many of the rows pass, and what a row costs.
//! The test that drops the most rows for its time goes first. A key filter that drops few is no
//! longer asked, since the join asks again anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::expr::eval::{Compiled, compile};
use crate::kernel::key_filter::KeyFilter;

/// Rows after which a key filter has shown what it is good for.
const TRIAL_ROWS: u64 = 100_000;

/// A key filter that lets more rows pass than this, in percent, costs more than it saves.
const USEFUL_PERCENT_MAX: u64 = 85;

/// A question with a yes or no for every row.
pub(super) struct Test {
    slots: Vec<usize>,
    kind: Kind,
    /// It may fail on rows that the tests before it drop.
    guarded: bool,
    /// It may be asked for values instead of rows: it is about one column and wants no null.
    of_values: bool,
    rows: AtomicU64,
    passed: AtomicU64,
    nanos: AtomicU64,
}

enum Kind {
    /// True, neither false nor null.
    Predicate(Compiled, SchemaRef),
    /// Among the keys.
    Keys(Arc<KeyFilter>),
}

impl Test {
    /// Whether `expr` over `columns`, which are in `slots`, is true.
    pub(super) fn predicate(expr: &Expr, slots: Vec<usize>, columns: &Schema) -> Result<Self> {
        let fields = columns.fields().iter();
        let fields = fields.map(|field| Field::clone(field).with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let compiled = compile(expr, &schema)?;
        match compiled.field().data_type() {
            DataType::Boolean | DataType::Null => {}
            other => {
                let reason = format!("{expr}: a filter has to be a boolean found={other}");
                return Err(Error::invalid(reason));
            }
        }
        let guarded = compiled.can_fail();
        let mut test = Test::new(slots, Kind::Predicate(compiled, schema), guarded);
        if let [column] = columns.fields().as_ref()
            && !test.guarded
        {
            let null = new_null_array(column.data_type(), 1);
            test.of_values = test.run(vec![null], 1)?.count_set_bits() == 0;
        }
        Ok(test)
    }

    /// Whether the value in `slot` is among `keys`.
    pub(super) fn keys(keys: Arc<KeyFilter>, slot: usize) -> Self {
        let mut test = Test::new(vec![slot], Kind::Keys(keys), false);
        test.of_values = true;
        test
    }

    fn new(slots: Vec<usize>, kind: Kind, guarded: bool) -> Self {
        Test {
            slots,
            kind,
            guarded,
            of_values: false,
            rows: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
        }
    }

    /// The slots of its columns, ascending.
    pub(super) fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// Whether it may be asked for the values of its one column instead of for rows.
    pub(super) fn is_of_values(&self) -> bool {
        self.of_values
    }

    /// Whether a row may only be asked this if it passed everything else.
    pub(super) fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Which of `rows` rows pass, by their values in [`slots`](Self::slots).
    pub(super) fn run(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<BooleanBuffer> {
        match &self.kind {
            Kind::Keys(keys) => keys.contains(&columns[0]),
            Kind::Predicate(compiled, _) if compiled.field().data_type().is_null() => {
                Ok(BooleanBuffer::new_unset(rows))
            }
            Kind::Predicate(compiled, schema) => {
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let schema = Arc::clone(schema);
                let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
                Ok(trues(&compiled.evaluate_boolean(&batch)?))
            }
        }
    }

    /// Notes that of `rows` rows `passed` passed, which took `time`.
    pub(super) fn note(&self, rows: usize, passed: usize, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.passed.fetch_add(passed as u64, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Whether it is worth asking.
    fn is_useful(&self) -> bool {
        let rows = self.rows.load(Ordering::Relaxed);
        let passed = self.passed.load(Ordering::Relaxed);
        matches!(self.kind, Kind::Predicate(..))
            || rows < TRIAL_ROWS
            || passed <= rows / 100 * USEFUL_PERCENT_MAX
    }

    /// Nanoseconds per row that it drops; unknown tests come first, so that they become known.
    fn price(&self) -> f64 {
        let rows = self.rows.load(Ordering::Relaxed);
        let dropped = rows.saturating_sub(self.passed.load(Ordering::Relaxed));
        if rows == 0 {
            return 0.0;
        }
        self.nanos.load(Ordering::Relaxed) as f64 / (dropped as f64 + 1e-3)
    }
}

/// The order in which to ask the tests at `active`: cheapest per dropped row first, and those that
/// may fail behind all others, as they were given.
pub(super) fn order(tests: &[Test], active: &[usize]) -> Vec<usize> {
    let useful = active
        .iter()
        .copied()
        .filter(|&test| tests[test].is_useful());
    let (mut guarded, mut free): (Vec<usize>, Vec<usize>) =
        useful.partition(|&test| tests[test].is_guarded());
    let price: Vec<f64> = tests.iter().map(Test::price).collect();
    free.sort_by(|&a, &b| price[a].total_cmp(&price[b]));
    free.append(&mut guarded);
    free
}

/// Where a boolean is true, neither false nor null.
fn trues(values: &BooleanArray) -> BooleanBuffer {
    match values.nulls() {
        Some(nulls) => values.values() & nulls.inner(),
        None => values.values().clone(),
    }
}
