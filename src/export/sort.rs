//! Puts records in the order of their files and rows, with bounded memory: sorted runs on disk, merged.
//!
//! # Ties and edges
//! Of records with the same day and identity the one with the least (partition, offset) comes first, and the others right behind it.
//!
//! # Cost
//! [`RUN_BYTES`] in memory and, when there is more than that, all records once on disk beside the export; a merge holds one record of each run. A run's
//! file has no name any more once it is open, so it is gone with the process.

use super::record::Record;
use anyhow::Context as _;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek as _, Write};
use std::path::PathBuf;

/// What is sorted at once.
pub const RUN_BYTES: usize = 64 << 20;
/// What a record costs beside its texts.
const OVERHEAD: usize = 160;

/// Takes records in any order.
#[derive(Debug)]
pub struct Sorter {
    folder: PathBuf,
    most: usize,
    held: Vec<Record>,
    bytes: usize,
    runs: Vec<File>,
}

impl Sorter {
    /// One that puts its runs into `folder` and holds `most` bytes.
    pub fn new(folder: PathBuf, most: usize) -> Self {
        Sorter { folder, most, held: Vec::new(), bytes: 0, runs: Vec::new() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// A run can't be written.
    pub fn push(&mut self, record: Record) -> anyhow::Result<()> {
        self.bytes += record.payload.len() + record.portal.len() + record.workspace.len() + record.id.len() + OVERHEAD;
        self.held.push(record);
        if self.bytes >= self.most { self.spill() } else { Ok(()) }
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// A run can't be read.
    pub fn sorted(mut self) -> anyhow::Result<Sorted> {
        self.held.sort_unstable();
        let held = std::mem::take(&mut self.held);
        let mut sorted = Sorted { runs: vec![Run::Held(held.into_iter())], heads: BinaryHeap::new() };
        for mut file in self.runs {
            file.rewind().context("a run can't be read")?;
            sorted.runs.push(Run::Spilled(BufReader::with_capacity(1 << 16, file)));
        }
        for (place, run) in sorted.runs.iter_mut().enumerate() {
            sorted.heads.extend(run.next()?.map(|record| Reverse((record, place))));
        }
        Ok(sorted)
    }

    fn spill(&mut self) -> anyhow::Result<()> {
        self.held.sort_unstable();
        let path = self.folder.join(format!(".sorting-{}-{}", std::process::id(), self.runs.len()));
        let says = || format!("cannot write {}", path.display());
        let file = File::options().read(true).write(true).create_new(true).open(&path).with_context(says)?;
        fs::remove_file(&path).with_context(says)?;
        let mut to = BufWriter::with_capacity(1 << 16, file);
        for record in self.held.drain(..) {
            record.write(&mut to).with_context(says)?;
        }
        self.runs.push(to.into_inner().map_err(|error| error.into_error()).with_context(says)?);
        self.bytes = 0;
        Ok(())
    }
}

/// Records in order.
#[derive(Debug)]
pub struct Sorted {
    runs: Vec<Run>,
    /// The next record of each run that has one.
    heads: BinaryHeap<Reverse<(Record, usize)>>,
}

#[derive(Debug)]
enum Run {
    Held(std::vec::IntoIter<Record>),
    Spilled(BufReader<File>),
}

impl Run {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        match self {
            Run::Held(records) => Ok(records.next()),
            Run::Spilled(file) => Record::read(file).context("a run can't be read"),
        }
    }
}

impl Sorted {
    /// The next one.
    ///
    /// # Errors
    /// A run can't be read.
    pub fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(mut least) = self.heads.peek_mut() else { return Ok(None) };
        let Reverse((_, place)) = &*least;
        match self.runs[*place].next()? {
            Some(next) => Ok(Some(std::mem::replace(&mut least.0.0, next))),
            None => Ok(Some(PeekMut::pop(least).0.0)),
        }
    }

    /// Leaves out what is of a day before this one; how many that were.
    ///
    /// # Errors
    /// A run can't be read.
    pub fn skip_to(&mut self, day: u32) -> anyhow::Result<u64> {
        let mut skipped = 0;
        while self.heads.peek().is_some_and(|Reverse((record, _))| record.day < day) {
            self.next()?;
            skipped += 1;
        }
        Ok(skipped)
    }
}

/// Writes texts and numbers so that they can be read back.
pub(super) fn put(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)
}

/// Reads what [`put`] wrote; `None` at the end.
pub(super) fn get(from: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..])?,
    }
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_and_memory_give_the_same_order(
            records in proptest::collection::vec((0..3_u32, 0..4_u8, 0..3_i32, 0..50_i64, "[a-zé]{0,6}"), 0..60),
            most in 1..6_000_usize,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut expected: Vec<Record> = records.into_iter().map(|(day, id, partition, offset, payload)| Record {
                day, portal: String::new(), workspace: "w".to_owned(), id: id.to_string(), partition, offset, payload,
            }).collect();
            let mut sorter = Sorter::new(folder.path().to_owned(), most);
            expected.iter().try_for_each(|record| sorter.push(record.clone())).expect("written");
            prop_assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 0, "runs have no names");
            let mut sorted = sorter.sorted().expect("sorts");
            let mut found = Vec::new();
            while let Some(record) = sorted.next().expect("reads") {
                found.push(record);
            }
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
