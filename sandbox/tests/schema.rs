//! Properties, groups, pipelines, associations and search.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_property_is_provisioned_once_and_then_writable() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    for properties in ["/crm/v3/properties/contacts", "/crm/properties/2026-03/contacts", "/crm/properties/2026-09/contacts"] {
        let name = format!("elido_{}", properties.replace(['/', '-'], "_").to_lowercase());
        bench.get(&format!("{properties}/{name}")).await.error(404);
        let new = json!({ "groupName": "elido", "name": name, "label": "Last", "type": "string", "fieldType": "text", "formField": false });
        let group = bench.post(&format!("{properties}/groups"), json!({ "name": "elido", "label": "Elido", "displayOrder": -1 })).await;
        assert!(matches!(group.status, 201 | 409), "{group:?}");
        assert_eq!(bench.post(properties, new.clone()).await.ok(201)["name"], name.as_str());
        bench.post(properties, new).await.error(409);
        let read = bench.get(&format!("{properties}/{name}")).await;
        assert_eq!((&read.ok(200)["type"], &read.body["modificationMetadata"]["readOnlyValue"]), (&"string".into(), &false.into()));
        let mut values = serde_json::Map::new();
        values.insert(name.clone(), "webinar".into());
        let written = bench.patch("/crm/v3/objects/contacts/801", json!({ "properties": values })).await;
        assert_eq!(written.ok(200)["properties"][&name], "webinar");
    }
    let list = bench.get("/crm/v3/properties/contacts").await;
    let all = list.ok(200)["results"].as_array().unwrap();
    let read_only = |name: &str| all.iter().find(|p| p["name"] == name).unwrap()["modificationMetadata"]["readOnlyValue"].clone();
    assert_eq!((read_only("hs_analytics_source_data_1"), read_only("firstname")), (json!(true), json!(false)));
    assert!(!all.iter().any(|p| p["name"] == "original_source_drill_down_1"), "that is a label, not a name");
    assert_eq!(bench.get("/crm/v3/properties/contacts/groups/elido").await.ok(200)["label"], "Elido");
}

#[tokio::test]
async fn definitions_are_checked_changed_and_archived() {
    let bench = Bench::start().await;
    let base = "/crm/v3/properties/deals";
    let new = |name: &str, group: &str, data_type: &str| json!({ "groupName": group, "name": name, "label": "L", "type": data_type, "fieldType": "text" });
    for bad in [
        new("Bad Name", "dealinformation", "string"),
        new("x", "nosuch", "string"),
        new("x", "dealinformation", "colour"),
        new("x", "dealinformation", "bool"),
    ] {
        bench.post(base, bad).await.error(400);
    }
    bench.post(base, json!({ "name": "x" })).await.error(400);
    let batch = json!({ "inputs": [new("one", "dealinformation", "number"), new("amount", "dealinformation", "number")] });
    let answer = bench.post(&format!("{base}/batch/create"), batch).await;
    assert_eq!(
        (&answer.ok(207)["results"][0]["name"], &answer.body["errors"][0]["category"]),
        (&"one".into(), &"OBJECT_ALREADY_EXISTS".into())
    );
    let read =
        bench.post(&format!("{base}/batch/read"), json!({ "archived": false, "inputs": [{ "name": "one" }, { "name": "two" }] })).await;
    assert_eq!(read.ok(207)["numErrors"], 1);
    assert_eq!(bench.patch(&format!("{base}/one"), json!({ "label": "One" })).await.ok(200)["label"], "One");
    bench.patch(&format!("{base}/amount"), json!({ "label": "Sum" })).await.error(400);
    assert_eq!(bench.call(Method::DELETE, &format!("{base}/one"), None).await.status, 204);
    bench.get(&format!("{base}/one")).await.error(404);
    assert_eq!(bench.get(&format!("{base}/one?archived=true")).await.ok(200)["archived"], true);
}

#[tokio::test]
async fn pipelines_name_the_stages_that_deals_may_take() {
    let bench = Bench::start().await;
    for base in ["/crm/v3/pipelines/deals", "/crm/pipelines/2026-03/deals", "/crm/pipelines/2026-09/0-3"] {
        let answer = bench.get(base).await;
        let stages = &answer.ok(200)["results"][0]["stages"];
        let ids: Vec<&str> = stages.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        let expected = [
            "appointmentscheduled",
            "qualifiedtobuy",
            "presentationscheduled",
            "decisionmakerboughtin",
            "contractsent",
            "closedwon",
            "closedlost",
        ];
        assert_eq!(ids, expected);
        assert_eq!(stages[0]["metadata"], json!({ "isClosed": "false", "probability": "0.2" }));
        assert_eq!(stages[0]["createdAt"], "1970-01-01T00:00:00.000Z");
    }
    let stage = |label: &str, order: u32, probability: &str| json!({ "label": label, "displayOrder": order, "metadata": { "probability": probability } });
    let new = json!({ "label": "Renewals", "displayOrder": 1, "stages": [stage("Open", 0, "0.5"), stage("Won", 1, "1.0")] });
    let created = bench.post("/crm/v3/pipelines/deals", new).await;
    let (pipeline, open) = (created.ok(201)["id"].as_str().unwrap(), created.body["stages"][0]["id"].as_str().unwrap());
    assert_eq!(created.body["stages"][1]["metadata"]["isClosed"], "true");
    bench.get(&format!("/crm/v3/pipelines/deals/{pipeline}/stages/{open}")).await.ok(200);
    bench.get("/crm/v3/pipelines/deals/nosuch").await.error(404);

    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &[]);
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": open } })).await.error(400);
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": open, "pipeline": pipeline } })).await.ok(200);
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": "qualifiedtobuy" } })).await.error(400);
}

#[tokio::test]
async fn pipelines_and_groups_are_changed_and_replaced() {
    let bench = Bench::start().await;
    let base = "/crm/pipelines/2026-03/deals";
    let stage = |id: &str, label: &str, order: u32| json!({ "stageId": id, "label": label, "displayOrder": order, "metadata": { "probability": "0.5" } });
    let new = json!({ "label": "Renewals", "displayOrder": 1, "stages": [stage("open", "Open", 0), stage("late", "Late", 1)] });
    let id = bench.post(base, new).await.ok(201)["id"].as_str().unwrap().to_owned();
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("pipeline", &id), ("dealstage", "open")], &[]);
    let path = format!("{base}/{id}");
    assert_eq!(bench.patch(&path, json!({ "label": "Again" })).await.ok(200)["stages"][1]["id"], "late", "the stages stay");
    let replaced = json!({ "label": "Third", "displayOrder": 3, "stages": [stage("late", "Later", 0), stage("open", "Opened", 1)] });
    let answer = bench.call(Method::PUT, &path, Some(&replaced)).await;
    assert_eq!((&answer.ok(200)["label"], &answer.body["stages"][0]["label"]), (&"Third".into(), &"Later".into()));
    let taken = json!({ "label": "Third", "displayOrder": 3, "stages": [stage("closedwon", "Won", 0)] });
    bench.call(Method::PUT, &path, Some(&taken)).await.error(409);
    let one = bench.call(Method::PUT, &format!("{path}/stages/late"), Some(&stage("late", "Last", 5))).await;
    assert_eq!((&one.ok(200)["label"], &one.body["displayOrder"]), (&"Last".into(), &5.into()));
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": "late" } })).await.ok(200);

    let groups = "/crm/v3/properties/contacts/groups";
    bench.post(groups, json!({ "name": "elido", "label": "Elido" })).await.ok(201);
    let patched = bench.patch(&format!("{groups}/elido"), json!({ "displayOrder": 4 })).await;
    assert_eq!((&patched.ok(200)["label"], &patched.body["displayOrder"]), (&"Elido".into(), &4.into()));
    let new = |name: &str| json!({ "groupName": "elido", "name": name, "label": "L", "type": "string", "fieldType": "text" });
    bench.post("/crm/v3/properties/contacts/batch/create", json!({ "inputs": [new("one"), new("two")] })).await.ok(201);
    let archive = async |names: &[&str]| {
        let inputs: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        bench.post("/crm/v3/properties/contacts/batch/archive", json!({ "inputs": inputs })).await.status
    };
    assert_eq!((archive(&["one", "email"]).await, archive(&["one", "nosuch"]).await), (400, 404));
    bench.get("/crm/v3/properties/contacts/one").await.ok(200);
    assert_eq!(archive(&["one", "two"]).await, 204);
    bench.get("/crm/v3/properties/contacts/one").await.error(404);
}

#[tokio::test]
async fn associations_are_read_made_and_taken_away() {
    let bench = Bench::start().await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[]);
    bench.sandbox.create_contact(PORTAL, Some("802"), &[]);
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[], &["801"]);
    bench.sandbox.create_deal(PORTAL, Some("9002"), &[], &["801"]);
    let inputs = json!({ "inputs": [{ "id": "801" }, { "id": "802" }] });
    let answer = bench.post("/crm/v4/associations/contacts/deals/batch/read", inputs.clone()).await;
    let body = answer.ok(207);
    assert_eq!(body["results"][0]["from"]["id"], "801");
    let ids: Vec<&Value> = body["results"][0]["to"].as_array().unwrap().iter().map(|t| &t["toObjectId"]).collect();
    assert_eq!(ids, [&json!(9001), &json!(9002)]);
    assert_eq!(body["results"][0]["to"][0]["associationTypes"], json!([{ "category": "HUBSPOT_DEFINED", "typeId": 4, "label": null }]));
    assert_eq!(body["errors"][0]["subCategory"], "crm.associations.NO_ASSOCIATIONS_FOUND");
    assert_eq!(body["errors"][0]["message"], "No deal is associated with contact 802.");
    assert_eq!(bench.post("/crm/associations/2026-09/contacts/deals/batch/read", inputs).await.ok(200)["numErrors"], 1);
    let back = bench.post("/crm/associations/2026-03/deals/contacts/batch/read", json!({ "inputs": [{ "id": "9001" }] })).await;
    assert_eq!(back.ok(200)["results"][0]["to"][0]["associationTypes"][0]["typeId"], 3);

    let page = bench.get("/crm/v4/objects/contacts/801/associations/deals?limit=1").await;
    assert_eq!((&page.ok(200)["results"][0]["toObjectId"], &page.body["paging"]["next"]["after"]), (&9001.into(), &"9002".into()));
    bench.call(Method::PUT, "/crm/v4/objects/contacts/802/associations/default/deals/9001", None).await.ok(200);
    let types = json!([{ "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 4 }]);
    let put = "/crm/objects/2026-03/contacts/802/associations/deals/9002";
    bench.call(Method::PUT, put, Some(&types)).await.ok(201);
    bench.call(Method::PUT, put, Some(&json!([{ "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 5 }]))).await.error(400);
    assert_eq!(bench.call(Method::DELETE, "/crm/v4/objects/contacts/801/associations/deals/9001", None).await.status, 204);
    let remove = json!({ "inputs": [{ "from": { "id": "801" }, "to": [{ "id": "9002" }] }] });
    assert_eq!(bench.post("/crm/v4/associations/contacts/deals/batch/archive", remove).await.status, 204);
    let pair =
        json!({ "inputs": [{ "from": { "id": "801" }, "to": { "id": "9002" } }, { "from": { "id": "1" }, "to": { "id": "9002" } }] });
    assert_eq!(bench.post("/crm/v4/associations/contacts/deals/batch/associate/default", pair).await.ok(200)["numErrors"], 1);
    let snapshot = bench.sandbox.snapshot(PORTAL);
    assert_eq!(snapshot.deal("9001").unwrap().contact_ids, ["802"]);
    assert_eq!(snapshot.deal("9002").unwrap().contact_ids, ["801", "802"]);
}

#[tokio::test]
async fn search_filters_sorts_and_pages() {
    let bench = Bench::start_with(|config| config.search_limit = 1_000).await;
    bench.sandbox.create_contact(PORTAL, Some("801"), &[("email", "ada@example.com")]);
    for (id, amount, stage) in
        [("9001", "900", "appointmentscheduled"), ("9002", "12000", "qualifiedtobuy"), ("9003", "5000", "qualifiedtobuy")]
    {
        bench.clock.advance(Duration::from_secs(1));
        bench.sandbox.create_deal(
            PORTAL,
            Some(id),
            &[("amount", amount), ("dealstage", stage), ("dealname", id)],
            &["801"][..usize::from(id != "9001")],
        );
    }
    bench.sandbox.create_deal(PORTAL, Some("9004"), &[("dealname", "no amount")], &[]);
    let ids = async |query: Value| -> Vec<String> {
        let answer = bench.post("/crm/v3/objects/deals/search", query).await;
        answer.ok(200)["results"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    let filter = |name: &str, operator: &str, value: &str| json!({ "filterGroups": [{ "filters": [{ "propertyName": name, "operator": operator, "value": value }] }] });
    assert_eq!(ids(filter("amount", "GTE", "5000")).await, ["9002", "9003"], "numbers compare as numbers");
    assert_eq!(ids(filter("dealstage", "EQ", "qualifiedtobuy")).await, ["9002", "9003"]);
    assert_eq!(ids(filter("hs_lastmodifieddate", "GT", "1795421732123")).await, ["9003", "9004"], "times take epoch milliseconds");
    assert_eq!(ids(filter("associations.contact", "EQ", "801")).await, ["9002", "9003"]);
    assert_eq!(ids(filter("dealname", "CONTAINS_TOKEN", "amount")).await, ["9004"]);
    let no_amount = json!({ "filters": [{ "propertyName": "amount", "operator": "NOT_HAS_PROPERTY" }] });
    assert_eq!(ids(no_amount).await, ["9004"]);
    let listed = json!({ "filters": [{ "propertyName": "dealstage", "operator": "IN", "values": ["appointmentscheduled", "closedwon"] }] });
    assert_eq!(ids(listed).await, ["9001"]);
    let sorted = json!({ "sorts": [{ "propertyName": "amount", "direction": "DESCENDING" }], "filters": [{ "propertyName": "amount", "operator": "HAS_PROPERTY" }] });
    assert_eq!(ids(sorted).await, ["9002", "9003", "9001"]);
    let page = bench.post("/crm/v3/objects/deals/search", json!({ "limit": 3 })).await;
    assert_eq!((&page.ok(200)["total"], &page.body["paging"]["next"]["after"]), (&4.into(), &"3".into()));
    assert_eq!(ids(json!({ "limit": 3, "after": "3" })).await, ["9004"]);

    let names = |value: &str| json!({ "filters": [{ "propertyName": "dealname", "operator": "IN", "values": [value] }] });
    bench.sandbox.edit_deal(PORTAL, "9004", &[("dealname", "No Amount")]);
    assert_eq!((ids(names("no amount")).await, ids(names("No Amount")).await), (vec!["9004".to_owned()], vec![]), "IN wants lower case");
    bench.post("/crm/v3/objects/deals/search", filter("dealname", "EQ", &"x".repeat(3_000))).await.error(400);
    bench.post("/crm/v3/objects/deals/search", filter("nosuch", "EQ", "x")).await.error(400);
    bench.post("/crm/v3/objects/deals/search", json!({ "limit": 201 })).await.error(400);
    bench.post("/crm/v3/objects/deals/search", json!({ "limit": 200, "after": "9900" })).await.error(400);
    bench.post("/crm/v3/objects/deals/search", filter("amount", "ABOUT", "1")).await.error(400);
}

#[tokio::test]
async fn search_lags_behind_as_configured() {
    let bench = Bench::start_with(|config| config.search_delay = Duration::from_secs(20)).await;
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &[]);
    let query = json!({ "filters": [{ "propertyName": "dealstage", "operator": "EQ", "value": "appointmentscheduled" }] });
    let total = async || bench.post("/crm/v3/objects/deals/search", query.clone()).await.ok(200)["total"].clone();
    assert_eq!(total().await, 0);
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(total().await, 1);
    bench.sandbox.edit_deal(PORTAL, "9001", &[("dealstage", "closedlost")]);
    assert_eq!(total().await, 1, "search still sees the old stage");
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(total().await, 0);
}
