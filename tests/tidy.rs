//! The repository checks itself: what every file has to look like, and who may import whom.
//!
//! Each rule is a function from text to complaints, so that it can be tried on a bad snippet; one
//! test runs all of them over the repository and prints every complaint as `file:line: what`.
//! The rules read lines, not syntax: they are wrong about exotic code, which is a reason not to
//! write it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a line.
const COLUMNS_MAX: usize = 100;

/// Lines of a file. One that wants to be longer wants to be two.
const LINES_MAX: usize = 800;

/// Crates in the order of their layers, and the crates of ours that each may depend on.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("tests/kit", "kiln-testkit", &[]),
    ("engine", "kiln-engine", &["kiln-testkit"]),
    ("proto", "kiln-proto", &["kiln-engine"]),
    (
        "driver",
        "kiln-driver",
        &["kiln-engine", "kiln-proto", "kiln-testkit"],
    ),
    (
        "executor",
        "kiln-executor",
        &["kiln-engine", "kiln-proto", "kiln-testkit"],
    ),
    (
        ".",
        "kiln",
        &[
            "kiln-engine",
            "kiln-proto",
            "kiln-driver",
            "kiln-executor",
            "kiln-testkit",
        ],
    ),
    (
        "benches",
        "kiln-benches",
        &[
            "kiln-engine",
            "kiln-proto",
            "kiln-driver",
            "kiln-executor",
            "kiln",
        ],
    ),
];

/// Files outside `proto` that own a socket, and so may name generated wire types.
const SOCKET_OWNERS: &[&str] = &[
    "driver/src/service.rs",
    "driver/src/client.rs",
    "driver/src/client/leader.rs",
    "driver/src/client/rows.rs",
    "driver/tests/service.rs",
    "executor/src/session.rs",
    "executor/tests/session.rs",
    "tests/lost_messages.rs",
];

/// What must not be left in code, spelled so that this file does not contain it.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("dbg", "!"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
];

const UNWRAP: &str = concat!(".unwrap", "()");

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = rust_files(root);
    assert!(files.len() > 20, "the sources were not found: {files:?}");
    let test_modules: BTreeSet<String> = files
        .iter()
        .flat_map(|(path, text)| out_of_line_tests(path, text))
        .collect();
    let mut complaints = Vec::new();
    for (path, text) in &files {
        let is_test = is_test_path(path) || test_modules.iter().any(|module| is_in(path, module));
        complaints.extend(check_form(path, text));
        complaints.extend(check_unwraps(path, text, is_test));
        complaints.extend(check_wire_types(path, text));
    }
    for (folder, name, allowed) in CRATES {
        let manifest = read(&root.join(folder).join("Cargo.toml"));
        complaints.extend(check_dependencies(name, &manifest, allowed));
        complaints.extend(check_direction(folder, &files, &test_modules));
    }
    complaints.extend(check_members(&read(&root.join("Cargo.toml"))));
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "benches/README.md",
        "examples/README.md",
    ] {
        let folder = root
            .join(page)
            .parent()
            .expect("a page is in a folder")
            .to_owned();
        let exists = |name: &str| root.join(name).exists() || folder.join(name).exists();
        complaints.extend(check_names(page, &read(&root.join(page)), exists));
    }
    let page = "docs/failure-model.md";
    let test = |path: &str| fs::read_to_string(root.join(path)).ok();
    complaints.extend(check_faults(page, &read(&root.join(page)), test));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// ---- the rules ---------------------------------------------------------------------------------

/// Every file opens with its purpose; lines and files are short; nothing is left over.
fn check_form(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push(format!("{path}:1: does not open with `//!`"));
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        complaints.push(format!("{path}: does not end in exactly one line end"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
    }
    let mut in_snapshot = false;
    for (number, line) in numbered(text) {
        in_snapshot |= line.contains("expect![");
        let columns = line.chars().count();
        // A snapshot is as wide as what it shows.
        if columns > COLUMNS_MAX && !in_snapshot {
            complaints.push(format!(
                "{path}:{number}: {columns} columns, more than {COLUMNS_MAX}"
            ));
        }
        in_snapshot &= !["]].", "]];", "]])", "]."]
            .iter()
            .any(|end| line.contains(end))
            && !line.trim_end().ends_with("]]");
        if line.ends_with(char::is_whitespace) {
            complaints.push(format!(
                "{path}:{number}: white space at the end of the line"
            ));
        }
        for leftover in LEFTOVERS.iter().filter(|leftover| line.contains(*leftover)) {
            complaints.push(format!("{path}:{number}: left over: {leftover}"));
        }
    }
    complaints
}

/// Outside tests, what cannot fail says why, and what can is an `Err`.
fn check_unwraps(path: &str, text: &str, is_test: bool) -> Vec<String> {
    if is_test {
        return Vec::new();
    }
    production_lines(text)
        .filter(|(_, line)| line.contains(UNWRAP))
        .map(|(number, _)| format!("{path}:{number}: {UNWRAP} outside of tests"))
        .collect()
}

/// Files that a page names, as links or as paths of this repository in backquotes, are there.
fn check_names(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let is_ours = |name: &str| {
        let first = name.split('/').next().unwrap_or_default();
        let ours = CRATES.iter().any(|(folder, ..)| *folder == first);
        name.contains('/') && (ours || ["src", "tests", "docs", "examples"].contains(&first))
    };
    let quoted = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| is_ours(name));
    let linked = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next());
    let linked = linked.filter(|name| !name.is_empty() && !name.contains("://"));
    quoted
        .map(|name| name.trim_end_matches('*'))
        .chain(linked)
        .filter(|name| !name.contains(char::is_whitespace) && !exists(name))
        .map(|name| format!("{page}: names a file that is not there: {name}"))
        .collect()
}

/// Faults that the page about them tells of.
const FAULTS: usize = 85;

/// A page about faults has a row for each, and the tests that it names as `file::test` are there.
fn check_faults(page: &str, text: &str, file: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let rows = (1..=FAULTS)
        .filter(|number| !text.contains(&format!("\n| F{number:02} |")))
        .map(|number| format!("{page}: has no row for F{number:02}"));
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|name| name.split_once(".rs::"));
    let missing = named
        .filter(|(path, test)| {
            let code = file(&format!("{path}.rs")).unwrap_or_default();
            !code.contains(&format!("fn {test}("))
        })
        .map(|(path, test)| format!("{page}: names a test that is not there: {path}.rs::{test}"));
    rows.chain(missing).collect()
}

/// Generated wire types stay in `proto` and where the sockets are.
fn check_wire_types(path: &str, text: &str) -> Vec<String> {
    if is_in(path, "proto") || SOCKET_OWNERS.contains(&path) {
        return Vec::new();
    }
    numbered(text)
        .filter(|(_, line)| names_wire_type(code(line)))
        .map(|(number, _)| format!("{path}:{number}: a generated wire type outside of a socket"))
        .collect()
}

/// Whether `wire`, where the generated types are, stands in a path or in an import.
fn names_wire_type(line: &str) -> bool {
    let is_import = line.trim_start().starts_with("use kiln_proto::");
    line.contains(concat!("wire", "::"))
        || line.contains(concat!("::", "wire"))
        || (is_import && words(line).any(|word| word == "wire"))
}

/// A crate depends on the crates of ours below it, in every kind of dependency.
fn check_dependencies(name: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies =
                line.contains("dependencies") && !line.starts_with("[workspace.dependencies");
        } else if in_dependencies && line.starts_with("kiln") {
            let end = line.find(|char: char| !char.is_alphanumeric() && char != '-');
            let dependency = &line[..end.unwrap_or(line.len())];
            if !allowed.contains(&dependency) {
                complaints.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    complaints
}

/// Every member of the workspace is in the table above.
fn check_members(manifest: &str) -> Vec<String> {
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = ["));
    let members = members.unwrap_or_default().trim_end_matches(']');
    members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !CRATES.iter().any(|(folder, ..)| folder == member))
        .map(|member| format!("Cargo.toml: member {member:?} is not in the table of crates"))
        .collect()
}

/// A module imports only from itself and from those listed above it in its crate's `lib.rs`.
fn check_direction(
    folder: &str,
    files: &[(String, String)],
    test_modules: &BTreeSet<String>,
) -> Vec<String> {
    let source = if folder == "." {
        "src".to_owned()
    } else {
        format!("{folder}/src")
    };
    let mut order = Vec::new();
    for root in ["lib.rs", "main.rs"] {
        let root = format!("{source}/{root}");
        let text = files
            .iter()
            .find(|(path, _)| *path == root)
            .map(|(_, text)| text.as_str());
        order.extend(modules(text.unwrap_or_default()));
    }
    let mut complaints = Vec::new();
    for (path, text) in files {
        let Some(inside) = path.strip_prefix(&format!("{source}/")) else {
            continue;
        };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let Some(place) = order.iter().position(|name| name == module) else {
            continue;
        };
        if test_modules.iter().any(|module| is_in(path, module)) {
            continue;
        }
        for (number, name) in imports(text) {
            if order
                .iter()
                .position(|other| *other == name)
                .is_some_and(|other| other > place)
            {
                complaints.push(format!(
                    "{path}:{number}: `{module}` imports from `{name}`, which is listed below it"
                ));
            }
        }
    }
    complaints
}

// ---- reading -----------------------------------------------------------------------------------

/// Every Rust file of the repository: its path from the root, and its text.
fn rust_files(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                left.push(path);
            } else if name.ends_with(".rs") {
                let inside = path.strip_prefix(root).expect("below the root");
                found.push((
                    inside.to_str().expect("a plain name").to_owned(),
                    read(&path),
                ));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Files that only tests, benchmarks and readers of examples run.
fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| ["tests", "benches", "examples"].contains(&part))
}

/// Whether `path` is the module `module`, given as its path without `.rs`, or a part of it.
fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The line without its comment. A `//` in a string is taken for one unless it follows a colon.
fn code(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        if !line[..at].ends_with(':') {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

/// The words of a line of code.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| !char.is_alphanumeric() && char != '_')
}

/// The code lines that are part of the product: without comments, and without the item behind
/// each `#[cfg(test)]`.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut skipped_until: Option<String> = None;
    let mut attributed = false;
    numbered(text).filter_map(move |(number, line)| {
        let indent = &line[..line.len() - line.trim_start().len()];
        if let Some(end) = &skipped_until {
            if line.trim_end() == end {
                skipped_until = None;
            }
            return None;
        }
        if attributed {
            if !line.trim_start().starts_with("#[") {
                attributed = false;
                let is_block = line.trim_end().ends_with('{');
                skipped_until = is_block.then(|| format!("{indent}}}"));
            }
            return None;
        }
        if line.trim() == "#[cfg(test)]" {
            attributed = true;
            return None;
        }
        Some((number, code(line)))
    })
}

/// The modules, as paths without `.rs`, that `text` declares for tests in files of their own.
fn out_of_line_tests(path: &str, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

/// The modules that a crate's root declares, in order.
fn modules(text: &str) -> Vec<String> {
    let declared = production_lines(text).filter_map(|(_, line)| {
        let line = line.trim();
        let line = line
            .strip_prefix("pub ")
            .or(line.strip_prefix("pub(crate) "))
            .unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(str::to_owned).collect()
}

/// What the code names right behind `crate::`, also as `crate::{a, b::c}`, with line numbers.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut depth = 0;
    for (number, line) in production_lines(text) {
        let mut rest = line;
        if depth == 0 {
            let Some(at) = rest.find("crate::") else {
                continue;
            };
            rest = &rest[at..];
        }
        while !rest.is_empty() {
            if depth > 0 {
                rest = group(rest, &mut depth, |name| {
                    found.push((number, name.to_owned()))
                });
            } else if let Some(at) = rest.find("crate::") {
                rest = &rest[at + "crate::".len()..];
                if let Some(inside) = rest.strip_prefix('{') {
                    rest = inside;
                    depth = 1;
                } else if let Some(name) = words(rest).next() {
                    found.push((number, name.to_owned()));
                }
            } else {
                break;
            }
        }
    }
    found
}

/// Reads on in a braced group of imports, calls `f` with each name right behind its brace, and
/// returns what follows the group on this line.
fn group<'a>(text: &'a str, depth: &mut usize, mut f: impl FnMut(&str)) -> &'a str {
    let mut is_first = true;
    let mut start = None;
    for (at, char) in text.char_indices() {
        let is_name = char.is_alphanumeric() || char == '_';
        match (is_name, start) {
            (true, None) if *depth == 1 && is_first => start = Some(at),
            (false, Some(from)) => {
                f(&text[from..at]);
                start = None;
                is_first = false;
            }
            _ => {}
        }
        match char {
            '{' => *depth += 1,
            '}' => *depth -= 1,
            ',' if *depth == 1 => is_first = true,
            _ => {}
        }
        if *depth == 0 {
            return &text[at + 1..];
        }
    }
    if let Some(from) = start {
        f(&text[from..]);
    }
    ""
}

// ---- the rules can fail ------------------------------------------------------------------------

#[test]
fn form_is_checked() {
    assert_eq!(check_form("a.rs", "//! Good.\n\nfn a() {}\n"), [""; 0]);
    let complaints = |text: &str| check_form("a.rs", text).join("\n");
    assert_eq!(
        complaints("fn a() {}\n"),
        "a.rs:1: does not open with `//!`"
    );
    let ending = "a.rs: does not end in exactly one line end";
    assert_eq!(complaints("//! Good.\nfn a() {}"), ending);
    assert_eq!(complaints("//! Good.\n\n"), ending);
    assert_eq!(
        complaints("//! Bad. \n"),
        "a.rs:1: white space at the end of the line"
    );
    let wide = format!("//! {}\n", "ä".repeat(97));
    assert_eq!(complaints(&wide), "a.rs:1: 101 columns, more than 100");
    let shown = format!(
        "//! Good.\n    expect![[r#\"\n{}\n\"#]].a();\n",
        "ä".repeat(101)
    );
    assert_eq!(complaints(&shown), "");
    let behind = format!("{shown}{}\n", "ä".repeat(101));
    assert_eq!(complaints(&behind), "a.rs:5: 101 columns, more than 100");
    let long = format!("//! Long.\n{}", "//\n".repeat(800));
    assert_eq!(complaints(&long), "a.rs: 801 lines, more than 800");
    for leftover in LEFTOVERS {
        let text = format!("//! Good.\n// {leftover}\n");
        assert_eq!(complaints(&text), format!("a.rs:2: left over: {leftover}"));
    }
}

#[test]
fn unwraps_are_found_outside_of_tests_only() {
    let text = format!(
        "fn a() {{\n    b(){UNWRAP};\n    // c(){UNWRAP}\n}}\n\
         #[cfg(test)]\nmod tests {{\n    fn d() {{\n        e(){UNWRAP};\n    }}\n}}\n\
         #[cfg(test)]\nuse f;\n\
         fn g() {{ h(\"https://i\"){UNWRAP} }}\n"
    );
    let found = |is_test| {
        let complaints = check_unwraps("a.rs", &text, is_test);
        complaints
            .iter()
            .filter_map(|found| found.split(':').nth(1)?.parse::<usize>().ok())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(false), vec![2, 13]);
    assert_eq!(found(true), Vec::<usize>::new());
    assert!(is_test_path("engine/tests/a.rs") && !is_test_path("engine/src/tests.rs"));
    let declared = out_of_line_tests("a/src/b/mod.rs", "mod c;\n#[cfg(test)]\nmod d;\n");
    assert_eq!(declared, ["a/src/b/d"]);
    assert_eq!(
        out_of_line_tests("a/b.rs", "#[cfg(test)]\nmod tests;\n"),
        ["a/b/tests"]
    );
    assert!(is_in("a/b/d.rs", "a/b/d") && is_in("a/b/d/e.rs", "a/b/d"));
    assert!(!is_in("a/b/de.rs", "a/b/d"));
}

#[test]
fn pages_name_only_files_that_are_there() {
    let page =
        "See `src/a.rs`, `src/b.rs`, `a/b`, [c](docs/c.md#d), [e](https://e/f) and [g](g.md).";
    let exists = |name: &str| name == "src/a.rs" || name == "g.md";
    let expected = ["src/b.rs", "docs/c.md"]
        .map(|name| format!("A.md: names a file that is not there: {name}"));
    assert_eq!(check_names("A.md", page, exists), expected);
}

#[test]
fn pages_about_faults_name_only_tests_that_are_there() {
    let rows: String = (1..FAULTS)
        .map(|number| format!("| F{number:02} | x |\n"))
        .collect();
    let page = format!("\n{rows}`a.rs::one`, `a.rs::two`, `b.rs::one`, `no test`");
    let file = |path: &str| (path == "a.rs").then(|| "fn one() {}".to_owned());
    let complaints = check_faults("x.md", &page, file);
    let expected = [
        "x.md: has no row for F85",
        "x.md: names a test that is not there: a.rs::two",
        "x.md: names a test that is not there: b.rs::one",
    ];
    assert_eq!(complaints, expected);
}

#[test]
fn wire_types_are_found_outside_of_sockets() {
    let text = "use kiln_proto::{convert, wire};\n// wire::Job\nfn a(job: wire::Job) {}\n\
                let wire = \"on the wire\";\n";
    let place = "a generated wire type outside of a socket";
    let expected = [1, 3].map(|line| format!("driver/src/a.rs:{line}: {place}"));
    assert_eq!(check_wire_types("driver/src/a.rs", text), expected);
    assert_eq!(check_wire_types("driver/src/service.rs", text), [""; 0]);
    assert_eq!(check_wire_types("proto/src/convert/job.rs", text), [""; 0]);
}

#[test]
fn crates_depend_downwards() {
    let manifest = "[workspace.dependencies]\nkiln-driver = 1\n[dependencies]\n\
                    kiln-engine.workspace = true\narrow = 1\n[dev-dependencies]\n\
                    kiln-driver = { path = \"x\" }\n[features]\nkiln-proto = []\n";
    let complaints = check_dependencies("kiln-proto", manifest, &["kiln-engine"]);
    assert_eq!(complaints, ["kiln-proto must not depend on kiln-driver"]);
    let members = check_members("[workspace]\nmembers = [\"proto\", \"attic\"]\n");
    assert_eq!(
        members,
        ["Cargo.toml: member \"attic\" is not in the table of crates"]
    );
}

#[test]
fn modules_import_upwards() {
    let lib = "//! A.\npub mod a;\nmod b;\n#[cfg(test)]\nmod fixture;\npub(crate) mod c;\n";
    assert_eq!(modules(lib), ["a", "b", "c"]);
    let b = "//! B.\nuse crate::a::X;\nuse crate::{Error, a, c::{Y, a}};\nuse crate::{\n    \
             a::Z,\n    c,\n};\n// crate::c\nfn f(x: crate::c::Y, y: crate::b::Z) {}\n\
             #[cfg(test)]\nmod tests {\n    use crate::c;\n}\n";
    let names: Vec<String> = imports(b)
        .into_iter()
        .map(|(number, name)| format!("{number}{name}"))
        .collect();
    assert_eq!(names, ["2a", "3Error", "3a", "3c", "5a", "6c", "9c", "9b"]);
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [file("x/src/lib.rs", lib), file("x/src/b/d.rs", b)];
    let complaints = check_direction("x", &files, &BTreeSet::new());
    let expected = [3, 6, 9]
        .map(|line| format!("x/src/b/d.rs:{line}: `b` imports from `c`, which is listed below it"));
    assert_eq!(complaints, expected);
    let tests = BTreeSet::from(["x/src/b".to_owned()]);
    assert_eq!(check_direction("x", &files, &tests), [""; 0]);
}
