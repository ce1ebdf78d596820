//! Persons are found and forgotten between an embedded broker and a state database. Retention, and tombstones on a broker that compacts, are
//! tested on Apache Kafka (`tests/sources.rs`), rows in ClickHouse on ClickHouse (`tests/clickhouse.rs`).

use super::sweep::Swept;
use super::{Asked, How, Stores, find, sweep};
use crate::dead_letters::{DeadLetters, Filter};
use crate::kafka::Kafka;
use crate::model::outputs::{DeadLetter, Topic};
use crate::state::{DeadLetterRow, Erased, Erasure, LedgerKey, Settlement, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PORTAL: &str = "4242";

struct World {
    producer: BaseProducer,
    kafka: Kafka,
    _broker: MockCluster<'static, DefaultProducerContext>,
    folder: tempfile::TempDir,
    workspaces: BTreeMap<String, Vec<String>>,
}

impl World {
    fn new() -> World {
        let broker = MockCluster::new(1).expect("a broker");
        let kafka = Kafka::at(broker.bootstrap_servers());
        let topics = &kafka.topics;
        for topic in [&topics.contacts, &topics.counts, &topics.state, &topics.timeline, &topics.contact_properties, &topics.dead_letters] {
            broker.create_topic(topic, 2, 1).expect("a topic");
        }
        let producer = kafka.client(&[("linger.ms", "1")]).create().expect("a producer");
        let workspaces = BTreeMap::from([("acme".to_owned(), vec![PORTAL.to_owned()]), ("other".to_owned(), vec!["9".to_owned()])]);
        World { producer, kafka, _broker: broker, folder: tempfile::tempdir().expect("a folder"), workspaces }
    }

    fn state(&self) -> State {
        State::open(&self.folder.path().join("state.db")).expect("opens")
    }

    fn put(&self, topic: &str, key: &str, value: &Value) {
        let (value, record) = (value.to_string(), BaseRecord::<str, str>::to(topic).key(key));
        let record = if value == "null" { record } else { record.payload(&value) };
        self.producer.send(record).map_err(|(error, _)| error).expect("queued");
        self.producer.flush(Duration::from_secs(20)).expect("flushed");
    }

    fn sweep(&self, erased: &Erased, how: How) -> Swept {
        let state = self.state();
        let stores = Stores { kafka: &self.kafka, state: &state, clickhouse: None, workspaces: &self.workspaces, contacts: true };
        let swept = sweep(&stores, erased, how, 1_000).expect("sweeps");
        assert_eq!(swept.failed, Vec::<String>::new());
        swept
    }

    /// The ids of the dead letters' records that are listed.
    fn listed(&self) -> Vec<Option<String>> {
        let letters = DeadLetters::new(self.kafka.clone(), self.state()).with_workspaces(self.workspaces.clone());
        let filter = Filter { decided: true, ..Filter::default() };
        letters.list(&filter).expect("lists").into_iter().map(|letter| letter.record).collect()
    }
}

fn contact(id: &str, email: &str, merged: &[&str]) -> Value {
    json!({"v": 1, "portal": PORTAL, "contact_id": id, "email": email, "merged_ids": merged})
}

fn event(id: &str, person: (&str, &str)) -> Value {
    let (key, who) = person;
    let mut event = json!({"v": 1, "id": id, "portal": PORTAL, "workspace": "acme", "click_id": id, "ts": 1, "title": "t", "tokens": {},
        "extra_data": {}, "found": {"by": "eid"}, "at": 1});
    event[key] = json!(who);
    event
}

fn letter(source: &str, offset: i64, payload: &str) -> DeadLetter {
    let (reason, detail) = ("refused".to_owned(), "d".to_owned());
    DeadLetter {
        v: 1,
        reason,
        detail,
        source: source.to_owned(),
        partition: 0,
        offset,
        key_base64: None,
        payload_base64: STANDARD.encode(payload),
        at: 7,
    }
}

#[test]
fn a_merged_person_goes_from_every_store_and_nobody_else_does() {
    let world = World::new();
    let (topics, state) = (world.kafka.topics.clone(), world.state());
    for (id, of) in [
        ("77", contact("77", "old@example.com", &[])),
        ("801", contact("801", "canary@example.com", &["77"])),
        ("77", Value::Null),
        ("802", contact("802", "grace@example.com", &[])),
    ] {
        world.put(&topics.contacts, &format!("{PORTAL}/{id}"), &of);
    }
    let deltas = [event("e1", ("contact_id", "801")), event("e2", ("email", "old@example.com")), event("e3", ("contact_id", "802"))];
    for of in &deltas {
        world.put(&topics.timeline, PORTAL, of);
    }
    world.put(&topics.counts, "4242/801/x", &json!({"v": 1, "portal": PORTAL, "contact_id": "801", "count": 3}));
    world.put(&topics.counts, "4242/old@example.com/x", &json!({"v": 1, "portal": PORTAL, "email": "old@example.com", "count": 3}));
    world.put(&topics.counts, "4242/802/x", &json!({"v": 1, "portal": PORTAL, "contact_id": "802", "count": 3}));
    for who in ["c:801", "c:802", "e:old@example.com", "d:801"] {
        world.put(&topics.state, who, &json!({"v": 1, "portal": PORTAL, "workspace": "acme", "who": who, "kind": "period"}));
    }
    // Refused: two of theirs, a form that can't be read, and two that are others'.
    let dead = [
        (topics.timeline.as_str(), deltas[0].to_string()),
        (topics.timeline.as_str(), deltas[2].to_string()),
        ("forms", r#"{"workspace":"acme","email":"Canary@example.com""#.to_owned()),
        ("clicks", r#"{"workspace":"acme","contact_id":"77","ts":"x"}"#.to_owned()),
        ("clicks", r#"{"workspace":"other","contact_id":"77","ts":"x"}"#.to_owned()),
    ];
    let mut settlement = Settlement::default();
    for (offset, (source, payload)) in (0..).zip(&dead) {
        let letter = letter(source, offset, payload);
        world.put(&topics.dead_letters, source, &serde_json::to_value(&letter).expect("JSON"));
        settlement.dead.push(DeadLetterRow {
            id: 0,
            at: 7,
            reason: letter.reason,
            detail: letter.detail,
            topic: (*source).to_owned(),
            partition: 0,
            offset,
            key: None,
            payload: payload.clone().into_bytes(),
        });
    }
    let outcome = |id: &str| state.outcome(LedgerKey::of(&topics.timeline, id)).expect("reads");
    settlement.done = ["e1", "e2", "e3"].map(|id| (LedgerKey::of(&topics.timeline, id), "delivered".to_owned())).to_vec();
    state.settle(&settlement, 7).expect("settles");
    let unpublished: Vec<i64> = state.dead_letters_unpublished(0, 9).expect("reads").iter().map(|row| row.id).collect();
    state.dead_letters_published(&unpublished).expect("writes");

    let asked = Asked::Contacts(BTreeSet::from(["77".to_owned()]));
    let [(erasure, true)] = &find(&world.kafka, &[PORTAL.to_owned()], &asked).expect("finds")[..] else { panic!("they are known") };
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!((&erasure.contacts, &erasure.emails), (&texts(&["77", "801"]), &texts(&["canary@example.com", "old@example.com"])));
    let only = Erased::only(erasure);
    assert_eq!(world.listed().len(), 5);
    let looked = world.sweep(&only, How::Look);
    assert_eq!((looked.ledger, looked.dead_letters), (2, 3));
    let wanted = BTreeMap::from([(topics.contacts.clone(), 1), (topics.counts.clone(), 2), (topics.state.clone(), 2)]);
    assert_eq!(looked.tombstones, wanted);
    assert_eq!((outcome("e1").is_some(), state.dead_letters_open().expect("reads").0), (true, 5), "a look changes nothing");

    state.erase(erasure, 9).expect("erases");
    let removed = world.sweep(&only, How::Remove);
    let without = |swept: &Swept| Swept { left: vec![], ..swept.clone() };
    assert_eq!(without(&removed), without(&looked), "what was seen is what goes");
    assert!(removed.left.iter().all(|left| left.topic != topics.contacts || left.since == 1_000), "it is ended now: {removed:?}");
    assert_eq!((outcome("e1"), outcome("e2"), outcome("e3").as_deref()), (None, None, Some("delivered")));
    assert_eq!(state.dead_letters_open().expect("reads").0, 2);
    let listed: BTreeSet<Option<String>> = world.listed().into_iter().collect();
    assert_eq!(listed, BTreeSet::from([Some("e3".to_owned()), None]), "theirs are not shown, and those of others are");
    let again = world.sweep(&only, How::Remove);
    assert_eq!((again.count(), again.left == looked.left), (0, true), "nothing is left but what stays: {again:?}");
    let left: BTreeMap<&str, Option<usize>> = again.left.iter().map(|left| (left.topic.as_str(), left.records)).collect();
    assert_eq!((left["hubspot.timeline"], left["dead-letters"], left["crm.contacts"], left["clicks"]), (Some(2), Some(3), Some(2), None));
}

#[test]
fn a_dead_letter_of_the_erased_is_not_replayed() {
    let world = World::new();
    let of = event("e1", ("email", "canary@example.com")).to_string();
    let letter = letter(&world.kafka.topics.timeline, 3, &of);
    world.put(&world.kafka.topics.dead_letters, "k", &serde_json::to_value(&letter).expect("JSON"));
    let letters = DeadLetters::new(world.kafka.clone(), world.state());
    let listed = letters.list(&Filter::default()).expect("lists");
    let erasure = Erasure { portal: PORTAL.to_owned(), emails: ["canary@example.com".to_owned()].into(), ..Erasure::default() };
    world.state().erase(&erasure, 9).expect("erases");
    // It was shown before.
    let error = letters.replay(&listed[0], &mut None, 10).expect_err("is refused").to_string();
    assert!(error.contains("erased") && !error.contains("canary"), "{error}");
    assert_eq!(letters.list(&Filter::default()).expect("lists").len(), 0);
}

#[test]
fn of_topics_that_are_not_there_nothing_is_wanted() {
    let world = World::new();
    let kafka = Kafka { topics: crate::kafka::Topics { contacts: "none".into(), ..world.kafka.topics.clone() }, ..world.kafka.clone() };
    let asked = Asked::Email("Canary@example.com".to_owned());
    let found = find(&kafka, &[PORTAL.to_owned()], &asked).expect("finds");
    let erasure = Erasure { portal: PORTAL.to_owned(), emails: ["canary@example.com".to_owned()].into(), ..Erasure::default() };
    assert_eq!(found, [(erasure, false)]);
    // Output topics that this world has not: unresolved clicks are no matter, deal stages are passed over.
    assert_eq!(kafka.topics.output(Topic::DealStages), "hubspot.deal-stages");
    assert_eq!(world.sweep(&Erased::only(&found[0].0), How::Remove).count(), 0);
}
