//! The stand-in behaves as S3 does, through the client that Kiln uses, and breaks as it is told.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kiln_testkit::s3::{S3Fault, S3Op, S3Rule, S3Server};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutResult, RetryConfig,
    UpdateVersion,
};

const PART: usize = 5 << 20;

fn client_of(variables: Vec<(String, String)>, bucket: &str) -> AmazonS3 {
    let builder = AmazonS3Builder::new().with_bucket_name(bucket);
    let set = variables
        .into_iter()
        .fold(builder, |builder, (name, value)| {
            let key = name.to_ascii_lowercase().parse().expect("a setting");
            builder.with_config(key, value)
        });
    let retries = RetryConfig {
        max_retries: 3,
        ..RetryConfig::default()
    };
    set.with_retry(retries).build().expect("settings")
}

fn start() -> (S3Server, Arc<AmazonS3>) {
    let server = S3Server::start(&["bkt"]);
    let client = client_of(server.variables(), "bkt");
    (server, Arc::new(client))
}

async fn read(store: &AmazonS3, path: &Path) -> Result<Bytes, Error> {
    store.get(path).await?.bytes().await
}

async fn create(store: &AmazonS3, path: &Path, body: &str) -> Result<PutResult, Error> {
    let body = body.to_owned().into();
    store.put_opts(path, body, PutMode::Create.into()).await
}

async fn range(store: &AmazonS3, path: &Path, range: GetRange) -> Result<Bytes, Error> {
    let options = GetOptions::new().with_range(Some(range));
    store.get_opts(path, options).await?.bytes().await
}

#[tokio::test]
async fn objects_are_read_whole_and_in_part() {
    let (server, store) = start();
    let path = Path::from("a b/ü&<x>+%41");
    store.put(&path, "0123456789".into()).await.expect("a put");
    assert_eq!(server.keys("bkt"), [path.as_ref()]);
    assert_eq!(read(&store, &path).await.expect("whole"), "0123456789");
    for (wanted, expected) in [
        (GetRange::Bounded(2..5), "234"),
        (GetRange::Bounded(8..20), "89"),
        (GetRange::Offset(7), "789"),
        (GetRange::Suffix(4), "6789"),
        (GetRange::Suffix(40), "0123456789"),
    ] {
        let found = range(&store, &path, wanted).await;
        assert_eq!(found.expect("a part"), expected);
    }
    let behind = range(&store, &path, GetRange::Bounded(10..12)).await;
    behind.expect_err("there are no such bytes");
    assert_eq!(store.head(&path).await.expect("it is there").size, 10);

    let copy = Path::from("copy");
    store.copy(&path, &copy).await.expect("a copy");
    assert_eq!(read(&store, &copy).await.expect("whole"), "0123456789");
    store.delete(&path).await.expect("a delete");
    store
        .delete(&path)
        .await
        .expect("deleting nothing is no error");
    let gone = read(&store, &path).await.expect_err("it is gone");
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    let gone = store.head(&path).await.expect_err("it is gone");
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (server, store) = start();
    server.set_page(2);
    let names = ["a/1", "a/2", "a/b/3", "a/b/4", "a/c/5", "b/6", "a/d"];
    for name in names {
        store
            .put(&Path::from(name), "x".into())
            .await
            .expect("a put");
    }
    let (all, a) = (None, Path::from("a"));
    for (prefix, expected) in [(all, 7), (Some(&a), 6)] {
        let listed: Vec<_> = store.list(prefix).try_collect().await.expect("a list");
        assert_eq!(listed.len(), expected);
        assert!(listed.is_sorted_by(|x, y| x.location < y.location));
    }
    let behind = store.list_with_offset(None, &Path::from("a/b/3"));
    let behind: Vec<_> = behind.try_collect().await.expect("a list");
    assert_eq!(behind.len(), 4);
    let folder = store.list_with_delimiter(Some(&a)).await.expect("a list");
    let folders: Vec<_> = folder.common_prefixes.iter().map(Path::as_ref).collect();
    assert_eq!(folders, ["a/b", "a/c"]);
    let objects: Vec<_> = folder
        .objects
        .iter()
        .map(|meta| meta.location.as_ref())
        .collect();
    assert_eq!(objects, ["a/1", "a/2", "a/d"]);
    assert!(server.count(&[S3Op::List]) > 10, "there were no pages");

    let paths = names.map(|name| Ok(Path::from(name)));
    let deleted = store.delete_stream(stream::iter(paths).boxed());
    assert_eq!(
        deleted
            .try_collect::<Vec<_>>()
            .await
            .expect("deletes")
            .len(),
        7
    );
    assert_eq!(server.keys("bkt"), [""; 0]);
    assert_eq!(server.count(&[S3Op::BulkDelete]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_one_wins() {
    let (_server, store) = start();
    for round in 0..20 {
        let path = Path::from(format!("race/{round}"));
        let racers = (0..16).map(|number| {
            let (store, path) = (Arc::clone(&store), path.clone());
            tokio::spawn(async move {
                let body = number.to_string();
                create(&store, &path, &body).await.is_ok().then_some(body)
            })
        });
        let ended = futures::future::join_all(racers).await;
        let winners: Vec<String> = ended
            .into_iter()
            .filter_map(|won| won.expect("no panic"))
            .collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(read(&store, &path).await.expect("a body"), winners[0]);
    }
}

#[tokio::test]
async fn versions_are_compared() {
    let (_server, store) = start();
    let path = Path::from("a");
    let first = store.put(&path, "1".into()).await.expect("a put");
    let version = |put: PutResult| {
        PutMode::Update(UpdateVersion {
            e_tag: put.e_tag,
            version: None,
        })
    };
    let mode = version(first);
    let second = store.put_opts(&path, "2".into(), mode.clone().into()).await;
    second.expect("it was not changed");
    let error = store.put_opts(&path, "3".into(), mode.into()).await;
    let error = error.expect_err("it was changed");
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    assert_eq!(read(&store, &path).await.expect("a body"), "2");
}

#[tokio::test]
async fn uploads_are_hidden_until_they_are_complete() {
    let (server, store) = start();
    let path = Path::from("big");
    let id = store.create_multipart(&path).await.expect("an upload");
    let first = store.put_part(&path, &id, 0, vec![1; PART].into()).await;
    let last = store.put_part(&path, &id, 1, "end".into()).await;
    let parts = vec![first.expect("a part"), last.expect("a part")];
    assert!(read(&store, &path).await.is_err(), "nobody may see it yet");
    assert_eq!(server.uploads(), ["big"]);
    let completed = store.complete_multipart(&path, &id, parts).await;
    completed.expect("an object");
    assert_eq!(read(&store, &path).await.expect("whole").len(), PART + 3);
    assert_eq!(server.uploads(), [""; 0]);

    let small = store.create_multipart(&path).await.expect("an upload");
    let first = store
        .put_part(&path, &small, 0, vec![1; PART - 1].into())
        .await;
    let last = store.put_part(&path, &small, 1, "end".into()).await;
    let parts = vec![first.expect("a part"), last.expect("a part")];
    let error = store.complete_multipart(&path, &small, parts).await;
    let error = error.expect_err("a part is too small").to_string();
    assert!(error.contains("EntityTooSmall"), "{error}");
    store
        .abort_multipart(&path, &small)
        .await
        .expect("it is given up");
    assert_eq!(server.uploads(), [""; 0]);
}

#[tokio::test]
async fn strangers_and_unknown_buckets_are_refused() {
    let (server, _) = start();
    let path = Path::from("a");
    let other = client_of(server.variables(), "other");
    let error = read(&other, &path).await.expect_err("no bucket");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let mut variables = server.variables();
    for (name, value) in &mut variables {
        if name == "AWS_ACCESS_KEY_ID" {
            "stranger".clone_into(value);
        }
    }
    let stranger = client_of(variables, "bkt");
    let error = read(&stranger, &path).await.expect_err("a stranger");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
}

/// What a client is told, and what is true: why no error of a conditional write is an answer.
#[tokio::test]
async fn answers_that_are_lost_come_back_as_other_answers() {
    let (server, store) = start();
    let path = Path::from("create");
    let lost = server.add(S3Rule::new(&[S3Op::Put], S3Fault::LoseAnswer).times(1));
    let error = create(&store, &path, "ours").await.expect_err("a riddle");
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert_eq!(server.read("bkt", "create").expect("it is there"), "ours");
    assert_eq!(lost.count(), 1);

    let conflict = server.add(S3Rule::new(&[S3Op::Put], S3Fault::CONFLICT).times(1));
    let error = create(&store, &Path::from("conflict"), "ours").await;
    let error = error.expect_err("a riddle");
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert_eq!(server.read("bkt", "conflict"), None);
    assert_eq!(conflict.count(), 1);

    let ops = [S3Op::CompleteMultipart];
    let lost = server.add(S3Rule::new(&ops, S3Fault::LoseAnswer).times(1));
    let path = Path::from("parts");
    let id = store.create_multipart(&path).await.expect("an upload");
    let part = store.put_part(&path, &id, 0, "ours".into()).await;
    let parts = vec![part.expect("a part")];
    let error = store.complete_multipart(&path, &id, parts).await;
    let error = error.expect_err("a riddle");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(server.read("bkt", "parts").expect("it is there"), "ours");
    assert_eq!(lost.count(), 1);
}

#[tokio::test]
async fn what_passes_is_tried_again_and_damage_is_not_seen() {
    let (server, store) = start();
    let path = Path::from("a");
    let body = "0123456789".repeat(20_000);
    store.put(&path, body.clone().into()).await.expect("a put");
    for fault in [
        S3Fault::Status(429),
        S3Fault::Status(500),
        S3Fault::Status(503),
        S3Fault::Reset,
        S3Fault::LoseAnswer,
        S3Fault::Truncate,
        S3Fault::Delay(1),
    ] {
        let fired = server.add(S3Rule::new(&[S3Op::Get], fault).times(1));
        let found = read(&store, &path).await;
        assert!(found.expect("a body") == body, "{fault:?}");
        assert_eq!(fired.count(), 1, "{fault:?}");
    }
    let flipped = server.add(S3Rule::new(&[S3Op::Get], S3Fault::FlipBit).times(1));
    let found = read(&store, &path).await.expect("a body");
    let bits = found
        .iter()
        .zip(body.bytes())
        .map(|(a, b)| (a ^ b).count_ones());
    assert_eq!(bits.sum::<u32>(), 1);
    let torn = server.add(S3Rule::new(&[S3Op::Put], S3Fault::Tear).times(1));
    store
        .put(&path, "0123456789".into())
        .await
        .expect("it seems so");
    assert_eq!(read(&store, &path).await.expect("a body"), "01234");
    assert_eq!((flipped.count(), torn.count()), (1, 1));
}

#[tokio::test]
async fn a_server_that_hangs_is_left() {
    let (server, store) = start();
    let fired = server.add(S3Rule::new(&[S3Op::Get], S3Fault::Hang).times(1));
    let (client, path) = (Arc::clone(&store), Path::from("a"));
    let hangs = tokio::spawn(async move { read(&client, &path).await });
    while fired.count() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!hangs.is_finished());
    hangs.abort();
    let path = Path::from("b");
    store
        .put(&path, "x".into())
        .await
        .expect("others are served");
}

#[tokio::test]
async fn a_request_that_is_held_is_carried_out_though_nobody_waits_for_it() {
    let (server, store) = start();
    let path = Path::from("late");
    let held = server.add(S3Rule::new(&[S3Op::Put], S3Fault::Hold).times(1));
    let writer = {
        let (store, path) = (Arc::clone(&store), path.clone());
        tokio::spawn(async move { store.put(&path, "late".into()).await })
    };
    while held.count() == 0 {
        tokio::task::yield_now().await;
    }
    writer.abort();
    assert!(writer.await.expect_err("it was given up").is_cancelled());
    assert_eq!(server.keys("bkt"), [""; 0]);
    server.release();
    while server.keys("bkt").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&store, &path).await.expect("it is there"), "late");
}

#[tokio::test]
async fn faults_of_a_program_are_set_over_its_own_door() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (server, store) = start();
    let ask = async |request: &str, body: &str| {
        let address = server.url().trim_start_matches("http://").to_owned();
        let stream = tokio::net::TcpStream::connect(address).await;
        let mut stream = stream.expect("a connection");
        let length = body.len();
        let text = format!("{request} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.expect("a request");
        stream.shutdown().await.expect("an end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer.split("\r\n\r\n").nth(1).expect("a body").to_owned()
    };
    let rule = r#"{"ops": ["put"], "key": "^a", "times": 1, "fault": {"status": 503}}"#;
    assert_eq!(ask("POST /__fault", rule).await, "0");
    assert_eq!(
        ask("POST /__fault", r#"{"fault": "reset", "chance": 0}"#).await,
        "1"
    );
    let wrong = ask("POST /__fault", r#"{"fault": "nonsense"}"#).await;
    assert!(wrong.contains("unknown variant"), "{wrong}");
    store
        .put(&Path::from("a"), "x".into())
        .await
        .expect("a put");
    assert_eq!(ask("GET /__fault", "").await, "[1,0]");
    assert_eq!(ask("DELETE /__fault", "").await, "null");
    assert_eq!(ask("GET /__keys/bkt", "").await, r#"["a"]"#);
    assert_eq!(server.requests().len(), 2);
    assert!(ask("GET /__log", "").await.contains("Status(503)"));
}
