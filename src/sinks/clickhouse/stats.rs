//! What the sink counts.

use super::outcome::Class;

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
}

impl Stats {
    /// Counts a failure.
    pub fn failed(&mut self, class: Class) {
        match class {
            Class::Transient => self.transient += 1,
            Class::Rows => self.of_rows += 1,
            Class::Setup => self.setup += 1,
        }
    }
}
