//! What must be so when everything has calmed down.

use crate::against_oracle::frontier;
use crate::company::{Company, PORTALS, errors, tail};
use crate::deal_moves::{Asked, By, Move, follow};
use crate::rows::rows;
use crate::support::kafka::Broker;
use clickline::kafka::Topics;
use clickline::model::Named;
use clickline::model::outputs::Topic;
use clickline::model::time::Ms;
use clickline::state::{LedgerKey, State};
use clickline_sandbox::Snapshot;
use rdkafka::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long all the parts may take to come to rest.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Lets everything come to rest, stops it, and compares.
pub fn judge(mut company: Company) {
    let visitors = company.visitors.take().expect("came").leave();
    company.end_outage();
    company.shift_clocks(0);

    // Every part runs, and nothing is in its way: first the clicks, then the mirror, then the job, then the sink.
    let answered: BTreeSet<String> = visitors.iter().cloned().collect();
    assert_eq!(answered.len(), visitors.len(), "every redirect names a click of its own");
    let began = Instant::now();
    let clicks = loop {
        company.watch();
        let clicks = ids(&company.course.broker, "clicks", "id");
        if answered.iter().all(|id| clicks.contains_key(id)) {
            break clicks;
        }
        let missing = answered.iter().filter(|id| !clicks.contains_key(*id)).count();
        let said = company.redirect.as_ref().expect("runs").said();
        assert!(began.elapsed() < LIMIT, "{missing} answered clicks of {} are not in the topic:\n{}", answered.len(), tail(&said));
        thread::sleep(Duration::from_millis(500));
    };
    let twice: Vec<&String> = clicks.iter().filter(|(id, count)| **count > 1 && answered.contains(*id)).map(|(id, _)| id).collect();
    assert!(twice.is_empty(), "answered clicks that are in the topic twice: {twice:?}");
    quiet(&mut company);
    let status = company.redirect.take().expect("runs").stop();
    assert!(status.success(), "the redirect server ends with {status}");
    let end = company.course.last_tick();
    let began = Instant::now();
    while frontier(&company.course.broker) <= end || !settled(&company) {
        company.watch();
        let said = company.job.as_ref().expect("runs").said();
        // What it stands still for first: a log may be long.
        assert!(
            began.elapsed() < LIMIT,
            "the job does not come to rest:\n{}\n{}\n{}",
            errors(&said),
            tail(&said),
            unsettled(&company).join("\n")
        );
        thread::sleep(Duration::from_millis(500));
    }
    rows(&mut company);
    let status = company.job.take().expect("runs").stop();
    assert!(status.success(), "the job ends with {status}");

    let deltas = Deltas::read(&company);
    for portal in PORTALS {
        let snapshot = company.sandbox.snapshot(portal);
        events(&company, &deltas, portal, &snapshot);
        moves(&company, &deltas, portal, &snapshot);
        properties(&company, &deltas, portal, &snapshot);
    }
    let happened = company.happened.clone();
    for name in ["job.log", "redirect.log"] {
        let log = std::fs::read_to_string(company.course.folder.path().join(name)).expect("a log");
        assert!(!log.contains("@example.com"), "{name}: no address in a log");
    }
    let events = deltas.of(Topic::Timeline).count();
    let stages = deltas.of(Topic::DealStages).count();
    let folder = company.course.folder.path().to_owned();
    let verdict = company.course.judge(end);
    println!(
        "{} answered clicks, {} records, {} outputs ({events} events, {stages} deals to move), {} changes of rules, in {} s",
        answered.len(),
        verdict.records,
        verdict.outputs,
        verdict.changes,
        verdict.took.as_secs()
    );
    println!("{happened:?}");
    assert!(events > 20 && !answered.is_empty(), "the run says something");
    std::fs::remove_dir_all(folder).expect("a folder of ours");
}

/// Waits until the mirror writes nothing more: webhooks that found nobody have come again.
fn quiet(company: &mut Company) {
    let mut before = (0, 0);
    let mut since = Instant::now();
    let began = Instant::now();
    while since.elapsed() < Duration::from_secs(4) || !company.job_answers() {
        company.watch();
        let count = |topic: &str| {
            let mut count = 0;
            company.course.broker.read(topic, "read_uncommitted", |_| count += 1);
            count
        };
        let after = (count("crm.contacts"), count("crm.deals"));
        if after != before {
            (before, since) = (after, Instant::now());
        }
        assert!(began.elapsed() < LIMIT, "the mirror does not come to rest");
        thread::sleep(Duration::from_millis(500));
    }
}

/// How often each id is in a topic.
fn ids(broker: &Broker, topic: &str, field: &str) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    broker.read(topic, "read_committed", |message| {
        let record: Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        *ids.entry(record[field].as_str().expect("a text").to_owned()).or_insert(0) += 1;
    });
    ids
}

/// All deltas for HubSpot, with what became of each.
struct Deltas(Vec<(Topic, Value, Option<String>)>);

const DELTAS: [Topic; 3] = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages];

impl Deltas {
    fn read(company: &Company) -> Deltas {
        let state = State::look(&state_path(company.course.folder.path())).expect("opens");
        let (topics, erased) = (Topics::default(), state.erased().expect("reads"));
        let mut all = Vec::new();
        for topic in DELTAS {
            company.course.broker.read(topics.output(topic), "read_committed", |message| {
                let record: Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
                let id = record["id"].as_str().expect("an id");
                let outcome = state.outcome(LedgerKey::of(topics.output(topic), id)).expect("reads");
                // Of those the ledger keeps nothing.
                let theirs = || erased.named(&Named::in_record(message.payload().unwrap_or_default()), &BTreeMap::new());
                let outcome = outcome.or_else(|| theirs().then(|| "erased".to_owned()));
                all.push((topic, record, outcome));
            });
        }
        Deltas(all)
    }

    fn of(&self, topic: Topic) -> impl Iterator<Item = (&Value, Option<&str>)> {
        self.0.iter().filter(move |(of, ..)| *of == topic).map(|(_, record, outcome)| (record, outcome.as_deref()))
    }
}

fn state_path(folder: &Path) -> std::path::PathBuf {
    folder.join("state.sqlite")
}

/// Deltas without an outcome, as lines.
fn unsettled(company: &Company) -> Vec<String> {
    let open = |(topic, record, outcome): &(Topic, Value, Option<String>)| {
        let open = outcome.as_deref().is_none_or(|outcome| matches!(outcome, "failing" | "replay"));
        open.then(|| format!("{topic:?} {} {outcome:?} {record}", record["id"]))
    };
    Deltas::read(company).0.iter().filter_map(open).collect()
}

fn settled(company: &Company) -> bool {
    unsettled(company).is_empty()
}

/// Each event is there once, and none that no delta asks for.
fn events(company: &Company, deltas: &Deltas, portal: &str, snapshot: &Snapshot) {
    let mut there: BTreeMap<&str, usize> = BTreeMap::new();
    snapshot.events.iter().for_each(|event| *there.entry(event.id.as_str()).or_default() += 1);
    assert!(there.values().all(|count| *count == 1), "an event is there twice");
    let mut asked = BTreeSet::new();
    for (event, outcome) in deltas.of(Topic::Timeline).filter(|(event, _)| event["portal"] == portal) {
        let id = event["id"].as_str().expect("an id");
        assert!(asked.insert(id), "event {id} was asked for twice");
        let outcome = outcome.expect("settled");
        // Who was erased takes the timeline along.
        let gone = outcome == "erased" || company.gone.iter().any(|(of, contact)| of == portal && event["contact_id"] == contact.as_str());
        assert!(outcome == "delivered" || gone, "event {id}: {outcome}");
        assert!(there.contains_key(id) || gone, "event {id} counts as delivered and is not there");
    }
    assert!(there.keys().all(|id| asked.contains(id)), "an event that nobody asked for");
}

/// Each stage that the app gave a deal follows from a delta of its own, and from the stage that the delta names.
fn moves(company: &Company, deltas: &Deltas, portal: &str, snapshot: &Snapshot) {
    for deal in &snapshot.deals {
        // By id: a rule that is taken away, put back and told to backfill says once more what it said of a hot period, and the sink, which has
        // settled that, leaves it.
        let of_deal = deltas.of(Topic::DealStages).filter(|(delta, _)| delta["portal"] == portal && delta["deal_id"] == deal.id.as_str());
        let asked = of_deal.map(|(delta, outcome)| {
            let (id, shadow) = (text(delta, "id"), delta["shadow"] == true);
            (id, Asked { id, from: text(delta, "from_stage"), to: text(delta, "to_stage"), shadow, outcome })
        });
        let asked: Vec<Asked<'_>> = asked.collect::<BTreeMap<_, _>>().into_values().collect();
        let moves = deal.stages.windows(2).map(|pair| {
            let by = if pair[1].source_type == "INTEGRATION" { By::App } else { By::Person };
            Move { at: pair[1].at_ms, from: &pair[0].stage, to: &pair[1].stage, by }
        });
        let moves: Vec<Move<'_>> = moves.collect();
        if let Err(wrong) = follow(&moves, &asked, &company.unsure) {
            panic!("portal {portal}, deal {}: {wrong}", deal.id);
        }
    }
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().expect("a text")
}

/// The last value that was delivered for a contact's property is the one that is there.
fn properties(company: &Company, deltas: &Deltas, portal: &str, snapshot: &Snapshot) {
    let mut last: BTreeMap<(&str, &str), (Ms, &str)> = BTreeMap::new();
    for (delta, outcome) in deltas.of(Topic::ContactProperties).filter(|(delta, _)| delta["portal"] == portal) {
        // Of one whose contact the mirror did not know yet the address alone is named, and HubSpot knows whose that is.
        let by_address = || {
            let email = delta["email"].as_str()?;
            snapshot.contacts.iter().find(|contact| contact.properties.get("email").is_some_and(|of| of == email))
        };
        let Some(contact) = delta["contact_id"].as_str().or_else(|| Some(by_address()?.id.as_str())) else { continue };
        if outcome != Some("delivered") || company.gone.iter().any(|(of, gone)| of == portal && gone == contact) {
            continue;
        }
        for (name, value) in delta["properties"].as_object().expect("properties") {
            let at = delta["from"][name]["ts"].as_u64().expect("a time");
            let value = value.as_str().expect("a text");
            let known = last.entry((contact, name)).or_insert((at, value));
            if at >= known.0 {
                *known = (at, value);
            }
        }
    }
    for ((contact, name), (_, value)) in last {
        let there = snapshot.contact(contact).and_then(|contact| contact.properties.get(name));
        assert_eq!(there.map(String::as_str), Some(value), "portal {portal}: {name} of contact {contact}");
    }
}
