//! The job's gauges and counters, taken from its status when they are asked for.

use crate::model::time::Ms;
use crate::status::{Collect, Partition, Rule, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The job of this process, once there is one; clones are the same place.
#[derive(Clone, Default)]
pub struct OfJob(Arc<OnceLock<Collect>>);

impl fmt::Debug for OfJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfJob").field(&self.0.get().is_some()).finish()
    }
}

impl OfJob {
    /// From now on this one is shown. The first job of a process stays the one that is.
    pub fn show(&self, collect: Collect) {
        let _ = self.0.set(collect);
    }
}

impl Collector for OfJob {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(collect) = self.0.get() else { return Ok(()) };
        encode(&collect.quick(), encoder)
    }
}

/// What a process other than 0 shows: its share, and nothing of what process 0 alone knows.
#[derive(Clone)]
struct Share(Collect);

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

impl Collector for Share {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        write(of_share(&self.0.quick()), &mut encoder)
    }
}

/// The metrics of a process other than 0.
pub fn share(collect: Collect) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Share(collect)));
    registry
}

/// Labels and value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric with its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family { name, help, kind: MetricType::Counter, samples }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family { name, help, kind: MetricType::Gauge, samples }
}

fn one(value: u64) -> Vec<Sample> {
    vec![(Vec::new(), float(value))]
}

fn by(label: &'static str, of: &BTreeMap<String, u64>) -> Vec<Sample> {
    of.iter().map(|(name, value)| (vec![(label, name.clone())], float(*value))).collect()
}

fn by_rule(status: &Status, value: fn(&Rule) -> u64) -> Vec<Sample> {
    let labels = |of: &Rule| vec![("workspace", of.workspace.clone()), ("rule", of.name.clone())];
    status.rules.iter().map(|of| (labels(of), float(value(of)))).collect()
}

/// Every metric of a status.
fn encode(status: &Status, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    write(of_share(status), &mut encoder)?;
    write(of_whole(status), &mut encoder)
}

/// What each process of a job knows of its own share of persons and partitions; sums of it are the job's.
fn of_share(status: &Status) -> Vec<Family> {
    let partition = |value: fn(&Partition) -> f64| -> Vec<Sample> {
        let labels = |of: &Partition| vec![("topic", of.topic.clone()), ("partition", of.partition.to_string())];
        status.partitions.iter().map(|of| (labels(of), value(of))).collect()
    };
    let mut all = vec![
        counter("clickline_records_read", "Records read since the start, by kind", by("kind", &status.read)),
        counter(
            "clickline_records_late",
            "Records read since the start whose log time had to be moved up to what their partition had reached",
            one(status.late),
        ),
        counter(
            "clickline_clicks_outside_windows",
            "Clicks since the start that came too late for every window that counts them",
            one(status.kept.outside_windows),
        ),
        gauge("clickline_ready", "1 while outputs are new, 0 while it catches up or stops", one(u64::from(status.ready))),
        gauge("clickline_partition_lag", "Offsets of a partition that were not read yet", partition(|of| float(of.lag.unsigned_abs()))),
        gauge(
            "clickline_partition_log_time_seconds",
            "The log time that a partition has reached, seconds since the Unix epoch",
            partition(|of| seconds(of.log_time)),
        ),
        gauge(
            "clickline_event_time_seconds",
            "When the newest click or form that was read happened, by its own time, seconds since the Unix epoch",
            status.newest.iter().map(|(kind, at)| (vec![("kind", kind.clone())], seconds(*at))).collect(),
        ),
        gauge("clickline_held_clicks", "Clicks that wait for a form", one(status.kept.held_clicks)),
        gauge("clickline_live_keys", "Live counts: pairs of an identity and a tag or link", one(status.kept.live_keys)),
        gauge("clickline_state_bytes", "What windows, counts and identities take", one(status.kept.bytes)),
        gauge("clickline_rule_hot", "Contacts or deals for which a rule is hot", by_rule(status, |of| of.hot)),
    ];
    if let Some(age) = status.snapshot_age_ms {
        all.push(gauge("clickline_snapshot_age_seconds", "How old the newest snapshot file is", vec![(Vec::new(), seconds(age))]));
    }
    all
}

/// What process 0 alone knows: it writes the outputs.
fn of_whole(status: &Status) -> Vec<Family> {
    let outbox = &status.sinks.outbox;
    let mut all = vec![
        counter("clickline_records_written", "Records that the outbox has committed, by topic", by("topic", &outbox.records)),
        counter("clickline_transactions", "Transactions that the outbox has committed", one(outbox.transactions)),
        counter("clickline_transactions_failed", "Transactions that failed and were written again", one(outbox.failed)),
        counter("clickline_rule_fired", "Deals that have earned a stage by a rule", by_rule(status, |of| of.fired)),
        counter("clickline_dead_letters", "Input records that could not be read, by reason", by("reason", &status.dead_letters.unreadable)),
        gauge(
            "clickline_frontier_delay_seconds",
            "How far what is committed is behind the wall clock",
            vec![(Vec::new(), seconds(status.frontier.delay_ms))],
        ),
    ];
    let Some(hubspot) = &status.sinks.hubspot else { return all };
    let portal = |portal: &str| ("portal", portal.to_owned());
    let of = || hubspot.portals.iter();
    let queues = of().flat_map(|of| of.queues.iter().map(|(work, len)| (vec![portal(&of.portal), ("work", work.clone())], float(*len))));
    all.extend([
        gauge(
            "hubspot_window_left",
            "Requests that may be sent before an account's window is full",
            of().map(|of| (vec![portal(&of.portal)], float(of.window_left))).collect(),
        ),
        gauge(
            "hubspot_daily_left",
            "Requests that are left of an account's day, where that is known",
            of().filter_map(|of| Some((vec![portal(&of.portal)], float(of.daily_left?)))).collect(),
        ),
        gauge(
            "hubspot_oldest_delta_waits_seconds",
            "For how long the oldest delta of an account has waited since it was read",
            of().map(|of| (vec![portal(&of.portal)], seconds(of.oldest_waits_ms))).collect(),
        ),
        gauge("hubspot_queue_length", "Deals, addresses, contacts and events of an account that wait", queues.collect()),
    ]);
    all
}

fn write(families: Vec<Family>, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    for Family { name, help, kind, samples } in families {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            let into = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(into)?,
                _ => ConstGauge::new(value).encode(into)?,
            }
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 may be off by one")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(ms: Ms) -> f64 {
    float(ms) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{FreshKind, Metrics};
    use crate::model::outputs::{DeadLetter, Output, Topic};
    use crate::sinks::hubspot::AccountStanding;
    use crate::status::{Board, HubSpot, Outbox, Sinks};
    use std::collections::BTreeSet;

    #[derive(Debug)]
    struct Fixed(Status);

    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
            encode(&self.0, encoder)
        }
    }

    fn text(status: Status) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Fixed(status)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("writes");
        text
    }

    fn whole() -> Status {
        let standing = AccountStanding {
            portal: "4242".into(),
            daily_left: Some(7),
            queues: [("events".to_owned(), 3)].into(),
            oldest_waits_ms: 2_500,
            ..AccountStanding::default()
        };
        Status {
            partitions: vec![Partition { topic: "clicks".into(), lag: 5, ..Partition::default() }],
            rules: vec![Rule { name: "r \"quoted\"".into(), workspace: "w".into(), hot: 2, ..Rule::default() }],
            sinks: Sinks { hubspot: Some(HubSpot { portals: vec![standing], ..HubSpot::default() }), ..Sinks::default() },
            newest: [("clicks".to_owned(), 1_800_000_000_500)].into(),
            snapshot_age_ms: Some(1_500),
            ..Status::default()
        }
    }

    fn types(text: &str) -> BTreeSet<String> {
        text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect()
    }

    #[test]
    fn what_is_documented_is_there_and_what_is_there_is_documented() {
        let metrics = Metrics::default();
        metrics.fresh(FreshKind::Event, 1_200);
        let freshness = "click_to_hubspot_seconds".to_owned();
        assert!(types(&metrics.text().expect("writes")).contains(&freshness));
        let shown = types(&text(whole())).into_iter().chain([freshness]).collect::<BTreeSet<_>>();
        let documented = include_str!("../../docs/status.md").split("## Metrics").nth(1).expect("a section");
        let documented = documented.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()));
        assert_eq!(shown, documented.collect());
    }

    #[test]
    fn what_other_processes_show_is_documented() {
        let shown: BTreeSet<String> = of_share(&whole()).iter().map(|family| family.name.to_owned()).collect();
        let documented = include_str!("../../docs/status.md").split("their own share: ").nth(1).expect("a sentence");
        let documented = documented.split('.').next().expect("its end").split('`').skip(1).step_by(2);
        assert_eq!(shown, documented.map(str::to_owned).collect());
    }

    #[test]
    fn values_are_in_seconds_and_names_are_escaped() {
        let text = text(whole());
        for line in [
            "clickline_partition_lag{topic=\"clicks\",partition=\"0\"} 5.0",
            "clickline_rule_hot{workspace=\"w\",rule=\"r \\\"quoted\\\"\"} 2.0",
            "hubspot_oldest_delta_waits_seconds{portal=\"4242\"} 2.5",
            "clickline_snapshot_age_seconds 1.5",
            "clickline_event_time_seconds{kind=\"clicks\"} 1800000000.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_hundred_thousand_slugs_make_no_more_series() {
        let series = |slugs: usize| {
            let board = Board::for_rules(0);
            let letter = |n: usize| DeadLetter {
                v: 1,
                reason: "json".into(),
                detail: format!("slug {n}"),
                source: "clicks".into(),
                partition: 0,
                offset: 0,
                key_base64: None,
                payload_base64: String::new(),
                at: 1,
            };
            let outputs: Vec<Output> = (0..slugs)
                .flat_map(|n| {
                    let dead = serde_json::to_vec(&letter(n)).expect("JSON");
                    [(Topic::Timeline, Vec::new()), (Topic::DeadLetters, dead)].map(|(topic, value)| Output {
                        topic,
                        key: format!("s.example/{n}"),
                        value,
                    })
                })
                .collect();
            board.outbox.committed(&outputs, 1);
            let said = board.outbox.said();
            let mut status = whole();
            status.sinks.outbox = Outbox {
                records: said.records.iter().map(|(topic, count)| (topic.default_name().to_owned(), *count)).collect(),
                ..Outbox::default()
            };
            status.dead_letters.unreadable = said.dead;
            text(status).lines().count()
        };
        assert_eq!(series(10), series(100_000));
    }
}
