//! Forms and their submissions, and what the GDPR leaves of a person.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn submissions_are_listed_newest_first_and_make_contacts() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
    let form = bench.sandbox.create_form(PORTAL, Some("f-1"), "Contact us", &["email", "firstname"]);
    let list = format!("/form-integrations/v1/submissions/forms/{form}");
    assert_eq!(bench.get(&list).await.ok(200)["results"], json!([]));
    for (n, email) in ["ada@example.com", "grace@example.com", "Ada@Example.com"].iter().enumerate() {
        let page = format!("https://x.com/p?gclid=AbC{n}&utm_source=webinar");
        bench.sandbox.submit_form(PORTAL, &form, &[("email", email), ("firstname", &format!("N{n}"))], &page);
        bench.clock.advance(Duration::from_secs(1));
    }
    let page = bench.get(&format!("{list}?limit=2")).await;
    let results = page.ok(200)["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["pageUrl"]), (2, &"https://x.com/p?gclid=AbC2&utm_source=webinar".into()));
    assert_eq!(results[1]["values"], json!([{ "name": "email", "value": "grace@example.com" }, { "name": "firstname", "value": "N1" }]));
    assert!(results[0]["conversionId"] != results[1]["conversionId"] && results[0].get("contactId").is_none());
    let after = page.body["paging"]["next"]["after"].as_str().unwrap();
    let rest = bench.get(&format!("{list}?limit=2&after={after}")).await;
    assert_eq!((rest.ok(200)["results"].as_array().unwrap().len(), rest.body.get("paging")), (1, None));
    bench.get(&format!("{list}?limit=51")).await.error(400);
    bench.get("/form-integrations/v1/submissions/forms/none").await.error(404);

    let snapshot = bench.sandbox.snapshot(PORTAL);
    assert_eq!(snapshot.contacts.len(), 2, "the address of the third one is known");
    let ada = snapshot.contact("801").unwrap();
    assert_eq!((ada.properties["firstname"].as_str(), ada.properties["hs_google_click_id"].as_str()), ("N2", "AbC2"));

    bench.sandbox.erase_contact(PORTAL, "801");
    let left = bench.get(&list).await;
    assert_eq!(left.ok(200)["results"].as_array().unwrap().len(), 1, "her submissions went with her");
}

#[tokio::test]
async fn a_browser_submits_and_is_told_what_is_wrong() {
    let bench = Bench::start().await;
    let fields = json!([{ "name": "email", "required": true }]);
    let made = bench.post("/sandbox/portals/4242/forms", json!({ "guid": "f-1", "name": "F", "fields": fields })).await;
    assert_eq!(made.ok(201)["guid"], "f-1");
    let submit = async |fields: Value| {
        let request = bench.request(Method::POST, "/submissions/v3/integration/submit/4242/f-1").json(&json!({ "fields": fields }));
        bench.send(request).await
    };
    let sent = submit(json!([{ "objectTypeId": "0-1", "name": "email", "value": "a@example.com" }])).await;
    assert!(sent.ok(200)["inlineMessage"].is_string());
    for (fields, kind) in [
        (json!([]), "REQUIRED_FIELD"),
        (json!([{ "name": "email", "value": "none" }]), "INVALID_EMAIL"),
        (json!([{ "name": "email", "value": "b@example.com" }, { "name": "city", "value": "x" }]), "FIELD_NOT_IN_FORM_DEFINITION"),
    ] {
        assert_eq!(submit(fields).await.error(400)["errors"][0]["errorType"], kind);
    }
    let other = bench.request(Method::POST, "/submissions/v3/integration/submit/77/f-1").json(&json!({ "fields": [] }));
    bench.send(other).await.error(404);
    let no_property = json!({ "name": "F", "fields": [{ "name": "nosuch" }] });
    bench.post("/sandbox/portals/4242/forms", no_property).await.error(400);
    let listed = bench.get("/marketing/v3/forms?limit=1").await;
    assert_eq!(listed.ok(200)["results"][0]["fieldGroups"][0]["fields"][0]["fieldType"], "email");
    assert_eq!(bench.sandbox.snapshot(PORTAL).contacts.len(), 1);
}

#[tokio::test]
async fn an_erased_contact_leaves_nothing_and_an_archived_one_comes_back() {
    let bench = Bench::start().await;
    let contact = bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[], &[&contact]);
    let template = bench.template().await;
    let event = json!({ "eventTemplateId": template, "id": "e", "objectId": "801", "tokens": { "title": "T", "link": "x" } });
    bench.post("/integrators/timeline/v3/events", event).await.ok(201);
    bench.sandbox.archive_contact(PORTAL, "801");
    bench.get("/crm/v3/objects/contacts/801").await.error(404);
    bench.sandbox.restore_contact(PORTAL, "801");
    bench.get("/crm/v3/objects/contacts/ada@example.com?idProperty=email").await.ok(200);
    assert!(bench.sandbox.snapshot(PORTAL).deal("9001").unwrap().contact_ids.is_empty(), "associations went with the archive");
    bench.sandbox.associate(PORTAL, "801", "9001");

    bench.post("/crm/objects/2026-03/deals/gdpr-delete", json!({ "objectId": "9001" })).await.error(400);
    let by_email = json!({ "objectId": "ada@example.com", "idProperty": "email" });
    assert_eq!(bench.post("/crm/objects/2026-03/contacts/gdpr-delete", by_email.clone()).await.status, 204);
    let snapshot = bench.sandbox.snapshot(PORTAL);
    assert!(snapshot.contacts.is_empty() && snapshot.events.is_empty() && snapshot.deal("9001").unwrap().contact_ids.is_empty());
    bench.get("/crm/v3/objects/contacts/801?archived=true").await.error(404);
    assert_eq!(bench.post("/crm/v3/objects/contacts/gdpr-delete", by_email).await.status, 204, "an unknown address is a success");
    bench.post("/crm/v3/objects/contacts/gdpr-delete", json!({ "objectId": "801" })).await.error(404);
    let again = bench.post("/crm/v3/objects/contacts", json!({ "properties": { "email": "ada@example.com" } })).await;
    assert_ne!(again.ok(201)["id"], "801");
}
