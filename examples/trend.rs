//! Do people buy less of what costs more? A custom aggregate: the line of least squares through the
//! points of each group.

use std::process::ExitCode;

use kiln::{Aggregator, App, Packed, Session, clap, col, count_all, round_to};

#[derive(clap::Args)]
struct Options {
    /// CSV files with the columns named below
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// Column by which rows are grouped
    #[arg(long, value_name = "COL")]
    by: String,
    /// Column of numbers that the other one may depend on
    #[arg(long, value_name = "COL")]
    x: String,
    /// Column of numbers
    #[arg(long, value_name = "COL")]
    y: String,
}

/// The slope of the line, if there is one.
struct Slope;

impl Aggregator for Slope {
    type Input = (f64, f64);
    /// How many points there are, and the sums of x, y, x² and xy.
    type State = Packed<[f64; 5]>;
    type Output = Option<f64>;

    fn init(&self) -> Packed<[f64; 5]> {
        Packed([0.0; 5])
    }

    fn update(&self, state: &mut Packed<[f64; 5]>, (x, y): (f64, f64)) {
        self.merge(state, Packed([1.0, x, y, x * x, x * y]));
    }

    fn merge(&self, Packed(sums): &mut Packed<[f64; 5]>, Packed(other): Packed<[f64; 5]>) {
        for (sum, other) in sums.iter_mut().zip(other) {
            *sum += other;
        }
    }

    fn finish(&self, Packed([n, x, y, xx, xy]): &Packed<[f64; 5]>) -> Option<f64> {
        let spread = n * xx - x * x;
        (spread != 0.0).then(|| (n * xy - x * y) / spread)
    }
}

fn main() -> ExitCode {
    let mut app = App::new("trend");
    let slope = app.aggregate("slope", Slope);
    app.run(move |session: &Session, options: Options| {
        let by = col(options.by.as_str());
        let points = [options.x.as_str(), options.y.as_str()].map(col);
        session
            .read_csv(options.inputs)?
            .group_by([by.clone()])
            .aggregate([count_all().alias("rows"), slope.call(points).alias("slope")])?
            .with_column("slope", round_to(col("slope"), 3))?
            .sort([by.asc()])?
            .show()
    })
}
