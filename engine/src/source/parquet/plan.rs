//! Which row groups of a file have to be read, which rows of them, and with which tests.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use super::bounds;
use super::columns::{Columns, Source};
use super::decode::RowGroup;
use super::prune::{Bounds, Possible, possible};
use super::wanted::Wanted;
use crate::error::Result;

/// Rows of a row group that are worth a morsel of their own.
const MORSEL_ROWS_MIN: usize = 64 << 10;

/// Those of the row groups at `own` that may have rows that pass.
pub(super) fn row_groups(
    wanted: &Wanted,
    columns: &Arc<Columns>,
    own: &[usize],
) -> Result<Vec<RowGroup>> {
    let footer = columns.footer();
    let known = |source: &Source| bounds::row_groups(footer, source, own);
    let mut kept = vec![true; own.len()];
    let mut certain = vec![true; own.len()];
    let answers = answers(wanted, columns, own.len(), known)?;
    for answers in answers {
        for (unit, answer) in answers.into_iter().enumerate() {
            kept[unit] &= answer.yes;
            certain[unit] &= answer.is_certain();
        }
    }
    for filter in &wanted.filters {
        let Some((least, greatest)) = filter.keys.bounds() else {
            continue;
        };
        let Some(bounds) = source(wanted, columns, filter.column)
            .map(known)
            .transpose()?
            .flatten()
        else {
            continue;
        };
        for (unit, overlaps) in bounds.overlap(least, greatest).into_iter().enumerate() {
            kept[unit] &= overlaps;
        }
    }
    let mut groups = Vec::new();
    for (unit, &index) in own.iter().enumerate() {
        let rows = usize::try_from(footer.row_group(index).num_rows()).unwrap_or(0);
        if !kept[unit] || rows == 0 {
            continue;
        }
        // Tests of the predicate come first, and where all of them are certain nobody asks.
        let predicates = wanted.tests.len() - wanted.filters.len();
        let first = if certain[unit] { predicates } else { 0 };
        groups.push(RowGroup {
            columns: Arc::clone(columns),
            index,
            ranges: iter::once(0..rows).collect(),
            tests: (first..wanted.tests.len()).collect(),
        });
    }
    Ok(groups)
}

/// What each conjunct can be in each of `units` units.
fn answers(
    wanted: &Wanted,
    columns: &Columns,
    units: usize,
    known: impl Fn(&Source) -> Result<Option<Bounds>>,
) -> Result<Vec<Vec<Possible>>> {
    let mut bounds: Vec<Option<Bounds>> = Vec::with_capacity(columns.sources().len());
    for (slot, source) in columns.sources().iter().enumerate() {
        let asked = wanted.tests.iter().any(|test| test.slots().contains(&slot));
        bounds.push(if asked { known(source)? } else { None });
    }
    let find = |name: &str| {
        let mut sources = columns.sources().iter();
        let slot = sources.position(|source| source.field().name() == name)?;
        bounds[slot].clone()
    };
    let conjuncts = wanted.conjuncts.iter();
    Ok(conjuncts
        .map(|conjunct| possible(conjunct, units, &find))
        .collect())
}

/// The source of a column of the table.
fn source<'a>(wanted: &Wanted, columns: &'a Columns, column: usize) -> Option<&'a Source> {
    let slot = wanted.slots.binary_search(&column).ok()?;
    columns.sources().get(slot)
}

/// Cuts `ranges`, ascending and apart, into as many as `pieces` parts of about as many rows each.
pub(super) fn cut(ranges: &[Range<usize>], pieces: usize) -> Vec<Vec<Range<usize>>> {
    let rows: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    let size = rows.div_ceil(pieces.max(1)).max(MORSEL_ROWS_MIN);
    let mut parts: Vec<Vec<Range<usize>>> = Vec::new();
    let mut room = 0;
    for range in ranges {
        let mut rest = range.clone();
        while !rest.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = size;
            }
            let end = rest.end.min(rest.start + room);
            room -= end - rest.start;
            if let Some(part) = parts.last_mut() {
                part.push(rest.start..end);
            }
            rest.start = end;
        }
    }
    parts
}
