//! What a job of the command line means: its arguments become a [`DataFrame`].

use kiln::external::{Commands, KEY, VALUE};
use kiln::{
    DataFrame, Error, OutputOptions, Session, SortKey, TextOptions, col, count_all, lower,
    regexp_like, words,
};
use kiln_engine::plan::{LogicalPlan, ScanFormat};

use super::args::{
    CountArgs, ExternalArgs, GrepArgs, Job, OutputArgs, SortArgs, SortColumn, WordcountArgs,
};
use super::exit::{Failure, Outcome};

/// Rows of a table on stdout, unless `--top` says otherwise.
const TABLE_ROWS: u64 = 20;

/// A job that is ready to be submitted.
pub(crate) struct Plan {
    /// What it is called in lists. [`super::result`] knows how to print results by it.
    pub(crate) name: &'static str,
    /// What it computes.
    pub(crate) frame: DataFrame,
}

/// The name of `grep` jobs, whose results are lines rather than a table.
pub(crate) const GREP: &str = "grep";

/// Makes the plan of `job`, to be run by `session`.
///
/// # Errors
/// `Usage` for what is wrong with the arguments themselves, `Job` for what is wrong with the
/// inputs they name.
pub(crate) fn build(session: &Session, job: &Job) -> Outcome<Plan> {
    match job {
        Job::Wordcount(args) => Ok(Plan {
            name: "wordcount",
            frame: wordcount(session, args)?,
        }),
        Job::Grep(args) => Ok(Plan {
            name: GREP,
            frame: grep(session, args)?,
        }),
        Job::Count(args) => Ok(Plan {
            name: "count",
            frame: count(session, args)?,
        }),
        Job::Sort(args) => Ok(Plan {
            name: "sort",
            frame: sort(session, args)?,
        }),
        Job::External(args) => Ok(Plan {
            name: "external",
            frame: external(session, args)?,
        }),
    }
}

fn wordcount(session: &Session, args: &WordcountArgs) -> Outcome<DataFrame> {
    let lines = read_text(session, &args.inputs, args.strict)?;
    let build = || {
        let mut words = lines
            .select([words(col("line")).alias("word")])?
            .explode("word")?;
        if args.lowercase {
            words = words.select([lower(col("word")).alias("word")])?;
        }
        let counts = words
            .group_by([col("word")])
            .aggregate([count_all().alias("count")])?;
        most_frequent(counts, &["word".to_owned()], args.top, &args.output)
    };
    written(build().map_err(Failure::Usage)?, &args.output)
}

fn grep(session: &Session, args: &GrepArgs) -> Outcome<DataFrame> {
    let lines = read_text(session, &args.inputs, args.strict)?;
    let matching = lines
        .filter(regexp_like(col("line"), args.pattern.as_str()))
        .and_then(|found| found.sort([col("path").asc(), col("offset").asc()]))
        .map_err(Failure::Usage)?;
    written(matching, &args.output)
}

fn count(session: &Session, args: &CountArgs) -> Outcome<DataFrame> {
    let rows = session.read_table(&args.inputs).map_err(Failure::Job)?;
    let build = || {
        let keys = args.by.iter().map(|name| col(name.as_str()));
        let counts = rows
            .group_by(keys)
            .aggregate([count_all().alias(count_name(&args.by))])?;
        most_frequent(counts, &args.by, args.top, &args.output)
    };
    written(build().map_err(Failure::Usage)?, &args.output)
}

fn sort(session: &Session, args: &SortArgs) -> Outcome<DataFrame> {
    let rows = session.read_files(&args.inputs).map_err(Failure::Job)?;
    let build = || {
        // Of text the lines are wanted, not where they were.
        let is_text = matches!(rows.plan(), LogicalPlan::Scan(scan)
            if matches!(scan.format, ScanFormat::Text(_)));
        let rows = match is_text {
            true => rows.select([col("line")])?,
            false => rows,
        };
        let sorted = rows.sort(args.by.iter().map(sort_key))?;
        match rows_shown(args.top, &args.output) {
            Some(top) => sorted.limit(top),
            None => Ok(sorted),
        }
    };
    written(build().map_err(Failure::Usage)?, &args.output)
}

fn sort_key(column: &SortColumn) -> SortKey {
    SortKey {
        expr: col(column.name.as_str()),
        descending: column.descending,
        nulls_first: column.nulls_first,
    }
}

fn external(session: &Session, args: &ExternalArgs) -> Outcome<DataFrame> {
    let lines = read_text(session, &args.inputs, args.strict)?;
    let commands = Commands {
        map: args.map.clone(),
        combine: args.combine.clone(),
        reduce: args.reduce.clone(),
    };
    let build = || {
        let made = lines.external(col("line"), &commands)?;
        match rows_shown(args.top, &args.output) {
            Some(top) => made.sort([col(KEY).asc(), col(VALUE).asc()])?.limit(top),
            None => Ok(made),
        }
    };
    written(build().map_err(Failure::Usage)?, &args.output)
}

/// `count`, unless the input has a column of that name.
fn count_name(by: &[String]) -> &'static str {
    if by.iter().any(|name| name == "count") {
        "rows"
    } else {
        "count"
    }
}

fn read_text(session: &Session, inputs: &[String], strict: bool) -> Outcome<DataFrame> {
    let options = TextOptions {
        strict,
        ..TextOptions::default()
    };
    session
        .read_text_with(inputs, options)
        .map_err(Failure::Usage)
}

/// The groups with the highest counts, ties in the order of the keys. Files without `--top` get
/// all groups, in no order.
fn most_frequent(
    counts: DataFrame,
    keys: &[String],
    top: Option<u64>,
    output: &OutputArgs,
) -> Result<DataFrame, Error> {
    let Some(top) = rows_shown(top, output) else {
        return Ok(counts);
    };
    let by_count = col(count_name(keys)).desc();
    let by_key = keys.iter().map(|name| col(name.as_str()).asc());
    counts
        .sort(std::iter::once(by_count).chain(by_key))?
        .limit(top)
}

/// How many rows of the result are wanted, if not all.
fn rows_shown(top: Option<u64>, output: &OutputArgs) -> Option<u64> {
    match (top, &output.output) {
        (Some(top), _) => Some(top),
        (None, None) => Some(TABLE_ROWS),
        (None, Some(_)) => None,
    }
}

fn written(frame: DataFrame, output: &OutputArgs) -> Outcome<DataFrame> {
    let Some(url) = &output.output else {
        return Ok(frame);
    };
    let options = OutputOptions {
        mode: output.mode.into(),
        compression: output.compression.map(Into::into),
        ..OutputOptions::default()
    };
    frame
        .written_with(url, output.format.into(), options)
        .map_err(Failure::Usage)
}
