//! What a task counts while it runs: rows, bytes, requests, time.
//!
//! Counters are relaxed atomics shared by the lanes of a task. Only the snapshot of the attempt
//! that wins is added to its job, so retries and duplicates count nothing twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::limits;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters of one attempt.
        #[derive(Debug, Default)]
        pub struct TaskMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
            operators: Mutex<Vec<OperatorCounts>>,
            warnings: Mutex<BTreeMap<String, Warning>>,
            user: Mutex<BTreeMap<String, u64>>,
        }

        /// A snapshot of [`TaskMetrics`], or a sum of several.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// The source first, then each operator of the stage in order, then the sink.
            pub operators: Vec<OperatorCounts>,
            /// Counters of the user's program, by name.
            pub user: Box<BTreeMap<String, u64>>,
        }

        impl Counts {
            /// Adds `other` to this, field by field and operator by operator.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
                add_operators(&mut self.operators, &other.operators);
                add_user(&mut self.user, &other.user);
            }
        }

        impl TaskMetrics {
            /// The counters as they stand.
            pub fn counts(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    operators: lock(&self.operators).clone(),
                    user: Box::new(lock(&self.user).clone()),
                }
            }

            /// Shows what another process has counted for the same attempt.
            pub fn show(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)*
                lock(&self.operators).clone_from(&counts.operators);
                lock(&self.user).clone_from(&counts.user);
            }
        }
    };
}

counters! {
    /// Rows that sources produced.
    rows_in,
    /// Bytes of input files or of shuffle objects that were read, as stored.
    bytes_in,
    /// Rows written by the sink.
    rows_out,
    /// Bytes written by the sink, as stored.
    bytes_out,
    /// GET requests made to storage.
    gets,
    /// PUT requests made to storage, parts included.
    puts,
    /// Objects written.
    objects,
    /// Time that lanes spent computing, all lanes added up, in nanoseconds.
    compute_nanos,
    /// Bytes written to local disk because memory ran short.
    spilled_bytes,
    /// Row groups of Parquet files in the task's splits.
    row_groups,
    /// Of these, how many were left out by what their metadata says.
    row_groups_pruned,
    /// Pages of row groups that were read, left out by what their index says.
    pages_pruned,
    /// Rows of which a scan looked at a value.
    rows_scanned,
    /// Of these, how many a predicate or the keys of a join dropped inside the scan.
    rows_pruned,
    /// Rows that joins look up in.
    build_rows,
    /// Bytes of the tables that hold them.
    build_bytes,
}

/// What passed through one operator of a stage, all lanes added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// Rows that came out; for the sink, rows that it took.
    pub rows_out: u64,
    /// Batches that they came in.
    pub batches: u64,
    /// Time spent in the operator itself, in nanoseconds: without those that it handed rows to.
    pub nanos: u64,
}

impl OperatorCounts {
    /// Adds `other` to this.
    pub fn add(&mut self, other: OperatorCounts) {
        self.rows_out += other.rows_out;
        self.batches += other.batches;
        self.nanos += other.nanos;
    }
}

/// Adds operator by operator; either may know more of them.
fn add_operators(sums: &mut Vec<OperatorCounts>, others: &[OperatorCounts]) {
    if sums.len() < others.len() {
        sums.resize(others.len(), OperatorCounts::default());
    }
    for (sum, other) in sums.iter_mut().zip(others) {
        sum.add(*other);
    }
}

/// Adds counter by counter; beyond the limit names that are new are left out.
fn add_user(sums: &mut BTreeMap<String, u64>, others: &BTreeMap<String, u64>) {
    for (name, n) in others {
        if let Some(sum) = sums.get_mut(name) {
            *sum = sum.saturating_add(*n);
        } else if sums.len() < limits::USER_COUNTERS_MAX {
            sums.insert(name.clone(), *n);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something a person should know though the job goes on: one file, one reason, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What the warning is about, usually a file.
    pub subject: String,
    /// What happened there.
    pub message: String,
    /// How many times.
    pub count: u64,
}

impl TaskMetrics {
    /// Adds `n` to a counter.
    pub fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds what a lane counted, operator by operator.
    pub fn count_operators(&self, counts: &[OperatorCounts]) {
        add_operators(&mut lock(&self.operators), counts);
    }

    /// Adds `n` to the counter called `name` of the user's program; says how much it is now.
    ///
    /// # Errors
    /// `Exhausted` if there are too many counters, or the name is too long.
    pub fn count_user(&self, name: &str, n: u64) -> Result<u64> {
        let mut user = lock(&self.user);
        if let Some(sum) = user.get_mut(name) {
            *sum = sum.saturating_add(n);
            return Ok(*sum);
        }
        if user.len() >= limits::USER_COUNTERS_MAX || name.len() > limits::USER_COUNTER_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "too many counters, or too long a name counters_max={} bytes_max={}",
                limits::USER_COUNTERS_MAX,
                limits::USER_COUNTER_BYTES_MAX
            )));
        }
        user.insert(name.to_owned(), n);
        Ok(n)
    }

    /// Notes that `message` happened `count` times at `subject`. The first
    /// [`limits::WARNINGS_MAX`] subjects are kept by name, the rest together.
    pub fn warn(&self, subject: &str, message: &str, count: u64) {
        let mut warnings = lock(&self.warnings);
        let full = warnings.len() >= limits::WARNINGS_MAX && !warnings.contains_key(subject);
        let subject = if full { "(other files)" } else { subject };
        let entry = warnings
            .entry(subject.to_owned())
            .or_insert_with(|| Warning {
                subject: subject.to_owned(),
                message: message.to_owned(),
                count: 0,
            });
        entry.count += count;
    }

    /// The warnings so far, by subject.
    pub fn warnings(&self) -> Vec<Warning> {
        lock(&self.warnings).values().cloned().collect()
    }
}
