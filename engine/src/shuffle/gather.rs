//! Rows gathered for one partition until they are worth a block.
//!
//! A batch is scattered column by column: one type switch per partition, column and batch, none
//! per row. Values of fixed width and views are copied straight into growing buffers; a string
//! too long for its view is copied next to the others of its partition, so that a block carries
//! the text of its own rows and nothing else of the buffer that they came from. Other types go
//! through arrow's `take`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ByteView, NullBufferBuilder, RecordBatch, RecordBatchOptions,
    UInt32Array, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::kernel::view::{binary_array, string_array};

/// Longest string that a view holds itself.
const INLINE_BYTES: u32 = 12;

/// A buffer of long strings is closed at this size; views address it with 31 bits.
const TEXT_BUFFER_BYTES: usize = 1 << 30;

/// One column of a batch, ready to be copied from.
pub(super) enum Column {
    Fixed {
        width: usize,
        values: Buffer,
        nulls: Option<NullBuffer>,
    },
    View {
        views: ScalarBuffer<u128>,
        text: Arc<[Buffer]>,
        nulls: Option<NullBuffer>,
    },
    Other(ArrayRef),
}

impl Column {
    pub(super) fn of(array: &ArrayRef) -> Column {
        let nulls = array
            .nulls()
            .filter(|nulls| nulls.null_count() > 0)
            .cloned();
        match array.data_type() {
            DataType::Utf8View => {
                let array = array.as_string_view();
                let text = array.data_buffers().iter().cloned().collect();
                Column::View {
                    views: array.views().clone(),
                    text,
                    nulls,
                }
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                let text = array.data_buffers().iter().cloned().collect();
                Column::View {
                    views: array.views().clone(),
                    text,
                    nulls,
                }
            }
            other => match fixed_width(other) {
                Some(width) => {
                    let data = array.to_data();
                    let values = &data.buffers()[0];
                    let values =
                        values.slice_with_length(data.offset() * width, data.len() * width);
                    Column::Fixed {
                        width,
                        values,
                        nulls,
                    }
                }
                None => Column::Other(Arc::clone(array)),
            },
        }
    }
}

fn fixed_width(data_type: &DataType) -> Option<usize> {
    data_type
        .primitive_width()
        .filter(|width| matches!(width, 1 | 2 | 4 | 8 | 16 | 32))
}

/// The rows gathered so far for one partition.
pub(super) struct PartitionBuffer {
    columns: Vec<Gather>,
    rows: usize,
    bytes: u64,
    /// What the columns have room for beside these bytes.
    spare: u64,
}

enum Gather {
    Fixed {
        values: MutableBuffer,
        nulls: NullBufferBuilder,
    },
    View {
        views: Vec<u128>,
        text: Vec<u8>,
        closed: Vec<Buffer>,
        nulls: NullBufferBuilder,
    },
    Other(Vec<ArrayRef>),
}

impl PartitionBuffer {
    pub(super) fn new(schema: &Schema) -> Self {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Gather::new(field.data_type()))
            .collect();
        PartitionBuffer {
            columns,
            rows: 0,
            bytes: 0,
            spare: 0,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes gathered.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that the rows gathered take in memory: buffers that grow have room to spare.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.bytes + self.spare
    }

    /// Copies the rows at `indices` behind those gathered before.
    pub(super) fn extend(&mut self, batch: &[Column], indices: &[u32]) -> Result<()> {
        self.spare = 0;
        for (gather, column) in self.columns.iter_mut().zip(batch) {
            self.bytes += gather.extend(column, indices)?;
            self.spare += gather.spare() as u64;
        }
        self.rows += indices.len();
        Ok(())
    }

    /// The rows as a batch of `schema`; none are left here.
    pub(super) fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        (self.bytes, self.spare) = (0, 0);
        let columns = self.columns.iter_mut().zip(schema.fields());
        let columns = columns.map(|(gather, field)| gather.finish(field.data_type(), rows));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(schema),
            columns,
            &options,
        )?)
    }
}

impl Gather {
    fn new(data_type: &DataType) -> Gather {
        let nulls = NullBufferBuilder::new(0);
        match data_type {
            DataType::Utf8View | DataType::BinaryView => Gather::View {
                views: Vec::new(),
                text: Vec::new(),
                closed: Vec::new(),
                nulls,
            },
            other if fixed_width(other).is_some() => Gather::Fixed {
                values: MutableBuffer::new(0),
                nulls,
            },
            _ => Gather::Other(Vec::new()),
        }
    }

    /// Bytes that it has room for beside those gathered.
    fn spare(&self) -> usize {
        match self {
            Gather::Fixed { values, .. } => values.capacity() - values.len(),
            Gather::View { views, text, .. } => {
                size_of::<u128>() * (views.capacity() - views.len()) + text.capacity() - text.len()
            }
            Gather::Other(_) => 0,
        }
    }

    /// Returns the bytes added.
    fn extend(&mut self, column: &Column, indices: &[u32]) -> Result<u64> {
        match (self, column) {
            (
                Gather::Fixed { values, nulls },
                Column::Fixed {
                    width,
                    values: from,
                    nulls: has,
                },
            ) => {
                extend_nulls(nulls, has.as_ref(), indices);
                match width {
                    1 => extend_fixed::<1>(values, from, indices),
                    2 => extend_fixed::<2>(values, from, indices),
                    4 => extend_fixed::<4>(values, from, indices),
                    8 => extend_fixed::<8>(values, from, indices),
                    16 => extend_fixed::<16>(values, from, indices),
                    _ => extend_fixed::<32>(values, from, indices),
                }
                Ok((width * indices.len()) as u64)
            }
            (
                Gather::View {
                    views,
                    text,
                    closed,
                    nulls,
                },
                Column::View {
                    views: from,
                    text: buffers,
                    nulls: has,
                },
            ) => {
                extend_nulls(nulls, has.as_ref(), indices);
                views.reserve(indices.len());
                let before = text.len();
                let mut moved = 0;
                for &index in indices {
                    let index = index as usize;
                    let valid = has.as_ref().is_none_or(|nulls| nulls.is_valid(index));
                    let view = if valid { from[index] } else { 0 };
                    if view as u32 <= INLINE_BYTES {
                        views.push(view);
                        continue;
                    }
                    let mut view = ByteView::from(view);
                    let start = view.offset as usize;
                    let value =
                        &buffers[view.buffer_index as usize][start..][..view.length as usize];
                    if text.len() + value.len() > TEXT_BUFFER_BYTES && !text.is_empty() {
                        moved += text.len();
                        closed.push(Buffer::from(std::mem::take(text)));
                    }
                    view.buffer_index = closed.len() as u32;
                    view.offset = text.len() as u32;
                    text.extend_from_slice(value);
                    views.push(view.into());
                }
                Ok((16 * indices.len() + moved + text.len() - before) as u64)
            }
            (Gather::Other(arrays), Column::Other(array)) => {
                let taken = take(array, &UInt32Array::from(indices.to_vec()), None)?;
                let bytes = taken.to_data().get_slice_memory_size()?;
                arrays.push(taken);
                Ok(bytes as u64)
            }
            _ => Err(Error::internal("a batch has other columns than its stage")),
        }
    }

    fn finish(&mut self, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
        match self {
            Gather::Fixed { values, nulls } => {
                let data = arrow::array::ArrayData::builder(data_type.clone())
                    .len(rows)
                    .add_buffer(std::mem::replace(values, MutableBuffer::new(0)).into())
                    .nulls(nulls.finish())
                    .build()?;
                Ok(make_array(data))
            }
            Gather::View {
                views,
                text,
                closed,
                nulls,
            } => {
                let mut buffers = std::mem::take(closed);
                if !text.is_empty() {
                    buffers.push(Buffer::from(std::mem::take(text)));
                }
                let (views, nulls) = (std::mem::take(views), nulls.finish());
                Ok(match data_type {
                    // Values of a string array, copied whole.
                    DataType::Utf8View => Arc::new(string_array(views, buffers, nulls)),
                    _ => Arc::new(binary_array(views, buffers, nulls)),
                })
            }
            Gather::Other(arrays) => {
                let arrays = std::mem::take(arrays);
                let arrays: Vec<&dyn Array> = arrays.iter().map(|array| array.as_ref()).collect();
                compact(concat(&arrays)?)
            }
        }
    }
}

fn extend_nulls(to: &mut NullBufferBuilder, from: Option<&NullBuffer>, indices: &[u32]) {
    match from {
        None => to.append_n_non_nulls(indices.len()),
        Some(nulls) => {
            indices
                .iter()
                .for_each(|&index| to.append(nulls.is_valid(index as usize)));
        }
    }
}

fn extend_fixed<const WIDTH: usize>(to: &mut MutableBuffer, from: &[u8], indices: &[u32]) {
    let start = to.len();
    to.resize(start + indices.len() * WIDTH, 0);
    let (from, _) = from.as_chunks::<WIDTH>();
    let (to, _) = to.as_slice_mut()[start..].as_chunks_mut::<WIDTH>();
    for (to, &index) in to.iter_mut().zip(indices) {
        *to = from[index as usize];
    }
}

/// Views inside other types keep the whole buffers that they came from; this cuts them down.
fn compact(array: ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Utf8View => return Ok(Arc::new(array.as_string_view().gc())),
        DataType::BinaryView => return Ok(Arc::new(array.as_binary_view().gc())),
        other if !holds_views(other) => return Ok(array),
        _ => {}
    }
    let data = array.to_data();
    let children = data.child_data().iter();
    let children = children.map(|child| Ok(compact(make_array(child.clone()))?.to_data()));
    let children = children.collect::<Result<Vec<_>>>()?;
    Ok(make_array(
        data.into_builder().child_data(children).build()?,
    ))
}

fn holds_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => holds_views(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_views(field.data_type())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shuffle::tests::words;

    #[test]
    fn what_is_allocated_is_what_the_batch_takes() {
        let batch = words(0..1000);
        let columns: Vec<Column> = batch.columns().iter().map(Column::of).collect();
        let mut buffer = PartitionBuffer::new(&batch.schema());
        for start in (0..990).step_by(10) {
            let rows: Vec<u32> = (start..start + 10).collect();
            buffer.extend(&columns, &rows).expect("the same columns");
            assert!(buffer.bytes() <= buffer.allocated_bytes());
        }
        let allocated = buffer.allocated_bytes() as usize;
        let batch = buffer.finish(&batch.schema()).expect("rows");
        let nulls_and_structs = 2000;
        let taken = batch.get_array_memory_size();
        assert!(
            taken.abs_diff(allocated) < nulls_and_structs,
            "{taken} {allocated}"
        );
        assert_eq!((buffer.bytes(), buffer.allocated_bytes()), (0, 0));
    }
}
