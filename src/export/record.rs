//! A record on its way from its topic to its file.

use super::sort::{get, put};
use crate::model::time::{DAY, Ms};
use crate::sinks::clickhouse::{Raw, Stream};
use std::io::{self, Read, Write};

/// Ordered as it is exported: by day, then as ClickHouse's tables are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Days since 1970-01-01, UTC, of the record's own time.
    pub day: u32,
    /// Empty for clicks.
    pub portal: String,
    /// Empty for deltas without one.
    pub workspace: String,
    /// Its id.
    pub id: String,
    /// Which partition, or file, it is from.
    pub partition: i32,
    /// Its offset there, or line.
    pub offset: i64,
    /// The record, JSON.
    pub payload: String,
}

impl Record {
    /// One of a topic; `None` for what is no record.
    pub fn of(stream: Stream, raw: Raw) -> Option<Record> {
        let (key, at) = stream.key(&raw)?;
        let payload = String::from_utf8(raw.payload).ok()?;
        let day = day(at)?;
        Some(Record {
            day,
            portal: key.portal,
            workspace: key.workspace,
            id: key.id,
            partition: raw.partition,
            offset: raw.offset,
            payload,
        })
    }

    /// Whether it is the same one, delivered twice.
    pub fn same(&self, other: &Record) -> bool {
        (self.day, &self.portal, &self.workspace, &self.id) == (other.day, &other.portal, &other.workspace, &other.id)
    }

    /// What stood in its topic; the rest of it stays, to be compared with the next one.
    pub(super) fn take_raw(&mut self) -> Raw {
        Raw { partition: self.partition, offset: self.offset, payload: std::mem::take(&mut self.payload).into_bytes() }
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        // Without `..`: what is not written is not there after a run.
        let Record { day, portal, workspace, id, partition, offset, payload } = self;
        let mut numbers = [0; 16];
        numbers[..4].copy_from_slice(&day.to_le_bytes());
        numbers[4..8].copy_from_slice(&partition.to_le_bytes());
        numbers[8..].copy_from_slice(&offset.to_le_bytes());
        put(to, &numbers)?;
        [portal, workspace, id, payload].into_iter().try_for_each(|text| put(to, text.as_bytes()))
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Record>> {
        let Some(numbers) = get(from)? else { return Ok(None) };
        let mut text = || -> io::Result<String> {
            let bytes = get(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            String::from_utf8(bytes).map_err(io::Error::other)
        };
        let (portal, workspace, id, payload) = (text()?, text()?, text()?, text()?);
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let at = |range: std::ops::Range<usize>| numbers.get(range).ok_or_else(wrong);
        let day = u32::from_le_bytes(at(0..4)?.try_into().map_err(|_| wrong())?);
        let partition = i32::from_le_bytes(at(4..8)?.try_into().map_err(|_| wrong())?);
        let offset = i64::from_le_bytes(at(8..16)?.try_into().map_err(|_| wrong())?);
        Ok(Some(Record { day, portal, workspace, id, partition, offset, payload }))
    }
}

/// The day of a moment, since 1970-01-01, UTC.
pub fn day(at: Ms) -> Option<u32> {
    u32::try_from(at / DAY).ok()
}

/// `2026-11-25`.
pub fn day_name(day: u32) -> String {
    crate::model::time::rfc3339(Ms::from(day) * DAY)[..10].to_owned()
}
