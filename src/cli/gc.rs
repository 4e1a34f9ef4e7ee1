//! `kiln gc`: show and remove what killed processes have left behind.

use std::io::{self, Write as _};

use kiln::{Error, Result, display};
use kiln_driver::garbage::{self, Garbage, What};
use kiln_engine::scratch::{self, Abandoned};
use kiln_engine::storage::{Stores, parse_location};
use serde_json::{Value, json};

use super::args::GcArgs;
use super::driver::block_on;
use super::exit::{Failure, Outcome};
use super::units::{bytes, grouped, plural};

/// Runs the command.
///
/// # Errors
/// See [`Failure`]; `Unreachable` if the storage does not answer.
pub(crate) fn run(args: &GcArgs) -> Outcome {
    let storage = args.storage.as_deref().map(parse_location).transpose();
    let storage = storage.map_err(Failure::Usage)?;
    block_on(async {
        let stores = Stores::new();
        let left = Left::find(&stores, storage.as_deref()).await;
        let left = left.map_err(Failure::from_driver)?;
        let mut out = io::stdout();
        let rows = left.rows();
        if !args.json {
            write!(out, "{}", table(&rows))?;
        }
        if !args.dry_run {
            let removed = left.remove(&stores, storage.as_deref()).await;
            removed.map_err(Failure::from_driver)?;
        }
        if args.json {
            writeln!(out, "{:#}", summary(&rows, args.dry_run))?;
        } else {
            writeln!(out, "{}", total(&rows, args.dry_run))?;
        }
        Ok(())
    })
}

/// What is left behind.
struct Left {
    garbage: Vec<Garbage>,
    directories: Vec<Abandoned>,
}

impl Left {
    async fn find(stores: &Stores, storage: Option<&str>) -> Result<Self> {
        let garbage = match storage {
            Some(url) => garbage::find(stores, url).await?,
            None => Vec::new(),
        };
        let parent = std::env::temp_dir();
        let directories = scratch::abandoned(&parent).map_err(|error| {
            let what = format!("cannot read a directory path={}", parent.display());
            Error::unavailable(what).with_source(error)
        })?;
        Ok(Left {
            garbage,
            directories,
        })
    }

    fn rows(&self) -> Vec<Row> {
        let garbage = self.garbage.iter().map(Row::of);
        let directories = self.directories.iter().map(|directory| {
            let (objects, bytes) = directory.contents();
            Row {
                what: "directory",
                of: directory.path().display().to_string(),
                objects,
                bytes,
            }
        });
        garbage.chain(directories).collect()
    }

    /// Removes all of it, as far as that goes.
    async fn remove(self, stores: &Stores, storage: Option<&str>) -> Result<()> {
        let mut first = match storage {
            Some(url) => garbage::remove(stores, url, &self.garbage).await,
            None => Ok(()),
        };
        for directory in self.directories {
            let path = directory.path().display().to_string();
            let removed = directory.remove().map_err(|error| {
                let what = format!("cannot remove a directory path={path}");
                Error::unavailable(what).with_source(error)
            });
            first = first.and(removed);
        }
        first
    }
}

/// A line of what is left behind.
struct Row {
    what: &'static str,
    /// Whose it is, or where.
    of: String,
    objects: u64,
    bytes: u64,
}

impl Row {
    fn of(garbage: &Garbage) -> Self {
        let (what, of) = match &garbage.what {
            What::Shuffle(job, _) => ("shuffle", format!("job {job}")),
            What::HalfWritten(job, _) => ("half-written shuffle", format!("job {job}")),
            What::Staged(job, output) => {
                let place = display::location(&output.url);
                ("staged output", format!("job {job} {place}"))
            }
            What::Program(sha256, _) => ("program", sha256.to_string()),
            What::HalfBrought(_) => ("half-written programs", String::new()),
        };
        Row {
            what,
            of,
            objects: garbage.objects,
            bytes: garbage.bytes,
        }
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let header = ["what", "of", "objects", "bytes"];
    let right = [false, false, true, true];
    let lines = rows.iter().map(|row| {
        vec![
            row.what.to_owned(),
            row.of.clone(),
            grouped(row.objects),
            bytes(row.bytes),
        ]
    });
    display::lines(&header, &right, lines.collect()) + "\n"
}

fn sums(rows: &[Row]) -> (u64, u64) {
    let add = |(objects, bytes), row: &Row| (objects + row.objects, bytes + row.bytes);
    rows.iter().fold((0, 0), add)
}

fn total(rows: &[Row], is_dry: bool) -> String {
    if rows.is_empty() {
        return "nothing is left behind".to_owned();
    }
    let (objects, sum) = sums(rows);
    let all = format!("{}, {}", plural(objects, "object"), bytes(sum));
    match is_dry {
        true => format!("{all}: nothing was removed, as --dry-run says"),
        false => format!("{all}: removed"),
    }
}

fn summary(rows: &[Row], is_dry: bool) -> Value {
    let (objects, bytes) = sums(rows);
    let left = rows.iter().map(|row| {
        json!({
            "what": row.what,
            "of": row.of,
            "objects": row.objects,
            "bytes": row.bytes,
        })
    });
    json!({
        "left": left.collect::<Value>(),
        "objects": objects,
        "bytes": bytes,
        "removed": !is_dry,
    })
}
