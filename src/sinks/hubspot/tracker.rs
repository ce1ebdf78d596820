//! How far each partition is settled: the next offset below which nothing is outstanding.
//!
//! Pure. Records are settled in any order; an offset advances only over an unbroken run. What is settled beyond a gap is in the
//! ledger and is skipped when it is read again.

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
    /// One past the greatest offset read.
    read: i64,
    /// The next offset as it was committed last.
    committed: i64,
}

impl Partition {
    fn next(&self) -> i64 {
        self.outstanding.first().map_or(self.read, |first| *first)
    }
}

impl Tracker {
    /// A partition is read from `next` on.
    pub fn start(&mut self, lane: Lane, partition: i32, next: i64) {
        let start = Partition { outstanding: BTreeSet::new(), read: next, committed: next };
        self.partitions.entry((lane, partition)).or_insert(start);
    }

    /// A record was read.
    pub fn read(&mut self, lane: Lane, partition: i32, offset: i64) {
        let partition = self.partitions.entry((lane, partition)).or_default();
        partition.outstanding.insert(offset);
        partition.read = partition.read.max(offset + 1);
    }

    /// A record is settled.
    pub fn settled(&mut self, lane: Lane, partition: i32, offset: i64) {
        if let Some(partition) = self.partitions.get_mut(&(lane, partition)) {
            partition.outstanding.remove(&offset);
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

    /// Records read and not settled, of one lane.
    pub fn outstanding(&self, lane: Lane) -> usize {
        self.partitions.iter().filter(|((of, _), _)| *of == lane).map(|(_, p)| p.outstanding.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_waits_for_the_oldest_record() {
        let mut tracker = Tracker::default();
        tracker.start(Lane::Events, 0, 10);
        for offset in [10, 11, 15] {
            tracker.read(Lane::Events, 0, offset);
        }
        tracker.settled(Lane::Events, 0, 11);
        assert!(tracker.moved().is_empty());
        tracker.settled(Lane::Events, 0, 10);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 15)], "offsets have gaps: control records");
        let moved = tracker.moved();
        tracker.committed(&moved);
        assert!(tracker.moved().is_empty());
        assert_eq!(tracker.outstanding(Lane::Events), 1);
        tracker.settled(Lane::Events, 0, 15);
        assert_eq!(tracker.moved(), [(Lane::Events, 0, 16)]);
    }

    proptest! {
        /// Whatever the order: no offset passes a record that is not settled, and in the end all are passed.
        #[test]
        fn nothing_unsettled_is_passed(order in Just((0i64..40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut tracker = Tracker::default();
            tracker.start(Lane::Stages, 3, 0);
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
