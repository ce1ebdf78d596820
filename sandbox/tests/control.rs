//! The control API, the page and its stream, starting and stopping.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use clickline_sandbox::{Config, Sandbox};
use common::{Bench, PORTAL, START_MS};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_portal_is_seeded_read_back_and_emptied() {
    let bench = Bench::start().await;
    let seed = json!({ "id": 801, "properties": { "email": "ada@example.com" } });
    assert_eq!(bench.post("/sandbox/portals/4242/contacts", seed.clone()).await.ok(201)["id"], "801");
    bench.post("/sandbox/portals/4242/contacts", seed).await.error(409);
    let deal = json!({ "id": "9001", "properties": { "dealstage": "appointmentscheduled" }, "contact_ids": ["801"] });
    bench.post("/sandbox/portals/4242/deals", deal).await.ok(201);
    for bad in [json!({ "id": "x" }), json!({ "properties": { "nosuch": "x" } }), json!({ "contact_ids": ["5"] })] {
        let status = bench.post("/sandbox/portals/4242/deals", bad).await.status;
        assert!((400..500).contains(&status));
    }
    let edit = json!({ "properties": { "dealstage": "closedlost" } });
    assert_eq!(bench.patch("/sandbox/portals/4242/deals/9001", edit).await.status, 204);
    let state = bench.get("/sandbox/portals/4242").await;
    assert_eq!(state.ok(200)["deals"][0]["stages"][1]["source_type"], "CRM_UI");
    assert_eq!(state.body["deals"][0]["contact_ids"], json!(["801"]));
    bench.post("/sandbox/portals/77/contacts", json!({})).await.ok(201);
    assert_eq!(bench.get("/sandbox/portals").await.body, json!({ "portals": ["4242", "77"] }));
    bench.post("/sandbox/portals/x/contacts", json!({})).await.error(400);

    assert_eq!(bench.post("/sandbox/reset", json!({ "portal": "4242" })).await.status, 204);
    assert!(bench.sandbox.snapshot(PORTAL).contacts.is_empty());
    bench.get("/crm/v3/objects/contacts").await.ok(200);
    assert_eq!(bench.post("/sandbox/reset", json!({})).await.status, 204);
    bench.get("/crm/v3/objects/contacts").await.error(401);
    assert_eq!(bench.get("/sandbox/portals").await.body, json!({ "portals": ["4242"] }));
}

#[tokio::test]
async fn grants_are_minted_without_a_browser_and_requests_are_logged() {
    let bench = Bench::start().await;
    let minted = bench.post("/sandbox/portals/4242/refresh-token", json!({ "scopes": ["timeline"] })).await;
    let token = minted.ok(201)["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(bench.refresh("v1", &token).await.ok(200)["scopes"], json!(["timeline"]));
    bench.post("/sandbox/portals/4242/refresh-token", json!({ "scopes": ["nosuch"] })).await.error(400);
    let code = bench.post("/sandbox/portals/4242/authorization-code", json!({ "redirect_uri": "https://job.example/cb" })).await;
    let code = code.ok(201)["code"].as_str().unwrap().to_owned();
    let exchange = [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", "https://job.example/cb")];
    bench.form("/oauth/v3/token", &exchange).await.ok(200);
    bench.get("/crm/v3/objects/contacts/5?properties=email").await.error(404);

    let log = bench.get("/sandbox/requests?portal=4242").await;
    let requests = log.ok(200)["requests"].as_array().unwrap().clone();
    let last = requests.last().unwrap();
    let of = |name: &str| &last[name];
    assert_eq!((of("method"), of("path"), of("query")), (&"GET".into(), &"/crm/v3/objects/contacts/5".into(), &"properties=email".into()));
    assert_eq!((of("status"), of("portal"), of("at_ms")), (&404.into(), &PORTAL.into(), &START_MS.into()));
    assert_eq!((of("applied"), of("fault"), of("request_body")), (&true.into(), &Value::Null, &Value::Null));
    assert!(of("response_body").as_str().unwrap().contains("OBJECT_NOT_FOUND"));
    let exchanged =
        requests.iter().find(|r| r["path"] == "/oauth/v3/token" && r["request_body"].as_str().unwrap().contains("code=")).unwrap();
    let given: Value = serde_json::from_str(exchanged["response_body"].as_str().unwrap()).unwrap();
    assert!(given["access_token"].as_str().unwrap().starts_with("sha256:"), "{given}");
    let print = Sandbox::fingerprint(&token).replace(':', "%3A");
    assert!(requests.iter().any(|r| r["request_body"].as_str().is_some_and(|b| b.contains(&print))), "the refresh names its token");
    assert!(
        !log.body.to_string().contains(&token) && !log.body.to_string().contains(&code) && !log.body.to_string().contains("sandbox-secret")
    );
    let after = bench.get(&format!("/sandbox/requests?after={}", last["number"])).await;
    assert_eq!(after.ok(200)["requests"], json!([]));
}

/// Reads server-sent events until one message is complete.
async fn next_message(response: &mut reqwest::Response, rest: &mut String) -> Value {
    loop {
        if let Some((message, after)) = rest.split_once("\n\n") {
            let message = message.to_owned();
            *rest = after.to_owned();
            if let Some(data) = message.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
            continue;
        }
        let chunk = tokio::time::timeout(Duration::from_secs(10), response.chunk()).await.unwrap().unwrap().unwrap();
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn the_page_sees_changes_as_they_land() {
    let bench = Bench::start().await;
    let page = bench.get("/").await;
    assert!(page.ok(200).as_str().unwrap().contains("EventSource"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));

    let mut stream = bench.request(Method::GET, "/sandbox/stream").send().await.unwrap();
    let mut rest = String::new();
    let first = next_message(&mut stream, &mut rest).await;
    assert_eq!((&first["all"], &first["portal"], &first["totals"]["contacts"]), (&true.into(), &PORTAL.into(), &0.into()));
    assert_eq!(first["pipelines"][0]["stages"][0]["label"], "Appointment Scheduled");

    bench.sandbox.create_contact(PORTAL, Some("801"), &[("firstname", "Ada")]);
    let second = next_message(&mut stream, &mut rest).await;
    assert_eq!((&second["all"], &second["contacts"][0]["name"]), (&false.into(), &"Ada".into()));
    bench.sandbox.create_deal(PORTAL, Some("9001"), &[("dealstage", "appointmentscheduled")], &["801"]);
    let third = next_message(&mut stream, &mut rest).await;
    assert_eq!((&third["contacts"], &third["deals"][0]["contacts"]), (&json!([]), &json!(["Ada"])));
    bench.patch("/crm/v3/objects/deals/9001", json!({ "properties": { "dealstage": "qualifiedtobuy" } })).await.ok(200);
    let moved = next_message(&mut stream, &mut rest).await;
    assert_eq!((&moved["deals"][0]["stage"], &moved["deals"][0]["moved"]["by"]), (&"qualifiedtobuy".into(), &"INTEGRATION".into()));
    bench.sandbox.reset();
    let emptied = next_message(&mut stream, &mut rest).await;
    assert_eq!((&emptied["all"], &emptied["totals"]["deals"]), (&true.into(), &0.into()));
}

#[tokio::test]
async fn it_stops_though_a_page_is_open() {
    let bench = Bench::start().await;
    let url = bench.sandbox.url();
    let _open = bench.request(Method::GET, "/sandbox/stream").send().await.unwrap();
    let started = Instant::now();
    bench.sandbox.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.is_err());
}

#[test]
fn what_cannot_be_started_says_why() {
    let error = Sandbox::start(Config { portals: vec!["acme".into()], ..Config::default() }).err().unwrap();
    assert!(error.to_string().contains("acme"));
    let first = Sandbox::start(Config::default()).unwrap();
    let address = first.url().trim_start_matches("http://").parse().unwrap();
    let error = Sandbox::start(Config { listen: address, ..Config::default() }).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
#[should_panic(expected = "Property \\\"nosuch\\\" does not exist")]
fn a_seed_with_a_typing_error_panics() {
    let sandbox = Sandbox::start(Config::default()).unwrap();
    sandbox.create_contact(PORTAL, None, &[("nosuch", "x")]);
}
