//! Every fault does what it says, to the requests that its rule is for, and is counted.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, TryStreamExt as _};
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, WriteMultipart};

fn store() -> Arc<FaultyStore> {
    FaultyStore::with_multipart(InMemory::new())
}

async fn read(store: &FaultyStore, path: &Path) -> Result<Bytes, Error> {
    store.get(path).await?.bytes().await
}

async fn create(store: &FaultyStore, path: &Path, body: &str) -> Result<(), Error> {
    let options = PutMode::Create.into();
    let put = store.put_opts(path, body.to_owned().into(), options);
    put.await.map(drop)
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let store = store();
    let rule = Rule::new(&[Op::Put], Fault::Fail(Failure::BUSY));
    let second = store.add(rule.clone().at("^a/").skip(1).times(1));
    let never = store.add(rule.at("^b/"));
    let mut answers = Vec::new();
    for path in ["a/1", "c/1", "a/2", "a/3"] {
        let put = store.put(&Path::from(path), "x".into()).await;
        answers.push(put.is_ok());
    }
    assert_eq!(answers, [true, true, false, true]);
    assert_eq!((second.count(), never.count()), (1, 0));
    assert_eq!(store.count(&[Op::Put]), 4);
    assert_eq!(store.count_at(Op::WRITES, "^a/"), 3);
    let listed: Vec<_> = store.list(None).try_collect().await.expect("a list");
    assert_eq!(listed.len(), 3);
}

#[tokio::test]
async fn chance_is_repeated_with_its_seed() {
    let run = async |seed| {
        let store = store();
        store.seed(seed);
        let rule = Rule::new(&[Op::Put], Fault::Fail(Failure::RESET)).chance(0.5);
        let fired = store.add(rule);
        let path = Path::from("a");
        let mut answers = Vec::new();
        for _ in 0..64 {
            answers.push(store.put(&path, "x".into()).await.is_ok());
        }
        let failed = answers.iter().filter(|ok| !**ok).count() as u64;
        assert_eq!(fired.count(), failed);
        assert!((10..54).contains(&failed), "{failed}");
        answers
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test]
async fn what_was_done_and_what_was_said_are_two_things() {
    let lost = |failure| Fault::LoseAnswer(failure);
    let cases = [
        (Fault::Fail(Failure::EXISTS), false),
        (Fault::Fail(Failure::Status(409)), false),
        (lost(Failure::EXISTS), true),
        (lost(Failure::RESET), true),
    ];
    for (number, (fault, is_there)) in cases.into_iter().enumerate() {
        let store = store();
        let fired = store.add(Rule::new(&[Op::PutIfAbsent], fault));
        let path = Path::from(format!("a/{number}"));
        let error = create(&store, &path, "x").await.expect_err("a failure");
        let says_exists = matches!(error, Error::AlreadyExists { .. });
        assert_eq!(says_exists, number < 3, "{error}");
        assert_eq!(read(&store, &path).await.is_ok(), is_there, "{fault:?}");
        assert_eq!(fired.count(), 1);
    }
    let store = store();
    let path = Path::from("a");
    store.put(&path, "x".into()).await.expect("a put");
    let fired = store.add(Rule::new(&[Op::Delete], lost(Failure::TIMEOUT)));
    store.delete(&path).await.expect_err("a lost answer");
    let gone = read(&store, &path).await.expect_err("it is gone");
    assert!(matches!(gone, Error::NotFound { .. }));
    assert_eq!(fired.count(), 1);
}

#[tokio::test]
async fn bodies_are_cut_and_damaged_on_both_ways() {
    let cases = [
        (Fault::Truncate(3), Some("abc")),
        (Fault::Cut(3), None),
        (Fault::FlipBit(1), Some("acc")),
    ];
    let path = Path::from("a");
    for (fault, expected) in cases {
        let store = store();
        store.put(&path, "abc-def".into()).await.expect("a put");
        let fired = store.add(Rule::new(&[Op::Get], fault).times(1));
        let found = read(&store, &path).await;
        match expected {
            Some(start) => assert!(found.expect("a body").starts_with(start.as_bytes())),
            None => drop(found.expect_err("a break")),
        }
        assert_eq!(read(&store, &path).await.expect("a body"), "abc-def");
        assert_eq!(fired.count(), 1);
    }
    let store = store();
    let torn = store.add(Rule::new(&[Op::Put], Fault::Truncate(3)));
    store.put(&path, "abc-def".into()).await.expect("a put");
    assert_eq!(read(&store, &path).await.expect("a body"), "abc");
    // Beyond the end the place is drawn.
    store.clear();
    let flipped = store.add(Rule::new(&[Op::Get], Fault::FlipBit(usize::MAX)));
    let found = read(&store, &path).await.expect("a body");
    let bits = found.iter().zip(b"abc").map(|(a, b)| (a ^ b).count_ones());
    assert_eq!(bits.sum::<u32>(), 1);
    assert_eq!((torn.count(), flipped.count()), (1, 1));
}

#[tokio::test]
async fn a_list_can_end_too_early() {
    let store = store();
    for name in ["a/1", "a/2", "a/3"] {
        let path = Path::from(name);
        store.put(&path, "x".into()).await.expect("a put");
    }
    let fired = store.add(Rule::new(&[Op::List], Fault::Cut(2)));
    let mut listed = store.list(Some(&Path::from("a")));
    assert!(listed.try_next().await.expect("an entry").is_some());
    assert!(listed.try_next().await.expect("an entry").is_some());
    listed.try_next().await.expect_err("a break");
    assert_eq!(fired.count(), 1);
}

#[tokio::test]
async fn held_requests_wait_for_the_test() {
    for (fault, is_there) in [(Fault::Hold, false), (Fault::HoldAnswer, true)] {
        let store = store();
        let path = Path::from("a");
        let fired = store.add(Rule::new(&[Op::PutIfAbsent], fault));
        let (writer, writes) = (Arc::clone(&store), path.clone());
        let put = tokio::spawn(async move { create(&writer, &writes, "x").await });
        fired.reached(1).await;
        // What is carried out before the answer is held takes a step or two.
        while is_there && read(&store, &path).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(read(&store, &path).await.is_ok(), is_there);
        assert!(!put.is_finished());
        fired.release();
        put.await.expect("no panic").expect("a put");
        assert!(read(&store, &path).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn slowness_takes_the_time_that_was_asked_for() {
    let store = store();
    let path = Path::from("a");
    store.put(&path, "abcdefgh".into()).await.expect("a put");
    let pause = std::time::Duration::from_secs(10);
    let fired = store.add(Rule::new(&[Op::Get], Fault::Slow(pause)));
    let started = tokio::time::Instant::now();
    assert_eq!(read(&store, &path).await.expect("a body"), "abcdefgh");
    // Once before the answer, once before each piece.
    assert_eq!(started.elapsed(), pause * 5);
    assert_eq!(fired.count(), 1);
}

#[tokio::test]
async fn uploads_in_parts_meet_the_same_rules() {
    let store = store();
    let path = Path::from("a");
    let ops = [Op::CompleteMultipart];
    let lost = store.add(Rule::new(&ops, Fault::LoseAnswer(Failure::MISSING)).times(2));

    let upload = store.put_multipart(&path).await.expect("an upload");
    let mut upload = WriteMultipart::new(upload);
    upload.write(b"whole");
    let error = upload.finish().await.expect_err("a lost answer");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(read(&store, &path).await.expect("a body"), "whole");

    let other = Path::from("b");
    let id = store.create_multipart(&other).await.expect("an upload");
    let part = store.put_part(&other, &id, 0, "part".into()).await;
    let parts = vec![part.expect("a part")];
    let completed = store.complete_multipart(&other, &id, parts).await;
    completed.expect_err("a lost answer");
    assert_eq!(read(&store, &other).await.expect("a body"), "part");
    assert_eq!(lost.count(), 2);
    assert_eq!(store.count(&[Op::PutPart]), 2);
}

#[tokio::test]
async fn a_store_without_parts_says_so() {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let begun = store.create_multipart(&Path::from("a")).await;
    assert!(matches!(begun, Err(Error::NotSupported { .. })));
}

#[tokio::test]
async fn who_gives_up_a_request_that_is_held_is_seen() {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let held = store.add(Rule::new(&[Op::Get], Fault::Hold));
    let reading = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.get(&Path::from("a")).await.map(drop) })
    };
    held.reached(1).await;
    let mut left = Box::pin(held.deserted());
    assert!((&mut left).now_or_never().is_none(), "somebody waits");
    reading.abort();
    left.await;
    assert_eq!(held.count(), 1);
}
