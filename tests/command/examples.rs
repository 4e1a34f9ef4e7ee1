//! The examples, as users run them: their binaries, on the small data beside them.

use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};
use kiln_testkit::cargo;

use crate::support::{Driver, Said};

/// An argument that stands for an empty directory, another one each time.
const FRESH: &str = "FRESH";

/// Runs an example among its data.
fn said(name: &str, args: &[&str]) -> Said {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let fresh = directory.path().display().to_string();
    let args = args.iter().map(|arg| match *arg {
        FRESH => fresh.as_str(),
        arg => arg,
    });
    let mut command = Command::new(cargo::example(name));
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    command.args(args).current_dir(data).stdin(Stdio::null());
    for name in ["KILN_DRIVER", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    let output = command.output();
    output.expect("`cargo build --examples` has made it").into()
}

/// Runs an example in its own process and on a cluster, and compares what it prints.
fn check(name: &str, args: &[&str], expected: &Expect) {
    let here = said(name, args);
    assert_eq!(here.code, Some(0), "{name}: {here:?}");
    expected.assert_eq(&here.stdout);
    let driver = Driver::start(&["--allow-programs"]);
    let _executors = (driver.executor(1), driver.executor(1));
    let driver = ["--driver", &driver.url];
    let there = said(name, &[args, &driver].concat());
    assert_eq!(there.code, Some(0), "{name}: {there:?}");
    assert_eq!(there.stdout, here.stdout);
}

#[test]
fn my_job() {
    check(
        "my_job",
        &["rhyme.txt"],
        &expect![[r#"
        word     count
        ──────────────
        the          6
        is           4
        clay         2
        hot          2
        kiln         2
        potter       2
        another      1
        dry          1
        fired        1
        fires        1
    "#]],
    );
}

#[test]
fn inverted_index() {
    let args = ["rhyme.txt", "orders.csv", "sales.csv", "--prefix", "k"];
    check(
        "inverted_index",
        &args,
        &expect![[r#"
        word    files
        ────────────────────────────────
        kettle  sales.csv:3
        kiln    orders.csv:1 rhyme.txt:2
    "#]],
    );
}

#[test]
fn sessions() {
    check(
        "sessions",
        &["clicks.csv"],
        &expect![[r#"
        user  visit  clicks  seconds  from     to
        ─────────────────────────────────────────────
        ada       1       3      600  /        /cart
        ada       2       2     1740  /orders  /
        ben       1       1        0  /        /
        ben       2       1        0  /lamps   /lamps
        ben       3       1        0  /        /
        cy        1       2      120  /lamps   /cart
    "#]],
    );
}

#[test]
fn page_rank() {
    check(
        "page_rank",
        &["links.csv", "--work", FRESH],
        &expect![[r#"
        page    rank
        ────────────
        home    1.83
        shop   1.733
        cart   0.887
        news   0.732
        about  0.668
        blog    0.15
    "#]],
    );
}

#[test]
fn trend() {
    let columns = ["--by", "region", "--x", "price", "--y", "units"];
    let args = [&["sales.csv"], &columns[..]].concat();
    check(
        "trend",
        &args,
        &expect![[r#"
        region  rows   slope
        ────────────────────
        east       1    null
        north      2   0.062
        south      3  -0.092
        west       2   0.013
    "#]],
    );
}

#[test]
fn fuzzy_join() {
    let args = ["--customers", "customers.csv", "--orders", "orders.csv"];
    check(
        "fuzzy_join",
        &args,
        &expect![[r#"
        item    name      sound  customer  city
        ──────────────────────────────────────────
        clay    Maier     M600   Meyer     Ulm
        glaze   Mayr      M600   Meyer     Ulm
        kiln    Ashcroft  A261   Ashcraft  Bath
        lamp    Timczak   T522   Tymczak   Lodz
        shelf   Jaxon     J250   Jackson   York
        sponge  Pfister   P236   null      null
        wheel   Loyd      L300   Lloyd     Cardiff
    "#]],
    );
}

#[test]
fn examples_say_what_they_want() {
    let said = said("page_rank", &["links.csv"]);
    assert_eq!(said.code, Some(2));
    expect![[r#"
        error: the following required arguments were not provided:
          --work <URL>

        Usage: page_rank --work <URL> <INPUT>...

        For more information, try '--help'.
    "#]]
    .assert_eq(&said.stderr);
}
