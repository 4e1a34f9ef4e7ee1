//! A journal in a store that loses answers, says what is not so, keeps half of what it is given,
//! and lists what was true a while ago.

use std::sync::Arc;

use expect_test::expect;
use kiln_engine::ErrorKind;
use kiln_engine::storage::Created;
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{Record, WriterId};
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::compact::compact;
use super::store::JournalStore;

const OURS: WriterId = WriterId(1);
const THEIRS: WriterId = WriterId(2);

/// A journal, and the store that it is in.
fn journal() -> (JournalStore, Arc<FaultyStore>) {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let journal = JournalStore::new(store.clone(), "kiln".into(), "memory:///kiln");
    (journal, store)
}

fn entry(writer: WriterId, sequence: u64) -> Vec<u8> {
    let record = match sequence {
        1 => Record::Term {
            url: "http://a".to_owned(),
            at_ms: 1,
        },
        _ => Record::Alive,
    };
    let record = encode_record(&record).expect("encoded");
    encode_entry(1, writer, sequence, vec![record])
}

/// Appends the entries up to `end`.
async fn filled(end: u64) -> (JournalStore, Arc<FaultyStore>) {
    let (journal, store) = journal();
    for number in 1..=end {
        let created = journal.append(number, &entry(OURS, number)).await;
        assert_eq!(created.expect("nothing is wrong"), Created::Ours);
    }
    (journal, store)
}

/// The numbers of the entries that are read.
async fn numbers(journal: &JournalStore) -> Vec<u64> {
    let loaded = journal.load().await.expect("it is whole");
    loaded.entries.iter().map(|entry| entry.sequence).collect()
}

#[tokio::test]
async fn an_entry_that_is_written_is_ours_whatever_the_store_says() {
    let failures = [
        Failure::RESET,
        Failure::TIMEOUT,
        Failure::BUSY,
        Failure::EXISTS,
        Failure::Status(409),
    ];
    for failure in failures {
        let (journal, store) = journal();
        let lost = Rule::new(&[Op::PutIfAbsent], Fault::LoseAnswer(failure));
        let lost = store.add(lost.times(1));
        let created = journal.append(1, &entry(OURS, 1)).await;
        assert_eq!(created.expect("it is there"), Created::Ours, "{failure:?}");
        assert_eq!((lost.count(), numbers(&journal).await), (1, vec![1]));
    }
}

#[tokio::test]
async fn a_place_that_is_taken_is_theirs_and_stays_as_it_is() {
    let (journal, store) = journal();
    let theirs = entry(THEIRS, 1);
    journal.append(1, &theirs).await.expect("nothing is wrong");
    let found = journal.append(1, &entry(OURS, 1)).await;
    assert!(matches!(found, Ok(Created::Theirs(_))), "{found:?}");
    let lost = Rule::new(&[Op::PutIfAbsent], Fault::LoseAnswer(Failure::RESET));
    let lost = store.add(lost.times(1));
    let found = journal.append(1, &entry(OURS, 1)).await;
    assert!(matches!(found, Ok(Created::Theirs(_))), "{found:?}");
    assert_eq!(lost.count(), 1);
    let kept = journal.entry(1).await.expect("it is whole");
    assert_eq!(kept.map(|entry| entry.writer), Some(THEIRS));
}

#[tokio::test]
async fn an_entry_of_which_nothing_is_known_is_asked_for_again() {
    let (journal, store) = journal();
    let lost = Rule::new(&[Op::PutIfAbsent], Fault::LoseAnswer(Failure::RESET));
    let lost = store.add(lost.times(1));
    let unread = store.add(Rule::new(&[Op::Get], Fault::Fail(Failure::TIMEOUT)).times(1));
    let error = journal.append(1, &entry(OURS, 1)).await;
    let error = error.expect_err("nobody could look");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert_eq!((lost.count(), unread.count()), (1, 1));
    let again = journal.append(1, &entry(OURS, 1)).await;
    assert_eq!(again.expect("the store is well again"), Created::Ours);
    assert_eq!(numbers(&journal).await, [1]);
}

/// An entry that is not what was written is never taken for one.
async fn check_damage(op: Op, fault: Fault) {
    let (journal, store) = filled(1).await;
    let damaged = store.add(Rule::new(&[op], fault).at("entries/0*2$"));
    // A store that keeps half of it says that all is well.
    journal
        .append(2, &entry(OURS, 2))
        .await
        .expect("so it says");
    journal.append(3, &entry(OURS, 3)).await.expect("well");
    let error = journal.load().await.expect_err("it is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{fault:?}");
    let text = error.report();
    let names = ["memory:///kiln", "entries/00000000000000000002"];
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
    assert!(damaged.count() > 0, "{op:?} {fault:?} did not fire");
    if op == Op::Get {
        store.clear();
        assert_eq!(numbers(&journal).await, [1, 2, 3]);
    }
}

#[tokio::test]
async fn damaged_entries_are_noticed() {
    let bytes = 16 + entry(OURS, 2).len();
    for op in [Op::Get, Op::PutIfAbsent] {
        for byte in 0..bytes {
            check_damage(op, Fault::FlipBit(byte)).await;
            check_damage(op, Fault::Truncate(byte)).await;
        }
    }
}

#[tokio::test]
async fn who_is_shown_an_old_list_cannot_write_behind_it() {
    let (journal, store) = filled(4).await;
    let old = store.add(Rule::new(&[Op::List], Fault::Truncate(2)).at("entries$"));
    assert_eq!(journal.numbers().await.expect("a list"), [1, 2]);
    assert_eq!(old.count(), 1);
    // Who takes this for the end finds the next place taken.
    let found = journal.append(3, &entry(THEIRS, 3)).await;
    assert!(matches!(found, Ok(Created::Theirs(_))), "{found:?}");
}

#[tokio::test]
async fn entries_that_a_list_does_not_show_yet_are_read() {
    for shown in 0..4 {
        let (journal, store) = filled(4).await;
        let old = store.add(Rule::new(&[Op::List], Fault::Truncate(shown)).at("entries$"));
        let loaded = journal.load().await.expect("nothing is missing");
        assert_eq!((loaded.end(), old.count()), (4, 1), "shown={shown}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_listed_is_looked_for_again() {
    let (journal, store) = filled(4).await;
    compact(&journal).await.expect("nothing is wrong");
    journal.append(5, &entry(OURS, 5)).await.expect("well");
    let old = Rule::new(&[Op::List], Fault::Truncate(0)).at("snapshots$");
    let fired = store.add(old.clone().times(1));
    let loaded = journal.load().await.expect("the next look finds it");
    assert_eq!((fired.count(), loaded.end()), (1, 5));
    assert_eq!(loaded.snapshot.map(|snapshot| snapshot.sequence), Some(4));
    let fired = store.add(old);
    let error = journal.load().await.expect_err("it never comes");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(
        error.report(),
        "the journal is damaged: an entry is missing url=memory:///kiln"
    );
    assert!(fired.count() > 1, "it is not looked for again");
}

#[tokio::test]
async fn a_snapshot_of_which_the_store_keeps_half_replaces_nothing() {
    let (journal, store) = filled(5).await;
    let torn = Rule::new(&[Op::Put], Fault::Truncate(20)).at("snapshots/");
    let torn = store.add(torn.times(1));
    let error = compact(&journal).await.expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(torn.count(), 1);
    let loaded = journal.load().await.expect("nothing is lost");
    assert_eq!((loaded.end(), loaded.entries.len()), (5, 5));
    compact(&journal).await.expect("nothing is wrong");
    assert_eq!(journal.load().await.expect("whole").end(), 5);
}

#[tokio::test]
async fn a_frame_of_a_newer_version_is_refused_by_name() {
    let (journal, store) = filled(1).await;
    let path = Path::from("kiln/journal/entries/00000000000000000002");
    let put = store.put(&path, "kilnjnl2 and the rest".into()).await;
    put.expect("room for an object");
    let error = journal.load().await.expect_err("nobody can read it");
    expect!["cannot read the journal object=kiln/journal/entries/00000000000000000002 url=memory:///kiln: a newer version of kiln wrote it"]
    .assert_eq(&error.report());
}

#[tokio::test]
async fn a_compaction_that_is_cut_off_anywhere_loses_nothing_and_is_taken_up() {
    let requests = {
        let (journal, store) = filled(5).await;
        let before = store.requests().len();
        compact(&journal).await.expect("nothing is wrong");
        store.requests().len() - before
    };
    let everything = [Op::READS, Op::WRITES].concat();
    for done in 0..requests as u64 {
        for fault in [Failure::BUSY, Failure::TIMEOUT] {
            let (journal, store) = filled(5).await;
            let broken = store.add(Rule::new(&everything, Fault::Fail(fault)).skip(done));
            let error = compact(&journal).await.expect_err("it is cut off");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "request={done}");
            assert!(broken.count() > 0, "request={done} did not fail");
            store.clear();
            let loaded = journal.load().await.expect("nothing is lost");
            assert_eq!(loaded.end(), 5, "request={done}");
            journal.append(6, &entry(OURS, 6)).await.expect("well");
            compact(&journal).await.expect("nothing is wrong");
            let left = journal.numbers().await.expect("nothing is wrong");
            assert_eq!(
                left,
                [1],
                "request={done}: beginnings stay, and nothing else"
            );
            assert_eq!(journal.load().await.expect("whole").end(), 6);
        }
    }
}

#[tokio::test]
async fn entries_that_are_gone_already_are_removed() {
    let (journal, store) = filled(3).await;
    let lost = Rule::new(&[Op::Delete], Fault::LoseAnswer(Failure::MISSING));
    let lost = store.add(lost.at("entries/0*2$").times(1));
    journal
        .put_snapshot(3, &entry(OURS, 3))
        .await
        .expect("well");
    journal.remove_before(3, &[1, 2, 3, 9]).await.expect("well");
    assert_eq!(lost.count(), 1);
    assert_eq!(journal.numbers().await.expect("well"), [0; 0]);
}
