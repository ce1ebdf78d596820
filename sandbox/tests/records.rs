//! Contacts and deals: single calls, batches, merges, on every path generation.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const CONTACTS: &str = "/crm/v3/objects/contacts";
const DEALS: &str = "/crm/v3/objects/deals";

/// Two contacts and a deal of the first one.
async fn bench() -> Bench {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com"), ("hs_analytics_source_data_1", "ebook")]);
    bench.sandbox.create_contact(PORTAL, Some("802"), &[("email", "grace@example.com"), ("firstname", "Grace")]);
    let deal = [("dealname", "Engine"), ("amount", "12000"), ("dealstage", "appointmentscheduled")];
    bench.sandbox.create_deal(PORTAL, Some("9001"), &deal, &["801"]);
    bench
}

#[tokio::test]
async fn records_read_alike_on_every_generation_of_paths() {
    let bench = bench().await;
    for objects in ["/crm/v3/objects", "/crm/objects/2026-03", "/crm/objects/2026-09"] {
        for kind in ["contacts", "0-1"] {
            let answer = bench.get(&format!("{objects}/{kind}/801?properties=email,firstname,nosuch&associations=deals")).await;
            let contact = answer.ok(200);
            assert_eq!((&contact["id"], &contact["properties"]["email"]), (&"801".into(), &"ada@example.com".into()));
            assert_eq!((&contact["properties"]["firstname"], contact["properties"].get("nosuch")), (&Value::Null, None));
            assert_eq!(contact["associations"]["deals"]["results"][0], json!({ "id": "9001", "type": "contact_to_deal" }));
        }
        let answer = bench.get(&format!("{objects}/0-3/9001?propertiesWithHistory=dealstage")).await;
        assert_eq!(answer.ok(200)["propertiesWithHistory"]["dealstage"][0]["value"], "appointmentscheduled");
        let by_email = bench.get(&format!("{objects}/contacts/Grace@Example.com?idProperty=email")).await;
        assert_eq!(by_email.ok(200)["id"], "802");
        assert_eq!(bench.get(&format!("{objects}/contacts/999")).await.error(404)["category"], "OBJECT_NOT_FOUND");
        bench.get(&format!("{objects}/planets/1")).await.error(400);
    }
    bench.get("/crm/v5/objects/contacts").await.error(404);
    assert_eq!(bench.call(Method::PUT, CONTACTS, None).await.error(405)["status"], "error");
    let page = bench.get(&format!("{CONTACTS}?limit=1")).await;
    assert_eq!((&page.ok(200)["results"][0]["id"], &page.body["paging"]["next"]["after"]), (&"801".into(), &"802".into()));
    let last = bench.get(&format!("{CONTACTS}?limit=1&after=802")).await;
    assert_eq!((&last.ok(200)["results"][0]["id"], last.body.get("paging")), (&"802".into(), None));
    bench.get(&format!("{CONTACTS}?limit=101")).await.error(400);
}

#[tokio::test]
async fn writes_are_kept_as_text_with_their_history() {
    let bench = bench().await;
    bench.clock.advance(Duration::from_secs(60));
    let answer = bench.patch(&format!("{DEALS}/9001"), json!({ "properties": { "amount": 5000.5, "dealname": null } })).await;
    assert_eq!((&answer.ok(200)["properties"]["amount"], &answer.body["properties"]["dealname"]), (&"5000.5".into(), &Value::Null));
    assert_eq!(answer.body["updatedAt"], "2026-11-23T08:16:30.123Z");
    for stage in ["qualifiedtobuy", "qualifiedtobuy", "closedwon"] {
        bench.patch(&format!("{DEALS}/9001"), json!({ "properties": { "dealstage": stage } })).await.ok(200);
    }
    let snapshot = bench.sandbox.snapshot(PORTAL);
    let deal = snapshot.deal("9001").unwrap();
    let stages: Vec<(&str, &str)> = deal.stages.iter().map(|s| (s.stage.as_str(), s.source_type.as_str())).collect();
    assert_eq!(stages, [("appointmentscheduled", "IMPORT"), ("qualifiedtobuy", "INTEGRATION"), ("closedwon", "INTEGRATION")]);
    assert_eq!((deal.properties["hs_is_closed"].as_str(), deal.properties["hs_is_closed_won"].as_str()), ("true", "true"));
    assert_eq!((deal.history["dealstage"], deal.contact_ids.as_slice()), (3, &["801".to_owned()][..]));
}

#[tokio::test]
async fn refused_values_come_in_both_shapes() {
    let bench = bench().await;
    let contact = format!("{CONTACTS}/801");
    let answer = bench.patch(&contact, json!({ "properties": { "missing": "x", "firstname": "Ada" } })).await;
    assert_eq!(answer.error(400)["category"], "VALIDATION_ERROR");
    let (_, list) = answer.body["message"].as_str().unwrap().split_once("Property values were not valid: ").unwrap();
    let list: Value = serde_json::from_str(list).unwrap();
    let expected = json!([{ "isValid": false, "message": "Property \"missing\" does not exist", "error": "PROPERTY_DOESNT_EXIST", "name": "missing" }]);
    assert_eq!(list, expected);

    let answer = bench.patch(&contact, json!({ "properties": { "hs_analytics_source_data_1": "webinar" } })).await;
    let detail = &answer.error(400)["errors"][0];
    assert_eq!((&detail["code"], &detail["context"]["propertyName"][0]), (&"READ_ONLY_VALUE".into(), &"hs_analytics_source_data_1".into()));
    assert_eq!(detail["message"], "\"hs_analytics_source_data_1\" is a read only property; its value cannot be set.");

    let stage = bench.patch(&format!("{DEALS}/9001"), json!({ "properties": { "dealstage": "engaged" } })).await;
    assert!(stage.error(400)["message"].as_str().unwrap().contains("INVALID_OPTION"));
    bench.patch(&contact, json!({ "properties": { "email": { "a": 1 } } })).await.error(400);
    let text = bench.request(Method::PATCH, &contact).body("{}");
    bench.send(text.bearer_auth("x")).await.error(401);

    let taken = bench.post(CONTACTS, json!({ "properties": { "email": "ada@example.com" } })).await;
    assert_eq!(taken.error(409)["message"], "Contact already exists. Existing ID: 801");
    assert_eq!(taken.body["category"], "CONFLICT");
    bench.patch(&contact, json!({ "properties": { "email": "grace@example.com" } })).await.error(409);
    let snapshot = bench.sandbox.snapshot(PORTAL);
    let ada = &snapshot.contact("801").unwrap().properties;
    assert_eq!((ada.get("firstname"), ada["hs_analytics_source_data_1"].as_str()), (None, "ebook"), "a refused write leaves nothing");
}

#[tokio::test]
async fn records_are_created_with_associations_and_archived() {
    let bench = bench().await;
    let association = json!([{ "to": { "id": "802" }, "types": [{ "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 3 }] }]);
    let new = json!({ "properties": { "dealname": "Compiler", "dealstage": "contractsent" }, "associations": association });
    let answer = bench.post(DEALS, new).await;
    assert_eq!(answer.ok(201)["properties"]["pipeline"], "default");
    let id = answer.body["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.sandbox.snapshot(PORTAL).deal(&id).unwrap().contact_ids, ["802"]);
    assert_eq!(bench.call(Method::DELETE, &format!("{DEALS}/{id}"), None).await.status, 204);
    assert_eq!(bench.call(Method::DELETE, &format!("{DEALS}/{id}"), None).await.status, 204);
    bench.get(&format!("{DEALS}/{id}")).await.error(404);
    assert_eq!(bench.get(&format!("{DEALS}/{id}?archived=true")).await.ok(200)["archived"], true);
    assert_eq!(bench.get(&format!("{DEALS}?archived=true")).await.ok(200)["results"][0]["id"], id.as_str());
}

#[tokio::test]
async fn a_batch_goes_on_without_records_that_do_not_exist() {
    let bench = bench().await;
    let read = json!({ "inputs": [{ "id": "801" }, { "id": "999" }], "properties": ["email"], "propertiesWithHistory": [] });
    let answer = bench.post(&format!("{CONTACTS}/batch/read"), read.clone()).await;
    let body = answer.ok(207);
    assert_eq!((&body["status"], &body["numErrors"], body["results"].as_array().unwrap().len()), (&"COMPLETE".into(), &1.into(), 1));
    assert_eq!((&body["errors"][0]["category"], &body["errors"][0]["context"]["ids"]), (&"OBJECT_NOT_FOUND".into(), &json!(["999"])));
    let dated = bench.post("/crm/objects/2026-09/contacts/batch/read", read).await;
    assert_eq!(dated.ok(200)["numErrors"], 1, "2026-09 knows no 207");
    let by_email =
        json!({ "inputs": [{ "id": "grace@example.com" }], "properties": [], "propertiesWithHistory": [], "idProperty": "email" });
    assert_eq!(bench.post(&format!("{CONTACTS}/batch/read"), by_email).await.ok(200)["results"][0]["id"], "802");

    let write = |id: &str, name: &str| json!({ "id": id, "properties": { "firstname": name }, "objectWriteTraceId": format!("t{id}") });
    let answer = bench.post(&format!("{CONTACTS}/batch/update"), json!({ "inputs": [write("801", "Ada"), write("999", "X")] })).await;
    assert_eq!(answer.ok(207)["errors"][0]["context"], json!({ "ids": ["999"], "objectWriteTraceId": ["t999"] }));
    assert_eq!(answer.body["results"][0]["objectWriteTraceId"], "t801");
    assert_eq!(bench.sandbox.snapshot(PORTAL).contact("801").unwrap().properties["firstname"], "Ada");
}

#[tokio::test]
async fn a_batch_is_refused_whole_for_what_is_wrong_with_it() {
    let bench = bench().await;
    let path = format!("{CONTACTS}/batch/update");
    let write = |id: &str, name: &str| json!({ "id": id, "properties": { "firstname": name } });
    let answer = bench.post(&path, json!({ "inputs": [write("801", "A"), write("801", "B"), write("802", "C")] })).await;
    assert_eq!(answer.error(400)["message"], "Duplicate IDs found in batch input: [801]. IDs must be unique");
    assert_eq!((&answer.body["context"]["ids"], &answer.body["category"]), (&json!(["801"]), &"VALIDATION_ERROR".into()));
    let same = json!({ "id": "ada@example.com", "idProperty": "email", "properties": { "firstname": "B" } });
    bench.post(&path, json!({ "inputs": [write("801", "A"), same] })).await.error(400);
    let many: Vec<Value> = (0..101).map(|n| write(&n.to_string(), "X")).collect();
    bench.post(&path, json!({ "inputs": many })).await.error(400);
    bench.post(&path, json!({ "inputs": [] })).await.error(400);

    let bad = json!({ "id": "802", "properties": { "missing": "x" } });
    bench.post(&path, json!({ "inputs": [write("801", "A"), bad] })).await.error(400);
    assert_eq!(bench.sandbox.snapshot(PORTAL).contact("801").unwrap().properties.get("firstname"), None, "nothing was written");
    let traced = json!({ "inputs": [
        { "id": "801", "properties": { "firstname": "A" }, "objectWriteTraceId": "t1" },
        { "id": "802", "properties": { "missing": "x" }, "objectWriteTraceId": "t2" },
    ] });
    let answer = bench.post(&path, traced).await;
    assert_eq!(
        (&answer.ok(207)["errors"][0]["category"], answer.body["results"].as_array().unwrap().len()),
        (&"VALIDATION_ERROR".into(), 1)
    );
    assert_eq!(answer.body["errors"][0]["context"]["objectWriteTraceId"], json!(["t2"]));
}

#[tokio::test]
async fn batches_create_upsert_and_archive() {
    let bench = bench().await;
    let create = json!({ "inputs": [{ "properties": { "email": "new@example.com" } }, { "properties": { "firstname": "Nobody" } }] });
    assert_eq!(bench.post(&format!("{CONTACTS}/batch/create"), create.clone()).await.ok(201)["results"].as_array().unwrap().len(), 2);
    bench.post(&format!("{CONTACTS}/batch/create"), create).await.error(409);

    let upsert = json!({ "inputs": [
        { "id": "ada@example.com", "idProperty": "email", "properties": { "firstname": "Ada" } },
        { "id": "third@example.com", "idProperty": "email", "properties": { "firstname": "Third" } },
    ] });
    let answer = bench.post(&format!("{CONTACTS}/batch/upsert"), upsert).await;
    let new: Vec<&Value> = answer.ok(200)["results"].as_array().unwrap().iter().map(|r| &r["new"]).collect();
    assert_eq!(new, [&json!(false), &json!(true)]);
    let not_unique = json!({ "inputs": [{ "id": "Ada", "idProperty": "firstname", "properties": {} }] });
    bench.post(&format!("{CONTACTS}/batch/upsert"), not_unique).await.error(400);

    let archive = json!({ "inputs": [{ "id": "801" }, { "id": "999" }] });
    assert_eq!(bench.post(&format!("{CONTACTS}/batch/archive"), archive).await.status, 204);
    bench.get(&format!("{CONTACTS}/801")).await.error(404);
    bench.post(CONTACTS, json!({ "properties": { "email": "ada@example.com" } })).await.ok(201);
}

#[tokio::test]
async fn a_merge_leaves_one_contact_with_everything() {
    let bench = bench().await;
    let template = bench.template().await;
    let event = json!({ "eventTemplateId": template, "id": "e1", "objectId": "801", "tokens": {} });
    bench.post("/integrators/timeline/v3/events", event).await.ok(201);
    let merge = json!({ "primaryObjectId": "802", "objectIdToMerge": "801" });
    let answer = bench.post(&format!("{CONTACTS}/merge"), merge.clone()).await;
    assert_eq!((&answer.ok(200)["id"], &answer.body["properties"]["email"]), (&"802".into(), &"grace@example.com".into()));
    bench.post(&format!("{CONTACTS}/merge"), merge).await.error(400);

    let snapshot = bench.sandbox.snapshot(PORTAL);
    let grace = snapshot.contact("802").unwrap();
    assert_eq!((grace.merged_ids.as_slice(), snapshot.contacts.len()), (&["801".to_owned()][..], 1));
    assert_eq!((grace.properties["hs_additional_emails"].as_str(), grace.properties["firstname"].as_str()), ("ada@example.com", "Grace"));
    assert_eq!(
        (snapshot.events[0].object_id.as_str(), snapshot.deal("9001").unwrap().contact_ids.as_slice()),
        ("802", &["802".to_owned()][..])
    );
    assert_eq!(bench.get(&format!("{CONTACTS}/801")).await.ok(200)["id"], "802", "the old id leads to the survivor");
    assert_eq!(bench.get(&format!("{CONTACTS}/ada@example.com?idProperty=email")).await.ok(200)["id"], "802");
    let batch = json!({ "inputs": [{ "id": "801" }, { "id": "802" }], "properties": [], "propertiesWithHistory": [] });
    assert_eq!(
        bench.post(&format!("{CONTACTS}/batch/read"), batch).await.ok(200)["results"].as_array().unwrap().len(),
        1,
        "batches leave it out"
    );
}
