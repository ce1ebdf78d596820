//! One log of what is counted, read once from front to back for each window length.
//!
//! # Meaning
//! Entries are put in by the tick's end of their event time. With windows of constant length they leave in the order
//! of those ticks, so no priority queue is needed: a log and a place in it for each length. An entry of tick `b` is in
//! the window of length `w` at `t` while `t − w < b ≤ t`, which for ticks that divide `w` is the contract's
//! `t − w < ts ≤ t`. An entry is stored once, however many lengths count it, and freed when the longest is past it.
//!
//! # Ties and edges
//! - What has left goes first, then comes what is new: [`WindowLog::leave`] at `t` comes before [`WindowLog::push`] at
//!   `t`. So an entry that lies behind a short window's place when it is put in is never said to leave that window.
//! - An entry that no length holds any more is not put in; [`WindowLog::holds`] tells.
//!
//! # Cost
//! 8 bytes an entry, in chunks of a 720th of the longest window (an hour at most) that are freed as it leaves them. Each
//! entry is looked at once for each length. Entries mostly come in order. One that does not is put into its place where
//! that is near; otherwise its chunk is sorted once, when it is next read.

use crate::model::time::{HOUR, Ms};
use std::collections::VecDeque;

/// How far from a chunk's end an entry is put into its place at once.
const NEAR: usize = 256;

/// A stretch of entries.
#[derive(Default)]
struct Chunk {
    /// (ms since the chunk's start, what); the first `sorted` of them in order.
    entries: Vec<(u32, u32)>,
    sorted: usize,
}

impl Chunk {
    fn sort(&mut self) {
        if self.sorted < self.entries.len() {
            self.entries.sort_by_key(|(offset, _)| *offset);
            self.sorted = self.entries.len();
        }
    }

    fn push(&mut self, offset: u32, what: u32) {
        let len = self.entries.len();
        if self.sorted == len {
            let near = len.saturating_sub(NEAR);
            let place = if self.entries.last().is_none_or(|(last, _)| *last <= offset) {
                len
            } else {
                near + self.entries[near..].partition_point(|(of, _)| *of <= offset)
            };
            if place > near || near == 0 {
                self.entries.insert(place, (offset, what));
                self.sorted += 1;
                return;
            }
        }
        self.entries.push((offset, what));
    }
}

/// One length's place in the log.
struct Cursor {
    length: Ms,
    /// The least tick that waits to leave; all entries of it and of later ones wait, too.
    first: Option<Ms>,
    /// Where that entry was when it was last looked for.
    hint: usize,
}

/// The log of the windows of some lengths.
pub struct WindowLog {
    cursors: Vec<Cursor>,
    longest: Ms,
    /// Length of a chunk, ms.
    span: Ms,
    /// The number of the first chunk since the epoch.
    base: u64,
    chunks: VecDeque<Chunk>,
    /// Entries in them.
    len: usize,
    looked_at: u64,
}

impl WindowLog {
    /// Of windows of `lengths` ms, each given once.
    pub fn new(lengths: &[Ms]) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        WindowLog {
            cursors: lengths.iter().map(|length| Cursor { length: *length, first: None, hint: 0 }).collect(),
            longest,
            span: (longest / 720).clamp(1, HOUR),
            base: 0,
            chunks: VecDeque::new(),
            len: 0,
            looked_at: 0,
        }
    }

    /// Whether an entry of tick `b` is in a window of `length` at `t`, or will be.
    pub fn holds(length: Ms, b: Ms, t: Ms) -> bool {
        b.saturating_add(length) > t
    }

    /// The lengths, in the order in which they were given.
    pub fn lengths(&self) -> impl Iterator<Item = Ms> {
        self.cursors.iter().map(|cursor| cursor.length)
    }

    /// Puts in an entry at `t` that the longest window holds.
    pub fn push(&mut self, b: Ms, t: Ms, what: u32) {
        let number = b / self.span;
        if self.chunks.is_empty() {
            self.base = number;
        }
        while number < self.base {
            self.chunks.push_front(Chunk::default());
            self.base -= 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the longest window has 720 chunks, or one an hour")]
        let place = (number - self.base) as usize;
        if place >= self.chunks.len() {
            // The last but one is full but for stragglers: it needs no room to grow.
            if let Some(full) = self.chunks.len().checked_sub(2) {
                self.chunks[full].entries.shrink_to_fit();
            }
            self.chunks.resize_with(place + 1, Chunk::default);
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than an hour")]
        self.chunks[place].push((b % self.span) as u32, what);
        self.len += 1;
        for cursor in &mut self.cursors {
            if Self::holds(cursor.length, b, t) {
                cursor.first = Some(cursor.first.map_or(b, |first| first.min(b)));
            }
        }
    }

    /// When the next entry leaves a window: a tick's end.
    pub fn due(&self) -> Option<Ms> {
        self.cursors.iter().filter_map(|cursor| Some(cursor.first?.saturating_add(cursor.length))).min()
    }

    /// Says what each window, by its place among the lengths, does not hold at `t` any more.
    pub fn leave(&mut self, t: Ms, mut gone: impl FnMut(usize, u32)) {
        for (place, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(first) = cursor.first.filter(|first| !Self::holds(cursor.length, *first, t)) else { continue };
            // Nothing is due that begins after this; `first` is due, so it is no underflow.
            let upto = t.saturating_sub(cursor.length);
            #[expect(clippy::cast_possible_truncation, reason = "as many chunks as `push` has made")]
            let mut number = (first / self.span - self.base) as usize;
            let mut from = Some(first % self.span);
            cursor.first = None;
            while let Some(chunk) = self.chunks.get_mut(number) {
                chunk.sort();
                let start = (self.base + number as u64) * self.span;
                let mut read = from.take().map_or(0, |offset| find(&chunk.entries, offset, cursor.hint));
                while let Some((offset, what)) = chunk.entries.get(read).copied() {
                    let b = start + Ms::from(offset);
                    if b > upto {
                        cursor.first = Some(b);
                        break;
                    }
                    gone(place, what);
                    self.looked_at += 1;
                    read += 1;
                }
                cursor.hint = read;
                if cursor.first.is_some() {
                    break;
                }
                number += 1;
            }
        }
        // What the longest window has left, all have.
        while self.chunks.front().is_some() && (self.base + 1) * self.span + self.longest <= t {
            self.len -= self.chunks.pop_front().map_or(0, |chunk| chunk.entries.len());
            self.base += 1;
        }
    }

    /// What leaves next, of each window at most `n`; a guess, for whoever wants to have a look before it is time.
    pub fn ahead(&self, n: usize) -> impl Iterator<Item = u32> {
        self.cursors.iter().flat_map(move |cursor| {
            let number = cursor.first.and_then(|first| usize::try_from((first / self.span).checked_sub(self.base)?).ok());
            let entries = number.and_then(|number| self.chunks.get(number)?.entries.get(cursor.hint..));
            entries.into_iter().flatten().take(n).map(|(_, what)| *what)
        })
    }

    /// Entries that are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that have been looked at, once for each length that they have left.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }
}

/// The place of the first entry at or after `offset`; mostly `hint`.
fn find(entries: &[(u32, u32)], offset: Ms, hint: usize) -> usize {
    let before = |place: usize| entries.get(place).is_some_and(|(of, _)| Ms::from(*of) < offset);
    if hint <= entries.len() && !before(hint) && (hint == 0 || before(hint - 1)) {
        return hint;
    }
    entries.partition_point(|(of, _)| Ms::from(*of) < offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against plain lists, in any order, with any jumps of the clock and several lengths at once.
        #[test]
        fn each_window_is_left_when_it_is_over(
            lengths in proptest::sample::subsequence(vec![MINUTE, HOUR, 4 * HOUR, 9 * HOUR], 1..=4),
            steps in proptest::collection::vec((prop_oneof![Just(0u64), 0..MINUTE, 0..3 * HOUR, 0..40 * HOUR], proptest::collection::vec(prop_oneof![0..MINUTE, 0..12 * HOUR], 0..6)), 1..60),
        ) {
            let mut log = WindowLog::new(&lengths);
            let mut plain: Vec<Vec<(Ms, u32)>> = vec![Vec::new(); lengths.len()];
            let (mut t, mut name) = (100 * HOUR, 0u32);
            for (wait, ages) in steps {
                t += wait;
                let mut left = vec![Vec::new(); lengths.len()];
                log.leave(t, |place, what| left[place].push(what));
                for ((left, plain), length) in left.iter_mut().zip(&mut plain).zip(&lengths) {
                    let mut expected: Vec<u32> = plain.extract_if(.., |(b, _)| *b + length <= t).map(|(_, what)| what).collect();
                    expected.sort_unstable();
                    left.sort_unstable();
                    // Each length says all entries; which of them it had counted is the caller's to know.
                    prop_assert_eq!(left, &expected);
                }
                for age in ages {
                    let b = t - age;
                    if WindowLog::holds(log.longest, b, t) {
                        log.push(b, t, name);
                        for (plain, length) in plain.iter_mut().zip(&lengths) {
                            if WindowLog::holds(*length, b, t) {
                                plain.push((b, name));
                            }
                        }
                        name += 1;
                    }
                }
                let due = plain.iter().zip(&lengths).filter_map(|(plain, length)| plain.iter().map(|(b, _)| b + length).min()).min();
                prop_assert_eq!(log.due(), due);
                prop_assert!(log.ahead(3).count() <= 3 * lengths.len());
                prop_assert_eq!(log.len(), log.chunks.iter().map(|chunk| chunk.entries.len()).sum::<usize>());
            }
        }
    }

    const MINUTE: Ms = 60_000;

    #[test]
    fn what_waits_is_not_looked_at() {
        let looked_at = |waiting: u64| {
            let mut log = WindowLog::new(&[HOUR, 30 * 24 * HOUR]);
            let t = 100 * 24 * HOUR;
            (0..waiting).for_each(|n| log.push(t - 10 * 24 * HOUR + n % HOUR, t, 0));
            // What waits has left the short window behind; of what comes now ten leave it an hour later.
            log.leave(t, |_, _| {});
            let before = log.looked_at();
            (0..10).for_each(|n| log.push(t + n, t, 1));
            log.leave(t + HOUR + 10, |_, _| {});
            log.looked_at() - before
        };
        assert_eq!((looked_at(0), looked_at(1_000), looked_at(100_000)), (10, 10, 10));
    }

    #[test]
    fn the_log_is_as_long_as_its_longest_window() {
        let mut log = WindowLog::new(&[HOUR, 24 * HOUR]);
        let mut most = [0; 2];
        for minute in 0..20 * 24 * 60u64 {
            let t = (1_000 + minute) * MINUTE;
            log.leave(t, |_, _| {});
            log.push(t, t, 0);
            let half = usize::from(minute >= 10 * 24 * 60);
            most[half] = most[half].max(log.len());
        }
        assert!(most[1] <= most[0] && most[0] <= 24 * 60 + 2 * 60, "{most:?}");
        log.leave(40 * 24 * HOUR + 1_000 * MINUTE, |_, _| {});
        assert!(log.is_empty() && log.chunks.is_empty() && log.due().is_none());
    }
}
