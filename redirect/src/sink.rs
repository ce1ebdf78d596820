//! Where clicks go: the border between the event loops and whatever carries the clicks on.
//!
//! # Contract
//! A worker answers its visitors first, then offers the clicks of that turn of its loop as one [`ClickBatch`]. A sink takes them at once or has no room
//! for them; it never waits. A click overflows or is taken, and, later, delivered or failed; [`SinkCounts`] tells how many of each.
//!
//! # Words
//! A click that overflowed or failed is *lost*; its visitor was redirected. A visitor, a connection, a link or a file is *refused*: it gets a 503 or its
//! end, and there is no click to lose.

use crate::capture::Ticket;
use std::sync::Arc;
use std::time::Duration;

/// The clicks of one turn of an event loop: JSON records with their event times.
#[derive(Debug, Default)]
pub struct ClickBatch {
    bytes: Vec<u8>,
    /// End of each record in `bytes`, and its event time.
    ends: Vec<(usize, u64)>,
}

impl ClickBatch {
    /// Adds a record; `write` appends its JSON and returns its event time in ms since the epoch.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> u64) {
        let ts = write(&mut self.bytes);
        self.ends.push((self.bytes.len(), ts));
    }

    /// Event time (ms since the epoch) and JSON of each click, in the order they were served.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, ts)| (ts, &self.bytes[std::mem::replace(&mut start, end)..end]))
    }

    /// Adds all clicks of another batch.
    pub fn extend(&mut self, other: &ClickBatch) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|&(end, ts)| (start + end, ts)));
    }

    /// The JSON of the click that was added last.
    pub(crate) fn last(&self) -> Option<&[u8]> {
        let (end, _) = self.ends.last()?;
        let start = self.ends.len().checked_sub(2).map_or(0, |before| self.ends[before].0);
        Some(&self.bytes[start..*end])
    }

    /// Bytes of JSON.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Number of clicks.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets the first clicks.
    pub(crate) fn remove_first(&mut self, count: usize) {
        let bytes = count.checked_sub(1).map_or(0, |last| self.ends[last].0);
        self.bytes.drain(..bytes);
        self.ends.drain(..count);
        self.ends.iter_mut().for_each(|(end, _)| *end -= bytes);
    }

    /// Forgets the clicks and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What became of the clicks that were offered to a sink, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Confirmed by the other side.
    pub delivered: u64,
    /// Lost at once: there was no room for them.
    pub overflowed: u64,
    /// Lost later: taken and given up, or not confirmed before the end.
    pub failed: u64,
    /// Written to the spool.
    pub spooled: u64,
    /// Of those delivered, the ones that an earlier process had left in the spool, or that were sent again after a failure.
    pub replayed: u64,
    /// Put aside: the brokers refuse them for their size.
    pub parked: u64,
    /// Records of the spool that were damaged and are lost.
    pub corrupt: u64,
    /// Torn ends of segments that were found at the start and cut off.
    pub torn: u64,
    /// Bytes in the spool that are not delivered.
    pub spool_bytes: u64,
    /// Age of the oldest of them in ms, less than a second too high; of what an earlier process left, the age of its segment. 0 when there is none.
    pub spool_oldest_ms: u64,
}

/// Carries clicks on. Shared by all workers.
pub trait ClickSink: Send + Sync {
    /// Takes the clicks, or as many as there is room for; the rest count as overflowed. Never waits.
    fn offer(&self, clicks: &ClickBatch);

    /// Whether redirects may be answered now. A sink that must lose nothing says no when it could not keep their clicks; visitors get a 503 then.
    fn admits(&self) -> bool {
        true
    }

    /// Whether answers wait until their clicks are safe. Then clicks come by [`offer_held`](ClickSink::offer_held).
    fn holds(&self) -> bool {
        false
    }

    /// Takes the clicks of answers that wait, and settles the ticket later, once. Never waits.
    fn offer_held(&self, clicks: &ClickBatch, ticket: &Arc<Ticket>) {
        self.offer(clicks);
        ticket.settle(true);
    }

    /// What became of the clicks so far.
    fn counts(&self) -> SinkCounts;

    /// Why a click was last lost, if any was.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Why the sink will never work again without a restart, if that is so.
    fn broken(&self) -> Option<String> {
        None
    }

    /// Waits up to `timeout` until every click is delivered; what is not counts as failed. Called once, when all workers have stopped.
    fn close(&self, timeout: Duration) -> SinkCounts;
}

/// Forgets every click: a redirect server without Kafka.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl ClickSink for Discard {
    fn offer(&self, _: &ClickBatch) {}

    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }

    fn close(&self, _: Duration) -> SinkCounts {
        SinkCounts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_pushed() {
        let mut batch = ClickBatch::default();
        for (ts, text) in [(7, "one"), (8, ""), (9, "three")] {
            batch.push(|out| {
                out.extend_from_slice(text.as_bytes());
                ts
            });
        }
        let back: Vec<(u64, &[u8])> = batch.iter().collect();
        assert_eq!(back, [(7, &b"one"[..]), (8, b""), (9, b"three")]);
        assert_eq!(batch.last(), Some(&b"three"[..]));
        let mut twice = ClickBatch::default();
        twice.extend(&batch);
        twice.extend(&batch);
        assert_eq!(twice.iter().collect::<Vec<_>>(), batch.iter().chain(batch.iter()).collect::<Vec<_>>());
        twice.remove_first(0);
        twice.remove_first(4);
        assert_eq!(twice.iter().collect::<Vec<_>>(), [(8, &b""[..]), (9, b"three")]);
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
    }
}
