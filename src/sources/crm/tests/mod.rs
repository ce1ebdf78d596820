//! The whole mirror between the sandbox and an embedded broker. What rests on compaction is tested on Apache Kafka, not here.

mod histories;
mod trouble;

use super::faults::Faults;
use super::{Changes, Crm, CrmSettings, Stats, webhooks};
use crate::kafka::{Isolation, Kafka};
use crate::metrics::Metrics;
use crate::model::time;
use crate::serve::{Bound, Server};
use crate::sinks::hubspot::{Method, Outcome, Request, Service, Settings, Share};
use crate::sources::writer::Writer;
use crate::state::{Erasure, LedgerKey, Park, Settlement, State};
use crate::stop::Stop;
use clickline_sandbox::{Config, Sandbox, Snapshot};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PORTAL: &str = "4242";
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker, a sandbox, and the way from one to the other.
struct World {
    kafka: Kafka,
    _broker: MockCluster<'static, DefaultProducerContext>,
    sandbox: Sandbox,
    settings: Settings,
    service: Arc<Service>,
    state: Arc<State>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let sandbox = Sandbox::start(Config { burst_limit: 100_000, search_limit: 100_000, ..Config::default() }).expect("a sandbox");
        World::around(sandbox)
    }

    fn around(sandbox: Sandbox) -> World {
        let broker = MockCluster::new(1).expect("a broker");
        let kafka = Kafka::at(broker.bootstrap_servers());
        for (topic, partitions) in
            [(&kafka.topics.contacts, 2), (&kafka.topics.deals, 2), (&kafka.topics.sources, 1), (&kafka.topics.changes, 1)]
        {
            broker.create_topic(topic, partitions, 1).expect("a topic");
        }
        let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
        let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
        settings.budget.requests = 10_000;
        let folder = tempfile::tempdir().expect("a folder");
        let (portals, metrics) = ([PORTAL.to_owned()], Arc::new(Metrics::default()));
        let service = Service::open(&settings, &folder.path().join("state.db"), &portals, metrics).expect("a service");
        let service = Arc::new(service);
        let state = Arc::new(State::open(&folder.path().join("state.db")).expect("opens"));
        World { kafka, _broker: broker, sandbox, settings, service, state, _folder: folder }
    }

    fn crm(&self, changes: Changes) -> Crm {
        let settings = CrmSettings {
            changes,
            every: 20,
            overlap: 5_000,
            reload_every: (changes == Changes::Search).then_some(200),
            requests: 9_000,
            ..CrmSettings::default()
        };
        let (service, now) = (Arc::clone(&self.service), Arc::new(time::now));
        let (portals, state) = (vec![PORTAL.to_owned()], Arc::clone(&self.state));
        Crm::new(self.kafka.clone(), settings, &self.settings, service, portals, now, Arc::default(), state).expect("a mirror")
    }

    /// The endpoint of webhooks, which the sandbox is told to call for everything that the mirror lives on.
    fn webhooks(&self, crm: &Crm) -> Server {
        let bound = Bound::to("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let public_url = format!("http://{}/proxied", bound.address());
        let endpoint = webhooks::Endpoint {
            secret: crm.secret().expect("the app's"),
            public_url: public_url.clone(),
            portals: [PORTAL.to_owned()].into(),
            topic: self.kafka.topics.changes.clone(),
            writer: Writer::new(&self.kafka, Some(webhooks::PATIENCE)).expect("a writer"),
        };
        // As a proxy does that serves us below a path of its own.
        let routes = axum::Router::new().nest("/proxied", webhooks::routes(endpoint, Arc::new(time::now)));
        let server = Server::start(bound, routes).expect("serves");
        let (app, sandbox) = (self.sandbox.app_id(0), self.sandbox.url());
        let admin = |method: reqwest::Method, path: &str, body: Value| {
            let url = format!("{sandbox}/webhooks/v3/{app}/{path}?hapikey=sandbox-developer-key");
            let call = crate::http::client(PATIENCE).expect("a client").request(method, url).json(&body);
            async move { assert!(call.send().await.expect("an answer").status().is_success()) }
        };
        let subscribe = async {
            let target = json!({ "targetUrl": format!("{public_url}{}", webhooks::PATH), "throttling": { "maxConcurrentRequests": 10 } });
            admin(reqwest::Method::PUT, "settings", target).await;
            for kind in ["contact", "deal"] {
                for what in ["creation", "deletion", "merge", "restore", "associationChange"] {
                    admin(reqwest::Method::POST, "subscriptions", json!({ "eventType": format!("{kind}.{what}"), "active": true })).await;
                }
            }
            admin(reqwest::Method::POST, "subscriptions", json!({ "eventType": "contact.privacyDeletion", "active": true })).await;
            for (kind, property) in
                [("contact", "email"), ("contact", "hs_additional_emails"), ("deal", "pipeline"), ("deal", "dealstage"), ("deal", "amount")]
            {
                let wanted = json!({ "eventType": format!("{kind}.propertyChange"), "propertyName": property, "active": true });
                admin(reqwest::Method::POST, "subscriptions", wanted).await;
            }
        };
        // Within the test's runtime no other can be waited for.
        std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            scope.spawn(move || runtime.block_on(subscribe)).join().expect("subscribes");
        });
        server
    }

    /// Asks the sandbox for something as an app does.
    async fn post(&self, path: &str, body: Value) -> Outcome {
        let request = Request { method: Method::Post, path: path.to_owned(), body: Some(body) };
        self.service.call(PORTAL, &request, Share::Full).await
    }

    /// All records of the mirror's topics, in their order.
    async fn records(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let kafka = self.kafka.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut records = Vec::new();
            for topic in [&kafka.topics.contacts, &kafka.topics.deals] {
                let each = |_, key: Option<&[u8]>, value: Option<&[u8]>| {
                    let key = String::from_utf8(key.expect("a key").to_vec()).expect("text");
                    records.push((format!("{topic} {key}"), value.map(<[u8]>::to_vec)));
                    Ok(())
                };
                kafka.read_all(topic, Isolation::Uncommitted, &Stop::new(), each).expect("reads");
            }
            records
        });
        read.await.expect("reads")
    }

    /// What the mirror says in the end.
    async fn mirrored(&self) -> BTreeMap<String, Value> {
        let mut last = BTreeMap::new();
        for (key, value) in self.records().await {
            match value {
                Some(value) => last.insert(key, serde_json::from_slice(&value).expect("JSON")),
                None => last.remove(&key),
            };
        }
        last
    }

    /// Waits until the mirror says what the sandbox does.
    async fn agrees(&self) {
        let began = Instant::now();
        loop {
            let (wanted, is) = (wanted(&self.sandbox.snapshot(PORTAL)), self.mirrored().await);
            if wanted == is {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the mirror says\n{is:#?}\nand the sandbox\n{wanted:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing was written that stood there already.
    async fn says_nothing_twice(&self) {
        let mut last: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for (key, value) in self.records().await {
            let before = last.insert(key.clone(), value.clone()).flatten();
            assert!(before != value, "{key} was written twice: {:?}", value.map(String::from_utf8));
        }
    }
}

/// A mirror of what is in the sandbox.
fn wanted(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    let list = |text: Option<&String>| -> Vec<String> {
        let mut all: Vec<String> = text.map(|text| text.split(';').map(str::to_owned).collect()).unwrap_or_default();
        all.retain(|one| !one.is_empty());
        all.sort();
        all
    };
    let numeric = |mut ids: Vec<String>| {
        ids.sort_by_key(|id| id.parse::<u64>().expect("a number"));
        ids
    };
    let mut wanted = BTreeMap::new();
    for contact in &snapshot.contacts {
        let record = json!({ "v": 1, "portal": PORTAL, "contact_id": contact.id, "email": contact.properties.get("email"),
            "additional_emails": list(contact.properties.get("hs_additional_emails")), "merged_ids": numeric(contact.merged_ids.clone()) });
        wanted.insert(format!("crm.contacts {PORTAL}/{}", contact.id), record);
    }
    for deal in &snapshot.deals {
        let amount = deal.properties.get("amount").map(|amount| amount.parse::<f64>().expect("a number"));
        let record = json!({ "v": 1, "portal": PORTAL, "deal_id": deal.id, "pipeline": deal.properties["pipeline"],
            "stage": deal.properties["dealstage"], "amount": amount, "contact_ids": numeric(deal.contact_ids.clone()) });
        wanted.insert(format!("crm.deals {PORTAL}/{}", deal.id), record);
    }
    wanted
}

/// Runs a test on a runtime of its own, which is not waited for when the test has failed: its threads may wait for a broker that is gone.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    struct Unwaited(Option<tokio::runtime::Runtime>);
    impl Drop for Unwaited {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
        }
    }
    let runtime = Unwaited(tokio::runtime::Builder::new_current_thread().enable_all().build().ok());
    tokio::task::LocalSet::new().block_on(runtime.0.as_ref().expect("a runtime"), work)
}

/// Mirrors for ever, and ends after so many places each time, then never again: as a process that crashes and is started again.
async fn mirror(mut crm: Crm, crashes: Vec<u32>) {
    let mut faults = crashes.into_iter().map(Faults::after);
    loop {
        crm.faults = faults.next().unwrap_or_default();
        let ended = crm.run(&Stop::new()).await.expect_err("it never ends well");
        assert!(ended.to_string().contains("ended by a test"), "{ended:#}");
    }
}

#[test]
fn a_restart_within_a_load_goes_on_where_it_was() {
    block_on(async {
        let world = World::new();
        for at in 0..250 {
            world.sandbox.create_contact(PORTAL, None, &[("email", &format!("{at}@example.com"))]);
        }
        let crm = world.crm(Changes::Webhooks);
        // The place, then for each page: read, sent, written, commit, committed; so this is after the first page.
        let mut first = crm.clone();
        first.faults = Faults::after(2 + 5);
        first.run(&Stop::new()).await.expect_err("ends within the second page");
        let before = world.sandbox.requests().len();
        assert_eq!(world.mirrored().await.len(), 100);
        let running = tokio::task::spawn_local(mirror(crm, vec![]));
        world.agrees().await;
        world.says_nothing_twice().await;
        running.abort();
        let pages = world.sandbox.requests().iter().skip(before).filter(|request| request.path.ends_with("/contacts")).count();
        assert_eq!(pages, 2, "200 of 250 contacts were left");
    });
}

#[test]
fn a_record_that_vanished_while_nobody_looked_is_found_missing_by_the_next_load() {
    block_on(async {
        let world = World::new();
        let ids: Vec<String> =
            (0..120).map(|at| world.sandbox.create_contact(PORTAL, None, &[("email", &format!("{at}@example.com"))])).collect();
        let deal =
            world.sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled")], &[&ids[7], &ids[119]]);
        let mut crm = world.crm(Changes::Webhooks);
        let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
        world.agrees().await;
        running.abort();
        // At the beginning, on both sides of the border between two pages, and at the end.
        let gone: Vec<Value> = [0, 7, 98, 99, 100, 119].map(|at: usize| json!({ "id": ids[at] })).to_vec();
        assert!(matches!(world.post("/crm/v3/objects/contacts/batch/archive", json!({ "inputs": gone })).await, Outcome::Done(_)));
        world.sandbox.merge_contacts(PORTAL, &ids[1], &ids[2]);
        world.sandbox.edit_deal(PORTAL, &deal, &[("amount", "5000")]);
        crm.settings.reload_every = Some(1);
        let running = tokio::task::spawn_local(mirror(crm, vec![]));
        world.agrees().await;
        world.says_nothing_twice().await;
        running.abort();
    });
}

#[test]
fn who_is_erased_in_hubspot_is_erased_here_whatever_crashes() {
    block_on(async {
        let world = World::new();
        let crm = world.crm(Changes::Webhooks);
        let _server = world.webhooks(&crm);
        let parked = |email: &str| Park {
            ledger_key: LedgerKey::of("t", email),
            portal: PORTAL.to_owned(),
            email: email.to_owned(),
            topic: "t".to_owned(),
            partition: 0,
            offset: 1,
            key: None,
            payload: b"{}".to_vec(),
            parked_at: 1,
            next_at: 1,
            tries: 1,
        };
        let park = vec![parked("someone@example.com")];
        world.state.settle(&Settlement { park, ..Default::default() }, 1).expect("settles");
        let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
        world.agrees().await;
        running.abort();
        // The erasure itself, what comes of it in the topics, and the cursor.
        for places in 0..5 {
            let contact = |name: &str| world.sandbox.create_contact(PORTAL, None, &[("email", &format!("{name}{places}@example.com"))]);
            let (kept, merged, other) = (contact("kept"), contact("merged"), contact("other"));
            world.sandbox.merge_contacts(PORTAL, &kept, &merged);
            let running = tokio::task::spawn_local(mirror(crm.clone(), vec![]));
            world.agrees().await;
            running.abort();
            let park = vec![parked(&format!("merged{places}@example.com"))];
            world.state.settle(&Settlement { park, ..Default::default() }, 1).expect("settles");
            world.sandbox.erase_contact(PORTAL, &kept);
            let running = tokio::task::spawn_local(mirror(crm.clone(), vec![places]));
            world.agrees().await;
            running.abort();
            let erased = world.state.erased().expect("reads");
            for (id, name) in [(&kept, "kept"), (&merged, "merged")] {
                assert!(erased.contact(PORTAL, id) && erased.email(PORTAL, &format!("{name}{places}@example.com")), "{name}, {places}");
            }
            assert!(!erased.contact(PORTAL, &other) && !erased.email(PORTAL, &format!("other{places}@example.com")));
            assert_eq!(world.state.parked_count().expect("reads"), 1, "nobody else's");
        }
        world.says_nothing_twice().await;
        // Who is erased here and is still there in HubSpot is not mirrored again, by changes or by a load.
        let erasure = Erasure { portal: PORTAL.to_owned(), contacts: ["801".to_owned()].into(), ..Erasure::default() };
        world.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
        world.state.erase(&erasure, 1).expect("erases");
        let mut crm = crm;
        crm.settings.reload_every = Some(1);
        let running = tokio::task::spawn_local(mirror(crm, vec![]));
        let last = world.sandbox.create_contact(PORTAL, None, &[("email", "last@example.com")]);
        let began = Instant::now();
        while !world.mirrored().await.contains_key(&format!("crm.contacts {PORTAL}/{last}")) {
            assert!(began.elapsed() < PATIENCE, "the mirror goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.abort();
        assert!(!world.records().await.iter().any(|(key, _)| key.ends_with("/801")));
    });
}

#[test]
fn a_deals_contacts_are_all_there_on_however_many_pages() {
    block_on(async {
        let world = World::new();
        let ids: Vec<String> = (0..1_100).map(|_| world.sandbox.create_contact(PORTAL, None, &[("firstname", "x")])).collect();
        let all: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut crm = world.crm(Changes::Search);
        crm.settings.reload_every = None;
        let running = tokio::task::spawn_local(mirror(crm, vec![]));
        world.agrees().await;
        // A list shows them with the deal; those of a deal that has changed are asked for in pages.
        for contacts in [&all[..], &all[..501], &all[..500], &all[600..], &all[..2], &[]] {
            world.sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled")], contacts);
        }
        world.agrees().await;
        world.says_nothing_twice().await;
        running.abort();
        let pages = world.sandbox.requests().iter().filter(|request| request.path.ends_with("/deals/contacts/batch/read")).count();
        assert!(pages >= 3, "1,100 contacts are three pages: {pages}");
    });
}
