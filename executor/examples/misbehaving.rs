//! A program for the tests of worker processes: its functions do what no function should, each in
//! a way of its own. Anybody else finds nothing of interest here.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use kiln_engine::udf::{EmitRows, Functions, ScalarBody, TableBody, TableLane, UdfContext};
use kiln_engine::{Error, Result};
use kiln_executor::worker_process;
use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    if !worker_process::is_wanted() {
        return ExitCode::FAILURE;
    }
    let mut functions = Functions::default();
    match register(&mut functions) {
        Ok(()) => worker_process::main(functions),
        Err(_) => ExitCode::FAILURE,
    }
}

fn register(functions: &mut Functions) -> Result<()> {
    let scalars: [(&str, Column); 3] = [
        ("keeps", Arc::clone),
        ("shortens", |lines| lines.slice(0, lines.len() - 1)),
        ("mistypes", |lines| {
            Arc::new(Int64Array::from(vec![0; lines.len()]))
        }),
    ];
    for (name, body) in scalars {
        functions.add_scalar(name, move |_| Ok(Arc::new(Scalar(body))))?;
    }
    let tables: [(&str, Table); 17] = [
        ("echoes", |_, _, _| Ok(())),
        ("panics", |_, _, _| panic!("no way out")),
        ("fails", |_, _, _| Err(Error::invalid("line 7 is blank"))),
        ("aborts", |_, _, _| {
            say("about to abort");
            std::process::abort()
        }),
        ("crashes", |_, _, _| {
            // The first one only takes away what would have caught the second.
            loop {
                kill_process(getpid(), Signal::SEGV).map_err(failed)?;
            }
        }),
        ("overflows", |_, _, _| {
            say(&overflow(u64::MAX).to_string());
            Ok(())
        }),
        ("exits", |_, _, _| std::process::exit(0)),
        ("loops", |context, _, _| {
            context.count("loops", 1)?;
            rest()
        }),
        ("is slow", |_, batch, emit| {
            for _ in 0..12 {
                std::thread::sleep(Duration::from_millis(100));
                emit(batch.slice(0, 0))?;
            }
            Ok(())
        }),
        ("hoards", |_, _, _| {
            let hoard = vec![1_u8; 10 << 30];
            say(&hoard.len().to_string());
            Ok(())
        }),
        ("hoards bit by bit", |_, _, _| {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
            }
        }),
        ("counts", |context, _, _| {
            (0..1_000_000).try_for_each(|at| context.count(&format!("counter {at}"), 1).map(|_| ()))
        }),
        ("closes", |_, _, _| {
            let nothing = File::options()
                .write(true)
                .open("/dev/null")
                .map_err(failed)?;
            rustix::stdio::dup2_stdout(&nothing).map_err(failed)?;
            rustix::stdio::dup2_stderr(&nothing).map_err(failed)
        }),
        ("chatters", |_, _, _| {
            (0..100_000)
                .for_each(|line| say(&format!("line {line} of very many that say nothing")));
            Ok(())
        }),
        ("is killed", |_, _, _| {
            kill_process(getpid(), Signal::KILL).map_err(failed)?;
            rest()
        }),
        ("starts others", |_, _, _| {
            let mut other = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .map_err(failed)?;
            say(&format!("started {}", other.id()));
            other.wait().map_err(failed)?;
            Ok(())
        }),
        ("looks around", |context, _, _| {
            let read = std::io::stdin()
                .read_to_end(&mut Vec::new())
                .map_err(failed)?;
            let here = std::env::current_dir().map_err(failed)?;
            let files = std::fs::read_dir(&here).map_err(failed)?.count();
            context.count(&format!("stdin bytes {read}, files {files}"), 1)?;
            context.count(&format!("pid {}", std::process::id()), 1)?;
            for (name, value) in std::env::vars() {
                context.count(&format!("{name}={value}"), 1)?;
            }
            Ok(())
        }),
    ];
    for (name, body) in tables {
        functions.add_table(name, move |_| Ok(Arc::new(Rows(body))))?;
    }
    functions.add_table("makes other columns", |_| Ok(Arc::new(OtherColumns)))
}

fn say(line: &str) {
    // Nobody may be listening any more.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn rest() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box(depth) ^ overflow(std::hint::black_box(depth - 1))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the test cannot do what it is for").with_source(error)
}

type Column = fn(&ArrayRef) -> ArrayRef;

/// Makes another column of one.
struct Scalar(Column);

impl ScalarBody for Scalar {
    fn call(&self, args: &[ArrayRef], _rows: usize) -> Result<ArrayRef> {
        Ok(self.0(&args[0]))
    }
}

type Table = fn(&UdfContext, &RecordBatch, EmitRows<'_>) -> Result<()>;

/// Does something and gives back the rows that it got.
struct Rows(Table);

impl TableBody for Rows {
    fn lane(&self) -> Box<dyn TableLane> {
        Box::new(Rows(self.0))
    }
}

impl TableLane for Rows {
    fn push(
        &mut self,
        batch: &RecordBatch,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        self.0(context, batch, emit)?;
        emit(batch.clone())
    }
}

struct OtherColumns;

impl TableBody for OtherColumns {
    fn lane(&self) -> Box<dyn TableLane> {
        Box::new(OtherColumns)
    }
}

impl TableLane for OtherColumns {
    fn push(&mut self, _: &RecordBatch, _: &UdfContext, emit: EmitRows<'_>) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from(vec!["a"])),
            Arc::new(Int64Array::from(vec![1])),
        ];
        let schema = Schema::new(vec![
            Field::new("a", DataType::Utf8View, false),
            Field::new("b", DataType::Int64, false),
        ]);
        emit(RecordBatch::try_new(Arc::new(schema), columns)?)
    }
}
