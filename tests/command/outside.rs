//! A crate of somebody else's: made with `kiln new`, built, run here, and submitted to a cluster
//! whose executors are the stock `kiln` binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;
use kiln_testkit::cargo;

use crate::support::{Driver, Said, kiln, run_ok, write};

/// Builds the crate in `directory` with the dependencies of this repository: the same versions,
/// features and flags, so that those outside of it are not built once more.
fn build(directory: &Path) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let locked = std::fs::copy(repository.join("Cargo.lock"), directory.join("Cargo.lock"));
    locked.expect("a file can be copied");
    // Dependencies are built there already.
    let target = cargo::target();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet"])
        .args(["--config", "profile.dev.opt-level=1"])
        .args(["--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.build-override.opt-level=0"])
        .current_dir(directory)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .expect("cargo starts");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    target.join("debug").join("my-job")
}

fn said(command: &mut Command) -> Said {
    for name in ["KILN_DRIVER", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command.output().expect("the program starts").into()
}

#[test]
fn a_crate_outside_of_the_repository_runs_here_and_on_a_cluster() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let outside = directory.path().join("my-job");
    let here = outside.display().to_string();
    run_ok(["new", &here, "--path", env!("CARGO_MANIFEST_DIR")]);
    let program = build(&outside);
    let text = b"Round the rugged rocks\nthe ragged rascal ran, the rocks ran too.\n";
    let input = write(directory.path(), "text.txt", text);

    let embedded = said(Command::new(&program).arg(&input));
    assert_eq!(embedded.code, Some(0), "{embedded:?}");
    expect![[r#"
        word    count
        ─────────────
        the         3
        ran         2
        rocks       2
        ragged      1
        rascal      1
        round       1
        rugged      1
        too         1
    "#]]
    .assert_eq(&embedded.stdout);

    let driver = Driver::start(&["--allow-programs"]);
    let _executors = (driver.executor(1), driver.executor(1));
    let mut submit = kiln(["submit", "--wait", "--driver", &driver.url]);
    let submitted = said(submit.arg(&program).args(["--", &input]));
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    assert_eq!(submitted.stdout, embedded.stdout);
    // It ran in processes of the program, under the stock executors.
    let jobs = run_ok(["jobs", "--json", "--driver", &driver.url]);
    let jobs: serde_json::Value = serde_json::from_str(&jobs).expect("a list");
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs:#}");
}
