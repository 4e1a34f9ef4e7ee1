//! Which rows of a row group may pass, by what the page index says of each page.
//!
//! The index is read only for columns that are compared with constants or have the bounds of a
//! join's keys, and no more once it has been of no use for some row groups: in a table that is not
//! ordered by these columns every page has about the same bounds.

use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::DecodeResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::metadata::{
    ColumnChunkMask, PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder,
};

use super::bounds::{self, End};
use super::columns::{Columns, Source};
use super::decode::RowGroup;
use super::footer::{Footer, contain, unreadable};
use super::prune::{Bounds, possible};
use super::wanted::{Wanted, only_column};
use crate::error::Result;

/// Row groups whose page indexes are read before it is clear that they are of no use.
const TRIAL_ROW_GROUPS: u64 = 8;

/// Bytes of page index that are read for one file; more than this costs more than it can save.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// What reading page indexes has been good for.
#[derive(Default)]
pub(super) struct Usefulness {
    row_groups: AtomicU64,
    pruned: AtomicU64,
}

impl Usefulness {
    fn is_worth_trying(&self) -> bool {
        self.row_groups.load(Ordering::Relaxed) < TRIAL_ROW_GROUPS
            || self.pruned.load(Ordering::Relaxed) > 0
    }

    fn note(&self, row_groups: usize, pruned: u64) {
        self.row_groups
            .fetch_add(row_groups as u64, Ordering::Relaxed);
        self.pruned.fetch_add(pruned, Ordering::Relaxed);
    }
}

/// Leaves out the rows of `groups`, all of the file of `columns`, that lie in pages where no row
/// can pass, and row groups of which nothing is left. Counts the pages.
pub(super) async fn narrow(
    wanted: &Wanted,
    columns: &Columns,
    groups: Vec<RowGroup>,
    usefulness: &Usefulness,
) -> Result<(Vec<RowGroup>, u64)> {
    let footer = columns.footer();
    let leaves = compared(wanted, columns);
    if groups.is_empty() || leaves.is_empty() || !usefulness.is_worth_trying() {
        return Ok((groups, 0));
    }
    let indices: Vec<usize> = groups.iter().map(|group| group.index).collect();
    let Some(index) = read(footer, &indices, &leaves).await? else {
        return Ok((groups, 0));
    };
    let mut pruned = 0;
    let mut kept = Vec::with_capacity(groups.len());
    let count = groups.len();
    for (place, mut group) in groups.into_iter().enumerate() {
        let known = |source: &Source| pages(footer, &index, place, group.index, source);
        let mut ranges = group.ranges.clone();
        for conjunct in &wanted.conjuncts {
            let Some(source) = only_column(conjunct).and_then(|name| columns.find(name)) else {
                continue;
            };
            let Some((rows, bounds)) = known(source)? else {
                continue;
            };
            let answers = possible(conjunct, rows.len(), &|_| Some(bounds.clone()));
            let keep: Vec<bool> = answers.into_iter().map(|answer| answer.yes).collect();
            pruned += leave_out(&mut ranges, &rows, &keep);
        }
        for filter in &wanted.filters {
            let source = wanted.source(columns, filter.column);
            let (Some((least, greatest)), Some(source)) = (filter.keys.bounds(), source) else {
                continue;
            };
            let Some((rows, bounds)) = known(source)? else {
                continue;
            };
            pruned += leave_out(&mut ranges, &rows, &bounds.overlap(least, greatest));
        }
        if !ranges.is_empty() {
            group.ranges = ranges;
            kept.push(group);
        }
    }
    usefulness.note(count, pruned);
    Ok((kept, pruned))
}

/// The leaves that are compared with something by themselves, ascending.
fn compared(wanted: &Wanted, columns: &Columns) -> Vec<usize> {
    let conjuncts = wanted.conjuncts.iter();
    let names = conjuncts.filter_map(|conjunct| columns.find(only_column(conjunct)?));
    let bounded = wanted
        .filters
        .iter()
        .filter(|filter| filter.keys.bounds().is_some());
    let keys = bounded.filter_map(|filter| wanted.source(columns, filter.column));
    let places = names.chain(keys).filter_map(Source::place);
    let flat = places.filter(|place| !place.data_type.is_nested());
    let mut leaves: Vec<usize> = flat.map(|place| place.leaves.start).collect();
    leaves.sort_unstable();
    leaves.dedup();
    leaves
}

/// The rows of each page of a column, and their bounds; none if nothing is known. `place` is the
/// row group's place in `index`.
fn pages(
    footer: &Footer,
    index: &Arc<dyn PageIndexProvider>,
    place: usize,
    row_group: usize,
    source: &Source,
) -> Result<Option<(Vec<Range<usize>>, Bounds)>> {
    let Some(leaf) = source.place().map(|place| place.leaves.start) else {
        return Ok(None);
    };
    let (Some(offsets), Some(_)) = (
        index.offset_index(place, leaf),
        index.column_index(place, leaf),
    ) else {
        return Ok(None);
    };
    let end = footer.row_group(row_group).num_rows();
    let starts = offsets
        .page_locations()
        .iter()
        .map(|page| page.first_row_index);
    let starts: Vec<i64> = starts.chain(iter::once(end)).collect();
    // Every page has rows, from the first to the last of the row group.
    let fits = starts.first() == Some(&0) && starts.is_sorted();
    let starts: Option<Vec<usize>> = starts
        .iter()
        .map(|&row| usize::try_from(row).ok())
        .collect();
    let Some(starts) = starts.filter(|_| fits) else {
        let reason = format!("the page index of row group {row_group} is out of order");
        return Err(unreadable(footer.file(), &reason));
    };
    let rows: Vec<Range<usize>> = starts.windows(2).map(|ends| ends[0]..ends[1]).collect();
    let found = contain(footer.file(), "the page index", || {
        let Some(converter) = bounds::converter(footer, leaf)? else {
            return Ok(None);
        };
        let least = converter.data_page_mins(&**index, [&place])?;
        let greatest = converter.data_page_maxes(&**index, [&place])?;
        let nulls = converter.data_page_null_counts(&**index, [&place])?;
        Ok::<_, ParquetError>(Some((least, greatest, nulls)))
    });
    let Ok(Some((least, greatest, nulls))) = found else {
        return Ok(None);
    };
    if [least.len(), greatest.len(), nulls.len()]
        .iter()
        .any(|&pages| pages != rows.len())
    {
        return Ok(None);
    }
    let required = footer.leaf(leaf).max_def_level() == 0;
    let data_type = source.field().data_type();
    let bounds = Bounds {
        least: bounds::converted(least, data_type, true, End::Least),
        greatest: bounds::converted(greatest, data_type, true, End::Greatest),
        nulls: bounds::counts(&nulls, required),
        rows: rows.iter().map(|rows| rows.len() as u64).collect(),
    };
    Ok(Some((rows, bounds)))
}

/// Takes out of `ranges` the rows of pages that are not to be kept; counts these pages.
fn leave_out(ranges: &mut Vec<Range<usize>>, pages: &[Range<usize>], keep: &[bool]) -> u64 {
    let mut kept: Vec<Range<usize>> = Vec::new();
    for (page, _) in pages.iter().zip(keep).filter(|(_, keep)| **keep) {
        match kept.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => kept.push(page.clone()),
        }
    }
    let mut both = Vec::new();
    let mut rest = kept.iter().peekable();
    for range in ranges.iter() {
        while let Some(page) = rest.peek() {
            let common = range.start.max(page.start)..range.end.min(page.end);
            if !common.is_empty() {
                both.push(common);
            }
            if page.end > range.end {
                break;
            }
            rest.next();
        }
    }
    *ranges = both;
    keep.iter().filter(|keep| !**keep).count() as u64
}

/// Reads the page index of some leaves in the row groups at `indices`, which it numbers from 0;
/// none if the file has none or a large one.
async fn read(
    footer: &Footer,
    indices: &[usize],
    leaves: &[usize],
) -> Result<Option<Arc<dyn PageIndexProvider>>> {
    let groups = indices.iter().map(|&index| footer.row_group(index));
    let chunks = groups
        .clone()
        .flat_map(|group| leaves.iter().map(|&leaf| group.column(leaf)));
    let ranges = chunks.flat_map(|chunk| [chunk.column_index_range(), chunk.offset_index_range()]);
    let mut bytes = 0;
    for range in ranges.flatten() {
        let length = range.end.checked_sub(range.start);
        let inside = length.filter(|_| range.end <= footer.file().bytes());
        let Some(length) = inside else {
            return Err(unreadable(
                footer.file(),
                "its page index lies outside of the file",
            ));
        };
        bytes += length;
    }
    if bytes == 0 || bytes > INDEX_BYTES_MAX {
        return Ok(None);
    }
    let own = footer.metadata().metadata();
    let part = ParquetMetaData::new(own.file_metadata().clone(), groups.cloned().collect());
    let file = footer.file();
    let mut decoder = contain(file, "the page index", || {
        let decoder = ParquetMetaDataPushDecoder::try_new_with_metadata(file.bytes(), part)?;
        Ok::<_, ParquetError>(
            decoder
                .with_page_index_policy(PageIndexPolicy::Optional)
                .with_page_index_mask(ColumnChunkMask::columns(leaves.iter().copied())),
        )
    })?;
    loop {
        let step = contain(file, "the page index", || decoder.try_decode())?;
        match step {
            DecodeResult::Data(metadata) => return Ok(metadata.page_index().cloned()),
            DecodeResult::Finished => return Ok(None),
            DecodeResult::NeedsData(ranges) => {
                let data = file.read_all(ranges.clone()).await?;
                contain(file, "the page index", || decoder.push_ranges(ranges, data))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<Range<usize>> {
        let number = |text: &str| text.parse().expect("a number");
        let range = |text: &str| {
            let (start, end) = text.split_once('-').expect("two ends");
            number(start)..number(end)
        };
        text.split_whitespace().map(range).collect()
    }

    #[test]
    fn pages_are_taken_out_of_ranges() {
        let pages = ranges("0-10 10-20 20-30 30-35");
        for (before, kept, after) in [
            ("0-35", "yyyy", "0-35"),
            ("0-35", "nnnn", ""),
            ("0-35", "ynyy", "0-10 20-35"),
            ("5-25 28-32", "ynyn", "5-10 20-25 28-30"),
            ("0-2 33-35", "nyyy", "33-35"),
            ("", "yyyy", ""),
        ] {
            let keep: Vec<bool> = kept.chars().map(|kept| kept == 'y').collect();
            let mut left = ranges(before);
            let pruned = leave_out(&mut left, &pages, &keep);
            assert_eq!(left, ranges(after), "{before} {kept}");
            assert_eq!(pruned, kept.matches('n').count() as u64);
        }
    }
}
