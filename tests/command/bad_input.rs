//! What is wrong with the input gets one clear line that names file and place, and an exit code.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::{Said, kiln, make_text, run, run_ok, write};
use expect_test::{Expect, expect};
use kiln::arrow::array::{Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;

/// Compares what `said` says on stderr, the directory's path left out, and its exit code.
fn check(directory: &Path, said: &Said, code: i32, expected: &Expect) {
    let place = directory.display().to_string();
    expected.assert_eq(&said.stderr.replace(&place, "DIR"));
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.stdout, "", "{said:?}");
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn path(directory: &tempfile::TempDir, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

#[test]
fn missing_file() {
    let directory = scratch();
    let input = path(&directory, "no-such.txt");
    let said = run(["run", "wordcount", &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: cannot read DIR/no-such.txt: no such file or directory
        "#]],
    );
    let input = path(&directory, "no-such.csv");
    let said = run(["run", "count", "--by", "a", &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: cannot read DIR/no-such.csv: no such file or directory
        "#]],
    );
}

#[test]
fn pattern_without_match() {
    let directory = scratch();
    let said = run(["run", "wordcount", &path(&directory, "*.txt")]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: no file matches DIR/*.txt
        "#]],
    );
}

#[test]
fn empty_directory() {
    let directory = scratch();
    let said = run(["run", "wordcount", &path(&directory, "")]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: no input files in DIR
        "#]],
    );
}

#[test]
fn dangling_link() {
    let directory = scratch();
    let link = path(&directory, "link.txt");
    std::os::unix::fs::symlink(path(&directory, "gone"), &link).expect("a link can be made");
    let said = run(["run", "wordcount", &link]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: cannot read DIR/link.txt: no such file or directory
        "#]],
    );
}

#[test]
fn directory_of_binary_files() {
    let directory = scratch();
    let mut random = fastrand::Rng::with_seed(4);
    for name in ["a.bin", "b.bin"] {
        let bytes: Vec<u8> = (0..100_000).map(|_| random.u8(..)).collect();
        write(directory.path(), name, &bytes);
    }
    let input = directory.path().display().to_string();
    // Not an error: text may be broken. But nobody is left to wonder.
    let said = run([
        "run",
        "wordcount",
        "--output",
        &path(&directory, "out"),
        &input,
    ]);
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.starts_with("warning: "))
            .count(),
        2,
        "{said:?}"
    );
    // Unless it has to be text.
    let strict = run(["run", "wordcount", "--strict", &path(&directory, "a.bin")]);
    check(
        directory.path(),
        &strict,
        1,
        &expect![[r#"
        error: text is not valid UTF-8 file=DIR/a.bin offset=2
    "#]],
    );
}

#[test]
fn unreadable_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = scratch();
    let input = write(directory.path(), "secret.txt", b"words\n");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .expect("permissions can be set");
    };
    mode(Path::new(&input), 0o000);
    let said = if std::fs::File::open(&input).is_err() {
        run(["run", "wordcount", &input])
    } else {
        // Root may read everything, so somebody else has to try, with a copy of the program where
        // everybody may look.
        let program = directory.path().join("kiln");
        std::fs::copy(env!("CARGO_BIN_EXE_kiln"), &program).expect("the program can be copied");
        mode(&program, 0o755);
        mode(directory.path(), 0o755);
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let output = Command::new("setpriv")
            .args(nobody)
            .arg(&program)
            .args(["run", "wordcount", &input])
            .env_remove("KILN_DRIVER")
            .output();
        output.expect("setpriv, part of util-linux, starts").into()
    };
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
        error: cannot read DIR/secret.txt: permission denied
    "#]],
    );
}

#[test]
fn truncated_gzip() {
    let directory = scratch();
    let text = make_text(&mut fastrand::Rng::with_seed(5), 1 << 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).expect("compressing into memory");
    let stored = gzip.finish().expect("compressing into memory");
    let input = write(directory.path(), "cut.gz", &stored[..stored.len() / 2]);
    let said = run(["run", "wordcount", &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
        error: cannot read compressed text: gzip stream ends early file=DIR/cut.gz: incomplete deflate stream
    "#]],
    );
}

#[test]
fn parquet_cut_in_half() {
    let directory = scratch();
    let numbers = Arc::new(Int64Array::from_iter_values(0..100_000)) as _;
    let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("a batch");
    let mut stored = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut stored, batch.schema(), None).expect("a Parquet writer");
    writer.write(&batch).expect("writing into memory");
    writer.close().expect("writing into memory");
    let input = write(directory.path(), "cut.parquet", &stored[..stored.len() / 2]);
    let said = run(["run", "count", "--by", "n", &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: bad Parquet file: it does not end in PAR1, so it was cut off or is something else file=DIR/cut.parquet bytes=501590
        "#]],
    );
}

/// A file of one page of strings that share prefixes, which are stored as lengths: damage there
/// makes the decoder panic instead of finding a fault.
fn delta_encoded_strings() -> Vec<u8> {
    let words = (0..40).map(|n| format!("word-{n:03}"));
    let words = Arc::new(StringArray::from_iter_values(words)) as _;
    let batch = RecordBatch::try_from_iter([("w", words)]).expect("a batch");
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY)
        .build();
    let mut stored = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut stored, batch.schema(), Some(properties))
        .expect("a Parquet writer");
    writer.write(&batch).expect("writing into memory");
    writer.close().expect("writing into memory");
    stored
}

#[test]
fn a_decoder_that_panics_is_one_line_too() {
    let directory = scratch();
    let sound = delta_encoded_strings();
    let mut panics = 0;
    for at in 4..100 {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x55;
        let input = write(directory.path(), "damaged.parquet", &damaged);
        let said = run(["run", "count", "--by", "w", &input]);
        // Where values change and lengths do not there is nothing to see.
        let lines = usize::from(said.code != Some(0));
        assert_eq!(said.stderr.lines().count(), lines, "at={at} {said:?}");
        panics += usize::from(said.stderr.contains("the decoder failed: "));
    }
    assert!(panics > 0, "none of this has made the decoder panic");
}

#[test]
fn ragged_csv() {
    let directory = scratch();
    let input = write(directory.path(), "ragged.csv", b"a,b\n1,2\n3,4,5\n6,7\n");
    let said = run(["run", "count", "--by", "a", &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: a CSV record has another number of fields than the first file=DIR/ragged.csv line=3 expected=2 found=3
        "#]],
    );
}

#[test]
fn unknown_column() {
    let directory = scratch();
    let input = write(directory.path(), "a.csv", b"city,n\nrome,1\n");
    let said = run(["run", "count", "--by", "town", &input]);
    check(
        directory.path(),
        &said,
        2,
        &expect![[r#"
        error: unknown column "town" columns=city, n
    "#]],
    );
}

#[test]
fn bad_regular_expression() {
    let directory = scratch();
    let input = write(directory.path(), "a.txt", b"x\n");
    let said = run(["run", "grep", "a(b", &input]);
    check(
        directory.path(),
        &said,
        2,
        &expect![[r#"
        error: bad regular expression: unclosed group pattern="a(b"
    "#]],
    );
}

#[test]
fn output_directory_that_exists() {
    let directory = scratch();
    let input = write(directory.path(), "a.txt", b"x\n");
    let output = path(&directory, "out");
    std::fs::create_dir(&output).expect("a directory can be made");
    write(Path::new(&output), "precious", b"data");
    let said = run(["run", "wordcount", "--output", &output, &input]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: output already exists url=DIR/out
        "#]],
    );
    assert!(Path::new(&output).join("precious").exists());
}

#[test]
fn inputs_of_two_formats() {
    let directory = scratch();
    let csv = write(directory.path(), "a.csv", b"a\n1\n");
    let other = path(&directory, "b.parquet");
    let said = run(["run", "count", "--by", "a", &csv, &other]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
        error: inputs are of different formats: DIR/a.csv and DIR/b.parquet
    "#]],
    );
    let text = write(directory.path(), "c.txt", b"a\n1\n");
    let said = run(["run", "count", "--by", "a", &text]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
        error: neither Parquet nor CSV by its name or content: file=DIR/c.txt
    "#]],
    );
}

/// The output goes to a file system of 64 KiB that only the command can see; where mounting is not
/// allowed, to files that may not grow beyond that. Either way a write fails in the middle.
#[test]
fn full_disk() {
    let directory = scratch();
    let text = make_text(&mut fastrand::Rng::with_seed(6), 4 << 20);
    let input = write(directory.path(), "a.txt", &text);
    let disk = path(&directory, "disk");
    std::fs::create_dir(&disk).expect("a directory can be made");
    let script = format!(
        "if [ \"$1\" = mount ]; then mount -t tmpfs -o size=64k tmpfs '{disk}'; \
         else trap '' XFSZ; ulimit -f 64; fi; \
         '{}' run wordcount --output '{disk}/out' --format csv '{input}'; \
         code=$?; ls -A '{disk}' >&2; exit $code",
        env!("CARGO_BIN_EXE_kiln")
    );
    let can_mount = ["-m", "-rm"].into_iter().find(|flags| {
        let mount = format!("mount -t tmpfs -o size=64k tmpfs '{disk}'");
        let tried = Command::new("unshare")
            .args([flags, "sh", "-c", &mount])
            .output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    let mut command = match can_mount {
        Some(flags) => {
            let mut command = Command::new("unshare");
            command.args([flags, "bash", "-c", &script, "bash", "mount"]);
            command
        }
        None => {
            let mut command = Command::new("bash");
            command.args(["-c", &script, "bash", "limit"]);
            command
        }
    };
    let said = Said::from(
        command
            .env_remove("KILN_DRIVER")
            .output()
            .expect("a shell starts"),
    );
    assert_eq!(said.code, Some(1), "{said:?}");
    // One line, and nothing of the output is left behind.
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{said:?}");
    assert!(
        lines[0].starts_with("error: ") && lines[0].contains(&disk),
        "{said:?}"
    );
    let reasons = ["No space left on device", "no space left", "File too large"];
    assert!(
        reasons.iter().any(|reason| lines[0].contains(reason)),
        "{said:?}"
    );
}

#[test]
fn a_failed_job_leaves_no_output() {
    let directory = scratch();
    write(directory.path(), "good.txt", b"fine\n");
    let bad = write(directory.path(), "bad.txt", b"\xff\xfe\n");
    let good = path(&directory, "good.txt");
    let output = path(&directory, "out");
    let said = run([
        "run",
        "wordcount",
        "--strict",
        "--output",
        &output,
        &good,
        &bad,
    ]);
    check(
        directory.path(),
        &said,
        1,
        &expect![[r#"
            error: text is not valid UTF-8 file=DIR/bad.txt offset=0
        "#]],
    );
    let mut left: Vec<_> = std::fs::read_dir(&directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["bad.txt", "good.txt"]);
    // And what was wrong can be put right.
    std::fs::write(&bad, b"fine\n").expect("a file can be written");
    run_ok([
        "run",
        "wordcount",
        "--strict",
        "--output",
        &output,
        &good,
        &bad,
    ]);
}

#[test]
fn errors_come_from_a_cluster_the_same() {
    let directory = scratch();
    let driver = crate::support::Driver::start(&[]);
    let _executor = driver.executor(1);
    let input = write(directory.path(), "bad.txt", b"fine\nnot \xff\n");
    let embedded = run(["run", "wordcount", "--strict", &input]);
    let mut command = kiln(["run", "wordcount", "--strict", &input]);
    command.env("KILN_DRIVER", &driver.url);
    let clustered = Said::from(command.output().expect("the command starts"));
    assert_eq!(
        (clustered.code, &clustered.stderr),
        (Some(1), &embedded.stderr)
    );
}
