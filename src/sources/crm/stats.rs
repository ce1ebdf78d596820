//! What the mirror of an account has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Records read from HubSpot.
    pub read: AtomicU64,
    /// States written to a topic.
    pub written: AtomicU64,
    /// Tombstones written to a topic.
    pub ended: AtomicU64,
    /// Loads that were gone through to their end.
    pub loads: AtomicU64,
}

impl Stats {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A counter as of now.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
