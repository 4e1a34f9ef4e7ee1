//! What a table needs of one batch of build rows: the columns that are kept, and the keys.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::operator::join::JoinSpec;
use crate::operator::order::compact;

/// The piece of `batch` that `spec` wants. Rows that can have no match are left out unless they
/// come out all the same.
///
/// # Errors
/// `Invalid` if a key cannot be computed.
pub(super) fn of(spec: &JoinSpec, batch: &RecordBatch) -> Result<RecordBatch> {
    let piece = spec.piece(batch)?;
    match spec.kind.emits_build_rows() {
        true => compact(piece),
        false => compact(without_null_keys(spec, piece)?),
    }
}

fn without_null_keys(spec: &JoinSpec, piece: RecordBatch) -> Result<RecordBatch> {
    let mut nulls = None;
    for key in spec.keys_of(&piece) {
        nulls = NullBuffer::union(nulls.as_ref(), key.logical_nulls().as_ref());
    }
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
        return Ok(piece);
    };
    let valid = BooleanArray::new(nulls.into_inner(), None);
    Ok(filter_record_batch(&piece, &valid)?)
}

/// The bytes of the rows of a batch, without others that share its buffers.
pub(super) fn bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(column_bytes).sum()
}

/// The bytes of an array's own rows.
pub(super) fn column_bytes(array: &ArrayRef) -> u64 {
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
