//! Clicks and deltas as Parquet files, a file a day: analytics for those without ClickHouse.
//!
//! ```text
//!  topics.rs ┐                  ┌ sort.rs: by day, workspace, id ┐                       ┌ columns.rs: those of ClickHouse's tables
//!            ├► record.rs ─────►│ runs on disk when memory is full├► days.rs: a file a day ┤
//!  files ────┘                  └────────────────────────────────┘                       └ parquet/: the format
//! ```
//!
//! # Guarantee
//! - Each record of a day once: of those with the same workspace (portal, for deltas) and id the first one of its partition, if several hold it the one of the least.
//! - A file is complete or not there, whatever is killed: it is written under another name, synced and renamed.
//! - The same records give the same bytes, in whatever order Kafka hands them out.
//! - A day of which Kafka has deleted records, or may have, is not written: the export that was made in time stays.
//!
//! # Not
//! - A record that is delivered twice with *different* times, so that the two are of different days, stands in both.
//! - A click that comes in after its day was exported is not in the file; `replace` writes it anew.
//!
//! # Cost
//! Each record is decoded twice, and once on disk when a topic has more than [`sort::RUN_BYTES`], with an open file for each so many. Memory: that, and one row group.

mod columns;
mod days;
mod parquet;
mod record;
mod sort;
mod topics;

pub use columns::{CLICKS, DELTAS};
pub use days::Written;
pub use parquet::{Kind, Value, Writer};
pub use record::day_name;

use crate::kafka::Kafka;
use crate::model::time::Ms;
use crate::sinks::clickhouse::{Raw, Stream};
use crate::sources::files::Lines;
use crate::stop::Stop;
use anyhow::Context as _;
use record::Record;
use sort::Sorter;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

/// Where records are read.
#[derive(Clone, Debug)]
pub enum Source {
    /// JSON lines, plain or gzip; all of them.
    Files(Vec<String>),
    /// A topic, as it is now; a record's time is at most `max_future` ahead of when it was appended.
    Topic {
        /// Brokers and names.
        kafka: Box<Kafka>,
        /// ms.
        max_future: Ms,
    },
}

/// An export of one topic.
#[derive(Clone, Debug)]
pub struct Export {
    /// What the records are.
    pub stream: Stream,
    /// Where they are.
    pub from: Source,
    /// Days that are written, since 1970-01-01, UTC.
    pub days: RangeInclusive<u32>,
    /// The folder; each topic has one of its own in it.
    pub out: PathBuf,
    /// Writes files anew that are there, and days that Kafka no longer has all of.
    pub replace: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files and repeats.
    pub written: Written,
    /// Records of days that were asked for.
    pub records: u64,
    /// What is no record.
    pub malformed: u64,
    /// The last day of which Kafka may have deleted records, and how many records of such days were left out.
    pub cut: Option<(u32, u64)>,
}

impl Export {
    /// The folder of its files.
    pub fn folder(&self) -> PathBuf {
        self.out.join(self.stream.word())
    }

    /// Does it.
    ///
    /// # Errors
    /// A file or topic can't be read, a file can't be written, or `stop` was asked.
    pub fn run(&self, stop: &Stop) -> anyhow::Result<Done> {
        self.run_within(sort::RUN_BYTES, stop)
    }

    fn run_within(&self, bytes: usize, stop: &Stop) -> anyhow::Result<Done> {
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (mut sorter, mut done) = (Sorter::new(folder.clone(), bytes), Done::default());
        let mut take = |raw: Raw| match Record::of(self.stream, raw) {
            Some(record) if self.days.contains(&record.day) => {
                done.records += 1;
                sorter.push(record)
            }
            Some(_) => Ok(()),
            None => {
                done.malformed += 1;
                Ok(())
            }
        };
        let cut = match &self.from {
            Source::Files(paths) => {
                read_files(paths, stop, &mut take)?;
                None
            }
            Source::Topic { kafka, max_future } => {
                let name = match self.stream {
                    Stream::Clicks => &kafka.topics.clicks,
                    Stream::Deltas(topic) => kafka.topics.output(topic),
                };
                topics::Topic::open(kafka, name)?.read(*max_future, stop, &mut take)?
            }
        };
        let mut sorted = sorter.sorted()?;
        if let Some(last) = cut.filter(|_| !self.replace) {
            let left_out = sorted.skip_to(last.saturating_add(1))?;
            done.cut = (left_out > 0).then_some((last, left_out));
            done.records -= left_out;
        }
        done.written = days::write(self.stream, &folder, &mut sorted, !self.replace, stop)?;
        Ok(done)
    }
}

fn read_files(paths: &[String], stop: &Stop, mut each: impl FnMut(Raw) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut line = Vec::new();
    for (partition, path) in (0..).zip(paths) {
        let mut lines = Lines::open(path, &Arc::default())?;
        while let Some(offset) = lines.next(&mut line)? {
            anyhow::ensure!(!stop.asked(), "stopped before {path} was read");
            each(Raw { partition, offset, payload: line.clone() })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
