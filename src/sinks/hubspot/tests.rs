//! The whole sink between an embedded broker and the sandbox. What rests on transactions is tested on Apache Kafka, not here.

mod auth;
mod deals;
mod decisions;
mod delivery;
mod faults;
mod front;
mod grants;
mod log;
mod proxy;
mod reach;

use super::fixtures::{event, properties, stage};
use super::{Settings, Sink, Stats};
use crate::kafka::Kafka;
use crate::model::outputs::{ContactProperties, DeadLetter, DealStage, Person, TimelineEvent, Topic};
use crate::state::{LedgerKey, State};
use clickline_sandbox::{Config, Sandbox};
use proxy::Proxy;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PORTAL: &str = "4242";
const PATIENCE: Duration = Duration::from_secs(60);

/// An embedded broker, a sandbox with contact 801, and a folder for the state database.
struct World {
    // Dropped in this order: clients before their broker.
    producer: BaseProducer,
    kafka: Kafka,
    _broker: MockCluster<'static, DefaultProducerContext>,
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    settings: Settings,
}

impl World {
    fn new() -> World {
        World::with(Config::default())
    }

    fn with(config: Config) -> World {
        let broker = MockCluster::new(1).expect("a broker");
        let kafka = Kafka::at(broker.bootstrap_servers());
        for topic in [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::DeadLetters] {
            broker.create_topic(kafka.topics.output(topic), 2, 1).expect("a topic");
        }
        let sandbox = Sandbox::start(config).expect("a sandbox");
        sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
        let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
        let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
        settings.park_retry = Duration::from_millis(200);
        settings.retry_cap = Duration::from_secs(1);
        World {
            producer: kafka.client(&[("linger.ms", "1")]).create().expect("a producer"),
            kafka,
            _broker: broker,
            sandbox,
            folder: tempfile::tempdir().expect("a folder"),
            settings,
        }
    }

    /// Puts a proxy in front of the sandbox.
    fn through(&mut self, proxy: &Proxy) {
        self.settings.base_url = proxy.url();
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn start(&self) -> Sink {
        Sink::start(self.settings.clone(), self.kafka.clone(), vec![PORTAL.to_owned()], &self.state()).expect("starts")
    }

    fn put(&self, topic: Topic, record: &impl Serialize) {
        self.put_bytes(topic, &serde_json::to_vec(record).expect("JSON"));
    }

    fn put_bytes(&self, topic: Topic, value: &[u8]) {
        let record = BaseRecord::to(self.kafka.topics.output(topic)).key(PORTAL).payload(value);
        self.producer.send(record).map_err(|(e, _)| e).expect("queued");
    }

    fn flush(&self) {
        self.producer.flush(PATIENCE).expect("flushed");
    }

    /// Runs until everything that was put is settled.
    fn settle(&self, sink: &Sink, what: &str, read: u64) -> Stats {
        self.flush();
        wait(sink, what, |stats| stats.caught_up && stats.read >= read)
    }

    fn dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        let consumer: BaseConsumer = self.kafka.client(&[("group.id", "test"), ("fetch.wait.max.ms", "20")]).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..2 {
            list.add_partition_offset("dead-letters", partition, Offset::Beginning).expect("listed");
        }
        consumer.assign(&list).expect("assigned");
        let mut found = Vec::new();
        let end = Instant::now() + PATIENCE;
        while found.len() < count && Instant::now() < end {
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                let message = message.expect("a record");
                found.push(serde_json::from_slice(message.payload().expect("a value")).expect("a dead letter"));
            }
        }
        assert_eq!(found.len(), count, "dead letters");
        found
    }

    fn outcome(&self, topic: Topic, id: &str) -> Option<String> {
        let state = State::open(&self.state()).expect("opens");
        state.outcome(LedgerKey::of(self.kafka.topics.output(topic), id)).expect("reads")
    }

    /// What an administrator of the account does by hand.
    fn by_hand(&self, method: reqwest::Method, path: &str, body: &serde_json::Value) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let http = crate::http::client(Duration::from_secs(5)).expect("a client");
            let token = self.sandbox.static_token(PORTAL, None);
            let call = http.request(method, format!("{}{path}", self.sandbox.url())).bearer_auth(token);
            let call = if body.is_null() { call } else { call.json(body) };
            let answer = call.send().await.expect("answers");
            assert!(answer.status().is_success(), "{path}: {answer:?}");
        });
    }

    fn make_property(&self, name: &str, data_type: &str, field_type: &str) {
        let property = serde_json::json!({
            "groupName": "contactinformation", "name": name, "label": name, "type": data_type, "fieldType": field_type,
        });
        self.by_hand(reqwest::Method::POST, "/crm/v3/properties/contacts", &property);
    }

    fn contact(&self, id: &str) -> BTreeMap<String, String> {
        self.sandbox.snapshot(PORTAL).contact(id).expect("the contact").properties.clone()
    }

    fn deal(&self, id: &str) -> String {
        self.sandbox.snapshot(PORTAL).deal(id).expect("the deal").properties["dealstage"].clone()
    }

    fn posts(&self, end: &str) -> usize {
        self.sandbox.requests().iter().filter(|r| r.path.ends_with(end)).count()
    }
}

#[track_caller]
fn wait(sink: &Sink, what: &str, until: impl Fn(&Stats) -> bool) -> Stats {
    let end = Instant::now() + PATIENCE;
    loop {
        let stats = sink.stats();
        if until(&stats) {
            return stats;
        }
        assert!(sink.running(), "{what}: the sink has ended");
        assert!(Instant::now() < end, "{what}: {stats:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn by_email(delta: ContactProperties, email: &str) -> ContactProperties {
    ContactProperties { person: Person::Email(email.into()), ..delta }
}

/// An event of a contact that no other test cares about.
fn nth(n: usize) -> TimelineEvent {
    event(&format!("clk:c{n}:{PORTAL}"), "801")
}

/// A stage delta for a deal.
fn nth_stage(n: usize, deal: &str) -> DealStage {
    stage(&format!("s{n}"), deal)
}

#[test]
fn a_click_becomes_an_event_three_properties_and_a_moved_deal() {
    let world = World::new();
    world.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled"), ("amount", "12000")], &["801"]);
    world.put(Topic::Timeline, &event("clk:c1:4242", "801"));
    let values =
        [("elido_last_utm_source", "webinar", 1), ("elido_last_utm_medium", "email", 1), ("elido_last_utm_campaign", "q2-pricing", 1)];
    world.put(Topic::ContactProperties, &properties("p1", "801", &values));
    world.put(Topic::DealStages, &stage("s1", "9001"));
    let sink = world.start();
    let stats = world.settle(&sink, "all three", 3);
    assert_eq!((stats.events, stats.properties, stats.stages, stats.dead_letters, stats.lag), (1, 1, 1, 0, 0));

    let snapshot = world.sandbox.snapshot(PORTAL);
    let [event] = snapshot.events.as_slice() else { panic!("one event") };
    assert_eq!((event.title.as_str(), event.object_id.as_str()), ("Clicked: Q2 pricing PDF (s.elido.me/abc123)", "801"));
    assert_eq!((event.timestamp_ms, event.extra_data["utm"]["source"].as_str()), (1_763_800_000_123, Some("webinar")));
    let contact = world.contact("801");
    for (name, value, _) in values {
        assert_eq!(contact.get(name).map(String::as_str), Some(value));
    }
    assert_eq!(world.deal("9001"), "qualifiedtobuy");
    assert_eq!(world.outcome(Topic::DealStages, "s1").as_deref(), Some("delivered"));
    let metrics = sink.connections().metrics().text().expect("writes");
    for line in ["hubspot_events_delivered_total 1", "hubspot_stages_delivered_total 1", "hubspot_lag 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    sink.stop().expect("stops");

    let sink = world.start();
    let stats = wait(&sink, "again", |stats| stats.caught_up);
    assert_eq!((stats.read, stats.refreshes), (0, 0), "offsets and access token were kept");
    sink.stop().expect("stops");
}
