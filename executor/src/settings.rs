//! What an executor may be told, and the fixed figures of its protocol.

use std::time::Duration;

use kiln_engine::{Error, Result, limits};

/// Attempts that an executor holds, waiting for a slot or running. A driver launches no more than
/// there are slots; more than this is not a race but a defect.
pub const ATTEMPTS_HELD_MAX: usize = 1024;

/// Messages between worker and socket in either direction; when they are used up, whoever sends
/// waits.
pub const LINK_MESSAGES_MAX: usize = 32;

/// How long a driver may take to answer a registration.
pub const WELCOME_WAIT: Duration = Duration::from_secs(10);

/// Heartbeats after which a report that is not acknowledged is sent again.
pub const REPORT_REPEAT_BEATS: u32 = 3;

/// How long one try to connect may take.
pub const DIAL_WAIT: Duration = Duration::from_secs(5);

/// Pause before the second try to connect; doubled with every further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest pause between tries to connect.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long an executor that leaves waits for its last words to be read, and for attempts that it
/// has cancelled to end.
pub const FAREWELL_WAIT: Duration = Duration::from_secs(5);

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
    /// `first_connection_wait`.
    pub driver_absence_max: Duration,
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
