//! From pages to arrays, for values of one size in memory.
//!
//! A batch is made in two steps. First its rows are taken from the pages as [`Part`]s, one for each
//! page: codes of the dictionary or values, without nulls. Then the parts become an array. Between
//! the two a predicate may be asked, and what it does not want is dropped from the parts.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, BooleanBufferBuilder, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use super::dictionary::{Dictionary, Verdict, asked};
use super::digits;
use super::open::{Cursor, OpenPage};
use super::pages::{Encoding, Pages};
use super::parts::{Part, Values, narrow};
use super::plain::{Item, Plain, Source};
use super::select::{spread, spread_bits};
use super::{Column, Predicate};
use crate::error::{Error, Result};
use crate::kernel::unpack::{OutOfRange, look_up, look_up_marks};
use crate::kernel::view::{binary_array, string_array};

/// A column whose values take the size of `T` in memory.
pub(super) struct Typed<T: Item> {
    source: Source,
    target: DataType,
    /// The largest decimal that the column may have, if it has decimals.
    most: Option<T>,
    pages: Pages,
    dictionary: Option<Dictionary<T>>,
    /// What the predicate said of the dictionary.
    verdict: Option<Verdict>,
    /// The page that is read next, and how many of its rows were read or passed over.
    page: usize,
    row: usize,
    open: Option<OpenPage>,
    /// Rows that were tested and have not been read yet.
    tested: Option<(usize, Vec<Part<T>>)>,
    /// Space for codes.
    spare: Vec<u32>,
}

impl<T: Item> Typed<T> {
    pub(super) fn new(source: Source, target: DataType, pages: Pages) -> Typed<T> {
        Typed {
            source,
            most: digits::most(&target),
            target,
            pages,
            dictionary: None,
            verdict: None,
            page: 0,
            row: 0,
            open: None,
            tested: None,
            spare: Vec::new(),
        }
    }

    /// Takes the next `rows` rows, or those of them that are set in the mask.
    fn take(&mut self, rows: usize, mask: Option<&BooleanBuffer>) -> Result<Vec<Part<T>>> {
        let mut parts = Vec::new();
        let mut done = 0;
        while done < rows {
            let count = self.rows_here()?.min(rows - done);
            let mask = mask.map(|mask| mask.slice(done, count));
            if mask.as_ref().is_none_or(|mask| mask.count_set_bits() > 0) {
                let ordinal = parts.len() as u32;
                parts.push(self.take_here(count, mask.as_ref(), ordinal)?);
            }
            self.row += count;
            done += count;
        }
        Ok(parts)
    }

    /// The rows that are left in the current page, at least one.
    fn rows_here(&mut self) -> Result<usize> {
        loop {
            let page = self.pages.data().get(self.page);
            let page = page.ok_or_else(|| Error::internal("a column was read beyond its end"))?;
            if self.row < page.rows {
                return Ok(page.rows - self.row);
            }
            self.page += 1;
            self.row = 0;
            if let Some(open) = self.open.take() {
                self.pages.close(open.body);
            }
        }
    }

    /// Takes rows of the current page.
    fn take_here(
        &mut self,
        rows: usize,
        mask: Option<&BooleanBuffer>,
        ordinal: u32,
    ) -> Result<Part<T>> {
        if self.open.is_none() {
            let encoding = self.pages.data()[self.page].encoding;
            if encoding == Encoding::Dictionary {
                self.dictionary()?;
            }
            let body = self.pages.open(self.page)?;
            self.open = Some(OpenPage::new(body, encoding, self.source)?);
        }
        let open = self.open.as_mut().expect("the page was opened just now");
        open.skip_to(self.row)?;
        open.row += rows;
        let bytes = open.body.bytes.as_slice();
        let valid = open.body.levels.as_mut();
        let valid = valid.map(|(levels, bytes)| levels.read_bits(bytes, rows));
        let valid = valid.transpose()?.flatten();
        let dense = valid.as_ref().map_or(rows, BooleanBuffer::count_set_bits);
        let (mask, valid) = narrow(mask, valid)?;
        let mut part = Part {
            rows: valid.as_ref().map_or(0, BooleanBuffer::len),
            valid,
            values: Values::Codes(Vec::new()),
            buffer: None,
        };
        let mut codes = std::mem::take(&mut self.spare);
        match &mut open.cursor {
            Cursor::Codes(runs) => {
                codes.resize(dense, 0);
                runs.read(bytes, &mut codes)?;
                part.values = Values::Codes(codes);
                if let Some(mask) = &mask {
                    part.values = part.values.select(mask);
                }
            }
            Cursor::Bits(runs) => {
                codes.resize(dense, 0);
                runs.read(bytes, &mut codes)?;
                let values = codes.iter().map(|&bit| T::low(u128::from(bit)));
                part.values = Values::Plain(values.collect::<Vec<_>>().into());
                if let Some(mask) = &mask {
                    part.values = part.values.select(mask);
                }
                self.spare = codes;
            }
            Cursor::Plain(plain) => {
                let mut values = Vec::new();
                match &mask {
                    Some(mask) => plain.select(bytes, mask, ordinal + 1, &mut values)?,
                    None => plain.read(bytes, dense, ordinal + 1, &mut values)?,
                }
                if let Some(most) = self.most {
                    digits::check(&values, most)?;
                }
                part.values = Values::Plain(values.into());
                if let Source::Bytes { .. } = self.source {
                    part.buffer = Some(open.body.bytes.clone());
                }
                self.spare = codes;
            }
        }
        if part.valid.is_none() {
            part.rows = part.values.len();
        }
        Ok(part)
    }

    /// The dictionary, decoded when it is first needed.
    fn dictionary(&mut self) -> Result<&Dictionary<T>> {
        if self.dictionary.is_none() {
            let (body, count) = self.pages.open_dictionary()?;
            let bytes = body.bytes.as_slice();
            let mut values = Vec::new();
            Plain::new(self.source, bytes, body.values.clone()).read(
                bytes,
                count,
                0,
                &mut values,
            )?;
            if let Some(most) = self.most {
                digits::check(&values, most)?;
            }
            let buffer = match self.source {
                Source::Bytes { .. } => body.bytes.clone(),
                _ => Buffer::default(),
            };
            self.pages.close(body);
            self.dictionary = Some(Dictionary {
                values: values.into(),
                buffer,
            });
        }
        Ok(self.dictionary.as_ref().expect("it was decoded just now"))
    }

    /// The array of all rows of `parts`.
    fn finish(&mut self, mut parts: Vec<Part<T>>) -> Result<ArrayRef> {
        let rows = parts.iter().map(|part| part.rows).sum();
        let buffers = self.buffers(&parts);
        if let [
            Part {
                valid: None,
                values: Values::Plain(values),
                ..
            },
        ] = &mut parts[..]
        {
            return self.array(std::mem::take(values), None, buffers);
        }
        let mut out: Vec<T> = Vec::with_capacity(rows);
        let mut valid = BooleanBufferBuilder::new(0);
        for part in parts {
            let base = out.len();
            match part.values {
                Values::Codes(codes) => {
                    let dictionary = self.dictionary()?;
                    look_up(&dictionary.values, &codes, &mut out).map_err(no_such_code)?;
                    self.spare = codes;
                }
                Values::Plain(values) => out.extend_from_slice(&values),
            }
            if let Some(bits) = &part.valid {
                spread(&mut out, base, bits);
                valid.append_n(base - valid.len(), true);
                valid.append_buffer(bits);
            }
        }
        let nulls = (!valid.is_empty()).then(|| {
            valid.append_n(rows - valid.len(), true);
            NullBuffer::new(valid.finish())
        });
        self.array(out.into(), nulls, buffers)
    }

    /// What the views of `parts` point into: the dictionary, then the page of each part.
    fn buffers(&self, parts: &[Part<T>]) -> Vec<Buffer> {
        if !matches!(self.source, Source::Bytes { .. }) {
            return Vec::new();
        }
        let dictionary = self.dictionary.as_ref();
        let dictionary = dictionary.map_or_else(Buffer::default, |all| all.buffer.clone());
        let mut buffers = vec![dictionary];
        if parts.iter().any(|part| part.buffer.is_some()) {
            let pages = parts.iter().map(|part| part.buffer.clone());
            buffers.extend(pages.map(Option::unwrap_or_default));
        }
        buffers
    }

    fn array(
        &self,
        values: ScalarBuffer<T>,
        nulls: Option<NullBuffer>,
        buffers: Vec<Buffer>,
    ) -> Result<ArrayRef> {
        let rows = values.len();
        let values = values.into_inner();
        Ok(match &self.target {
            DataType::Utf8View => Arc::new(string_array(
                ScalarBuffer::<u128>::from(values),
                buffers,
                nulls,
            )),
            DataType::BinaryView => Arc::new(binary_array(
                ScalarBuffer::<u128>::from(values),
                buffers,
                nulls,
            )),
            DataType::Boolean => {
                let bits = BooleanBuffer::collect_bool(rows, |row| values[row] != 0);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            target => make_array(
                ArrayData::builder(target.clone())
                    .len(rows)
                    .add_buffer(values)
                    .nulls(nulls)
                    .build()?,
            ),
        })
    }

    /// What `predicate` says of each row of `parts`.
    fn ask(&mut self, parts: &[Part<T>], predicate: Predicate<'_>) -> Result<BooleanBuffer> {
        let mut answer = BooleanBufferBuilder::new(0);
        for (ordinal, part) in parts.iter().enumerate() {
            let dense = match &part.values {
                Values::Codes(codes) => {
                    self.judge(predicate)?;
                    let marks = &self.verdict.as_ref().expect("judged just now").marks;
                    let words = look_up_marks(marks, codes).map_err(no_such_code)?;
                    BooleanBuffer::new(Buffer::from_vec(words), 0, codes.len())
                }
                Values::Plain(values) => {
                    // The views know their buffer by the part's place.
                    let buffers = self.buffers(&parts[..=ordinal]);
                    let array = self.array(values.clone(), None, buffers)?;
                    asked(predicate, &array)?
                }
            };
            match &part.valid {
                None if parts.len() == 1 => return Ok(dense),
                None => answer.append_buffer(&dense),
                Some(valid) => spread_bits(&mut answer, &dense, valid),
            }
        }
        Ok(answer.finish())
    }

    /// Asks `predicate` for the whole dictionary, once.
    fn judge(&mut self, predicate: Predicate<'_>) -> Result<&Verdict> {
        if self.verdict.is_none() {
            let values = self.dictionary()?.values.clone();
            let array = self.array(values, None, self.buffers(&[]))?;
            self.verdict = Some(Verdict::ask(predicate, &array)?);
        }
        Ok(self.verdict.as_ref().expect("judged just now"))
    }

    /// Whether the next `rows` rows lie in pages that have only codes.
    fn has_only_codes(&self, rows: usize) -> bool {
        let mut left = rows + self.row;
        let mut pages = self.pages.data()[self.page..].iter();
        while left > 0 {
            match pages.next() {
                Some(page) if page.encoding == Encoding::Dictionary || page.rows == 0 => {
                    left = left.saturating_sub(page.rows);
                }
                _ => return false,
            }
        }
        true
    }
}

impl<T: Item> Column for Typed<T> {
    fn read(&mut self, rows: usize, mask: Option<&BooleanBuffer>) -> Result<ArrayRef> {
        let parts = match self.tested.take() {
            None => self.take(rows, mask)?,
            Some((tested, mut parts)) if tested == rows => {
                if let Some(mask) = mask {
                    let mut at = 0;
                    for part in &mut parts {
                        let mask = mask.slice(at, part.rows);
                        at += part.rows;
                        part.keep(&mask)?;
                    }
                }
                parts
            }
            Some((tested, _)) => return Err(other_rows(tested, rows)),
        };
        self.finish(parts)
    }

    fn skip(&mut self, rows: usize) -> Result<()> {
        match self.tested.take() {
            Some((tested, _)) if tested == rows => return Ok(()),
            Some((tested, _)) => return Err(other_rows(tested, rows)),
            None => {}
        }
        let mut left = rows;
        while left > 0 {
            let count = self.rows_here()?.min(left);
            self.row += count;
            left -= count;
        }
        Ok(())
    }

    fn test(&mut self, rows: usize, predicate: Predicate<'_>) -> Result<BooleanBuffer> {
        if let Some((tested, parts)) = self.tested.take() {
            if tested != rows {
                return Err(other_rows(tested, rows));
            }
            let answer = self.ask(&parts, predicate);
            self.tested = Some((rows, parts));
            return answer;
        }
        if self.pages.has_dictionary() && self.has_only_codes(rows) {
            let verdict = self.judge(predicate)?;
            if verdict.wanted == 0 {
                return Ok(BooleanBuffer::new_unset(rows));
            }
        }
        let parts = self.take(rows, None)?;
        let answer = self.ask(&parts, predicate);
        self.tested = Some((rows, parts));
        answer
    }
}

fn no_such_code(code: OutOfRange) -> Error {
    Error::invalid(format!("a code is not in the dictionary code={}", code.0))
}

fn other_rows(tested: usize, asked: usize) -> Error {
    Error::internal(format!(
        "rows are read as they were tested tested={tested} asked={asked}"
    ))
}
