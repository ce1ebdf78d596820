//! The sink's counters, as `/metrics` shows them: read when they are asked for. The label `topic` has the five names that can be
//! configured.

use super::stats::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::{Arc, Mutex, PoisonError};

/// A topic's counters.
pub type Shared = Arc<Mutex<Stats>>;

/// The counters of the sink's topics, once there are some; clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct Exposed(Arc<Mutex<Vec<(&'static str, Shared)>>>);

impl Exposed {
    /// From now on these are shown.
    pub fn show(&self, topics: Vec<(&'static str, Shared)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = topics;
    }

    /// The counters as of now, by topic; nothing where there is no sink.
    pub fn stats(&self) -> Vec<(&'static str, Stats)> {
        let topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        topics.iter().map(|(topic, stats)| (*topic, *stats.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }
}

/// Which of the figures.
type Figure = fn(&Stats) -> u64;

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let read = self.stats();
        if read.is_empty() {
            return Ok(());
        }
        let counters: [(&str, &str, Figure); 7] = [
            ("clickhouse_records_read", "Records read", |of| of.read),
            ("clickhouse_rows", "Rows acknowledged", |of| of.rows),
            ("clickhouse_batches", "Batches acknowledged", |of| of.batches),
            ("clickhouse_known", "Records whose id was there already", |of| of.known),
            ("clickhouse_malformed", "Records that are none", |of| of.malformed),
            ("clickhouse_refused", "Records refused for good", |of| of.refused),
            ("clickhouse_lost", "Records deleted before they were read, at most", |of| of.lost),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (topic, stats) in &read {
                one(&mut family, &[("topic", *topic)], &ConstCounter::new(value(stats)))?;
            }
        }
        let mut family = encoder.encode_descriptor("clickhouse_errors", "Failed requests", None, MetricType::Counter)?;
        for (topic, stats) in &read {
            for (class, count) in [("transient", stats.transient), ("rows", stats.of_rows), ("setup", stats.setup)] {
                one(&mut family, &[("topic", *topic), ("class", class)], &ConstCounter::new(count))?;
            }
        }
        let gauges: [(&str, &str, Figure); 4] = [
            ("clickhouse_lag_records", "Records in the topic and not yet in the table", |of| of.lag),
            ("clickhouse_oldest_unsent_timestamp_seconds", "When the oldest unacknowledged record was appended; 0: none", |of| {
                of.oldest_at / 1000
            }),
            ("clickhouse_last_success_timestamp_seconds", "When a batch was last acknowledged; 0: never", |of| of.last_at / 1000),
            ("clickhouse_trouble_since_timestamp_seconds", "Since when every request has failed; 0: the last one was answered", |of| {
                of.trouble.map_or(0, |trouble| trouble.since / 1000)
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (topic, stats) in &read {
                one(&mut family, &[("topic", *topic)], &ConstGauge::new(i64::try_from(value(stats)).unwrap_or(i64::MAX)))?;
            }
        }
        Ok(())
    }
}

fn one<const N: usize>(family: &mut MetricEncoder<'_>, labels: &[(&str, &str); N], value: &impl EncodeMetric) -> std::fmt::Result {
    value.encode(family.encode_family(labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn the_counters_are_shown_by_topic_and_documented() {
        let metrics = Metrics::default();
        assert!(!metrics.text().expect("writes").contains("clickhouse_"), "there is no sink yet");
        let stats = Stats { rows: 7, transient: 2, last_at: 1_800_000_000_000, ..Stats::default() };
        metrics.clickhouse.show(vec![("clicks", Arc::new(Mutex::new(stats)))]);
        let text = metrics.text().expect("writes");
        for line in [
            "clickhouse_rows_total{topic=\"clicks\"} 7",
            "clickhouse_errors_total{topic=\"clicks\",class=\"transient\"} 2",
            "clickhouse_last_success_timestamp_seconds{topic=\"clicks\"} 1800000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let documented = include_str!("../../../docs/clickhouse.md");
        for line in text.lines().filter(|line| line.starts_with("clickhouse_")) {
            let name = line.split([' ', '{']).next().unwrap_or_default();
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/clickhouse.md");
        }
    }
}
