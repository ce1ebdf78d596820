//! Timeline v3: templates with the developer key, events single and in batches, on both prefixes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use clickline_sandbox::DuplicateEvents;
use common::{Bench, PORTAL, START_MS};
use reqwest::Method;
use serde_json::{Value, json};

fn click(template: &str, id: &str, object_id: &str) -> Value {
    json!({
        "eventTemplateId": template, "id": id, "objectId": object_id, "timestamp": "2026-11-23T08:15:30.123Z",
        "tokens": { "title": "Q2 pricing PDF", "link": "s.elido.me/abc123" }, "extraData": { "utm": { "source": "<webinar>" } },
    })
}

#[tokio::test]
async fn an_event_lands_on_the_contact_and_is_rendered() {
    let bench = Bench::start().await;
    let template = bench.template().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    for (prefix, id) in [("/integrators/timeline/v3", "e1"), ("/crm/v3/timeline", "e2")] {
        let answer = bench.post(&format!("{prefix}/events"), click(&template, id, "801")).await;
        assert_eq!((&answer.ok(201)["objectType"], &answer.body["objectId"]), (&"contacts".into(), &"801".into()));
        let back = bench.get(&format!("{prefix}/events/{template}/{id}")).await;
        assert_eq!(back.ok(200)["timestamp"], "2026-11-23T08:15:30.123Z");
    }
    bench.get(&format!("/integrators/timeline/v3/events/{template}/nothing")).await.error(404);
    let snapshot = bench.sandbox.snapshot(PORTAL);
    assert_eq!(snapshot.events.len(), 2);
    let event = &snapshot.events[0];
    assert_eq!(event.title, "Clicked: Q2 pricing PDF (s.elido.me/abc123)");
    assert_eq!(
        (event.detail.as_str(), event.object_id.as_str(), event.timestamp_ms),
        ("Source: <webinar> 2026-11-23T08:15:30.123Z", "801", START_MS)
    );
}

#[tokio::test]
async fn a_known_id_is_refused_the_configured_way() {
    for (mode, status) in [(DuplicateEvents::Conflict, 409), (DuplicateEvents::BadRequest, 400), (DuplicateEvents::Accept, 201)] {
        let bench = Bench::start_with(|config| config.duplicate_events = mode).await;
        let template = bench.template().await;
        bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
        bench.post("/integrators/timeline/v3/events", click(&template, "e1", "801")).await.ok(201);
        let again = bench.post("/integrators/timeline/v3/events", click(&template, "e1", "801")).await;
        assert_eq!(again.status, status);
        if status != 201 {
            assert!(again.error(status)["message"].as_str().unwrap().contains("already in use"));
        }
        let batch = json!({ "inputs": [click(&template, "e1", "801"), click(&template, "e2", "801")] });
        let answer = bench.post("/integrators/timeline/v3/events/batch/create", batch).await;
        if mode == DuplicateEvents::Accept {
            assert_eq!(answer.ok(201)["results"].as_array().unwrap().len(), 2);
        } else {
            assert_eq!((&answer.ok(207)["numErrors"], &answer.body["errors"][0]["context"]["id"][0]), (&1.into(), &"e1".into()));
            assert_eq!(answer.body["results"][0]["id"], "e2", "the rest of the batch is stored");
        }
        assert_eq!(bench.sandbox.snapshot(PORTAL).events.len(), 2);
    }
}

#[tokio::test]
async fn the_same_id_on_another_record_moves_the_event() {
    let bench = Bench::start().await;
    let template = bench.template().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    bench.sandbox.create_contact(PORTAL, Some("802"), &[]);
    bench.post("/integrators/timeline/v3/events", click(&template, "e1", "801")).await.ok(201);
    bench.post("/integrators/timeline/v3/events", click(&template, "e1", "802")).await.ok(201);
    let snapshot = bench.sandbox.snapshot(PORTAL);
    assert_eq!(snapshot.events.len(), 1);
    assert_eq!(snapshot.events[0].object_id, "802");
}

#[tokio::test]
async fn an_address_finds_makes_or_changes_a_contact() {
    let bench = Bench::start().await;
    let template = bench.template().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
    let event = |id: &str, extra: Value| {
        let mut event = json!({ "eventTemplateId": template, "id": id, "tokens": {} });
        event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        event
    };
    let path = "/integrators/timeline/v3/events";
    assert_eq!(bench.post(path, event("e1", json!({ "email": "Ada@Example.com" }))).await.ok(201)["objectId"], "801");
    let made = bench.post(path, event("e2", json!({ "email": "new@example.com" }))).await.ok(201)["objectId"].clone();
    assert_eq!(bench.sandbox.snapshot(PORTAL).contact(made.as_str().unwrap()).unwrap().properties["email"], "new@example.com");
    bench.post(path, event("e3", json!({ "objectId": "801", "email": "lovelace@example.com" }))).await.ok(201);
    assert_eq!(bench.sandbox.snapshot(PORTAL).contact("801").unwrap().properties["email"], "lovelace@example.com");
    bench.post(path, event("e4", json!({}))).await.error(400);
    bench.post(path, event("e5", json!({ "objectId": "999" }))).await.error(404);
}

#[tokio::test]
async fn tokens_and_sizes_are_checked() {
    let bench = Bench::start().await;
    let template = bench.template().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    let path = "/integrators/timeline/v3/events";
    for (name, value) in [("nosuch", "x"), ("clicks", "many"), ("device", "toaster")] {
        let mut event = click(&template, "e1", "801");
        event["tokens"][name] = value.into();
        assert!(bench.post(path, event).await.error(400)["message"].as_str().unwrap().contains(name));
    }
    let answer = bench.post(path, click(&template, &"x".repeat(501), "801")).await;
    assert_eq!(answer.error(400)["status"], 400, "here status is a number");
    let mut event = click(&template, "e1", "801");
    event["tokens"]["title"] = "x".repeat(511 * 1024).into();
    bench.post(path, event).await.error(400);
    bench.post(path, click("1", "e1", "801")).await.error(404);
    let answer = bench.post(path, json!({ "objectId": "801" })).await;
    assert!(answer.error(400)["message"].as_str().unwrap().contains("eventTemplateId"));
    let many: Vec<Value> = (0..101).map(|n| click(&template, &format!("e{n}"), "801")).collect();
    bench.post("/integrators/timeline/v3/events/batch/create", json!({ "inputs": many })).await.error(400);
    assert!(bench.sandbox.snapshot(PORTAL).events.is_empty());
    let mut event = click(&template, "{{uuid}}", "801");
    event["timestamp"] = Value::Null;
    let answer = bench.post(path, event).await;
    assert_eq!(answer.ok(201)["id"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn templates_are_managed_with_the_developer_key() {
    let bench = Bench::start().await;
    let base = "/crm/v3/timeline/1000001/event-templates";
    let key = "hapikey=sandbox-developer-key";
    bench.get(base).await.error(401);
    bench.get(&format!("/integrators/timeline/v3/5/event-templates?{key}")).await.error(404);
    let id = bench.template().await;
    assert_eq!(bench.get(&format!("{base}?{key}")).await.ok(200)["results"][0]["id"], id.as_str());
    let one = format!("{base}/{id}?{key}");
    assert_eq!(bench.get(&one).await.ok(200)["tokens"].as_array().unwrap().len(), 4);

    let update = json!({ "id": id, "name": "Click", "headerTemplate": "{{title}}", "tokens": [{ "name": "title", "label": "T", "type": "string", "options": [] }] });
    assert_eq!(bench.call(Method::PUT, &one, Some(&update)).await.ok(200)["name"], "Click");
    let country = json!({ "name": "country", "label": "Country", "type": "string", "options": [] });
    let tokens = format!("{base}/{id}/tokens");
    assert_eq!(bench.post(&format!("{tokens}?{key}"), country.clone()).await.ok(200)["name"], "country");
    bench.post(&format!("{tokens}?{key}"), country).await.error(400);
    let renamed = json!({ "label": "Land", "options": [] });
    assert_eq!(bench.call(Method::PUT, &format!("{tokens}/country?{key}"), Some(&renamed)).await.ok(200)["label"], "Land");
    assert_eq!(bench.call(Method::DELETE, &format!("{tokens}/country?{key}"), None).await.status, 204);
    for bad in [
        json!({ "name": "x", "objectType": "contacts", "headerTemplate": "{{#if x}}", "tokens": [] }),
        json!({ "name": "x", "objectType": "contacts", "headerTemplate": "{{extraData.x}}", "tokens": [] }),
        json!({ "name": "x", "objectType": "planets", "tokens": [] }),
        json!({ "name": "x", "objectType": "contacts", "tokens": [{ "name": "log", "label": "L", "type": "string" }] }),
    ] {
        bench.post(&format!("{base}?{key}"), bad).await.error(400);
    }

    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    let event = json!({ "eventTemplateId": id, "id": "e1", "objectId": "801", "tokens": {} });
    bench.post("/crm/v3/timeline/events", event).await.ok(201);
    assert_eq!(bench.call(Method::DELETE, &one, None).await.status, 204);
    assert!(bench.sandbox.snapshot(PORTAL).events.is_empty(), "a template takes its events along");
}
