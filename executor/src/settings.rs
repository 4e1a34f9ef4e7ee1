//! What an executor may be told, and the fixed figures of its protocol.

use std::path::PathBuf;
use std::time::Duration;

use kiln_engine::{Error, Result, limits};

/// Attempts that an executor holds, waiting for a slot or running. A driver launches no more than
/// there are slots; more than this is not a race but a defect.
pub const ATTEMPTS_HELD_MAX: usize = 1024;

/// Messages between worker and socket in either direction; when they are used up, whoever sends
/// waits.
pub const LINK_MESSAGES_MAX: usize = 32;

/// How long a driver of the same process may take to answer a registration.
pub const WELCOME_WAIT: Duration = Duration::from_secs(10);

/// How long a driver elsewhere may take to accept a connection, and to answer a registration,
/// before the next one is tried; half as much again in every further round.
pub const ANSWER_WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest of these.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Heartbeats after which a report that is not acknowledged is sent again.
pub const REPORT_REPEAT_BEATS: u32 = 3;

/// Pause after the first round through all drivers; doubled after every further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two rounds: a job waits for it when its driver has come back.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long the reason why a stream has ended may take to arrive after its end.
pub const REASON_WAIT: Duration = Duration::from_millis(100);

/// How long an executor that leaves waits for its last words to be read, and for attempts that it
/// has cancelled to end.
pub const FAREWELL_WAIT: Duration = Duration::from_secs(5);

/// Bytes of a message between an executor and a worker process: as on the stream from the driver,
/// where the tasks come from.
pub const WORKER_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How often a worker process says how far its attempt is.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How long an attempt in a worker process may go on after it was cancelled, before the process is
/// killed.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How often a worker process is looked at, unless its program wants it more often.
pub const WATCH_EVERY: Duration = Duration::from_millis(100);

/// How long a process may take to be gone after its connection has ended.
pub const DEATH_WAIT: Duration = Duration::from_secs(2);

/// How long to wait for the last words of a process that is dead: what it has started may hold on
/// to them.
pub const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// Bytes of the output of a worker process that are kept for when it dies.
pub const LAST_WORDS_BYTES: usize = 4 << 10;

/// Lines of the output of a worker process that are logged for one attempt: enough to find out what
/// is wrong, too little to fill a disk.
pub const LINES_LOGGED_MAX: usize = 100;

/// Bytes of one such line.
pub const LINE_BYTES_MAX: usize = 1 << 10;

/// How long to try to start a program whose file is open for writing: another process that this one
/// has just started may have it open until it is what it is to become.
pub const BUSY_FILE_WAIT: Duration = Duration::from_secs(2);

/// How often an attempt that waits for memory for its worker process looks whether there is some.
pub const MEMORY_POLL: Duration = Duration::from_millis(20);

/// How an executor runs programs of users.
#[derive(Debug, Clone)]
pub struct ProgramSettings {
    /// The directory in which it makes one of its own for programs and the files of their
    /// processes.
    pub directory: PathBuf,
    /// Bytes of programs that it keeps for later jobs.
    pub kept_bytes: u64,
    /// How long a process may take to say that it is a worker.
    pub hello_wait: Duration,
    /// How long a process may have nothing to do before it is ended.
    pub idle_max: Duration,
    /// What is run for functions that Kiln itself brings.
    pub kiln: PathBuf,
}

impl Default for ProgramSettings {
    fn default() -> Self {
        ProgramSettings {
            directory: std::env::temp_dir(),
            kept_bytes: limits::PROGRAM_CACHE_BYTES,
            hello_wait: Duration::from_secs(20),
            idle_max: Duration::from_secs(60),
            // What this process runs, even if the file has been replaced or removed since.
            kiln: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// What an executor may be told.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// For people: host name and process id.
    pub name: String,
    /// Threads that compute.
    pub threads: u32,
    /// Tasks at once; each uses all threads.
    pub slots: u32,
    /// Memory budget in bytes, as reported to the driver.
    pub memory: u64,
    /// URLs of drivers, tried in turn; empty for an executor that shares its driver's process.
    pub driver: Vec<String>,
    /// How long to try before the first connection stands.
    pub first_connection_wait: Duration,
    /// How long to go on without a driver once there was one; while leaving, at most
    /// `first_connection_wait`. One that answers, though it does not lead, is no absence.
    pub driver_absence_max: Duration,
    /// How long to go on with what runs once it is to leave. What has not ended by then is handed
    /// back, to be run elsewhere.
    pub drain_wait: Duration,
    /// How it runs programs of users.
    pub programs: ProgramSettings,
}

impl ExecutorSettings {
    /// The defaults for an executor of that many threads and bytes.
    pub fn new(name: impl Into<String>, threads: u32, memory: u64) -> Self {
        ExecutorSettings {
            name: name.into(),
            threads,
            slots: u32::try_from(limits::TASKS_AT_ONCE).expect("a small constant"),
            memory,
            driver: Vec::new(),
            first_connection_wait: Duration::from_secs(10),
            driver_absence_max: Duration::from_secs(300),
            drain_wait: Duration::from_secs(30),
            programs: ProgramSettings::default(),
        }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("threads", self.threads), ("slots", self.slots)] {
            if value == 0 {
                return Err(Error::invalid(format!(
                    "{name} of an executor must be at least 1"
                )));
            }
        }
        Ok(())
    }
}
