//! What the store keeps, where, and for how long.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use tempfile::TempDir;

use super::*;
use crate::error::ErrorKind;
use crate::memory::DiskBudget;
use crate::scratch;
use crate::storage::storage_error;

fn path(name: &str) -> Path {
    Path::from(name)
}

/// The files below `directory`, which is somebody's; the one that says so does not count.
fn files(directory: &TempDir) -> usize {
    let abandoned = scratch::abandoned(directory.path()).expect("a directory");
    assert!(abandoned.is_empty(), "{abandoned:?}");
    let below = |path: PathBuf| {
        let entries = std::fs::read_dir(path).expect("a directory").flatten();
        entries.filter(|entry| entry.file_name() != "lock").count()
    };
    let top = std::fs::read_dir(directory.path()).expect("a directory");
    top.map(|entry| below(entry.expect("an entry").path()))
        .sum()
}

#[tokio::test]
async fn what_does_not_fit_lies_on_disk_and_reads_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = OverflowStore::new(10, None, Some(directory.path().to_owned()));
    store
        .put(&path("a"), "01234567".into())
        .await
        .expect("a put");
    assert_eq!(files(&directory), 0, "nothing is made before it is needed");
    store
        .put(&path("b"), "abcdefgh".into())
        .await
        .expect("a put");
    assert_eq!(
        (store.memory_bytes(), store.bytes(), files(&directory)),
        (8, 16, 1)
    );
    for (name, text) in [("a", "01234567"), ("b", "abcdefgh")] {
        let path = path(name);
        let get = |range| store.get_range(&path, range);
        assert_eq!(get(0..8).await.expect("a get"), text);
        assert_eq!(get(2..5).await.expect("a get"), text[2..5]);
        assert_eq!(
            get(6..20).await.expect("a get"),
            text[6..],
            "cut at the end"
        );
        assert!(get(9..10).await.is_err(), "behind the end");
        assert_eq!(store.head(&path).await.expect("a head").size, 8);
    }
    store.delete(&path("a")).await.expect("a delete");
    store.put(&path("c"), "x".into()).await.expect("a put");
    assert_eq!(store.memory_bytes(), 1, "deleting makes room");
    store.put(&path("b"), "y".into()).await.expect("a put");
    assert_eq!(
        (store.memory_bytes(), files(&directory)),
        (2, 0),
        "overwriting too"
    );
    let missing = store.delete(&path("a")).await.expect_err("deleted");
    assert!(matches!(missing, Error::NotFound { .. }));
    drop(store);
    let left = std::fs::read_dir(directory.path())
        .expect("a directory")
        .count();
    assert_eq!(left, 0, "the temporary directory goes with the store");
}

#[tokio::test]
async fn memory_is_reserved_and_read_without_a_copy() {
    let budget = MemoryBudget::new(100);
    let store = OverflowStore::new(1000, Some(&budget), None);
    let bytes = Bytes::from(vec![7; 60]);
    store
        .put(&path("a"), bytes.clone().into())
        .await
        .expect("a put");
    store
        .put(&path("b"), vec![8; 60].into())
        .await
        .expect("a put");
    assert_eq!(
        (budget.used(), store.memory_bytes()),
        (60, 60),
        "the budget has no more"
    );
    let read = store.get_range(&path("a"), 10..20).await.expect("a get");
    assert_eq!(read.as_ptr(), bytes[10..].as_ptr());
    store.copy(&path("a"), &path("c")).await.expect("a copy");
    store.delete(&path("a")).await.expect("a delete");
    assert_eq!(budget.used(), 60, "the copy still shows the bytes");
    store.delete(&path("c")).await.expect("a delete");
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn parts_become_one_object_when_complete() {
    let store = OverflowStore::new(5, None, None);
    let mut upload = store.put_multipart(&path("a/x")).await.expect("an upload");
    // The second part does not fit in memory; parts finish in any order.
    let parts = [
        upload.put_part("0123".into()),
        upload.put_part("4567".into()),
    ];
    let [first, second] = parts;
    second.await.expect("a part");
    first.await.expect("a part");
    assert!(
        store.head(&path("a/x")).await.is_err(),
        "not there before it is complete"
    );
    upload.complete().await.expect("complete");
    let whole = store.get(&path("a/x")).await.expect("a get").bytes().await;
    assert_eq!(whole.expect("bytes"), "01234567");
    assert_eq!(
        store.get_range(&path("a/x"), 3..6).await.expect("a get"),
        "345"
    );

    let mut aborted = store.put_multipart(&path("a/y")).await.expect("an upload");
    aborted.put_part("4".into()).await.expect("a part");
    aborted.abort().await.expect("an abort");
    let mut lacking = store.put_multipart(&path("a/y")).await.expect("an upload");
    drop(lacking.put_part("4".into()));
    assert!(lacking.complete().await.is_err(), "a part was never sent");
    assert!(store.head(&path("a/y")).await.is_err());
}

#[tokio::test]
async fn names_and_modes_are_those_of_a_store() {
    let store = OverflowStore::new(100, None, None);
    for name in ["a/1", "a/b/2", "ab/3", "4"] {
        store.put(&path(name), "x".into()).await.expect("a put");
    }
    let list = |prefix: &str| {
        let names = store
            .list(Some(&path(prefix)))
            .map_ok(|meta| meta.location.to_string());
        names.try_collect::<Vec<_>>()
    };
    assert_eq!(list("a").await.expect("a list"), ["a/1", "a/b/2"]);
    assert_eq!(list("a/1").await.expect("a list"), [""; 0]);
    let top = store.list_with_delimiter(None).await.expect("a list");
    assert_eq!(top.common_prefixes, [path("a"), path("ab")]);
    assert_eq!(top.objects.len(), 1);
    let four = path("4");
    let create = || store.put_opts(&four, "y".into(), PutMode::Create.into());
    let taken = create().await.expect_err("it exists");
    assert!(matches!(taken, Error::AlreadyExists { .. }));
    store.delete(&four).await.expect("a delete");
    create().await.expect("it is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_it() {
    let budget = MemoryBudget::new(1 << 20);
    let store = OverflowStore::new(10_000, Some(&budget), None);
    let work = |task: u8| {
        let store = Arc::clone(&store);
        async move {
            for round in 0..50_u8 {
                let name = path(&format!("{task}/{round}"));
                store
                    .put(&name, vec![task ^ round; 997].into())
                    .await
                    .expect("a put");
                let bytes = store.get_range(&name, 100..900).await.expect("a get");
                assert_eq!(bytes, vec![task ^ round; 800]);
                if round % 3 != 0 {
                    store.delete(&name).await.expect("a delete");
                }
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(work(task))).collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(store.list(None).count().await, 8 * 17);
    assert_eq!(store.bytes(), 8 * 17 * 997);
    assert!(store.memory_bytes() <= 10_000 && budget.used() == store.memory_bytes());
    drop(store);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_full_disk_is_exhausted() {
    let full = generic(std::io::Error::from_raw_os_error(28));
    let error = storage_error("write", "t0-a0", full);
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(
        error
            .report()
            .starts_with("cannot write t0-a0: no space left on device")
    );
    let nowhere = OverflowStore::new(0, None, Some("/no/such/directory".into()));
    let refused = nowhere
        .put(&path("a"), "x".into())
        .await
        .expect_err("no directory");
    let error = storage_error("write", "a", refused);
    assert_eq!(error.message(), "cannot write a: no such file or directory");
}

#[tokio::test]
async fn files_are_within_the_budget_of_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = DiskBudget::new(100, None);
    let budget = MemoryBudget::with_disk(0, Arc::clone(&disk));
    let place = Some(directory.path().to_owned());
    let store = OverflowStore::new(0, Some(&budget), place);
    let put = |name: &'static str, bytes: usize| {
        let store = &store;
        async move { store.put(&path(name), vec![1; bytes].into()).await }
    };
    put("a", 60).await.expect("room");
    let refused = put("b", 41).await.expect_err("more than there is");
    let error = storage_error("write", "b", refused);
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(
        error.report().contains("--spill-limit"),
        "{}",
        error.report()
    );
    assert_eq!((disk.used(), files(&directory)), (60, 1));
    put("b", 40).await.expect("as much as there is");
    for name in ["a", "b"] {
        store.delete(&path(name)).await.expect("a delete");
    }
    assert_eq!((disk.used(), files(&directory)), (0, 0));
}
