//! What the HubSpot sink counts, as Prometheus reads it. The sink gives its [`Stats`]; here they get names.

use super::Portal;
use crate::sinks::hubspot::Stats;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The sink's counters and gauges.
#[derive(Debug, Default)]
pub struct SinkMetrics {
    /// Deltas that are done with, by what came of them.
    pub deltas: Family<Delta, Counter>,
    /// Events that HubSpot had already.
    pub known_events: Counter,
    /// Property values that HubSpot took and did not keep.
    pub ignored_values: Counter,
    /// Tries that failed and are repeated.
    pub retries: Counter,
    /// Requests sent.
    pub requests: Counter,
    /// Requests answered with 429.
    pub rate_limited: Counter,
    /// Deltas read and not done with.
    pub lag: Gauge,
    /// Of them, those passed over for now.
    pub held_back: Gauge,
    /// Deltas that wait for their contact to appear.
    pub parked: Gauge,
    /// Dead letters about which nobody has decided.
    pub dead_letters_open: Gauge,
    /// When the oldest of them was refused, seconds since the Unix epoch; 0 when there is none.
    pub dead_letters_oldest: Gauge,
    /// 1 while an account, or some work in it, stands still until somebody acts.
    pub suspended: Family<Portal, Gauge>,
}

/// A delta that is done with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Delta {
    /// What came of it.
    pub result: DeltaResult,
}

/// What came of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeltaResult {
    /// An event was written.
    Event,
    /// Properties were written.
    Properties,
    /// A deal was moved.
    Stage,
    /// A deal was not moved: it no longer qualified.
    Dropped,
    /// A deal was not moved: its rule only watches.
    Shadow,
    /// Newer clicks had overtaken every value.
    Superseded,
    /// It was settled before.
    Skipped,
    /// It is for an account that this sink does not serve.
    Foreign,
    /// It was refused for good.
    DeadLetter,
}

impl EncodeLabelValue for DeltaResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            DeltaResult::Event => "event",
            DeltaResult::Properties => "properties",
            DeltaResult::Stage => "stage",
            DeltaResult::Dropped => "dropped",
            DeltaResult::Shadow => "shadow",
            DeltaResult::Superseded => "superseded",
            DeltaResult::Skipped => "skipped",
            DeltaResult::Foreign => "foreign",
            DeltaResult::DeadLetter => "dead_letter",
        };
        word.encode(encoder)
    }
}

impl SinkMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("hubspot_deltas", "Deltas that the sink is done with, by what came of them", self.deltas.clone());
        registry.register("hubspot_known_events", "Events that HubSpot had already", self.known_events.clone());
        registry.register("hubspot_ignored_values", "Property values that HubSpot took and did not keep", self.ignored_values.clone());
        registry.register("hubspot_retries", "Tries that failed and are repeated", self.retries.clone());
        registry.register("hubspot_requests", "Requests sent, to the token endpoint not counted", self.requests.clone());
        registry.register("hubspot_rate_limited", "Requests that HubSpot answered with 429", self.rate_limited.clone());
        registry.register("hubspot_lag", "Deltas read and not done with", self.lag.clone());
        registry.register("hubspot_held_back", "Deltas of accounts that do not keep up, passed over for now", self.held_back.clone());
        registry.register("hubspot_parked", "Deltas that wait for their contact to appear", self.parked.clone());
        registry.register("hubspot_dead_letters_open", "Dead letters about which nobody has decided", self.dead_letters_open.clone());
        registry.register(
            "hubspot_dead_letters_oldest_timestamp_seconds",
            "When the oldest open dead letter was refused, seconds since the Unix epoch; 0 when there is none",
            self.dead_letters_oldest.clone(),
        );
        registry.register("hubspot_suspended", "1 while work in an account stands still until somebody acts", self.suspended.clone());
    }

    /// Goes on from what was told `before` to what is so `now`.
    pub fn tell(&self, before: &Stats, now: &Stats) {
        let results = [
            (DeltaResult::Event, before.events, now.events),
            (DeltaResult::Properties, before.properties, now.properties),
            (DeltaResult::Stage, before.stages, now.stages),
            (DeltaResult::Dropped, before.dropped, now.dropped),
            (DeltaResult::Shadow, before.shadow, now.shadow),
            (DeltaResult::Superseded, before.superseded, now.superseded),
            (DeltaResult::Skipped, before.skipped, now.skipped),
            (DeltaResult::Foreign, before.foreign, now.foreign),
            (DeltaResult::DeadLetter, before.dead_letters, now.dead_letters),
        ];
        for (result, before, now) in results {
            self.deltas.get_or_create(&Delta { result }).inc_by(now.saturating_sub(before));
        }
        let counters = [
            (&self.known_events, before.known, now.known),
            (&self.ignored_values, before.ignored, now.ignored),
            (&self.retries, before.retried, now.retried),
            (&self.requests, before.calls, now.calls),
            (&self.rate_limited, before.rate_limited, now.rate_limited),
        ];
        for (counter, before, now) in counters {
            counter.inc_by(now.saturating_sub(before));
        }
        let gauges = [
            (&self.lag, now.lag),
            (&self.held_back, now.held_back),
            (&self.parked, now.parked),
            (&self.dead_letters_open, now.dead_letters_open),
            (&self.dead_letters_oldest, now.dead_letters_oldest_at / 1000),
        ];
        for (gauge, value) in gauges {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn everything_that_the_sink_counts_is_shown_and_documented() {
        let metrics = Metrics::default();
        let first = Stats { events: 3, dead_letters: 1, retried: 2, ..Stats::default() };
        metrics.sink.tell(&Stats::default(), &first);
        let second = Stats { events: 5, lag: 7, parked: 4, dead_letters_open: 1, dead_letters_oldest_at: 1_800_000_000_999, ..first };
        metrics.sink.tell(&first, &second);
        metrics.sink.suspended.get_or_create(&Portal { portal: "4242".to_owned() }).set(1);
        let text = metrics.text().expect("writes");
        for line in [
            "hubspot_deltas_total{result=\"event\"} 5",
            "hubspot_deltas_total{result=\"dead_letter\"} 1",
            "hubspot_retries_total 2",
            "hubspot_lag 7",
            "hubspot_parked 4",
            "hubspot_dead_letters_open 1",
            "hubspot_dead_letters_oldest_timestamp_seconds 1800000000",
            "hubspot_suspended{portal=\"4242\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let documented = [include_str!("../../docs/hubspot.md"), include_str!("../../docs/connections.md")].concat();
        for line in text.lines().filter(|line| line.starts_with("hubspot_")) {
            let name = line.split([' ', '{']).next().unwrap_or_default();
            assert!(documented.contains(&format!("`{name}`")), "{name}");
        }
    }
}
