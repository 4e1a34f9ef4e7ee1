//! Input files become tasks: slices of files, packed so that tasks are few, large and alike.
//!
//! A task uses all threads of its executor, so there are as many tasks as make each a few hundred
//! megabytes. On a cluster there are more than run at once, where that leaves each something to
//! do, so that an executor that joins or is done early finds work. Not many more: the less text a
//! task covers the less map-side combining saves, so each adds rows to the shuffle. Files
//! larger than a task's share are cut where their format allows it; the pieces are dealt out,
//! largest first, always to the task that has least.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use kiln_engine::plan::{FileMeta, LogicalPlan, Scan, ScanFormat, Split};
use kiln_engine::storage::{Stores, list_files, storage_error};
use kiln_engine::{Result, limits, source};
use object_store::ObjectStoreExt;

use super::order::scan_in_order;
use super::statistics::{TableStatistics, estimate};
use super::{ClusterShape, PlannerSettings, facts};

/// What tells a node from every other while its plan lives.
pub(super) fn address(node: &Arc<LogicalPlan>) -> usize {
    Arc::as_ptr(node) as usize
}

/// Bytes that tell whether a file is compressed.
const MAGIC_BYTES: u64 = 16;

/// The input files of a plan, and what is known of them.
pub(super) struct Tables(BTreeMap<Vec<String>, Table>);

/// The files that some locations stand for.
struct Table {
    files: Vec<FileMeta>,
    statistics: TableStatistics,
}

/// Finds the files of every scan of `plan`. Scans of the same locations read the same files.
///
/// # Errors
/// What listing or reading what files say of themselves answered.
pub(super) async fn find(plan: &LogicalPlan, stores: &Stores) -> Result<Tables> {
    let mut tables = BTreeMap::new();
    for scan in scans(plan) {
        if tables.contains_key(&scan.locations) {
            continue;
        }
        let files = list_files(stores, &scan.locations).await?;
        let statistics = facts::of_files(&files, scan, stores).await?;
        tables.insert(scan.locations.clone(), Table { files, statistics });
    }
    Ok(Tables(tables))
}

/// The nodes below `plan`, each once, in however many places it stands.
pub(super) fn nodes_below(plan: &LogicalPlan) -> Vec<&Arc<LogicalPlan>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut open = plan.inputs();
    while let Some(node) = open.pop() {
        if seen.insert(address(node)) {
            found.push(node);
            open.extend(node.inputs());
        }
    }
    found
}

/// Every scan of a plan.
fn scans(plan: &LogicalPlan) -> impl Iterator<Item = &Scan> {
    let below = nodes_below(plan).into_iter().map(AsRef::as_ref);
    [plan]
        .into_iter()
        .chain(below)
        .filter_map(|node| match node {
            LogicalPlan::Scan(scan) => Some(scan),
            _ => None,
        })
}

impl Tables {
    /// What is known of the rows that `scan` reads.
    pub(super) fn statistics(&self, scan: &Scan) -> Option<TableStatistics> {
        self.0
            .get(&scan.locations)
            .map(|table| table.statistics.clone())
    }

    /// Makes tasks of the files of every scan of `plan`, by the address of its node.
    ///
    /// # Errors
    /// What reading a file's first bytes answered.
    pub(super) async fn deal_out(
        &self,
        plan: &Arc<LogicalPlan>,
        cluster: &ClusterShape,
        settings: &PlannerSettings,
        stores: &Stores,
    ) -> Result<HashMap<usize, Input>> {
        let least = settings.task_input_bytes_min;
        let held = self.held_bytes(plan);
        let in_order = scan_in_order(plan).map(address);
        let mut inputs = HashMap::new();
        for node in [plan].into_iter().chain(nodes_below(plan)) {
            if let LogicalPlan::Scan(scan) = &**node
                && let Some(table) = self.0.get(&scan.locations)
            {
                let in_order = in_order == Some(address(node));
                let (files, pieces, count) =
                    resolve(scan, table, held, (cluster, least), stores).await?;
                let tasks = match in_order {
                    true => deal_in_order(pieces, count),
                    false => deal(pieces, count),
                };
                inputs.insert(address(node), Input { files, tasks });
            }
        }
        Ok(inputs)
    }

    /// About how many bytes the largest operator of `plan` that keeps rows has to keep; none if
    /// there is no such operator. A sort is as fast without: it writes sorted runs and merges them.
    fn held_bytes(&self, plan: &LogicalPlan) -> Option<u64> {
        let bytes = |node: &LogicalPlan| estimate(node, &|scan| self.statistics(scan)).bytes as u64;
        let held = |node: &LogicalPlan| match node {
            LogicalPlan::Aggregate { .. } => Some(bytes(node)),
            LogicalPlan::Join { left, right, .. } => Some(bytes(left).min(bytes(right))),
            LogicalPlan::Reduce { .. } => Some(0),
            _ => None,
        };
        let below = nodes_below(plan).into_iter().map(|node| held(node)).max();
        held(plan).max(below.flatten())
    }
}

/// The files of a scan, cut and dealt out.
pub(super) struct Input {
    /// The files, in listing order.
    pub(super) files: Vec<FileMeta>,
    /// The splits of each task; at least one task.
    pub(super) tasks: Vec<Vec<Split>>,
}

/// Tasks for each executor of a cluster, where the input is worth it: one more than run at once.
const TASKS_PER_EXECUTOR: u64 = limits::TASKS_AT_ONCE as u64 + 1;

/// Tasks on a cluster however small it is, where the input is worth it: what one executor runs at
/// once and as many for the next.
const TASKS_LEAST: u64 = 2 * limits::TASKS_AT_ONCE as u64;

/// The files of `scan`, pieces of them in order, and how many tasks of at least `least` bytes these
/// are for, in a plan that has to keep about `held` bytes at once, if any.
///
/// # Errors
/// What reading a file's first bytes answered.
async fn resolve(
    scan: &Scan,
    table: &Table,
    held: Option<u64>,
    (cluster, least): (&ClusterShape, u64),
    stores: &Stores,
) -> Result<(Vec<FileMeta>, Vec<Split>, u64)> {
    let files = table.files.clone();
    // One executor that stays alone and can hold whatever has to be kept needs no exchange. What
    // grouping leaves of text is no more than the text.
    let kept = match (held, &scan.format) {
        (None, _) => 0,
        (Some(held), ScanFormat::Parquet) => held,
        (Some(_), ScanFormat::Text(_) | ScanFormat::Csv(_)) => {
            files.iter().map(|file| file.bytes).sum()
        }
    };
    if !cluster.may_grow && kept <= cluster.memory / 2 {
        let pieces = files.iter().map(whole).collect();
        return Ok((files, pieces, 1));
    }
    let count = task_count(total_cost(&files), cluster, least);
    let share = total_cost(&files).div_ceil(count).max(1);
    let compressed = compressed_files(&files, share, &scan.format, stores).await?;
    let mut compressed = compressed.into_iter().peekable();
    let mut pieces = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let is_whole =
            matches!(scan.format, ScanFormat::Csv(_)) || compressed.next_if_eq(&index).is_some();
        if is_whole || file.bytes <= share {
            pieces.push(whole(file));
        } else {
            pieces.extend(cut(file, file.bytes.div_ceil(share)));
        }
    }
    Ok((files, pieces, count))
}

/// What reading all files costs, in bytes.
fn total_cost(files: &[FileMeta]) -> u64 {
    files
        .iter()
        .map(|file| file.bytes + limits::FILE_OPEN_COST_BYTES)
        .sum()
}

/// How many tasks, each of which costs at least `task_least`, read input that costs `cost`.
fn task_count(cost: u64, cluster: &ClusterShape, task_least: u64) -> u64 {
    let executors = u64::from(cluster.executors.max(1));
    let by_size = cost.div_ceil(limits::TASK_INPUT_BYTES).max(1);
    if !cluster.may_grow {
        return by_size;
    }
    let least = (executors * TASKS_PER_EXECUTOR).max(TASKS_LEAST);
    // As many for each executor, so that they end together.
    let even = by_size.max(least).next_multiple_of(executors);
    even.min((cost / task_least.max(1)).max(1))
}

/// Indices, in order, of the text files beyond `share` that cannot be cut.
async fn compressed_files(
    files: &[FileMeta],
    share: u64,
    format: &ScanFormat,
    stores: &Stores,
) -> Result<Vec<usize>> {
    if !matches!(format, ScanFormat::Text(_)) {
        return Ok(Vec::new());
    }
    // Futures that own what they look at: a task that is spawned must not borrow through closures.
    let large: Vec<_> = files
        .iter()
        .enumerate()
        .filter(|(_, file)| file.bytes > share)
        .map(|(index, file)| index_if_compressed(index, file.clone(), stores))
        .collect();
    stream::iter(large)
        .buffered(limits::PREFETCH_REQUESTS)
        .try_filter_map(|index| async move { Ok(index) })
        .try_collect()
        .await
}

async fn index_if_compressed(
    index: usize,
    file: FileMeta,
    stores: &Stores,
) -> Result<Option<usize>> {
    Ok(is_compressed(&file, stores).await?.then_some(index))
}

async fn is_compressed(file: &FileMeta, stores: &Stores) -> Result<bool> {
    let (store, path) = stores.get(&file.url)?;
    let head = store.get_range(&path, 0..MAGIC_BYTES.min(file.bytes)).await;
    let head = head.map_err(|error| storage_error("read", &file.url, error))?;
    Ok(source::text::is_compressed(&head))
}

fn whole(file: &FileMeta) -> Split {
    Split {
        url: file.url.clone(),
        file_bytes: file.bytes,
        start: 0,
        end: file.bytes,
    }
}

/// `count` slices of a file, alike to a byte.
fn cut(file: &FileMeta, count: u64) -> impl Iterator<Item = Split> + '_ {
    let at = move |index: u64| {
        let start = u128::from(file.bytes) * u128::from(index) / u128::from(count);
        u64::try_from(start).expect("a part of a file is no longer than the file")
    };
    (0..count).map(move |index| Split {
        start: at(index),
        end: at(index + 1),
        ..whole(file)
    })
}

/// What reading a piece costs, in bytes.
fn cost(piece: &Split) -> u64 {
    piece.end - piece.start + limits::FILE_OPEN_COST_BYTES
}

/// Deals pieces out to at most `count` tasks: to each some that follow one another.
fn deal_in_order(pieces: Vec<Split>, count: u64) -> Vec<Vec<Split>> {
    let all: u128 = pieces.iter().map(|piece| u128::from(cost(piece))).sum();
    let mut tasks: Vec<Vec<Split>> = vec![Vec::new()];
    let (mut before, mut current) = (0, 0);
    for piece in pieces {
        // The task in whose share of the cost the middle of this piece lies.
        let bytes = u128::from(cost(&piece));
        let share = (2 * before + bytes) * u128::from(count) / (2 * all).max(1);
        if share > current && before > 0 {
            tasks.push(Vec::new());
        }
        current = share;
        before += bytes;
        if let Some(task) = tasks.last_mut() {
            task.push(piece);
        }
    }
    tasks
}

/// Deals pieces out to at most `count` tasks. Within a task they keep their order.
fn deal(pieces: Vec<Split>, count: u64) -> Vec<Vec<Split>> {
    let count = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .clamp(1, pieces.len().max(1));
    let mut by_size: Vec<usize> = (0..pieces.len()).collect();
    by_size.sort_by_key(|&index| Reverse(cost(&pieces[index])));
    let mut least: BinaryHeap<_> = (0..count).map(|task| Reverse((0, task))).collect();
    let mut task_of = vec![0; pieces.len()];
    for index in by_size {
        if let Some(mut top) = least.peek_mut() {
            let Reverse((load, task)) = &mut *top;
            task_of[index] = *task;
            *load += cost(&pieces[index]);
        }
    }
    let mut tasks = vec![Vec::new(); count];
    for (piece, task) in pieces.into_iter().zip(task_of) {
        tasks[task].push(piece);
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn piece(start: u64, end: u64) -> Split {
        Split {
            url: "memory:///in".to_owned(),
            file_bytes: end,
            start,
            end,
        }
    }

    #[test]
    fn tasks_are_large_and_every_executor_gets_as_many() {
        let check = |executors, may_grow, mib: &[u64], expected: &[u64]| {
            let cluster = ClusterShape {
                executors,
                threads: executors,
                memory: 0,
                may_grow,
            };
            let least = limits::TASK_INPUT_BYTES_MIN;
            let counts = mib.iter().map(|mib| task_count(mib * MIB, &cluster, least));
            assert_eq!(counts.collect::<Vec<_>>(), expected, "{cluster:?}");
        };
        check(1, false, &[0, 1, 256, 257, 1200], &[1, 1, 1, 2, 5]);
        check(0, true, &[0, 15, 16, 1200], &[1, 1, 2, 5]);
        check(1, true, &[0, 15, 16, 32, 256, 1200], &[1, 1, 2, 4, 4, 5]);
        check(2, true, &[0, 15, 31, 32, 64, 1200], &[1, 1, 3, 4, 6, 6]);
        check(4, true, &[1200, 100_000], &[12, 392]);
    }

    #[test]
    fn slices_cover_a_file_without_gaps() {
        for (bytes, count) in [(10, 3), (1 << 40, 7), (3, 3), (u64::MAX, 5)] {
            let file = FileMeta {
                url: "memory:///in".to_owned(),
                bytes,
            };
            let slices: Vec<Split> = cut(&file, count).collect();
            assert_eq!(slices.len() as u64, count);
            assert_eq!((slices[0].start, slices[slices.len() - 1].end), (0, bytes));
            assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = slices.iter().map(|slice| slice.end - slice.start);
            assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1));
        }
    }

    #[test]
    fn tasks_get_alike() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let pieces: Vec<Split> = (0..5000).map(|_| piece(0, random.u64(0..MIB))).collect();
        let bytes = |pieces: &[Split]| pieces.iter().map(|piece| piece.end).sum::<u64>();
        let tasks = deal(pieces.clone(), 7);
        let loads: Vec<u64> = tasks.iter().map(|task| bytes(task)).collect();
        assert_eq!(loads.iter().sum::<u64>(), bytes(&pieces), "seed={seed}");
        let (least, most) = (loads.iter().min(), loads.iter().max());
        assert!(
            most <= least.map(|least| least + MIB).as_ref(),
            "seed={seed} loads={loads:?}"
        );
    }

    #[test]
    fn tasks_follow_one_another_where_order_matters() {
        let ends = |ends: &[u64], count| -> Vec<u64> {
            let starts = [0].into_iter().chain(ends.iter().copied());
            let pieces = starts
                .zip(ends)
                .map(|(start, &end)| piece(start * MIB, end * MIB));
            let pieces: Vec<Split> = pieces.collect();
            let tasks = deal_in_order(pieces.clone(), count);
            assert_eq!(tasks.concat(), pieces, "every piece once, in order");
            assert!(tasks.len() as u64 <= count && tasks.iter().all(|task| !task.is_empty()));
            tasks
                .iter()
                .map(|task| task[task.len() - 1].end / MIB)
                .collect()
        };
        assert_eq!(ends(&[1, 2, 3, 4, 5, 6], 3), [2, 4, 6]);
        assert_eq!(ends(&[1, 2, 3, 10], 2), [3, 10]);
        assert_eq!(ends(&[9, 10, 11], 2), [9, 11]);
        assert_eq!(ends(&[5], 4), [5]);
        assert_eq!(deal_in_order(Vec::new(), 4), [Vec::new()]);
    }

    #[test]
    fn there_are_no_empty_tasks_but_there_is_one() {
        assert_eq!(deal(vec![piece(0, 9), piece(9, 10)], 5).len(), 2);
        assert_eq!(deal(Vec::new(), 5), vec![Vec::new()]);
        let order = vec![piece(0, 1), piece(1, 9), piece(9, 10)];
        assert_eq!(deal(order.clone(), 1), vec![order]);
    }
}
