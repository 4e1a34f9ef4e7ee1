//! Which pages matter? PageRank: a job whose result is the input of the next.

use std::process::ExitCode;

use kiln::{App, Emitter, Pairs, Session, clap, col, round_to};

/// Share of the readers who follow a link; the others go anywhere.
const DAMPING: f64 = 0.85;

#[derive(clap::Args)]
struct Options {
    /// CSV files with the columns page and target
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// How often ranks are passed on
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: usize,
    /// Where the ranks of each round are kept; must not exist yet
    #[arg(long, value_name = "URL")]
    work: String,
}

fn main() -> ExitCode {
    let mut app = App::new("page_rank");
    // Every page begins with rank 1; its targets go with it, one text with spaces between them.
    let begin = app
        .map_reduce("begin")
        .map(
            |page: &str, target: &str, out: &mut Pairs<String, String>| {
                out.emit(page, target);
            },
        )
        .reduce(|page, targets, out: &mut Emitter<(String, f64, String)>| {
            let targets: Vec<String> = targets.iter().collect();
            out.emit((page, 1.0, &targets.join(" ")));
        })
        .columns(["page", "rank", "targets"]);
    let pass_on = app
        .map_reduce("pass_on")
        .map(
            |page: &str, rank: f64, targets: &str, out: &mut Pairs<String, (f64, String)>| {
                let share = rank / targets.split(' ').count() as f64;
                for target in targets.split(' ').filter(|target| !target.is_empty()) {
                    out.emit(target, (share, ""));
                }
                out.emit(page, (0.0, targets));
            },
        )
        .reduce(|page, values, out: &mut Emitter<(String, f64, String)>| {
            let (mut shares, mut targets) = (0.0, String::new());
            while let Some((share, found)) = values.next() {
                shares += share;
                targets.push_str(found);
            }
            out.emit((page, 1.0 - DAMPING + DAMPING * shares, &targets));
        })
        .columns(["page", "rank", "targets"]);
    app.run(move |session: &Session, options: Options| {
        let links = session.read_csv(options.inputs)?;
        let mut ranks = begin.run_on(links.select([col("page"), col("target")])?)?;
        for round in 0..options.rounds {
            // What is written is read by the next job, not computed again.
            let url = format!("{}/{round}", options.work);
            ranks.write_parquet(&url)?;
            ranks = pass_on.run_on(session.read_parquet(url)?)?;
        }
        let rounded = round_to(col("rank"), 3).alias("rank");
        ranks
            .select([col("page"), rounded])?
            .sort([col("rank").desc(), col("page").asc()])?
            .show()
    })
}
