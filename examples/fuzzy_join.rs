//! Who is meant? Joins orders with customers whose names sound alike, by a custom function.

use std::process::ExitCode;

use kiln::{App, JoinKind, Session, clap, col};

#[derive(clap::Args)]
struct Options {
    /// CSV file with the columns customer and city
    #[arg(long, value_name = "INPUT")]
    customers: String,
    /// CSV file with the columns name and item
    #[arg(long, value_name = "INPUT")]
    orders: String,
}

/// How a name sounds, roughly (Soundex): its first letter, and classes of consonants after it.
fn soundex(name: &str) -> String {
    let class = |c: char| match c.to_ascii_lowercase() {
        'b' | 'f' | 'p' | 'v' => Some('1'),
        'c' | 'g' | 'j' | 'k' | 'q' | 's' | 'x' | 'z' => Some('2'),
        'd' | 't' => Some('3'),
        'l' => Some('4'),
        'm' | 'n' => Some('5'),
        'r' => Some('6'),
        _ => None,
    };
    let letters = || name.chars().filter(char::is_ascii_alphabetic);
    let mut code: String = letters().take(1).map(|c| c.to_ascii_uppercase()).collect();
    let mut last = letters().next().and_then(class);
    for letter in letters().skip(1) {
        let found = class(letter);
        if let Some(digit) = found.filter(|_| found != last) {
            code.push(digit);
        }
        // Letters with an h or a w between them count as neighbours.
        if !matches!(letter, 'h' | 'w' | 'H' | 'W') {
            last = found;
        }
    }
    code.chars().chain("000".chars()).take(4).collect()
}

fn main() -> ExitCode {
    let mut app = App::new("fuzzy_join");
    let sound = app.scalar("sound", soundex);
    app.run(move |session: &Session, options: Options| {
        let orders = session.read_csv(options.orders)?;
        let customers = session.read_csv(options.customers)?;
        orders
            .with_column("sound", sound.call([col("name")]))?
            .join(
                &customers.with_column("sound", sound.call([col("customer")]))?,
                JoinKind::Left,
                ["sound"],
            )?
            .select(["item", "name", "sound", "customer", "city"].map(col))?
            .sort([col("item").asc(), col("customer").asc()])?
            .show()
    })
}
