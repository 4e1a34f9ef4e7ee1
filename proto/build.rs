//! Compiles `protos/*.proto` in Rust, so that no system `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = [
        "plan.proto",
        "task.proto",
        "control.proto",
        "jobs.proto",
        "worker.proto",
        "journal.proto",
    ];
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure()
        .bytes(".kiln.v1")
        .btree_map(".kiln.v1.Counts")
        .btree_map(".kiln.v1.Program")
        .boxed(".kiln.v1.DriverMessage.message.launch")
        .boxed(".kiln.v1.Report.outcome.success")
        .boxed(".kiln.v1.SupervisorMessage.message.run")
        .boxed(".kiln.v1.WorkerMessage.message.progress")
        .boxed(".kiln.v1.WorkerMessage.message.success")
        .compile_fds(descriptors)?;
    Ok(())
}
