//! Damaged, missing and slow objects: an error that names the object, never a panic or wrong rows.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::tests::{STAGE, context, hash, in_memory, job, read, rows, source, words, write};
use super::{decode_blocks, read_index};
use crate::context::TaskContext;
use crate::error::{Error, ErrorKind, LostOutput};
use crate::plan::PartitionMeta;
use crate::storage::{Compression, ShuffleStore};

const PARTITIONS: u32 = 3;
const ALL: Range<u32> = 0..PARTITIONS;

/// A small object in a store, and its index.
async fn small(compression: Compression) -> (TaskContext, Path, Vec<PartitionMeta>, Bytes) {
    let store = ShuffleStore::new(in_memory().store, Path::ROOT, compression);
    let ctx = context(store, 1 << 20);
    let index = write(&ctx, &hash(&["word"], PARTITIONS), 5, &[words(0..12)]).await;
    let path = ctx.shuffle.object_path(job(), STAGE, 5, 0);
    let bytes = ctx
        .shuffle
        .store
        .get(&path)
        .await
        .expect("a get")
        .bytes()
        .await
        .expect("bytes");
    (ctx, path, index.expect("written"), bytes)
}

async fn read_all(ctx: &TaskContext, index: &[PartitionMeta]) -> Result<Vec<String>, Error> {
    let schema = words(0..1).schema();
    read(ctx, ALL, vec![source(5, index, &ALL)], &schema)
        .await
        .map(|batches| rows(&batches))
}

fn data_bytes(index: &[PartitionMeta]) -> usize {
    index.iter().map(|meta| meta.bytes as usize).sum()
}

fn assert_lost(error: &Error, path: &Path) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert_eq!(
        error.lost(),
        Some(LostOutput {
            stage: STAGE,
            task: 5,
            attempt: 0
        })
    );
    assert!(
        error.message().contains(path.as_ref()),
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn every_flipped_byte_is_noticed() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (ctx, path, index, bytes) = small(compression).await;
        let data = data_bytes(&index);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (at % 8);
            ctx.shuffle
                .store
                .put(&path, damaged.into())
                .await
                .expect("a put");
            if at < data {
                let error = read_all(&ctx, &index)
                    .await
                    .expect_err("a damaged partition");
                assert_lost(&error, &path);
            } else {
                // Readers do not need the footer; who reads it finds the damage.
                let error = read_index(&ctx.shuffle, job(), STAGE, 5, 0).await;
                assert_lost(&error.expect_err("a damaged footer"), &path);
            }
        }
    }
}

#[tokio::test]
async fn without_a_checksum_damage_is_still_no_panic() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (_, _, index, bytes) = small(compression).await;
        let data = bytes.slice(..data_bytes(&index));
        let schema = words(0..1).schema();
        let mut noticed = 0;
        for at in 0..data.len() {
            for bit in [0, 3, 7] {
                let mut damaged = data.to_vec();
                damaged[at] ^= 1 << bit;
                let decoded = decode_blocks(damaged.into(), Some(&schema), &mut |_| Ok(()));
                if let Err(error) = decoded {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    noticed += 1;
                }
            }
        }
        assert!(noticed > data.len() / 4, "{noticed} of {}", data.len() * 3);
        for length in 1..data.len() {
            let cut = decode_blocks(data.slice(..length), Some(&schema), &mut |_| Ok(()));
            let whole = index.iter().scan(0, |end, meta| {
                *end += meta.bytes as usize;
                Some(*end)
            });
            // Where a block ends, only the index can tell that another should follow.
            assert!(
                cut.is_err() || whole.clone().any(|end| end == length),
                "{length}"
            );
        }
    }
}

#[tokio::test]
async fn a_missing_or_cut_object_is_lost() {
    let (ctx, path, index, bytes) = small(Compression::None).await;
    let good = read_all(&ctx, &index).await.expect("whole");
    assert_eq!(good, rows(&[words(0..12)]));
    let data = data_bytes(&index);
    for length in [0, 1, data / 2, data - 1] {
        ctx.shuffle
            .store
            .put(&path, bytes.slice(..length).into())
            .await
            .expect("a put");
        assert_lost(&read_all(&ctx, &index).await.expect_err("cut off"), &path);
    }
    ctx.shuffle.store.delete(&path).await.expect("a delete");
    assert_lost(&read_all(&ctx, &index).await.expect_err("missing"), &path);
}

#[tokio::test]
async fn an_index_that_does_not_fit_is_noticed() {
    let (ctx, path, index, _) = small(Compression::None).await;
    let mut rows = index.clone();
    rows[1].rows += 1;
    assert_lost(&read_all(&ctx, &rows).await.expect_err("other rows"), &path);
    let mut short = source(5, &index, &ALL);
    short.partitions.pop();
    let schema = words(0..1).schema();
    let error = read(&ctx, ALL, vec![short], &schema)
        .await
        .expect_err("too few partitions");
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn other_columns_than_expected_are_corrupt() {
    let (ctx, path, index, _) = small(Compression::None).await;
    let schema = words(0..1).project(&[0]).expect("a column").schema();
    let sources = vec![source(5, &index, &ALL)];
    let error = read(&ctx, ALL, sources, &schema)
        .await
        .expect_err("another schema");
    assert_lost(&error, &path);
}

#[tokio::test]
async fn what_the_next_operator_says_is_not_blamed_on_the_object() {
    let (ctx, _, index, _) = small(Compression::None).await;
    let schema = words(0..1).schema();
    let sources = vec![source(5, &index, &ALL)];
    let mut morsels = super::open(STAGE, job(), ALL, sources, schema, &ctx).expect("a stream");
    let morsel = morsels.next().await.expect("a morsel").expect("fetched");
    let error = morsel(&mut |_| Err(Error::corrupt("mine"))).expect_err("refused");
    assert_eq!((error.message(), error.lost()), ("mine", None));
}

#[tokio::test]
async fn a_wrong_answer_is_asked_for_once_more() {
    let outcomes = [
        (Fault::FlipBit(70), 1, None),
        (Fault::FlipBit(70), 2, Some(ErrorKind::Corrupt)),
        (Fault::Truncate(70), 1, None),
        (Fault::Truncate(70), 2, Some(ErrorKind::Corrupt)),
        (Fault::Cut(70), 1, Some(ErrorKind::Unavailable)),
        (Fault::Fail(Failure::RESET), 1, Some(ErrorKind::Unavailable)),
    ];
    for (fault, wrong, expected) in outcomes {
        let (ctx, _, index, _) = small(Compression::None).await;
        let store = FaultyStore::new(Arc::clone(&ctx.shuffle.store));
        let fired = store.add(Rule::new(&[Op::Get], fault).times(wrong));
        let shuffle = ShuffleStore::new(store, Path::ROOT, Compression::None);
        let flaky = TaskContext { shuffle, ..ctx };
        let found = read_all(&flaky, &index).await;
        assert_eq!(
            found.as_ref().err().map(Error::kind),
            expected,
            "{fault:?} {wrong} times"
        );
        assert_eq!(fired.count(), wrong, "{fault:?}");
        if let Ok(found) = found {
            assert_eq!(found, rows(&[words(0..12)]));
            assert_eq!(flaky.metrics.counts().gets, 2);
        }
    }
}

#[tokio::test]
async fn a_cancelled_task_stops_reading() {
    let (ctx, _, index, _) = small(Compression::None).await;
    ctx.cancel.cancel();
    let error = read_all(&ctx, &index).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
