//! The parts that a scenario is played with.

use super::{Act, Clicks, Deal, Earned, EarnedOther, Scenario, SinkAct};
use clickline::dead_letters::{DeadLetters, Filter, Replayer};
use clickline::forget::{How, Stores, sweep};
use clickline::kafka::Kafka;
use clickline::model::outputs::{ContactProperties, DealStage, Found, Guard, LastClick, Person, TimelineEvent, Topic, ValueFrom};
use clickline::model::time::now;
use clickline::sinks::hubspot::{Events, Secret, Settings, Sink, Stats};
use clickline::state::{Erased, Erasure, LedgerKey, State};
use clickline_sandbox::Sandbox;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub const PORTAL: &str = "4242";

/// A record that is none.
pub const BROKEN: &[u8] = b"{\"v\":1,";

/// A record that was put: its topic, and its id where it has one.
pub type Put = (Topic, Option<String>);

/// Broker, sandbox, state database, and the sink where it runs.
pub struct World {
    // Dropped in this order: clients before their broker.
    pub sink: Option<Sink>,
    producer: BaseProducer,
    pub kafka: Kafka,
    _broker: MockCluster<'static, DefaultProducerContext>,
    pub sandbox: Sandbox,
    folder: tempfile::TempDir,
    settings: Settings,
    pub put: Vec<Put>,
    /// When the stage delta of a deal was put, ms since the Unix epoch.
    pub earned_at: BTreeMap<String, u64>,
    /// Records that a replay put again.
    pub replayed: u64,
    /// Who was forgotten.
    pub forgotten: Vec<Erasure>,
    /// From which request on none names any of these.
    pub unnamed: Vec<(usize, Vec<String>)>,
}

impl World {
    pub fn new(scenario: &Scenario) -> World {
        let broker = MockCluster::new(1).expect("a broker");
        let kafka = Kafka::at(broker.bootstrap_servers());
        for topic in [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::DeadLetters] {
            broker.create_topic(kafka.topics.output(topic), 2, 1).expect("a topic");
        }
        let sandbox = Sandbox::start(scenario.sandbox.config()).expect("a sandbox");
        sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
        for (id, properties) in &scenario.given.contacts {
            sandbox.create_contact(PORTAL, Some(id), &pairs(properties));
        }
        for n in 0..scenario.given.many {
            sandbox.create_contact(PORTAL, Some(&(1_000 + n).to_string()), &[("email", &format!("c{n}@example.com"))]);
        }
        scenario.given.pipelines.iter().for_each(|(id, stages)| create_pipeline(&sandbox, id, stages));
        for (id, deal) in &scenario.given.deals {
            create_deal(&sandbox, id, deal);
        }
        let settings = settings(&sandbox, &scenario.settings);
        if !scenario.faults.is_empty() {
            sandbox.play_faults(json!({ "rules": scenario.faults }));
        }
        World {
            sink: None,
            producer: kafka.client(&[("linger.ms", "1")]).create().expect("a producer"),
            kafka,
            _broker: broker,
            sandbox,
            folder: tempfile::tempdir().expect("a folder"),
            settings,
            put: Vec::new(),
            earned_at: BTreeMap::new(),
            replayed: 0,
            forgotten: Vec::new(),
            unnamed: Vec::new(),
        }
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    pub fn stats(&self) -> Option<Stats> {
        self.sink.as_ref().map(Sink::stats)
    }

    pub fn start(&mut self) {
        assert!(self.sink.is_none(), "the sink runs already");
        let sink = Sink::start(self.settings.clone(), self.kafka.clone(), vec![PORTAL.to_owned()], &self.state());
        self.sink = Some(sink.expect("the sink starts"));
    }

    pub fn act(&mut self, act: SinkAct) {
        let mut running = || self.sink.take().expect("the sink runs");
        match act {
            SinkAct::Wait => {}
            SinkAct::Start => self.start(),
            SinkAct::Stop => drop(running().stop().expect("stops")),
            SinkAct::Kill => running().kill(),
            SinkAct::Crash => {
                running().kill();
                self.start();
            }
            SinkAct::Reinstall => {
                running().stop().expect("stops");
                let token = self.sandbox.refresh_token(PORTAL);
                self.settings.portals.get_mut(PORTAL).expect("is there").refresh_token = Some(Secret::new(token));
                self.start();
            }
        }
    }

    /// What a person or HubSpot does.
    pub fn hubspot(&mut self, act: &Act) {
        match act {
            Act::EditDeal(id, properties) => self.sandbox.edit_deal(PORTAL, id, &pairs(properties)),
            Act::CreateContact(id, properties) => drop(self.sandbox.create_contact(PORTAL, Some(id), &pairs(properties))),
            Act::CreateDeal(id, deal) => create_deal(&self.sandbox, id, deal),
            Act::Merge(primary, other) => self.sandbox.merge_contacts(PORTAL, primary, other),
            Act::ArchiveContact(id) => self.sandbox.archive_contact(PORTAL, id),
            Act::EraseContact(id) => self.sandbox.erase_contact(PORTAL, id),
            Act::ArchiveDeal(id) => self.sandbox.archive_deal(PORTAL, id),
            Act::Forget(person) => self.forget(person),
            Act::Unnamed(texts) => self.unnamed.push((self.sandbox.requests().len(), texts.clone())),
            Act::Revoke(_) => {
                self.sandbox.revoke_grants(PORTAL);
                self.sandbox.expire_access_tokens(PORTAL);
            }
            Act::ExpireTokens(_) => self.sandbox.expire_access_tokens(PORTAL),
            Act::Faults(rules) => self.sandbox.play_faults(json!({ "rules": rules })),
            Act::ClearFaults(_) => self.sandbox.clear_faults(),
        }
    }

    /// As `clickline forget` does it.
    fn forget(&mut self, person: &[String]) {
        let (emails, contacts) = person.iter().cloned().partition(|text| text.contains('@'));
        let erasure = Erasure { portal: PORTAL.to_owned(), contacts, emails };
        let state = State::open(&self.state()).expect("opens");
        state.erase(&erasure, now()).expect("erases");
        let workspaces = BTreeMap::from([("acme".to_owned(), vec![PORTAL.to_owned()])]);
        let stores = Stores { kafka: &self.kafka, state: &state, clickhouse: None, workspaces: &workspaces, contacts: true };
        let swept = sweep(&stores, &Erased::only(&erasure), How::Remove, now()).expect("sweeps");
        assert_eq!(swept.failed, Vec::<String>::new());
        self.forgotten.push(erasure);
    }

    pub fn events(&mut self, clicks: &Clicks) {
        for n in clicks.numbers() {
            let click_id = format!("c{n}");
            let mut tokens = BTreeMap::from([("link_slug".to_owned(), "abc123".to_owned())]);
            tokens.extend(clicks.token.clone());
            let event = TimelineEvent {
                v: 1,
                id: TimelineEvent::id_of(&click_id, PORTAL),
                portal: PORTAL.to_owned(),
                workspace: "acme".to_owned(),
                click_id,
                ts: 1_763_800_000_000 + n as u64,
                person: clicks.person(n),
                title: "Clicked: Q2 pricing PDF (s.elido.me/abc123)".to_owned(),
                tokens,
                extra_data: json!({"utm": {"source": "webinar"}}),
                found: Found::Eid,
                at: now(),
            };
            self.record(Topic::Timeline, Some(event.id.clone()), &event);
        }
    }

    pub fn properties(&mut self, clicks: &Clicks) {
        for n in clicks.numbers() {
            let from = ValueFrom { click_id: format!("c{n}"), ts: n as u64 };
            let delta = ContactProperties {
                v: 1,
                id: format!("p{n}-{}", clicks.property),
                portal: PORTAL.to_owned(),
                person: clicks.person(n),
                properties: BTreeMap::from([(clicks.property.clone(), format!("s{n}"))]),
                from: BTreeMap::from([(clicks.property.clone(), from)]),
                at: now(),
            };
            self.record(Topic::ContactProperties, Some(delta.id.clone()), &delta);
        }
    }

    pub fn stage(&mut self, earned: &Earned) {
        let (deal, contact, along) = match earned {
            Earned::Usual(deal) => (deal, None, None),
            Earned::Other(EarnedOther { deal, contact, along }) => (deal, contact.as_deref(), along.as_ref()),
        };
        let usual = ["default", "appointmentscheduled", "qualifiedtobuy"].map(str::to_owned);
        let [pipeline, from_stage, to_stage] = along.cloned().unwrap_or(usual);
        let delta = DealStage {
            v: 1,
            id: if pipeline == "default" { format!("s{deal}") } else { format!("s{deal}-{pipeline}") },
            portal: PORTAL.to_owned(),
            workspace: "acme".to_owned(),
            rule: "sales-collateral".to_owned(),
            shadow: false,
            deal_id: deal.to_owned(),
            person: Some(Person::ContactId(contact.unwrap_or("801").to_owned())),
            pipeline,
            from_stage,
            to_stage,
            guard: Guard { require_associated_contact: true, deal_amount_min: Some(5000.0) },
            link_tag: Some("sales-collateral".to_owned()),
            link: None,
            count: 50,
            threshold: 50,
            window_ms: 2_592_000_000,
            hot_since: 1,
            last_click: LastClick { id: "c1".to_owned(), ts: 1 },
            at: now(),
        };
        self.earned_at.insert(deal.to_owned(), now());
        self.record(Topic::DealStages, Some(delta.id.clone()), &delta);
    }

    pub fn broken(&mut self) {
        self.bytes(Topic::Timeline, BROKEN);
        self.put.push((Topic::Timeline, None));
    }

    fn record(&mut self, topic: Topic, id: Option<String>, record: &impl Serialize) {
        self.bytes(topic, &serde_json::to_vec(record).expect("JSON"));
        self.put.push((topic, id));
    }

    fn bytes(&self, topic: Topic, value: &[u8]) {
        let record = BaseRecord::to(self.kafka.topics.output(topic)).key(PORTAL).payload(value);
        self.producer.send(record).map_err(|(e, _)| e).expect("queued");
    }

    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(30)).expect("flushed");
    }

    /// Records that were put and have no outcome yet; those that can't be named not among them.
    pub fn unsettled(&self) -> usize {
        let state = State::open(&self.state()).expect("opens");
        let outcome = |topic, id| state.outcome(LedgerKey::of(self.kafka.topics.output(topic), id)).expect("reads");
        let open = |outcome: Option<String>| outcome.is_none_or(|outcome| ["failing", "replay"].contains(&outcome.as_str()));
        self.put.iter().filter(|(topic, id)| id.as_ref().is_some_and(|id| open(outcome(*topic, id)))).count()
    }

    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.kafka.clone(), State::open(&self.state()).expect("opens"))
    }

    pub fn replay(&mut self, reason: &str) {
        let dead_letters = self.dead_letters();
        let filter = Filter { reason: Some(reason.to_owned()), ..Filter::default() };
        let letters = dead_letters.list(&filter).expect("lists");
        assert!(!letters.is_empty(), "nothing to replay with the reason {reason}");
        let mut replayer = Replayer::None;
        for letter in &letters {
            dead_letters.replay(letter, &mut replayer, now()).expect("replays");
            self.replayed += 1;
        }
    }
}

impl Clicks {
    fn numbers(&self) -> Vec<usize> {
        // 7919 is a prime, so that every number comes once.
        let at = |n: usize| if self.shuffled { n * 7919 % self.count } else { n };
        assert!(!self.shuffled || !self.count.is_multiple_of(7919), "7919 clicks can't be shuffled");
        (0..self.count).map(|n| self.from + at(n)).collect()
    }

    fn person(&self, n: usize) -> Person {
        match self.emails.as_slice() {
            [] if self.many > 0 => Person::ContactId((1_000 + n % self.many).to_string()),
            [] => Person::ContactId(self.contacts[n % self.contacts.len()].clone()),
            emails => Person::Email(emails[n % emails.len()].clone()),
        }
    }
}

fn create_deal(sandbox: &Sandbox, id: &str, deal: &Deal) {
    let mut properties = vec![("dealstage", deal.stage.as_str())];
    properties.extend(deal.amount.as_deref().map(|amount| ("amount", amount)));
    properties.extend(deal.pipeline.as_deref().map(|pipeline| ("pipeline", pipeline)));
    let many: Vec<String> = (0..deal.many).map(|n| (1_000 + n).to_string()).collect();
    let contacts: Vec<&str> = deal.contacts.iter().chain(&many).map(String::as_str).collect();
    sandbox.create_deal(PORTAL, Some(id), &properties, &contacts);
}

/// As an app makes it: there is no other way into the sandbox for a pipeline.
fn create_pipeline(sandbox: &Sandbox, id: &str, stages: &[String]) {
    let stage = |(at, stage)| json!({ "stageId": stage, "label": stage, "displayOrder": at, "metadata": { "probability": "0.5" } });
    let stages: Vec<Value> = stages.iter().enumerate().map(stage).collect();
    let pipeline = json!({ "pipelineId": id, "label": id, "displayOrder": 1, "stages": stages });
    let call = reqwest::Client::new()
        .post(format!("{}/crm/v3/pipelines/deals", sandbox.url()))
        .bearer_auth(sandbox.static_token(PORTAL, None))
        .json(&pipeline)
        .send();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answer = runtime.block_on(call).expect("an answer");
    assert_eq!(answer.status().as_u16(), 201, "the pipeline {id}");
}

fn pairs(properties: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The sandbox's settings with what a scenario says over them.
fn settings(sandbox: &Sandbox, given: &Value) -> Settings {
    let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
    let base = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
    // Quick, so that a scenario of retries is over in seconds.
    let mut block = json!({
        "base_url": sandbox.url(), "client_id": "clickline", "linger": "50ms", "retry_cap": "500ms", "park_retry": "200ms", "request_timeout": "2s",
        "portals": { PORTAL: { "app_id": base.portals[PORTAL].app_id } },
    });
    merge(&mut block, given);
    let read: Settings = serde_json::from_value(block).expect("settings that a configuration could hold");
    let Settings { client_secret, developer_key, connections, .. } = base.clone();
    let mut settings = Settings { client_secret, developer_key, connections, ..read };
    for (id, portal) in &mut settings.portals {
        if portal.events == Events::AppEvents {
            let properties: Vec<Value> = ["title", "link_slug"].map(|name| json!({ "name": name, "label": name, "type": "string" })).into();
            let config = json!({ "name": "Click", "headerTemplate": "{{title}}", "detailTemplate": "", "objectType": "CONTACT", "properties": properties });
            portal.event_type = Some(sandbox.app_event_type(0, json!({ "uid": "link_click", "type": "app-event", "config": config })));
        }
        portal.refresh_token = base.portals.get(id).and_then(|portal| portal.refresh_token.clone());
    }
    settings
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from.clone(),
    }
}
