//! The sink that writes output files: at least one per lane that has rows, or one per sequence of
//! rows that are in order as a whole. Then the order of names is that of rows.
//!
//! A lane ([`lane`]) encodes its rows ([`encode`]), in order where one is asked for, and leaves
//! finished bytes in the slot of their file ([`upload`]); the task writes them out between
//! morsels. What waits is bounded: a slot holds some parts at most before the lane has to wait for
//! storage. A file that has grown to the size that was asked for ends, and the lane begins another.
//!
//! Where a column names directories, a lane has a lane for each ([`directories`]).
//!
//! Files have names of the attempt's own, so a second attempt never meets the first; the driver
//! decides whose files become the output. On a file system they are written to the job's staging
//! directory, to be moved. In a store without rename they are uploaded to where they are to be,
//! and the driver completes the uploads of those that win: until then nobody sees them.

mod directories;
mod encode;
mod lane;
mod local;
#[cfg(test)]
mod option_tests;
#[cfg(test)]
mod tests;
mod transfer;
mod upload;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use crate::context::TaskContext;
use crate::error::Result;
use crate::id::TaskId;
use crate::limits;
use crate::operator::Operator;
use crate::plan::{Output, TaskOutput, part_prefix, upload_record};
use crate::sink::Sink;
use crate::storage::staging_url;
use directories::DirectoryLane;
use encode::Encoder;
use lane::{Lane, SortedLane};
use transfer::Transfer;
use upload::Slot;

/// Writes the rows of one attempt to files.
pub struct FileSink(Arc<Files>);

/// What the lanes share.
struct Files {
    output: Output,
    /// The columns of rows.
    rows: SchemaRef,
    /// Those of files.
    schema: SchemaRef,
    task: TaskId,
    attempt: u32,
    /// URL of the job's staging directory.
    staging: String,
    /// Files stay uploads that the driver completes.
    pending: bool,
    ctx: TaskContext,
    begun: Mutex<Vec<Begun>>,
    /// Those of them that are not in storage yet.
    open: Mutex<Vec<Arc<Slot>>>,
}

/// A file that has been begun.
struct Begun {
    /// Where it is: the directory, whose it is, and which of its files.
    place: (Option<String>, Part, u32),
    slot: Arc<Slot>,
}

/// Which rows of an attempt a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Those that came to this lane.
    Lane(usize),
    /// Those of this sequence of an order.
    Sequence(u32),
}

impl fmt::Display for Part {
    /// As in names. Those of sequences are in their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Lane(lane) => write!(f, "l{lane}"),
            Part::Sequence(number) => write!(f, "s{number:06}"),
        }
    }
}

impl FileSink {
    /// A sink for the rows of `task`'s `attempt`, which have the columns of `schema`.
    ///
    /// # Errors
    /// `Invalid` if the format cannot hold a column's type, or `output` is no place to write to.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a sink is only ever used as the trait"
    )]
    pub fn new(
        output: &Output,
        schema: SchemaRef,
        task: TaskId,
        attempt: u32,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn Sink>> {
        let rows = schema;
        let schema = output.file_schema(&rows);
        encode::check(output, &schema)?;
        let staging = staging_url(&output.url, task.job)?;
        ctx.stores.get(&staging)?;
        let pending = ctx.stores.multipart(&output.url)?.is_some();
        Ok(Arc::new(FileSink(Arc::new(Files {
            output: output.clone(),
            rows,
            schema,
            task,
            attempt,
            staging,
            pending,
            ctx: ctx.clone(),
            begun: Mutex::default(),
            open: Mutex::default(),
        }))))
    }
}

impl Files {
    /// What writes the files of `lane`, in a directory if it has a name.
    fn lane(self: &Arc<Self>, lane: usize, directory: Option<String>) -> Box<dyn Operator> {
        let options = &self.output.options;
        match options.sort_by.is_empty() {
            true => Box::new(Lane::new(self, (lane, directory), options.file_bytes)),
            false => Box::new(SortedLane::new(self, (lane, directory))),
        }
    }

    /// Begins a file of `part`, its first having the `number` 0.
    fn begin(&self, directory: Option<&str>, part: Part, number: u32) -> Result<Arc<Slot>> {
        let name = format!(
            "{:05}-a{}-{part}-{number:05}.{}",
            self.task.task,
            self.attempt,
            self.output.extension()
        );
        let name = match self.pending {
            true => format!("{}{name}", part_prefix(self.task.job)),
            false => format!("t{name}"),
        };
        let name = match directory {
            Some(directory) => format!("{directory}/{name}"),
            None => name,
        };
        let transfer = self.transfer(&name)?;
        let slot = Arc::new(Slot::new(name, transfer, &self.ctx.metrics));
        locked(&self.begun).push(Begun {
            place: (directory.map(str::to_owned), part, number),
            slot: Arc::clone(&slot),
        });
        locked(&self.open).push(Arc::clone(&slot));
        Ok(slot)
    }

    /// The way of a file to storage.
    fn transfer(&self, name: &str) -> Result<Transfer> {
        let stores = &self.ctx.stores;
        let staged = format!("{}/{name}", self.staging);
        let url = format!("{}/{name}", self.output.url);
        let Some((uploads, path)) = stores.multipart(&url)? else {
            let (store, path) = stores.get(&staged)?;
            return Ok(Transfer::staged(staged, store, path));
        };
        let (store, record) = stores.get(&upload_record(&staged))?;
        Ok(Transfer::pending(url, (uploads, path), (store, record)))
    }

    /// The files so far: by directory, and those of a lane or sequence together and in its order.
    fn slots(&self) -> Vec<Arc<Slot>> {
        let mut begun = locked(&self.begun);
        begun.sort_unstable_by(|one, other| one.place.cmp(&other.place));
        begun.iter().map(|file| Arc::clone(&file.slot)).collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Sink for FileSink {
    fn lane(&self, lane: usize) -> Result<Box<dyn Operator>> {
        match &self.0.output.options.directories {
            None => Ok(self.0.lane(lane, None)),
            Some(column) => Ok(Box::new(DirectoryLane::new(&self.0, lane, column)?)),
        }
    }

    /// Files that are sorted one by one, or lie in directories, are no order as a whole.
    fn sequence_bytes(&self) -> Option<u64> {
        let options = &self.0.output.options;
        let as_a_whole = options.sort_by.is_empty() && options.directories.is_none();
        let bytes = options.file_bytes.unwrap_or(0).max(limits::SEQUENCE_BYTES);
        as_a_whole.then_some(bytes)
    }

    async fn flush(&self) -> Result<()> {
        let open = locked(&self.0.open).clone();
        for slot in open {
            slot.flush().await?;
        }
        locked(&self.0.open).retain(|slot| !slot.is_stored());
        Ok(())
    }

    async fn close(&self) -> Result<TaskOutput> {
        let mut slots = self.0.slots();
        if slots.is_empty() && self.0.task.task == 0 {
            // An empty result is a file too: it says what the columns would have been.
            let slot = self.0.begin(None, Part::Lane(0), 0)?;
            let encoder = Encoder::new(&self.0.output, &self.0.schema)?;
            slot.put(encoder.finish()?, 0);
            slots.push(slot);
        }
        let mut files = Vec::with_capacity(slots.len());
        for slot in slots {
            files.push(slot.close().await?);
        }
        Ok(TaskOutput::Files(files))
    }

    async fn abort(&self) {
        for slot in self.0.slots() {
            slot.abort().await;
        }
    }
}
