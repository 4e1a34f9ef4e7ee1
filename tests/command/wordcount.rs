//! `kiln run wordcount` against a plain single-threaded count of the same bytes.

use std::io::Write as _;

use crate::support::{count_plainly, make_text, run_ok, sorted_keys, top_json, write};

const TOP: usize = 500;

/// A directory of input files and what they hold, uncompressed.
struct Corpus {
    directory: tempfile::TempDir,
    texts: Vec<Vec<u8>>,
}

impl Corpus {
    fn new() -> Self {
        Corpus {
            directory: tempfile::tempdir().expect("a temporary directory"),
            texts: vec![],
        }
    }

    fn add(&mut self, name: &str, text: &[u8]) {
        self.add_stored(name, text, text);
    }

    fn add_stored(&mut self, name: &str, text: &[u8], stored: &[u8]) {
        write(self.directory.path(), name, stored);
        self.texts.push(text.to_vec());
    }

    /// Counts the files both ways; `args` come before the directory.
    fn check(&self, args: &[&str]) {
        let directory = self.directory.path().display().to_string();
        let top = TOP.to_string();
        let mut all = vec!["run", "wordcount", "--json", "--top", &top];
        all.extend(args);
        all.push(&directory);
        let expected = count_plainly(self.texts.iter().map(Vec::as_slice));
        let found = sorted_keys(&run_ok(all));
        // Not assert_eq: two texts of 500 lines say less than the first difference.
        let expected = sorted_keys(&top_json(&expected, TOP));
        let differs = found
            .lines()
            .zip(expected.lines())
            .position(|(a, b)| a != b);
        assert!(
            found == expected,
            "first difference at line {differs:?} of {}:\n{:?}\n{:?}",
            expected.lines().count(),
            differs.and_then(|at| found.lines().nth(at)),
            differs.and_then(|at| expected.lines().nth(at)),
        );
    }
}

#[test]
fn small_texts_with_every_kind_of_line_end() {
    let texts: [&[u8]; 8] = [
        b"",
        b"\n",
        b"one",
        b"one two\nthree",
        b"one\r\ntwo\r\n",
        b"\r\n\r\n one \r\n",
        b"tab\tvertical\x0bform\x0cfeed\x1cnot\x1dspace",
        "no\u{a0}break\u{85}next\u{2028}line\u{3000}wide\u{200b}zero".as_bytes(),
    ];
    for text in texts {
        let mut corpus = Corpus::new();
        corpus.add("a.txt", text);
        corpus.check(&[]);
    }
    let mut corpus = Corpus::new();
    for (at, text) in texts.iter().enumerate() {
        corpus.add(&format!("{at}.txt"), text);
    }
    corpus.check(&[]);
}

#[test]
fn compressed_files() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut corpus = Corpus::new();
    let text = make_text(&mut random, 3 << 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).expect("compressing into memory");
    corpus.add_stored(
        "a.gz",
        &text,
        &gzip.finish().expect("compressing into memory"),
    );

    let text = make_text(&mut random, 3 << 20);
    let stored = zstd::encode_all(text.as_slice(), 1).expect("compressing into memory");
    corpus.add_stored("b.txt.zst", &text, &stored);

    let text = make_text(&mut random, 1 << 20);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).expect("compressing into memory");
    corpus.add_stored(
        "c.bz2",
        &text,
        &bzip2.finish().expect("compressing into memory"),
    );

    // Several members one after the other are one text.
    let (first, second) = (
        make_text(&mut random, 10_000),
        make_text(&mut random, 10_000),
    );
    let mut stored = Vec::new();
    for part in [&first, &second] {
        let mut gzip = flate2::write::GzEncoder::new(&mut stored, flate2::Compression::fast());
        gzip.write_all(part).expect("compressing into memory");
        gzip.finish().expect("compressing into memory");
    }
    corpus.add_stored("members.gz", &[first, second].concat(), &stored);
    corpus.check(&["--threads", "2"]);
}

#[test]
fn invalid_utf8_is_replaced_and_told() {
    let mut corpus = Corpus::new();
    corpus.add("good.txt", b"good words\n");
    corpus.add(
        "bad.txt",
        b"caf\xe9 na\xefve caf\xe9\xff\xfe \xf0\x9f\x92 end",
    );
    corpus.check(&[]);
    let said = crate::support::run([
        "run".to_owned(),
        "wordcount".to_owned(),
        corpus.directory.path().display().to_string(),
    ]);
    let warnings: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(warnings.len(), 1, "{said:?}");
    assert!(warnings[0].starts_with("warning: "), "{said:?}");
    assert!(
        warnings[0].contains("bad.txt: ") && warnings[0].contains("invalid UTF-8"),
        "{said:?}"
    );
}

#[test]
fn many_small_files() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut corpus = Corpus::new();
    for at in 0..3000 {
        let bytes = random.usize(..2000);
        let text = make_text(&mut random, bytes);
        corpus.add(&format!("{at}.txt"), &text);
    }
    corpus.check(&["--threads", "2"]);
}

#[test]
fn a_file_that_is_split() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut text = make_text(&mut random, 40 << 20);
    // Words and lines longer than what is read ahead.
    text.extend("x".repeat(300_000).into_bytes());
    text.push(b' ');
    text.extend(
        make_text(&mut random, 5 << 20)
            .into_iter()
            .filter(|&byte| byte != b'\n'),
    );
    let mut corpus = Corpus::new();
    corpus.add("big.txt", &text);
    corpus.check(&["--threads", "2"]);
    corpus.check(&["--threads", "3", "--memory", "1GiB"]);
}

#[test]
fn lower_case() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(
        directory.path(),
        "a.txt",
        "Straße STRASSE straße ÀB àb Àb".as_bytes(),
    );
    let found = run_ok(["run", "wordcount", "--lowercase", "--json", &input]);
    let expected = concat!(
        "{\"count\":3,\"word\":\"àb\"}\n",
        "{\"count\":2,\"word\":\"straße\"}\n",
        "{\"count\":1,\"word\":\"strasse\"}\n",
    );
    assert_eq!(sorted_keys(&found), expected);
}
