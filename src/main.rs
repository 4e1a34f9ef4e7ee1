//! The `kiln` command: read what was typed, do it, say how it ended.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

use kiln::external;
use kiln_executor::worker_process;

use cli::args::{Arguments, Command};
use cli::exit::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs tasks that call functions of Kiln itself: commands.
fn be_worker() -> ExitCode {
    match external::functions() {
        Ok(functions) => worker_process::main(functions),
        Err(error) => cli::exit::code(Err(Failure::Job(error))),
    }
}

fn main() -> ExitCode {
    if worker_process::is_wanted() {
        return be_worker();
    }
    let arguments = Arguments::parse();
    cli::logging::start();
    cli::logging::contain_panics();
    cli::exit::code(match &arguments.command {
        Command::Run(args) => cli::run::run(args),
        Command::Submit(args) => cli::submit::run(args),
        Command::Explain(args) => cli::explain::run(args),
        Command::New(args) => cli::new::run(args),
        Command::Head(args) => cli::head::run(args),
        Command::Schema(args) => cli::schema::run(args),
        Command::Stats(args) => cli::stats::run(args),
        Command::Generate(args) => cli::generate::run(args),
        Command::Bench(args) => cli::bench::run(args),
        Command::Jobs(args) => cli::jobs::run(args),
        Command::Job(args) => cli::job::run(args),
        Command::Wait(args) => cli::wait::run(args),
        Command::Cancel(args) => cli::cancel::run(args),
        Command::Gc(args) => cli::gc::run(args),
        Command::Driver(args) => cli::driver::run(args),
        Command::Executor(args) => cli::executor::run(args),
        Command::Cluster(args) => cli::cluster::run(args),
    })
}
