//! A rush on one link while HubSpot is a black hole: nobody but the HubSpot sink notices, and when HubSpot is back it gets all of it, once.
//!
//! # Meaning
//! The redirect server, a real Apache Kafka, `clickline run` with the dataflow and both sinks, and a real ClickHouse run as they are delivered; between the
//! sink and the sandbox is a proxy that swallows every request for as long as it is told to. Visitors on many connections click as fast as they
//! are answered, nearly all of them on one link.
//!
//! - While HubSpot is away every click is answered, is on its topic once, is a row in ClickHouse, and is counted; every event is planned and every deal
//!   that has earned its stage is found. That is counted, not timed: where one of them waited for HubSpot, it would wait for ever.
//! - When HubSpot is back every click is an event once; the newest value of each contact stands, after few writes whatever the clicks
//!   were; every deal that has earned it is moved once, and before the last of the events; HubSpot's limit is kept and nothing is refused.

mod support;

use clickline::kafka::Topics;
use clickline::model::outputs::Topic;
use clickline::model::time::now;
use clickline::state::{LedgerKey, State};
use clickline_redirect::{Config as RedirectConfig, KafkaConfig, Server};
use clickline_sandbox::{Config, Sandbox, Snapshot};
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use support::clickhouse::ClickHouse;
use support::http_faults::{Fault, HttpFaults};
use support::job::Job;
use support::kafka::Broker;
use support::ports::free_addresses;
use support::process::{PATIENCE, wait_for};

const PORTAL: &str = "4242";
const DOMAIN: &str = "s.example";
/// The link of the rush.
const HOT: &str = "s.example/hot";
/// Those who click on it, each with a deal of their own: contact 801 has deal 9801.
const EAGER: std::ops::Range<usize> = 801..813;
/// Those who click on it too seldom to be counted as eager, or on other links only.
const OTHERS: std::ops::Range<usize> = 813..821;
/// Clicks on the link within 30 days that move a deal.
const THRESHOLD: usize = 100;
/// Connections, and requests on each.
const VISITORS: usize = 16;
const CLICKS: usize = 200;
/// HubSpot's limit in any ten seconds.
const QUOTA: usize = 110;
/// The property of a contact that changes with every click here.
const SOURCE: &str = "elido_last_utm_source";

/// What the `n`th visitor asks for: slug and contact. One click in sixteen is not of the rush.
fn wanted(n: usize) -> (String, usize) {
    match n % 16 {
        15 => (format!("cold{}", n / 16 % 10), OTHERS.start + n / 16 % OTHERS.len()),
        14 if n % 160 == 14 => ("hot".to_owned(), OTHERS.start),
        _ => ("hot".to_owned(), EAGER.start + n % EAGER.len()),
    }
}

/// Clicks so often on one connection; the ids of the clicks, which are all answered with a redirect.
fn click(address: SocketAddr, numbers: impl Iterator<Item = usize>) -> Vec<String> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    let mut buffer = [0; 4_096];
    let asked = numbers.map(|n| {
        let (slug, contact) = wanted(n);
        let request = format!(
            "GET /{slug}?eid={contact}&utm_source=v{n} HTTP/1.1\r\nHost: {DOMAIN}\r\nAccept: */*\r\n\
             User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut buffer).expect("an answer");
            assert!(count > 0, "the redirect server closes the connection");
            answer.extend_from_slice(&buffer[..count]);
        }
        let head = String::from_utf8(answer).expect("an answer is text");
        assert!(head.starts_with("HTTP/1.1 302 "), "{head}");
        let id = head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("x-click-id")));
        id.expect("a redirect names its click").1.to_owned()
    });
    asked.collect()
}

/// HubSpot as it is before the rush, and the mirror of it in Kafka.
fn furnish(broker: &Broker) -> Sandbox {
    let config = Config { portals: vec![PORTAL.to_owned()], burst_limit: QUOTA, ..Config::default() };
    let sandbox = Sandbox::start(config).expect("a sandbox");
    let producer: ThreadedProducer<DefaultProducerContext> = broker.client(&[]).create().expect("a producer");
    let put = |topic: &str, id: &str, record: &Value| {
        let (key, value) = (format!("{PORTAL}/{id}"), record.to_string());
        producer.send(BaseRecord::to(topic).key(&key).payload(&value)).map_err(|(error, _)| error).expect("queued");
    };
    for contact in EAGER.start..OTHERS.end {
        let (id, deal, email) = (contact.to_string(), format!("9{contact}"), format!("c{contact}@example.com"));
        sandbox.create_contact(PORTAL, Some(&id), &[("email", &email)]);
        let properties = [("dealname", "d"), ("pipeline", "default"), ("dealstage", "appointmentscheduled"), ("amount", "5000")];
        sandbox.create_deal(PORTAL, Some(&deal), &properties, &[&id]);
        put("crm.contacts", &id, &json!({"v": 1, "portal": PORTAL, "contact_id": id, "email": email}));
        let mirrored = json!({"v": 1, "portal": PORTAL, "deal_id": deal, "pipeline": "default", "stage": "appointmentscheduled",
            "amount": 5000.0, "contact_ids": [id]});
        put("crm.deals", &deal, &mirrored);
    }
    producer.flush(PATIENCE).expect("delivered");
    sandbox
}

/// A redirect server, which is told of Kafka and of nothing else.
fn redirect(broker: &Broker, folder: &Path) -> Server {
    let links = folder.join("links.jsonl");
    let slugs = std::iter::once("hot".to_owned()).chain((0..10).map(|n| format!("cold{n}")));
    let line = |slug: String| {
        let link = json!({"domain": DOMAIN, "slug": slug, "workspace": "w", "title": "T", "tags": ["x"], "destination": format!("https://example.com/{slug}")});
        link.to_string()
    };
    fs::write(&links, slugs.map(line).collect::<Vec<_>>().join("\n")).expect("writes");
    let kafka = Some(KafkaConfig::at(broker.address().to_owned()));
    let server = Server::start(RedirectConfig { workers: 2, links_file: Some(links), kafka, ..RedirectConfig::default() });
    let server = server.expect("the redirect server starts");
    assert!(server.ready(PATIENCE), "it has read its links");
    server
}

/// The job with both sinks; HubSpot is at `hubspot`.
fn job(broker: &Broker, sandbox: &Sandbox, hubspot: &str, clickhouse: &ClickHouse, folder: &Path) -> Job {
    let config = folder.join("clickline.yaml");
    let text = format!(
        "kafka: {{brokers: '{}'}}
state: '{}'
workspaces:
  w:
    portals: ['{PORTAL}']
    counts: all
    rules:
      - name: hot
        trigger: {{link: '{HOT}', contact_window: 30d, click_threshold: {THRESHOLD}}}
        action: {{type: advance_deal_stage, pipeline: default, from_stage: appointmentscheduled, to_stage: qualifiedtobuy}}
hubspot:
  base_url: 'http://{hubspot}'
  client_id: clickline
  client_secret_env: HUBSPOT_SECRET
  developer_key_env: DEVELOPER_KEY
  retry_cap: 500ms
  request_timeout: 2s
  connections: {{seal: 'off'}}
  portals: {{'{PORTAL}': {{refresh_token_env: REFRESH, app_id: {}}}}}
clickhouse: {{url: 'http://{}', database: c, batch_rows: 500, batch_wait: 100ms, deadline: 5s}}
",
        broker.address(),
        state(folder).display(),
        sandbox.app_id(0),
        clickhouse.address(),
    );
    fs::write(&config, text).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["run", "--workers", "2", "--config"]).arg(config);
    command.env("HUBSPOT_SECRET", "sandbox-secret").env("DEVELOPER_KEY", "sandbox-developer-key");
    command.env("REFRESH", sandbox.refresh_token(PORTAL));
    Job::of(command, folder, "job")
}

fn state(folder: &Path) -> std::path::PathBuf {
    folder.join("state.sqlite")
}

/// Committed records of a topic.
fn records(broker: &Broker, topic: &str) -> Vec<Value> {
    let mut records = Vec::new();
    broker.read(topic, "read_committed", |message| {
        records.extend(message.payload().map(|payload| serde_json::from_slice::<Value>(payload).expect("JSON")));
    });
    records
}

fn text(record: &Value, field: &str) -> String {
    record[field].as_str().unwrap_or_else(|| panic!("no {field} in {record}")).to_owned()
}

/// Deltas of a topic by a field of theirs; each has a value of its own.
fn named(broker: &Broker, topic: Topic, field: &str) -> BTreeSet<String> {
    let all: Vec<String> = records(broker, Topics::default().output(topic)).iter().map(|record| text(record, field)).collect();
    let names: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(names.len(), all.len(), "{topic:?}: one is there twice");
    names
}

/// What must come of the clicks, from nothing but their topic.
struct Expected {
    ids: BTreeSet<String>,
    /// Contact and link → clicks.
    counts: BTreeMap<(String, String), u64>,
    /// Contact → source of the newest click.
    sources: BTreeMap<String, String>,
    /// Deals of those who have clicked often enough on the link.
    deals: BTreeSet<String>,
}

impl Expected {
    fn of(clicks: &[Value]) -> Expected {
        let mut newest: BTreeMap<String, (u64, String, String)> = BTreeMap::new();
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for click in clicks {
            let (id, contact) = (text(click, "id"), text(click, "contact_id"));
            *counts.entry((contact.clone(), text(click, "link"))).or_default() += 1;
            let this = (click["ts"].as_u64().expect("a time"), id, text(&click["utm"], "source"));
            let known = newest.entry(contact).or_insert_with(|| this.clone());
            if this > *known {
                *known = this;
            }
        }
        let hot = |((contact, link), count): (&(String, String), &u64)| {
            (link == HOT && *count >= THRESHOLD as u64).then(|| format!("9{contact}"))
        };
        Expected {
            ids: clicks.iter().map(|click| text(click, "id")).collect(),
            deals: counts.iter().filter_map(hot).collect(),
            counts,
            sources: newest.into_iter().map(|(contact, (.., source))| (contact, source)).collect(),
        }
    }
}

/// The newest count of each contact and link.
fn counts(broker: &Broker) -> BTreeMap<(String, String), u64> {
    let mut newest: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for record in records(broker, Topics::default().output(Topic::Counts)).iter().filter(|record| record["link"].is_string()) {
        let this = (record["at"].as_u64().expect("a time"), record["count"].as_u64().expect("a number"));
        let known = newest.entry((text(record, "contact_id"), text(record, "link"))).or_insert(this);
        *known = this.max(*known);
    }
    newest.into_iter().map(|(key, (_, count))| (key, count)).collect()
}

/// Deals that have been in more than one stage.
fn moved(snapshot: &Snapshot) -> BTreeSet<String> {
    snapshot.deals.iter().filter(|deal| deal.stages.len() > 1).map(|deal| deal.id.clone()).collect()
}

fn sources(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let source = |contact: &clickline_sandbox::Contact| Some((contact.id.clone(), contact.properties.get(SOURCE)?.clone()));
    snapshot.contacts.iter().filter_map(source).collect()
}

#[test]
fn a_rush_on_one_link_while_hubspot_is_away_is_in_nobody_elses_way() {
    let Some(broker) = Broker::start_if_there() else { return };
    let Some(clickhouse) = ClickHouse::start_if_there() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for topic in ["clicks", "forms", "crm.contacts", "crm.deals"] {
        broker.create_topic(topic, 2, &[("message.timestamp.type", "LogAppendTime")]);
    }
    let sandbox = furnish(&broker);
    let redirect = redirect(&broker, folder.path());
    let [hubspot] = free_addresses();
    let way = HttpFaults::start(&hubspot, sandbox.url().trim_start_matches("http://"));
    let mut job = job(&broker, &sandbox, &hubspot, &clickhouse, folder.path());

    // The account is connected and all that it must have is made: what follows is the middle of a day.
    let first = click(redirect.address(), std::iter::once(15));
    wait_for("the first click to be in HubSpot", || {
        let snapshot = sandbox.snapshot(PORTAL);
        (snapshot.events.len() == 1 && sources(&snapshot).len() == 1).then_some(())
    });
    way.set("HTTP/1.1", Fault::Silence);
    let before = sandbox.snapshot(PORTAL);

    let address = redirect.address();
    let visitors: Vec<_> =
        (1..=VISITORS).map(|visitor| thread::spawn(move || click(address, (0..CLICKS).map(|n| n * VISITORS + visitor)))).collect();
    let answered: Vec<String> =
        visitors.into_iter().flat_map(|visitor| visitor.join().expect("every click is answered")).chain(first).collect();
    let all = VISITORS * CLICKS + 1;
    assert_eq!(answered.len(), all);

    // Nothing of what follows needs HubSpot.
    let clicks = wait_for("all clicks on their topic", || {
        let clicks = records(&broker, "clicks");
        (clicks.len() >= all).then_some(clicks)
    });
    let expected = Expected::of(&clicks);
    let once: BTreeSet<String> = answered.iter().cloned().collect();
    assert_eq!(clicks.len(), all, "each once");
    assert!(expected.ids == once, "what was answered is there");
    let hot = clicks.iter().filter(|click| click["link"] == HOT).count();
    assert!(hot * 10 > all * 9, "{hot} of {all} clicks are of the rush");
    assert_eq!(expected.deals.len(), EAGER.len(), "the others have not clicked often enough");
    wait_for("each click to be one row in ClickHouse", || {
        (clickhouse.try_ask("SELECT count(), uniqExact(id) FROM c.clicks")? == format!("{all}\t{all}")).then_some(())
    });
    wait_for("the counts", || (counts(&broker) == expected.counts).then_some(()));
    wait_for("an event for each click", || (named(&broker, Topic::Timeline, "click_id") == expected.ids).then_some(()));
    wait_for("the deals to move", || (named(&broker, Topic::DealStages, "deal_id") == expected.deals).then_some(()));
    wait_for("the sink to try", || (way.hits() > 0).then_some(()));
    let during = sandbox.snapshot(PORTAL);
    assert_eq!(
        (during.events.len(), moved(&during), sources(&during)),
        (1, BTreeSet::new(), sources(&before)),
        "HubSpot has heard nothing of it"
    );

    let back_at = now();
    way.lift();
    wait_for("HubSpot to have all of it", || {
        let snapshot = sandbox.snapshot(PORTAL);
        let done = snapshot.events.len() >= all && moved(&snapshot) == expected.deals && sources(&snapshot) == expected.sources;
        done.then_some(())
    });
    let deltas: Vec<(Topic, String)> = [Topic::Timeline, Topic::ContactProperties, Topic::DealStages]
        .into_iter()
        .flat_map(|topic| named(&broker, topic, "id").into_iter().map(move |id| (topic, id)))
        .collect();
    let ledger = State::look(&state(folder.path())).expect("opens");
    let outcome = |(topic, id): &(Topic, String)| ledger.outcome(LedgerKey::of(Topics::default().output(*topic), id)).expect("reads");
    wait_for("all deltas to be settled", || {
        deltas.iter().all(|delta| outcome(delta).is_some_and(|outcome| outcome != "failing")).then_some(())
    });
    assert!(job.stop().0.success(), "{}", job.said());
    let outcomes: BTreeSet<String> = deltas.iter().filter_map(outcome).collect();
    assert!(outcomes.iter().all(|outcome| ["delivered", "superseded"].contains(&outcome.as_str())), "{outcomes:?}");
    assert_eq!(records(&broker, Topics::default().output(Topic::DeadLetters)), Vec::<Value>::new());

    let snapshot = sandbox.snapshot(PORTAL);
    let events: BTreeSet<String> = snapshot.events.iter().map(|event| event.id.clone()).collect();
    assert_eq!((snapshot.events.len(), events), (all, named(&broker, Topic::Timeline, "id")), "every event once");
    assert_eq!((moved(&snapshot), sources(&snapshot)), (expected.deals, expected.sources));
    let stages = snapshot.deals.iter().flat_map(|deal| &deal.stages).filter(|stage| stage.stage == "qualifiedtobuy");
    assert_eq!(stages.clone().count(), EAGER.len(), "each is moved once");
    let last_move = stages.map(|stage| stage.at_ms).max().expect("some");
    let last_event = snapshot.events.iter().map(|event| event.created_at_ms).max().expect("some");
    assert!(last_move < last_event, "deals go before the backlog of events");
    let changes = deltas.iter().filter(|(topic, _)| *topic == Topic::ContactProperties).count();
    let writes: usize = snapshot.contacts.iter().map(|contact| contact.history.get(SOURCE).copied().unwrap_or(0)).sum();
    println!("{all} clicks, {changes} changes of properties, {writes} writes, {} requests", sandbox.requests().len());
    assert!(writes * 2 <= changes, "{changes} changes of properties are {writes} writes");

    let requests: Vec<_> =
        sandbox.requests().into_iter().filter(|request| request.portal.is_some() && !request.path.starts_with("/oauth")).collect();
    let refused: Vec<_> = requests.iter().filter(|request| request.at_ms >= back_at && request.status >= 300).collect();
    assert!(refused.is_empty(), "{:?}", refused.iter().map(|request| (&request.path, request.status)).collect::<Vec<_>>());
    for (at, first) in requests.iter().enumerate() {
        let within = requests[at..].iter().take_while(|request| request.at_ms < first.at_ms + 10_000).count();
        assert!(within <= QUOTA, "{within} requests within ten seconds");
    }
    assert_eq!(redirect.stop().lost, 0);
}
