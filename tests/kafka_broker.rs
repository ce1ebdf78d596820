//! What the job rests on, asked of a real Apache Kafka: append times, compaction, transactions, a log that outlives a kill.
//!
//! Nothing here concerns clickline's own code. It holds the launcher to its word, and shows that the guarantees which the
//! other tests build on are the broker's and not the embedded broker's good manners.

mod support;

use rdkafka::Message;
use rdkafka::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::kafka::Broker;

const LIMIT: Duration = Duration::from_secs(30);

type Sender = ThreadedProducer<DefaultProducerContext>;

fn sender(broker: &Broker, own: &[(&str, &str)]) -> Sender {
    let mut options = vec![("acks", "all"), ("enable.idempotence", "true")];
    options.extend_from_slice(own);
    broker.client(&options).create().expect("a producer")
}

fn send(sender: &Sender, topic: &str, value: &str) {
    sender.send(BaseRecord::<(), str>::to(topic).partition(0).payload(value).timestamp(1)).map_err(|(error, _)| error).expect("queued");
}

/// Everything that a reader of this isolation level sees: `(value, timestamp)`.
fn read(broker: &Broker, topic: &str, isolation: &str) -> Vec<(String, Timestamp)> {
    let mut seen = Vec::new();
    broker.read(topic, isolation, |message| {
        let value = message.payload().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        seen.push((value, message.timestamp()));
    });
    seen
}

fn values(seen: &[(String, Timestamp)]) -> Vec<&str> {
    seen.iter().map(|(value, _)| value.as_str()).collect()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292 million")
}

#[test]
fn the_broker_stamps_append_times_whatever_the_producer_says() {
    let Some(broker) = Broker::start_if_there() else { return };
    broker.create_topic("clicks", 1, &[]);
    let before = now_ms();
    let sender = sender(&broker, &[]);
    send(&sender, "clicks", "a click of 1970");
    sender.flush(LIMIT).expect("acknowledged");
    let after = now_ms();
    match read(&broker, "clicks", "read_committed").as_slice() {
        [(_, Timestamp::LogAppendTime(at))] => assert!((before..=after).contains(at), "{before} <= {at} <= {after}"),
        other => panic!("one record with its append time, not {other:?}"),
    }
}

#[test]
fn a_topic_may_be_compacted_and_keep_its_records_own_times() {
    let Some(broker) = Broker::start_if_there() else { return };
    broker.create_topic("crm.contacts", 1, &[("cleanup.policy", "compact")]);
    broker.create_topic("history", 1, &[("message.timestamp.type", "CreateTime"), ("retention.ms", "-1")]);

    let admin: AdminClient<DefaultClientContext> = broker.client(&[]).create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = [ResourceSpecifier::Topic("crm.contacts")];
    let config = runtime.block_on(admin.describe_configs(&asked, &AdminOptions::new())).expect("answers").remove(0).expect("a topic");
    let option = |name: &str| config.get(name).and_then(|entry| entry.value.clone());
    assert_eq!(option("cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(option("message.timestamp.type").as_deref(), Some("LogAppendTime"));

    let sender = sender(&broker, &[]);
    send(&sender, "history", "a click of 1970");
    sender.flush(LIMIT).expect("acknowledged");
    assert_eq!(read(&broker, "history", "read_committed"), [("a click of 1970".to_owned(), Timestamp::CreateTime(1))]);
}

#[test]
fn readers_of_committed_records_see_no_aborted_and_no_open_ones() {
    let Some(broker) = Broker::start_if_there() else { return };
    broker.create_topic("hubspot.timeline", 1, &[]);
    let sender = sender(&broker, &[("transactional.id", "one")]);
    sender.init_transactions(LIMIT).expect("a coordinator");
    for (value, commits) in [("first", true), ("taken back", false), ("second", true)] {
        sender.begin_transaction().expect("begins");
        send(&sender, "hubspot.timeline", value);
        sender.flush(LIMIT).expect("acknowledged");
        if commits { sender.commit_transaction(LIMIT).expect("commits") } else { sender.abort_transaction(LIMIT).expect("aborts") }
    }
    sender.begin_transaction().expect("begins");
    send(&sender, "hubspot.timeline", "open");
    sender.flush(LIMIT).expect("acknowledged");

    assert_eq!(values(&read(&broker, "hubspot.timeline", "read_committed")), ["first", "second"]);
    assert_eq!(values(&read(&broker, "hubspot.timeline", "read_uncommitted")), ["first", "taken back", "second", "open"]);
}

#[test]
fn a_successor_fences_the_one_before_it() {
    let Some(broker) = Broker::start_if_there() else { return };
    broker.create_topic("hubspot.timeline", 1, &[]);
    let old = sender(&broker, &[("transactional.id", "job")]);
    old.init_transactions(LIMIT).expect("a coordinator");
    old.begin_transaction().expect("begins");
    send(&old, "hubspot.timeline", "of the old one");
    old.flush(LIMIT).expect("acknowledged");

    let new = sender(&broker, &[("transactional.id", "job")]);
    new.init_transactions(LIMIT).expect("takes over");
    let error = old.commit_transaction(LIMIT).expect_err("a zombie must not commit");
    assert!(matches!(&error, KafkaError::Transaction(cause) if cause.is_fatal()), "{error}");

    new.begin_transaction().expect("begins");
    send(&new, "hubspot.timeline", "of the new one");
    new.commit_transaction(LIMIT).expect("commits");
    assert_eq!(values(&read(&broker, "hubspot.timeline", "read_committed")), ["of the new one"]);
}

#[test]
fn what_was_acknowledged_outlives_a_stop_and_a_kill() {
    let Some(mut broker) = Broker::start_if_there() else { return };
    broker.create_topic("clicks", 1, &[]);
    let address = broker.address().to_owned();
    for (value, kill) in [("before the stop", false), ("before the kill", true)] {
        let sender = sender(&broker, &[]);
        send(&sender, "clicks", value);
        sender.flush(LIMIT).expect("acknowledged");
        if kill {
            broker.kill()
        } else {
            broker.stop()
        }
        broker.restart();
    }
    assert_eq!(broker.address(), address, "the address stays");
    assert_eq!(values(&read(&broker, "clicks", "read_committed")), ["before the stop", "before the kill"]);
}
