//! Rows as bytes: all of a row in one piece, so that picking it is one look into memory however
//! many columns there are.
//!
//! A row begins with its *header*: a bit for each column that is null, the values of fixed width,
//! and where each of its *texts* ends, counted from the row's beginning. The texts follow: the key
//! where it is kept beside the columns, strings and bytes, and last what has no layout of its own
//! (lists and the like), in arrow's row format. So a row says itself how long it is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, NullArray, make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::row::{RowConverter, Rows, SortField};

use crate::error::{Error, Result};
use crate::kernel::hash::INLINE_BYTES;
use crate::kernel::view::{binary_array, make_view, string_array, view_bytes};

/// Bytes in the header for each text: where it ends.
const END_BYTES: usize = 4;

/// Where the values of rows are in their bytes.
pub(super) struct Layout {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Where the ends of texts are in the header.
    ends: usize,
    header: usize,
    texts: usize,
    /// The key is the first of the texts.
    keeps_key: bool,
    /// For columns without a layout of their own, which are the last of the texts.
    rest: Option<RowConverter>,
}

/// How a column is laid out.
#[derive(Clone, Copy)]
enum Column {
    /// A byte, at this place of the header.
    Bit(usize),
    Fixed {
        at: usize,
        width: usize,
    },
    /// The text of this number.
    Text(usize),
    /// Every value is null.
    Nothing,
    /// One of those in the last text.
    Rest,
}

impl Layout {
    /// A layout of rows of `schema`, with their keys beside the columns if `keeps_key`.
    ///
    /// # Errors
    /// `Invalid` if there are columns that cannot be laid out.
    pub(super) fn new(schema: &SchemaRef, keeps_key: bool) -> Result<Self> {
        let fields = schema.fields();
        let mut at = fields.len().div_ceil(8);
        let mut texts = usize::from(keeps_key);
        let mut columns = Vec::with_capacity(fields.len());
        let mut rest = Vec::new();
        for field in fields {
            columns.push(match field.data_type() {
                DataType::Null => Column::Nothing,
                DataType::Boolean => {
                    at += 1;
                    Column::Bit(at - 1)
                }
                DataType::Utf8View | DataType::BinaryView => {
                    texts += 1;
                    Column::Text(texts - 1)
                }
                other => match fixed_width(other) {
                    Some(width) => {
                        at += width;
                        Column::Fixed {
                            at: at - width,
                            width,
                        }
                    }
                    None => {
                        rest.push(SortField::new(other.clone()));
                        Column::Rest
                    }
                },
            });
        }
        texts += usize::from(!rest.is_empty());
        let rest = (!rest.is_empty()).then(|| RowConverter::new(rest));
        Ok(Layout {
            schema: Arc::clone(schema),
            columns,
            ends: at,
            header: at + END_BYTES * texts,
            texts,
            keeps_key,
            rest: rest.transpose()?,
        })
    }

    /// Which of the texts column `index` is, if it is one.
    pub(super) fn text_of(&self, index: usize) -> Option<usize> {
        match self.columns.get(index) {
            Some(Column::Text(number)) => Some(*number),
            _ => None,
        }
    }

    /// Prepares the rows of `batch`, which have these `keys` where they are kept.
    ///
    /// # Errors
    /// What arrow answered for columns without a layout of their own.
    pub(super) fn rows<'a>(
        &self,
        batch: &'a RecordBatch,
        keys: Option<&'a Rows>,
    ) -> Result<Input<'a>> {
        let mut input = Input {
            rows: batch.num_rows(),
            fixed: Vec::new(),
            texts: Vec::with_capacity(self.texts),
            nulls: Vec::new(),
            rest: None,
        };
        if self.keeps_key {
            let keys = keys.ok_or_else(|| Error::internal("rows are laid out without keys"))?;
            input.texts.push(Texts::Rows(keys));
        }
        for (index, (column, array)) in self.columns.iter().zip(batch.columns()).enumerate() {
            if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0)
                && !matches!(column, Column::Rest)
            {
                input.nulls.push((index, nulls));
            }
            match *column {
                Column::Bit(at) => input.fixed.push(Fixed::Bits(at, array.as_boolean())),
                Column::Fixed { at, width } => {
                    let data = array.to_data();
                    let values = data.buffers()[0].clone();
                    let start = data.offset() * width;
                    let values = values.slice_with_length(start, data.len() * width);
                    input.fixed.push(Fixed::Values { at, width, values });
                }
                Column::Text(_) => input.texts.push(Texts::of_views(array)),
                Column::Nothing | Column::Rest => {}
            }
        }
        if let Some(rest) = &self.rest {
            let columns = self.columns.iter().zip(batch.columns());
            let columns = columns.filter(|(column, _)| matches!(column, Column::Rest));
            let columns: Vec<ArrayRef> = columns.map(|(_, array)| Arc::clone(array)).collect();
            input.rest = Some(rest.convert_columns(&columns)?);
        }
        Ok(input)
    }

    /// The bytes of all rows of `input`.
    pub(super) fn bytes(&self, input: &Input<'_>) -> usize {
        let texts: usize = input.texts.iter().map(Texts::bytes).sum();
        let rest = input.rest.as_ref().map_or(0, rows_bytes);
        self.header * input.rows + texts + rest
    }

    /// Appends the rows of `input` to `out`, and where each of them begins to `starts`.
    ///
    /// # Errors
    /// `Exhausted` if a row is too large.
    pub(super) fn append(
        &self,
        input: &Input<'_>,
        out: &mut Vec<u8>,
        starts: &mut Vec<u32>,
    ) -> Result<()> {
        let too_large = |_| Error::exhausted("a row is too large to be sorted bytes>4GiB");
        let rest = input.rest.as_ref().map(Texts::Rows);
        for row in 0..input.rows {
            let start = out.len();
            starts.push(u32::try_from(start).map_err(too_large)?);
            out.resize(start + self.header, 0);
            let header = &mut out[start..];
            for fixed in &input.fixed {
                fixed.put(row, header);
            }
            for (column, nulls) in &input.nulls {
                header[column / 8] |= u8::from(nulls.is_null(row)) << (column % 8);
            }
            for (number, texts) in input.texts.iter().chain(&rest).enumerate() {
                let mut scratch = [0; 16];
                out.extend_from_slice(texts.value(row, &mut scratch));
                let end = u32::try_from(out.len() - start).map_err(too_large)?;
                let at = start + self.ends + END_BYTES * number;
                out[at..at + END_BYTES].copy_from_slice(&end.to_le_bytes());
            }
        }
        Ok(())
    }

    /// The row that begins at `start`.
    #[inline]
    pub(super) fn row<'a>(&self, bytes: &'a [u8], start: usize) -> &'a [u8] {
        let bytes = &bytes[start..];
        match self.texts {
            0 => &bytes[..self.header],
            texts => &bytes[..self.end(bytes, texts - 1)],
        }
    }

    #[inline]
    fn end(&self, row: &[u8], number: usize) -> usize {
        let at = self.ends + END_BYTES * number;
        let end = row[at..at + END_BYTES].try_into().expect("four bytes");
        u32::from_le_bytes(end) as usize
    }

    /// A text of a row.
    #[inline]
    pub(super) fn text<'a>(&self, row: &'a [u8], number: usize) -> &'a [u8] {
        let start = match number {
            0 => self.header,
            number => self.end(row, number - 1),
        };
        &row[start..self.end(row, number)]
    }

    /// Rows as columns again.
    ///
    /// # Errors
    /// What arrow answered for columns without a layout of their own.
    pub(super) fn batch(&self, rows: &[&[u8]]) -> Result<RecordBatch> {
        let mut seen = vec![0; self.columns.len().div_ceil(8)];
        for row in rows {
            for (seen, byte) in seen.iter_mut().zip(*row) {
                *seen |= byte;
            }
        }
        let mut rest = self.rest(rows)?.into_iter();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            let (byte, bit) = (index / 8, 1 << (index % 8));
            let has_nulls = seen[byte] & bit != 0;
            let is_valid = |row: &&[u8]| row[byte] & bit == 0;
            let nulls = has_nulls
                .then(|| NullBuffer::new(rows.iter().map(is_valid).collect::<BooleanBuffer>()));
            let data_type = self.schema.field(index).data_type();
            columns.push(match *column {
                Column::Nothing => Arc::new(NullArray::new(rows.len())),
                Column::Bit(at) => bits(rows, at, nulls),
                Column::Fixed { at, width } => fixed(rows, (at, width), nulls, data_type)?,
                Column::Text(number) => self.texts(rows, number, nulls, data_type),
                Column::Rest => rest
                    .next()
                    .ok_or_else(|| Error::internal("a column is not among the rest"))?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    fn texts(
        &self,
        rows: &[&[u8]],
        number: usize,
        nulls: Option<NullBuffer>,
        data_type: &DataType,
    ) -> ArrayRef {
        let values = rows.iter().map(|row| self.text(row, number));
        let mut text = Vec::with_capacity(values.clone().map(<[u8]>::len).sum());
        let views = values.map(|value| {
            let offset = text.len() as u32;
            let view = make_view(value, 0, offset);
            if value.len() > INLINE_BYTES {
                text.extend_from_slice(value);
            }
            view
        });
        let views: Vec<u128> = views.collect();
        let text = vec![Buffer::from_vec(text)];
        match data_type {
            DataType::Utf8View => Arc::new(string_array(views, text, nulls)),
            _ => Arc::new(binary_array(views, text, nulls)),
        }
    }

    fn rest(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>> {
        let Some(rest) = &self.rest else {
            return Ok(Vec::new());
        };
        let parser = rest.parser();
        let last = self.texts - 1;
        let rows = rows.iter().map(|row| parser.parse(self.text(row, last)));
        Ok(rest.convert_rows(rows)?)
    }
}

/// Bytes of a value, where all have as many.
fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        other => other.primitive_width(),
    }
}

fn bits(rows: &[&[u8]], at: usize, nulls: Option<NullBuffer>) -> ArrayRef {
    let mut values = BooleanBufferBuilder::new(rows.len());
    for row in rows {
        values.append(row[at] != 0);
    }
    Arc::new(BooleanArray::new(values.finish(), nulls))
}

fn fixed(
    rows: &[&[u8]],
    (at, width): (usize, usize),
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef> {
    let mut values = MutableBuffer::with_capacity(rows.len() * width);
    match width {
        4 => copy::<4>(rows, at, &mut values),
        8 => copy::<8>(rows, at, &mut values),
        16 => copy::<16>(rows, at, &mut values),
        _ => {
            for row in rows {
                values.extend_from_slice(&row[at..at + width]);
            }
        }
    }
    let data = arrow::array::ArrayData::builder(data_type.clone())
        .len(rows.len())
        .add_buffer(values.into())
        .nulls(nulls);
    Ok(make_array(data.build()?))
}

fn copy<const WIDTH: usize>(rows: &[&[u8]], at: usize, values: &mut MutableBuffer) {
    for row in rows {
        let value: &[u8; WIDTH] = row[at..at + WIDTH].try_into().expect("as many bytes");
        values.extend_from_slice(value);
    }
}

/// The rows of a batch, ready to be laid out.
pub(super) struct Input<'a> {
    rows: usize,
    fixed: Vec<Fixed<'a>>,
    texts: Vec<Texts<'a>>,
    /// Columns that have nulls.
    nulls: Vec<(usize, &'a NullBuffer)>,
    rest: Option<Rows>,
}

/// A column whose values are in the header.
enum Fixed<'a> {
    Bits(usize, &'a BooleanArray),
    Values {
        at: usize,
        width: usize,
        values: Buffer,
    },
}

impl Fixed<'_> {
    #[inline]
    fn put(&self, row: usize, header: &mut [u8]) {
        match self {
            Fixed::Bits(at, values) => header[*at] = u8::from(values.value(row)),
            Fixed::Values { at, width, values } => {
                let value = &values[row * width..(row + 1) * width];
                header[*at..at + width].copy_from_slice(value);
            }
        }
    }
}

/// A column of texts.
enum Texts<'a> {
    Views {
        views: &'a [u128],
        buffers: Vec<&'a [u8]>,
        nulls: Option<&'a NullBuffer>,
    },
    Rows(&'a Rows),
}

impl<'a> Texts<'a> {
    fn of_views(array: &'a ArrayRef) -> Self {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let (views, buffers) = match array.as_string_view_opt() {
            Some(array) => (array.views(), array.data_buffers()),
            None => {
                let array = array.as_binary_view();
                (array.views(), array.data_buffers())
            }
        };
        Texts::Views {
            views,
            buffers: buffers.iter().map(Buffer::as_slice).collect(),
            nulls,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Texts::Rows(rows) => rows_bytes(rows),
            // What stands under a null is not looked at, and so counts too much at most.
            Texts::Views { views, .. } => views.iter().map(|view| *view as u32 as usize).sum(),
        }
    }

    #[inline]
    fn value<'s>(&'s self, row: usize, scratch: &'s mut [u8; 16]) -> &'s [u8] {
        match self {
            Texts::Rows(rows) => rows.row(row).data(),
            Texts::Views {
                nulls: Some(nulls), ..
            } if nulls.is_null(row) => &[],
            Texts::Views { views, buffers, .. } => view_bytes(views[row], buffers, scratch),
        }
    }
}

fn rows_bytes(rows: &Rows) -> usize {
    rows.lengths().sum()
}

#[cfg(test)]
mod tests;
