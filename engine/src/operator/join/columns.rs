//! Columns of many batches made into one, by all threads at once.
//!
//! Values of fixed width are copied into their places in one allocation. Views are copied too, but
//! the text behind them stays where it is. Other types go through arrow's `concat`.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, NullBufferBuilder, make_array};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::Result;
use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::view::{binary_array, string_array};

/// The values of `pieces`, all of one type, one after the other; at least one piece.
///
/// # Errors
/// What arrow answers where it is asked.
pub(super) fn join_pieces(pieces: &[ArrayRef]) -> Result<ArrayRef> {
    if let [only] = pieces {
        return Ok(Arc::clone(only));
    }
    let data_type = pieces[0].data_type().clone();
    match &data_type {
        DataType::Utf8View | DataType::BinaryView => Ok(join_views(&data_type, pieces)),
        other => match other.primitive_width() {
            Some(width) => join_fixed(&data_type, width, pieces),
            None => {
                let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
                Ok(concat(&pieces)?)
            }
        },
    }
}

fn join_fixed(data_type: &DataType, width: usize, pieces: &[ArrayRef]) -> Result<ArrayRef> {
    let rows: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut values = MutableBuffer::from_len_zeroed(rows * width);
    let mut rest = values.as_slice_mut();
    let mut copies = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (to, behind) = rest.split_at_mut(piece.len() * width);
        rest = behind;
        copies.push((piece, to));
    }
    copies.into_par_iter().for_each(|(piece, to)| {
        let data = piece.to_data();
        to.copy_from_slice(&data.buffers()[0][data.offset() * width..][..to.len()]);
    });
    let data = ArrayData::builder(data_type.clone())
        .len(rows)
        .add_buffer(values.into())
        .nulls(join_nulls(pieces, rows))
        .build()?;
    Ok(make_array(data))
}

fn join_nulls(pieces: &[ArrayRef], rows: usize) -> Option<NullBuffer> {
    if pieces.iter().all(|piece| piece.null_count() == 0) {
        return None;
    }
    let mut nulls = NullBufferBuilder::new(rows);
    for piece in pieces {
        match piece.nulls() {
            Some(some) => nulls.append_buffer(some),
            None => nulls.append_n_non_nulls(piece.len()),
        }
    }
    nulls.finish()
}

fn join_views(data_type: &DataType, pieces: &[ArrayRef]) -> ArrayRef {
    let rows: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut views = vec![0u128; rows];
    let mut rest = views.as_mut_slice();
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut copies = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (to, behind) = rest.split_at_mut(piece.len());
        rest = behind;
        copies.push((piece, to, buffers.len() as u128));
        buffers.extend(parts(piece).1.iter().cloned());
    }
    copies.into_par_iter().for_each(|(piece, to, first)| {
        for (to, &view) in to.iter_mut().zip(parts(piece).0) {
            let moved = if view as u32 as usize <= INLINE_BYTES {
                0
            } else {
                first << 64
            };
            *to = view.wrapping_add(moved);
        }
    });
    let nulls = join_nulls(pieces, rows);
    match data_type {
        // Every valid view is one of a string array, with the number of the same buffer.
        DataType::Utf8View => Arc::new(string_array(views, buffers, nulls)),
        _ => Arc::new(binary_array(views, buffers, nulls)),
    }
}

fn parts(piece: &ArrayRef) -> (&[u128], &[Buffer]) {
    match piece.data_type() {
        DataType::Utf8View => {
            let array = piece.as_string_view();
            (array.views(), array.data_buffers())
        }
        _ => {
            let array = piece.as_binary_view();
            (array.views(), array.data_buffers())
        }
    }
}
