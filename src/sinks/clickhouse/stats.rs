//! What the sink counts.

use super::outcome::Class;
use crate::model::time::Ms;

/// What keeps a topic from its table at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is to be done about it.
    pub class: Class,
    /// ClickHouse's code; none where it did not answer.
    pub code: Option<u32>,
    /// Since when every request has failed, ms since the Unix epoch.
    pub since: Ms,
}

/// Counters since the start, and the present state, of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records read.
    pub read: u64,
    /// Rows that ClickHouse acknowledged, those of a resent batch again.
    pub rows: u64,
    /// Batches that it acknowledged.
    pub batches: u64,
    /// Records whose id was there already.
    pub known: u64,
    /// Records that are none; the job has put them among the dead letters.
    pub malformed: u64,
    /// Records that ClickHouse refused for good, now among the dead letters.
    pub refused: u64,
    /// Records that were deleted before they were read, at most.
    pub lost: u64,
    /// Failures that pass by themselves.
    pub transient: u64,
    /// Failures for which a row is to blame.
    pub of_rows: u64,
    /// Failures that wait for somebody.
    pub setup: u64,
    /// Records that are in the topic and not in the table, as of the last look.
    pub lag: u64,
    /// When the oldest record that is read and not acknowledged was appended, ms since the Unix epoch; 0 when there is none.
    pub oldest_at: u64,
    /// When a batch was last acknowledged, ms since the Unix epoch; 0: never.
    pub last_at: u64,
    /// What the last request failed with; none once one is answered.
    pub trouble: Option<Trouble>,
}

impl Stats {
    /// Counts a failure at `now`.
    pub fn failed(&mut self, class: Class, code: Option<u32>, now: Ms) {
        let since = self.trouble.map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { class, code, since });
        match class {
            Class::Transient => self.transient += 1,
            Class::Rows => self.of_rows += 1,
            Class::Setup => self.setup += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_from_the_first_failure_in_a_row() {
        let mut stats = Stats::default();
        stats.failed(Class::Transient, None, 5);
        stats.failed(Class::Setup, Some(164), 9);
        assert_eq!(stats.trouble, Some(Trouble { class: Class::Setup, code: Some(164), since: 5 }));
        assert_eq!((stats.transient, stats.of_rows, stats.setup), (1, 0, 1));
        stats.trouble = None;
        stats.failed(Class::Rows, Some(27), 11);
        assert_eq!(stats.trouble.map(|trouble| trouble.since), Some(11));
    }
}
