//! `docs/functions.md` against the functions: all are in it, and each example gives what it says.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::array_value_to_string;
use kiln_engine::Result;
use kiln_engine::expr::eval::evaluate;
use kiln_engine::expr::*;

const PAGE: &str = include_str!("../../docs/functions.md");

/// A call of every function, and its value.
fn examples() -> Vec<(Expr, &'static str)> {
    let day_of = || date("1998-12-01");
    let time_of = || timestamp("2024-02-29 12:34:56");
    let mut examples = strings();
    examples.extend(patterns());
    examples.extend([
        (year(day_of()), "1998"),
        (quarter(day_of()), "4"),
        (month(day_of()), "12"),
        (week(day_of()), "49"),
        (day(day_of()), "1"),
        (day_of_week(day_of()), "2"),
        (day_of_year(day_of()), "335"),
        (hour(time_of()), "12"),
        (minute(time_of()), "34"),
        (second(time_of()), "56"),
        (epoch_seconds(time_of()), "1709210096"),
        (date_trunc("month", day_of()), "1998-12-01"),
        (date_trunc("hour", time_of()), "2024-02-29T12:00:00"),
        (date_diff("month", day_of(), date("1999-02-01")), "2"),
        (date_diff("day", day_of(), time_of()), "9221"),
        (to_date(lit("1998-12-01")), "1998-12-01"),
        (to_date_as("1.12.1998", "%d.%m.%Y"), "1998-12-01"),
        (
            to_timestamp(lit("2024-02-29 12:34:56")),
            "2024-02-29T12:34:56",
        ),
        (
            to_timestamp_as("29.2.24 7:05", "%d.%m.%y %H:%M"),
            "2024-02-29T07:05:00",
        ),
    ]);
    examples.extend(numbers());
    examples.extend([
        (coalesce([lit(None::<i64>), lit(2), lit(3)]), "2"),
        (greatest([lit(2), lit(None::<i64>), lit(3)]), "3"),
        (least([lit(2), lit(None::<i64>), lit(3)]), "2"),
        (nullif("n/a", "n/a"), "NULL"),
    ]);
    examples
}

fn strings() -> Vec<(Expr, &'static str)> {
    let text = || lit("Hello, World");
    vec![
        (words(lit(" to be  or")), "[to, be, or]"),
        (lower(text()), "\"hello, world\""),
        (upper(text()), "\"HELLO, WORLD\""),
        (initcap("to BE or"), "\"To Be Or\""),
        (length(lit("straße")), "6"),
        (trim(lit("  a  ")), "\"a\""),
        (ltrim("  a  "), "\"a  \""),
        (rtrim("  a  "), "\"  a\""),
        (concat([lit("a"), lit("b"), lit("c")]), "\"abc\""),
        (substring("13-345", 1, 2), "\"13\""),
        (substring_from("13-345", 4), "\"345\""),
        (left("13-345", 2), "\"13\""),
        (right("13-345", 3), "\"345\""),
        (replace("a-b-c", "-", ":"), "\"a:b:c\""),
        (reverse("abc"), "\"cba\""),
        (repeat("ab", 3), "\"ababab\""),
        (lpad("7", 3, "0"), "\"007\""),
        (rpad("7", 3, "."), "\"7..\""),
        (split("a,b,,c", ","), "[a, b, , c]"),
        (split_part("a,b,c", ",", 2), "\"b\""),
        (split_part("a,b,c", ",", -1), "\"c\""),
        (strpos("straße", "ße"), "5"),
        (ascii("A"), "65"),
        (chr(8364), "\"€\""),
    ]
}

fn patterns() -> Vec<(Expr, &'static str)> {
    vec![
        (contains(lit("forest green"), "green"), "true"),
        (starts_with(lit("PROMO TIN"), "PROMO"), "true"),
        (ends_with(lit("LARGE BRASS"), "BRASS"), "true"),
        (
            lit("special packages requests").like("%special%requests%"),
            "true",
        ),
        (lit("100%").like("100\\%"), "true"),
        (lit("cat").like("c_t"), "true"),
        (lit("Straße").ilike("STRA%"), "true"),
        (regexp_like(lit("a1b22"), "[0-9]{2}"), "true"),
        (regexp_replace("a1b22", "[0-9]+", "#"), "\"a#b#\""),
        (regexp_replace("ab", "(a)(b)", "$2$1"), "\"ba\""),
        (regexp_extract("key=value", "(\\w+)=(\\w+)", 2), "\"value\""),
    ]
}

fn numbers() -> Vec<(Expr, &'static str)> {
    vec![
        (abs(lit(-5)), "5"),
        (round(2.5), "3.0"),
        (round_to(decimal("2.345"), 2), "2.35"),
        (round_to(1234, -2), "1200"),
        (floor(-2.5), "-3.0"),
        (ceil(decimal("2.1")), "3"),
        (trunc(-2.5), "-2.0"),
        (sqrt(2.25), "1.5"),
        (exp(0), "1.0"),
        (ln(1), "0.0"),
        (log10(1000), "3.0"),
        (log2(8), "3.0"),
        (power(2, 10), "1024.0"),
        (sign(-0.5), "-1"),
        (sin(0), "0.0"),
        (cos(0), "1.0"),
        (tan(0), "0.0"),
        (atan2(0, 1), "0.0"),
    ]
}

/// Examples of what is no function.
fn operators() -> Vec<(Expr, &'static str)> {
    vec![
        (lit(7) / 2, "3"),
        (lit(-7) % 2, "-1"),
        (decimal("1.25") * decimal("0.5"), "0.625"),
        (1 - decimal("0.05"), "0.95"),
        (decimal("1.00") / 4, "0.25"),
        (decimal("0.10").eq(0.1), "true"),
        (date("1998-12-01") - interval_days(90), "1998-09-02"),
        (date("2024-01-31") + interval_months(1), "2024-02-29"),
        (date("1998-12-01") - date("1998-09-02"), "90"),
        (lit(5).between(1, 5), "true"),
        (lit("b").in_list(["a", "b"]), "true"),
        (lit(1).in_list([Some(2), None]), "NULL"),
        (lit(true).and(None::<bool>), "NULL"),
        (lit(false).and(None::<bool>), "false"),
        (
            case_when(lit(2).gt(1), "more").otherwise("less"),
            "\"more\"",
        ),
        (lit("12").cast(DataType::Int64), "12"),
        (lit("x").try_cast(DataType::Int64), "NULL"),
        (lit(None::<i64>).is_null(), "true"),
    ]
}

fn one_row(expr: &Expr) -> Result<ArrayRef> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let schema = Arc::new(Schema::empty());
    let batch = RecordBatch::try_new_with_options(schema, vec![], &options).expect("a row");
    evaluate(expr, &batch)
}

fn shown(array: &ArrayRef) -> String {
    if array.logical_null_count() > 0 {
        return "NULL".into();
    }
    match array.as_string_view_opt() {
        Some(text) => format!("{:?}", text.value(0)),
        None => array_value_to_string(array, 0).expect("a value"),
    }
}

#[test]
fn every_example_gives_what_the_page_says() {
    let mut wrong = String::new();
    for (expr, expected) in examples().into_iter().chain(operators()) {
        match one_row(&expr) {
            Ok(found) if shown(&found) == expected => {}
            Ok(found) => wrong += &format!("{expr} gives {} not {expected}\n", shown(&found)),
            Err(error) => wrong += &format!("{}\n", error.report()),
        }
        let line = format!("| `{expr}` | `{expected}` |");
        if !PAGE.contains(&line) {
            wrong += &format!("not on the page: {line}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_function_has_an_example() {
    let called: HashSet<Function> = examples()
        .into_iter()
        .filter_map(|(expr, _)| match expr {
            Expr::Function { function, .. } => Some(function),
            _ => None,
        })
        .collect();
    for function in Function::ALL {
        assert!(
            called.contains(function),
            "{} has no example",
            function.name()
        );
    }
}

#[test]
fn functions_of_null_are_null_and_fit_their_types() {
    for (expr, _) in examples() {
        let Expr::Function { function, args } = expr else {
            continue;
        };
        let type_of = |expr: &Expr| typing::field(expr, &Schema::empty());
        for index in 0..args.len() {
            let mut args = args.clone();
            args[index] = lit(None::<i64>);
            let expr = Expr::Function { function, args };
            // Patterns, units and the like have to be constants.
            let Ok(field) = type_of(&expr) else {
                continue;
            };
            let found = one_row(&expr).expect("null is no mistake");
            assert_eq!(found.data_type(), field.data_type(), "{expr}");
            let chooses = matches!(
                function,
                Function::Coalesce | Function::Greatest | Function::Least | Function::Nullif
            );
            assert!(chooses || found.logical_null_count() == 1, "{expr}");
            assert!(
                field.is_nullable() || found.logical_null_count() == 0,
                "{expr}"
            );
        }
    }
}
