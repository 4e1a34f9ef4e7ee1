//! Whatever a store answers to a conditional write, its writer learns whose object is there.

use std::sync::Arc;

use bytes::Bytes;
use kiln_engine::ErrorKind;
use kiln_engine::storage::{Created, StoreSettings, Stores, create};
use kiln_testkit::s3::{S3Fault, S3Op, S3Rule, S3Server};
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

const OURS: Bytes = Bytes::from_static(b"ours 1");
const THEIRS: Bytes = Bytes::from_static(b"theirs 1");

/// What `create` says, in a word.
fn word(created: kiln_engine::Result<Created>) -> &'static str {
    match created {
        Ok(Created::Ours) => "ours",
        Ok(Created::Theirs(body)) if body == THEIRS => "theirs",
        Ok(Created::Theirs(_)) => "somebody's",
        Err(error) if error.kind() == ErrorKind::Unavailable => "unknown",
        Err(_) => "refused",
    }
}

#[tokio::test]
async fn no_error_is_taken_for_an_answer() {
    let fail = |failure| Fault::Fail(failure);
    let lose = |failure| Fault::LoseAnswer(failure);
    // What happens to the write, how often; whether somebody was first; what the writer learns.
    let cases = [
        (lose(Failure::EXISTS), 1, false, "ours"),
        (lose(Failure::RESET), 1, false, "ours"),
        (lose(Failure::TIMEOUT), 1, false, "ours"),
        (lose(Failure::MISSING), 1, false, "ours"),
        (lose(Failure::Status(500)), 1, false, "ours"),
        (fail(Failure::Status(409)), 1, false, "ours"),
        (fail(Failure::Status(409)), 2, false, "unknown"),
        (fail(Failure::EXISTS), 2, false, "unknown"),
        (fail(Failure::BUSY), 1, false, "ours"),
        (fail(Failure::BUSY), 2, false, "unknown"),
        (fail(Failure::Status(403)), 2, false, "refused"),
        (fail(Failure::BUSY), 1, true, "theirs"),
        (lose(Failure::RESET), 1, true, "theirs"),
        (fail(Failure::Status(403)), 1, true, "theirs"),
    ];
    for (fault, times, is_taken, expected) in cases {
        let store = FaultyStore::with_multipart(InMemory::new());
        let path = Path::from("journal/1");
        if is_taken {
            let put = store.put(&path, THEIRS.into()).await;
            put.expect("a put");
        }
        let rule = Rule::new(&[Op::PutIfAbsent], fault).times(times);
        let fired = store.add(rule);
        let found = word(create(&*store, &path, OURS).await);
        assert_eq!(
            found, expected,
            "{fault:?} {times} times, taken: {is_taken}"
        );
        assert_eq!(fired.count(), times, "{fault:?}");
        // Whoever does not know asks again, and learns it.
        store.clear();
        let again = word(create(&*store, &path, OURS).await);
        let truth = if is_taken { "theirs" } else { "ours" };
        assert_eq!(again, truth, "{fault:?} {times} times, again");
    }
}

#[tokio::test]
async fn what_cannot_be_read_back_is_not_known() {
    for fault in [
        Fault::Fail(Failure::BUSY),
        Fault::Cut(3),
        Fault::Truncate(3),
    ] {
        let store = FaultyStore::with_multipart(InMemory::new());
        let path = Path::from("journal/1");
        let lost = Fault::LoseAnswer(Failure::RESET);
        let lost = store.add(Rule::new(&[Op::PutIfAbsent], lost).times(1));
        let unread = store.add(Rule::new(&[Op::Get], fault).times(1));
        let created = create(&*store, &path, OURS).await;
        assert_eq!(word(created), "unknown", "{fault:?}");
        assert_eq!((lost.count(), unread.count()), (1, 1));
        assert_eq!(word(create(&*store, &path, OURS).await), "ours");
    }
}

fn stores(server: &S3Server) -> Stores {
    Stores::with_settings(StoreSettings {
        variables: server.variables(),
        ..StoreSettings::default()
    })
}

#[tokio::test]
async fn the_riddles_of_s3_are_solved() {
    let server = S3Server::start(&["bkt"]);
    let (store, _) = stores(&server).get("s3://bkt/").expect("a store");
    let cases = [
        (S3Fault::LoseAnswer, 1, "ours"),
        (S3Fault::CONFLICT, 1, "ours"),
        (S3Fault::CONFLICT, 2, "unknown"),
        (S3Fault::Status(503), 2, "ours"),
        (S3Fault::Reset, 1, "ours"),
        (S3Fault::Status(403), 2, "refused"),
    ];
    for (number, (fault, times, expected)) in cases.into_iter().enumerate() {
        let path = Path::from(format!("journal/{number}"));
        let fired = server.add(S3Rule::new(&[S3Op::Put], fault).times(times));
        let found = word(create(&*store, &path, OURS).await);
        assert_eq!(found, expected, "{fault:?} {times} times");
        assert_eq!(fired.count(), times, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_wins_though_the_store_fails() {
    const ROUNDS: usize = 20;
    const RACERS: usize = 8;
    let server = S3Server::start(&["bkt"]);
    let (store, _) = stores(&server).get("s3://bkt/").expect("a store");
    let puts = [S3Op::Put];
    let lost = server.add(S3Rule::new(&puts, S3Fault::LoseAnswer).chance(0.3));
    let conflict = server.add(S3Rule::new(&puts, S3Fault::CONFLICT).chance(0.3));
    for round in 0..ROUNDS {
        let path = Path::from(format!("race/{round}"));
        let racers = (0..RACERS).map(|racer| {
            let (store, path): (Arc<dyn ObjectStore>, _) = (Arc::clone(&store), path.clone());
            tokio::spawn(async move {
                let body = Bytes::from(format!("racer {racer} round {round}"));
                loop {
                    match create(&*store, &path, body.clone()).await {
                        Ok(Created::Ours) => return (true, body),
                        Ok(Created::Theirs(winner)) => return (false, winner),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
                    }
                }
            })
        });
        let ended = futures::future::join_all(racers).await;
        let ended: Vec<_> = ended
            .into_iter()
            .map(|one| one.expect("no panic"))
            .collect();
        let winners: Vec<_> = ended.iter().filter(|(won, _)| *won).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let all_agree = ended.iter().all(|(_, body)| *body == winners[0].1);
        assert!(all_agree, "round {round}");
    }
    assert!(lost.count() > 0 && conflict.count() > 0);
}
