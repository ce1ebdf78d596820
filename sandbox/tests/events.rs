//! App events and custom events.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use clickline_sandbox::AppEvents;
use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const APP: &str = "/integrators/timeline/2026-03/events";

fn event_type() -> Value {
    let properties = json!([{ "name": "link", "label": "Link", "type": "string", "options": [] }]);
    json!({ "uid": "link_click", "config": { "name": "Link click", "headerTemplate": "Clicked: {{link}}",
        "detailTemplate": "{{extraData.referrer}}", "objectType": "CONTACT", "properties": properties } })
}

fn occurrence(name: &str, id: &str, contact: &str) -> Value {
    json!({ "eventTypeName": name, "id": id, "objectId": contact, "properties": { "link": "abc" }, "extraData": { "referrer": "mail" } })
}

#[tokio::test]
async fn app_events_are_stored_once_and_batches_whole_or_not_at_all() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    let name = bench.sandbox.app_event_type(0, event_type());
    let stored = || bench.sandbox.snapshot(PORTAL).events.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    let empty = bench.post(APP, occurrence(&name, "one", "801")).await;
    assert_eq!((empty.status, empty.body), (200, Value::String(String::new())), "accepted, without a body");
    bench.post(APP, occurrence(&name, "one", "801")).await.error(409);
    bench.post(APP, occurrence("link_click", "two", "801")).await.ok(200);
    let batch = async |ids: &[&str]| {
        let inputs: Vec<Value> = ids.iter().map(|id| occurrence(&name, id, "801")).collect();
        bench.post(&format!("{APP}/batch"), json!({ "inputs": inputs })).await.status
    };
    assert_eq!((batch(&["three", "one"]).await, batch(&["four", "four"]).await), (409, 409));
    assert_eq!(stored(), ["one", "two"], "nothing of those batches");
    assert_eq!(batch(&["three", "four"]).await, 200);
    assert_eq!(stored(), ["one", "two", "three", "four"]);
    let shown = &bench.sandbox.snapshot(PORTAL).events[0];
    assert_eq!((shown.title.as_str(), shown.detail.as_str()), ("Clicked: abc", "mail"));

    for bad in [
        occurrence("nosuch", "x", "801"),
        occurrence(&name, "x", "999"),
        occurrence(&name, &"x".repeat(501), "801"),
        json!({ "eventTypeName": name, "id": "x", "objectId": "801", "properties": { "nosuch": "x" } }),
        json!({ "eventTypeName": name, "id": "x", "properties": {} }),
        json!({ "eventTypeName": name, "id": "x", "email": "no address", "properties": {} }),
    ] {
        let inputs = json!({ "inputs": [occurrence(&name, "good", "801"), bad.clone()] });
        assert_eq!(bench.post(&format!("{APP}/batch"), inputs).await.status, 400, "{bad}");
        assert_eq!(bench.post(APP, bad).await.status, 400);
    }
    let many: Vec<Value> = (0..501).map(|n| occurrence(&name, &format!("m{n}"), "801")).collect();
    bench.post(&format!("{APP}/batch"), json!({ "inputs": many })).await.error(400);
    assert_eq!(stored().len(), 4);
    bench.sandbox.configure(|config| config.app_events = AppEvents::Created);
    assert_eq!(bench.post(APP, occurrence(&name, "five", "801")).await.ok(201)["id"], "five");
}

#[tokio::test]
async fn static_tokens_write_no_timeline_but_custom_events() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    let name = bench.sandbox.app_event_type(0, event_type());
    let token = bench.sandbox.static_token(PORTAL, None);
    let refused = bench.call_as(&token, Method::POST, APP, Some(&occurrence(&name, "one", "801"))).await;
    assert!(refused.error(403)["message"].as_str().unwrap().contains("OAuth apps only"));
    let template = bench.template().await;
    let event = json!({ "eventTemplateId": template, "id": "e", "objectId": "801", "tokens": {} });
    bench.call_as(&token, Method::POST, "/integrators/timeline/v3/events", Some(&event)).await.error(403);
    let written =
        bench.call_as(&token, Method::PATCH, "/crm/v3/objects/contacts/801", Some(&json!({ "properties": { "firstname": "Ada" } }))).await;
    written.ok(200);
    assert_eq!(written.header("x-hubspot-ratelimit-daily"), Some("625000"));
    let narrow = bench.sandbox.static_token(PORTAL, Some(&["crm.objects.contacts.read"]));
    let send = json!({ "eventName": "x", "properties": {} });
    let refused = bench.call_as(&narrow, Method::POST, "/events/v3/send", Some(&send)).await;
    assert_eq!(refused.error(403)["errors"][0]["context"]["requiredGranularScopes"], json!(["analytics.behavioral_events.send"]));
}

#[tokio::test]
async fn custom_events_are_accepted_and_a_known_uuid_is_dropped_in_silence() {
    let bench = Bench::start_with(|config| config.burst_limit = 20).await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
    let link = json!({ "label": "Link", "name": "link", "type": "string" });
    let new = json!({ "label": "Link click", "name": "link_click", "includeDefaultProperties": false, "propertyDefinitions": [link] });
    let name = bench.post("/events/v3/event-definitions", new).await.ok(201)["fullyQualifiedName"].as_str().unwrap().to_owned();
    assert_eq!(name, "pe4242_link_click");
    let event = |uuid: &str, link: &str| json!({ "eventName": name, "objectId": "801", "uuid": uuid, "properties": { "link": link } });
    for n in 0..40 {
        let answer = bench.post("/events/2026-03/send", event(&format!("u{}", n % 4), "first")).await;
        assert_eq!((answer.status, answer.header("x-hubspot-ratelimit-max")), (204, None), "not inside the burst limit");
    }
    let stored = || bench.sandbox.snapshot(PORTAL).events;
    assert_eq!(stored().len(), 4);
    assert_eq!((stored()[0].title.as_str(), stored()[0].template_id.as_str()), ("Link click", name.as_str()));
    assert_eq!(bench.post("/events/v3/send", event("u0", "second")).await.status, 204);
    assert_eq!(stored()[0].tokens["link"], "first", "the first one stays");
    bench.clock.advance(Duration::from_secs(366 * 86_400));
    let mut bench = bench;
    let refresh_token = bench.sandbox.refresh_token(PORTAL);
    bench.token = bench.access_token(&refresh_token).await;
    assert_eq!(bench.post("/events/v3/send", event("u0", "second")).await.status, 204);
    let all = bench.sandbox.snapshot(PORTAL).events;
    assert_eq!((all.len(), all[0].tokens["link"].as_str()), (4, "second"), "after a year the id is free again");
    for bad in [
        json!({ "eventName": "pe4242_none", "objectId": "801", "properties": {} }),
        json!({ "eventName": name, "objectId": "999", "properties": {} }),
        json!({ "eventName": name, "objectId": "801", "properties": { "nosuch": "x" } }),
        event("long", &"x".repeat(257)),
    ] {
        let inputs = json!({ "inputs": [event("good", "x"), bad] });
        bench.post("/events/v3/send/batch", inputs).await.error(400);
    }
    assert_eq!(bench.sandbox.snapshot(PORTAL).events.len(), 4, "one bad event and none of the batch is stored");
}
