//! What the end of a worker process means, in words for people and as a kind of error.
//!
//! A function is named where it is the only one that was being called: then it is to blame. What
//! somebody else did to the process is nobody's fault and is tried again.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use kiln_engine::{Error, ErrorKind};

/// Signals with which people and systems end processes that have done nothing.
const FROM_OUTSIDE: [(i32, &str); 4] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (SIGKILL, "SIGKILL"),
    (15, "SIGTERM"),
];

/// Signals of processes that have crashed.
const CRASHES: [(i32, &str); 5] = [
    (4, "SIGILL"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (11, "SIGSEGV"),
    (31, "SIGSYS"),
];

const SIGABRT: i32 = 6;

const SIGKILL: i32 = 9;

/// What Rust says before it aborts a process for want of memory.
const NO_MEMORY: &str = "memory allocation of ";

/// How a worker process came to its end in the middle of an attempt.
pub(super) enum End {
    /// By itself, or by a signal that its executor did not send.
    Died(ExitStatus),
    /// Its connection ended and it went on, so it was killed.
    CutOff,
    /// It sent what no worker sends, so it was killed.
    Nonsense(String),
    /// A call gave no sign of life for so many milliseconds, so it was killed.
    Stuck(u64),
}

/// What was going on when a worker process ended.
pub(super) struct Circumstances {
    /// The functions that were being called, each once.
    pub(super) called: Vec<String>,
    /// What the attempt reads, in words for people.
    pub(super) input: String,
    /// The last that the process wrote, on one line.
    pub(super) last_words: String,
    /// Bytes of memory that the process was allowed.
    pub(super) memory: u64,
}

/// The error of an attempt whose process came to an end.
pub(super) fn error(end: &End, circumstances: &Circumstances) -> Error {
    let Circumstances {
        called,
        input,
        last_words,
        memory,
    } = circumstances;
    let who = subject(called);
    let mut kind = ErrorKind::Program;
    let mut text = match end {
        End::Died(status) => match (status.signal(), status.code()) {
            (Some(SIGABRT), _) if last_words.contains(NO_MEMORY) => format!(
                "{who} ended its process: it asked for more memory than there is for it \
                 memory_max={memory}"
            ),
            (Some(SIGABRT), _) => format!("{who} ended its process: it aborted"),
            (Some(signal), _) => match (name(signal, &FROM_OUTSIDE), name(signal, &CRASHES)) {
                (Some(name), _) => {
                    kind = ErrorKind::Exhausted;
                    let why = match signal {
                        SIGKILL => ", as systems do when memory runs short",
                        _ => "",
                    };
                    format!(
                        "the process in which {who} ran was killed from outside{why} signal={name}"
                    )
                }
                (_, Some(name)) => format!("{who} ended its process: it crashed signal={name}"),
                _ => format!("{who} ended its process: it was stopped signal={signal}"),
            },
            (None, code) => format!(
                "{who} ended its process: it exited in the middle of a task code={}",
                code.unwrap_or_default()
            ),
        },
        End::CutOff => format!("{who} cut its process off from the executor, and it was killed"),
        End::Nonsense(what) => {
            format!(
                "{who} sent the executor what no worker sends, and its process was killed: {what}"
            )
        }
        End::Stuck(millis) => format!(
            "{who} went on without asking for rows or giving any, and its process was killed \
             call_ms_max={millis}"
        ),
    };
    let _ = write!(text, " input={input}");
    if !last_words.is_empty() {
        let _ = write!(text, " output={last_words:?}");
    }
    Error::new(kind, text)
}

fn subject(called: &[String]) -> String {
    match called {
        [] => "the program".to_owned(),
        [one] => format!("function {one:?}"),
        several => {
            let names: Vec<String> = several.iter().map(|name| format!("{name:?}")).collect();
            format!("one of the functions {}", names.join(", "))
        }
    }
}

fn name(signal: i32, names: &[(i32, &'static str)]) -> Option<&'static str> {
    let found = names.iter().find(|(number, _)| *number == signal)?;
    Some(found.1)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_end_has_its_words() {
        let signal = |number| End::Died(ExitStatus::from_raw(number));
        let exit = |code| End::Died(ExitStatus::from_raw(code << 8));
        let cases = [
            (signal(6), vec!["f"], "gone wrong"),
            (signal(6), vec!["f"], "memory allocation of 7 bytes failed"),
            (signal(6), vec![], ""),
            (signal(11), vec!["f", "g"], ""),
            (signal(15), vec!["f"], ""),
            (signal(9), vec![], ""),
            (signal(10), vec!["f"], ""),
            (exit(0), vec!["f"], ""),
            (exit(3), vec![], "error: \"no\" such thing"),
            (End::CutOff, vec!["f"], ""),
            (End::Nonsense("a second greeting".to_owned()), vec![], ""),
            (End::Stuck(500), vec!["f"], ""),
        ];
        let mut texts = String::new();
        for (end, called, last_words) in cases {
            let circumstances = Circumstances {
                called: called.into_iter().map(str::to_owned).collect(),
                input: "file:///in".to_owned(),
                last_words: last_words.to_owned(),
                memory: 100,
            };
            let error = error(&end, &circumstances);
            texts += &format!("{}: {}\n", error.kind(), error.message());
        }
        expect![[r#"
            program: function "f" ended its process: it aborted input=file:///in output="gone wrong"
            program: function "f" ended its process: it asked for more memory than there is for it memory_max=100 input=file:///in output="memory allocation of 7 bytes failed"
            program: the program ended its process: it aborted input=file:///in
            program: one of the functions "f", "g" ended its process: it crashed signal=SIGSEGV input=file:///in
            exhausted: the process in which function "f" ran was killed from outside signal=SIGTERM input=file:///in
            exhausted: the process in which the program ran was killed from outside, as systems do when memory runs short signal=SIGKILL input=file:///in
            program: function "f" ended its process: it was stopped signal=10 input=file:///in
            program: function "f" ended its process: it exited in the middle of a task code=0 input=file:///in
            program: the program ended its process: it exited in the middle of a task code=3 input=file:///in output="error: \"no\" such thing"
            program: function "f" cut its process off from the executor, and it was killed input=file:///in
            program: the program sent the executor what no worker sends, and its process was killed: a second greeting input=file:///in
            program: function "f" went on without asking for rows or giving any, and its process was killed call_ms_max=500 input=file:///in
        "#]].assert_eq(&texts);
    }
}
