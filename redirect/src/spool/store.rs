//! The writing end of a spool.

use super::disk::Appender;
use super::frame::{self, FRAME_HEADER, SEGMENT_HEADER};
use super::shelf::{Extent, Shelf};
use super::{Disk, Identity, segment_name};
use crate::ClickBatch;
use std::io;
use std::sync::Arc;

/// Largest segment, in bytes: what is sent is removed in steps of this.
const MAX_SEGMENT: u64 = 16 << 20;

/// Why records were not taken. None of them was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("the spool holds as many bytes as it may; see `--spool-bytes`")]
    Full,
    #[error("the spool's disk takes no more ({0})")]
    Disk(#[from] io::Error),
}

/// Appends records; one thread's.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    shelf: Arc<Shelf>,
    identity: Identity,
    /// Number of the next record.
    next: u64,
    /// Records with numbers below this may stand in a segment where they could not be cut off.
    spoiled: u64,
    limit: u64,
    segment: Option<Segment>,
    /// Frames of the segment that were appended and not shown yet.
    unshown: Vec<u8>,
}

struct Segment {
    file: Box<dyn Appender>,
    length: u64,
    /// As far as readers may go.
    shown: u64,
    /// Its name survives a power cut.
    named: bool,
}

impl Store {
    /// A store that begins with the run's first number, holding at most `limit` bytes.
    pub(crate) fn new(disk: Arc<dyn Disk>, shelf: Arc<Shelf>, identity: Identity, limit: u64) -> Store {
        let next = identity.first();
        Store { disk, shelf, identity, next, spoiled: 0, limit, segment: None, unshown: Vec::new() }
    }

    /// Hands the records to the system, all or none. They are not shown to the reading end before [`show`](Store::show). Where that fails, either the same
    /// records come with the next call, or [`give_up`](Store::give_up) is called.
    pub(crate) fn append(&mut self, clicks: &ClickBatch, now: u64) -> Result<(), AppendError> {
        if self.fits(clicks) < clicks.len() {
            return Err(AppendError::Full);
        }
        self.append_some(clicks, clicks.len(), now)
    }

    /// Like [`append`](Store::append), but takes of the records the first ones that there is room for, and tells how many: at least one.
    pub(crate) fn append_first(&mut self, clicks: &ClickBatch, now: u64) -> Result<usize, AppendError> {
        let count = self.fits(clicks);
        if count == 0 {
            return Err(AppendError::Full);
        }
        self.append_some(clicks, count, now)?;
        Ok(count)
    }

    /// How many of the first records there is room for.
    fn fits(&self, clicks: &ClickBatch) -> usize {
        let hidden = self.segment.as_ref().map_or(0, |segment| segment.length - segment.shown);
        let mut bytes = self.shelf.bytes() + hidden + SEGMENT_HEADER as u64;
        let fits = |json: &[u8]| {
            bytes += (FRAME_HEADER + json.len()) as u64;
            bytes <= self.limit
        };
        clicks.iter().map(|(_, json)| json).map(fits).take_while(|fits| *fits).count()
    }

    fn append_some(&mut self, clicks: &ClickBatch, count: usize, now: u64) -> Result<(), AppendError> {
        if !self.identity.stored() {
            self.identity.store(&*self.disk)?;
            self.next = self.identity.first();
        }
        if self.segment.is_none() {
            self.segment = Some(self.begin_segment(now)?);
        }
        let segment = self.segment.as_mut().expect("made above");
        let before = self.unshown.len();
        for (sequence, (_, json)) in (self.next..).zip(clicks.iter().take(count)) {
            frame::push(sequence, json, &mut self.unshown);
        }
        let frames = &self.unshown[before..];
        if let Err(error) = segment.file.append(frames) {
            self.unshown.truncate(before);
            // Part of it may be there. The same records get the same numbers again, so that even what cannot be cut off is never sent twice.
            if segment.file.truncate(segment.length).is_err() {
                self.spoiled = self.spoiled.max(self.next + count as u64);
                self.segment = None;
                self.unshown.clear();
            }
            return Err(error.into());
        }
        segment.length += frames.len() as u64;
        self.next += count as u64;
        Ok(())
    }

    /// The records that were not taken will not come again. Others must not have their numbers where something of them may have been left: after a crash
    /// it would stand before them, and they would be passed over. They get those of a new run; within one numbers have no gaps.
    pub(crate) fn give_up(&mut self) {
        if self.next < self.spoiled {
            self.spoiled = 0;
            self.identity.next_run();
        }
    }

    fn begin_segment(&mut self, now: u64) -> io::Result<Segment> {
        let name = segment_name(self.next);
        let mut file = match self.disk.create(&name) {
            // Left from a try that failed: nothing in it was ever shown.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(&name)?;
                self.disk.create(&name)?
            }
            other => other?,
        };
        if let Err(error) = file.append(&frame::segment_header(now)) {
            drop(file);
            let _ = self.disk.remove(&name);
            return Err(error);
        }
        let length = SEGMENT_HEADER as u64;
        self.shelf.add(Extent { name, base: self.next, length, created: now });
        Ok(Segment { file, length, shown: length, named: false })
    }

    /// Returns when all that was appended survives a power cut.
    ///
    /// # Errors
    /// Nothing is known then about what was appended since the last time; it is cut off as far as that works, and the store must not be used again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        // Nobody waits for it where nothing is said of a power cut: it takes as long as the file system's journal, and clicks wait in memory meanwhile.
        let named = if segment.named { Ok(()) } else { self.disk.sync_names() };
        segment.named = named.is_ok();
        named.and_then(|()| segment.file.sync()).inspect_err(|_| {
            let _ = segment.file.truncate(segment.shown);
        })
    }

    /// Shows what was appended to the reading end, at `now` (ms since the epoch).
    pub(crate) fn show(&mut self, now: u64) {
        if let Some(segment) = &mut self.segment {
            debug_assert_eq!(segment.length - segment.shown, self.unshown.len() as u64, "what is appended is kept until it is shown");
            segment.shown = segment.length;
            // A segment that is large enough ends here, not with the next record: for that there may be no room until this one has gone.
            let end = segment.length >= MAX_SEGMENT.min(self.limit / 8);
            self.unshown = self.shelf.grow(std::mem::take(&mut self.unshown), now, end);
            if end {
                self.segment = None;
            }
        }
    }

    /// Whether so much is taken that no more should be promised to anybody.
    pub(crate) fn nearly_full(&self) -> bool {
        self.shelf.bytes() > self.limit / 8 * 7
    }
}
