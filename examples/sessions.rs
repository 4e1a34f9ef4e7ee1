//! How do people move through a site? A visit ends with a pause; secondary sort gives the clicks of
//! each person in the order of time, however many there are.

use std::process::ExitCode;

use kiln::arrow::datatypes::DataType;
use kiln::{App, Emitter, Pairs, Session, clap, col, epoch_seconds};

/// Seconds after which somebody who comes back begins another visit.
const PAUSE: i64 = 30 * 60;

#[derive(clap::Args)]
struct Options {
    /// CSV files with the columns user, at and page
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
}

/// One visit: who, which one, its clicks, its seconds, where it began and where it ended.
type Visit = (String, i64, i64, i64, String, String);

fn main() -> ExitCode {
    let mut app = App::new("sessions");
    let visits = app
        .map_reduce("visits")
        .map(
            |user: &str, at: i64, page: &str, out: &mut Pairs<String, (i64, String)>| {
                if page.ends_with(".css") {
                    out.count("clicks on nothing", 1);
                } else {
                    out.emit(user, (at, page));
                }
            },
        )
        .sort_values_by(|(at, _): (i64, &str)| at)
        .reduce(|user, clicks, out: &mut Emitter<Visit>| {
            let Some((mut begun, mut page)) = clicks.next().map(|(at, page)| (at, page.to_owned()))
            else {
                return;
            };
            let (mut number, mut count, mut last, mut first) = (1, 1, begun, page.clone());
            while let Some((at, next)) = clicks.next() {
                if at - last > PAUSE {
                    out.emit((user, number, count, last - begun, &first, &page));
                    (number, count, begun, first) = (number + 1, 0, at, next.to_owned());
                }
                (count, last, page) = (count + 1, at, next.to_owned());
            }
            out.emit((user, number, count, last - begun, &first, &page));
        })
        .columns(["user", "visit", "clicks", "seconds", "from", "to"]);
    app.run(move |session: &Session, options: Options| {
        let seconds = epoch_seconds(col("at")).cast(DataType::Int64);
        let clicks = session.read_csv(options.inputs)?;
        visits
            .run_on(clicks.select([col("user"), seconds.alias("at"), col("page")])?)?
            .sort([col("user").asc(), col("visit").asc()])?
            .show()
    })
}
