//! The figures of a run, as a table, as JSON, and beside those of an earlier run.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use kiln::{Error, display};
use serde::Deserialize;
use serde_json::json;

use super::super::exit::{Failure, Outcome};
use super::super::units::{bytes, grouped};

/// What was measured of one query.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) query: usize,
    pub(super) runs: Vec<Duration>,
    pub(super) rows: u64,
    /// Bytes of files that the last run read.
    pub(super) bytes_read: u64,
    /// Of this process over all runs; none where the work was done elsewhere.
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) verdict: Verdict,
}

/// What is known of an answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is the expected one.
    Right,
    /// It is not, in this.
    Wrong(String),
    /// Nobody has said what it should be.
    Unknown,
}

impl Figures {
    pub(super) fn new(query: usize) -> Self {
        Figures {
            query,
            runs: Vec::new(),
            rows: 0,
            bytes_read: 0,
            peak_memory_bytes: None,
            verdict: Verdict::Unknown,
        }
    }

    /// What is wrong with the answer, if something is.
    pub(super) fn complaint(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Wrong(difference) => Some(format!("query {}: {difference}", self.query)),
            Verdict::Right | Verdict::Unknown => None,
        }
    }

    /// The median of the runs, in seconds.
    fn median_s(&self) -> f64 {
        let mut runs: Vec<f64> = self.runs.iter().map(Duration::as_secs_f64).collect();
        runs.sort_by(f64::total_cmp);
        let middle = runs.len() / 2;
        match runs.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => runs[middle],
            _ => (runs[middle - 1] + runs[middle]) / 2.0,
        }
    }
}

/// All figures as JSON: an array of objects, a query each.
pub(super) fn json(all: &[Figures]) -> String {
    let object = |figures: &Figures| {
        json!({
            "query": figures.query,
            "median_s": figures.median_s(),
            "runs_s": figures.runs.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "rows": figures.rows,
            "bytes_read": figures.bytes_read,
            "peak_memory_bytes": figures.peak_memory_bytes,
        })
    };
    let objects: Vec<_> = all.iter().map(object).collect();
    format!("{:#}\n", serde_json::Value::from(objects))
}

/// The times of an earlier run, by query.
#[derive(Debug)]
pub(super) struct Earlier(BTreeMap<usize, f64>);

impl Earlier {
    /// Reads what `--json` wrote, or any array of objects with `query` and `median_s`.
    ///
    /// # Errors
    /// `Usage` if that is not what the file holds.
    pub(super) fn read(file: &str) -> Outcome<Self> {
        #[derive(Deserialize)]
        struct Time {
            query: usize,
            median_s: f64,
        }
        let text = fs::read_to_string(file).map_err(|error| {
            Failure::Usage(Error::invalid(format!("cannot read file={file}")).with_source(error))
        })?;
        let times: Vec<Time> = serde_json::from_str(&text).map_err(|error| {
            let message = format!("not the JSON of an earlier run file={file}");
            Failure::Usage(Error::invalid(message).with_source(error))
        })?;
        let times = times.into_iter().map(|time| (time.query, time.median_s));
        Ok(Earlier(times.collect()))
    }
}

/// All figures as a table for people, their sum below.
pub(super) fn table(all: &[Figures], earlier: Option<&Earlier>) -> String {
    let mut header = vec!["query", "median", "rows", "read", "peak memory", "answer"];
    let mut right = vec![true, true, true, true, true, false];
    if earlier.is_some() {
        header.splice(2..2, ["earlier", "ratio"]);
        right.splice(2..2, [true, true]);
    }
    let mut rows: Vec<Vec<String>> = all.iter().map(|figures| row(figures, earlier)).collect();
    let mut sum = vec![
        "sum".to_owned(),
        seconds(all.iter().map(Figures::median_s).sum()),
    ];
    if let Some(earlier) = earlier {
        // Only what both have run can be compared.
        let both = all
            .iter()
            .filter_map(|figures| Some((figures.median_s(), *earlier.0.get(&figures.query)?)));
        let (now, then) = both.fold((0.0, 0.0), |sum, both| (sum.0 + both.0, sum.1 + both.1));
        sum.extend([seconds(then), ratio(now, then)]);
    }
    sum.push(String::new());
    sum.push(bytes(all.iter().map(|figures| figures.bytes_read).sum()));
    let peak = all.iter().filter_map(|figures| figures.peak_memory_bytes);
    sum.push(peak.max().map(bytes).unwrap_or_default());
    sum.push(String::new());
    rows.push(sum);
    display::lines(&header, &right, rows)
}

fn row(figures: &Figures, earlier: Option<&Earlier>) -> Vec<String> {
    let now = figures.median_s();
    let mut row = vec![figures.query.to_string(), seconds(now)];
    if let Some(earlier) = earlier {
        match earlier.0.get(&figures.query) {
            Some(&then) => row.extend([seconds(then), ratio(now, then)]),
            None => row.extend([String::new(), String::new()]),
        }
    }
    row.extend([
        grouped(figures.rows),
        bytes(figures.bytes_read),
        figures.peak_memory_bytes.map(bytes).unwrap_or_default(),
        match figures.verdict {
            Verdict::Right => "right",
            Verdict::Wrong(_) => "WRONG",
            Verdict::Unknown => "not known",
        }
        .to_owned(),
    ]);
    row
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3} s")
}

fn ratio(now: f64, then: f64) -> String {
    match then > 0.0 {
        true => format!("{:.2}", now / then),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn figures(query: usize, runs_ms: &[u64]) -> Figures {
        Figures {
            runs: runs_ms.iter().copied().map(Duration::from_millis).collect(),
            rows: 1234,
            bytes_read: 56_000_000,
            peak_memory_bytes: (query == 1).then_some(789_000_000),
            verdict: match query {
                1 => Verdict::Right,
                2 => Verdict::Wrong("3 rows instead of 4".to_owned()),
                _ => Verdict::Unknown,
            },
            ..Figures::new(query)
        }
    }

    fn run() -> [Figures; 3] {
        [
            figures(1, &[500, 100, 300]),
            figures(2, &[200, 100]),
            figures(22, &[1000]),
        ]
    }

    #[test]
    fn a_table_ends_with_sums() {
        expect![[r#"
            query   median   rows     read  peak memory  answer
            ──────────────────────────────────────────────────────
                1  0.300 s  1,234  56.0 MB       789 MB  right
                2  0.150 s  1,234  56.0 MB               WRONG
               22  1.000 s  1,234  56.0 MB               not known
              sum  1.450 s          168 MB       789 MB
        "#]]
        .assert_eq(&table(&run(), None));
    }

    #[test]
    fn an_earlier_run_stands_beside() {
        let earlier = Earlier([(1, 0.15), (22, 2.0)].into());
        expect![[r#"
            query   median  earlier  ratio   rows     read  peak memory  answer
            ──────────────────────────────────────────────────────────────────────
                1  0.300 s  0.150 s   2.00  1,234  56.0 MB       789 MB  right
                2  0.150 s                  1,234  56.0 MB               WRONG
               22  1.000 s  2.000 s   0.50  1,234  56.0 MB               not known
              sum  1.450 s  2.150 s   0.60          168 MB       789 MB
        "#]]
        .assert_eq(&table(&run(), Some(&earlier)));
    }

    #[test]
    fn json_has_a_query_an_object() {
        expect![[r#"
            [
              {
                "bytes_read": 56000000,
                "median_s": 0.3,
                "peak_memory_bytes": 789000000,
                "query": 1,
                "rows": 1234,
                "runs_s": [
                  0.5,
                  0.1,
                  0.3
                ]
              }
            ]
        "#]]
        .assert_eq(&json(&run()[..1]));
    }
}
