//! What a task counts while it runs: rows, bytes, requests, time.
//!
//! Counters are relaxed atomics shared by the lanes of a task. Only the snapshot of the attempt
//! that wins is added to its job, so retries and duplicates count nothing twice.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters of one attempt.
        #[derive(Debug, Default)]
        pub struct TaskMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
            warnings: Mutex<BTreeMap<String, Warning>>,
        }

        /// A snapshot of [`TaskMetrics`], or a sum of several.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Adds `other` to this, field by field.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
            }
        }

        impl TaskMetrics {
            /// The counters as they stand.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
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
    /// Row groups of Parquet files that lie in what a task covers.
    row_groups,
    /// Those of them that were not read, because no row in them can pass.
    row_groups_pruned,
    /// Pages that were not read for that reason, in row groups that were.
    pages_pruned,
    /// Rows that a scan looked at.
    rows_scanned,
    /// Those of them that did not pass its predicate and its key filters.
    rows_pruned,
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

    /// Notes that `message` happened `count` times at `subject`. The first
    /// [`limits::WARNINGS_MAX`] subjects are kept by name, the rest together.
    pub fn warn(&self, subject: &str, message: &str, count: u64) {
        let mut warnings = self
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
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
        let warnings = self
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        warnings.values().cloned().collect()
    }
}
