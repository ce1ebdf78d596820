//! What the writing and the reading end of a spool share: which segments there are, and how far they may be read.

use super::ages::Ages;
use super::frame::{self, FRAME_HEADER, MAX_PAYLOAD, SEGMENT_HEADER};
use super::recover::{Found, POSITION, position};
use super::tail::{self, Tail};
use super::{Disk, segment_base};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that are read at once: more than the longest frame, so that every reading gets on.
const CHUNK: u64 = 2 * (FRAME_HEADER + MAX_PAYLOAD) as u64;

/// A segment, as far as it may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub name: String,
    /// The first number that it may hold.
    pub base: u64,
    /// Bytes that may be read.
    pub length: u64,
    /// When it was begun, ms since the epoch; 0 when nobody knows.
    pub created: u64,
}

#[derive(Debug)]
struct State {
    /// In order.
    extents: VecDeque<Extent>,
    /// The last one may grow. Those of an earlier process never do.
    growing: bool,
    /// All before it is done with.
    done: Cursor,
    ages: Ages,
    tail: Tail,
}

/// Shared by the two ends. Event loops never come here.
#[derive(Debug)]
pub(crate) struct Shelf {
    state: Mutex<State>,
    grown: Condvar,
}

impl Shelf {
    pub(crate) fn new(found: &Found) -> Arc<Shelf> {
        Shelf::with_tail(found, tail::BYTES)
    }

    /// The same with so many bytes in memory of what was appended last.
    pub(super) fn with_tail(found: &Found, bytes: usize) -> Arc<Shelf> {
        let state = State {
            extents: found.segments.iter().cloned().collect(),
            growing: false,
            done: Cursor::default(),
            ages: Ages::default(),
            tail: Tail::new(bytes),
        };
        Arc::new(Shelf { state: Mutex::new(state), grown: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().extents.iter().map(|extent| extent.length).sum()
    }

    /// Bytes that are not done with, and since when the first of them wait (ms since the epoch): less than a second too early for those of this
    /// process, the beginning of their segment for those of an earlier one.
    pub(crate) fn waiting(&self) -> Option<(u64, u64)> {
        let state = self.state();
        let mut waiting = None;
        for extent in &state.extents {
            let done = match extent.base.cmp(&state.done.base) {
                // It could not be removed.
                Ordering::Less => continue,
                Ordering::Equal => state.done.offset.max(SEGMENT_HEADER as u64),
                Ordering::Greater => SEGMENT_HEADER as u64,
            };
            let left = extent.length.saturating_sub(done);
            if left > 0 {
                let (bytes, _) = waiting.get_or_insert_with(|| (0, state.ages.of((extent.base, done)).unwrap_or(extent.created)));
                *bytes += left;
            }
        }
        waiting
    }

    /// A new segment, which may grow.
    pub(super) fn add(&self, extent: Extent) {
        let State { extents, growing, .. } = &mut *self.state();
        // Left from a try that failed, with nothing to read: its file is now this one's, and must not be removed for both.
        extents.pop_back_if(|last| last.base == extent.base);
        extents.push_back(extent);
        *growing = true;
    }

    /// Lets these `frames`, which stand in the last segment behind what may be read of it, be read from `now` on (ms since the epoch). When that is the `end` of
    /// it, it goes as soon as it is done with: told with them, since the reading end may be through with it at once, and may have nothing more to do later. Memory
    /// for the next frames comes back.
    pub(super) fn grow(&self, frames: Vec<u8>, now: u64, end: bool) -> Vec<u8> {
        let room = {
            let State { extents, growing, ages, tail, .. } = &mut *self.state();
            *growing = !end;
            match extents.back_mut() {
                Some(last) => {
                    let place = (last.base, last.length);
                    ages.appended(place, now);
                    last.length += frames.len() as u64;
                    tail.push(place.0, place.1, frames)
                }
                None => Vec::new(),
            }
        };
        self.grown.notify_one();
        room
    }

    /// Waits until there is something to read behind the cursor; false after `timeout`.
    pub(crate) fn wait(&self, cursor: &Cursor, timeout: Duration) -> bool {
        let (state, _) = self
            .grown
            .wait_timeout_while(self.state(), timeout, |state| !cursor.has_more(&state.extents))
            .unwrap_or_else(PoisonError::into_inner);
        cursor.has_more(&state.extents)
    }

    /// All before the cursor is committed, the last of it being `next - 1`: segments that end before it go, and the position is noted. An error here
    /// costs only disk space until the next time.
    ///
    /// Segments go also where the position cannot be noted, as on a full disk that copies what it overwrites: Kafka has the position together with the clicks, and
    /// the note only stands in for it where Kafka has forgotten it. Too low a note lets no segment be sent again that is gone.
    pub(crate) fn done(&self, disk: &dyn Disk, cursor: &Cursor, next: u64) -> io::Result<()> {
        let noted = disk.note(POSITION, &position(next));
        let gone: Vec<Extent> = {
            let mut state = self.state();
            let sent = |extent: &&Extent| extent.base < cursor.base || extent.base == cursor.base && extent.length <= cursor.offset;
            let ended = state.extents.len().saturating_sub(usize::from(state.growing));
            let count = state.extents.iter().take_while(sent).count().min(ended);
            state.done = cursor.clone();
            state.ages.done((cursor.base, cursor.offset));
            state.tail.done(cursor.base, cursor.offset);
            state.extents.drain(..count).collect()
        };
        let mut failed = None;
        for extent in gone.into_iter().rev() {
            if let Err(error) = disk.remove(&extent.name)
                && error.kind() != io::ErrorKind::NotFound
            {
                // It takes its room on, until it goes the next time.
                self.state().extents.push_front(extent);
                failed = Some(error);
            }
        }
        // There may be room for it now.
        let noted = noted.or_else(|_| disk.note(POSITION, &position(next)));
        failed.map_or(noted, Err)
    }

    /// The end: what is left of segments that are done with goes. Nothing may be appended afterwards.
    pub(crate) fn clear_if_done(&self, disk: &dyn Disk, cursor: &Cursor) -> io::Result<()> {
        let mut state = self.state();
        if cursor.has_more(&state.extents) {
            return Ok(());
        }
        state.extents.drain(..).try_for_each(|extent| disk.remove(&extent.name))
    }
}

/// A place in the spool: all before it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Segment.
    base: u64,
    /// Bytes of it that have been read.
    offset: u64,
}

impl Cursor {
    fn has_more(&self, extents: &VecDeque<Extent>) -> bool {
        extents.iter().any(|extent| {
            extent.base > self.base && extent.length > SEGMENT_HEADER as u64 || extent.base == self.base && extent.length > self.offset
        })
    }

    /// Reads on: gives the next records of one segment to `each`, until it says that it has enough, and moves behind them. Tells how many bytes were damaged;
    /// `None` when all was read.
    pub(crate) fn read(
        &mut self,
        shelf: &Shelf,
        disk: &dyn Disk,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(u64, &[u8]) -> bool,
    ) -> io::Result<Option<u64>> {
        let (extent, offset, recent) = {
            let state = shelf.state();
            let this =
                state.extents.iter().find(|extent| extent.base == self.base && extent.length > self.offset.max(SEGMENT_HEADER as u64));
            let next =
                this.or_else(|| state.extents.iter().find(|extent| extent.base > self.base && extent.length > SEGMENT_HEADER as u64));
            let Some(extent) = next else { return Ok(None) };
            let offset = if extent.base == self.base { self.offset.max(SEGMENT_HEADER as u64) } else { SEGMENT_HEADER as u64 };
            (extent.clone(), offset, state.tail.at(extent.base, offset))
        };
        if let Some((frames, skip)) = recent {
            let read = frame::trusted(&frames[skip..], each);
            *self = Cursor { base: extent.base, offset: offset + read as u64 };
            return Ok(Some(0));
        }
        debug_assert_eq!(segment_base(&extent.name), Some(extent.base));
        let length = (extent.length - offset).min(CHUNK);
        let size = usize::try_from(length).map_err(io::Error::other)?;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let buffer = &mut buffer[..size];
        let count = disk.read(&extent.name, offset, buffer)?;
        // The extent ends with a whole record: what is unfinished there is damage.
        let last = offset + length == extent.length;
        let mut enough = false;
        let seen = frame::decode_while(&buffer[..count], last, |sequence, payload| {
            enough = !each(sequence, payload);
            !enough
        });
        // A file that has become shorter under us is damaged to its end.
        let missing = if enough { 0 } else { buffer.len() - count };
        *self = Cursor { base: extent.base, offset: offset + (seen.consumed + missing) as u64 };
        Ok(Some((seen.skipped + seen.torn + missing) as u64))
    }
}
