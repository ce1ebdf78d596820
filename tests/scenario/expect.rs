//! What must have come of a scenario.

use super::play::counter;
use super::world::{BROKEN, PORTAL, World};
use super::{Expect, Scenario};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickline::dead_letters::Filter;
use clickline::state::{LedgerKey, Removed, State};
use clickline_sandbox::{Request, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Stops the sink and compares.
pub fn check(scenario: &Scenario, world: &mut World, took: Duration) {
    let expect = &scenario.expect;
    let stats = world.stats().map(|stats| serde_json::to_value(stats).expect("JSON"));
    if let Some(sink) = world.sink.take() {
        sink.stop().expect("stops");
    }
    let snapshot = world.sandbox.snapshot(PORTAL);
    let requests = world.sandbox.requests();
    if let Some(stats) = &stats {
        for (name, range) in &expect.stats {
            assert!(range.holds(counter(stats, name)), "{name} is not {range:?}: {stats:#}");
        }
    }
    once(&snapshot);
    struck(scenario, &requests);
    hubspot(expect, &snapshot);
    for (id, most) in &expect.moved_within {
        let moved = snapshot.deal(id).and_then(|deal| deal.stages.last()).map_or(u64::MAX, |change| change.at_ms);
        let took = Duration::from_millis(moved.saturating_sub(world.earned_at[id]));
        assert!(took <= *most, "deal {id} was moved after {took:?}");
    }
    ledger(expect, world);
    log(expect, &requests);
    forgotten(world, &requests);
    if let Some(least) = expect.takes {
        assert!(took >= least, "it took {took:?}");
    }
}

/// Nothing is there twice.
fn once(snapshot: &Snapshot) {
    let ids: BTreeSet<&str> = snapshot.events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), snapshot.events.len(), "an event is there twice");
    for deal in &snapshot.deals {
        let twice = deal.stages.windows(2).find(|pair| pair[0].stage == pair[1].stage);
        assert!(twice.is_none(), "deal {} was moved twice: {:?}", deal.id, deal.stages);
    }
}

/// Every fault of the script has struck: a fault that strikes nothing shows nothing.
fn struck(scenario: &Scenario, requests: &[Request]) {
    let hit: BTreeSet<&str> = requests.iter().filter_map(|request| request.fault.as_deref()).collect();
    for (at, rule) in scenario.faults.iter().enumerate() {
        let name = rule.get("name").and_then(serde_json::Value::as_str).map_or_else(|| format!("rule {}", at + 1), str::to_owned);
        assert!(hit.contains(name.as_str()), "the fault {name:?} has never struck: {hit:?}");
    }
}

fn hubspot(expect: &Expect, snapshot: &Snapshot) {
    if let Some(events) = expect.events {
        assert_eq!(snapshot.events.len(), events, "events in HubSpot");
    }
    for (contact, count) in &expect.events_of {
        assert_eq!(snapshot.events.iter().filter(|event| event.object_id == *contact).count(), *count, "events of contact {contact}");
    }
    for (id, properties) in &expect.contacts {
        let contact = snapshot.contact(id).unwrap_or_else(|| panic!("no contact {id}"));
        for (name, value) in properties {
            assert_eq!(contact.properties.get(name), Some(value), "{name} of contact {id}");
        }
    }
    for (id, properties) in &expect.writes_at_most {
        let contact = snapshot.contact(id).unwrap_or_else(|| panic!("no contact {id}"));
        for (name, most) in properties {
            let writes = contact.history.get(name).copied().unwrap_or(0);
            assert!(writes <= *most, "{name} of contact {id} was written {writes} times");
        }
    }
    for (id, stages) in &expect.deals {
        let deal = snapshot.deal(id).unwrap_or_else(|| panic!("no deal {id}"));
        let moved: Vec<&str> = deal.stages.iter().map(|change| change.stage.as_str()).collect();
        assert_eq!(moved, *stages, "stages of deal {id}");
    }
}

/// Nothing is lost: the ledger has an outcome for every record that was put, but for those that are expected to wait.
fn ledger(expect: &Expect, world: &World) {
    let state = State::open(&world.state()).expect("opens");
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut without, mut unnamed) = (0, 0);
    for (topic, id) in &world.put {
        let Some(id) = id else {
            unnamed += 1;
            continue;
        };
        match state.outcome(LedgerKey::of(world.kafka.topics.output(*topic), id)).expect("reads") {
            Some(outcome) if outcome != "failing" && outcome != "replay" => *outcomes.entry(outcome).or_default() += 1,
            _ => without += 1,
        }
    }
    assert_eq!(state.parked_count().expect("reads"), expect.parked as u64, "records that wait for their contact");
    assert_eq!(without, expect.parked + expect.left + expect.erased, "records without an outcome; those with one: {outcomes:?}");
    for (outcome, count) in &expect.outcomes {
        assert_eq!(outcomes.get(outcome).copied().unwrap_or(0), *count, "outcome {outcome:?} of {outcomes:?}");
    }
    let letters = world.dead_letters().list(&Filter { decided: true, ..Filter::default() }).expect("lists");
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    letters.iter().for_each(|letter| *reasons.entry(letter.letter.reason.clone()).or_default() += 1);
    assert_eq!(reasons, expect.dead_letters, "dead letters: {letters:#?}");
    let malformed: Vec<&str> =
        letters.iter().filter(|letter| letter.letter.reason == "malformed").map(|letter| letter.letter.payload_base64.as_str()).collect();
    assert_eq!(malformed, vec![STANDARD.encode(BROKEN); unnamed], "records that are none, with their bytes");
    for (reason, word) in &expect.details {
        let fits = |letter: &&clickline::dead_letters::Letter| letter.letter.reason == *reason && letter.letter.detail.contains(word);
        assert!(letters.iter().any(|letter| fits(&letter)), "no {reason} says {word:?}: {letters:#?}");
    }
}

/// Of a person who was forgotten nothing is left, and no request has named them since the scenario says so.
fn forgotten(world: &World, requests: &[Request]) {
    let state = State::open(&world.state()).expect("opens");
    let letters = world.dead_letters().list(&Filter { decided: true, ..Filter::default() }).expect("lists");
    for erasure in &world.forgotten {
        assert_eq!(state.erasable(erasure).expect("looks"), Removed::default(), "it is all gone, and remembered");
        for email in &erasure.emails {
            for file in std::fs::read_dir(world.state().parent().expect("a folder")).expect("lists") {
                let bytes = std::fs::read(file.expect("lists").path()).expect("reads");
                assert!(!bytes.windows(email.len()).any(|part| part == email.as_bytes()), "the state database has {email}");
            }
        }
        for text in erasure.emails.iter().chain(&erasure.contacts) {
            let shown = letters.iter().map(|letter| String::from_utf8(letter.payload().expect("bytes")).expect("text"));
            assert!(shown.into_iter().all(|shown| !shown.contains(text)), "a dead letter has {text}");
        }
    }
    for (from, texts) in &world.unnamed {
        for request in &requests[*from..] {
            let body = request.request_body.as_deref().unwrap_or_default();
            let all = [request.path.as_str(), request.query.as_deref().unwrap_or_default(), body].concat();
            let named = texts.iter().find(|text| all.contains(*text));
            assert_eq!(named, None, "named by {} {}: {body}", request.method, request.path);
        }
    }
}

fn log(expect: &Expect, requests: &[Request]) {
    for wanted in &expect.requests {
        let fits = |r: &&Request| r.path.ends_with(&wanted.path) && wanted.status.is_none_or(|status| status == r.status);
        let count = requests.iter().filter(fits).count() as u64;
        let seen: Vec<String> = requests.iter().map(|r| format!("{} {} {}", r.method, r.path, r.status)).collect();
        assert!(wanted.count.holds(count), "{count} requests fit {wanted:?}: {seen:#?}");
    }
    if let Some(most) = expect.in_ten_seconds {
        let times: Vec<u64> = requests.iter().filter(|r| r.portal.is_some() && !r.path.starts_with("/oauth")).map(|r| r.at_ms).collect();
        for (at, first) in times.iter().enumerate() {
            let count = times[at..].iter().take_while(|time| **time < first + 10_000).count();
            assert!(count <= most, "{count} requests within ten seconds");
        }
    }
}
