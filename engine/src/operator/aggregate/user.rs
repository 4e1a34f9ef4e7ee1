//! The states of functions of users' programs.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::NullBuffer;

use crate::error::{Error, Result};
use crate::operator::aggregate::rows::Rows;
use crate::operator::aggregate::table::{GroupRef, PARTS, Table};
use crate::udf::{AggregateUdf, GroupStates};

/// A state for each group, part by part as in the table.
pub(super) struct UserStates {
    function: AggregateUdf,
    parts: Vec<Option<Box<dyn GroupStates>>>,
    /// What comes in are states, not rows.
    merging: bool,
    /// Rows of a batch and their groups, by part; kept for their room.
    sorted: Vec<(Vec<u32>, Vec<u32>)>,
}

impl UserStates {
    pub(super) fn new(function: &AggregateUdf, merging: bool) -> Self {
        UserStates {
            function: function.clone(),
            parts: (0..PARTS).map(|_| None).collect(),
            merging,
            sorted: Vec::new(),
        }
    }

    /// Bytes of all states.
    pub(super) fn bytes(&self) -> u64 {
        let parts = self.parts.iter().flatten();
        parts.map(|states| states.bytes()).sum()
    }

    /// Makes room for the groups of `table`.
    ///
    /// # Errors
    /// `Invalid` if this process does not have the function's code.
    pub(super) fn resize(&mut self, table: &Table) -> Result<()> {
        for number in 0..PARTS {
            let groups = table.part(number).len();
            if groups > 0 {
                self.part(number)?.resize(groups);
            }
        }
        Ok(())
    }

    fn part(&mut self, number: usize) -> Result<&mut Box<dyn GroupStates>> {
        let slot = &mut self.parts[number];
        match slot {
            Some(states) => Ok(states),
            None => Ok(slot.insert(body(&self.function)?)),
        }
    }

    /// Adds the rows that `mask` lets through.
    ///
    /// # Errors
    /// What the function answered.
    pub(super) fn update(
        &mut self,
        rows: &Rows,
        mask: Option<&NullBuffer>,
        inputs: &[&ArrayRef],
    ) -> Result<()> {
        self.sorted.resize_with(PARTS, Default::default);
        let mut sorted = std::mem::take(&mut self.sorted);
        for (row, group) in rows.groups().into_iter().enumerate() {
            if mask.is_none_or(|mask| mask.is_valid(row)) {
                let (groups, rows) = &mut sorted[group.part()];
                groups.push(group.row() as u32);
                rows.push(row as u32);
            }
        }
        let args: Vec<ArrayRef> = inputs.iter().map(|input| Arc::clone(input)).collect();
        let merging = self.merging;
        for (number, (groups, rows)) in sorted.iter_mut().enumerate() {
            if !groups.is_empty() {
                let states = self.part(number)?;
                match merging {
                    true => states.merge(groups, rows, &args[0])?,
                    false => states.update(groups, rows, &args)?,
                }
                groups.clear();
                rows.clear();
            }
        }
        self.sorted = sorted;
        Ok(())
    }

    /// Merges `part` of `other`, whose groups have become `groups`.
    ///
    /// # Errors
    /// What the function answered.
    pub(super) fn merge(&mut self, other: &Self, part: usize, groups: &[GroupRef]) -> Result<()> {
        let Some(others) = &other.parts[part] else {
            return Ok(());
        };
        let states = others.states(0..groups.len())?;
        let rows: Vec<u32> = (0..groups.len() as u32).collect();
        let groups: Vec<u32> = groups.iter().map(|group| group.row() as u32).collect();
        self.part(part)?.merge(&groups, &rows, &states)
    }

    /// Takes out one part.
    pub(super) fn take_part(&mut self, part: usize) -> Self {
        let mut taken = UserStates::new(&self.function, self.merging);
        std::mem::swap(&mut taken.parts[part], &mut self.parts[part]);
        taken
    }

    /// The states of some groups, or with `results` what comes of them.
    ///
    /// # Errors
    /// What the function answered.
    pub(super) fn column(
        &self,
        part: usize,
        range: Range<usize>,
        results: bool,
    ) -> Result<ArrayRef> {
        let made;
        let states = match &self.parts[part] {
            Some(states) => states,
            None => {
                made = body(&self.function)?;
                &made
            }
        };
        match results {
            true => states.results(range),
            false => states.states(range),
        }
    }
}

/// The states of groups of one row each; a row that `mask` stops leaves a state that has seen none.
///
/// # Errors
/// What the function answered.
pub(super) fn states_of_rows(
    function: &AggregateUdf,
    rows: usize,
    mask: Option<&NullBuffer>,
    args: &[ArrayRef],
) -> Result<ArrayRef> {
    let mut states = body(function)?;
    states.resize(rows);
    let valid = |row: &u32| mask.is_none_or(|mask| mask.is_valid(*row as usize));
    let numbers: Vec<u32> = (0..rows as u32).filter(valid).collect();
    states.update(&numbers, &numbers, args)?;
    states.states(0..rows)
}

fn body(function: &AggregateUdf) -> Result<Box<dyn GroupStates>> {
    let body = function.body().ok_or_else(|| {
        Error::invalid(format!(
            "this process does not have the code of a function name={:?}",
            function.name()
        ))
    })?;
    Ok(body.groups())
}
