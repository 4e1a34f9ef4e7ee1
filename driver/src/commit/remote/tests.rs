//! What a commit in an object store makes of what is there, mode by mode.

use std::sync::Arc;

use kiln_engine::plan::{FileFormat, Output, OutputOptions, upload_record};
use kiln_engine::storage::staging_url;

use super::super::{commit, discard, output_of, prepare, sweep_staging};
use super::stepped::{Stepped, run};
use super::*;

pub(super) const URL: &str = "memory:///deep/out";

/// An output in a store, and the job that makes it.
pub(super) struct World {
    pub(super) store: Stepped,
    pub(super) job: JobId,
    pub(super) output: Output,
    /// The files that won.
    pub(super) files: Vec<OutputFile>,
}

impl World {
    /// A job whose attempts have uploaded two files that won and one that lost.
    pub(super) fn written(mode: OutputMode) -> Self {
        let mut world = World::new(mode);
        world.write();
        world
    }

    pub(super) fn new(mode: OutputMode) -> Self {
        let options = OutputOptions {
            mode,
            ..OutputOptions::default()
        };
        World {
            store: Stepped::new(),
            job: JobId::new(7),
            output: Output {
                url: URL.to_owned(),
                format: FileFormat::Json,
                options,
            },
            files: Vec::new(),
        }
    }

    /// The next job with the same output, whose attempts have written as well.
    pub(super) fn next(&self, mode: OutputMode) -> Self {
        let mut next = World::new(mode);
        next.store = self.store.another(None);
        next.job = JobId::new(self.job.value() + 1);
        next.write();
        next
    }

    pub(super) fn write(&mut self) {
        self.prepare().expect("it can be written");
        let prefix = part_prefix(self.job);
        let names = ["errors/", "", ""];
        let names = names.iter().enumerate();
        let names = names.map(|(number, directory)| format!("{directory}{prefix}{number}.json"));
        let files: Vec<OutputFile> = names.map(|name| self.upload(name)).collect();
        self.files = files[..2].to_vec();
    }

    /// Does what an attempt does with a file.
    fn upload(&self, name: String) -> OutputFile {
        let place = self.place();
        let path = place.at(&name);
        let upload = async {
            let id = self.store.create_multipart(&path).await?;
            let record = place.staged(&upload_record(&name));
            self.store.put(&record, id.clone().into()).await?;
            let text = format!("{:>5}", self.job.value());
            let part = self.store.put_part(&path, &id, 0, text.into()).await?;
            Ok::<_, object_store::Error>(PendingUpload {
                id,
                parts: vec![part.content_id],
            })
        };
        OutputFile {
            rows: 1,
            bytes: 5,
            checksum: 0,
            pending: Some(run(&self.store, upload).expect("memory takes it")),
            name,
        }
    }

    pub(super) fn stores(&self) -> Stores {
        stores(&self.store)
    }

    fn place(&self) -> Place<'static> {
        let staging = staging_url(URL, self.job).expect("a staging directory");
        let mode = self.output.options.mode;
        Place::new(&self.stores(), URL, &staging, self.job, mode).expect("a store")
    }

    fn prepare(&self) -> Result<()> {
        let stores = self.stores();
        run(&self.store, prepare(&stores, self.job, &self.output))
    }

    fn commit(&self) -> Result<Vec<OutputFile>> {
        let stores = self.stores();
        let files = self.files.clone();
        run(&self.store, commit(&stores, self.job, &self.output, files))
    }

    pub(super) fn discard(&self) -> Result<()> {
        let stores = self.stores();
        run(&self.store, discard(&stores, self.job, &self.output))
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        let path = below(&Path::from(&URL[10..]), name);
        let put = self.store.put(&path, text.to_owned().into());
        run(&self.store, put).expect("memory takes it");
    }

    /// The names of what is in the store.
    pub(super) fn tree(&self) -> Vec<String> {
        let objects = self.store.objects().into_iter();
        objects
            .map(|(name, _)| name.trim_start_matches("deep/out/").to_owned())
            .collect()
    }

    pub(super) fn manifest(&self) -> Option<Manifest> {
        Manifest::from_json(&self.store.content("deep/out/_manifest.json")?)
    }
}

pub(super) fn stores(store: &Stepped) -> Stores {
    let stores = Stores::new();
    stores.insert_multipart("memory://", Arc::new(store.clone()));
    stores
}

fn refusal<T>(outcome: Result<T>) -> String {
    let Err(error) = outcome else {
        panic!("it is refused");
    };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.report()
}

const COMMITTED: [&str; 4] = [
    "_SUCCESS",
    "_manifest.json",
    "errors/part-000000000007-0.json",
    "part-000000000007-1.json",
];

#[test]
fn winners_become_visible_and_the_rest_goes() {
    for mode in [
        OutputMode::ErrorIfExists,
        OutputMode::Overwrite,
        OutputMode::Append,
    ] {
        let world = World::written(mode);
        assert_eq!(world.store.open_uploads(), 3);
        for _ in 0..2 {
            let files = world.commit().expect("committed");
            assert_eq!(files, world.files);
            assert_eq!(world.tree(), COMMITTED, "{mode:?}");
            assert_eq!(world.store.open_uploads(), 0);
        }
        let manifest = world.manifest().expect("a manifest");
        assert_eq!((manifest.rows, manifest.bytes), (2, 10));
        // A report that comes late.
        world.discard().expect("nothing to discard");
        assert_eq!(world.tree(), COMMITTED, "{mode:?}");
    }
}

#[test]
fn an_output_is_replaced_or_added_to() {
    let world = World::written(OutputMode::ErrorIfExists);
    world.commit().expect("committed");
    let next = world.next(OutputMode::Append);
    next.commit().expect("committed");
    let mut expected = COMMITTED.map(str::to_owned).to_vec();
    expected.insert(3, "errors/part-000000000008-0.json".to_owned());
    expected.push("part-000000000008-1.json".to_owned());
    assert_eq!(next.tree(), expected);
    let manifest = next.manifest().expect("a manifest");
    assert_eq!(manifest.appended, ["000000000008"]);
    assert_eq!((manifest.files.len(), manifest.bytes), (4, 20));

    let last = next.next(OutputMode::Overwrite);
    last.commit().expect("committed");
    let expected = COMMITTED.map(|name| name.replace("000000000007", "000000000009"));
    assert_eq!(last.tree(), expected);
    assert_eq!(last.manifest().expect("a manifest").files.len(), 2);
    // The job whose files were replaced is asked to commit once more.
    next.commit().expect("it has been committed");
    next.discard().expect("nothing to discard");
    assert_eq!(last.tree(), expected);
}

#[test]
fn an_output_that_is_there_stays() {
    for taken in ["", "x", "_SUCCESS", "_manifest.json"] {
        let world = World::new(OutputMode::ErrorIfExists);
        let (store, path) = (&world.store, format!("deep/out/{taken}"));
        run(store, store.put(&path.as_str().into(), "x".into())).expect("memory takes it");
        let text = refusal(world.prepare());
        assert_eq!(text, "output already exists url=memory:///deep/out");
        assert_eq!(store.objects().len(), 1, "{taken}");

        let world = World::written(OutputMode::ErrorIfExists);
        let store = &world.store;
        run(store, store.put(&path.as_str().into(), "x".into())).expect("memory takes it");
        assert_eq!(refusal(world.commit()), text, "{taken}");
        world.discard().expect("discarded");
        assert_eq!(store.objects().len(), 1, "{taken}");
        assert_eq!(store.open_uploads(), 0);
    }
}

#[test]
fn only_an_output_is_written_over() {
    for mode in [OutputMode::Overwrite, OutputMode::Append] {
        for (name, reason) in [
            ("mine.txt", "a file in it is not Kiln's name=mine.txt"),
            ("x/mine.txt", "a file in it is not Kiln's name=x/mine.txt"),
            ("_manifest.json", "Kiln did not write its _manifest.json"),
        ] {
            let world = World::written(mode);
            world.put(name, "mine");
            let expected = format!("cannot write over the output: {reason} url=memory:///deep/out");
            assert_eq!(refusal(world.commit()), expected);
            let next = World {
                store: world.store.another(None),
                ..World::new(mode)
            };
            assert_eq!(refusal(next.prepare()), expected);
            world.discard().expect("discarded");
            assert_eq!(world.tree(), [name]);
        }
    }
    let world = World::written(OutputMode::ErrorIfExists);
    world.commit().expect("committed");
    let mut next = World {
        store: world.store.another(None),
        ..World::new(OutputMode::Append)
    };
    next.output.format = FileFormat::Csv;
    assert_eq!(
        refusal(next.prepare()),
        "the output has files of another format url=memory:///deep/out expected=json found=csv"
    );
}

#[test]
fn a_claim_that_was_left_behind_is_nobodys() {
    let world = World::written(OutputMode::ErrorIfExists);
    let other = world.next(OutputMode::ErrorIfExists);
    world.put(CLAIM, "{\"job\":\"000000000008\"}");
    let text = refusal(world.commit());
    assert_eq!(text, "output already exists url=memory:///deep/out");
    other.discard().expect("discarded");
    for claim in ["{\"job\":\"000000000009\"}", "{\"jo"] {
        let world = World::written(OutputMode::ErrorIfExists);
        world.put(CLAIM, claim);
        world.commit().expect("committed");
        assert_eq!(world.tree(), COMMITTED);
    }
}

#[test]
fn an_upload_that_is_gone_or_cut_stops_the_commit() {
    let world = World::written(OutputMode::ErrorIfExists);
    let file = &world.files[1];
    let id = &file.pending.as_ref().expect("an upload").id;
    let path = world.place().at(&file.name);
    run(&world.store, world.store.abort_multipart(&path, id)).expect("aborted");
    let error = world.commit().expect_err("an upload is gone");
    assert!(error.message().contains("cannot write"), "{error}");
    assert!(world.manifest().is_none());

    let mut world = World::written(OutputMode::ErrorIfExists);
    world.files[0].bytes = 6;
    let error = world.commit().expect_err("it is too short");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.message().contains("expected=6 found=5"),
        "{}",
        error.report()
    );
    assert!(world.manifest().is_none());
    world.discard().expect("discarded");
    assert_eq!(world.tree(), [""; 0]);
    assert_eq!(world.store.open_uploads(), 0);
}

#[test]
fn names_and_records_lead_nowhere_else() {
    let mut world = World::written(OutputMode::ErrorIfExists);
    for name in [
        "x.json",
        "part-000000000008-1.json",
        "../part-000000000007-1.json",
        "x/y/part-000000000007-1.json",
        "_x/part-000000000007-1.json",
    ] {
        world.files[0].name = name.to_owned();
        let error = world.commit().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    // Whatever is in a staging directory, only files of the job are removed.
    world.put("x", "mine");
    world.put("_staging-000000000007/x.upload", "1");
    world.discard().expect("discarded");
    assert_eq!(world.tree(), ["x"]);
}

#[test]
fn a_staging_directory_is_swept() {
    let world = World::written(OutputMode::ErrorIfExists);
    let staging = staging_url(URL, world.job).expect("a staging directory");
    let stores = world.stores();
    run(&world.store, sweep_staging(&stores, &staging)).expect("swept");
    assert_eq!(world.tree(), [""; 0]);
    assert_eq!(world.store.open_uploads(), 0);

    let job = |url: &str| output_of(url).map(|(url, job)| format!("{url} {job}"));
    for (staging, output) in [
        (
            "memory:///a/_staging-00000000000b",
            Some("memory:///a 00000000000b"),
        ),
        (
            "file:///a/.b.kiln-00000000000c",
            Some("file:///a/b 00000000000c"),
        ),
        (
            "file:///a/.b.kiln-00000000000c-gone",
            Some("file:///a/b 00000000000c"),
        ),
        ("file:///a/.b.kiln-commit", None),
        ("memory:///a/_staging-b", None),
        ("memory:///a/b", None),
    ] {
        assert_eq!(job(staging).as_deref(), output, "{staging}");
    }
    let error = run(&world.store, sweep_staging(&stores, "memory:///a/b"));
    assert_eq!(error.expect_err("none").kind(), ErrorKind::Invalid);
}
