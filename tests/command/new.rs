//! `kiln new`: what it writes and what it refuses.

use std::path::Path;

use expect_test::expect;

use crate::support::{Said, kiln, write};

fn new(directory: &Path, args: &[&str]) -> Said {
    let mut command = kiln(["new"]);
    command.args(args).current_dir(directory);
    let said: Said = command.output().expect("the command starts").into();
    Said {
        stderr: said.stderr.replace(&directory.display().to_string(), "DIR"),
        ..said
    }
}

/// All files below `directory`, each under its path.
fn files(directory: &Path, below: &str) -> String {
    let mut entries: Vec<_> = std::fs::read_dir(directory.join(below))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    entries.sort();
    let mut text = String::new();
    for name in entries {
        let path = format!("{below}/{}", name.to_string_lossy());
        text += &match std::fs::read_to_string(directory.join(&path)) {
            Ok(content) => format!("==> {path}\n{content}\n"),
            Err(_) => files(directory, &path),
        };
    }
    text
}

#[test]
fn a_program_is_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let said = new(directory.path(), &["my-job"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    expect![[r#"
        wrote my-job; to try it: cd my-job && cargo run --release -- README.md
    "#]]
    .assert_eq(&said.stderr);
    let program = include_str!("../../examples/my_job.rs");
    let written = files(directory.path(), "my-job");
    assert!(written.contains(program), "{written}");
    expect![[r#"
        ==> my-job/.gitignore
        /target

        ==> my-job/Cargo.toml
        [package]
        name = "my-job"
        version = "0.1.0"
        edition = "2024"

        [dependencies]
        kiln = "0.1.0"

        # Queries run in code of other crates; without this a debug build of the program is very slow.
        [profile.dev.package."*"]
        opt-level = 3

        # This crate is nobody else's, wherever it lies.
        [workspace]

        ==> my-job/README.md
        # my-job

        A job for [Kiln](https://github.com/kiln-engine/kiln): it counts the words of text files. What is yours to change is in `src/main.rs`.

        In this process:

            cargo run --release -- README.md

        On a cluster, whose driver has to be started with `--allow-programs`:

            kiln cluster --executors 2 --allow-programs &
            cargo build --release
            kiln submit --wait ./target/release/my-job -- README.md --output counts

        The program finds the cluster itself, too: `cargo run --release -- README.md --driver http://127.0.0.1:7440`, or with
        the driver in the environment variable `KILN_DRIVER`. Input and output are read and written by the executors, so they have
        to be where all of them can reach them; on one machine that is anywhere.

        ==> my-job/src/main.rs
        (examples/my_job.rs)

    "#]].assert_eq(&written.replace(program, "(examples/my_job.rs)\n"));
}

#[test]
fn it_may_depend_on_sources() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("to \"be\"")).expect("a directory");
    let sources = env!("CARGO_MANIFEST_DIR");
    let said = new(directory.path(), &["to \"be\"/filled", "--path", sources]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let manifest = directory.path().join("to \"be\"/filled/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("a manifest");
    let dependency = manifest.lines().find(|line| line.starts_with("kiln"));
    let expected = format!("kiln = {{ path = \"{sources}\" }}");
    assert_eq!(dependency, Some(expected.as_str()));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("full")).expect("a directory");
    write(&directory.path().join("full"), "notes.txt", b"mine");
    write(directory.path(), "file", b"mine");
    let mut texts = String::new();
    for args in [
        &["full"][..],
        &["file"],
        &["7up"],
        &["my job"],
        &["größe"],
        &["match"],
        &["proc-macro"],
        &["kiln"],
        &[".."],
        &["fine", "--path", "nowhere"],
        &["fine", "--path", "full"],
    ] {
        let said = new(directory.path(), args);
        assert_eq!(said.code, Some(2), "{args:?} {said:?}");
        texts += &format!("{args:?}\n{}", said.stderr);
    }
    expect![[r#"
        ["full"]
        error: the directory is not empty path=full
        ["file"]
        error: not a directory that a program can be written to path=file: Not a directory (os error 20)
        ["7up"]
        error: not a name for a program: it has to be of letters, digits, - and _, and begin with a letter name="7up"
        ["my job"]
        error: not a name for a program: it has to be of letters, digits, - and _, and begin with a letter name="my job"
        ["größe"]
        error: not a name for a program: it has to be of letters, digits, - and _, and begin with a letter name="größe"
        ["match"]
        error: not a name for a program: it means something else in Rust name="match"
        ["proc-macro"]
        error: not a name for a program: it means something else in Rust name="proc-macro"
        ["kiln"]
        error: not a name for a program: it means something else in Rust name="kiln"
        [".."]
        error: a directory without a name path=..
        ["fine", "--path", "nowhere"]
        error: the sources of kiln cannot be found path=nowhere: No such file or directory (os error 2)
        ["fine", "--path", "full"]
        error: the sources of kiln are not there: no Cargo.toml path=full
    "#]].assert_eq(&texts);
    assert!(!directory.path().join("fine").exists());
    let notes = std::fs::read(directory.path().join("full/notes.txt"));
    assert_eq!(notes.expect("nobody touched it"), b"mine");
}
