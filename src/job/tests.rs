//! The whole job on librdkafka's mock cluster, which keeps records but only pretends at transactions.

use super::*;
use crate::config::rules;
use crate::dataflow::plan::{Times, WorkspaceSpec};
use crate::model::outputs::{TimelineEvent, Topic};
use crate::model::time::now;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::time::{Duration, Instant};

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> (Mock, Kafka) {
    let mock = MockCluster::new(1).expect("a mock cluster");
    let kafka = Kafka::at(mock.bootstrap_servers());
    for topic in topics::needed(&kafka, &Plan::new(Times::with_tick(100), &[], &[], |_, _| 0).expect("a plan")) {
        mock.create_topic(&topic.name, topic.partitions.unwrap_or(2), 1).expect("a topic");
    }
    (mock, kafka)
}

fn rule(threshold: u64) -> String {
    format!(
        "- trigger: {{link_tag: sales, contact_window: 30d, click_threshold: {threshold}}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
    )
}

fn config(kafka: &Kafka, rules: &str) -> JobConfig {
    let rules = rules::read(rules).expect("rules");
    let specs = [WorkspaceSpec { name: "acme".into(), portals: vec!["1".into()], ..WorkspaceSpec::default() }];
    let plan = Plan::new(Times::with_tick(100), &specs, &rules, |_, _| 0).expect("a plan");
    JobConfig {
        kafka: kafka.clone(),
        plan,
        workers: 2,
        hosts: None,
        limits: Limits::default(),
        snapshots: None,
        accept_gaps: false,
        now: Arc::new(now),
    }
}

/// Gives back a moment after which the record can be read: one that is slow on its way may be taken later than it was made.
fn produce(kafka: &Kafka, topic: &str, key: &str, payload: &str) -> Ms {
    let producer: ThreadedProducer<_> = kafka.client(&[]).create().expect("a producer");
    let record = BaseRecord::to(topic).key(key).payload(payload).timestamp(i64::try_from(now()).expect("in range"));
    producer.send(record).map_err(|(error, _)| error).expect("sent");
    producer.flush(Duration::from_secs(20)).expect("delivered");
    now()
}

fn click(kafka: &Kafka, id: &str) -> Ms {
    let ts = now();
    let click = format!(r#"{{"id":"{id}","ts":{ts},"workspace":"acme","link":"s/x","tags":["sales"],"contact_id":"801"}}"#);
    produce(kafka, "clicks", id, &click)
}

/// All records of a topic.
fn all(kafka: &Kafka, topic: &str) -> Vec<Vec<u8>> {
    let consumer: BaseConsumer =
        kafka.client(&[("group.id", "test"), ("enable.partition.eof", "true"), ("fetch.wait.max.ms", "20")]).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
    let mut open: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    let mut list = TopicPartitionList::new();
    open.iter().for_each(|p| list.add_partition_offset(topic, *p, Offset::Beginning).expect("a place"));
    consumer.assign(&list).expect("assigned");
    let mut records = Vec::new();
    while !open.is_empty() {
        match consumer.poll(Duration::from_secs(10)).expect("an answer") {
            Ok(message) => records.push(message.payload().unwrap_or_default().to_vec()),
            Err(KafkaError::PartitionEOF(partition)) => open.retain(|p| *p != partition),
            Err(error) => panic!("{error}"),
        }
    }
    records
}

fn clicks_told(kafka: &Kafka) -> Vec<String> {
    let events = all(kafka, Topic::Timeline.default_name());
    let mut ids: Vec<String> =
        events.iter().map(|event| serde_json::from_slice::<TimelineEvent>(event).expect("an event").click_id).collect();
    ids.sort_unstable();
    ids
}

fn reach(job: &Job, at: Ms) {
    let began = Instant::now();
    while job.frontier() <= at + 100 {
        assert!(!job.ended(), "the job has ended");
        assert!(began.elapsed() < Duration::from_secs(30), "the frontier stands at {}, should pass {at}", job.frontier());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_click_becomes_an_event_and_a_restart_tells_nothing_twice() {
    let (_mock, kafka) = cluster();
    produce(&kafka, "crm.deals", "1/d1", r#"{"portal":"1","deal_id":"d1","pipeline":"p","stage":"a","contact_ids":["801"]}"#);
    click(&kafka, "a");
    let last = click(&kafka, "b");
    let job = Job::start(config(&kafka, &rule(2)), Stop::new()).expect("starts");
    reach(&job, last);
    assert_eq!(clicks_told(&kafka), ["a", "b"]);
    assert_eq!(all(&kafka, "hubspot.deal-stages").len(), 1);
    let frontier = job.frontier();
    job.stop().expect("ends");

    // While the job is away, a click and a bad record come.
    click(&kafka, "c");
    let last = produce(&kafka, "forms", "acme", "not json");
    let job = Job::start(config(&kafka, &rule(2)), Stop::new()).expect("starts");
    reach(&job, last);
    assert!(job.frontier() > frontier);
    assert_eq!(clicks_told(&kafka), ["a", "b", "c"]);
    assert_eq!(all(&kafka, "hubspot.deal-stages").len(), 1);
    assert_eq!(all(&kafka, "dead-letters").len(), 1);
    job.stop().expect("ends");
}

#[test]
fn a_rule_added_later_is_as_old_as_its_first_start() {
    let (_mock, kafka) = cluster();
    let job = Job::start(config(&kafka, &rule(5)), Stop::new()).expect("starts");
    reach(&job, click(&kafka, "a"));
    job.stop().expect("ends");
    let newest = || {
        let records = all(&kafka, "clickline.progress");
        serde_json::from_slice::<Progress>(records.last().expect("progress")).expect("progress")
    };
    let first = newest();
    assert_eq!(first.rules.values().collect::<Vec<_>>(), [&0]);
    let job = Job::start(config(&kafka, &(rule(5) + &rule(6))), Stop::new()).expect("starts");
    reach(&job, click(&kafka, "b"));
    job.stop().expect("ends");
    let second = newest();
    assert_eq!(second.rules.len(), 2);
    assert_eq!(second.rules.values().sum::<Ms>(), first.frontier, "the old rule since ever, the new one since the last frontier");
}

#[test]
fn a_transaction_that_fails_is_written_again() {
    let (mock, kafka) = cluster();
    let job = Job::start(config(&kafka, &rule(2)), Stop::new()).expect("starts");
    reach(&job, click(&kafka, "a"));
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2];
    mock.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &refused);
    reach(&job, click(&kafka, "b"));
    let mut told = clicks_told(&kafka);
    told.dedup(); // this broker shows what was aborted
    assert_eq!(told, ["a", "b"]);
    job.stop().expect("ends");
}

#[test]
fn a_job_whose_brokers_are_away_waits_and_stops_when_asked() {
    let job = Job::start(config(&Kafka::at("127.0.0.1:1"), &rule(2)), Stop::new()).expect("starts");
    thread::sleep(Duration::from_millis(300));
    assert!(!job.ended());
    job.stop().expect("ends without a failure");
}

#[test]
fn options_that_make_no_client_are_an_error_at_once() {
    let mut kafka = Kafka::at("127.0.0.1:1");
    kafka.properties.insert("no.such.option".to_owned(), "1".to_owned());
    let error = Job::start(config(&kafka, &rule(2)), Stop::new()).err().expect("refused");
    assert!(format!("{error:#}").contains("no.such.option"), "{error:#}");
}
