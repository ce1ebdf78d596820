//! One file a day, complete or not there: written under another name, synced, renamed.

use super::columns;
use super::parquet::{Kind, Writer};
use super::record::{Record, day_name};
use super::sort::Sorted;
use crate::sinks::clickhouse::Stream;
use crate::stop::Stop;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// What became of a topic's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files with their rows, by day.
    pub files: BTreeMap<u32, u64>,
    /// Days whose file was there and was left alone.
    pub kept: Vec<u32>,
    /// Records that stood there already.
    pub repeats: u64,
}

/// A file that is being written; gone if it is not finished.
struct Day {
    day: u32,
    rows: u64,
    name: PathBuf,
    temporary: PathBuf,
    to: Option<Writer<BufWriter<File>>>,
}

/// The file of a day.
pub fn path(folder: &Path, day: u32) -> PathBuf {
    folder.join(format!("{}.parquet", day_name(day)))
}

/// Writes records, in order, into their days' files under `folder`; `keep` leaves files alone that are there.
///
/// # Errors
/// A file can't be written, what was sorted can't be read, or `stop` was asked.
pub fn write(stream: Stream, folder: &Path, records: &mut Sorted, keep: bool, stop: &Stop) -> anyhow::Result<Written> {
    let (mut written, mut open, mut last) = (Written::default(), None::<Day>, None::<Record>);
    while let Some(mut record) = records.next()? {
        anyhow::ensure!(!stop.asked(), "stopped before all days were written");
        if last.as_ref().is_some_and(|last| last.same(&record)) {
            written.repeats += 1;
            continue;
        }
        if last.as_ref().is_none_or(|last| last.day != record.day) {
            written.finish(open.take())?;
            if keep && path(folder, record.day).exists() {
                written.kept.push(record.day);
            } else {
                open = Some(Day::begin(folder, record.day, columns::of(stream))?);
            }
        }
        if let Some(day) = &mut open
            && let Some(to) = &mut day.to
        {
            columns::with_row(stream, &record.take_raw(), |row| to.push(row))
                .with_context(|| format!("cannot write {}", day.temporary.display()))?;
            day.rows += 1;
        }
        last = Some(record);
    }
    written.finish(open)?;
    Ok(written)
}

impl Written {
    fn finish(&mut self, day: Option<Day>) -> anyhow::Result<()> {
        let Some(mut day) = day else { return Ok(()) };
        day.finish().with_context(|| format!("cannot write {}", day.name.display()))?;
        self.files.insert(day.day, day.rows);
        Ok(())
    }
}

impl Day {
    fn begin(folder: &Path, day: u32, schema: &'static [(&'static str, Kind)]) -> anyhow::Result<Self> {
        let name = path(folder, day);
        let temporary = name.with_extension(format!("parquet.{}.new", std::process::id()));
        let file = File::create(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(Day { day, rows: 0, name, temporary, to: Some(Writer::new(BufWriter::new(file), schema)?) })
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let Some(to) = self.to.take() else { return Ok(()) };
        let mut file = to.end()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.name)?;
        // The name is on disk, too.
        File::open(self.name.parent().context("a file stands in a folder")?)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Day {
    fn drop(&mut self) {
        // Renamed already, unless something failed.
        let _ = fs::remove_file(&self.temporary);
    }
}
