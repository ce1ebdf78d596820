//! Reads a copy from front to back, block by block.

use super::block::{HEAD, Head};
use super::rows::{Decoder, Row};
use super::segment::{Opened, Segment};
use super::writer::Place;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::PathBuf;

/// What comes next in a copy.
#[derive(Debug)]
pub enum Next {
    /// A record.
    Row(Row),
    /// Nothing more: the partition has the rest, from this offset on.
    End(i64),
}

/// A copy that is being read.
#[derive(Debug)]
pub struct Copied {
    opened: Opened,
    /// Segments that are not needed any more; the writer deletes them in its own time.
    older: Vec<Segment>,
    /// The place in `opened.segments` of the one that is read.
    reading: usize,
    file: Option<BufReader<File>>,
    /// Where in the file the next block begins.
    at: u64,
    rows: VecDeque<Row>,
    /// The offset after the last block that was good.
    next: i64,
    /// Bytes of a block, kept for the next one.
    bytes: Vec<u8>,
}

impl Copied {
    pub(super) fn new(opened: Opened, older: Vec<Segment>) -> Self {
        let next = opened.segments.first().map_or(0, |segment| segment.after);
        Copied { opened, older, reading: 0, file: None, at: 0, rows: VecDeque::new(), next, bytes: Vec::new() }
    }

    /// Records that are still to come.
    pub fn left(&self) -> u64 {
        self.opened.segments.iter().skip(self.reading).map(|segment| segment.rows).sum()
    }

    /// The offset after the last record that was given.
    pub fn position(&self) -> i64 {
        self.rows.front().map_or(self.next, |row| row.offset)
    }

    /// The offset after the last record of the copy, as far as it is known to be good.
    pub fn end(&self) -> i64 {
        self.opened.segments.last().map_or(self.next, |segment| segment.next)
    }

    /// The next record. Where the copy turns out to be damaged it ends, with a warning.
    pub fn advance(&mut self) -> Next {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Next::Row(row);
            }
            let Some(segment) = self.opened.segments.get(self.reading) else { return Next::End(self.next) };
            let (path, len) = (segment.path.clone(), segment.len);
            match self.block(&path, len) {
                Ok(true) => {}
                Ok(false) => {
                    (self.reading, self.file, self.at) = (self.reading + 1, None, 0);
                }
                Err(why) => {
                    tracing::warn!(event = "snapshot_damaged", file = %path.display(), at = self.at, %why, "the snapshot cannot be read any further; Kafka has the rest");
                    self.end_here();
                }
            }
        }
    }

    /// Reads a block into `rows`; whether there was one before the end of the good part of the file.
    fn block(&mut self, path: &PathBuf, len: u64) -> io::Result<bool> {
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
                let label = &self.opened.spot.label;
                io::copy(&mut file.by_ref().take(label.len() as u64), &mut io::sink())?;
                self.at = label.len() as u64;
                none.insert(file)
            }
        };
        if self.at >= len {
            return Ok(false);
        }
        let head = match Head::read(file)? {
            Some(Ok(head)) if head.after == self.next => head,
            _ => return Err(damaged("not the block that was there at the start")),
        };
        if !head.body(file, &mut self.bytes)? {
            return Err(damaged("a checksum does not fit"));
        }
        let mut decoder = Decoder::new(&self.bytes, self.opened.spot.partition);
        let mut rows = VecDeque::with_capacity(head.rows as usize);
        while let Some(row) = decoder.row().map_err(|_| damaged("a row cannot be read"))? {
            rows.push_back(row);
        }
        self.rows = rows;
        self.next = head.next();
        self.at += HEAD as u64 + u64::from(head.len);
        Ok(true)
    }

    /// Forgets all that comes after the last good block.
    fn end_here(&mut self) {
        if let Some(segment) = self.opened.segments.get_mut(self.reading) {
            segment.len = self.at.max(self.opened.spot.label.len() as u64);
            segment.next = self.next;
        }
        let beyond = self.opened.segments.split_off((self.reading + 1).min(self.opened.segments.len()));
        for segment in beyond {
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(event = "snapshot_not_deleted", file = %segment.path.display(), %error, "a part of the snapshot that is of no use cannot be deleted");
            }
        }
        (self.reading, self.file) = (self.opened.segments.len(), None);
    }

    /// Where writing goes on; to be called at the end.
    pub fn finish(self) -> Place {
        let Copied { mut opened, older, next, .. } = self;
        opened.segments.splice(0..0, older);
        Place { opened, next }
    }
}
