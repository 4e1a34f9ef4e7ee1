//! From batches of build rows to a table.
//!
//! Batches come from several threads: each is reduced at once to the columns that are needed, and
//! to the rows that can have a match unless the kind emits the others too. Only when all are
//! there, so that number and range of the keys are known, is it decided how they are looked up.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_empty_array};
use arrow::buffer::NullBuffer;
use arrow::compute::filter;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::context::CancelToken;
use crate::error::{Error, Result};
use crate::kernel::key_filter::KeyFilter;
use crate::kernel::number::{Range, is_number, range};
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::join::columns::join_pieces;
use crate::operator::join::flags::{Chains, Flags};
use crate::operator::join::index::{Codes, Index, Layout};
use crate::operator::join::keys::{Encoder, comparable};
use crate::operator::join::{JoinSpec, OWNER};

/// Rows of one table: they are numbered with 32 bits.
const ROWS_MAX: usize = u32::MAX as usize - 1;

/// The build rows of a join, ready to be looked up in. Never changes.
#[derive(Debug)]
pub struct JoinTable {
    rows: usize,
    /// The columns that the spec keeps.
    pub(super) columns: Vec<ArrayRef>,
    pub(super) encoder: Encoder,
    pub(super) index: Index,
    /// The keys, if rows of equal codes have to be compared.
    pub(super) keys: Vec<ArrayRef>,
    filters: Vec<Arc<KeyFilter>>,
    memory: Arc<MemoryBudget>,
    held: Reservation,
}

/// A filter that somebody wants of a table's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRequest {
    /// Which of the keys.
    pub key: usize,
    /// The type of the column that is going to be filtered.
    pub data_type: DataType,
}

impl JoinTable {
    /// How many build rows there are, those aside that can have no match and do not come out.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes that the table takes.
    pub fn bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// The filters that were asked for, in that order.
    pub fn filters(&self) -> &[Arc<KeyFilter>] {
        &self.filters
    }

    /// Marks for every row, none set.
    pub(super) fn flags(&self) -> Result<Flags> {
        Flags::new(self.rows, self.memory.reserve(OWNER))
    }

    /// The chains of all rows, from which rows can be left out.
    pub(super) fn chains(&self) -> Result<Chains> {
        Chains::new(&self.index, self.rows, self.memory.reserve(OWNER))
    }
}

/// Takes build rows until all are there.
pub struct Builder {
    spec: Arc<JoinSpec>,
    requests: Vec<FilterRequest>,
    memory: Arc<MemoryBudget>,
    cancel: CancelToken,
    taken: Mutex<Taken>,
}

struct Taken {
    pieces: Vec<Piece>,
    held: Reservation,
}

/// What is needed of one batch.
struct Piece {
    rows: usize,
    columns: Vec<ArrayRef>,
    keys: Vec<ArrayRef>,
}

impl Builder {
    /// A builder of the table that `spec` wants.
    pub fn new(
        spec: Arc<JoinSpec>,
        requests: Vec<FilterRequest>,
        memory: &Arc<MemoryBudget>,
        cancel: CancelToken,
    ) -> Self {
        Builder {
            spec,
            requests,
            memory: Arc::clone(memory),
            cancel,
            taken: Mutex::new(Taken {
                pieces: Vec::new(),
                held: memory.reserve(OWNER),
            }),
        }
    }

    /// Takes the rows of `batch`. May be called by several threads at once.
    ///
    /// # Errors
    /// `Exhausted` if the memory for them cannot be reserved; `Invalid` if a key cannot be
    /// computed.
    pub fn add(&self, batch: &RecordBatch) -> Result<()> {
        self.cancel.check()?;
        let spec = &self.spec;
        let keys = spec.build_keys.iter().map(|key| key.evaluate(batch));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let columns = spec
            .kept
            .iter()
            .map(|&column| Arc::clone(batch.column(column)));
        let mut piece = Piece {
            rows: batch.num_rows(),
            columns: columns.collect(),
            keys,
        };
        if !spec.kind.emits_build_rows() {
            piece.drop_null_keys()?;
        }
        if piece.rows == 0 {
            return Ok(());
        }
        piece.compact();
        let bytes = piece.bytes();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.held.grow(bytes)?;
        taken.pieces.push(piece);
        Ok(())
    }

    /// The table of all rows taken. Runs on the calling pool's threads.
    ///
    /// # Errors
    /// `Exhausted` if the memory for it cannot be reserved, or if there are too many rows.
    pub fn finish(self) -> Result<JoinTable> {
        let taken = self
            .taken
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Taken { pieces, mut held } = taken;
        let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
        if rows > ROWS_MAX {
            return Err(Error::exhausted(format!(
                "a join's build side has too many rows rows={rows} limit={ROWS_MAX}"
            )));
        }
        let keys: Vec<Vec<ArrayRef>> = pieces.iter().map(|piece| piece.keys.clone()).collect();
        let (encoder, index) = index(&self.spec, &keys, rows, &mut held)?;
        self.cancel.check()?;
        let filters = self.requests.iter().map(|request| {
            let of_key = |keys: &Vec<ArrayRef>| Arc::clone(&keys[request.key]);
            let pieces: Vec<ArrayRef> = keys.iter().map(of_key).collect();
            filter_of(&pieces, request, &mut held)
        });
        let filters = filters.collect::<Result<Vec<_>>>()?;
        self.cancel.check()?;
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.spec.kept.len()];
        for piece in pieces {
            for (column, part) in columns.iter_mut().zip(piece.columns) {
                column.push(part);
            }
        }
        let compared = match encoder.is_exact() || self.spec.key_types.is_empty() {
            true => Vec::new(),
            false => compared_keys(&keys, &self.spec.key_types)?,
        };
        drop(keys);
        let columns = columns.into_iter().zip(&self.spec.kept_types);
        let columns = columns.map(|(pieces, kept)| contiguous(pieces, kept, &mut held));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let keys = compared.into_iter();
        let keys = keys.map(|(pieces, key)| contiguous(pieces, &key, &mut held));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        Ok(JoinTable {
            rows,
            columns,
            encoder,
            index,
            keys,
            filters,
            memory: self.memory,
            held,
        })
    }
}

impl Piece {
    fn drop_null_keys(&mut self) -> Result<()> {
        let mut nulls = None;
        for key in &self.keys {
            nulls = NullBuffer::union(nulls.as_ref(), key.logical_nulls().as_ref());
        }
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
            return Ok(());
        };
        self.rows -= nulls.null_count();
        let valid = BooleanArray::new(nulls.into_inner(), None);
        for column in self.columns.iter_mut().chain(&mut self.keys) {
            *column = filter(column, &valid)?;
        }
        Ok(())
    }

    /// Cuts views loose from text that is mostly not theirs.
    fn compact(&mut self) {
        for column in self.columns.iter_mut().chain(&mut self.keys) {
            let held = |buffers: &[arrow::buffer::Buffer]| -> usize {
                buffers.iter().map(|buffer| buffer.len()).sum()
            };
            if let Some(array) = column.as_string_view_opt()
                && held(array.data_buffers()) > 2 * array.total_buffer_bytes_used()
            {
                *column = Arc::new(array.gc());
            } else if let Some(array) = column.as_binary_view_opt()
                && held(array.data_buffers()) > 2 * array.total_buffer_bytes_used()
            {
                *column = Arc::new(array.gc());
            }
        }
    }

    fn bytes(&self) -> u64 {
        let is_column = |key: &&ArrayRef| self.columns.iter().any(|c| Arc::ptr_eq(c, key));
        let keys = self.keys.iter().filter(|key| !is_column(key));
        self.columns.iter().chain(keys).map(bytes).sum()
    }
}

/// The bytes of an array's own rows.
fn bytes(array: &ArrayRef) -> u64 {
    let text = match array.data_type() {
        DataType::Utf8View => array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => array.as_binary_view().total_buffer_bytes_used(),
        _ => {
            let size = array.to_data().get_slice_memory_size();
            return size.unwrap_or_else(|_| array.get_array_memory_size()) as u64;
        }
    };
    (text + 16 * array.len()) as u64
}

/// Decides how keys become codes and codes rows, and enters all rows.
fn index(
    spec: &JoinSpec,
    keys: &[Vec<ArrayRef>],
    rows: usize,
    held: &mut Reservation,
) -> Result<(Encoder, Index)> {
    if spec.key_types.is_empty() {
        return Ok((Encoder::Hashed, Index::all(rows as u32)));
    }
    let (encoder, codes) = Encoder::new(ranges(spec, keys)?);
    let layout = Layout::new(rows, codes, encoder.is_exact());
    held.grow(layout.bytes(rows))?;
    // Narrow codes are stored while rows are entered, wide ones for good.
    let spare = match layout {
        Layout::Narrow => 8 * rows as u64,
        Layout::Places(_) | Layout::Wide => 0,
    };
    held.grow(spare)?;
    let pieces: Vec<&[ArrayRef]> = keys.iter().map(Vec::as_slice).collect();
    let codes = match layout {
        Layout::Places(_) => Codes::Keys(&encoder, pieces),
        _ => Codes::Stored(codes_of(&encoder, &pieces, rows)?),
    };
    let index = Index::new(layout, rows as u32, codes, rayon::current_num_threads())?;
    held.shrink(spare);
    Ok((encoder, index))
}

/// The range of each key; none if some key is not a number.
fn ranges(spec: &JoinSpec, keys: &[Vec<ArrayRef>]) -> Result<Option<Vec<Range>>> {
    if !spec.key_types.iter().all(is_number) {
        return Ok(None);
    }
    let wider = |a: Range, b: Range| match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (some, None) | (None, some) => some,
    };
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
fn contiguous(
    pieces: Vec<ArrayRef>,
    data_type: &DataType,
    held: &mut Reservation,
) -> Result<ArrayRef> {
    match pieces.len() {
        0 => return Ok(new_empty_array(data_type)),
        1 => return join_pieces(&pieces),
        _ => {}
    }
    // Text is not copied.
    let copied: usize = pieces
        .iter()
        .map(|piece| match data_type {
            DataType::Utf8View | DataType::BinaryView => 16 * piece.len(),
            _ => bytes(piece) as usize,
        })
        .sum();
    held.grow(copied as u64)?;
    let joined = join_pieces(&pieces)?;
    drop(pieces);
    held.shrink(copied as u64);
    Ok(joined)
}

/// The filter of a key for a column of the type that is asked for.
fn filter_of(
    pieces: &[ArrayRef],
    request: &FilterRequest,
    held: &mut Reservation,
) -> Result<Arc<KeyFilter>> {
    let cast = |piece: &ArrayRef| -> Result<ArrayRef> {
        if piece.data_type() == &request.data_type {
            return Ok(Arc::clone(piece));
        }
        // What the column's type cannot hold, the column does not have.
        Ok(arrow::compute::cast(piece, &request.data_type)?)
    };
    let pieces = pieces.par_iter().map(cast).collect::<Result<Vec<_>>>()?;
    let bytes_max = KeyFilter::bytes_max(pieces.iter().map(|piece| piece.len()).sum());
    held.grow(bytes_max)?;
    let filter = KeyFilter::of_pieces(&pieces, &request.data_type)?;
    held.shrink(bytes_max.saturating_sub(filter.bytes()));
    Ok(Arc::new(filter))
}
