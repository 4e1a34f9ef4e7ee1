//! Which group each row of a batch belongs to, in the form that costs the least to work with.
//!
//! Where there is one group, or equal keys lie side by side, rows are *spans* of one group each;
//! only the first row of a span is looked up. Where there are few groups, rows are sorted by group
//! once, and every state gains. Otherwise each row has its group.

use std::ops::Range;

use crate::operator::aggregate::keys::EncodedKeys;
use crate::operator::aggregate::table::{GroupRef, Keys, Table};

/// The most groups of a table for which rows are sorted by group.
const FEW_GROUPS: usize = 64;

/// Rows for each group from which on sorting pays.
const ROWS_PER_GROUP: usize = 16;

/// Rows in a span from which on looking up first rows pays.
const ROWS_PER_SPAN: usize = 2;

/// The rows of a batch by group.
pub(super) enum Rows {
    /// The group of each row.
    Each(Vec<GroupRef>),
    /// Ranges of rows of one group.
    Spans { spans: Vec<Span>, rows: usize },
    /// Ranges of an order of the rows.
    Sorted { order: Vec<u32>, spans: Vec<Span> },
}

/// Neighbours of one group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) group: GroupRef,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

impl Rows {
    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Rows::Each(groups) => groups.len(),
            Rows::Spans { rows, .. } => *rows,
            Rows::Sorted { order, .. } => order.len(),
        }
    }

    /// The spans; none where each row has its group.
    pub(super) fn spans(&self) -> &[Span] {
        match self {
            Rows::Each(_) => &[],
            Rows::Spans { spans, .. } | Rows::Sorted { spans, .. } => spans,
        }
    }

    /// The rows of one of the spans.
    pub(super) fn of(&self, span: &Span) -> impl Iterator<Item = usize> {
        let order = match self {
            Rows::Sorted { order, .. } => Some(&order[span.range()]),
            _ => None,
        };
        let first = span.start as usize;
        (0..span.len()).map(move |at| order.map_or(first + at, |order| order[at] as usize))
    }

    /// The group of each row.
    pub(super) fn groups(&self) -> Vec<GroupRef> {
        if let Rows::Each(groups) = self {
            return groups.clone();
        }
        let mut groups = vec![GroupRef::default(); self.len()];
        for span in self.spans() {
            self.of(span).for_each(|row| groups[row] = span.group);
        }
        groups
    }
}

/// Finds or adds the groups of `rows` rows in `table`, and adds the rows, or the weights they
/// come with, to their counts.
pub(super) fn place(
    table: &mut Table,
    keys: &EncodedKeys<'_>,
    rows: usize,
    weights: Option<&[u64]>,
) -> Rows {
    let views = &*keys.views;
    if views.len() < rows {
        // Without keys there is one view for all.
        return one_group(table, keys, rows, weights);
    }
    let starts = 1 + changes(views);
    let is_few = |table: &Table| table.len() * ROWS_PER_GROUP <= rows.min(FEW_GROUPS * 16);
    let span_min = if is_few(table) {
        4 * ROWS_PER_SPAN
    } else {
        ROWS_PER_SPAN
    };
    if starts * span_min <= rows {
        return neighbours(table, keys, starts, weights);
    }
    let buffers = keys.buffers();
    let hashes = keys.hashes(views);
    let mut groups = Vec::with_capacity(rows);
    let keys = Keys {
        views,
        hashes: &hashes,
        buffers: &buffers,
        weights,
    };
    table.update(keys, Some(&mut groups));
    if is_few(table) {
        sorted(&groups)
    } else {
        Rows::Each(groups)
    }
}

/// The same where only counts are wanted.
pub(super) fn count(
    table: &mut Table,
    keys: &EncodedKeys<'_>,
    rows: usize,
    weights: Option<&[u64]>,
) {
    if keys.views.len() < rows {
        one_group(table, keys, rows, weights);
        return;
    }
    let starts = 1 + changes(&keys.views);
    if starts * ROWS_PER_SPAN <= rows {
        neighbours(table, keys, starts, weights);
        return;
    }
    let keys = Keys {
        views: &keys.views,
        hashes: &keys.hashes(&keys.views),
        buffers: &keys.buffers(),
        weights,
    };
    table.update(keys, None);
}

/// How often a key differs from the one before.
fn changes(views: &[u128]) -> usize {
    let pairs = views.iter().zip(views.iter().skip(1));
    pairs.map(|(a, b)| usize::from(a != b)).sum()
}

fn one_group(
    table: &mut Table,
    keys: &EncodedKeys<'_>,
    rows: usize,
    weights: Option<&[u64]>,
) -> Rows {
    let mut groups = Vec::with_capacity(1);
    let total = weights.map_or(rows as u64, |weights| weights.iter().sum());
    let keys = Keys {
        views: &keys.views,
        hashes: &keys.hashes(&keys.views),
        buffers: &[],
        weights: Some(&[total]),
    };
    table.update(keys, Some(&mut groups));
    let span = Span {
        group: groups[0],
        start: 0,
        end: rows as u32,
    };
    Rows::Spans {
        spans: vec![span],
        rows,
    }
}

/// Rows with equal keys side by side, in `count` spans.
fn neighbours(
    table: &mut Table,
    keys: &EncodedKeys<'_>,
    count: usize,
    weights: Option<&[u64]>,
) -> Rows {
    let views = &*keys.views;
    let mut starts = vec![0u32; views.len() + 1];
    let mut at = 1;
    for row in 1..views.len() {
        // Written always, kept where the key is another: a branch would be guessed wrong.
        starts[at] = row as u32;
        at += usize::from(views[row] != views[row - 1]);
    }
    debug_assert_eq!(at, count, "spans are counted as they are found");
    starts[at] = views.len() as u32;
    starts.truncate(at + 1);
    let heads: Vec<u128> = starts[..at]
        .iter()
        .map(|row| views[*row as usize])
        .collect();
    let rows = |pair: &[u32]| pair[0] as usize..pair[1] as usize;
    let counts: Vec<u64> = match weights {
        Some(weights) => starts
            .windows(2)
            .map(|pair| weights[rows(pair)].iter().sum())
            .collect(),
        None => starts
            .windows(2)
            .map(|pair| u64::from(pair[1] - pair[0]))
            .collect(),
    };
    let mut groups = Vec::with_capacity(at);
    let keys = Keys {
        views: &heads,
        hashes: &keys.hashes(&heads),
        buffers: &keys.buffers(),
        weights: Some(&counts),
    };
    table.update(keys, Some(&mut groups));
    let span = |(group, pair): (&GroupRef, &[u32])| Span {
        group: *group,
        start: pair[0],
        end: pair[1],
    };
    Rows::Spans {
        spans: groups.iter().zip(starts.windows(2)).map(span).collect(),
        rows: views.len(),
    }
}

/// Rows sorted by group, for tables of at most [`FEW_GROUPS`].
fn sorted(groups: &[GroupRef]) -> Rows {
    // A part of such a table has at most that many rows.
    let mut counts = [0u32; FEW_GROUPS * crate::operator::aggregate::table::PARTS];
    for group in groups {
        counts[group.index()] += 1;
    }
    let mut spans = Vec::with_capacity(FEW_GROUPS);
    let mut end = 0;
    for (index, count) in counts
        .iter_mut()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let start = end;
        end += *count;
        *count = start;
        let group = GroupRef::from_index(index);
        spans.push(Span { group, start, end });
    }
    let mut order = vec![0; groups.len()];
    for (row, group) in groups.iter().enumerate() {
        let at = &mut counts[group.index()];
        order[*at as usize] = row as u32;
        *at += 1;
    }
    Rows::Sorted { order, spans }
}
