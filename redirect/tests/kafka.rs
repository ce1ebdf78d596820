//! The server with Kafka: librdkafka's mock cluster, reached over TCP as any broker. What the mock only pretends (transactions,
//! compaction, retention) is not asserted here.

mod common;

use clickline_redirect::{Config, KafkaConfig, Server};
use common::*;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, Timestamp};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Mock = MockCluster<'static, DefaultProducerContext>;

const PARTITIONS: i32 = 3;

fn mock(topics: &[&str]) -> Mock {
    let mock = MockCluster::new(1).expect("a mock cluster");
    for topic in topics {
        mock.create_topic(topic, PARTITIONS, 1).expect("a topic");
    }
    mock
}

/// A record read back.
struct Record {
    key: Option<Vec<u8>>,
    time: Option<i64>,
    json: Value,
}

/// Everything on a topic, once there are `count` records.
fn read_all(mock: &Mock, topic: &str, count: usize) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "test")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut records = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    // A second more than needed would show records that are too many.
    let mut quiet = 0;
    while quiet < 10 {
        assert!(Instant::now() < end, "{} of {count} records after 20 s", records.len());
        match consumer.poll(Duration::from_millis(50)) {
            Some(message) => {
                let message = message.expect("a message");
                let time = match message.timestamp() {
                    Timestamp::CreateTime(time) => Some(time),
                    _ => None,
                };
                let json = serde_json::from_slice(message.payload().expect("a payload")).expect("JSON");
                records.push(Record { key: message.key().map(<[u8]>::to_vec), time, json });
            }
            None if records.len() >= count => quiet += 1,
            None => {}
        }
    }
    assert_eq!(records.len(), count);
    records
}

fn put(mock: &Mock, key: &str, payload: Option<&str>) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().expect("a producer");
    let mut record = BaseRecord::to("links").key(key);
    if let Some(payload) = payload {
        record = record.payload(payload);
    }
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(Duration::from_secs(10)).expect("delivered");
}

fn link(slug: &str, destination: &str) -> String {
    format!(r#"{{"v":1,"domain":"s.elido.me","slug":"{slug}","workspace":"acme","destination":"{destination}"}}"#)
}

fn location(server: &Server, target: &str) -> Option<String> {
    let (head, _) = request(server.address(), "GET", target, SAFARI);
    header(&head, "Location").map(str::to_owned)
}

#[test]
fn every_click_is_on_the_topic_once() {
    let mock = mock(&["clicks"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(Config { kafka: Some(KafkaConfig::at(mock.bootstrap_servers())), ..config(folder.path()) })
        .expect("the server starts");
    for number in 0..200 {
        location(&server, &format!("/abc123?eid=c{number}")).expect("a redirect");
    }
    let stats = server.stop();
    assert_eq!((stats.served, stats.delivered, stats.lost), (200, 200, 0));
    let records = read_all(&mock, "clicks", 200);
    assert!(records.iter().all(|record| record.key.is_none() && record.time.is_some()));
    let contacts: HashSet<_> = records.iter().map(|record| record.json["contact_id"].as_str().map(str::to_owned)).collect();
    let ids: HashSet<_> = records.iter().map(|record| record.json["id"].as_str().map(str::to_owned)).collect();
    assert_eq!((contacts.len(), ids.len()), (200, 200));
    assert!(records.iter().all(|record| record.json["ts"] == NOW && record.json["link"] == "s.elido.me/abc123"));
}

#[test]
fn links_come_from_the_topic() {
    let mock = mock(&["clicks", "links"]);
    put(&mock, "s.elido.me/abc123", Some(&link("abc123", "https://acme.example/from-topic")));
    put(&mock, "s.elido.me/gone", Some(&link("gone", "https://acme.example/gone")));
    put(&mock, "s.elido.me/gone", None);
    put(&mock, "s.elido.me/bad", Some("{}"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kafka = KafkaConfig { links_topic: Some("links".to_owned()), ..KafkaConfig::at(mock.bootstrap_servers()) };
    let server = Server::start(Config { kafka: Some(kafka), ..config(folder.path()) }).expect("the server starts");
    assert!(server.ready(Duration::from_secs(20)));
    assert_eq!(location(&server, "/abc123").as_deref(), Some("https://acme.example/from-topic"));
    assert_eq!(location(&server, "/gone"), None);
    assert_eq!(location(&server, "/bad"), None);
    put(&mock, "s.elido.me/abc123", Some(&link("abc123", "https://acme.example/changed")));
    wait_for(|| location(&server, "/abc123").as_deref() == Some("https://acme.example/changed"));
    put(&mock, "s.elido.me/abc123", None);
    wait_for(|| location(&server, "/abc123").as_deref() == Some("https://acme.example/pricing.pdf"));
    let stats = server.stop();
    assert_eq!((stats.delivered, stats.lost), (stats.served, 0));
}

/// Of two workspaces on one domain the file's has it, however late the file comes, and without a file the one with more links: whatever was read first.
#[test]
fn a_domain_has_one_owner_whatever_was_read_first() {
    let mock = mock(&["clicks", "links"]);
    let foreign = |slug: &str, workspace: &str| {
        let link = link(slug, &format!("https://x.example/{slug}")).replace("acme", workspace);
        put(&mock, &format!("s.elido.me/{slug}"), Some(&link));
    };
    // Over all partitions.
    foreign("abc123", "bar");
    (0..6).for_each(|number| foreign(&format!("bar{number}"), "bar"));
    (0..8).for_each(|number| foreign(&format!("foo{number}"), "foo"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kafka = KafkaConfig { links_topic: Some("links".to_owned()), ..KafkaConfig::at(mock.bootstrap_servers()) };
    let mut config = config(folder.path());
    let path = config.links_file.clone().expect("a file");
    std::fs::write(&path, "# nothing yet\n").expect("written");
    config.kafka = Some(kafka);
    let server = Server::start(config).expect("the server starts");
    assert!(server.ready(Duration::from_secs(20)));
    let found = |slug: &str| location(&server, slug).is_some();
    assert!(found("/foo0") && found("/foo7"), "most are foo's");
    assert!(!found("/bar0") && !found("/abc123"));
    // What comes to the topic may turn it.
    (6..9).for_each(|number| foreign(&format!("bar{number}"), "bar"));
    wait_for(|| found("/bar0") && found("/abc123") && !found("/foo0"));
    // The file's own link is not hidden by a foreign one.
    std::fs::write(&path, LINKS).expect("written");
    server.reload();
    wait_for(|| location(&server, "/abc123").as_deref() == Some("https://acme.example/pricing.pdf"));
    assert!(!found("/bar0") && !found("/foo0"));
    server.stop();
}

#[test]
fn not_ready_before_the_topic_was_read() {
    let mock = mock(&["clicks"]);
    let kafka = KafkaConfig { links_topic: Some("links".to_owned()), ..KafkaConfig::at(mock.bootstrap_servers()) };
    let server = Server::start(Config { kafka: Some(kafka), default_domain: Some("s.elido.me".to_owned()), ..Config::default() })
        .expect("the server starts");
    assert!(!server.ready(Duration::from_millis(500)));
    assert!(request(server.address(), "GET", "/readyz", "").0.starts_with("HTTP/1.1 503 "));
    assert!(request(server.address(), "GET", "/healthz", "").0.starts_with("HTTP/1.1 200 "));
    mock.create_topic("links", PARTITIONS, 1).expect("a topic");
    assert!(server.ready(Duration::from_secs(20)), "an empty topic has been read to its end");
    assert!(request(server.address(), "GET", "/readyz", "").0.starts_with("HTTP/1.1 200 "));
    server.stop();
}

/// Without a broker visitors are redirected all the same. What waits when the program must end is given up after its ten seconds and counted, and the
/// exit code says so.
#[test]
fn visitors_never_wait_for_kafka() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("links.yaml");
    std::fs::write(&path, LINKS).expect("the links file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_clickline-redirect"))
        .args(["--listen", "127.0.0.1:0", "--default-domain", "s.elido.me", "--links"])
        .arg(&path)
        // Nobody listens there: port 9 is bound and silent for nobody.
        .args(["--kafka", "127.0.0.1:9", "--kafka-property", "queue.buffering.max.messages=20"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("a line"));
    let address = lines.next().expect("a first line");
    let address = address.strip_prefix("listening on http://").expect("the address").parse().expect("an address");
    for _ in 0..100 {
        assert!(request(address, "GET", "/abc123", SAFARI).0.starts_with("HTTP/1.1 302 "));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(lines.last().as_deref(), Some("100 clicks served, 0 delivered, 100 lost"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("clicks were lost while stopping; a spool (`--spool`) keeps them"), "{error}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_outage_shorter_than_the_queue_loses_nothing() {
    let mock = mock(&["clicks"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(Config { kafka: Some(KafkaConfig::at(mock.bootstrap_servers())), ..config(folder.path()) })
        .expect("the server starts");
    for number in 0..60 {
        match number {
            20 => mock.broker_down(1).expect("the broker goes"),
            40 => mock.broker_up(1).expect("the broker comes back"),
            _ => {}
        }
        location(&server, &format!("/abc123?eid=c{number}")).expect("a redirect");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stats = server.stop();
    assert_eq!((stats.served, stats.delivered, stats.lost), (60, 60, 0));
    let contacts: HashSet<_> =
        read_all(&mock, "clicks", 60).iter().map(|record| record.json["contact_id"].as_str().map(str::to_owned)).collect();
    assert_eq!(contacts.len(), 60);
}

#[test]
fn under_load_every_click_arrives() {
    // 12,000 clicks are 7 MB over three partitions; the mock keeps 5 MB of each.
    const CLIENTS: usize = 4;
    const CLICKS: usize = 3_000;
    let mock = mock(&["clicks"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(Config { kafka: Some(KafkaConfig::at(mock.bootstrap_servers())), ..config(folder.path()) })
        .expect("the server starts");
    let address = server.address();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                for round in 0..CLICKS / 20 {
                    let mut text = String::new();
                    for number in 0..20 {
                        let end = if number == 19 { "Connection: close\r\n" } else { "" };
                        text += &format!("GET /abc123?eid={client}-{round}-{number} HTTP/1.1\r\nHost: x\r\n{SAFARI}{end}\r\n");
                    }
                    assert_eq!(talk(address, text.as_bytes()).matches("HTTP/1.1 302 ").count(), 20);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client ends well"));
    let stats = server.stop();
    let count = CLIENTS * CLICKS;
    assert_eq!((stats.served, stats.delivered, stats.lost), (count as u64, count as u64, 0));
    let records = read_all(&mock, "clicks", count);
    let contacts: HashSet<_> = records.iter().map(|record| record.json["contact_id"].as_str().map(str::to_owned)).collect();
    let ids: HashSet<_> = records.iter().map(|record| record.json["id"].as_str().map(str::to_owned)).collect();
    assert_eq!((contacts.len(), ids.len()), (count, count));
}
