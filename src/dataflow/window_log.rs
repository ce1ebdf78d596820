//! One window's log of what it counts, read once from front to back.
//!
//! # Meaning
//! Entries are put in by the tick's end of their event time. With a window of constant length they leave in the order
//! of those ticks, so no priority queue is needed: a log and a place in it. An entry of tick `b` is in the window of
//! length `w` at `t` while `t − w < b ≤ t`, which for ticks that divide `w` is the contract's `t − w < ts ≤ t`.
//!
//! # Cost
//! 8 bytes an entry, in chunks of an hour that are freed as the window leaves them. Entries mostly come in order;
//! those that do not are sorted into their chunk once, when it is read.

use crate::model::time::{HOUR, Ms};
use std::collections::BTreeMap;

/// One hour of entries.
#[derive(Default)]
struct Chunk {
    /// (ms since the chunk's start, what), in order from `read` up to `sorted`.
    entries: Vec<(u32, u32)>,
    sorted: usize,
    /// Entries before this one have left the window.
    read: usize,
}

impl Chunk {
    fn sort(&mut self) {
        if self.sorted < self.entries.len() {
            self.entries[self.read..].sort_by_key(|(offset, _)| *offset);
            self.sorted = self.entries.len();
        }
    }

    fn push(&mut self, offset: u32, what: u32) {
        let in_order = self.sorted == self.entries.len() && self.entries.last().is_none_or(|(last, _)| *last <= offset);
        self.entries.push((offset, what));
        if in_order {
            self.sorted = self.entries.len();
        }
    }
}

/// The log of one window length.
pub struct WindowLog {
    length: Ms,
    chunks: BTreeMap<Ms, Chunk>,
    /// The least tick that waits to leave.
    first: Option<Ms>,
}

impl WindowLog {
    /// Of a window of `length` ms.
    pub fn new(length: Ms) -> Self {
        WindowLog { length, chunks: BTreeMap::new(), first: None }
    }

    /// Whether an entry of tick `b` is still in the window at `t`.
    pub fn holds(&self, b: Ms, t: Ms) -> bool {
        b.saturating_add(self.length) > t
    }

    /// Puts in an entry that the window holds.
    pub fn push(&mut self, b: Ms, what: u32) {
        let start = b - b % HOUR;
        #[expect(clippy::cast_possible_truncation, reason = "less than an hour")]
        self.chunks.entry(start).or_default().push((b - start) as u32, what);
        self.first = Some(self.first.map_or(b, |first| first.min(b)));
    }

    /// When the next entry leaves: a tick's end.
    pub fn due(&self) -> Option<Ms> {
        self.first.map(|b| b.saturating_add(self.length))
    }

    /// Takes out all that the window does not hold at `t`.
    pub fn leave(&mut self, t: Ms, mut gone: impl FnMut(u32)) {
        while let Some(first) = self.first
            && !self.holds(first, t)
        {
            let Some(mut chunk) = self.chunks.first_entry() else {
                self.first = None;
                return;
            };
            let start = *chunk.key();
            let entries = chunk.get_mut();
            entries.sort();
            let upto = t.saturating_sub(self.length);
            while let Some((offset, what)) = entries.entries.get(entries.read).copied()
                && start + Ms::from(offset) <= upto
            {
                gone(what);
                entries.read += 1;
            }
            if entries.read == entries.entries.len() {
                chunk.remove();
            }
            self.first = self.chunks.first_entry().map(|mut chunk| {
                let start = *chunk.key();
                let chunk = chunk.get_mut();
                chunk.sort();
                start + Ms::from(chunk.entries.get(chunk.read).map_or(0, |(offset, _)| *offset))
            });
        }
    }

    /// Entries in the window.
    pub fn len(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.entries.len() - chunk.read).sum()
    }

    /// Whether the window holds nothing.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain list, in any order and with any jumps of the clock.
        #[test]
        fn leaves_when_the_window_does(steps in proptest::collection::vec((0u64..3 * HOUR, proptest::collection::vec(0u64..6 * HOUR, 0..5)), 1..40)) {
            let length = 4 * HOUR;
            let (mut log, mut plain, mut t, mut name) = (WindowLog::new(length), Vec::new(), 10 * HOUR, 0u32);
            for (wait, ages) in steps {
                t += wait;
                let mut left = Vec::new();
                log.leave(t, |what| left.push(what));
                let mut expected: Vec<(Ms, u32)> = Vec::new();
                plain.retain(|(b, what): &(Ms, u32)| { let stays = b + length > t; if !stays { expected.push((*b, *what)); } stays });
                left.sort_unstable();
                let mut names: Vec<u32> = expected.into_iter().map(|(_, what)| what).collect();
                names.sort_unstable();
                prop_assert_eq!(left, names);
                for age in ages {
                    let b = t - age;
                    if log.holds(b, t) {
                        log.push(b, name);
                        plain.push((b, name));
                        name += 1;
                    }
                }
                prop_assert_eq!(log.len(), plain.len());
                prop_assert_eq!(log.due(), plain.iter().map(|(b, _)| b + length).min());
            }
        }
    }
}
