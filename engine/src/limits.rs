//! Every hard bound of the engine, with its unit and the reason for its size.
//!
//! A bound that a user may change is a setting; its default is here.

/// Rows in a batch between operators: small enough for the columns of one batch to stay in the
/// second-level cache, large enough to spread the cost of a virtual call.
pub const BATCH_ROWS: usize = 8192;

/// Bytes of text in one morsel. A morsel is what one lane works on without looking up: about a
/// millisecond of work, so that lanes finish together and cancelling is prompt.
pub const TEXT_MORSEL_BYTES: u64 = 1 << 20;

/// Bytes read past the end of a text morsel to find the end of its last record; doubled while the
/// end is not found.
pub const TEXT_LOOKAHEAD_BYTES: u64 = 16 << 10;

/// Longest record (line or word) that text input may hold. Views address their buffer with 31
/// bits; half of that leaves room for the rest of the block.
pub const TEXT_RECORD_BYTES_MAX: u64 = 1 << 30;

/// Longest record of a CSV file in bytes. Whatever is longer is almost always a quote that is
/// never closed, and everything up to the end of the file would have to be held to find out.
pub const CSV_RECORD_BYTES_MAX: usize = 16 << 20;

/// Input bytes that one task covers when the input is large. Big enough for map-side combining
/// to pay, small enough to lose little with an executor.
pub const TASK_INPUT_BYTES: u64 = 256 << 20;

/// Smallest share of input that is worth a task of its own.
pub const TASK_INPUT_BYTES_MIN: u64 = 8 << 20;

/// What opening a file is counted as when splits are packed into tasks.
pub const FILE_OPEN_COST_BYTES: u64 = 64 << 10;

/// Input files of one job. A listing beyond this is almost always a wrong path.
pub const INPUT_FILES_MAX: usize = 10_000_000;

/// Most partitions of one shuffle.
pub const SHUFFLE_PARTITIONS_MAX: u32 = 4096;

/// Bytes of shuffle data that one reduce task reads, uncompressed, when there is much of it.
pub const SHUFFLE_TASK_BYTES: u64 = 128 << 20;

/// Rows gathered for one partition before they are encoded as a block.
pub const SHUFFLE_BLOCK_ROWS: usize = 64 << 10;

/// Bytes gathered for one partition before they are encoded as a block.
pub const SHUFFLE_BLOCK_BYTES: usize = 1 << 20;

/// Bytes of an encoded block from which on it has memory of its own.
pub const SMALL_BLOCK_BYTES: usize = 64 << 10;

/// Least bytes that are asked for to that end: more than the 512 KiB up to which allocators put
/// what has one size together.
pub const LARGE_BLOCK_BYTES: usize = 576 << 10;

/// Bytes of rows of a stretch of a sorted shuffle, until a task has many: what a reader reads of
/// each producer that is not its own is about one stretch.
pub const STRETCH_BYTES: u64 = 256 << 10;

/// Stretches after which a task makes them twice as large. So a task writes 4096 of them, the most
/// that an object may have, when it has 4 TiB, and none is more than a share of what it writes.
pub const STRETCHES_SAME: u32 = 256;

/// Bytes of rows, as they lie in memory, of one sequence of a sorted shuffle, where lanes have
/// enough of them: each ends in a stretch that is small.
pub const SORTED_SEQUENCE_BYTES: u64 = 1 << 30;

/// Stretches of each producer that a reduce task reads at least, on average: of two of them parts
/// are its neighbours'.
pub const RANGE_STRETCHES_MIN: u64 = 4;

/// Bytes of a key by which a sorted shuffle is cut. Longer keys are cut where these bytes differ.
pub const CUT_KEY_BYTES_MAX: usize = 128;

/// Alignment of block starts in a shuffle object, so that blocks decode without a copy.
pub const SHUFFLE_ALIGN_BYTES: usize = 64;

/// Threads of a process that wait for local files at the same time, for each core: enough to have
/// some wait and some copy.
pub const FILE_THREADS_PER_CORE: usize = 2;

/// Least number of them: disks want several requests at once, whoever asks.
pub const FILE_THREADS_MIN: usize = 8;

/// Bytes in flight from storage to one task, fetched but not yet computed on.
pub const PREFETCH_BYTES: u64 = 64 << 20;

/// Decoded footers of input files that a process keeps, in bytes: those of some ten thousand
/// ordinary Parquet files.
pub const FOOTER_CACHE_BYTES: u64 = 64 << 20;

/// Objects or ranges being fetched at once by one task.
pub const PREFETCH_REQUESTS: usize = 16;

/// Size of an uploaded part; also what a file sink buffers before it uploads.
pub const UPLOAD_PART_BYTES: usize = 8 << 20;

/// Requests to one remote store under way at once, in one process: enough to fill a fast line,
/// and few enough that a store has no reason to slow us down.
pub const STORE_REQUESTS_MAX: usize = 128;

/// Total time of one request to a remote store, its body included.
pub const STORE_REQUEST_MS_MAX: u64 = 300_000;

/// How long a remote store may say nothing. Its answer to a request begins after the request's
/// body, so a part of an upload has to be sent in this time.
pub const STORE_SILENCE_MS_MAX: u64 = 30_000;

/// How long a request to a remote store is tried again: long enough for a store that restarts or
/// has had enough for a while, and short enough that one that is gone is known to be.
pub const STORE_RETRY_MS_MAX: u64 = 30_000;

/// Pause before the first repetition; it doubles, by chance.
pub const STORE_BACKOFF_MS: u64 = 100;

/// Longest pause between repetitions.
pub const STORE_BACKOFF_MS_MAX: u64 = 3_000;

/// Encoded bytes of one row group in a Parquet file that we write. Readers take a row group as one
/// piece of work, and the writer holds one in memory.
pub const ROW_GROUP_BYTES: usize = 32 << 20;

/// Bytes of the rows that a lane sorts into one output file, as they lie in memory, where nobody
/// has asked for a size: some row groups in a file, and little memory on many lanes.
pub const SORTED_FILE_BYTES: u64 = 64 << 20;

/// Bytes of rows, as they lie in memory, of one file of an output that is in order as a whole,
/// where nobody has asked for a size: some row groups in a file, and enough files for lanes to
/// end together.
pub const SEQUENCE_BYTES: u64 = 128 << 20;

/// Bytes of rows below which an order is not cut into more files so that all lanes have one.
pub const SEQUENCE_BYTES_MIN: u64 = 16 << 20;

/// Bytes of a Parquet page, decompressed, that need no proof. Writers aim at 1 MiB.
pub const PARQUET_PAGE_BYTES: usize = 64 << 20;

/// Larger pages are believed to be at most so many times their compressed bytes: a header of a few
/// bytes must not make a reader allocate a gigabyte.
pub const PARQUET_PAGE_RATIO_MAX: usize = 1200;

/// Bytes that the embedded shuffle store keeps in memory before it overflows to local disk, as a
/// share of the memory budget (1 / this).
pub const MEMORY_STORE_SHARE: u64 = 4;

/// Rows that `collect` returns before it refuses and suggests writing files.
pub const COLLECT_ROWS_MAX: u64 = 10_000_000;

/// Bytes of these rows, at most.
pub const COLLECT_BYTES_MAX: u64 = 4 << 30;

/// Default share of the machine's (or container's) memory that a process budgets, in percent.
pub const MEMORY_SHARE_PERCENT: u64 = 70;

/// Nesting of one expression. Deeper trees are refused before anything recurses into them.
pub const EXPR_DEPTH_MAX: usize = 64;

/// Bytes of text that one function makes for one batch. Views address a buffer with 31 bits; far
/// below that, `repeat` and the like are mistakes.
pub const EXPR_TEXT_BYTES_MAX: usize = 1 << 30;

/// Operators between the root of a logical plan and its furthest input. Planner, optimiser and
/// printer recurse over plans on threads with 2 MiB of stack.
pub const PLAN_DEPTH_MAX: usize = 500;

/// Operators in one logical plan.
pub const PLAN_NODES_MAX: usize = 10_000;

/// Times that the optimiser's rules are applied to one plan; real plans need two or three.
pub const OPTIMISER_ROUNDS_MAX: usize = 8;

/// Subplans of one plan that are put aside to be run once: looking for each goes through all of it.
pub const PLAN_SHARED_MAX: usize = 32;

/// Inputs, and semi and anti joins over them, of one region of joins that is put in order: one bit
/// each in a set of 64.
pub const JOIN_PARTS_MAX: usize = 64;

/// How many of them there may be for every order to be looked at. Each more takes three times as
/// long; so many take a millisecond.
pub const JOIN_ORDER_EXHAUSTIVE_MAX: usize = 11;

/// Operators of a subplan that the optimiser makes use of in one more place. Every use of a plan
/// counts when it is walked, so without a bound a chain of such places would double it at each.
pub const PLAN_REUSED_NODES_MAX: usize = 100;

/// Warnings that one task reports; more are counted, not kept.
pub const WARNINGS_MAX: usize = 100;

/// Tasks an executor runs at once, so that one's tail overlaps the other's head.
pub const TASKS_AT_ONCE: usize = 2;

/// Attempts that a task gets before its job fails.
pub const ATTEMPTS_MAX: u32 = 4;

/// Wait before the second attempt, in milliseconds; doubled for every further one.
pub const RETRY_BACKOFF_MS: u64 = 50;

/// How often a wait for storage looks at whether its attempt was cancelled, in milliseconds.
pub const CANCEL_POLL_MS: u64 = 200;

/// How long an attempt that has failed or was cancelled waits for what it wrote to be removed, in
/// milliseconds. A store that does not answer must not keep its slot.
pub const ABORT_WAIT_MS: u64 = 1_000;

/// Longest wait before another attempt, in milliseconds.
pub const RETRY_BACKOFF_MS_MAX: u64 = 5_000;

/// Executors that may be lost while they run one and the same task before its job fails: one or
/// two can be chance, three are a task that takes executors down with it.
pub const EXECUTORS_LOST_MAX: u32 = 3;

/// Times that the output of one task is made again because readers found it missing or damaged.
pub const OUTPUT_LOST_MAX: u32 = 3;

/// Attempts of one task for whatever reason, those included that are nobody's fault. Not reached
/// unless something is very wrong; it is there so that every job ends.
pub const ATTEMPTS_ALL_MAX: usize = 100;

/// Failures in a row after which an executor gets no tasks for a while.
pub const EXECUTOR_FAILURES_MAX: u32 = 3;

/// How long such an executor gets none, in milliseconds; doubled each time that it fails again
/// when it is back.
pub const EXECUTOR_EXCLUDED_MS: u64 = 30_000;

/// Longest that an executor gets no tasks because it failed, in milliseconds: what was wrong with
/// it may have been put right, and one failed attempt in ten minutes is a low price for a look.
pub const EXECUTOR_EXCLUDED_MS_MAX: u64 = 10 * 60 * 1_000;

/// Attempts of one task that run out of memory where no executor has more, before its job fails:
/// the first may have had an unlucky neighbour.
pub const EXHAUSTED_MAX: u32 = 2;

/// Share of a stage's tasks, in percent, that are done before a slow one gets a second attempt.
pub const STRAGGLER_DONE_PERCENT: u64 = 75;

/// A slow task is one that runs for twice the median duration of its stage and this much more, in
/// milliseconds: below that a second attempt costs more than it can win.
pub const STRAGGLER_SLACK_MS: u64 = 1_000;

/// A task is slow, too, if it reads so many times slower than the others of its stage together.
pub const STRAGGLER_PACE_TIMES: u64 = 3;

/// How long a task has to run before its pace says something, in milliseconds.
pub const STRAGGLER_PACE_MS: u64 = 2_000;

/// Tasks of a stage that have two attempts at once are at most one more than its tasks, or all
/// slots where those are fewer, divided by this: where everything is slow, running everything twice
/// makes it slower.
pub const STRAGGLER_SHARE: u32 = 4;

/// Waiting tasks of a stage that are looked at for one that fits a free slot. Almost always the
/// first does; those that do not wait for an executor where they have not failed yet.
pub const PLACEMENT_TASKS_MAX: usize = 64;

/// Shuffle objects that the tasks launched in one step of the scheduler are told of; the last of
/// them may go beyond. About 100 bytes each, and a few milliseconds in all.
pub const LAUNCH_SOURCES_MAX: usize = 200_000;

/// Largest weight of a job, which is its share of the slots against those of other jobs.
pub const JOB_WEIGHT_MAX: u32 = 1_000;

/// Smallest share of shuffle data, as stored, that is worth a reduce task of its own.
pub const SHUFFLE_TASK_BYTES_MIN: u64 = 1 << 20;

/// Jobs that a driver works on at once, unless it is told otherwise; more are refused.
pub const JOBS_ACTIVE_MAX: usize = 1_000;

/// Jobs that have ended and are still known; the oldest is dropped with its result.
pub const JOBS_ENDED_MAX: usize = 1_000;

/// Longest that planning a job or putting its output in place may take, in milliseconds: an hour.
/// It is enough to list ten million objects or to copy a terabyte, and it ends the wait for a
/// store that never answers.
pub const JOB_STEP_MS_MAX: u64 = 60 * 60 * 1_000;

/// Bytes of a job's name. It is in every status, and a driver keeps many.
pub const JOB_NAME_BYTES_MAX: usize = 1 << 10;

/// Bytes, as stored, of results that have been read and are kept in case somebody reads them
/// again. The one that was read last always stays; one that nobody has read does not go for this.
pub const RESULTS_READ_BYTES_MAX: u64 = 256 << 20;

/// How long a result is kept after it was made or last read, in milliseconds: a day, so that a job
/// that was left overnight can be looked at in the morning.
pub const RESULT_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Longest line that an external command may print: it is held as a whole, and whoever prints more
/// without an end has forgotten it.
pub const EXTERNAL_LINE_BYTES_MAX: usize = 64 << 20;

/// Bytes of what an external command last said on stderr, kept for the error if it fails.
pub const EXTERNAL_STDERR_BYTES: usize = 4 << 10;

/// How often it is looked whether a command that has closed its stdout has ended, in milliseconds:
/// there are many short ones, and almost all have.
pub const EXTERNAL_EXIT_POLL_MS: u64 = 2;

/// Counters of a user's program in one job: they are sent with every heartbeat and every report.
pub const USER_COUNTERS_MAX: usize = 1000;

/// Bytes of the name of such a counter.
pub const USER_COUNTER_BYTES_MAX: usize = 200;

/// Bytes of the name of a directory in an output: less than any file system allows.
pub const OUTPUT_DIRECTORY_BYTES_MAX: usize = 200;

/// Directories that one lane of a task writes to: each has a file open, with what it buffers.
pub const OUTPUT_DIRECTORIES_MAX: usize = 100;

/// Bytes that a lane whose memory is refused holds unasked, as a share of the budget (1 / this):
/// what is written is to be worth a block, and many lanes together must not be worth a budget.
pub const UNASKED_SHARE: u64 = 256;

/// Least of these bytes.
pub const UNASKED_BYTES_MIN: u64 = 64 << 10;

/// Most of these bytes.
pub const UNASKED_BYTES_MAX: u64 = 1 << 20;

/// Bytes that are written to or read from a spill file at once.
pub const SPILL_BUFFER_BYTES: usize = 256 << 10;

/// Bytes of memory that the functions of a program may have in one process, unless it says so.
pub const PROGRAM_MEMORY_BYTES: u64 = 1 << 30;

/// How long a call of a user's function may go on without a sign of life, unless its program says
/// so, in milliseconds: long enough for a batch of slow rows, short enough for a loop without end
/// to be found out.
pub const PROGRAM_CALL_MS: u64 = 10 * 60 * 1_000;

/// Bytes of the binary of a program: it is held once in storage and once on each executor's disk.
pub const PROGRAM_BYTES_MAX: u64 = 4 << 30;

/// Bytes of the names and values in the environment of a program: they travel with every task.
pub const PROGRAM_ENVIRONMENT_BYTES_MAX: usize = 64 << 10;

/// Bytes of programs that an executor keeps on its disk for later jobs, beside those that run.
pub const PROGRAM_CACHE_BYTES: u64 = 8 << 30;

/// Bytes that a worker process may have beside what the engine reserves and what the program's
/// functions are given: its code, stacks, and what allocators hold without use.
pub const WORKER_MEMORY_BYTES: u64 = 512 << 20;

/// Bytes of a side file: every process that calls a function which looks into it holds it as a
/// whole, beside all that is reserved.
pub const SIDE_FILE_BYTES_MAX: u64 = 256 << 20;
