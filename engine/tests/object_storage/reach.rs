//! Reaching remote stores: what settings are needed, what is tried again, what is bounded.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kiln_engine::storage::{StoreSettings, Stores, list_files, storage_error};
use kiln_engine::{Error, ErrorKind};
use kiln_testkit::s3::{S3Fault, S3Op, S3Rule, S3Server};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

fn settings(variables: Variables<'_>) -> StoreSettings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    StoreSettings {
        variables: variables.iter().map(owned).collect(),
        retry_ms_max: 200,
        ..StoreSettings::default()
    }
}

fn at(server: &S3Server) -> StoreSettings {
    StoreSettings {
        variables: server.variables(),
        ..settings(&[])
    }
}

fn store_of(settings: StoreSettings) -> Arc<dyn ObjectStore> {
    let (store, _) = Stores::with_settings(settings)
        .get("s3://bkt/")
        .expect("a store");
    store
}

async fn read(store: &dyn ObjectStore, path: &str) -> Result<Bytes, Error> {
    let failed = |error| storage_error("read", &format!("s3://bkt/{path}"), error);
    let answer = store.get(&Path::from(path)).await.map_err(failed)?;
    answer.bytes().await.map_err(failed)
}

#[test]
fn settings_that_are_missing_or_wrong_are_named() {
    let id = ("AWS_ACCESS_KEY_ID", "id");
    let secret = ("AWS_SECRET_ACCESS_KEY", "hush");
    let account = ("AZURE_STORAGE_ACCOUNT", "account");
    let cases: [(&str, Variables<'_>, &str); 12] = [
        ("s3://b/x", &[id, secret], "ok"),
        (
            "s3://b/x",
            &[id],
            "cannot open s3://b/x: AWS_SECRET_ACCESS_KEY is not set",
        ),
        (
            "s3://b/x",
            &[secret],
            "cannot open s3://b/x: AWS_ACCESS_KEY_ID is not set",
        ),
        (
            "s3://b/x",
            &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")],
            "cannot open s3://b/x: AWS_ENDPOINT_URL is not encrypted; AWS_ALLOW_HTTP=true allows \
             that",
        ),
        (
            "s3://b/x",
            &[("AWS_ENDPOINT_URL_S3", "localhost:9000")],
            "cannot open s3://b/x: AWS_ENDPOINT_URL_S3 is not an http or https URL",
        ),
        (
            "s3://b/x",
            &[id, secret, ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "perhaps")],
            "cannot open s3://b/x: the store's settings are wrong",
        ),
        (
            "az://c/x",
            &[],
            "cannot open az://c/x: AZURE_STORAGE_ACCOUNT_NAME is not set",
        ),
        (
            "az://c/x",
            &[account, ("AZURE_STORAGE_KEY", "aHVzaA==")],
            "ok",
        ),
        ("abfs://c@account.dfs.core.windows.net/x", &[], "ok"),
        (
            "az://c/x",
            &[account, ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")],
            "cannot open az://c/x: AZURE_STORAGE_ENDPOINT is not encrypted; AZURE_ALLOW_HTTP=true \
             allows that",
        ),
        (
            "az://c/x",
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "AccountName=a;AccountKey=aHVzaA==;BlobEndpoint=https://a.example/",
            )],
            "ok",
        ),
        (
            "gs://b/x",
            &[("GOOGLE_SERVICE_ACCOUNT", "/nowhere.json")],
            "cannot open gs://b/x: ",
        ),
    ];
    for (url, variables, expected) in cases {
        let answer = match Stores::with_settings(settings(variables)).multipart(url) {
            Ok(found) => {
                assert!(found.is_some(), "{url} takes uploads in parts");
                "ok".to_owned()
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
                error.report()
            }
        };
        assert!(
            answer.starts_with(expected),
            "{url} {variables:?}: {answer}"
        );
        assert!(!answer.contains("hush"), "{answer}");
    }
}

#[test]
fn who_takes_uploads_in_parts() {
    let stores = Stores::with_settings(settings(&[]));
    for (url, expected) in [
        ("memory:///x", true),
        ("gs://b/x", true),
        ("file:///x", false),
        ("https://host/x", false),
    ] {
        let found = stores.multipart(url).expect("a store");
        assert_eq!(found.is_some(), expected, "{url}");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_may_not_is_told() {
    let server = S3Server::start(&["bkt"]);
    let store = store_of(at(&server));
    let body = Bytes::from(vec![7; 300_000]);
    let put = store.put(&Path::from("a"), body.clone().into()).await;
    put.expect("a put");
    for (fault, times, expected) in [
        (S3Fault::Status(429), 1, "ok"),
        (S3Fault::Status(500), 1, "ok"),
        (S3Fault::Status(503), 1, "ok"),
        (S3Fault::Reset, 1, "ok"),
        (S3Fault::Truncate, 1, "ok"),
        (S3Fault::Status(503), u64::MAX, "unavailable"),
        (S3Fault::Reset, u64::MAX, "unavailable"),
        (S3Fault::Truncate, u64::MAX, "unavailable"),
        (S3Fault::Status(403), 1, "invalid"),
    ] {
        let fired = server.add(S3Rule::new(&[S3Op::Get], fault).times(times));
        let answer = match read(&*store, "a").await {
            Ok(found) => {
                assert!(found == body, "{fault:?}");
                "ok".to_owned()
            }
            Err(error) => error.kind().to_string(),
        };
        assert_eq!(answer, expected, "{fault:?} {times} times");
        assert!(fired.count() >= 1, "{fault:?}");
        server.clear();
    }
}

#[tokio::test]
async fn a_dead_store_and_a_wrong_key_are_told_apart() {
    let server = S3Server::start(&["bkt"]);
    let mut stranger = at(&server);
    for (name, value) in &mut stranger.variables {
        if name == "AWS_ACCESS_KEY_ID" {
            "stranger".clone_into(value);
        }
    }
    let error = read(&*store_of(stranger), "a")
        .await
        .expect_err("a stranger");
    let told = "cannot read s3://bkt/a: permission denied code=InvalidAccessKeyId";
    assert_eq!(
        (error.kind(), error.report().as_str()),
        (ErrorKind::Invalid, told)
    );

    let stores = Stores::with_settings(at(&server));
    for url in ["s3://other/a", "s3://other/"] {
        let error = list_files(&stores, &[url.to_owned()]).await;
        let error = error.expect_err("no such bucket");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let told = error.report();
        assert!(
            told.ends_with("no such bucket or container bucket=other"),
            "{told}"
        );
    }

    let dead = at(&server);
    drop(server);
    let error = read(&*store_of(dead), "a")
        .await
        .expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
}

#[tokio::test]
async fn lists_are_followed_to_their_last_page() {
    let server = S3Server::start(&["bkt"]);
    server.set_page(3);
    let stores = Stores::with_settings(at(&server));
    let (store, _) = stores.get("s3://bkt/").expect("a store");
    for number in 0..20 {
        let path = Path::from(format!("in/{number:02}.txt"));
        store.put(&path, "x".into()).await.expect("a put");
    }
    let found = list_files(&stores, &["s3://bkt/in".to_owned()]).await;
    assert_eq!(found.expect("files").len(), 20);
    assert!(server.count(&[S3Op::List]) >= 7);
    // Deleting what is being listed takes places for both.
    let listed = store.list(None).map_ok(|meta| meta.location).boxed();
    let deleted: Vec<Path> = store
        .delete_stream(listed)
        .try_collect()
        .await
        .expect("deletes");
    assert_eq!(deleted.len(), 20);
    assert_eq!(server.keys("bkt"), [""; 0]);
}

/// With one place, requests come one after another, and whoever holds it never waits for itself.
#[tokio::test]
async fn requests_wait_for_a_place_and_always_get_one() {
    let server = S3Server::start(&["bkt"]);
    let store = store_of(StoreSettings {
        requests_max: 1,
        ..at(&server)
    });
    let large = Bytes::from(vec![7; 17 << 20]);
    for (name, body) in [
        ("small", Bytes::from_static(b"x")),
        ("large", large.clone()),
    ] {
        store
            .put(&Path::from(name), body.into())
            .await
            .expect("a put");
    }
    // Bodies that were begun and are not read on.
    let small = Path::from("small");
    let begun = join_all((0..8).map(|_| store.get(&small))).await;
    let mut body = store
        .get(&Path::from("large"))
        .await
        .expect("a body")
        .into_stream();
    let mut bytes = body.next().await.expect("a piece").expect("a piece").len();
    let mut listed = store.list(None);
    listed.next().await.expect("an entry").expect("an entry");
    store
        .put(&Path::from("other"), "x".into())
        .await
        .expect("a put");
    let rest: Vec<Bytes> = body.try_collect().await.expect("the rest");
    bytes += rest.iter().map(Bytes::len).sum::<usize>();
    assert_eq!(bytes, large.len());
    for answer in begun {
        let body = answer.expect("an answer").bytes().await;
        assert_eq!(body.expect("a body"), "x");
    }
    // A request that is given up gives its place back.
    let held = server.add(S3Rule::new(&[S3Op::Get], S3Fault::Hang).times(1));
    let hangs = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.get(&Path::from("small")).await })
    };
    while held.count() == 0 {
        tokio::task::yield_now().await;
    }
    let waits = store.put(&small, "y".into());
    hangs.abort();
    waits.await.expect("a put");
    let paths = ["small", "large", "other"].map(|name| Ok(Path::from(name)));
    let deleted = store.delete_stream(stream::iter(paths).boxed());
    assert_eq!(
        deleted
            .try_collect::<Vec<_>>()
            .await
            .expect("deletes")
            .len(),
        3
    );
}

#[tokio::test]
async fn an_upload_that_one_store_begins_another_completes() {
    let server = S3Server::start(&["bkt"]);
    let path = Path::from("out/part-0");
    let open = || {
        let found = Stores::with_settings(at(&server)).multipart("s3://bkt/out");
        found.expect("a store").expect("uploads in parts").0
    };
    let begins = open();
    let id = begins.create_multipart(&path).await.expect("an upload");
    let part = begins
        .put_part(&path, &id, 0, "rows".into())
        .await
        .expect("a part");
    drop(begins);
    assert_eq!(server.keys("bkt"), [""; 0]);
    let completed = open().complete_multipart(&path, &id, vec![part]).await;
    completed.expect("an object");
    assert_eq!(
        server.read("bkt", "out/part-0").expect("it is there"),
        "rows"
    );
}
