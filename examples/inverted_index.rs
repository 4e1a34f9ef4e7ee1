//! In which files is a word? For each word the files that have it, and how often.

use std::process::ExitCode;

use kiln::{App, Emitter, Pairs, Session, clap, col};

#[derive(clap::Args)]
struct Options {
    /// Text files, directories, globs or URLs
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// Only words that begin with this
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
}

fn main() -> ExitCode {
    let mut app = App::new("inverted_index");
    let index = app
        .map_reduce("index")
        .map(|path: &str, line: &str, out: &mut Pairs<String, String>| {
            let file = path.rsplit('/').next().unwrap_or(path);
            for word in line.split(|c: char| !c.is_alphanumeric()) {
                if !word.is_empty() {
                    out.emit(&word.to_lowercase(), file);
                }
            }
        })
        // So that the same file comes several times in a row.
        .sort_values_by(str::to_owned)
        .reduce(|word, files, out: &mut Emitter<(String, String)>| {
            let mut found: Vec<(String, u64)> = Vec::new();
            while let Some(file) = files.next() {
                match found.last_mut() {
                    Some((last, times)) if last == file => *times += 1,
                    _ => found.push((file.to_owned(), 1)),
                }
            }
            let found = found.iter().map(|(file, times)| format!("{file}:{times}"));
            out.emit((word, &found.collect::<Vec<_>>().join(" ")));
        })
        .columns(["word", "files"]);
    app.run(move |session: &Session, options: Options| {
        let lines = session.read_text(options.inputs)?;
        let lines = lines.select([col("path"), col("line")])?;
        index
            .run_on(lines)?
            .filter(kiln::starts_with(col("word"), options.prefix.as_str()))?
            .sort([col("word").asc()])?
            .show()
    })
}
