//! What a commit on a file system makes of what is there, mode by mode.

use std::fs;

use kiln_engine::ErrorKind;
use kiln_engine::plan::{FileFormat, Output, OutputFile, OutputOptions};
use kiln_engine::storage::{Stores, local_path, local_url, staging_url};

use super::super::{commit, discard, prepare};
use super::*;

/// An output in a directory of its own, and the job that makes it.
pub(super) struct Job {
    pub(super) directory: tempfile::TempDir,
    stores: Stores,
    pub(super) id: JobId,
    pub(super) output: Output,
}

impl Job {
    /// A job whose attempts have written `a` and `b`, which won, and `c`, which lost.
    async fn written() -> Self {
        let job = Job::new();
        job.write().await;
        job
    }

    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = local_url(&directory.path().join("deep/out"));
        let output = Output {
            url,
            format: FileFormat::Csv,
            options: OutputOptions::default(),
        };
        Job {
            directory,
            stores: Stores::new(),
            id: JobId::new(7),
            output,
        }
    }

    /// The next job with the same output.
    pub(super) fn next(mut self, mode: OutputMode) -> Self {
        self.id = JobId::new(self.id.value() + 1);
        self.output.options.mode = mode;
        self
    }

    pub(super) async fn write(&self) {
        prepare(&self.stores, self.id, &self.output)
            .await
            .expect("prepared");
        for (name, text) in [("a", "first"), ("b", "second"), ("c", "lost")] {
            fs::write(self.staging().join(name), text).expect("a file");
        }
    }

    pub(super) fn target(&self) -> PathBuf {
        self.directory.path().join("deep/out")
    }

    pub(super) fn staging(&self) -> PathBuf {
        let url = staging_url(&self.output.url, self.id).expect("a staging directory");
        local_path(&url).expect("a local one")
    }

    pub(super) fn won() -> Vec<OutputFile> {
        let file = |name: &str, rows, bytes| OutputFile {
            name: name.to_owned(),
            rows,
            bytes,
            checksum: u64::MAX - rows,
            pending: None,
        };
        vec![file("b", 2, 6), file("a", 1, 5)]
    }

    pub(super) async fn commit(&self) -> Result<Vec<OutputFile>> {
        commit(&self.stores, self.id, &self.output, Job::won()).await
    }

    pub(super) async fn discard(&self) {
        let discarded = discard(&self.stores, self.id, &self.output).await;
        discarded.expect("discarded");
    }

    async fn prepare_fails(&self) -> String {
        let prepared = prepare(&self.stores, self.id, &self.output).await;
        let error = prepared.expect_err("it cannot be written");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().replace(&self.output.url, "OUT")
    }

    /// Everything below the test's directory, hidden names included.
    pub(super) fn tree(&self) -> Vec<String> {
        tree(self.directory.path())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.target().join(name)).expect(name)
    }
}

/// Every file below `root`, and every directory that has none.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        let mut is_empty = true;
        for entry in fs::read_dir(&directory).expect("a directory") {
            is_empty = false;
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => left.push(path),
                false => found.push(path),
            }
        }
        if is_empty {
            found.push(directory);
        }
    }
    let name = |path: PathBuf| {
        let path = path.strip_prefix(root).expect("below it");
        path.display().to_string()
    };
    let mut found: Vec<String> = found.into_iter().map(name).collect();
    found.sort();
    found
}

pub(super) const COMMITTED: [&str; 4] = [
    "deep/out/_SUCCESS",
    "deep/out/_manifest.json",
    "deep/out/part-00000.csv",
    "deep/out/part-00001.csv",
];

#[tokio::test]
async fn winners_get_their_names_and_the_rest_goes() {
    let job = Job::written().await;
    let files = job.commit().await.expect("committed");
    assert_eq!(job.tree(), COMMITTED);
    assert_eq!(
        files.iter().map(|file| file.rows).collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(job.read("part-00000.csv"), "second");
    expect_test::expect![[r#"
        {
          "version": 1,
          "job": "000000000007",
          "format": "csv",
          "rows": 3,
          "bytes": 11,
          "files": [
            {
              "name": "part-00000.csv",
              "rows": 2,
              "bytes": 6,
              "xxh3": "fffffffffffffffd"
            },
            {
              "name": "part-00001.csv",
              "rows": 1,
              "bytes": 5,
              "xxh3": "fffffffffffffffe"
            }
          ]
        }
    "#]]
    .assert_eq(&job.read(MANIFEST));
}

#[tokio::test]
async fn files_in_directories_stay_in_them() {
    let job = Job::written().await;
    fs::create_dir(job.staging().join("errors")).expect("a directory");
    fs::rename(job.staging().join("b"), job.staging().join("errors/b")).expect("moved");
    let mut files = Job::won();
    files[0].name = "errors/b".to_owned();
    for _ in 0..2 {
        let committed = commit(&job.stores, job.id, &job.output, files.clone()).await;
        let names: Vec<String> = committed
            .expect("committed")
            .into_iter()
            .map(|file| file.name)
            .collect();
        assert_eq!(names, ["errors/part-00000.csv", "part-00000.csv"]);
    }
    let expected = [
        "deep/out/_SUCCESS",
        "deep/out/_manifest.json",
        "deep/out/errors/part-00000.csv",
        "deep/out/part-00000.csv",
    ];
    assert_eq!(job.tree(), expected);

    // What is added goes beside what is there, in the same directories.
    let job = job.next(OutputMode::Append);
    job.write().await;
    fs::create_dir(job.staging().join("errors")).expect("a directory");
    fs::rename(job.staging().join("b"), job.staging().join("errors/b")).expect("moved");
    let committed = commit(&job.stores, job.id, &job.output, files).await;
    committed.expect("committed");
    let expected = [
        "deep/out/_SUCCESS",
        "deep/out/_manifest.json",
        "deep/out/errors/part-00000.csv",
        "deep/out/errors/part-000000000008-00000.csv",
        "deep/out/part-00000.csv",
        "deep/out/part-000000000008-00000.csv",
    ];
    assert_eq!(job.tree(), expected);
}

#[tokio::test]
async fn an_output_that_is_there_stays() {
    let job = Job::new();
    fs::create_dir_all(job.target()).expect("an empty directory");
    prepare(&job.stores, job.id, &job.output)
        .await
        .expect("an empty directory is none");

    let job = Job::new();
    fs::create_dir_all(job.target().join("x")).expect("a directory");
    assert_eq!(job.prepare_fails().await, "output already exists url=OUT");

    for is_file in [true, false] {
        let job = Job::written().await;
        match is_file {
            true => fs::write(job.target(), "a file").expect("a file"),
            false => fs::create_dir_all(job.target().join("x")).expect("a directory"),
        }
        let error = job.commit().await.expect_err("it is there");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        job.discard().await;
        let left = if is_file { "deep/out" } else { "deep/out/x" };
        assert_eq!(job.tree(), [left]);
    }
}

#[tokio::test]
async fn an_output_is_replaced_as_a_whole() {
    let mut job = Job::written().await;
    job.commit().await.expect("committed");
    for number in [8, 9] {
        job = job.next(OutputMode::Overwrite);
        job.write().await;
        let files = job.commit().await.expect("committed");
        assert_eq!(files[0].name, format!("part-00000000000{number}-00000.csv"));
        let expected = [
            "deep/out/_SUCCESS".to_owned(),
            "deep/out/_manifest.json".to_owned(),
            format!("deep/out/part-00000000000{number}-00000.csv"),
            format!("deep/out/part-00000000000{number}-00001.csv"),
        ];
        assert_eq!(job.tree(), expected);
    }
}

#[tokio::test]
async fn files_are_added_and_the_manifest_tells_of_all() {
    let job = Job::new().next(OutputMode::Append);
    job.write().await;
    job.commit().await.expect("committed where nothing is");
    let job = job.next(OutputMode::Append);
    job.write().await;
    for _ in 0..2 {
        job.commit().await.expect("committed");
    }
    let expected = [
        "deep/out/_SUCCESS",
        "deep/out/_manifest.json",
        "deep/out/part-000000000008-00000.csv",
        "deep/out/part-000000000008-00001.csv",
        "deep/out/part-000000000009-00000.csv",
        "deep/out/part-000000000009-00001.csv",
    ];
    assert_eq!(job.tree(), expected);
    let manifest = Manifest::from_json(job.read(MANIFEST).as_bytes()).expect("a manifest");
    assert_eq!(manifest.job, "000000000008");
    assert_eq!(manifest.appended, ["000000000009"]);
    assert_eq!((manifest.rows, manifest.bytes), (6, 22));
    assert_eq!(manifest.files.len(), 4);
}

#[tokio::test]
async fn only_an_output_is_written_over() {
    for mode in [OutputMode::Overwrite, OutputMode::Append] {
        let job = Job::new().next(mode);
        fs::create_dir_all(job.target()).expect("a directory");
        fs::write(job.target().join("mine.txt"), "mine").expect("a file");
        assert_eq!(
            job.prepare_fails().await,
            "cannot write over the output: Kiln did not write it: there is no _manifest.json \
             url=OUT"
        );

        let job = Job::written().await;
        job.commit().await.expect("committed");
        let job = job.next(mode);
        job.write().await;
        fs::write(job.target().join("mine.txt"), "mine").expect("a file");
        let strange =
            "cannot write over the output: a file in it is not Kiln's name=mine.txt url=OUT";
        assert_eq!(job.prepare_fails().await, strange);
        // It may also have come since the job was planned.
        let error = job.commit().await.expect_err("not only ours");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.message().replace(&job.output.url, "OUT"), strange);
        job.discard().await;
        let mut expected = COMMITTED.map(str::to_owned).to_vec();
        expected.insert(2, "deep/out/mine.txt".to_owned());
        assert_eq!(job.tree(), expected);

        let job = Job::new().next(mode);
        fs::create_dir_all(job.directory.path().join("deep")).expect("a directory");
        fs::write(job.target(), "a file").expect("a file");
        assert_eq!(
            job.prepare_fails().await,
            "cannot write over the output: it is not a directory url=OUT"
        );
    }
    let job = Job::written().await;
    job.commit().await.expect("committed");
    let mut job = job.next(OutputMode::Append);
    job.output.format = FileFormat::Json;
    assert_eq!(
        job.prepare_fails().await,
        "the output has files of another format url=OUT expected=csv found=json"
    );
}

#[tokio::test]
async fn two_jobs_take_turns() {
    let job = Job::written().await;
    job.commit().await.expect("committed");
    let job = job.next(OutputMode::Append);
    job.write().await;
    let claim = job.target().with_file_name(".out.kiln-commit");
    fs::create_dir(&claim).expect("a directory");
    let other = claim.join(JobId::new(1).to_string());
    fs::write(&other, "").expect("a file");
    let error = job.commit().await.expect_err("it is the other's turn");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error
            .message()
            .replace(&job.directory.path().display().to_string(), "DIR"),
        "another job is putting its output in place url=file://DIR/deep/out \
         claim=DIR/deep/.out.kiln-commit"
    );
    // Discarding gives up nothing that belongs to another.
    job.discard().await;
    assert!(other.exists());
    job.write().await;
    fs::remove_file(other).expect("removed");
    job.commit().await.expect("an empty claim is nobody's");
    assert_eq!(job.tree().len(), 6);
}

#[tokio::test]
async fn a_file_that_is_gone_or_cut_stops_the_commit() {
    let job = Job::written().await;
    fs::remove_file(job.staging().join("a")).expect("removed");
    let error = job.commit().await.expect_err("a is gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("name=a"), "{}", error.report());
    assert!(!job.target().exists());

    let job = Job::written().await;
    fs::write(job.staging().join("a"), "fir").expect("cut");
    let error = job.commit().await.expect_err("a is cut");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("expected=5 found=3"));
    assert!(!job.target().exists());
    job.discard().await;
    job.discard().await;
    assert_eq!(job.tree(), ["deep"]);
}

#[tokio::test]
async fn names_that_lead_out_of_the_staging_directory_are_refused() {
    let job = Job::written().await;
    for name in [
        "../a",
        "..",
        "x/../a",
        "x/y/z",
        "_ready-1",
        "_ready-1/a",
        ".hidden",
        "/a",
        "",
    ] {
        let mut files = Job::won();
        files[0].name = name.to_owned();
        let error = commit(&job.stores, job.id, &job.output, files)
            .await
            .expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}

#[tokio::test]
async fn a_parent_that_is_a_file_is_named() {
    let job = Job::new();
    fs::write(job.directory.path().join("deep"), "").expect("a file");
    let error = prepare(&job.stores, job.id, &job.output)
        .await
        .expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.message().contains(&job.output.url),
        "{}",
        error.report()
    );
}
