//! What data frames do with columns and with one another, through the library.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::OnceLock;

use expect_test::{Expect, expect};
use kiln::arrow::datatypes::DataType;
use kiln::{DataFrame, JoinKind, Session, col, cols, display, sum};

pub(crate) fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| {
        let builder = Session::builder().threads(2).memory(256 << 20);
        builder.build().expect("a session in this process")
    })
}

/// Rows of CSV, through a file.
pub(crate) fn table(text: &str) -> DataFrame {
    let directory = format!("{}/frames", env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&directory).expect("a directory for tests");
    let file = tempfile::Builder::new()
        .suffix(".csv")
        .tempfile_in(&directory)
        .expect("a temporary file");
    std::fs::write(&file, text).expect("a temporary file can be written");
    // Named by what it holds, so that it may stay: no run makes more of them than the first.
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    let kept = format!("{directory}/{:016x}.csv", hash.finish());
    file.persist(&kept)
        .expect("a temporary file can be renamed");
    session().read_csv(kept).expect("the table is CSV")
}

pub(crate) fn check(frame: kiln::Result<DataFrame>, expected: &Expect) {
    let text = frame.and_then(|frame| {
        let sorted = frame.sort(
            frame
                .schema()
                .fields()
                .iter()
                .map(|field| col(field.name())),
        )?;
        display::table(frame.schema(), &sorted.collect()?)
    });
    expected.assert_eq(&text.unwrap_or_else(|error| format!("{}\n", error.report())));
}

fn people() -> DataFrame {
    table("id,name\n1,Ada\n2,Ben\n4,Dan\n")
}

fn scores() -> DataFrame {
    table("id,score\n2,20\n2,21\n3,30\n4,40\n")
}

#[test]
fn a_key_of_both_sides_comes_out_once() {
    let join = |kind| people().join(&scores(), kind, ["id"]);
    check(
        join(JoinKind::Inner),
        &expect![[r#"
        id  name  score
        ───────────────
         2  Ben      20
         2  Ben      21
         4  Dan      40
    "#]],
    );
    check(
        join(JoinKind::Left),
        &expect![[r#"
        id  name  score
        ───────────────
         1  Ada    null
         2  Ben      20
         2  Ben      21
         4  Dan      40
    "#]],
    );
    check(
        join(JoinKind::Right),
        &expect![[r#"
        id  name  score
        ───────────────
         2  Ben      20
         2  Ben      21
         3  null     30
         4  Dan      40
    "#]],
    );
    check(
        join(JoinKind::Full),
        &expect![[r#"
        id  name  score
        ───────────────
         1  Ada    null
         2  Ben      20
         2  Ben      21
         3  null     30
         4  Dan      40
    "#]],
    );
    check(
        join(JoinKind::Semi),
        &expect![[r#"
        id  name
        ────────
         2  Ben
         4  Dan
    "#]],
    );
    check(
        join(JoinKind::Anti),
        &expect![[r#"
        id  name
        ────────
         1  Ada
    "#]],
    );
}

#[test]
fn keys_of_two_names_and_conditions_leave_all_columns() {
    let others = scores().with_prefix("s_").expect("the names are new");
    check(
        people().join(&others, JoinKind::Inner, [("id", "s_id")]),
        &expect![[r#"
            id  name  s_id  s_score
            ───────────────────────
             2  Ben      2       20
             2  Ben      2       21
             4  Dan      4       40
        "#]],
    );
    let more = Some(col("s_score").gt(20));
    let on = [(col("id") + 1, col("s_id"))];
    check(
        people().join_on(&others, JoinKind::Left, on, more),
        &expect![[r#"
            id  name  s_id  s_score
            ───────────────────────
             1  Ada      2       21
             2  Ben      3       30
             4  Dan   null     null
        "#]],
    );
}

#[test]
fn a_single_value_stands_beside_every_row() {
    let joined = scores()
        .aggregate([sum(col("score")).alias("total")])
        .and_then(|total| scores().cross_join(&total));
    check(
        joined,
        &expect![[r#"
        id  score  total
        ────────────────
         2     20    111
         2     21    111
         3     30    111
         4     40    111
    "#]],
    );
}

#[test]
fn rows_unite_by_the_names_of_their_columns() {
    let turned = table("score,id\n50,5\n");
    check(
        scores().union(&turned),
        &expect![[r#"
        id  score
        ─────────
         2     20
         2     21
         3     30
         4     40
         5     50
    "#]],
    );
    check(
        scores().union(&people()),
        &expect![[r#"
        a union of inputs with different columns first="score" Int64 other="name" Utf8View
    "#]],
    );
}

#[test]
fn columns_come_and_go() {
    let wider =
        scores().with_columns([(col("score") * 2).alias("score"), col("score").alias("was")]);
    check(
        wider,
        &expect![[r#"
        id  score  was
        ──────────────
         2     40   20
         2     42   21
         3     60   30
         4     80   40
    "#]],
    );
    check(
        scores()
            .rename([("score", "points")])
            .and_then(|r| r.drop(["id"])),
        &expect![[r#"
            points
            ──────
                20
                21
                30
                40
        "#]],
    );
    check(
        scores().select(cols(["id"])).and_then(|ids| ids.distinct()),
        &expect![[r#"
            id
            ──
             2
             3
             4
        "#]],
    );
    let slice = scores()
        .sort([col("score")])
        .and_then(|sorted| sorted.slice(1, 2));
    check(
        slice,
        &expect![[r#"
        id  score
        ─────────
         2     21
         3     30
    "#]],
    );
    let rest = scores()
        .sort([col("score")])
        .and_then(|sorted| sorted.offset(3));
    check(
        rest,
        &expect![[r#"
        id  score
        ─────────
         4     40
    "#]],
    );
}

#[test]
fn mistakes_are_told_where_they_are_made() {
    let clash = table("id,name\n1,x\n");
    check(
        people().join(&clash, JoinKind::Inner, ["id"]),
        &expect![[r#"
        both sides of a join have columns of these names: give those of one side others with rename or with_prefix, or drop them names=["name"]
    "#]],
    );
    check(
        people().join(&scores(), JoinKind::Inner, ["nam"]),
        &expect![[r#"
            unknown column "nam": did you mean "name"? columns=id, name
        "#]],
    );
    check(
        people().join(&scores(), JoinKind::Inner, [("id", "scor")]),
        &expect![[r#"
            unknown column "scor": did you mean "score"? columns=id, score
        "#]],
    );
    check(
        people().semi_join(&scores(), [("name", "score")]),
        &expect![[r#"
            name = `score:right`: a join does not compare these types left=Utf8View right=Int64
        "#]],
    );
    check(
        people().join::<&str>(&scores(), JoinKind::Inner, []),
        &expect![[r#"
            a join needs at least one key: cross_join has none
        "#]],
    );
    check(
        people().drop(["id", "name"]),
        &expect![[r#"
        no column is left
    "#]],
    );
    check(
        people().drop(["nme"]),
        &expect![[r#"
        unknown column "nme": did you mean "name"? columns=id, name
    "#]],
    );
    check(
        people().rename([("id", "name")]),
        &expect![[r#"
        two columns have the same name: give one another with alias name="name"
    "#]],
    );
    let stranger = Session::local().expect("a second session");
    let elsewhere = stranger
        .read_csv("examples/data/sales.csv")
        .expect("a table");
    check(
        people().cross_join(&elsewhere),
        &expect![[r#"
        the data frames belong to different sessions
    "#]],
    );
}

#[test]
fn a_table_may_grow_columns_and_wider_numbers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, frame: kiln::Result<DataFrame>| {
        let url = directory.path().join(name).display().to_string();
        let written = frame.and_then(|frame| frame.write_parquet(&url));
        written.expect("the table is written");
        url
    };
    let narrow = col("id").cast(DataType::Int16);
    let old = write("old", people().with_column("id", narrow));
    let new = write("new", people().join(&scores(), JoinKind::Inner, ["id"]));
    check(
        session().read_parquet([&old, &new]),
        &expect![[r#"
        id  name  score
        ───────────────
         1  Ada    null
         2  Ben      20
         2  Ben      21
         2  Ben    null
         4  Dan      40
         4  Dan    null
    "#]],
    );
    let text = people().with_column("id", kiln::lit("x"));
    let other = write("other", text);
    let refused = session().read_parquet([&old, &other]).map(|_| ());
    let refused = refused.expect_err("the files are not one table").report();
    let place = directory.path().display().to_string();
    expect![[r#"the files are not one table: column "id" is Int16 in file:///old/part-00000.parquet and Utf8View in file:///other/part-00000.parquet"#]].assert_eq(&refused.replace(&place, ""));
}

/// The rows of each file of a CSV output, in the order of names.
fn files_of(output: &Path) -> Vec<Vec<(i64, i64)>> {
    let entries = std::fs::read_dir(output).expect("an output");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    let number = |text: &str| text.parse::<i64>().expect("a number");
    let row = |line: &str| {
        let (key, value) = line.split_once(',').expect("two columns");
        (number(key), number(value))
    };
    let rows = |path| {
        let text = std::fs::read_to_string(path).expect("a file");
        text.lines().skip(1).map(row).collect()
    };
    paths.into_iter().map(rows).collect()
}

#[test]
fn rows_are_dealt_out_by_their_values_and_in_order_where_they_are() {
    let mut rows: Vec<(i64, i64)> = (0..1000)
        .map(|n| (n * 7_919 % 50, n * 104_729 % 1_000))
        .collect();
    let lines: String = rows.iter().map(|(k, v)| format!("{k},{v}\n")).collect();
    let table = table(&format!("key,value\n{lines}"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, frame: kiln::Result<DataFrame>| {
        let place = directory.path().join(name);
        let written = frame.and_then(|frame| frame.write_csv(&place.display().to_string()));
        written.expect("the rows are written");
        files_of(&place)
    };
    let order = [col("value").desc(), col("key").asc()];
    let by_key = table
        .repartition_by(4, ["key"])
        .and_then(|frame| frame.sort_within_partitions(order));
    let by_key = write("by_key", by_key);
    assert_eq!(by_key.len(), 4, "a task has no rows or several files");
    let keys: Vec<BTreeSet<i64>> = by_key
        .iter()
        .map(|file| file.iter().map(|(key, _)| *key).collect())
        .collect();
    let apart: usize = keys.iter().map(BTreeSet::len).sum();
    assert_eq!(apart, 50, "a key is in several tasks");
    let place = |(key, value): &(i64, i64)| (Reverse(*value), *key);
    assert!(by_key.iter().all(|file| file.is_sorted_by_key(place)));
    let order = [col("value").asc()];
    let by_rows = table
        .repartition(3)
        .and_then(|frame| frame.sort_within_partitions(order));
    let by_rows = write("by_rows", by_rows);
    assert_eq!(by_rows.len(), 3, "a task has no rows or several files");
    rows.sort_unstable();
    for files in [by_key, by_rows] {
        let mut written = files.concat();
        written.sort_unstable();
        assert_eq!(written, rows);
    }
}

#[test]
fn rows_cannot_be_dealt_out_to_nobody_nor_by_what_is_not_there() {
    check(
        people().repartition(0),
        &expect![[r#"
        rows cannot be dealt out to so many tasks partitions=0 least=1 most=4096
    "#]],
    );
    check(
        people().repartition(5_000),
        &expect![[r#"
        rows cannot be dealt out to so many tasks partitions=5000 least=1 most=4096
    "#]],
    );
    check(
        people().repartition_by(2, ["nme"]),
        &expect![[r#"
        unknown column "nme": did you mean "name"? columns=id, name
    "#]],
    );
    check(
        people().sort_within_partitions([] as [kiln::Expr; 0]),
        &expect![[r#"
            an order needs at least one key
        "#]],
    );
    check(
        people().repartition(7),
        &expect![[r#"
        id  name
        ────────
         1  Ada
         2  Ben
         4  Dan
    "#]],
    );
}

#[test]
fn a_column_of_texts_is_written_as_lines() {
    let names = people().select([col("name")]);
    let directory = tempfile::tempdir().expect("a directory");
    let url = directory.path().join("names");
    let written = names.and_then(|names| names.write_text(&url.display().to_string()));
    assert_eq!(written.expect("one column").rows, 3);
    let lines = session().read_text(url.display().to_string());
    check(
        lines.and_then(|lines| lines.select([col("line")])),
        &expect![[r#"
            line
            ────
            Ada
            Ben
            Dan
        "#]],
    );
    check(
        people().written_to("names", kiln::FileFormat::Text),
        &expect![[r#"
            lines of text are made of one column of texts: select it, or write Parquet, CSV or JSON columns=id Int64, name Utf8View
        "#]],
    );
}
