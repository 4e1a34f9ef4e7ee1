//! From pieces of build rows to a table.
//!
//! Only when all rows are there, so that number and range of the keys are known, is it decided how
//! they are looked up. A [`Plan`] is that decision: it says what memory the table is going to take
//! beside its rows before any of it is taken, so that making the table cannot fail for want of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::error::Result;
use crate::kernel::key_filter::KeyFilter;
use crate::kernel::number::{Range, is_number, range};
use crate::operator::join::JoinSpec;
use crate::operator::join::columns::join_pieces;
use crate::operator::join::flags::{Chains, Flags};
use crate::operator::join::index::{Codes, Index, Layout};
use crate::operator::join::keys::{Encoder, comparable};
use crate::operator::join::piece::column_bytes;
use crate::operator::join::room::Room;
use crate::operator::join::spilled::SpilledRows;

/// The build rows of a join, ready to be looked up in. Never changes.
pub struct JoinTable {
    /// Rows in memory.
    pub(super) rows: usize,
    /// The columns that the spec keeps.
    pub(super) columns: Vec<ArrayRef>,
    pub(super) encoder: Encoder,
    pub(super) index: Index,
    /// The keys, if rows of equal codes have to be compared.
    pub(super) keys: Vec<ArrayRef>,
    filters: Vec<Arc<KeyFilter>>,
    /// Rows for which there was no memory.
    pub(super) spilled: Option<SpilledRows>,
    room: Room,
}

/// A filter that somebody wants of a table's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRequest {
    /// Which of the keys.
    pub key: usize,
    /// The type of the column that is going to be filtered.
    pub data_type: DataType,
}

impl FilterRequest {
    /// Keys as the filter has them.
    pub(super) fn cast(&self, keys: &ArrayRef) -> Result<ArrayRef> {
        if keys.data_type() == &self.data_type {
            return Ok(Arc::clone(keys));
        }
        // What the column's type cannot hold, the column does not have.
        Ok(arrow::compute::cast(keys, &self.data_type)?)
    }
}

impl JoinTable {
    /// How many build rows there are, in memory and on disk, those aside that can have no match
    /// and do not come out.
    pub fn rows(&self) -> u64 {
        let spilled = self.spilled.as_ref().map_or(0, SpilledRows::rows);
        self.rows as u64 + spilled
    }

    /// The bytes that the table takes in memory.
    pub fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// Whether some of the rows are on disk.
    pub fn has_spilled(&self) -> bool {
        self.spilled.is_some()
    }

    /// The filters that were asked for, in that order; none if there was no memory for them.
    pub fn filters(&self) -> &[Arc<KeyFilter>] {
        match &self.spilled {
            None => &self.filters,
            Some(spilled) => spilled.filters(),
        }
    }

    /// Marks for every row in memory, none set.
    pub(super) fn flags(&self) -> Flags {
        Flags::new(self.rows)
    }

    /// The chains of all rows in memory, from which rows can be left out.
    pub(super) fn chains(&self) -> Chains {
        Chains::new(&self.index, self.rows)
    }
}

/// How a table will be made of some pieces.
pub(super) struct Plan {
    rows: usize,
    encoder: Encoder,
    codes: u64,
    layout: Layout,
}

/// Bytes that a table takes beside its pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlanBytes {
    /// For good.
    lasting: u64,
    /// And while it is made.
    passing: u64,
}

impl PlanBytes {
    pub(super) fn sum(self) -> u64 {
        self.lasting + self.passing
    }
}

impl Plan {
    /// For `pieces`, which have `rows` rows.
    ///
    /// # Errors
    /// None for keys that have a range.
    pub(super) fn new(spec: &JoinSpec, pieces: &[RecordBatch], rows: usize) -> Result<Self> {
        let (encoder, codes) = match spec.key_types.is_empty() {
            true => (Encoder::Hashed, 0),
            false => Encoder::new(ranges(spec, pieces)?),
        };
        let layout = match spec.key_types.is_empty() {
            true => Layout::None,
            false => Layout::new(rows, codes, encoder.is_exact()),
        };
        Ok(Plan {
            rows,
            encoder,
            codes,
            layout,
        })
    }

    /// The same with an index that takes less memory; none if there is none.
    pub(super) fn smaller(self) -> Option<Self> {
        let layout = self.layout.smaller(self.rows, self.codes)?;
        Some(Plan { layout, ..self })
    }

    /// The same with the smallest index there is.
    pub(super) fn small(self) -> Self {
        let smaller = self.layout.smaller(self.rows, self.codes);
        Plan {
            layout: smaller.unwrap_or(self.layout),
            ..self
        }
    }

    /// An upper bound of what a [`small`](Self::small) plan takes for each of several pieces, this
    /// one of `rows` rows and `bytes` bytes, if nobody wants filters.
    pub(super) fn bytes_max(spec: &JoinSpec, rows: usize, bytes: u64) -> u64 {
        // Numbers to compare are made from keys, and then made one array.
        let numbers = 2 * 8 * spec.key_types.len() as u64;
        Layout::bytes_max(rows) + numbers * rows as u64 + marks_bytes(spec, rows) + bytes
    }

    /// What the table takes beside the pieces.
    pub(super) fn bytes(
        &self,
        spec: &JoinSpec,
        requests: &[FilterRequest],
        pieces: &[RecordBatch],
    ) -> PlanBytes {
        let rows = self.rows as u64;
        // Narrow codes are stored while rows are entered, wide ones for good.
        let codes = if self.layout == Layout::Narrow {
            8 * rows
        } else {
            0
        };
        let numbers = match self.encoder {
            Encoder::Hashed => spec.key_types.iter().filter(|key| is_number(key)).count(),
            Encoder::Exact(_) => 0,
        };
        let numbers = 8 * rows * numbers as u64;
        let filters = requests.len() as u64 * KeyFilter::bytes_max(self.rows);
        let marks = marks_bytes(spec, self.rows);
        let copied = match pieces.len() {
            0 | 1 => 0,
            _ => largest_copy(spec, pieces).max(numbers),
        };
        PlanBytes {
            lasting: self.layout.bytes(self.rows) + numbers + filters + marks,
            passing: copied.max(codes),
        }
    }

    /// The table of `pieces`, for which there is `room`, with `bytes` for what is beside them.
    ///
    /// # Errors
    /// What arrow answers where it is asked.
    pub(super) fn table(
        self,
        spec: &JoinSpec,
        requests: &[FilterRequest],
        pieces: Vec<RecordBatch>,
        (mut room, bytes): (Room, PlanBytes),
    ) -> Result<JoinTable> {
        let keys: Vec<Vec<ArrayRef>> = pieces.iter().map(|piece| spec.keys_of(piece)).collect();
        let index = self.index(&keys)?;
        let filters = requests.iter().map(|request| {
            let of_key = |keys: &Vec<ArrayRef>| Arc::clone(&keys[request.key]);
            let pieces: Vec<ArrayRef> = keys.iter().map(of_key).collect();
            filter_of(&pieces, request)
        });
        let filters = filters.collect::<Result<Vec<_>>>()?;
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); spec.kept.len()];
        for piece in pieces {
            for (column, part) in columns.iter_mut().zip(piece.columns()) {
                column.push(Arc::clone(part));
            }
        }
        let compared = match self.encoder.is_exact() || spec.key_types.is_empty() {
            true => Vec::new(),
            false => compared_keys(&keys, &spec.key_types)?,
        };
        drop(keys);
        let columns = columns.into_iter().zip(&spec.kept_types);
        let columns = columns.map(|(pieces, kept)| contiguous(pieces, kept));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let keys = compared.into_iter();
        let keys = keys.map(|(pieces, key)| contiguous(pieces, &key));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let of_filters: u64 = filters.iter().map(|filter| filter.bytes()).sum();
        let filters_max = requests.len() as u64 * KeyFilter::bytes_max(self.rows);
        room.shrink(bytes.passing + filters_max.saturating_sub(of_filters));
        Ok(JoinTable {
            rows: self.rows,
            columns,
            encoder: self.encoder,
            index,
            keys,
            filters,
            spilled: None,
            room,
        })
    }

    /// Enters all rows.
    fn index(&self, keys: &[Vec<ArrayRef>]) -> Result<Index> {
        let rows = self.rows as u32;
        let pieces: Vec<&[ArrayRef]> = keys.iter().map(Vec::as_slice).collect();
        let codes = match self.layout {
            Layout::None => return Ok(Index::all(rows)),
            Layout::Places(_) => Codes::Keys(&self.encoder, pieces),
            _ => Codes::Stored(codes_of(&self.encoder, &pieces, self.rows)?),
        };
        Index::new(self.layout, rows, codes, rayon::current_num_threads())
    }
}

/// Bytes of the marks that a join needs of `rows` build rows.
fn marks_bytes(spec: &JoinSpec, rows: usize) -> u64 {
    let flags = match spec.kind.emits_build_rows() {
        true => Flags::bytes(rows),
        false => 0,
    };
    let chains = match spec.only_marks_pairs() {
        true => Chains::bytes(rows),
        false => 0,
    };
    flags + chains
}

/// Columns are copied one after the other; text is not copied.
fn largest_copy(spec: &JoinSpec, pieces: &[RecordBatch]) -> u64 {
    let of_column = |column: usize| {
        let bytes = |piece: &RecordBatch| match piece.column(column).data_type() {
            DataType::Utf8View | DataType::BinaryView => 16 * piece.num_rows() as u64,
            _ => column_bytes(piece.column(column)),
        };
        pieces.iter().map(bytes).sum()
    };
    let columns = 0..spec.piece_schema().fields().len();
    columns.map(of_column).max().unwrap_or(0)
}

/// The range of each key; none if some key is not a number.
fn ranges(spec: &JoinSpec, pieces: &[RecordBatch]) -> Result<Option<Vec<Range>>> {
    if !spec.key_types.iter().all(is_number) {
        return Ok(None);
    }
    let wider = |a: Range, b: Range| match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (some, None) | (None, some) => some,
    };
    let keys: Vec<Vec<ArrayRef>> = pieces.iter().map(|piece| spec.keys_of(piece)).collect();
    let range_of = |key: usize| {
        let pieces = keys.par_iter().map(|keys| range(&keys[key]));
        pieces.try_reduce(|| None, |a, b| Ok(wider(a, b)))
    };
    let ranges = (0..spec.key_types.len()).map(range_of);
    Ok(Some(ranges.collect::<Result<_>>()?))
}

/// The codes of all rows, made by all threads.
fn codes_of(encoder: &Encoder, pieces: &[&[ArrayRef]], rows: usize) -> Result<Vec<u64>> {
    let mut codes = vec![0; rows];
    let mut rest = codes.as_mut_slice();
    let mut parts = Vec::with_capacity(pieces.len());
    for keys in pieces {
        let (part, behind) = rest.split_at_mut(keys[0].len());
        rest = behind;
        parts.push((keys, part));
    }
    let encode = |(keys, part): (&&[ArrayRef], &mut [u64])| -> Result<()> {
        let mut made = Vec::new();
        encoder.encode(keys, &mut made)?;
        part.copy_from_slice(&made);
        Ok(())
    };
    parts.into_par_iter().try_for_each(encode)?;
    Ok(codes)
}

/// The pieces of each key column in a form to compare, with their type.
fn compared_keys(
    keys: &[Vec<ArrayRef>],
    types: &[DataType],
) -> Result<Vec<(Vec<ArrayRef>, DataType)>> {
    let key = |key: usize| {
        let pieces = keys.par_iter().map(|keys| comparable(&keys[key]));
        let empty = comparable(&new_empty_array(&types[key]))?;
        Ok((pieces.collect::<Result<_>>()?, empty.data_type().clone()))
    };
    (0..types.len()).map(key).collect()
}

/// One array of `pieces`, which are let go of.
fn contiguous(pieces: Vec<ArrayRef>, data_type: &DataType) -> Result<ArrayRef> {
    match pieces.is_empty() {
        true => Ok(new_empty_array(data_type)),
        false => join_pieces(&pieces),
    }
}

/// The filter of a key for a column of the type that is asked for.
fn filter_of(pieces: &[ArrayRef], request: &FilterRequest) -> Result<Arc<KeyFilter>> {
    let pieces = pieces.par_iter().map(|piece| request.cast(piece));
    let pieces = pieces.collect::<Result<Vec<_>>>()?;
    let filter = KeyFilter::of_pieces(&pieces, &request.data_type)?;
    Ok(Arc::new(filter))
}
