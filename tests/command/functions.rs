//! Functions of users' programs, in data frames.

use std::sync::Arc;

use expect_test::expect;
use kiln::arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, StringViewArray};
use kiln::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use kiln::{
    AggregateFunction, Aggregator, DataFrame, Emitter, ErrorKind, Packed, ScalarFunction,
    TableFunction, col, count_all,
};
use serde::{Deserialize, Serialize};

use crate::frames::{check, table};

fn people() -> DataFrame {
    table("name,age,weight\nada,36,1.5\nben,,0.5\ncy,7,2\n,50,1\n")
}

#[test]
fn scalar_functions_take_and_give_values() {
    let shout = ScalarFunction::new("shout", |name: &str| name.to_uppercase());
    let add = ScalarFunction::new("add", |a: i64, b: i64| a + b);
    let greet = ScalarFunction::new("greet", |name: Option<&str>, age: Option<i64>| {
        let age = age?;
        Some(format!("{} is {age}", name.unwrap_or("somebody")))
    });
    let selected = people().select([
        shout.call([col("name")]).alias("shout"),
        add.call([col("age"), col("age") + 1]).alias("add"),
        greet.call([col("name"), col("age")]).alias("greet"),
    ]);
    check(
        selected,
        &expect![[r#"
            shout   add  greet
            ───────────────────────────
            ADA      73  ada is 36
            BEN    null  null
            CY       15  cy is 7
            null    101  somebody is 50
        "#]],
    );
}

#[test]
fn functions_of_arrays_see_whole_columns() {
    let double = ScalarFunction::of_arrays(
        "double",
        [DataType::Int64],
        DataType::Int64,
        |columns: &[ArrayRef]| {
            let values = columns[0].as_primitive::<Int64Type>();
            let doubled: Int64Array = values.unary(|value| value * 2);
            Ok(Arc::new(doubled) as ArrayRef)
        },
    );
    let selected = people()
        .filter(double.call([col("age")]).gt(20))
        .and_then(|frame| frame.select([double.call([col("age")]).alias("double")]));
    check(
        selected,
        &expect![[r#"
            double
            ──────
                72
               100
        "#]],
    );
}

#[test]
fn one_row_becomes_many() {
    let letters = TableFunction::flat_map(
        "letters",
        ["letter", "place"],
        |name: &str, out: &mut Emitter<(String, i64)>| {
            for (place, letter) in name.char_indices() {
                out.emit((letter.encode_utf8(&mut [0; 4]), place as i64));
            }
        },
    )
    .expect("two names for two columns");
    let counted = people()
        .flat_map(&letters, [col("name")])
        .and_then(|frame| {
            frame
                .group_by([col("letter")])
                .aggregate([count_all().alias("n")])
        });
    check(
        counted,
        &expect![[r#"
            letter  n
            ─────────
            a       2
            b       1
            c       1
            d       1
            e       1
            n       1
            y       1
        "#]],
    );
}

#[test]
fn batches_become_batches() {
    let schema = Arc::new(Schema::new(vec![Field::new(
        "rows",
        DataType::Int64,
        false,
    )]));
    let made = Arc::clone(&schema);
    let sizes = TableFunction::map_batches("sizes", schema, move |batch: &RecordBatch| {
        let rows = Int64Array::from(vec![batch.num_rows() as i64]);
        Ok(RecordBatch::try_new(
            Arc::clone(&made),
            vec![Arc::new(rows)],
        )?)
    });
    let sum = people()
        .map_batches(&sizes)
        .and_then(|frame| frame.aggregate([kiln::sum(col("rows")).alias("rows")]));
    check(
        sum,
        &expect![[r#"
            rows
            ────
               4
        "#]],
    );
}

/// What is kept of a mean.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Mean {
    sum: f64,
    weight: f64,
}

struct WeightedMean;

impl Aggregator for WeightedMean {
    type Input = (i64, f64);
    type State = Packed<Mean>;
    type Output = Option<f64>;

    fn init(&self) -> Packed<Mean> {
        Packed(Mean::default())
    }

    fn update(&self, Packed(mean): &mut Packed<Mean>, (value, weight): (i64, f64)) {
        mean.sum += value as f64 * weight;
        mean.weight += weight;
    }

    fn merge(&self, Packed(mean): &mut Packed<Mean>, Packed(other): Packed<Mean>) {
        mean.sum += other.sum;
        mean.weight += other.weight;
    }

    fn finish(&self, Packed(mean): &Packed<Mean>) -> Option<f64> {
        (mean.weight > 0.0).then(|| mean.sum / mean.weight)
    }
}

#[test]
fn aggregate_functions_stand_beside_built_in_ones() {
    let mean = AggregateFunction::new("weighted_mean", WeightedMean);
    let grouped = people()
        .group_by([col("age").is_null().alias("unknown")])
        .aggregate([
            mean.call([col("age"), col("weight")]).alias("mean"),
            count_all().alias("n"),
            mean.call([col("age"), col("weight")])
                .filter(col("age").gt(10))
                .alias("of_adults"),
        ]);
    check(
        grouped,
        &expect![[r#"
        unknown               mean  n  of_adults
        ────────────────────────────────────────
        false    26.22222222222222  3       41.6
        true                  null  1       null
    "#]],
    );
}

#[test]
fn what_functions_do_wrong_names_them() {
    let told = |frame: kiln::Result<DataFrame>| {
        let error = frame
            .and_then(|frame| frame.collect())
            .expect_err("the function goes wrong");
        // A file of this machine is named last.
        let report = error.report();
        let said = report.split(" input=").next().unwrap_or_default();
        format!(
            "{}: {}\n",
            error.kind(),
            said.split_once(": ").map_or(said, |(_, said)| said)
        )
    };
    let one = |function: &ScalarFunction| people().select([function.call([col("age")]).alias("x")]);
    let of_arrays = |made: fn() -> ArrayRef| {
        ScalarFunction::of_arrays("made", [DataType::Int64], DataType::Int64, move |_| {
            Ok(made())
        })
    };
    let mut texts = String::new();
    let panics = ScalarFunction::new("panics", |age: i64| -> i64 {
        assert!(age < 40, "nobody is that old: {age}");
        age
    });
    texts += &told(one(&panics));
    let fails = ScalarFunction::new("fails", |_: i64| -> kiln::Result<i64> {
        Err(kiln::Error::invalid("no such thing"))
    });
    texts += &told(one(&fails));
    texts += &told(one(&of_arrays(|| Arc::new(Int64Array::from(vec![1])))));
    texts += &told(one(&of_arrays(|| {
        Arc::new(StringViewArray::from(vec!["a"; 4]))
    })));
    expect![[r#"
        program: function "panics" panicked: nobody is that old: 50
        invalid: no such thing
        program: function "made" returned 1 values for 4 rows
        program: function "made" returned another type than announced expected=Int64 found=Utf8View
    "#]]
    .assert_eq(&texts);
}

#[test]
fn calls_are_checked_where_they_are_written() {
    let add = ScalarFunction::new("add", |a: i64, b: i64| a + b);
    let told = |frame: kiln::Result<DataFrame>| {
        let error = frame.map(|_| ()).expect_err("the call does not fit");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        format!("{}\n", error.report())
    };
    let mut texts = told(people().select([add.call([col("age")])]));
    texts += &told(people().select([add.call([col("age"), col("name")])]));
    texts += &told(people().select([add.call([col("age"), col("aeg")])]));
    let mean = AggregateFunction::new("mean", WeightedMean);
    texts += &told(people().aggregate([mean.call([col("age")])]));
    let names = TableFunction::flat_map("f", ["a"], |_: &str, _: &mut Emitter<(i64, i64)>| {});
    texts += &format!(
        "{}\n",
        names.expect_err("one name for two columns").report()
    );
    expect![[r#"
        add(age): wrong number of arguments expected=2 found=1
        add(age, name): an argument has another type expected=Int64 found=Utf8View
        unknown column "aeg": did you mean "age"? columns=name, age, weight
        mean(age): wrong number of arguments expected=2 found=1
        function "f": as many names as columns are needed names=1 columns=2
    "#]]
    .assert_eq(&texts);
}
