//! Processes of a test: started away from the settings of whoever runs it, stopped, woken, and
//! ended with it, also when it fails.

use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything that is waited for takes, also on a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What the names of variables begin with that could lead a test elsewhere.
const SETTINGS: [&str; 5] = ["AWS_", "AZURE_", "GOOGLE_", "KILN_", "RUST_LOG"];

/// A command without stdin and without settings of whoever runs the test.
pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &str, args: I) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if SETTINGS.iter().any(|setting| name.starts_with(setting)) {
            command.env_remove(&*name);
        }
    }
    command
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub struct Guard {
    /// The process.
    pub child: Child,
}

impl Guard {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        Guard {
            child: command.spawn().expect("the command starts"),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        let ended = self.child.try_wait();
        ended.expect("a child can be waited for").is_none()
    }

    /// Waits for the process to end by itself; its exit code, if no signal has ended it.
    pub fn ended(&mut self) -> Option<i32> {
        let status = wait_for("a process to end", || {
            self.child.try_wait().expect("a child can be waited for")
        });
        status.code()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended already; a stopped one has to be killed all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `signal` (`KILL`, `STOP`, `TERM`, …) to a process.
pub fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status();
    assert!(sent.expect("kill starts").success(), "kill -{signal} {pid}");
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
