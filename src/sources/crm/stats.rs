//! What the mirror of an account counts.

use crate::metrics::{CrmRecord, CrmResult, Metrics, Portal};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// An account's counters, of those in [`Metrics`].
#[derive(Clone, Debug)]
pub struct Stats {
    /// Records read from HubSpot.
    pub read: Counter,
    /// States written to a topic.
    pub written: Counter,
    /// Tombstones written to a topic.
    pub ended: Counter,
    /// Loads that were gone through to their end.
    pub loads: Counter,
    /// When there was nothing left to follow, seconds since the Unix epoch.
    pub followed: Gauge,
}

impl Stats {
    /// Those of an account.
    pub fn of(metrics: &Metrics, portal: &str) -> Self {
        let records = |result| metrics.crm_records.get_or_create(&CrmRecord { portal: portal.to_owned(), result }).clone();
        let of = Portal { portal: portal.to_owned() };
        Stats {
            read: records(CrmResult::Read),
            written: records(CrmResult::Written),
            ended: records(CrmResult::Ended),
            loads: metrics.crm_loads.get_or_create(&of).clone(),
            followed: metrics.crm_followed.get_or_create(&of).clone(),
        }
    }
}
