//! Where clicks go: the border between the event loops and whatever carries the clicks on.
//!
//! # Contract
//! A worker answers its visitors first, then offers the clicks of that turn of its loop as one [`ClickBatch`]. A sink takes them or refuses them at
//! once; it never waits. A click is taken, refused, or, later, delivered or failed; [`SinkCounts`] tells how many of each.

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

    /// Number of clicks.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
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
    /// Not taken: the queue was full.
    pub refused: u64,
    /// Taken and given up, or not confirmed before the end.
    pub failed: u64,
}

/// Carries clicks on. Shared by all workers.
pub trait ClickSink: Send + Sync {
    /// Takes the clicks, or as many as there is room for; the rest count as refused. Never waits.
    fn offer(&self, clicks: &ClickBatch);

    /// What became of the clicks so far.
    fn counts(&self) -> SinkCounts;

    /// Why a click was last refused or given up, if any was.
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
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
    }
}
