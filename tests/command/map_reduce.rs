//! MapReduce jobs with Rust types, in this process.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::ParseIntError;

use expect_test::expect;
use fastrand::Rng;
use kiln::arrow::array::AsArray as _;
use kiln::arrow::datatypes::{DataType, Int64Type};
use kiln::{App, DataFrame, Emitter, FileFormat, Packed, Pairs, ScalarFunction, Values, col};
use serde::{Deserialize, Serialize};

use crate::frames::{check, session, table};

/// Who bought what, when, for how much.
fn sales() -> DataFrame {
    table(
        "who,what,day,price\nada,tea,3,5\nben,tea,1,4\nada,rum,1,20\ncy,tea,2,5\nada,tea,2,6\n\
         ben,gin,9,30\n",
    )
}

fn chosen<const N: usize>(columns: [&str; N]) -> DataFrame {
    sales().select(columns.map(col)).expect("columns of sales")
}

#[test]
fn words_are_counted_by_a_job_of_an_app() {
    let mut app = App::new("words");
    let count = app
        .map_reduce("count")
        .map(|line: &str, out: &mut Pairs<String, i64>| {
            for word in line.split(['a', 'e']) {
                out.emit(word, 1);
            }
        })
        .combine(|a, b| a + b)
        .reduce(
            |word: &str, counts: &mut Values<i64>, out: &mut Emitter<(String, i64)>| {
                out.emit((word, counts.sum()));
            },
        )
        .columns(["word", "count"]);
    let counted = count.run_on(chosen(["what"]));
    let plan = counted
        .as_ref()
        .map_err(|error| error.report())
        .and_then(|frame| frame.explain().map_err(|error| error.report()));
    let plan = plan.expect("a plan");
    let (_, optimised) = plan.split_once("optimised").unwrap_or(("", &plan));
    let steps = optimised.lines().map(str::trim).filter(|line| {
        ["apply", "reduce", "aggregate"]
            .iter()
            .any(|step| line.starts_with(step))
    });
    expect![[r#"
        apply count.reduce
        aggregate by key: count.combine(value) AS value
        apply count.map
        apply count.map
        aggregate single by key: count.combine(value) AS value
        apply count.reduce
    "#]]
    .assert_eq(&steps.fold(String::new(), |text, step| text + step + "\n"));
    check(
        counted,
        &expect![[r#"
        word  count
        ───────────
                  8
        gin       1
        rum       1
        t         4
    "#]],
    );
}

#[test]
fn without_combining_values_are_a_stream() {
    let names = session()
        .map_reduce("names")
        .input(chosen(["what", "who"]))
        .map(|what: &str, who: &str, out: &mut Pairs<String, String>| out.emit(what, who))
        .reduce(|what, who, out: &mut Emitter<(String, i64, i64)>| {
            let (mut names, mut letters) = (0, 0);
            while let Some(name) = who.next() {
                names += 1;
                letters += name.len() as i64;
            }
            out.emit((what, names, letters));
        })
        .columns(["what", "names", "letters"]);
    check(
        names.frame(),
        &expect![[r#"
        what  names  letters
        ────────────────────
        gin       1        3
        rum       1        3
        tea       4       11
    "#]],
    );
}

#[test]
fn values_come_in_the_order_that_was_asked_for() {
    let told = |descending: bool| {
        let job = session()
            .map_reduce("story")
            .input(chosen(["who", "day", "what"]))
            .map(
                |who: &str, day: i64, what: &str, out: &mut Pairs<String, (i64, String)>| {
                    out.emit(who, (day, what));
                },
            );
        let job = match descending {
            true => job.sort_values_by(|(day, _)| Reverse(day)),
            false => job
                .sort_values_by(|(_, what): (i64, &str)| what.to_owned())
                .sort_values_by(|(day, _)| day),
        };
        job.reduce(|who, days, out: &mut Emitter<(String, String)>| {
            let told: Vec<String> = days
                .iter()
                .map(|(day, what)| format!("{day}{what}"))
                .collect();
            out.emit((who, &told.join(" ")));
        })
        .columns(["who", "story"])
        .frame()
    };
    check(
        told(true),
        &expect![[r#"
        who  story
        ───────────────────
        ada  3tea 2tea 1rum
        ben  9gin 1tea
        cy   2tea
    "#]],
    );
    check(
        told(false),
        &expect![[r#"
        who  story
        ───────────────────
        ada  1rum 2tea 3tea
        ben  9gin 1tea
        cy   2tea
    "#]],
    );
}

/// A value of a type of one's own.
#[derive(Clone, Serialize, Deserialize)]
struct Basket {
    things: Vec<String>,
    price: i64,
}

#[test]
fn keys_and_values_are_of_many_types() {
    let baskets = session()
        .map_reduce("baskets")
        .input(chosen(["who", "what", "price"]))
        .map(
            |who: Option<&str>,
             what: &str,
             price: i64,
             out: &mut Pairs<(Option<String>, bool), Packed<Basket>>| {
                let who = who.filter(|who| *who != "cy");
                let things = vec![what.to_owned()];
                out.emit((who, price > 5), Basket { things, price });
            },
        )
        .combine(|Packed(mut a), Packed(mut b)| {
            a.things.append(&mut b.things);
            a.things.sort();
            a.price += b.price;
            Packed(a)
        })
        .reduce(
            |(who, dear), baskets, out: &mut Emitter<(Option<String>, bool, String, f64)>| {
                for Packed(basket) in baskets.iter() {
                    out.emit((who, dear, &basket.things.join("+"), basket.price as f64));
                }
            },
        )
        .columns(["who", "dear", "things", "price"]);
    check(
        baskets.frame(),
        &expect![[r#"
        who   dear   things   price
        ───────────────────────────
        ada   false  tea        5.0
        ada   true   rum+tea   26.0
        ben   false  tea        4.0
        ben   true   gin       30.0
        null  false  tea        5.0
    "#]],
    );
}

#[test]
fn keys_of_a_partition_are_reduced_in_order_by_one_task() {
    let rows: String = (0..500).fold("n\n".to_owned(), |text, n| {
        format!("{text}{}\n", n * 7 % 500)
    });
    let numbers = table(&rows);
    let job = |combined: bool| {
        let job = session()
            .map_reduce("numbers")
            .input(&numbers)
            .map(|n: i64, out: &mut Pairs<(i64, i64), i64>| out.emit((n % 10, n / 100), n));
        let job = match combined {
            true => job.combine(|a, b| a + b),
            false => job,
        };
        job.partition_by(|(last, _)| last as u64 / 2)
            .reduce(
                |(last, hundreds), values, out: &mut Emitter<(i64, i64, i64)>| {
                    out.emit((last, hundreds, values.sum()));
                },
            )
            .columns(["last", "hundreds", "sum"])
            .frame()
            .and_then(|frame| frame.collect())
            .expect("rows")
    };
    let expected = (0..500).fold(BTreeMap::new(), |mut sums, n: i64| {
        *sums.entry((n % 10, n / 100)).or_insert(0) += n;
        sums
    });
    for combined in [false, true] {
        let mut found: Vec<(i64, i64, i64)> = Vec::new();
        for batch in job(combined) {
            let [a, b, c] =
                [0, 1, 2].map(|column| batch.column(column).as_primitive::<Int64Type>());
            let rows = a.values().iter().zip(b.values()).zip(c.values());
            found.extend(rows.map(|((a, b), c)| (*a, *b, *c)));
        }
        // Keys of a partition stand together, in order; the order of partitions is any.
        let of = |row: &(i64, i64, i64)| row.0 / 2;
        let partitions: Vec<_> = found.chunk_by(|a, b| of(a) == of(b)).collect();
        assert_eq!(partitions.len(), 5, "combined={combined} {found:?}");
        for partition in partitions {
            assert!(partition.is_sorted(), "combined={combined} {partition:?}");
        }
        let sums: BTreeMap<_, _> = found.iter().map(|(a, b, c)| ((*a, *b), *c)).collect();
        assert_eq!(sums, expected, "combined={combined}");
        assert_eq!(found.len(), expected.len());
    }
}

#[test]
fn a_job_equals_plain_code_whatever_its_form() {
    let seed = fastrand::u64(..);
    let mut random = Rng::with_seed(seed);
    let rows: Vec<(i64, i64)> = (0..20_000)
        .map(|_| (random.i64(0..3).pow(random.u32(0..9)), random.i64(..) >> 32))
        .collect();
    let text = rows
        .iter()
        .fold("key,value\n".to_owned(), |text, (key, value)| {
            text + &format!("{key},{value}\n")
        });
    let mut sums = BTreeMap::new();
    for (key, value) in &rows {
        *sums.entry(*key).or_insert(0) += value;
    }
    let expected: Vec<(i64, i64)> = sums.into_iter().collect();
    let input = table(&text);
    for form in 0..4 {
        let job = session()
            .map_reduce("sums")
            .input(&input)
            .map(|key: i64, value: i64, out: &mut Pairs<i64, i64>| out.emit(key, value));
        let job = match form {
            0 => job.combine(|a, b| a + b),
            1 => job.sort_values_by(|value| value),
            2 => job.partition_by(|key| key as u64 % 2),
            _ => job,
        };
        let sums = job
            .reduce(|key, values, out: &mut Emitter<(i64, i64)>| out.emit((key, values.sum())))
            .columns(["key", "sum"])
            .frame()
            .and_then(|frame| frame.sort([col("key")]))
            .and_then(|frame| frame.collect())
            .unwrap_or_else(|error| panic!("seed={seed} form={form} {}", error.report()));
        let found: Vec<(i64, i64)> = sums
            .iter()
            .flat_map(|batch| {
                let [keys, sums] = [0, 1].map(|at| batch.column(at).as_primitive::<Int64Type>());
                let rows = keys.values().iter().zip(sums.values());
                rows.map(|(key, sum)| (*key, *sum)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(found, expected, "seed={seed} form={form}");
    }
}

#[test]
fn what_goes_wrong_in_a_job_is_said() {
    let job = || {
        let job = session().map_reduce("count");
        job.input(chosen(["what"]))
    };
    let told = |frame: kiln::Result<DataFrame>| {
        let error = frame.and_then(|frame| frame.collect());
        let report = error.expect_err("the job goes wrong").report();
        // A file of this machine is named in between or last.
        let report = match (report.find(" failed on "), report.find(".csv: ")) {
            (Some(from), Some(to)) => report[..from].to_owned() + &report[to + ".csv".len()..],
            _ => report,
        };
        let (said, _) = report.split_once(" input=").unwrap_or((&report, ""));
        let said = said
            .split_once(": function")
            .map_or(said.to_owned(), |(_, said)| format!("function{said}"));
        format!("{said}\n")
    };
    let mut texts = told(
        job()
            .map(|what: &str, _: &mut Pairs<String, i64>| match what {
                "gin" => Err(format!("no {what} here")),
                _ => Ok(()),
            })
            .reduce(|_, _, _: &mut Emitter<i64>| {})
            .columns(["n"])
            .frame(),
    );
    texts += &told(
        job()
            .map(|what: &str, out: &mut Pairs<String, i64>| out.emit(what, 1))
            .combine(|a, b| {
                if a + b > 3 {
                    panic!("more than three")
                } else {
                    a + b
                }
            })
            .reduce(|_, _, _: &mut Emitter<i64>| {})
            .columns(["n"])
            .frame(),
    );
    texts += &told(
        job()
            .map(|what: &str, out: &mut Pairs<String, i64>| out.emit(what, 1))
            .reduce(|what, _, _: &mut Emitter<i64>| match what {
                "tea" => Err("tea is not reduced"),
                _ => Ok(()),
            })
            .columns(["n"])
            .frame(),
    );
    texts += &told(
        job()
            .map(|_: &str, _: &str, _: &mut Pairs<String, i64>| {})
            .reduce(|_, _, _: &mut Emitter<i64>| {})
            .columns(["n"])
            .frame(),
    );
    texts += &told(
        job()
            .map(|_: i64, _: &mut Pairs<String, i64>| {})
            .reduce(|_, _, _: &mut Emitter<(i64, i64)>| {})
            .columns(["n", "n"])
            .frame(),
    );
    expect![[r#"
        function "count.map": no gin here
        function "count.combine" panicked: more than three
        function "count.reduce": tea is not reduced
        function "count.map": the input has other columns than it takes: select them first expected=2 found=1 columns=what
        function "count.map": an argument has another type argument=what expected=Int64 found=Utf8View
    "#]].assert_eq(&texts);
}

/// Prices of sales, of which gin has none that is a number.
fn prices() -> DataFrame {
    let rows = sales().select([
        col("what"),
        col("price").cast(DataType::Utf8View).alias("price"),
    ]);
    let odd = table("what,price\ngin,many\ngin,9\n");
    rows.and_then(|rows| rows.union(&odd))
        .expect("columns of the same types")
}

#[test]
fn bad_records_are_skipped_up_to_a_limit() {
    let mut app = App::new("prices");
    let mut job = |name: &str, max: u64| {
        app.map_reduce(name)
            .map(
                |what: &str,
                 price: &str,
                 out: &mut Pairs<String, i64>|
                 -> Result<(), ParseIntError> {
                    out.count("records", 1);
                    // Taken back where it is followed by a failure.
                    out.emit("all", 1);
                    assert!(price != "20", "nothing costs that much");
                    out.emit(what, price.parse()?);
                    Ok(())
                },
            )
            .skip_bad(max)
            .combine(|a, b| a + b)
            .reduce(|what, prices, out: &mut Emitter<(String, i64)>| {
                out.emit((what, prices.sum()));
            })
            .columns(["what", "price"])
    };
    let two = job("two", 2);
    check(
        two.run_on(prices()),
        &expect![[r#"
        what  price
        ───────────
        all       6
        gin      39
        tea      20
    "#]],
    );
    check(
        two.bad_records(prices()),
        &expect![[r#"
        record     error
        ────────────────────────────────────────────
        gin\tmany  invalid digit found in string
        rum\t20    panicked: nothing costs that much
    "#]],
    );
    let done = two
        .run_on(prices())
        .and_then(|frame| frame.submit("two")?.wait());
    let done = done.expect("a job that skips two records");
    assert_eq!(
        kiln::counters(&done),
        BTreeMap::from([("records".to_owned(), 8), ("two.skipped".to_owned(), 2)])
    );
    let mut told: Vec<String> = done
        .warnings
        .iter()
        .map(|warning| {
            let (record, _) = warning.subject.split_once(" of ").unwrap_or_default();
            format!("{record}: {}\n", warning.message)
        })
        .collect();
    told.sort();
    expect![[r#"
        record "gin\tmany": skipped: invalid digit found in string
        record "rum\t20": skipped: panicked: nothing costs that much
    "#]]
    .assert_eq(&told.concat());
    let one = job("one", 0)
        .run_on(prices())
        .and_then(|frame| frame.collect());
    let report = one.expect_err("more bad records than none").report();
    assert!(
        report.contains("function \"one.map\" failed on "),
        "{report}"
    );
    assert!(
        report.contains(": more bad records than may be skipped: "),
        "{report}"
    );
}

#[test]
fn functions_are_made_of_parameters() {
    let mut app = App::new("parameters");
    let add = app.scalar_with("add", |more: i64| move |a: i64| a + more);
    let parts = app.flat_map_with("parts", ["part"], |at: char| {
        move |text: &str, out: &mut Emitter<String>| text.split(at).for_each(|part| out.emit(part))
    });
    let dear = app.map_reduce_with("dear", |(least, combined): (i64, bool), job| {
        let job = job.map(move |who: &str, price: i64, out: &mut Pairs<String, i64>| {
            if price >= least {
                out.emit(who, price);
            }
        });
        let job = if combined {
            job.combine(|a, b| a + b)
        } else {
            job
        };
        job.reduce(|who, prices, out: &mut Emitter<(String, i64)>| out.emit((who, prices.sum())))
            .columns(["who", "price"])
    });
    let added = add.with(&1).and_then(|one| {
        let thousand = add.with(&1000)?;
        chosen(["price"]).select([
            one.call([col("price")]).alias("one"),
            thousand.call([col("price")]).alias("thousand"),
        ])
    });
    check(
        added,
        &expect![[r#"
        one  thousand
        ─────────────
          5      1004
          6      1005
          6      1005
          7      1006
         21      1020
         31      1030
    "#]],
    );
    let split = parts
        .with(&'a')
        .and_then(|parts| chosen(["who"]).flat_map(&parts, [col("who")]));
    check(
        split,
        &expect![[r#"
        part
        ────






        ben
        ben
        cy
        d
        d
        d
    "#]],
    );
    let expected = expect![[r#"
        who  price
        ──────────
        ada     26
        ben     30
    "#]];
    for combined in [true, false] {
        let job = dear.with(&(6, combined));
        check(
            job.and_then(|job| job.run_on(chosen(["who", "price"]))),
            &expected,
        );
    }
    // The plan tells one from the other.
    let [one, other] = [5, 6].map(|least| {
        let job = dear.with(&(least, true)).expect("parameters");
        job.run_on(chosen(["who", "price"])).expect("a job")
    });
    assert_ne!(one.plan(), other.plan());
    let broken = ScalarFunction::with("f", |_: BTreeMap<(i64, i64), i64>| |a: i64| a);
    let error = broken
        .with(&BTreeMap::from([((1, 2), 3)]))
        .expect_err("keys that are no texts");
    expect![[r#"function "f": its parameters cannot be written as JSON: key must be a string"#]]
        .assert_eq(&error.report());
}

#[test]
fn outputs_have_names() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = directory.path().join("out").display().to_string();
    let split = session()
        .map_reduce("split")
        .input(chosen(["who", "price"]))
        .map(|who: &str, price: i64, out: &mut Pairs<String, i64>| out.emit(who, price))
        .reduce(|who, prices, out: &mut Emitter<(String, String, i64)>| {
            for price in prices.iter() {
                let to = if price > 10 { "dear" } else { "cheap" };
                out.emit((to, who, price));
            }
        })
        .columns(["to", "who", "price"])
        .frame();
    let written = split.and_then(|frame| frame.write_split(&url, FileFormat::Csv, "to"));
    assert_eq!(written.expect("two outputs").rows, 6);
    let read = |name: &str| session().read_csv(format!("{url}/{name}"));
    check(
        read("dear"),
        &expect![[r#"
        who  price
        ──────────
        ada     20
        ben     30
    "#]],
    );
    check(
        read("cheap"),
        &expect![[r#"
        who  price
        ──────────
        ada      5
        ada      6
        ben      4
        cy       5
    "#]],
    );
    let names = ["_SUCCESS", "_manifest.json", "cheap", "dear"];
    let found = std::fs::read_dir(&url).expect("a directory");
    let mut found: Vec<_> = found
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    found.sort();
    assert_eq!(found, names);
}
