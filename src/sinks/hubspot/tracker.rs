//! How far each partition is settled: the next offset below which nothing is outstanding.
//!
//! Pure. Records are settled in any order; an offset advances only over an unbroken run. What is settled beyond a gap is in the
//! ledger and is skipped when it is read again.
//!
//! Records of an account that can't keep up are **held back**: passed over, so that others need not wait, and read again from the first of
//! them later. Until then the partition's offset stays before it.

use super::record::Lane;
use std::collections::{BTreeMap, BTreeSet};

/// The partitions of all lanes.
#[derive(Debug, Default)]
pub struct Tracker {
    partitions: BTreeMap<(Lane, i32), Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    outstanding: BTreeSet<i64>,
    /// Records of the topic that was there before this one was made anew, not settled yet.
    before: BTreeSet<i64>,
    /// One past the greatest offset read.
    read: i64,
    /// The next offset as it was committed last.
    committed: i64,
    /// Where the partition ended when the reading of it began.
    end_at_start: Option<i64>,
    /// Accounts whose records are passed over.
    held_back: BTreeMap<String, HeldBack>,
}

/// Records of one account that were passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// From which offset on.
    pub from: i64,
    /// How many, about.
    pub count: u64,
}

impl Partition {
    fn next(&self) -> i64 {
        let held_back = self.held_back.values().map(|held| held.from);
        self.outstanding.first().copied().into_iter().chain(held_back).min().unwrap_or(self.read)
    }
}

impl Tracker {
    /// A partition is read from `next` on; it ends before `end`.
    pub fn start(&mut self, lane: Lane, partition: i32, next: i64, end: i64) {
        let start = Partition { read: next, committed: next, end_at_start: Some(end), ..Partition::default() };
        self.partitions.entry((lane, partition)).or_insert(start);
    }

    /// Whether a record was appended after the reading of its partition had begun.
    pub fn fresh(&self, lane: Lane, partition: i32, offset: i64) -> bool {
        self.partitions.get(&(lane, partition)).and_then(|at| at.end_at_start).is_some_and(|end| offset >= end)
    }

    /// A record was read.
    pub fn read(&mut self, lane: Lane, partition: i32, offset: i64) {
        let partition = self.partitions.entry((lane, partition)).or_default();
        partition.outstanding.insert(offset);
        partition.read = partition.read.max(offset + 1);
    }

    /// Whatever was before `to` and was not read is not there any more.
    pub fn pass(&mut self, lane: Lane, partition: i32, to: i64) {
        if let Some(partition) = self.partitions.get_mut(&(lane, partition)) {
            partition.read = partition.read.max(to);
        }
    }

    /// The topic was made anew: its partition is read from `next` on and ends before `end`. Gives back how many records that were passed
    /// over are gone. What was read before may still be settled; so that nobody takes it for a new record at the same offset, no
    /// offset passes one while the other is open.
    pub fn anew(&mut self, lane: Lane, partition: i32, next: i64, end: i64) -> u64 {
        let at = self.partitions.entry((lane, partition)).or_default();
        let gone = at.held_back.values().map(|held| held.count).sum();
        let mut before = std::mem::take(&mut at.before);
        before.append(&mut at.outstanding);
        *at = Partition { read: next, committed: next, end_at_start: Some(end), before, ..Partition::default() };
        gone
    }

    /// A record is settled.
    pub fn settled(&mut self, lane: Lane, partition: i32, offset: i64) {
        if let Some(partition) = self.partitions.get_mut(&(lane, partition)) {
            // Of two at the same offset the older first, whichever it was: the other stays open until both are settled.
            if !partition.before.remove(&offset) {
                partition.outstanding.remove(&offset);
            }
        }
    }

    /// What has moved since the last [`Tracker::committed`]: lane, partition, next offset.
    pub fn moved(&self) -> Vec<(Lane, i32, i64)> {
        let moved = self.partitions.iter().filter(|(_, p)| p.next() > p.committed);
        moved.map(|((lane, partition), p)| (*lane, *partition, p.next())).collect()
    }

    /// These offsets are on disk.
    pub fn committed(&mut self, offsets: &[(Lane, i32, i64)]) {
        for (lane, partition, next) in offsets {
            if let Some(partition) = self.partitions.get_mut(&(*lane, *partition)) {
                partition.committed = *next;
            }
        }
    }

    /// Passes over a record that was read.
    pub fn hold_back(&mut self, lane: Lane, partition: i32, portal: &str, offset: i64) {
        let Some(at) = self.partitions.get_mut(&(lane, partition)) else { return };
        at.outstanding.remove(&offset);
        at.held_back.entry(portal.to_owned()).or_insert(HeldBack { from: offset, count: 0 }).count += 1;
    }

    /// Whether records of an account are passed over in a partition.
    pub fn held_back(&self, lane: Lane, partition: i32, portal: &str) -> bool {
        self.partitions.get(&(lane, partition)).is_some_and(|at| at.held_back.contains_key(portal))
    }

    /// From which offset on an account's records are passed over in a partition.
    pub fn behind_in(&self, lane: Lane, partition: i32, portal: &str) -> Option<i64> {
        self.partitions.get(&(lane, partition))?.held_back.get(portal).map(|held| held.from)
    }

    /// What is to be read again: partition, from which offset on, up to which.
    pub fn behind(&self, lane: Lane, portal: &str) -> Option<(i32, i64, i64)> {
        let of_lane = self.partitions.iter().filter(|((of, _), _)| *of == lane);
        of_lane.filter_map(|((_, partition), at)| Some((*partition, at.held_back.get(portal)?.from, at.read))).next()
    }

    /// `taken` records that were passed over were read again, up to `next`.
    pub fn caught_up_to(&mut self, lane: Lane, partition: i32, portal: &str, next: i64, taken: u64) {
        let Some(at) = self.partitions.get_mut(&(lane, partition)) else { return };
        if next >= at.read {
            at.held_back.remove(portal);
        } else if let Some(held) = at.held_back.get_mut(portal) {
            *held = HeldBack { from: next, count: held.count.saturating_sub(taken).max(1) };
        }
    }

    /// Records that are passed over, of all lanes.
    pub fn held_back_count(&self) -> u64 {
        self.partitions.values().flat_map(|at| at.held_back.values()).map(|held| held.count).sum()
    }

    /// Records read and not settled, of one lane.
    pub fn outstanding(&self, lane: Lane) -> usize {
        self.partitions.iter().filter(|((of, _), _)| *of == lane).map(|(_, p)| p.outstanding.len() + p.before.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_waits_for_the_oldest_record() {
        let mut tracker = Tracker::default();
        tracker.start(Lane::Events, 0, 10, 12);
        for offset in [10, 11, 15] {
            tracker.read(Lane::Events, 0, offset);
        }
        tracker.settled(Lane::Events, 0, 11);
        assert!(tracker.moved().is_empty());
        assert_eq!([11, 12].map(|offset| tracker.fresh(Lane::Events, 0, offset)), [false, true]);
        assert!(!tracker.fresh(Lane::Events, 1, 12), "of a partition that nobody knows");
        tracker.settled(Lane::Events, 0, 10);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 15)], "offsets have gaps: control records");
        let moved = tracker.moved();
        tracker.committed(&moved);
        assert!(tracker.moved().is_empty());
        assert_eq!(tracker.outstanding(Lane::Events), 1);
        tracker.settled(Lane::Events, 0, 15);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 16)]);
    }

    #[test]
    fn what_was_deleted_is_passed_and_what_was_read_before_is_not() {
        let mut tracker = Tracker::default();
        tracker.start(Lane::Events, 0, 5, 30);
        tracker.read(Lane::Events, 0, 5);
        tracker.pass(Lane::Events, 0, 20);
        assert!(tracker.moved().is_empty());
        tracker.settled(Lane::Events, 0, 5);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 20)]);
    }

    #[test]
    fn what_is_held_back_is_not_passed_until_it_was_read_again() {
        let mut tracker = Tracker::default();
        tracker.start(Lane::Events, 0, 0, 0);
        (0..6).for_each(|offset| tracker.read(Lane::Events, 0, offset));
        for offset in [1, 3] {
            tracker.hold_back(Lane::Events, 0, "77", offset);
        }
        [0, 2, 4, 5].into_iter().for_each(|offset| tracker.settled(Lane::Events, 0, offset));
        assert_eq!((tracker.moved(), tracker.held_back_count()), (vec![(Lane::Events, 0, 1)], 2));
        assert_eq!(tracker.behind(Lane::Events, "77"), Some((0, 1, 6)));
        tracker.read(Lane::Events, 0, 1);
        tracker.caught_up_to(Lane::Events, 0, "77", 2, 1);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 1)], "it is outstanding now");
        tracker.settled(Lane::Events, 0, 1);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 2)]);
        tracker.read(Lane::Events, 0, 3);
        tracker.caught_up_to(Lane::Events, 0, "77", 6, 1);
        tracker.settled(Lane::Events, 0, 3);
        assert_eq!((tracker.moved(), tracker.held_back(Lane::Events, 0, "77")), (vec![(Lane::Events, 0, 6)], false));
    }

    #[test]
    fn a_topic_that_is_made_anew_begins_anew() {
        let mut tracker = Tracker::default();
        tracker.start(Lane::Events, 0, 0, 0);
        (0..100).for_each(|offset| tracker.read(Lane::Events, 0, offset));
        (10..100).for_each(|offset| tracker.settled(Lane::Events, 0, offset));
        tracker.hold_back(Lane::Events, 0, "77", 9);
        (5..9).for_each(|offset| tracker.settled(Lane::Events, 0, offset));
        (0..4).for_each(|offset| tracker.settled(Lane::Events, 0, offset));
        tracker.committed(&tracker.moved());
        assert_eq!(tracker.anew(Lane::Events, 0, 0, 3), 1, "what was passed over is gone");
        assert_eq!((tracker.behind(Lane::Events, "77"), tracker.outstanding(Lane::Events)), (None, 1), "the old 4 is under way");
        (0..6).for_each(|offset| tracker.read(Lane::Events, 0, offset));
        assert_eq!([2, 3].map(|offset| tracker.fresh(Lane::Events, 0, offset)), [false, true]);
        [0, 1, 2, 3, 5].into_iter().for_each(|offset| tracker.settled(Lane::Events, 0, offset));
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 4)], "below where the old one stood");
        tracker.settled(Lane::Events, 0, 4);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 4)], "which 4 it was nobody knows");
        tracker.settled(Lane::Events, 0, 4);
        assert_eq!((tracker.moved(), tracker.outstanding(Lane::Events)), (vec![(Lane::Events, 0, 6)], 0));
    }

    proptest! {
        /// Whatever the order: no offset passes a record that is not settled, and in the end all are passed.
        #[test]
        fn nothing_unsettled_is_passed(order in Just((0i64..40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut tracker = Tracker::default();
            tracker.start(Lane::Stages, 3, 0, 0);
            for offset in 0..40 {
                tracker.read(Lane::Stages, 3, offset);
            }
            let mut open: BTreeSet<i64> = (0..40).collect();
            for offset in order {
                tracker.settled(Lane::Stages, 3, offset);
                open.remove(&offset);
                let next = tracker.moved().first().map_or(0, |(_, _, next)| *next);
                prop_assert_eq!(next, open.first().copied().unwrap_or(40));
            }
        }
    }
}
