//! `kiln new`: write a crate with a job to begin with.
//!
//! Its program is an example of this repository, so it is known to build and to run.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use kiln::Error;

use super::args::NewArgs;
use super::exit::{Failure, Outcome};

const MAIN: &str = include_str!("../../../examples/my_job.rs");
const MANIFEST: &str = include_str!("Cargo.toml.in");
const README: &str = include_str!("README.md");
const IGNORED: &str = "/target\n";

/// Names that cargo or the program itself could not tell from something else.
const RESERVED: &[&str] = &[
    "alloc",
    "core",
    "kiln",
    "proc_macro",
    "std",
    "test", // crates
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield", // keywords
];

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn run(args: &NewArgs) -> Outcome {
    let directory = &args.directory;
    let name = name_of(directory)?;
    let dependency = dependency(args.path.as_deref())?;
    check_empty(directory)?;
    let manifest = MANIFEST.replace("NAME", name);
    let readme = README.replace("NAME", name);
    let files = [
        ("Cargo.toml", manifest.replace("DEPENDENCY", &dependency)),
        ("src/main.rs", MAIN.to_owned()),
        (
            "README.md",
            readme.replace("REPOSITORY", env!("CARGO_PKG_REPOSITORY")),
        ),
        (".gitignore", IGNORED.to_owned()),
    ];
    for (file, text) in files {
        let path = directory.join(file);
        let folder = path.parent().unwrap_or(directory);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| {
                let text = format!("cannot write a file path={}", path.display());
                Failure::Job(Error::unavailable(text).with_source(error))
            })?;
    }
    let shown = directory.display();
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(
        io::stderr(),
        "wrote {shown}; to try it: cd {shown} && cargo run --release -- README.md"
    );
    Ok(())
}

/// The name of the crate in `directory`.
fn name_of(directory: &Path) -> Outcome<&str> {
    let name = directory.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        let text = format!("a directory without a name path={}", directory.display());
        return Err(Failure::usage(text));
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(fits) {
        return Err(Failure::usage(format!(
            "not a name for a program: it has to be of letters, digits, - and _, and begin with \
             a letter name={name:?}"
        )));
    }
    if RESERVED.contains(&name.replace('-', "_").as_str()) {
        return Err(Failure::usage(format!(
            "not a name for a program: it means something else in Rust name={name:?}"
        )));
    }
    Ok(name)
}

/// What the manifest says of where kiln is.
fn dependency(path: Option<&Path>) -> Outcome<String> {
    // Strings of JSON are strings of TOML.
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let Some(path) = path else {
        return Ok(text(env!("CARGO_PKG_VERSION")));
    };
    let shown = path.display();
    let sources = path.canonicalize().map_err(|error| {
        let text = format!("the sources of kiln cannot be found path={shown}");
        Failure::Usage(Error::invalid(text).with_source(error))
    })?;
    if !sources.join("Cargo.toml").is_file() {
        let text = format!("the sources of kiln are not there: no Cargo.toml path={shown}");
        return Err(Failure::usage(text));
    }
    let sources = sources.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "a path that is not UTF-8 cannot be in a manifest path={shown}"
        ))
    })?;
    Ok(format!("{{ path = {} }}", text(sources)))
}

/// Nothing that is there is written over.
fn check_empty(directory: &Path) -> Outcome {
    let shown = directory.display();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let text = format!("not a directory that a program can be written to path={shown}");
            Err(Failure::Usage(Error::invalid(text).with_source(error)))
        }
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::usage(format!(
                "the directory is not empty path={shown}"
            ))),
        },
    }
}
