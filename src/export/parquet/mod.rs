//! Writes Parquet files: <https://parquet.apache.org/docs/file-format/>.
//!
//! ```text
//!  PAR1 │ row group: a chunk of pages for each column │ row group … │ footer: schema, where each chunk is │ its length │ PAR1
//!         └ column.rs                                                  └ footer.rs, thrift.rs
//! ```
//!
//! # Meaning
//! A schema of columns without nulls, some of them lists of texts. The same rows give the same bytes.
//!
//! # Why not the crate
//! `parquet` (60.1 and all before it) turns on `ahash/runtime-rng`. Names are interned with `ahash`, and which worker a name belongs to follows from their hash: with that
//! feature it differs in every process, and a job of several processes finds nothing in its joins (`cluster/terms.rs` refuses to start then). Cargo has one set of features
//! for a whole build, so a crate of its own in the workspace would not keep it out. What is needed here is a fraction of the format.
//!
//! # Limits
//! A row group is held in memory until it is complete: [`GROUP_BYTES`] before compression of its last pages.

mod column;
mod footer;
mod thrift;

pub use column::{Kind, Value};

use column::{Chunk, Column};
use std::io::Write;

/// A row group ends when it holds so many bytes: what the writer holds, and what a reader can skip.
pub const GROUP_BYTES: usize = 16 << 20;
/// Most rows of a row group: ClickHouse's and DuckDB's readers work on groups side by side.
pub const GROUP_ROWS: usize = 200_000;

const MAGIC: &[u8; 4] = b"PAR1";

/// A row group that is written.
#[derive(Debug, Default)]
struct Group {
    rows: i64,
    chunks: Vec<(i64, i64, Chunk)>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    schema: &'static [(&'static str, Kind)],
    columns: Vec<Column>,
    rows: usize,
    at: i64,
    groups: Vec<Group>,
}

impl<W: Write> Writer<W> {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// It can't be written.
    pub fn new(mut to: W, schema: &'static [(&'static str, Kind)]) -> anyhow::Result<Self> {
        to.write_all(MAGIC)?;
        let columns = schema.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Ok(Writer { to, schema, columns, rows: 0, at: 4, groups: Vec::new() })
    }

    /// Adds a row: a value for each column, in their order.
    ///
    /// # Errors
    /// It can't be written.
    ///
    /// # Panics
    /// Values that are not the columns'.
    pub fn push(&mut self, row: &[Value<'_>]) -> anyhow::Result<()> {
        assert_eq!(row.len(), self.columns.len(), "a value for each column");
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(*value)?;
        }
        self.rows += 1;
        let held: usize = self.columns.iter().map(Column::held).sum();
        if self.rows >= GROUP_ROWS || held >= GROUP_BYTES { self.end_group() } else { Ok(()) }
    }

    /// Writes the footer; gives back what was written to.
    ///
    /// # Errors
    /// It can't be written.
    pub fn end(mut self) -> anyhow::Result<W> {
        self.end_group()?;
        let footer = footer::footer(self.schema, &self.groups);
        self.to.write_all(&footer)?;
        self.to.write_all(&u32::try_from(footer.len())?.to_le_bytes())?;
        self.to.write_all(MAGIC)?;
        Ok(self.to)
    }

    fn end_group(&mut self) -> anyhow::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = Group { rows: i64::try_from(self.rows)?, chunks: Vec::with_capacity(self.columns.len()) };
        for column in &mut self.columns {
            let (pages, chunk) = column.take()?;
            let length = i64::try_from(pages.len())?;
            self.to.write_all(&pages)?;
            group.chunks.push((self.at, length, chunk));
            self.at += length;
        }
        self.rows = 0;
        self.groups.push(group);
        Ok(())
    }
}
