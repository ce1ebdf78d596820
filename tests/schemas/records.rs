//! Records with verdicts: good ones from every place that makes some, and the same ones spoilt.

use crate::oracle_model::feed::{Feed, run};
use crate::oracle_model::{Log, World};
use clickline::dataflow::plan::Plan;
use clickline::model::inputs::{Input, MAX_ID, MAX_LIST, MAX_TS};
use clickline::model::time::DAY;
use clickline::model::{Click, Contact, Deal, Form};
use clickline::sinks::outbox::Progress;
use clickline::sources::Kind;
use clickline_redirect::{ClickBatch, ClickSink, Config, LinkFile, Server, SinkCounts};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A record, and whether its reader takes it.
pub struct Record {
    pub topic: String,
    pub record: Value,
    pub taken: bool,
    /// What was done to it.
    pub what: String,
}

impl Record {
    pub fn line(&self) -> Value {
        json!({"topic": self.topic, "record": self.record, "taken": self.taken, "what": self.what})
    }
}

#[derive(Default)]
pub struct Records(pub Vec<Record>);

impl Records {
    fn add(&mut self, topic: &str, record: Value, taken: bool, what: impl Into<String>) {
        self.0.push(Record { topic: topic.to_owned(), record, taken, what: what.into() });
    }

    /// What random logs hold, what the dataflow makes of them, and inputs spoilt in every field with the reader's verdict.
    pub fn of_the_oracle(&mut self, seeds: Range<u64>) {
        let world = World::new();
        let plan = Arc::new(Plan { carries: true, ..world.plan(World::times(), &world.rules()) });
        for seed in seeds {
            let log = Log::random(&mut StdRng::seed_from_u64(seed), 160, 390 * DAY);
            let mut spoilt: BTreeMap<&str, u32> = BTreeMap::new();
            for (_, _, record) in &log.0 {
                let (topic, _, Some(value)) = record.message() else { continue };
                let Ok(record) = serde_json::from_slice::<Value>(&value) else { continue };
                self.add(topic, record.clone(), verdict(topic, &record), "of a random log");
                if *spoilt.entry(topic).and_modify(|n| *n += 1).or_insert(1) <= 3 {
                    for (what, record) in spoil(&record) {
                        self.add(topic, record.clone(), verdict(topic, &record), what);
                    }
                }
            }
            for (_, output) in run(&plan, log.arrivals(), log.end() + 1, 1, Feed::Batches, seed) {
                let topic = output.topic.default_name();
                // A tombstone has no value.
                let Ok(record) = serde_json::from_slice::<Value>(&output.value) else { continue };
                self.add(topic, record.clone(), true, "an output");
                for field in ["v", "at"] {
                    self.add(topic, without(&record, field), false, format!("an output without {field}"));
                }
            }
        }
    }

    /// Clicks by HTTP on the real server.
    pub fn of_the_redirect_server(&mut self) {
        let folder = tempfile::tempdir().expect("a folder");
        let links = folder.path().join("links.yaml");
        let text = "- {domain: s.elido.me, slug: a, workspace: acme, destination: 'https://acme.example/p?utm_source=site', title: T, tags: [x, z], deal_id: 9001}\n\
                    - {domain: s.elido.me, slug: b, workspace: acme, destination: 'https://acme.example/'}\n";
        fs::write(&links, text).expect("written");
        let memory = Arc::new(Memory::default());
        let config = Config { links_file: Some(links), country_header: Some("CF-IPCountry".to_owned()), ..Config::default() };
        let server = Server::start_with(config, memory.clone()).expect("starts");
        assert!(server.ready(Duration::from_secs(30)), "the links are read");
        let safari =
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15";
        let requests = [
            ("GET", "/a?eid=801&utm_campaign=k&utm_term=%C3%A9", safari, "Referer: https://r.example/?q=1\r\nCF-IPCountry: FR\r\n"),
            ("GET", "/a?gclid=Cj0&fbclid=IwAR&eid=%00", safari, ""),
            ("HEAD", "/b", "curl/8", ""),
            ("GET", "/b?utm_source=%22%5C%0a", safari, "Purpose: prefetch\r\n"),
            ("GET", "/b", "", "CF-IPCountry: XX\r\n"),
        ];
        for (method, path, agent, more) in requests {
            let mut stream = TcpStream::connect(server.address()).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: s.elido.me\r\nUser-Agent: {agent}\r\n{more}Connection: close\r\n\r\n")
                .expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 302"), "{method} {path}: {answer}");
        }
        server.stop();
        let clicks = std::mem::take(&mut *memory.0.lock().expect("not poisoned"));
        assert_eq!(clicks.len(), requests.len());
        for click in clicks {
            self.add("clicks", serde_json::from_slice(&click).expect("JSON"), Click::read(&click).is_ok(), "of the redirect server");
        }
    }

    /// Links, with the redirect server's verdict.
    pub fn of_links(&mut self) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("links.jsonl");
        let whole = json!({"v": 1, "domain": "s.elido.me", "slug": "abc", "workspace": "acme", "destination": "https://acme.example/p", "title": "T",
            "tags": ["x"], "deal_id": "9001", "expires": 1_900_000_000_000_u64, "enabled": true});
        let mut links = vec![("whole".to_owned(), whole.clone())];
        links.push(("numbers as text".to_owned(), json!({"domain": "s.elido.me", "slug": "n", "workspace": "acme", "destination": "https://x.example", "deal_id": 9001, "expires": "2030-01-01T00:00:00Z"})));
        for field in whole.as_object().expect("an object").keys() {
            links.push((format!("without {field}"), without(&whole, field)));
            links.push((format!("null in {field}"), with(&whole, field, Value::Null)));
            links.push((format!("an object in {field}"), with(&whole, field, json!({}))));
        }
        links.push(("of another version".to_owned(), with(&whole, "v", json!(2))));
        for (what, link) in links {
            fs::write(&path, format!("{link}\n")).expect("written");
            let file = LinkFile::read(&path, &[]).expect("a file of links");
            self.add("links", link, file.len() == 1 && file.problems.is_empty(), what);
        }
    }

    /// What `docs/topics.md` shows.
    pub fn of_the_documentation(&mut self) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/topics.md")).expect("the documentation");
        let (mut topic, mut shown) = (String::new(), 0);
        let mut inputs = ["clicks", "forms", "crm.contacts", "crm.deals"].iter();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("### `") {
                topic = heading.split('`').next().unwrap_or_default().to_owned();
            }
            let Ok(record @ Value::Object(_)) = serde_json::from_str::<Value>(line) else { continue };
            let of = match topic.as_str() {
                "" => inputs.next().expect("an example of each input").to_string(),
                "clickline.sources" if record["v"].is_null() => "clickline.changes".to_owned(),
                topic => topic.to_owned(),
            };
            self.add(&of, record, true, "shown in docs/topics.md");
            shown += 1;
        }
        assert!(shown >= 14, "{shown} records in docs/topics.md");
    }

    /// Progress as the outbox writes it.
    pub fn of_the_jobs_notes(&mut self) {
        let offsets = [(Kind::Clicks, BTreeMap::from([(0, 7), (11, 1 << 40)])), (Kind::Deals, BTreeMap::new())].into();
        let rules = [("acme: tag x 2x in 30d".to_owned(), 1_763_800_000_000)].into();
        for progress in [
            Progress::default(),
            Progress { v: 1, frontier: 1_763_800_000_000, offsets, tick: 100, counts_since: Some(1_763_800_000_000), rules },
        ] {
            self.add("clickline.progress", serde_json::to_value(progress).expect("JSON"), true, "progress");
        }
    }
}

/// Remembers clicks as they were written.
#[derive(Default)]
struct Memory(Mutex<Vec<Vec<u8>>>);

impl ClickSink for Memory {
    fn offer(&self, clicks: &ClickBatch) {
        self.0.lock().expect("not poisoned").extend(clicks.iter().map(|(_, json)| json.to_vec()));
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }

    fn close(&self, _: Duration) -> SinkCounts {
        SinkCounts::default()
    }
}

/// Whether the job takes the record.
fn verdict(topic: &str, record: &Value) -> bool {
    let bytes = record.to_string().into_bytes();
    match topic {
        "clicks" => Click::read(&bytes).is_ok(),
        "forms" => Form::read(&bytes).is_ok(),
        "crm.contacts" => Contact::read(&bytes).is_ok(),
        "crm.deals" => Deal::read(&bytes).is_ok(),
        _ => panic!("{topic} is no input"),
    }
}

fn with(record: &Value, field: &str, value: Value) -> Value {
    let mut record = record.clone();
    record[field] = value;
    record
}

fn without(record: &Value, field: &str) -> Value {
    let mut record = record.clone();
    record.as_object_mut().expect("an object").remove(field);
    record
}

/// The record with each field left out, or changed for what does not belong there or lies at a bound.
fn spoil(record: &Value) -> Vec<(String, Value)> {
    let mut all = vec![("an unknown field".to_owned(), with(record, "unknown", json!([1])))];
    for (field, was) in record.as_object().expect("an object") {
        all.push((format!("without {field}"), without(record, field)));
        let mut values = vec![Value::Null, json!(true), json!({"a": 1}), json!(-1), json!("text")];
        match was {
            Value::Number(_) => values.extend([json!(0), json!(2), json!(1.5), json!(MAX_TS), json!(MAX_TS + 1), json!(u64::MAX)]),
            Value::Array(_) => {
                values.extend([json!([]), json!([null]), json!(["x".repeat(MAX_ID)]), json!(["x".repeat(MAX_ID + 1)])]);
                values.extend([json!(vec!["x"; MAX_LIST]), json!(vec!["x"; MAX_LIST + 1])]);
            }
            Value::Object(_) => values.push(json!({"source": 1})),
            _ => values.extend([json!(""), json!(" "), json!("x".repeat(MAX_ID)), json!("x".repeat(MAX_ID + 1))]),
        }
        all.extend(values.into_iter().map(|value| (format!("{field} changed"), with(record, field, value))));
    }
    all
}
