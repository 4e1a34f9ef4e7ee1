//! Where records end.
//!
//! A line end inside a quoted field ends no record. A quote opens a quoted field only as the
//! field's first byte; inside, a doubled quote is a quote, and a single one closes. Text without
//! quotes is looked at only for its last line end.

use memchr::{memchr, memrchr};

/// Follows a file's bytes from its beginning and finds the record ends among them.
pub(super) struct Cutter {
    delimiter: u8,
    state: State,
    /// The byte before the next chunk: a quote after it may open a field.
    last: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    Quoted,
    /// A quote inside quotes was the last byte: it closes unless another follows.
    MaybeClosed,
}

impl Cutter {
    pub(super) fn new(delimiter: u8) -> Self {
        Cutter {
            delimiter,
            state: State::Plain,
            last: b'\n',
        }
    }

    /// Takes the next bytes of the file; tells where the last record that ends among them ends.
    pub(super) fn scan(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut end = None;
        let mut at = 0;
        while at < chunk.len() {
            match self.state {
                State::Plain => {
                    let opening = self.opening_quote(chunk, at);
                    let plain = &chunk[at..opening.unwrap_or(chunk.len())];
                    end = memrchr(b'\n', plain)
                        .map(|newline| at + newline + 1)
                        .or(end);
                    at = opening.map_or(chunk.len(), |quote| quote + 1);
                    if opening.is_some() {
                        self.state = State::Quoted;
                    }
                }
                State::Quoted => match memchr(b'"', &chunk[at..]) {
                    Some(quote) => {
                        at += quote + 1;
                        self.state = State::MaybeClosed;
                    }
                    None => at = chunk.len(),
                },
                State::MaybeClosed if chunk[at] == b'"' => {
                    at += 1;
                    self.state = State::Quoted;
                }
                State::MaybeClosed => self.state = State::Plain,
            }
        }
        self.last = chunk.last().copied().unwrap_or(self.last);
        end
    }

    /// The next quote at or after `from` that opens a quoted field.
    fn opening_quote(&self, chunk: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let quote = at + memchr(b'"', &chunk[at..])?;
            let before = if quote == 0 {
                self.last
            } else {
                chunk[quote - 1]
            };
            if before == self.delimiter || before == b'\n' || before == b'\r' {
                return Some(quote);
            }
            at = quote + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same, a byte at a time.
    fn reference(text: &[u8]) -> Vec<usize> {
        let (mut quoted, mut field_start, mut ends) = (false, true, Vec::new());
        let mut at = 0;
        while at < text.len() {
            let byte = text[at];
            at += 1;
            if quoted {
                if byte == b'"' {
                    if text.get(at) == Some(&b'"') {
                        at += 1;
                    } else {
                        quoted = false;
                    }
                }
                field_start = false;
                continue;
            }
            if byte == b'"' && field_start {
                quoted = true;
            } else if byte == b'\n' {
                ends.push(at);
            }
            field_start = matches!(byte, b',' | b'\n' | b'\r');
        }
        ends
    }

    #[test]
    fn ends_are_those_of_a_byte_at_a_time_wherever_chunks_end() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let text: Vec<u8> = (0..random.usize(..40))
                .map(|_| b"a,\"\"\n\r"[random.usize(..6)])
                .collect();
            let expected = reference(&text);
            let mut cutter = Cutter::new(b',');
            let mut start = 0;
            while start < text.len() {
                let stop = (start + random.usize(1..9)).min(text.len());
                let found = cutter.scan(&text[start..stop]).map(|end| start + end);
                let last = expected
                    .iter()
                    .copied()
                    .rfind(|end| (start + 1..=stop).contains(end));
                let shown = String::from_utf8_lossy(&text);
                assert_eq!(found, last, "seed={seed} {start}..{stop} of {shown:?}");
                start = stop;
            }
        }
    }
}
