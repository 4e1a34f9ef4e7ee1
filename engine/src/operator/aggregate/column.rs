//! One accumulator for each group, of fixed size, and the loops that fill it.
//!
//! The loops are generic over the values, the accumulator and what is done with both, and have no
//! branch per row unless rows are masked out. Rows of one group that are known to belong together
//! are accumulated in registers, and their group is touched once.

use std::ops::Range;

use arrow::buffer::NullBuffer;

use crate::operator::aggregate::rows::{Rows, Span};
use crate::operator::aggregate::table::{GroupRef, PARTS, Table};

/// Accumulators, part by part as in the table.
pub(super) struct Column<A> {
    parts: Box<[Part<A>; PARTS]>,
    empty: A,
    /// Whether some group may have had no value: then `seen` says which groups had one. While no
    /// row is masked out, every group has.
    tracked: bool,
}

struct Part<A> {
    values: Vec<A>,
    seen: Vec<bool>,
}

/// What is done with an accumulator: `fold` adds a value, `join` another accumulator.
pub(super) struct Fold<F, J> {
    pub(super) fold: F,
    pub(super) join: J,
}

impl<A: Copy> Column<A> {
    /// No groups; those to come start from `empty`.
    pub(super) fn new(empty: A) -> Self {
        let part = |_| Part {
            values: Vec::new(),
            seen: Vec::new(),
        };
        Column {
            parts: Box::new(std::array::from_fn(part)),
            empty,
            tracked: false,
        }
    }

    /// Makes room for the groups of `table`. `masked` says that some of them may get no value.
    pub(super) fn resize(&mut self, table: &Table, masked: bool) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            let len = table.part(number).len();
            if masked && !self.tracked {
                part.seen = vec![true; part.values.len()];
            }
            if part.values.len() < len {
                part.values.resize(len, self.empty);
            }
            if masked || self.tracked {
                part.seen.resize(len, false);
            }
        }
        self.tracked |= masked;
    }

    /// Folds the values of all rows that `mask` lets through.
    pub(super) fn update<V: Copy>(
        &mut self,
        rows: &Rows,
        mask: Option<&NullBuffer>,
        values: &[V],
        with: Fold<impl Fn(A, V) -> A, impl Fn(A, A) -> A>,
    ) {
        let values = &values[..rows.len()];
        match (rows, mask) {
            (Rows::Each(groups), None) => {
                for (group, value) in groups.iter().zip(values) {
                    let held = &mut self.parts[group.part()].values[group.row()];
                    *held = (with.fold)(*held, *value);
                }
                self.mark(groups);
            }
            (Rows::Each(groups), Some(mask)) => {
                for ((group, value), valid) in groups.iter().zip(values).zip(mask) {
                    if valid {
                        self.fold(*group, *value, &with.fold);
                    }
                }
            }
            (Rows::Spans { spans, .. }, None) => {
                for span in spans {
                    let values = values[span.range()].iter();
                    let sum = values.fold(self.empty, |sum, value| (with.fold)(sum, *value));
                    self.fold(span.group, sum, &with.join);
                }
            }
            (Rows::Sorted { order, spans }, None) => {
                for span in spans {
                    let rows = order[span.range()].iter();
                    let fold = |sum, row: &u32| (with.fold)(sum, values[*row as usize]);
                    let sum = rows.fold(self.empty, fold);
                    self.fold(span.group, sum, &with.join);
                }
            }
            (_, Some(mask)) => {
                for span in rows.spans() {
                    let rows = rows.of(span).filter(|row| mask.is_valid(*row));
                    let sum = rows.fold(None, |sum, row| {
                        Some((with.fold)(sum.unwrap_or(self.empty), values[row]))
                    });
                    if let Some(sum) = sum {
                        self.fold(span.group, sum, &with.join);
                    }
                }
            }
        }
    }

    /// Notes that these groups have had a value.
    fn mark(&mut self, groups: &[GroupRef]) {
        if self.tracked {
            for group in groups {
                self.parts[group.part()].seen[group.row()] = true;
            }
        }
    }

    #[inline(always)]
    fn fold<V>(&mut self, group: GroupRef, value: V, fold: &impl Fn(A, V) -> A) {
        let part = &mut self.parts[group.part()];
        let held = &mut part.values[group.row()];
        *held = fold(*held, value);
        if self.tracked {
            part.seen[group.row()] = true;
        }
    }

    /// Joins the accumulators of `part` of `other` to those of `groups`.
    pub(super) fn merge(
        &mut self,
        other: &Self,
        part: usize,
        groups: &[GroupRef],
        join: impl Fn(A, A) -> A,
    ) {
        let others = &other.parts[part];
        for (row, group) in groups.iter().enumerate() {
            if !other.tracked || others.seen[row] {
                self.fold(*group, others.values[row], &join);
            }
        }
    }

    /// Whether some group may have had no value.
    pub(super) fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// Takes out one part.
    pub(super) fn take_part(&mut self, part: usize) -> Self {
        let mut taken = Column::new(self.empty);
        std::mem::swap(&mut taken.parts[part], &mut self.parts[part]);
        taken.tracked = self.tracked;
        taken
    }

    /// The accumulators of some groups.
    pub(super) fn values(&self, part: usize, range: Range<usize>) -> &[A] {
        &self.parts[part].values[range]
    }

    /// Which of some groups had a value; none if all had.
    pub(super) fn nulls(&self, part: usize, range: Range<usize>) -> Option<NullBuffer> {
        self.tracked
            .then(|| NullBuffer::from(&self.parts[part].seen[range]))
            .filter(|nulls| nulls.null_count() > 0)
    }
}

impl Column<i64> {
    /// Counts the rows that `mask` lets through.
    pub(super) fn count(&mut self, rows: &Rows, mask: Option<&NullBuffer>) {
        let add = |held: i64, more: i64| held + more;
        match (rows, mask) {
            (Rows::Each(groups), None) => {
                for group in groups {
                    self.fold(*group, 1, &add);
                }
            }
            (Rows::Each(groups), Some(mask)) => {
                for (group, valid) in groups.iter().zip(mask) {
                    self.fold(*group, i64::from(valid), &add);
                }
            }
            (_, None) => {
                for span in rows.spans() {
                    self.fold(span.group, span.len() as i64, &add);
                }
            }
            (_, Some(mask)) => {
                let count = |span: &Span| rows.of(span).filter(|row| mask.is_valid(*row)).count();
                for span in rows.spans() {
                    self.fold(span.group, count(span) as i64, &add);
                }
            }
        }
    }
}
