//! The counters as OpenMetrics text.

use super::BUCKETS;
use crate::answer::Shared;
use crate::bots::Reason;
use crate::sink::SinkCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A registry that reads what the server counts.
pub(super) fn registry(shared: Arc<Shared>) -> Registry {
    let mut registry = Registry::with_prefix("redirect");
    registry.register_collector(Box::new(Reading(shared)));
    registry
}

struct Reading(Arc<Shared>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (out, shared) = (&mut encoder, &*self.0);
        let metrics = &shared.metrics;

        let classes =
            ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(2..).map(|(class, at)| (class, metrics.sum(|worker| &worker.classes[at])));
        counters(out, "requests", "Answers, by class of their status", "code", classes)?;
        counter(out, "redirects", "Redirects answered; each made one click", metrics.sum(|worker| &worker.redirects))?;
        let reasons = Reason::LABELS.into_iter().enumerate().map(|(at, reason)| (reason, metrics.sum(|worker| &worker.bots[at])));
        counters(out, "bots", "Redirects to machines, by why they are held to be some", "reason", reasons)?;
        counters(out, "eid", "Parameters `eid` of redirects, by what became of them", "result", shared.visitors.eid_counts())?;
        sink(out, &shared.sink.counts())?;

        let (opened, closed) = (metrics.sum(|worker| &worker.opened), metrics.sum(|worker| &worker.closed));
        gauge(out, "connections", "Open connections", opened.saturating_sub(closed) as f64)?;
        let refused = metrics.sum(|worker| &worker.turned_away);
        counters(
            out,
            "connections_made",
            "Connections, by whether they were let in",
            "result",
            [("accepted", opened), ("refused", refused)],
        )?;

        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BUCKETS.len() + 1);
        for (at, bound) in BUCKETS.into_iter().chain([f64::MAX]).enumerate() {
            buckets.push((bound, metrics.sum(|worker| &worker.buckets[at])));
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = metrics.sum(|worker| &worker.nanos) as f64 / 1e9;
        out.encode_descriptor(
            "request_duration_seconds",
            "From the bytes' arrival at the event loop to the answer's write",
            None,
            MetricType::Histogram,
        )?
        .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;

        let table = shared.live.table();
        let links = [("file", table.file().len() as f64), ("topic", table.topic().len() as f64)];
        gauges(out, "links", "Links, by where they come from", "source", links)?;
        gauge(out, "links_age_seconds", "Time since the links file was last taken", metrics.links_age().as_secs_f64())?;
        let reloads = [("taken", metrics.reloads_ok.load(Relaxed)), ("refused", metrics.reloads_refused.load(Relaxed))];
        counters(out, "links_reloads", "Times that the links file was read again, by the outcome", "result", reloads)?;
        let fine = f64::from(u8::from(metrics.last_reload_ok.load(Relaxed)));
        gauge(out, "links_last_reload_ok", "0 when the links file was refused the last time it was read", fine)?;
        gauge(out, "ready", "1 while /readyz says so", f64::from(u8::from(shared.readiness().code() == 200)))
    }
}

/// What became of clicks, and the spool.
fn sink(out: &mut DescriptorEncoder<'_>, counts: &SinkCounts) -> fmt::Result {
    let clicks = [
        ("spooled", counts.spooled),
        ("produced", counts.delivered),
        ("replayed", counts.replayed),
        ("parked", counts.parked),
        ("dropped", counts.overflowed + counts.failed),
    ];
    counters(
        out,
        "clicks",
        "Clicks: on the spool; on Kafka; of these, after a restart or a failure; too large for Kafka; lost",
        "outcome",
        clicks,
    )?;
    gauge(out, "spool_bytes", "Bytes on the spool that Kafka has not confirmed", counts.spool_bytes as f64)?;
    gauge(
        out,
        "spool_oldest_seconds",
        "Age of the oldest of them, to a second; 0 when there are none",
        counts.spool_oldest_ms as f64 / 1e3,
    )?;
    let damage = [("torn", counts.torn), ("corrupt", counts.corrupt)];
    counters(out, "spool_damage", "Torn ends that were cut off at the start, and damaged records, which are lost", "kind", damage)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn counters<'a>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        family.encode_family(&[(label, value)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn gauges<'a>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, number) in values {
        family.encode_family(&[(label, value)])?.encode_gauge(&number)?;
    }
    Ok(())
}
