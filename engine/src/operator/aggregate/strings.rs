//! The least, greatest, or any string of each group.

use std::ops::Range;

use arrow::array::{ArrayRef, AsArray};
use arrow::buffer::NullBuffer;

use crate::operator::aggregate::rows::Rows;
use crate::operator::aggregate::spec::StateKind;
use crate::operator::aggregate::table::{GroupRef, PARTS, Table};

/// A string for each group that had one, part by part as in the table.
pub(super) struct Strings {
    kind: StateKind,
    parts: Vec<Vec<Option<Box<[u8]>>>>,
    bytes: u64,
}

impl Strings {
    pub(super) fn new(kind: StateKind) -> Self {
        Strings {
            kind,
            parts: vec![Vec::new(); PARTS],
            bytes: 0,
        }
    }

    /// Bytes of the strings.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes room for the groups of `table`.
    pub(super) fn resize(&mut self, table: &Table) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            let len = table.part(number).len();
            if part.len() < len {
                part.resize(len, None);
            }
        }
    }

    /// Folds the strings or bytes of the rows that `mask` lets through.
    pub(super) fn update(&mut self, rows: &Rows, mask: Option<&NullBuffer>, values: &ArrayRef) {
        if let Some(values) = values.as_string_view_opt() {
            self.update_each(rows, mask, |row| values.value(row).as_bytes());
        } else {
            let values = values.as_binary_view();
            self.update_each(rows, mask, |row| values.value(row));
        }
    }

    fn update_each<'a>(
        &mut self,
        rows: &Rows,
        mask: Option<&NullBuffer>,
        value: impl Fn(usize) -> &'a [u8],
    ) {
        let valid = |row: &usize| mask.is_none_or(|mask| mask.is_valid(*row));
        let kind = self.kind;
        if let Rows::Each(groups) = rows {
            for row in (0..groups.len()).filter(valid) {
                self.fold(groups[row], value(row));
            }
        }
        for span in rows.spans() {
            let values = rows.of(span).filter(valid).map(&value);
            let best = values.reduce(|held, value| {
                if replaces(kind, held, value) {
                    value
                } else {
                    held
                }
            });
            if let Some(best) = best {
                self.fold(span.group, best);
            }
        }
    }

    fn fold(&mut self, group: GroupRef, value: &[u8]) {
        let held = &mut self.parts[group.part()][group.row()];
        if held
            .as_deref()
            .is_none_or(|held| replaces(self.kind, held, value))
        {
            let freed = held.as_deref().map_or(0, <[u8]>::len) as u64;
            self.bytes = (self.bytes + value.len() as u64).saturating_sub(freed);
            *held = Some(value.into());
        }
    }

    /// Merges `part` of `other`, whose groups have become `groups`.
    pub(super) fn merge(&mut self, other: &Self, part: usize, groups: &[GroupRef]) {
        for (value, group) in other.parts[part].iter().zip(groups) {
            if let Some(value) = value {
                self.fold(*group, value);
            }
        }
    }

    /// Takes out one part.
    pub(super) fn take_part(&mut self, part: usize) -> Self {
        let mut taken = Strings::new(self.kind);
        std::mem::swap(&mut taken.parts[part], &mut self.parts[part]);
        taken
    }

    /// The strings of some groups.
    pub(super) fn values(
        &self,
        part: usize,
        range: Range<usize>,
    ) -> impl Iterator<Item = Option<&[u8]>> {
        self.parts[part][range].iter().map(Option::as_deref)
    }
}

fn replaces(kind: StateKind, held: &[u8], value: &[u8]) -> bool {
    match kind {
        StateKind::Min => value < held,
        StateKind::Max => value > held,
        _ => false,
    }
}
