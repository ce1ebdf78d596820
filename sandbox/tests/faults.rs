//! Scripted faults: each kind, what it lets happen, and what the log says of it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use clickline_sandbox::{Config, Rotation, Sandbox};
use common::{Bench, PORTAL};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const UPDATE: &str = "/crm/v3/objects/contacts/batch/update";

fn rename(ids: &[&str], name: &str) -> Value {
    let inputs: Vec<Value> =
        ids.iter().map(|id| json!({ "id": id, "properties": { "firstname": name }, "objectWriteTraceId": format!("t{id}") })).collect();
    json!({ "inputs": inputs })
}

/// A bench with contacts 801 to 805.
async fn bench() -> Bench {
    let bench = Bench::start().await;
    for id in ["801", "802", "803", "804", "805"] {
        bench.sandbox.create_contact(PORTAL, Some(id), &[("firstname", "Ada")]);
    }
    bench
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    sandbox.snapshot(PORTAL).contacts.iter().map(|c| c.properties["firstname"].clone()).collect()
}

#[tokio::test]
async fn another_answer_is_given_with_or_without_effect() {
    let bench = bench().await;
    bench.sandbox.play_faults(json!({ "rules": [
        { "name": "busy", "match": { "path": "*/batch/update", "nth": [1] },
          "fault": { "kind": "reply", "status": 429, "policy": "TEN_SECONDLY_ROLLING", "retry_after": 3 } },
        { "match": { "path": "*/batch/update", "nth": [2] }, "fault": { "kind": "reply", "status": 429, "policy": "DAILY" } },
        { "match": { "path": "*/batch/update", "nth": [3] }, "fault": { "kind": "reply", "status": 502, "page": "html" } },
        { "match": { "path": "*/batch/update", "nth": [4] }, "fault": { "kind": "reply", "status": 200, "page": "empty", "apply": true } },
        { "match": { "path": "*/batch/update", "nth": [5] },
          "fault": { "kind": "reply", "status": 477, "headers": [["retry-after", "60"]], "body": { "message": "moving" } } },
    ] }));
    let update = async |name: &str| bench.post(UPDATE, rename(&["801"], name)).await;
    let busy = update("B").await;
    assert_eq!((busy.status, busy.header("retry-after"), &busy.error(429)["policyName"]), (429, Some("3"), &"TEN_SECONDLY_ROLLING".into()));
    let daily = update("B").await;
    assert_eq!((daily.header("retry-after"), &daily.error(429)["message"]), (None, &"You have reached your daily limit.".into()));
    assert!(daily.body["requestId"].is_string());
    let html = update("B").await;
    assert_eq!((html.status, html.header("content-type")), (502, Some("text/html; charset=utf-8")));
    assert!(html.body.as_str().unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(names(&bench.sandbox)[0], "Ada", "nothing of that had an effect");
    let empty = update("Grace").await;
    assert_eq!((empty.status, empty.body), (200, Value::String(String::new())));
    assert_eq!(names(&bench.sandbox)[0], "Grace", "that had");
    let moving = update("B").await;
    assert_eq!((moving.status, moving.header("retry-after"), &moving.body["message"]), (477, Some("60"), &"moving".into()));
    update("Alan").await.ok(200);
    let log = bench.sandbox.requests();
    let hits: Vec<(u16, Option<&str>, bool)> =
        log.iter().filter(|r| r.path == UPDATE).map(|r| (r.status, r.fault.as_deref(), r.applied)).collect();
    let expected = [
        (429, Some("busy"), false),
        (429, Some("rule 2"), false),
        (502, Some("rule 3"), false),
        (200, Some("rule 4"), true),
        (477, Some("rule 5"), false),
        (200, None, true),
    ];
    assert_eq!(hits, expected);
}

#[tokio::test]
async fn a_connection_is_closed_before_or_after_the_effect() {
    let bench = bench().await;
    bench.sandbox.fault(json!({ "match": { "path": "*/batch/update", "times": 1 }, "fault": { "kind": "close" } }));
    bench.sandbox.fault(json!({ "match": { "path": "*/batch/update", "nth": [2] }, "fault": { "kind": "close", "apply": true } }));
    bench.sandbox.fault(json!({ "match": { "path": "*/batch/update", "nth": [3] }, "fault": { "kind": "hold", "ms": 50, "apply": true } }));
    bench.try_post(UPDATE, &rename(&["801"], "B")).await.unwrap_err();
    assert_eq!(names(&bench.sandbox)[0], "Ada");
    bench.try_post(UPDATE, &rename(&["801"], "Grace")).await.unwrap_err();
    assert_eq!(names(&bench.sandbox)[0], "Grace");
    let started = Instant::now();
    bench.try_post(UPDATE, &rename(&["801"], "Alan")).await.unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(names(&bench.sandbox)[0], "Alan");
    let log = bench.sandbox.requests();
    let hits: Vec<(u16, bool)> = log.iter().filter(|r| r.path == UPDATE).map(|r| (r.status, r.applied)).collect();
    assert_eq!(hits, [(0, false), (0, true), (0, true)], "status 0: the caller got no answer");
    bench.post(UPDATE, rename(&["801"], "Ada")).await.ok(200);
}

#[tokio::test]
async fn bodies_come_slowly_cut_off_endless_or_as_a_bomb() {
    let bench = bench().await;
    let fault = |fault: Value| bench.sandbox.play_faults(json!({ "rules": [{ "match": { "path": "*/contacts/801" }, "fault": fault }] }));
    let whole = bench.get("/crm/v3/objects/contacts/801").await.body;

    fault(json!({ "kind": "dribble", "bytes": 40, "every_ms": 5 }));
    let started = Instant::now();
    assert_eq!(bench.get("/crm/v3/objects/contacts/801").await.body, whole);
    assert!(started.elapsed() >= Duration::from_millis(25));
    fault(json!({ "kind": "delay", "ms": 40 }));
    let started = Instant::now();
    assert_eq!(bench.get("/crm/v3/objects/contacts/801").await.body, whole);
    assert!(started.elapsed() >= Duration::from_millis(40));

    let get = || bench.request(Method::GET, "/crm/v3/objects/contacts/801").bearer_auth(&bench.token).send();
    fault(json!({ "kind": "truncate", "bytes": 10 }));
    let response = get().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.content_length().unwrap() > 10);
    response.bytes().await.unwrap_err();
    fault(json!({ "kind": "endless" }));
    let mut response = get().await.unwrap();
    let mut read = 0;
    while read < 1_000_000 {
        read += response.chunk().await.unwrap().unwrap().len();
    }
    drop(response);
    fault(json!({ "kind": "bomb", "bytes": 3_000_000 }));
    let response = get().await.unwrap();
    assert_eq!(response.bytes().await.unwrap().len(), 3_000_000, "the client unpacks it");
}

#[tokio::test]
async fn parts_of_a_batch_fail_and_results_come_in_another_order() {
    let bench = bench().await;
    let ids = ["801", "802", "803", "804", "805"];
    bench.sandbox.play_faults(json!({ "seed": 3, "rules": [
        { "match": { "path": "*/batch/update", "nth": [1] }, "fault": { "kind": "partial", "inputs": [1, 3], "category": "RATE_LIMITS", "reorder": true } },
        { "match": { "path": "*/batch/update", "nth": [2] }, "fault": { "kind": "partial", "share": 1.0, "status": 200 } },
        { "match": { "path": "*/batch/update" }, "fault": { "kind": "reorder" } },
    ] }));
    let part = bench.post(UPDATE, rename(&ids, "Grace")).await;
    let body = part.ok(207);
    assert_eq!((body["results"].as_array().unwrap().len(), &body["numErrors"]), (3, &2.into()));
    let order: Vec<&str> = body["results"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_ne!(order, ["801", "803", "805"]);
    assert_eq!(body["errors"][0]["context"], json!({ "ids": ["802"], "objectWriteTraceId": ["t802"] }));
    assert_eq!((&body["errors"][1]["category"], &body["errors"][1]["context"]["ids"][0]), (&"RATE_LIMITS".into(), &"804".into()));
    assert_eq!(names(&bench.sandbox), ["Grace", "Ada", "Grace", "Ada", "Grace"], "the failed ones had no effect");
    let none = bench.post(UPDATE, rename(&ids, "Alan")).await;
    assert_eq!((&none.ok(200)["results"], &none.body["numErrors"]), (&json!([]), &5.into()));
    assert!(!names(&bench.sandbox).contains(&"Alan".to_owned()));
    let mixed = bench.post(UPDATE, rename(&ids, "Alan")).await;
    let order: Vec<&str> = mixed.ok(200)["results"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_ne!(order, ids);
    assert_eq!(order.len(), 5);
    assert!(names(&bench.sandbox).iter().all(|name| name == "Alan"));
}

#[tokio::test]
async fn a_person_interferes_between_a_read_and_a_write() {
    let bench = bench().await;
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &[]);
    let edit = json!({ "kind": "edit", "object": "deals", "id": "9001", "properties": { "dealstage": "closedlost" } });
    bench.sandbox.fault(json!({ "match": { "method": "PATCH", "path": "*/deals/9001" }, "fault": edit }));
    let moved = bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": "qualifiedtobuy" } })).await;
    assert_eq!(moved.ok(200)["properties"]["dealstage"], "qualifiedtobuy");
    let stages: Vec<(String, String)> =
        bench.sandbox.snapshot(PORTAL).deals[0].stages.iter().map(|s| (s.stage.clone(), s.source_type.clone())).collect();
    let expected = [("appointmentscheduled", "IMPORT"), ("closedlost", "CRM_UI"), ("qualifiedtobuy", "INTEGRATION")];
    assert_eq!(stages, expected.map(|(stage, by)| (stage.to_owned(), by.to_owned())));
}

#[tokio::test]
async fn tokens_expire_and_grants_are_revoked_in_the_middle() {
    let mut bench = bench().await;
    let refresh_token = bench.sandbox.refresh_token(PORTAL);
    bench.token = bench.access_token(&refresh_token).await;
    bench.sandbox.fault(json!({ "match": { "path": "*/batch/update", "nth": [2] }, "fault": { "kind": "expire_token" } }));
    bench.sandbox.fault(json!({ "match": { "path": "*/batch/update", "nth": [3] }, "fault": { "kind": "revoke_grant" } }));
    bench.post(UPDATE, rename(&["801"], "Grace")).await.ok(200);
    assert_eq!(bench.post(UPDATE, rename(&["801"], "B")).await.error(401)["category"], "EXPIRED_AUTHENTICATION");
    bench.token = bench.access_token(&refresh_token).await;
    bench.post(UPDATE, rename(&["801"], "Alan")).await.ok(200);
    let dead = bench.refresh("2026-03", &refresh_token).await;
    assert_eq!(dead.error(400)["status"], "BAD_REFRESH_TOKEN");
    bench.sandbox.configure(|config| config.bad_refresh_status = 401);
    assert_eq!(bench.refresh("2026-03", &refresh_token).await.error(401)["status"], "BAD_REFRESH_TOKEN");
    let log = bench.sandbox.requests();
    assert_eq!(
        (log.last().unwrap().status, log.last().unwrap().portal.as_deref()),
        (401, Some(PORTAL)),
        "also a dead token says whose it is"
    );
    assert_eq!(names(&bench.sandbox)[0], "Alan");
    let print = Sandbox::fingerprint(&bench.token);
    assert!(bench.sandbox.requests().iter().any(|r| r.token.as_deref() == Some(print.as_str()) && r.status == 200));
}

#[tokio::test]
async fn a_rotated_token_that_comes_back_can_kill_its_family() {
    let bench = Bench::start_with(|config| {
        config.rotation = Rotation::Always;
        config.reuse_revokes_family = true;
    })
    .await;
    let (first, other) = (bench.sandbox.refresh_token(PORTAL), bench.sandbox.refresh_token(PORTAL));
    let second = bench.refresh("v3", &first).await.ok(200).clone();
    let third = bench.refresh("v3", second["refresh_token"].as_str().unwrap()).await.ok(200).clone();
    bench.refresh("v3", &first).await.error(400);
    let live = third["refresh_token"].as_str().unwrap();
    assert_eq!(bench.refresh("v3", live).await.error(400)["status"], "BAD_REFRESH_TOKEN", "the whole family is dead");
    let access = third["access_token"].as_str().unwrap();
    assert_eq!(bench.call_as(access, Method::GET, "/crm/v3/objects/contacts", None).await.status, 401);
    bench.refresh("v3", &other).await.ok(200);
}

#[tokio::test]
async fn faults_are_scripted_over_the_control_api() {
    let bench = bench().await;
    let script = json!({ "seed": 1, "rules": [{ "name": "half", "match": { "probability": 0.5, "portal": PORTAL, "method": "GET" },
        "fault": { "kind": "reply", "status": 503 } }] });
    assert_eq!(bench.call(Method::PUT, "/sandbox/faults", Some(&script)).await.status, 204);
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(bench.get("/crm/v3/objects/contacts/801").await.status == 503);
    }
    assert!((30..70).contains(&failed), "{failed}");
    let shown = bench.get("/sandbox/faults").await;
    assert_eq!((&shown.ok(200)["rules"][0]["seen"], &shown.body["rules"][0]["hit"]), (&100.into(), &failed.into()));
    let added = bench.post("/sandbox/faults", json!({ "fault": { "kind": "close" }, "match": { "path": "/nowhere" } })).await;
    assert_eq!(added.ok(201)["name"], "rule 2");
    bench.post("/sandbox/faults", json!({ "fault": { "kind": "close" }, "match": { "every": 0 } })).await.error(400);
    bench.post("/sandbox/faults", json!({ "fault": { "kind": "explode" } })).await.error(400);
    assert_eq!(bench.call(Method::DELETE, "/sandbox/faults", None).await.status, 204);
    assert_eq!(bench.get("/sandbox/faults").await.body["rules"], json!([]));
    let settings = json!({ "rotation": { "grace_ms": 60_000 }, "bad_refresh_status": 401, "burst_limit": 3, "retry_after": true });
    assert_eq!(bench.call(Method::PATCH, "/sandbox/settings", Some(&settings)).await.status, 204);
    bench.refresh("v3", "na1-none").await.error(401);
    bench.call(Method::PATCH, "/sandbox/settings", Some(&json!({ "brust_limit": 3 }))).await.error(400);
}

#[tokio::test]
async fn the_log_file_holds_what_memory_forgets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("requests.jsonl");
    let log = file.clone();
    let bench = Bench::start_with(move |config| {
        *config = Config { requests_kept: 5, bodies_kept: 2_000, request_log: Some(log), burst_limit: 1_000, ..config.clone() };
    })
    .await;
    for n in 0..50 {
        let new = json!({ "properties": { "firstname": format!("Ada {n}") } });
        bench.post("/crm/v3/objects/contacts", new).await.ok(201);
    }
    let kept = bench.sandbox.requests();
    assert_eq!((kept.len(), kept[4].number), (5, 51));
    let lines: Vec<Value> = std::fs::read_to_string(&file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 51, "the token call and all others");
    assert!(lines[50]["request_body"].as_str().unwrap().contains("Ada 49"));
    assert!(lines.iter().enumerate().all(|(at, line)| line["number"] == at + 1));
    let error = Sandbox::start(Config { request_log: Some(file.join("is/no/folder")), ..Config::default() }).err().unwrap();
    assert!(error.to_string().contains("request log"), "{error}");
}

#[tokio::test]
async fn the_script_of_the_readme_is_one() {
    let bench = bench().await;
    let readme = include_str!("../README.md");
    let (_, call) = readme.split_once("/sandbox/faults -H").unwrap();
    let script = call.split_once("-d '").unwrap().1.split_once('\'').unwrap().0;
    bench.sandbox.play_faults(serde_json::from_str(script).unwrap());
    for (nth, status) in [(1, 200), (2, 429), (3, 429), (4, 200)] {
        assert_eq!(bench.post(UPDATE, rename(&["801"], "B")).await.status, status, "request {nth}");
    }
}
