//! Text sources against the standard library's idea of lines and words.

use std::io::Write;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::record_batch::RecordBatch;
use expect_test::expect;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::error::ErrorKind;
use crate::memory::MemoryBudget;
use crate::plan::TextRecord;
use crate::storage::ShuffleStore;
use crate::storage::{OverflowStore, Stores, local_url};

fn context() -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("two threads");
    TaskContext {
        pool: Arc::new(pool),
        memory: MemoryBudget::new(1 << 30),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::in_memory(OverflowStore::new(1 << 20, None, None)),
        metrics: Arc::default(),
        cancel: crate::context::CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

fn spec(record: TextRecord, strict: bool, projection: &[usize]) -> ScanSpec {
    let field = |name, data_type| Field::new(name, data_type, false);
    let fields = match record {
        TextRecord::Word => vec![field("word", DataType::Utf8View)],
        TextRecord::Line => vec![
            field("path", DataType::Utf8View),
            field("offset", DataType::Int64),
            field("line", DataType::Utf8View),
        ],
    };
    ScanSpec {
        format: ScanFormat::Text(TextOptions { record, strict }),
        file_schema: Arc::new(Schema::new(fields)),
        projection: projection.to_vec(),
        predicate: None,
        key_filters: Vec::new(),
        files: Vec::new(),
        tasks: Vec::new(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .build()
        .expect("a runtime with one thread")
}

/// Writes an object.
fn put(ctx: &TaskContext, url: &str, content: &[u8]) {
    let (store, path) = ctx.stores.get(url).expect("the URL has a store");
    let written = runtime().block_on(store.put(&path, PutPayload::from(content.to_vec())));
    written.expect("the object is written");
}

/// Every batch of `splits`.
fn read(spec: &ScanSpec, splits: Vec<Split>, ctx: &TaskContext) -> Result<Vec<RecordBatch>> {
    let runtime = runtime();
    let mut stream = open(spec, splits, ctx)?;
    let mut batches = Vec::new();
    while let Some(morsel) = runtime.block_on(stream.next()) {
        morsel?.1(&mut |batch| {
            assert!((1..=limits::BATCH_ROWS).contains(&batch.num_rows()));
            batches.push(batch);
            Ok(())
        })?;
    }
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(ctx.metrics.counts().rows_in, rows as u64);
    Ok(batches)
}

fn words(batches: &[RecordBatch]) -> Vec<String> {
    let words = batches
        .iter()
        .flat_map(|batch| batch.column(0).as_string_view());
    let mut words: Vec<String> = words.flatten().map(str::to_owned).collect();
    words.sort();
    words
}

type Line = (String, i64, String);

fn lines(batches: &[RecordBatch]) -> Vec<Line> {
    let mut lines = Vec::new();
    for batch in batches {
        let paths = batch["path"].as_string_view();
        let offsets = batch["offset"].as_primitive::<Int64Type>();
        let texts = batch["line"].as_string_view();
        for row in 0..batch.num_rows() {
            let (path, line) = (paths.value(row).to_owned(), texts.value(row).to_owned());
            lines.push((path, offsets.value(row), line));
        }
    }
    lines.sort();
    lines
}

/// What the lines of `content` are.
fn expected_lines(path: &str, content: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut offset = 0;
    for record in content.split_inclusive(|byte| *byte == b'\n') {
        let line = record
            .strip_suffix(b"\n")
            .map_or(record, |line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.push((
            path.to_owned(),
            offset,
            String::from_utf8_lossy(line).into_owned(),
        ));
        offset += record.len() as i64;
    }
    lines
}

fn whole(path: &Path) -> Split {
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    Split {
        url: local_url(path),
        file_bytes: bytes,
        start: 0,
        end: bytes,
    }
}

fn random_cuts(rng: &mut fastrand::Rng, whole: &Split) -> Vec<Split> {
    let mut cuts: Vec<u64> = (0..rng.usize(..12))
        .map(|_| rng.u64(0..=whole.end))
        .collect();
    cuts.extend([0, whole.end]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|at| Split {
            start: at[0],
            end: at[1],
            ..whole.clone()
        })
        .collect()
}

fn random_content(rng: &mut fastrand::Rng) -> Vec<u8> {
    const PIECES: [&[u8]; 12] = [
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"word",
        b"a longer word-of-some-length",
        "žluťoučký".as_bytes(),
        "\u{2003}".as_bytes(),
        "日本語".as_bytes(),
        b"\r",
        b"\xff\xfe",
        b"\xe6\x97",
    ];
    let pieces = if rng.bool() { 10 } else { PIECES.len() };
    let mut content = Vec::new();
    for _ in 0..rng.usize(..400) {
        match rng.u8(..) {
            0 => content.extend(vec![b'x'; rng.usize(..60_000)]),
            _ => content.extend_from_slice(PIECES[rng.usize(..pieces)]),
        }
    }
    content
}

#[test]
fn records_of_any_cut_are_those_of_the_whole() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ctx = context();
        let (mut splits, mut all_words, mut all_lines) = (Vec::new(), Vec::new(), Vec::new());
        for file in 0..rng.usize(1..5) {
            let content = random_content(&mut rng);
            let path = directory.path().join(format!("file {file}.txt"));
            std::fs::write(&path, &content).expect("the file is written");
            let mut split = whole(&path);
            let mut name = path.display().to_string();
            if rng.bool() {
                name = format!("memory:///{seed}/{file}");
                put(&ctx, &name, &content);
                split.url.clone_from(&name);
            }
            splits.extend(random_cuts(&mut rng, &split));
            all_lines.extend(expected_lines(&name, &content));
            let text = String::from_utf8_lossy(&content).into_owned();
            all_words.extend(text.split_whitespace().map(str::to_owned));
        }
        all_words.sort();
        all_lines.sort();
        rng.shuffle(&mut splits);
        let bytes = splits
            .iter()
            .map(|split| split.end - split.start)
            .sum::<u64>();
        let found = read(&spec(TextRecord::Word, false, &[0]), splits.clone(), &ctx);
        assert_eq!(words(&found.expect("it is read")), all_words, "seed={seed}");
        assert_eq!(ctx.metrics.counts().bytes_in, bytes);
        let ctx = TaskContext {
            metrics: Arc::default(),
            ..ctx
        };
        let found = read(&spec(TextRecord::Line, false, &[0, 1, 2]), splits, &ctx);
        assert_eq!(lines(&found.expect("it is read")), all_lines, "seed={seed}");
    }
}

/// More than a morsel of lines.
fn large_text() -> String {
    let words = (0..400_000).map(|n| format!("{n:x}{}", if n % 9 == 0 { '\n' } else { ' ' }));
    words.collect()
}

#[test]
fn a_large_file_is_cut_into_morsels() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("large");
    let text = large_text();
    std::fs::write(&path, &text).expect("the file is written");
    let ctx = context();
    let found = read(
        &spec(TextRecord::Word, false, &[0]),
        vec![whole(&path)],
        &ctx,
    );
    let mut expected: Vec<&str> = text.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(words(&found.expect("it is read")), expected);
    assert_eq!(
        ctx.metrics.counts().gets,
        1 + (text.len() as u64).div_ceil(1 << 20)
    );
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn bzip2(text: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("memory takes it");
    encoder
        .include_checksum(true)
        .expect("a checksum is possible");
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

type Encode = fn(&[u8]) -> Vec<u8>;

const CODECS: [(&str, Encode); 3] = [("gzip", gzip), ("zstd", zstd), ("bzip2", bzip2)];

#[test]
fn compressed_files_of_several_parts_are_one_text() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = large_text();
    let (first, second) = text.split_at(text.len() / 3);
    for (name, encode) in CODECS {
        let ctx = context();
        let path = directory.path().join(name);
        let encoded = [encode(first.as_bytes()), encode(second.as_bytes())].concat();
        assert!(is_compressed(&encoded));
        std::fs::write(&path, &encoded).expect("the file is written");
        let found = read(
            &spec(TextRecord::Line, false, &[0, 1, 2]),
            vec![whole(&path)],
            &ctx,
        );
        let mut expected = expected_lines(&path.display().to_string(), text.as_bytes());
        expected.sort();
        assert_eq!(lines(&found.expect("it is read")), expected, "{name}");
        assert_eq!(ctx.metrics.counts().bytes_in, encoded.len() as u64);
        let url = format!("memory:///{name}");
        put(&ctx, &url, &encoded);
        let bytes = encoded.len() as u64;
        let split = Split {
            url,
            file_bytes: bytes,
            start: 0,
            end: bytes,
        };
        let ctx = TaskContext {
            metrics: Arc::default(),
            ..ctx
        };
        let found = read(&spec(TextRecord::Word, false, &[0]), vec![split], &ctx);
        assert_eq!(words(&found.expect("it is read")).len(), 400_000, "{name}");
    }
}

fn message(result: Result<Vec<RecordBatch>>, directory: &Path) -> String {
    let error = result.expect_err("the input is bad");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error
        .message()
        .replace(&directory.display().to_string(), "DIR")
}

#[test]
fn damaged_streams_name_file_and_compression() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut messages = String::new();
    for text in [&b"a few words\n"[..], large_text().as_bytes()] {
        for (name, encode) in CODECS {
            let encoded = encode(text);
            let mut damaged = encoded.clone();
            damaged[encoded.len() / 2..]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x55);
            for bytes in [&encoded[..encoded.len() - 5], &damaged] {
                let path = directory.path().join(name);
                std::fs::write(&path, bytes).expect("the file is written");
                let read = read(
                    &spec(TextRecord::Line, false, &[2]),
                    vec![whole(&path)],
                    &context(),
                );
                messages += &message(read, directory.path());
                messages.push('\n');
            }
        }
    }
    expect![[r#"
        cannot read compressed text: gzip stream ends early file=DIR/gzip
        cannot read compressed text: gzip stream is damaged file=DIR/gzip
        cannot read compressed text: zstd stream ends early file=DIR/zstd
        cannot read compressed text: zstd stream is damaged file=DIR/zstd
        cannot read compressed text: bzip2 stream ends early file=DIR/bzip2
        cannot read compressed text: bzip2 stream is damaged file=DIR/bzip2
        cannot read compressed text: gzip stream ends early file=DIR/gzip
        cannot read compressed text: gzip stream is damaged file=DIR/gzip
        cannot read compressed text: zstd stream ends early file=DIR/zstd
        cannot read compressed text: zstd stream is damaged file=DIR/zstd
        cannot read compressed text: bzip2 stream ends early file=DIR/bzip2
        cannot read compressed text: bzip2 stream is damaged file=DIR/bzip2
    "#]]
    .assert_eq(&messages);
}

#[test]
fn a_compressed_object_that_lost_whole_members_is_refused() {
    for (name, encode) in CODECS {
        let ctx = context();
        let url = format!("memory:///in/{name}");
        let member = encode(b"a few words\n");
        put(&ctx, &url, &member);
        let file_bytes = 2 * member.len() as u64;
        let split = Split {
            url,
            file_bytes,
            start: 0,
            end: file_bytes,
        };
        let spec = spec(TextRecord::Line, false, &[2]);
        // A file that is small is read as it was listed, a larger one from end to end.
        let small = read(&spec, vec![split.clone()], &ctx).expect_err("half of it is missing");
        assert_eq!(small.kind(), ErrorKind::Invalid, "{name}: {small}");
        let padded = Split {
            file_bytes: 2 << 20,
            end: 2 << 20,
            ..split
        };
        let large = read(&spec, vec![padded], &ctx).expect_err("most of it is missing");
        assert!(large.message().contains("ends early"), "{name}: {large}");
    }
}

#[test]
fn a_huge_record_is_reserved_or_refused_by_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let line = [vec![b'x'; 8 << 20], b"\nend\n".to_vec()].concat();
    let content = [b"start\n", &line[..]].concat();
    for (name, bytes) in [("plain", content.clone()), ("gzip", gzip(&content))] {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("the file is written");
        let with = |memory| TaskContext {
            memory: MemoryBudget::new(memory),
            ..context()
        };
        let spec = spec(TextRecord::Line, false, &[1, 2]);
        let ctx = with(1 << 20);
        let error = read(&spec, vec![whole(&path)], &ctx).expect_err("it does not fit");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        let place = format!("file={} offset=", path.display());
        assert!(error.message().contains(&place), "{error}");

        let ctx = with(64 << 20);
        let found = read(&spec, vec![whole(&path)], &ctx).expect("it fits");
        let lines = found.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(lines, 3, "{name}");
        assert!(ctx.memory.used() >= 6 << 20, "{name}: the line is held");
        drop(found);
        assert_eq!(ctx.memory.used(), 0, "{name}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let here = directory.path();
    let path = here.join("short");
    std::fs::write(&path, "words").expect("the file is written");
    let wrong = |split| {
        message(
            read(
                &spec(TextRecord::Word, false, &[0]),
                vec![split],
                &context(),
            ),
            here,
        )
    };
    let split = |path: &Path| Split {
        file_bytes: 100,
        end: 100,
        ..whole(path)
    };
    expect!["cannot read DIR/gone: no such file or directory"]
        .assert_eq(&wrong(split(&here.join("gone"))));
    expect!["cannot read DIR: is a directory"].assert_eq(&wrong(split(here)));
    expect!["cannot read DIR/short: it became shorter meanwhile"].assert_eq(&wrong(split(&path)));
    let remote = Split {
        url: "memory:///gone".to_owned(),
        ..split(&path)
    };
    expect!["cannot read memory:///gone: no such file or directory"].assert_eq(&wrong(remote));
}

#[test]
fn ends_and_marks_are_taken_off_lines() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    let lines_of = |content: &[u8]| {
        std::fs::write(&path, content).expect("the file is written");
        let found = read(
            &spec(TextRecord::Line, false, &[2, 1, 0]),
            vec![whole(&path)],
            &context(),
        );
        let lines = lines(&found.expect("it is read"));
        lines
            .into_iter()
            .map(|(_, offset, line)| format!("{offset}:{line:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines_of(b""), Vec::<String>::new());
    assert_eq!(
        lines_of(b"a\r\n\r\nb\n\n"),
        ["0:\"a\"", "3:\"\"", "5:\"b\"", "7:\"\""]
    );
    assert_eq!(lines_of(b"a\nlast\r"), ["0:\"a\"", "2:\"last\\r\""]);
    assert_eq!(
        lines_of("\u{feff}a\n\u{feff}".as_bytes()),
        ["3:\"a\"", "5:\"\\u{feff}\""]
    );
    assert_eq!(lines_of("\u{feff}".as_bytes()), Vec::<String>::new());
}

#[test]
fn only_projected_columns_are_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    std::fs::write(&path, "a b\nc\n").expect("the file is written");
    let of = |record, projection: &[usize]| {
        let found = read(
            &spec(record, false, projection),
            vec![whole(&path)],
            &context(),
        );
        let batch = found.expect("it is read").remove(0);
        (batch.num_rows(), batch.num_columns())
    };
    assert_eq!(of(TextRecord::Line, &[1]), (2, 1));
    assert_eq!(of(TextRecord::Line, &[]), (2, 0));
    assert_eq!(of(TextRecord::Word, &[]), (3, 0));
}

#[test]
fn invalid_utf8_is_counted_or_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("binary");
    std::fs::write(&path, b"fine\nb\xc3d \xe6\x97\nlast\xff\xff\n").expect("the file is written");
    let ctx = context();
    let found = read(
        &spec(TextRecord::Line, false, &[0, 1, 2]),
        vec![whole(&path)],
        &ctx,
    );
    let lines: Vec<String> = lines(&found.expect("it is read"))
        .into_iter()
        .map(|l| l.2)
        .collect();
    assert_eq!(
        lines,
        ["fine", "b\u{fffd}d \u{fffd}", "last\u{fffd}\u{fffd}"]
    );
    let warnings = ctx.metrics.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (warnings[0].count, &*warnings[0].message),
        (4, "invalid UTF-8 replaced")
    );
    let strict = read(
        &spec(TextRecord::Word, true, &[0]),
        vec![whole(&path)],
        &context(),
    );
    expect!["text is not valid UTF-8 file=DIR/binary offset=6"]
        .assert_eq(&message(strict, directory.path()));
}

#[test]
fn small_splits_are_packed_and_large_ones_cut() {
    let split = |name: &str, file_bytes, start, end| {
        let url = name.to_owned();
        Split {
            url,
            file_bytes,
            start,
            end,
        }
    };
    let mib = limits::TEXT_MORSEL_BYTES;
    let mut splits: Vec<Split> = (0..20).map(|_| split("small", 10, 0, 10)).collect();
    splits.push(split("half", mib, 0, mib / 2));
    splits.push(split("exact", mib, 0, mib));
    splits.push(split("file", 2 * mib + 1, 0, 2 * mib + 1));
    splits.push(split("slice", 9 * mib, mib, 2 * mib + 7));
    splits.push(split("empty", 0, 0, 0));
    let shown = units(splits).map(|unit| match unit {
        Unit::File(split) => format!("whole {}\n", split.url),
        Unit::Pieces(pieces) => {
            let bytes: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
            format!("{} of {} {bytes}\n", pieces.len(), pieces[0].url)
        }
    });
    expect![[r#"
        15 of small 150
        6 of small 524338
        1 of exact 1048576
        whole file
        1 of slice 1048576
        1 of slice 7
        1 of empty 0
    "#]]
    .assert_eq(&shown.collect::<String>());
}
