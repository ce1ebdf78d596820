//! Webhooks that are sent out, signed and tried again; and the journal that is read.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clickline_sandbox::JournalEnd;
use common::{Bench, PORTAL, START_MS};
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

const ADMIN: &str = "/webhooks/v3/1000001";
const KEY: &str = "?hapikey=sandbox-developer-key";

/// What a target was sent: its headers and its body.
type Received = (HeaderMap, Vec<u8>);

#[derive(Clone)]
struct Target {
    out: mpsc::UnboundedSender<Received>,
    /// Statuses to answer with, the last one first; 200 when there are none left.
    answers: Arc<Mutex<Vec<u16>>>,
}

async fn receive(State(target): State<Target>, headers: HeaderMap, body: Bytes) -> StatusCode {
    target.out.send((headers, body.to_vec())).unwrap();
    let status = target.answers.lock().unwrap().pop().unwrap_or(200);
    StatusCode::from_u16(status).unwrap()
}

/// A target of its own; gives back its address and what it receives.
async fn target(answers: Vec<u16>) -> (String, mpsc::UnboundedReceiver<Received>) {
    let (out, received) = mpsc::unbounded_channel();
    let target = Target { out, answers: Arc::new(Mutex::new(answers)) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?a=b%2Fc", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(receive)).with_state(target);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

async fn subscribe(bench: &Bench, url: &str, events: &[(&str, Option<&str>)]) {
    let settings = json!({ "targetUrl": url, "throttling": { "maxConcurrentRequests": 1 } });
    bench.call(Method::PUT, &format!("{ADMIN}/settings{KEY}"), Some(&settings)).await.ok(200);
    for (event_type, property) in events {
        let mut new = json!({ "eventType": event_type, "active": true });
        if let Some(name) = property {
            new["propertyName"] = (*name).into();
        }
        bench.post(&format!("{ADMIN}/subscriptions{KEY}"), new).await.ok(201);
    }
}

async fn next(received: &mut mpsc::UnboundedReceiver<Received>) -> (HeaderMap, Vec<Value>) {
    let (headers, body) = tokio::time::timeout(Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
    (headers, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn what_happens_is_sent_signed_and_tried_again() {
    let bench = Bench::start_with(|config| config.webhook_retries = vec![Duration::from_millis(5); 2]).await;
    let (url, mut received) = target(vec![500]).await;
    let all = [
        ("contact.creation", None),
        ("contact.propertyChange", Some("firstname")),
        ("contact.merge", None),
        ("contact.deletion", None),
        ("contact.privacyDeletion", None),
        ("deal.associationChange", None),
        ("deal.propertyChange", Some("dealstage")),
    ];
    subscribe(&bench, &url, &all).await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("firstname", "Ada"), ("lastname", "L")]);
    let (headers, first) = next(&mut received).await;
    let kinds: Vec<&str> = first.iter().map(|e| e["subscriptionType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["contact.creation", "contact.propertyChange"], "lastname is not subscribed to");
    assert_eq!((&first[1]["propertyName"], &first[1]["propertyValue"]), (&"firstname".into(), &"Ada".into()));
    assert_eq!((&first[0]["portalId"], &first[0]["objectId"], &first[0]["occurredAt"]), (&4242.into(), &801.into(), &START_MS.into()));
    assert_eq!(headers["x-hubspot-request-timestamp"], START_MS.to_string().as_str());

    let (headers, again) = next(&mut received).await;
    assert_eq!(again[0]["attemptNumber"], 1, "the first attempt was answered with 500");
    assert_eq!(again[0]["eventId"], first[0]["eventId"]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"sandbox-secret");
    let text = format!("POST{}{}{START_MS}", url.replace("%2F", "/"), serde_json::to_string(&again).unwrap());
    assert_eq!(headers["x-hubspot-signature-v3"], STANDARD.encode(hmac::sign(&key, text.as_bytes())).as_str());

    bench.sandbox.create_contact(PORTAL, Some("802"), &[]);
    next(&mut received).await;
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &["801"]);
    let (_, events) = next(&mut received).await;
    assert_eq!((events.len(), &events[0]["propertyValue"]), (2, &"appointmentscheduled".into()));
    assert_eq!((&events[1]["associationType"], &events[1]["fromObjectId"]), (&"DEAL_TO_CONTACT".into(), &9001.into()));
    bench.sandbox.merge_contacts(PORTAL, "801", "802");
    let (_, events) = next(&mut received).await;
    assert_eq!((&events[0]["primaryObjectId"], &events[0]["mergedObjectIds"]), (&801.into(), &json!([802])));
    bench.post("/crm/v3/objects/contacts/gdpr-delete", json!({ "objectId": "801" })).await;
    let (_, events) = next(&mut received).await;
    let kinds: Vec<&str> = events.iter().map(|e| e["subscriptionType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["deal.associationChange", "contact.deletion", "contact.privacyDeletion"]);
    let attempts: Vec<(usize, Option<u16>)> = bench.sandbox.deliveries().iter().map(|d| (d.attempt, d.status)).collect();
    assert_eq!(attempts[..3], [(0, Some(500)), (1, Some(200)), (0, Some(200))]);
    assert!(bench.sandbox.snapshot("77").contacts.is_empty());
}

#[tokio::test]
async fn a_portal_without_the_app_sends_nothing_and_retries_end() {
    let bench = Bench::start_with(|config| config.webhook_retries = vec![Duration::from_millis(1); 2]).await;
    let (url, mut received) = target(vec![500; 3]).await;
    subscribe(&bench, &url, &[("contact.creation", None)]).await;
    bench.sandbox.create_contact("77", Some("801"), &[]);
    bench.sandbox.create_contact(PORTAL, Some("802"), &[]);
    for attempt in 0..3 {
        let (_, events) = next(&mut received).await;
        assert_eq!((&events[0]["attemptNumber"], &events[0]["objectId"]), (&attempt.into(), &802.into()));
    }
    bench.sandbox.create_contact(PORTAL, Some("803"), &[]);
    assert_eq!(next(&mut received).await.1[0]["objectId"], 803, "the one before was given up after three attempts");

    let forged = json!({ "events": [{ "eventId": 1 }], "signature": "wrong", "timestamp_ms": 1 });
    let sent = bench.post("/sandbox/apps/clickline/webhooks", forged).await;
    assert_eq!(sent.ok(200)["status"], 200);
    let (headers, body) = next(&mut received).await;
    assert_eq!((headers["x-hubspot-signature-v3"].to_str().unwrap(), &body[0]["eventId"]), ("wrong", &1.into()));
    assert_eq!(headers["x-hubspot-request-timestamp"], "1");
}

#[tokio::test]
async fn subscriptions_are_checked() {
    let bench = Bench::start().await;
    for bad in [
        json!({ "eventType": "contact.birth" }),
        json!({ "eventType": "contact.propertyChange" }),
        json!({ "eventType": "deal.propertyChange", "propertyName": "hs_lastmodifieddate" }),
        json!({ "eventType": "deal.creation", "propertyName": "amount" }),
    ] {
        bench.post(&format!("{ADMIN}/subscriptions{KEY}"), bad).await.error(400);
    }
    bench.post(&format!("{ADMIN}/subscriptions"), json!({ "eventType": "deal.creation" })).await.error(401);
    let far = json!({ "targetUrl": "http://job.example/hook", "throttling": { "maxConcurrentRequests": 1 } });
    bench.call(Method::PUT, &format!("{ADMIN}/settings{KEY}"), Some(&far)).await.error(400);
}

/// A journal's reader: the app's token and the calls it makes.
struct Reader<'b>(&'b Bench, String);

impl Reader<'_> {
    async fn subscribe(&self, subscription: Value) -> common::Answer {
        self.0.call_as(&self.1, Method::POST, "/webhooks-journal/subscriptions/2026-03", Some(&subscription)).await
    }

    async fn get(&self, path: &str) -> common::Answer {
        self.0.call_as(&self.1, Method::GET, &format!("/webhooks-journal/{path}"), None).await
    }

    /// The events of the entry that an answer names, and its offset.
    async fn entry(&self, path: &str) -> (Vec<Value>, String) {
        let answer = self.get(path).await;
        let url = answer.ok(200)["url"].as_str().unwrap();
        let file: Value = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(file["offset"], answer.body["currentOffset"]);
        (file["journalEvents"].as_array().unwrap().clone(), file["offset"].as_str().unwrap().to_owned())
    }
}

fn deals(actions: &[&str], properties: &[&str]) -> Value {
    json!({ "subscriptionType": "OBJECT", "portalId": 4242, "objectTypeId": "0-3", "objectIds": [], "properties": properties, "actions": actions })
}

#[tokio::test]
async fn the_journal_is_read_by_offset_and_forgets_after_three_days() {
    let bench = Bench::start().await;
    let reader = Reader(&bench, bench.app_token().await);
    reader.subscribe(deals(&["CREATE", "UPDATE", "DELETE"], &["dealstage", "amount"])).await.ok(200);
    let pair = json!({ "subscriptionType": "ASSOCIATION", "portalId": 4242, "objectTypeId": "0-1", "objectIds": [],
        "associatedObjectTypeIds": ["0-3"], "actions": ["ASSOCIATION_ADDED", "ASSOCIATION_REMOVED"] });
    reader.subscribe(pair).await.ok(200);
    assert_eq!(reader.get("journal/2026-03/earliest").await.status, 204);
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    assert_eq!(reader.get("journal/2026-03/earliest").await.status, 204, "nobody asked for contacts");

    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled"), ("dealname", "D")], &["801"]);
    let (events, first) = reader.entry("journal/2026-03/earliest").await;
    assert_eq!((events.len(), &events[0]["action"], &events[0]["objectId"]), (2, &"CREATE".into(), &9001.into()));
    assert_eq!(events[0]["propertyChanges"], json!({ "dealstage": "appointmentscheduled" }), "dealname was not asked for");
    let association = (&events[1]["action"], &events[1]["objectId"], &events[1]["associatedObjectId"]);
    assert_eq!(association, (&"ASSOCIATION_ADDED".into(), &801.into(), &9001.into()));
    assert_eq!(reader.get(&format!("journal/2026-03/offset/{first}/next")).await.status, 204);

    bench.sandbox.edit_deal(PORTAL, "9001", &[("dealname", "E")]);
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "amount": "5000", "dealstage": "qualifiedtobuy" } })).await.ok(200);
    let (events, second) = reader.entry(&format!("journal/2026-03/offset/{first}/next")).await;
    assert_eq!((events.len(), &events[0]["action"]), (1, &"UPDATE".into()));
    assert_eq!(events[0]["propertyChanges"], json!({ "amount": "5000", "dealstage": "qualifiedtobuy" }));
    bench.sandbox.archive_deal(PORTAL, "9001");
    let (events, third) = reader.entry("journal-local/2026-03/latest?installPortalId=4242").await;
    assert_eq!(events.iter().map(|e| &e["action"]).collect::<Vec<_>>(), [&json!("ASSOCIATION_REMOVED"), &json!("DELETE")]);
    assert_eq!(reader.get("journal-local/2026-03/latest?installPortalId=77").await.status, 204);
    let batch = reader.get(&format!("journal/2026-03/batch/{first}/next/10")).await;
    let offsets: Vec<&Value> = batch.ok(200)["results"].as_array().unwrap().iter().map(|r| &r["currentOffset"]).collect();
    assert_eq!(offsets, [&json!(second), &json!(third)]);

    bench.clock.advance(Duration::from_secs(3 * 86_400));
    bench.sandbox.configure(|config| config.journal_end = JournalEnd::NotFound);
    let reader = Reader(&bench, bench.app_token().await);
    reader.get("journal/2026-03/earliest").await.error(404);
    reader.get("journal/2026-03/offset/none/next").await.error(400);
}

#[tokio::test]
async fn the_journal_asks_for_scopes_and_installations() {
    let bench = Bench::start().await;
    let reader = Reader(&bench, bench.app_token().await);
    let other = deals(&["CREATE"], &[]).as_object().map(|o| {
        let mut other = o.clone();
        other.insert("portalId".into(), 77.into());
        Value::Object(other)
    });
    reader.subscribe(other.unwrap()).await.error(400);
    reader.subscribe(deals(&["BIRTH"], &[])).await.error(400);
    let narrow = bench.form("/oauth/v3/token", &[("grant_type", "client_credentials"), ("scope", "developer.webhooks_journal.read")]).await;
    let narrow = Reader(&bench, narrow.ok(200)["access_token"].as_str().unwrap().to_owned());
    let refused = narrow.subscribe(deals(&["CREATE"], &[])).await;
    let scopes = &refused.error(403)["errors"][0]["context"]["requiredGranularScopes"];
    assert_eq!(scopes, &json!(["developer.webhooks_journal.subscriptions.write"]));
    bench.get("/webhooks-journal/journal/2026-03/earliest").await.error(401);
    bench.form("/oauth/v3/token", &[("grant_type", "client_credentials"), ("scope", "no.such.scope")]).await.error(400);

    let id = reader.subscribe(deals(&["UPDATE"], &[])).await.ok(200)["id"].clone();
    let condition = json!({ "filterType": "CRM_OBJECT_PROPERTY", "property": "amount", "operator": "GTE", "value": "1000" });
    let filter = json!({ "subscriptionId": id, "filter": { "conditions": [condition] } });
    bench.call_as(&reader.1, Method::POST, "/webhooks-journal/subscriptions/2026-03/filters", Some(&filter)).await.ok(200);
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("amount", "999")], &[]);
    bench.sandbox.edit_deal(PORTAL, "9001", &[("dealname", "small")]);
    assert_eq!(reader.get("journal/2026-03/latest").await.status, 204);
    bench.sandbox.edit_deal(PORTAL, "9001", &[("amount", "1000")]);
    assert_eq!(reader.entry("journal/2026-03/latest").await.0[0]["propertyChanges"]["amount"], "1000");

    let wanted = json!({ "snapshotRequests": [
        { "portalId": 4242, "objectTypeId": "0-3", "objectId": 9001, "properties": ["amount"] },
        { "portalId": 4242, "objectTypeId": "0-3", "objectId": 5, "properties": ["amount"] },
    ] });
    let taken = bench.call_as(&reader.1, Method::POST, "/webhooks-journal/snapshots/2026-03/crm", Some(&wanted)).await;
    for (at, status) in [(0, "SUCCESS"), (1, "FAILED")] {
        let id = taken.ok(200)["snapshotResponses"][at]["snapshotStatusId"].as_str().unwrap();
        assert_eq!(reader.get(&format!("journal/2026-03/status/{id}")).await.ok(200)["status"], status);
    }
    let (events, _) = reader.entry("journal/2026-03/latest").await;
    assert_eq!((events.len(), &events[0]["action"], &events[0]["propertyChanges"]["amount"]), (1, &"SNAPSHOT".into(), &"1000".into()));
}
