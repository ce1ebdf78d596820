//! The sink's counters, as `/metrics` shows them: read when they are asked for.

use super::stats::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The counters of the sink of this process, once there is one; clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct Exposed(Arc<OnceLock<Arc<Mutex<Stats>>>>);

impl Exposed {
    /// From now on these are shown. The first sink of a process stays the one that is.
    pub fn show(&self, stats: &Arc<Mutex<Stats>>) {
        let _ = self.0.set(Arc::clone(stats));
    }

    /// The counters as of now; none before there is a sink.
    pub fn stats(&self) -> Option<Stats> {
        self.0.get().map(|stats| *stats.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stats) = self.0.get() else { return Ok(()) };
        let stats = *stats.lock().unwrap_or_else(PoisonError::into_inner);
        // Without `..`: a counter that is added is shown, or left out on purpose.
        let Stats {
            read,
            events,
            known,
            properties,
            stages,
            lost,
            skipped,
            foreign,
            erased,
            overwritten,
            dropped,
            shadow,
            superseded,
            ignored,
            retried,
            dead_letters,
            dead_letters_open,
            dead_letters_oldest_at,
            calls,
            rate_limited,
            // Counted by connection, with what came of them.
            refreshes: _,
            parked,
            suspended,
            held_back,
            lag,
            caught_up,
        } = stats;
        let counters = [
            ("hubspot_deltas_read", "Records read from the delta topics", read),
            ("hubspot_events_delivered", "Events delivered", events),
            ("hubspot_events_known", "Events of these that HubSpot had already", known),
            ("hubspot_properties_delivered", "Property deltas delivered", properties),
            ("hubspot_stages_delivered", "Deals moved", stages),
            ("hubspot_deltas_lost", "Records that were deleted from their topic before they were read, at most", lost),
            ("hubspot_deltas_skipped", "Records that the ledger knew as settled", skipped),
            ("hubspot_deltas_foreign", "Records of accounts that this sink does not serve", foreign),
            ("hubspot_deltas_erased", "Records of erased persons, dropped", erased),
            ("hubspot_stages_overwritten", "Moves that came on top of one that a person had made in the moment before", overwritten),
            ("hubspot_stages_dropped", "Stage deltas whose deal no longer qualified", dropped),
            ("hubspot_stages_shadow", "Stage deltas of rules that only watch", shadow),
            ("hubspot_properties_superseded", "Property deltas that newer clicks had overtaken", superseded),
            ("hubspot_properties_ignored", "Property values that HubSpot took and did not keep", ignored),
            ("hubspot_retries", "Tries that failed and were repeated", retried),
            ("hubspot_dead_letters", "Deltas refused for good", dead_letters),
            ("hubspot_requests", "Requests to HubSpot", calls),
            ("hubspot_rate_limited", "Requests that HubSpot answered with 429", rate_limited),
        ];
        let gauges = [
            ("hubspot_dead_letters_open", "Dead letters that were neither replayed nor dropped", dead_letters_open),
            (
                "hubspot_dead_letters_oldest_timestamp_seconds",
                "When the oldest of them was refused, seconds since the Unix epoch; 0 when there is none",
                dead_letters_oldest_at / 1000,
            ),
            ("hubspot_parked", "Deltas that wait for the contact of their address", parked),
            ("hubspot_suspended", "Accounts that can't be written to until somebody acts", suspended),
            ("hubspot_held_back", "Deltas of accounts that can't keep up, passed over for now", held_back),
            ("hubspot_lag", "Deltas read and not yet settled", lag),
            ("hubspot_caught_up", "1 while everything that was read is settled", u64::from(caught_up)),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn the_counters_are_shown_as_they_are_when_asked_for() {
        let metrics = Metrics::default();
        let stats = Arc::new(Mutex::new(Stats::default()));
        assert!(!metrics.text().expect("writes").contains("hubspot_lag"), "there is no sink yet");
        metrics.sink.show(&stats);
        *stats.lock().expect("unpoisoned") =
            Stats { events: 7, dead_letters_open: 2, dead_letters_oldest_at: 1_800_000_000_000, ..Stats::default() };
        let text = metrics.text().expect("writes");
        for line in
            ["hubspot_events_delivered_total 7", "hubspot_dead_letters_open 2", "hubspot_dead_letters_oldest_timestamp_seconds 1800000000"]
        {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let documented = include_str!("../../../docs/hubspot.md");
        for line in text.lines().filter(|line| line.starts_with("hubspot_")) {
            let name = line.split([' ', '{']).next().unwrap_or_default();
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/hubspot.md");
        }
    }
}
