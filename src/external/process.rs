//! A running command: lines go to its stdin, what it prints comes from its stdout.
//!
//! One thread drives it, and neither side can keep the other waiting for ever: no pipe blocks, and
//! whatever can move is moved before the thread waits for any of them. The command has a process
//! group of its own, which is killed as a whole when nobody wants its answer any more, so that
//! no part of `a | b` is left behind, not even where this process is killed itself: a [`Heir`] sees
//! to it.

use std::io::{self, ErrorKind as IoErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

use kiln_engine::udf::UdfContext;
use kiln_engine::{Error, Result, limits};
use kiln_executor::worker_process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::wrong;

/// Bytes read at once; pipes hold no more.
const READ_BYTES: usize = 64 << 10;

/// Lines of stderr in an error.
const LINES_SHOWN: usize = 5;

/// Where what a command prints goes.
pub(super) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// A command at work. It is killed when this is dropped.
pub(super) struct Process {
    command: Arc<str>,
    child: Child,
    heir: Heir,
    /// None once it is closed, by us or by the command.
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    said: Tail,
    buffer: Vec<u8>,
    is_reaped: bool,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// `Exhausted` if the system has no room for another process.
    pub(super) fn start(command: &Arc<str>) -> Result<Self> {
        let failed = |error: io::Error| {
            let text = format!("a command could not be started command={command:?}");
            Error::exhausted(text).with_source(error)
        };
        let mut child = Command::new("sh")
            .args(["-c", command])
            // A program of Kiln's that the command starts is no worker.
            .env_remove(worker_process::VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let heir = match Heir::of(&child) {
            Ok(heir) => heir,
            Err(error) => {
                end_group(&child);
                // Of two failures the first is told.
                let _ = child.wait();
                return Err(failed(error));
            }
        };
        let process = Process {
            command: Arc::clone(command),
            heir,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            said: Tail::default(),
            buffer: vec![0; READ_BYTES],
            is_reaped: false,
            child,
        };
        let pipes = [
            process.stdin.as_ref().map(AsFd::as_fd),
            process.stdout.as_ref().map(AsFd::as_fd),
            process.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|error| failed(error.into()))?;
        }
        Ok(process)
    }

    /// Whether the command reads no more. What it is given after that is dropped.
    pub(super) fn is_deaf(&self) -> bool {
        self.stdin.is_none()
    }

    /// Gives `bytes` to the command, and what it prints meanwhile to `take`.
    ///
    /// # Errors
    /// `Cancelled`, or what `take` answered.
    pub(super) fn write(
        &mut self,
        mut bytes: &[u8],
        context: &UdfContext,
        take: Take<'_>,
    ) -> Result<()> {
        while !bytes.is_empty() && !self.is_deaf() {
            context.cancel().check()?;
            let written = self.try_write(bytes)?;
            bytes = &bytes[written..];
            let read = self.try_read(take)?;
            self.moved_or_wait(written + read, context)?;
        }
        Ok(())
    }

    /// Closes stdin, gives what the command still prints to `take`, and waits for its end.
    ///
    /// # Errors
    /// `Program` if it fails; as for [`write`](Self::write).
    pub(super) fn finish(&mut self, context: &UdfContext, take: Take<'_>) -> Result<()> {
        self.stdin = None;
        while self.stdout.is_some() || !self.has_ended()? {
            context.cancel().check()?;
            let read = self.try_read(take)?;
            self.moved_or_wait(read, context)?;
        }
        // What it said last; it may have left behind somebody who never closes the pipe.
        while self.try_read(take)? > 0 {}
        let status = self.reap()?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.last_lines();
        let stderr = match said.is_empty() {
            true => String::new(),
            false => format!(" stderr={said:?}"),
        };
        Err(wrong(
            &self.command,
            format_args!("failed: {status}{stderr}"),
        ))
    }

    /// Whether the command has ended. What it printed last may not have been read.
    ///
    /// # Errors
    /// `Unavailable` if the system does not say.
    pub(super) fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(self.pid()), options);
        Ok(ended.map_err(|error| self.broken(error.into()))?.is_some())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Writes what the pipe has room for.
    fn try_write(&mut self, bytes: &[u8]) -> Result<usize> {
        let Some(stdin) = &mut self.stdin else {
            return Ok(bytes.len());
        };
        match stdin.write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if is_for_now(&error) => Ok(0),
            Err(error) if error.kind() == IoErrorKind::BrokenPipe => {
                self.stdin = None;
                Ok(bytes.len())
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Reads what there is.
    fn try_read(&mut self, take: Take<'_>) -> Result<usize> {
        let said = read_some(&mut self.stderr, &mut self.buffer);
        let said = said.map_err(|error| self.broken(error))?;
        self.said.push(&self.buffer[..said]);
        let printed = read_some(&mut self.stdout, &mut self.buffer);
        let printed = printed.map_err(|error| self.broken(error))?;
        if printed > 0 {
            take(&self.buffer[..printed])?;
        }
        Ok(said + printed)
    }

    /// Where nothing moved, waits until something can.
    fn moved_or_wait(&self, moved: usize, context: &UdfContext) -> Result<()> {
        if moved > 0 {
            context.tick();
            return Ok(());
        }
        let mut pipes = Vec::with_capacity(3);
        if let Some(stdin) = &self.stdin {
            pipes.push(PollFd::new(stdin, PollFlags::OUT));
        }
        if let Some(stdout) = &self.stdout {
            pipes.push(PollFd::new(stdout, PollFlags::IN));
        }
        if let Some(stderr) = &self.stderr {
            pipes.push(PollFd::new(stderr, PollFlags::IN));
        }
        // Without stdout only the end of the process is waited for, which no pipe tells.
        let wait_ms = match self.stdout {
            Some(_) => limits::CANCEL_POLL_MS,
            None => limits::EXTERNAL_EXIT_POLL_MS,
        };
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: wait_ms as i64 * 1_000_000,
        };
        match poll(&mut pipes, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(self.broken(error.into())),
        }
    }

    /// Ends whatever the command left behind, and the command itself.
    fn reap(&mut self) -> Result<ExitStatus> {
        end_group(&self.child);
        self.heir.dismiss();
        self.is_reaped = true;
        self.child.wait().map_err(|error| self.broken(error))
    }

    fn broken(&self, error: io::Error) -> Error {
        let command = &self.command;
        let text = format!("a command cannot be talked to command={command:?}");
        Error::unavailable(text).with_source(error)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped
            && let Err(error) = self.reap()
        {
            tracing::debug!(error = error.report(), "a command was left behind");
        }
    }
}

/// Ends all processes of a command, which has not been waited for: so its group is still there.
fn end_group(child: &Child) {
    if let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
        tracing::debug!(%error, "a command's processes could not be killed");
    }
}

/// Whoever ends a command if this process is killed before it can: a shell that waits for its
/// stdin to close.
struct Heir(Child);

impl Heir {
    fn of(child: &Child) -> io::Result<Self> {
        let heir = Command::new("sh")
            .args(["-c", "read -r _ || kill -s KILL -- \"-$0\""])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Heir(heir))
    }

    /// There is nothing left to end.
    fn dismiss(&mut self) {
        // Waiting closes its stdin, so it has to be dead by then.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::debug!(%error, "a command's heir is left");
        }
    }
}

/// Reads what there is; at its end the pipe is closed.
fn read_some(pipe: &mut Option<impl Read>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(open) = pipe else {
        return Ok(0);
    };
    match open.read(buffer) {
        Ok(0) => {
            *pipe = None;
            Ok(0)
        }
        Ok(read) => Ok(read),
        Err(error) if is_for_now(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        IoErrorKind::WouldBlock | IoErrorKind::Interrupted
    )
}

/// The end of what a command said on stderr.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let max = limits::EXTERNAL_STDERR_BYTES;
        self.0
            .extend_from_slice(&bytes[bytes.len().saturating_sub(max)..]);
        self.0.drain(..self.0.len().saturating_sub(max));
    }

    /// The last lines; the first of them may have lost its beginning.
    fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let text = text.trim_end();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}
