//! Partitions that have been read to their end: how that is known, and how they follow the brokers' clock.

use super::Reader;
use super::tail::{Beyond, From};
use crate::sources::kafka::watch::exact;
use rdkafka::consumer::Consumer as _;
use std::time::Duration;

/// After this long at the end of what can be fetched, an end that lies further holds no records (a batch that
/// compaction emptied). It counts while the queue is looked at, and found empty: records that nobody takes out of it, for want of
/// credit, are records.
pub(super) const HOLLOW_END: Duration = Duration::from_secs(5);

impl Reader {
    /// Moves partitions that have been read to their end up to the moment at which that was their end.
    ///
    /// - `at` is no later than the brokers' clock when they were asked, and they answered `end`.
    /// - What stands beyond `end` became readable after that, so it was appended no more than `idle_slack` before `at`.
    /// - Therefore no record that is still to come has a log time below `at - idle_slack`.
    pub(super) fn follow_the_clock(&mut self) {
        let seen = self.watch.seen();
        let Some((at, ends)) = &seen.ends else { return };
        let mut positions = None;
        for tail in self.tails.iter_mut().filter(|tail| matches!(tail.from, From::Queue(_))) {
            let Some(end) = ends.get(&tail.partition) else { continue };
            let start = seen.starts.get(&tail.partition).copied().unwrap_or(0);
            let mut next = tail.next.max(start);
            if next < *end && tail.ended.is_some() {
                // Markers of transactions have offsets and are no records: the client knows how far it has come.
                let list = positions.get_or_insert_with(|| self.consumer.position().ok());
                let position = list.as_ref().and_then(|list| list.find_partition(&self.topic, tail.partition)?.offset().into());
                next = next.max(position.and_then(exact).unwrap_or(0));
            }
            // From when this end was first seen: a record that is on its way is not nothing.
            let hollow = next < *end && tail.ended.is_some() && {
                let beyond = Beyond::look(*end, tail.beyond);
                tail.beyond = Some(beyond);
                beyond.is_hollow(*end)
            };
            if next >= *end || hollow {
                tail.low = tail.low.max(at.saturating_sub(self.idle_slack));
            }
        }
    }
}
