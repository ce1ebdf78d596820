//! Deltas end to end: what a replay of the dataflow gives goes through Kafka, in transactions of which some are aborted, into the table.

use super::put;
use crate::support::clickhouse::ClickHouse;
use crate::support::http_faults::{Fault, HttpFaults};
use crate::support::kafka::Broker;
use crate::support::ports::free_addresses;
use crate::support::process::wait_for;
use clickline::kafka::Kafka;
use clickline::metrics::Metrics;
use clickline::model::outputs::Topic;
use clickline::model::time::{DAY, HOUR, now};
use clickline::sinks::clickhouse::{Sink, Stats};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const TOPICS: [Topic; 4] = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::Unresolved];

/// What the dataflow makes of some clicks of every kind, by topic.
pub fn deltas(folder: &Path) -> Vec<(Topic, Vec<String>)> {
    let start = now() / DAY * DAY - 20 * DAY;
    let click = |n: u64| {
        let (contact, gclid) = match n % 4 {
            0 | 1 => (Some((n % 3).to_string()), None),
            2 => (None, Some(format!("g{}", n % 40))),
            _ => (None, Some("nobody's".to_owned())),
        };
        json!({"id": format!("c{n}"), "ts": start + n * 60_000, "workspace": "w", "link": "d/1", "tags": ["t", "it's \\ \"é\""],
            "contact_id": contact, "gclid": gclid, "utm": {"source": format!("s{}", n % 5)}})
    };
    // The last one comes when the holds of the others are over.
    let clicks = (0..300).map(click).chain([json!({"id": "last", "ts": start + 80 * HOUR, "workspace": "w", "link": "d/1"})]);
    let forms = (0..20).map(|n| json!({"id": format!("f{n}"), "ts": start + n, "workspace": "w", "email": format!("{n}@example.com"), "gclid": format!("g{}", 2 * n)}));
    let contacts = (0..3).map(|n| json!({"portal": "1", "contact_id": n.to_string(), "email": format!("{n}@example.com")}));
    let deals = (0..30)
        .map(|n| json!({"portal": "1", "deal_id": n.to_string(), "pipeline": "p", "stage": "a", "contact_ids": [(n % 3).to_string()]}));
    let lines = |records: &mut dyn Iterator<Item = serde_json::Value>| records.map(|record| format!("{record}\n")).collect::<String>();
    let rules = "- {name: r, trigger: {link_tag: t, contact_window: 30d, click_threshold: 3}, \
                 action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n";
    let files = [
        ("clicks", lines(&mut clicks.into_iter())),
        ("forms", lines(&mut forms.into_iter())),
        ("contacts", lines(&mut contacts.into_iter())),
        ("deals", lines(&mut deals.into_iter())),
        ("rules", rules.to_owned()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.arg("replay").arg("--out").arg(folder.join("out"));
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).expect("writes");
        command.arg(format!("--{name}")).arg(path);
    }
    let ended = command.output().expect("starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let of = |topic: Topic| {
        let text = fs::read_to_string(folder.join("out").join(format!("{}.jsonl", topic.default_name()))).expect("the replay's file");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(lines.len() >= 10, "{}: {}", topic.default_name(), lines.len());
        (topic, lines)
    };
    TOPICS.map(of).into()
}

/// Writes them as the outbox does; every third transaction is aborted, and its records are written by the next one.
pub fn commit(broker: &Broker, of: &[(Topic, Vec<String>)], rng: &mut StdRng) {
    let options = [("transactional.id", "deltas"), ("linger.ms", "5")];
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&options).create().expect("a producer");
    let patience = Duration::from_secs(60);
    producer.init_transactions(patience).expect("initialised");
    for (topic, lines) in of {
        let mut rest = &lines[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(40)));
            let aborted = rng.random_range(0..3) == 0;
            producer.begin_transaction().expect("begins");
            for line in now {
                // What must not be seen is known by its portal.
                let line = if aborted {
                    line.replace("\"portal\":\"1\"", "\"portal\":\"aborted\"").replace("\"id\":\"", "\"id\":\"x")
                } else {
                    line.clone()
                };
                producer.send(BaseRecord::<(), _>::to(topic.default_name()).payload(&line)).map_err(|(error, _)| error).expect("queued");
            }
            if aborted {
                producer.flush(patience).expect("written");
                producer.abort_transaction(patience).expect("aborts");
            } else {
                producer.commit_transaction(patience).expect("commits");
                rest = later;
            }
        }
    }
}

/// Records of a topic, as readers of committed ones find them.
pub fn committed(broker: &Broker, topic: Topic) -> Vec<String> {
    let mut found = Vec::new();
    broker.read(topic.default_name(), "read_committed", |message| {
        found.push(String::from_utf8(message.payload().unwrap_or_default().to_vec()).expect("text"));
    });
    found.sort();
    found
}

/// The table holds what the topic holds, and says of it what the record says.
pub fn assert_equal(broker: &Broker, server: &ClickHouse, topic: Topic) {
    let name = topic.default_name();
    let mut rows: Vec<String> = server
        .ask(&format!("SELECT record FROM c.deltas WHERE topic = '{name}' FORMAT JSONCompactEachRow"))
        .lines()
        .map(|line| serde_json::from_str::<[String; 1]>(line).expect("a row").concat())
        .collect();
    rows.sort();
    let records = committed(broker, topic);
    assert!(!records.is_empty());
    assert_eq!(rows.len(), records.len(), "{name}");
    assert!(rows == records, "{name}: each row is a record of the topic");
    // A click that found nobody stands in a frame.
    let of = if topic == Topic::Unresolved { "'click', " } else { "" };
    let wrong = server.ask(&format!(
        "SELECT count() FROM c.deltas WHERE topic = '{name}' AND NOT (id = JSONExtractString(record, {of}'id') \
         AND portal = JSONExtractString(record, 'portal') AND contact_id = JSONExtractString(record, {of}'contact_id') \
         AND email = JSONExtractString(record, 'email') AND deal_id = JSONExtractString(record, {of}'deal_id') \
         AND toUnixTimestamp64Milli(at) = JSONExtractUInt(record, 'at'))"
    ));
    assert_eq!(wrong, "0", "{name}: columns are the record's fields");
}

#[test]
fn deltas_in_the_table_are_the_topics_records() {
    let (Some(broker), Some(server)) = (Broker::start_if_there(), ClickHouse::start_if_there()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let all = deltas(folder.path());
    for (topic, _) in &all {
        broker.create_topic(topic.default_name(), 2, &[]);
    }
    let seed = std::env::var("CLICKLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("CLICKLINE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let [through] = free_addresses();
    let proxy = HttpFaults::start(&through, server.address());
    let start = || {
        let settings = ClickHouse::settings(
            &through,
            ", batch_rows: 37, deltas: [hubspot.timeline, hubspot.contact-properties, hubspot.deal-stages, clicks.unresolved]",
        );
        Sink::start(settings, &Kafka::at(broker.address()), &Metrics::default()).expect("starts")
    };
    let total = |sink: &Sink, figure: fn(&Stats) -> u64| sink.stats().iter().map(|(_, stats)| figure(stats)).sum::<u64>();
    let rows = || server.try_ask("SELECT count() FROM c.deltas").and_then(|rows| rows.parse::<usize>().ok());
    let count: usize = all.iter().map(|(_, lines)| lines.len()).sum();
    // The first sink hears nothing of what it writes, and is stopped at some point.
    let sink = start();
    commit(&broker, &all, &mut rng);
    wait_for("some rows", || rows().filter(|rows| *rows > 0));
    proxy.set("INSERT+INTO+deltas", Fault::LoseAnswer);
    wait_for("answers to be lost, or nothing to be left", || (proxy.hits() > 1 || rows() == Some(count)).then_some(()));
    sink.stop();
    proxy.lift();
    let sink = start();
    wait_for("all rows", || rows().filter(|rows| *rows >= count));
    sink.stop();
    for (topic, lines) in &all {
        assert_eq!(committed(&broker, *topic).len(), lines.len());
        assert_equal(&broker, &server, *topic);
    }
    // Records twice in a topic, what is no record, and all of it once more.
    let again = &all[0].1;
    put(&broker, Topic::Timeline.default_name(), again.iter().take(5).cloned().chain(["no record".to_owned()]));
    server.ask("TRUNCATE TABLE c.batches");
    let sink = start();
    wait_for("everything to be known", || {
        (total(&sink, |of| of.known) as usize == count + 5 && total(&sink, |of| of.malformed) == 1).then_some(())
    });
    sink.stop();
    assert_eq!(rows(), Some(count));
}
