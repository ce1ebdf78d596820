//! One column of a row group: values gathered into pages, pages compressed.
//!
//! Values are `PLAIN` in data pages of version 1, which every reader knows; zstd finds the repeats that a dictionary would. Texts in a list have a repetition
//! and a definition level of one bit each.

use super::thrift;
use anyhow::Context as _;

/// A page's values are at most about so many bytes before they are compressed: what a reader holds at once.
const PAGE_BYTES: usize = 1 << 20;
/// zstd's own default; higher levels gain little on short texts.
const ZSTD_LEVEL: i32 = 3;

/// What a column holds. None of them has nulls: what is absent is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// Milliseconds since the Unix epoch, UTC.
    Time,
    /// A whole number of 32 bits.
    Int,
    /// A whole number of 64 bits.
    Long,
}

/// A value for a column of its [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A list of texts.
    Texts(&'a [String]),
    /// Milliseconds since the Unix epoch, UTC.
    Time(i64),
    /// A whole number of 32 bits.
    Int(i32),
    /// A whole number of 64 bits.
    Long(i64),
}

/// The present page, and the pages that are done.
#[derive(Debug)]
pub struct Column {
    kind: Kind,
    values: Vec<u8>,
    /// For each value whether it goes on with the list before it, and whether there is one at all.
    levels: Vec<(bool, bool)>,
    page_values: usize,
    pages: Vec<u8>,
    done: Chunk,
}

/// A column's pages in a row group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Values, an empty list counted as one.
    pub values: i64,
    /// Bytes with headers, before compression.
    pub uncompressed: i64,
    /// Least and greatest value of a number or time.
    pub bounds: Option<(i64, i64)>,
}

impl Column {
    /// An empty one.
    pub fn new(kind: Kind) -> Self {
        Column { kind, values: Vec::new(), levels: Vec::new(), page_values: 0, pages: Vec::new(), done: Chunk::default() }
    }

    /// Adds a row's value.
    ///
    /// # Errors
    /// A text of more than 2 GB, or zstd fails.
    ///
    /// # Panics
    /// A value of another kind: the caller's rows are not those of its columns.
    pub fn push(&mut self, value: Value<'_>) -> anyhow::Result<()> {
        match (self.kind, value) {
            (Kind::Text, Value::Text(value)) => self.text(value)?,
            (Kind::Texts, Value::Texts([])) => self.level(false, false),
            (Kind::Texts, Value::Texts(values)) => {
                for (place, value) in values.iter().enumerate() {
                    self.level(place > 0, true);
                    self.text(value)?;
                }
            }
            (Kind::Int, Value::Int(value)) => {
                self.values.extend_from_slice(&value.to_le_bytes());
                self.bound(i64::from(value));
            }
            (Kind::Time, Value::Time(value)) | (Kind::Long, Value::Long(value)) => {
                self.values.extend_from_slice(&value.to_le_bytes());
                self.bound(value);
            }
            (kind, value) => panic!("{value:?} for a column of {kind:?}"),
        }
        self.page_values += match value {
            Value::Texts(values) => values.len().max(1),
            _ => 1,
        };
        if self.values.len() >= PAGE_BYTES { self.end_page() } else { Ok(()) }
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.values.len() + self.levels.len() * 2 + self.pages.len()
    }

    /// Ends the chunk: its pages, and what the footer says of them. The column is empty again.
    ///
    /// # Errors
    /// zstd fails.
    pub fn take(&mut self) -> anyhow::Result<(Vec<u8>, Chunk)> {
        self.end_page()?;
        Ok((std::mem::take(&mut self.pages), std::mem::take(&mut self.done)))
    }

    fn text(&mut self, value: &str) -> anyhow::Result<()> {
        let length = u32::try_from(value.len()).context("a text is too long")?;
        self.values.extend_from_slice(&length.to_le_bytes());
        self.values.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn level(&mut self, goes_on: bool, there: bool) {
        self.levels.push((goes_on, there));
    }

    fn bound(&mut self, value: i64) {
        let (least, most) = self.done.bounds.unwrap_or((value, value));
        self.done.bounds = Some((least.min(value), most.max(value)));
    }

    fn end_page(&mut self) -> anyhow::Result<()> {
        if self.page_values == 0 {
            return Ok(());
        }
        let mut body = Vec::with_capacity(self.values.len() + self.levels.len());
        if self.kind == Kind::Texts {
            runs(&mut body, self.levels.iter().map(|(goes_on, _)| *goes_on));
            runs(&mut body, self.levels.iter().map(|(_, there)| *there));
        }
        body.extend_from_slice(&self.values);
        let packed = packed(&body)?;
        let size = |bytes: &[u8]| i32::try_from(bytes.len()).context("a page is too large");
        let (before, after, values) = (size(&body)?, size(&packed)?, i32::try_from(self.page_values).context("a page is too large")?);
        let header = self.pages.len();
        thrift::write(&mut self.pages, |page| {
            page.int(1, 0); // a data page
            page.int(2, before);
            page.int(3, after);
            page.int(4, crc32fast::hash(&packed).cast_signed());
            page.inner(5, |data| {
                data.int(1, values);
                data.int(2, PLAIN);
                data.int(3, RLE);
                data.int(4, RLE);
            });
        });
        self.done.values += i64::from(values);
        self.done.uncompressed += i64::try_from(self.pages.len() - header + body.len()).unwrap_or(i64::MAX);
        self.pages.extend_from_slice(&packed);
        self.values.clear();
        self.levels.clear();
        self.page_values = 0;
        Ok(())
    }
}

fn packed(body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(body.len()));
    match zstd_safe::compress(&mut packed, body, ZSTD_LEVEL) {
        Ok(_) => Ok(packed),
        Err(code) => anyhow::bail!("zstd: {}", zstd_safe::get_error_name(code)),
    }
}

/// `Encoding::PLAIN`.
pub const PLAIN: i32 = 0;
/// `Encoding::RLE`.
pub const RLE: i32 = 3;

/// Levels of one bit in Parquet's run-length form, with their length before them: each run as its count, shifted, and its value.
fn runs(to: &mut Vec<u8>, levels: impl Iterator<Item = bool>) {
    let (mut encoded, mut run) = (Vec::new(), None::<(bool, u64)>);
    let end = |encoded: &mut Vec<u8>, (value, count): (bool, u64)| {
        thrift::varint(encoded, count << 1);
        encoded.push(u8::from(value));
    };
    for level in levels {
        run = match run {
            Some((value, count)) if value == level => Some((value, count + 1)),
            before => {
                before.into_iter().for_each(|run| end(&mut encoded, run));
                Some((level, 1))
            }
        };
    }
    run.into_iter().for_each(|run| end(&mut encoded, run));
    to.extend_from_slice(&u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(&encoded);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_runs() {
        let mut to = Vec::new();
        runs(&mut to, [false, false, true, true, true, false].into_iter());
        assert_eq!(to, [6, 0, 0, 0, 4, 0, 6, 1, 2, 0]);
        to.clear();
        runs(&mut to, std::iter::repeat_n(true, 100));
        assert_eq!(to, [3, 0, 0, 0, 0xc8, 1, 1]);
    }

    #[test]
    fn a_page_holds_its_values_and_the_chunk_their_bounds() {
        let mut column = Column::new(Kind::Time);
        for value in [5, -3, 9] {
            column.push(Value::Time(value)).expect("fits");
        }
        let (pages, chunk) = column.take().expect("packs");
        assert_eq!((chunk.values, chunk.bounds), (3, Some((-3, 9))));
        let frame = pages.windows(4).position(|four| four == [0x28, 0xb5, 0x2f, 0xfd]).expect("a zstd frame");
        let mut values = Vec::with_capacity(1_000);
        zstd_safe::decompress(&mut values, &pages[frame..]).expect("unpacks");
        assert_eq!(values, [5_i64, -3, 9].map(i64::to_le_bytes).concat());
        assert_eq!(usize::try_from(chunk.uncompressed).expect("small"), frame + values.len());
        assert_eq!(column.take().expect("packs"), (Vec::new(), Chunk::default()), "it is empty again");
    }
}
