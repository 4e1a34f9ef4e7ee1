//! TPC-H: the benchmark's tables, its data, and its 22 queries as data frame programs.
//!
//! A query reads like its text in the specification. What SQL nests, a program says in steps: a
//! subquery becomes a data frame with a name, `exists` a semi join, the value of a subquery a join
//! with its one row. Filters stand where they are easiest to read and joins start from the large
//! table; the optimiser moves both.

use kiln_engine::expr::{Expr, col, lit};
use kiln_engine::{Error, Result};

use crate::dataframe::DataFrame;

mod generate;
mod tables;

mod q01;
mod q02;
mod q03;
mod q04;
mod q05;
mod q06;
mod q07;
mod q08;
mod q09;
mod q10;
mod q11;
mod q12;
mod q13;
mod q14;
mod q15;
mod q16;
mod q17;
mod q18;
mod q19;
mod q20;
mod q21;
mod q22;

pub use generate::{GenerateOptions, Generated, generate};
pub use tables::{Table, Tables};

/// How many queries there are; they are numbered from 1.
pub const QUERIES: usize = 22;

/// A query, as a function of the tables.
type Query = fn(&Tables) -> Result<DataFrame>;

const ALL: [Query; QUERIES] = [
    q01::q01,
    q02::q02,
    q03::q03,
    q04::q04,
    q05::q05,
    q06::q06,
    q07::q07,
    q08::q08,
    q09::q09,
    q10::q10,
    q11::q11,
    q12::q12,
    q13::q13,
    q14::q14,
    q15::q15,
    q16::q16,
    q17::q17,
    q18::q18,
    q19::q19,
    q20::q20,
    q21::q21,
    q22::q22,
];

/// The plan of query `number` over `tables`, with the substitution values of the specification's
/// validation run.
///
/// # Errors
/// `Invalid` if there is no such query, or a table it reads is not there.
pub fn query(number: usize, tables: &Tables) -> Result<DataFrame> {
    let query = number.checked_sub(1).and_then(|place| ALL.get(place));
    let query = query.ok_or_else(|| {
        Error::invalid(format!(
            "queries are numbered from 1 to {QUERIES} number={number}"
        ))
    })?;
    query(tables)
}

/// What a line item brings in: its price without the discount.
fn discounted() -> Expr {
    col("l_extendedprice") * (lit(1) - col("l_discount"))
}
