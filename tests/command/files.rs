//! Looking at files: `kiln head`, `kiln schema`, `kiln stats`.

use std::io::Write as _;

use expect_test::{Expect, expect};

use crate::support::{run, run_ok, write};

fn check(args: &[&str], expected: &Expect) {
    expected.assert_eq(&run_ok(args));
}

const SALES: &str = "examples/data/sales.csv";

#[test]
fn the_first_rows_of_a_table_are_shown() {
    check(
        &["head", SALES, "-n", "2"],
        &expect![[r#"
        day         region  product  units  price
        ─────────────────────────────────────────
        2026-01-02  north   kettle       3   24.5
        2026-01-02  south   lamp        10   8.25
    "#]],
    );
    check(
        &["head", SALES, "-n", "1", "--json"],
        &expect![[r#"
        {"day":"2026-01-02","region":"north","product":"kettle","units":3,"price":24.5}
    "#]],
    );
}

#[test]
fn the_first_lines_of_anything_else_are_shown() {
    check(
        &["head", "examples/data/rhyme.txt", "-n", "2"],
        &expect![[r#"
        line
        ─────────────────────────────────
        The kiln is hot, the clay is wet,
        the potter has not fired it yet.
    "#]],
    );
}

#[test]
fn the_columns_of_files_are_shown() {
    check(
        &["schema", SALES],
        &expect![[r#"
        column   type      nulls
        ──────────────────────────────
        day      Date32    may be null
        region   Utf8View  may be null
        product  Utf8View  may be null
        units    Int64     may be null
        price    Float64   may be null
    "#]],
    );
    check(
        &["schema", SALES, "--json"],
        &expect![[r#"
        {"name":"day","nullable":true,"type":"Date32"}
        {"name":"region","nullable":true,"type":"Utf8View"}
        {"name":"product","nullable":true,"type":"Utf8View"}
        {"name":"units","nullable":true,"type":"Int64"}
        {"name":"price","nullable":true,"type":"Float64"}
    "#]],
    );
}

#[test]
fn what_a_footer_says_is_shown() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = directory.path().join("counts").display().to_string();
    run_ok([
        "run",
        "count",
        "--by",
        "region",
        SALES,
        "--threads",
        "1",
        "--output",
        &output,
    ]);
    let text = run_ok(["stats", &output]);
    let text = text.replace(&directory.path().display().to_string(), "");
    // The file's size hangs on details of its footer.
    let (name, rest) = text.split_once(", ").expect("a file has a name");
    let (_, rest) = rest.split_once(", ").expect("a file has a size");
    let text = format!("{name}, {rest}");
    expect![[r#"
        /counts/part-00000.parquet: Parquet, 4 rows in 1 row group
        column  type      encodings                 codec  stored  encoded  nulls  least  greatest
        ──────────────────────────────────────────────────────────────────────────────────────────
        region  Utf8View  PLAIN RLE RLE_DICTIONARY  zstd     93 B     75 B      0  east   west
        count   Int64     PLAIN RLE RLE_DICTIONARY  zstd     73 B     59 B      0  1      3
    "#]]
    .assert_eq(&text);
    check(
        &["stats", SALES],
        &expect![[r#"
        examples/data/sales.csv: CSV, 275 B
        column   type
        ─────────────────
        day      Date32
        region   Utf8View
        product  Utf8View
        units    Int64
        price    Float64
    "#]],
    );
}

#[test]
fn compressed_csv_is_a_table_like_others() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let sales = std::fs::read(SALES).expect("the example is there");
    gzip.write_all(&sales).expect("memory takes it");
    let bytes = gzip.finish().expect("memory takes it");
    let compressed = write(directory.path(), "sales.csv.gz", &bytes);
    for args in [
        &["head"][..],
        &["schema"],
        &["run", "count", "--by", "region"],
    ] {
        let of = |file: &str| run_ok([args, &[file]].concat());
        assert_eq!(of(&compressed), of(SALES), "{args:?}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_an_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let broken = write(directory.path(), "broken.parquet", b"PAR1 and nothing else");
    for command in ["head", "schema", "stats"] {
        let said = run([command]);
        assert_eq!(said.code, Some(2), "{said:?}");
        let said = run([command, "/nowhere/at/all.parquet"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("/nowhere/at/all.parquet"), "{said:?}");
        let said = run([command, &broken]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("broken.parquet"), "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    }
    let said = run(["head", SALES, "-n", "0"]);
    assert_eq!(said.code, Some(2), "{said:?}");
}
